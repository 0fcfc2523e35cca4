"""Fixtures of tests of the tasks of `serve_<name>`: a model on a cluster, its records and ledger, and what is asked.

    pytest_plugins = ("tests.unit.window_fixtures",)

No test imports this file, so none has to import fixtures it does not name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airfreight.ledger import Ledger
from airfreight.ledger_rules import Target
from airfreight.windows import WindowLog
from airfreight_airflow import windows_keeper
from airfreight_airflow.operators import AirfreightPodOperator
from tests.unit.memory_store import MemoryShelf
from tests.unit.serving_kube import Model, serving_kube
from tests.unit.window_bench import Airflow


@pytest.fixture
def airflow() -> Airflow:
    return Airflow()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    with serving_kube() as one:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFREIGHT_CLUSTER", one.kube.connection())
        one.stopped, one.pods = True, 0
        yield one


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> WindowLog:
    shelf = MemoryShelf()
    monkeypatch.setattr(windows_keeper, "window_log", lambda site, namespace, name: WindowLog(shelf))
    return WindowLog(shelf)


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    one = Ledger(MemoryShelf(), Target("models", "pong"))
    monkeypatch.setattr(windows_keeper, "release_ledger", lambda site, namespace, name: one)
    return one


@pytest.fixture
def pods(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Results of the pods to come; what each was asked is put in its place."""
    results: list[Any] = []
    asked: list[Any] = []

    def execute(self: AirfreightPodOperator, context: Any) -> Any:
        asked.append(self.arguments[self.arguments.index("--last-look") + 1])
        return results.pop(0)

    monkeypatch.setattr(AirfreightPodOperator, "execute", execute)
    results.append(asked)
    return results
