"""Who is told the end of a run, and what."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from airfreight.errors import RequestError
from airfreight_airflow.gating import announce_end, announce_failure, notifier, run_name

RUN = SimpleNamespace(dag_id="deliver_model", run_id="manual__1", conf={"model": "acme/pong"})
TOLD: list[dict[str, Any]] = []


def hear(told: dict[str, Any]) -> None:
    TOLD.append(told)


def fall(told: dict[str, Any]) -> None:
    raise OSError("the chat room is down")


@pytest.fixture(autouse=True)
def _forget() -> None:
    TOLD.clear()


def test_the_ledgers_name_of_a_run() -> None:
    assert run_name(RUN) == "deliver_model/manual__1"


@pytest.mark.parametrize(("announce", "state"), [(announce_end, "success"), (announce_failure, "failed")])
def test_every_end_is_told(announce: Any, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__NOTIFIER", f"{__name__}:hear")
    announce({"dag_run": RUN, "reason": "task_failure"})
    (told,) = TOLD
    assert told == {
        "dag_id": "deliver_model", "run_id": "manual__1", "state": state, "reason": "task_failure",
        "conf": {"model": "acme/pong"},
    }  # fmt: skip


def test_without_a_notifier_nobody_is_told() -> None:
    announce_end({"dag_run": RUN})
    assert TOLD == []


def test_a_notifier_that_fails_is_only_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__NOTIFIER", f"{__name__}:fall")
    with caplog.at_level(logging.ERROR):
        announce_end({"dag_run": RUN})
    assert "failed" in caplog.text and "the chat room is down" in caplog.text


@pytest.mark.parametrize("path", ["nobody", "no.such.module:tell", f"{__name__}:RUN", "json:nothing", ":x"])
def test_a_notifier_that_is_none_is_named(path: str) -> None:
    with pytest.raises(RequestError, match=r"`notifier` in section \[airfreight\].*write it as module:function"):
        notifier(path)
