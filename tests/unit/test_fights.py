"""Somebody else turns a model's power switch after its window has ended: they are named, and no window ends for it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airfreight.fights import fight_over
from airfreight.ledger import Ledger
from airfreight.windows import Closing, Record, WindowLog, text_of
from airfreight_airflow.windows_runs import Served
from tests.unit.serving_kube import STOP, Model
from tests.unit.window_bench import MINUTE, Airflow, open_window, record

pytest_plugins = ("tests.unit.window_fixtures",)

YESTERDAY = datetime.now(UTC) - timedelta(days=1)
LAST = Record(
    "20261101T080000Z-hours", "pong", "models", "hours", "r0", text_of(YESTERDAY),
    stop=text_of(YESTERDAY), stopped=text_of(YESTERDAY), closed_because=Closing.CLOSING,
)  # fmt: skip
SENTENCE = (
    f"Airfreight stopped pong in namespace models, and field manager kustomize-controller wrote {STOP} again: let that "
    "one leave this annotation alone (docs/windows.md, GitOps), or leave hours and idle_after out of the catalog."
)


def service(*, stopped: bool = False, manager: str = "kustomize-controller") -> dict[str, Any]:
    owned = {"f:metadata": {"f:annotations": {f"f:{STOP}": {}}}}
    entries = [{"manager": manager, "time": "2026-11-22T18:07:00Z", "fieldsV1": owned}] if manager else []
    return {
        "metadata": {"name": "pong", "namespace": "models", "annotations": {STOP: str(stopped).lower()},
                     "managedFields": entries},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("last", "seen", "sentence"),
    [
        (LAST, service(), SENTENCE),
        (LAST, service(stopped=True), ""),
        (LAST, service(manager="airfreight-power"), ""),
        (LAST, service(manager=""), ""),
        (LAST, service(manager="kubectl-annotate"), ""),
        (LAST, service(manager="kubectl"), ""),
        (
            LAST,
            service(manager="kubectl-client-side-apply"),
            SENTENCE.replace("kustomize-controller", "kubectl-client-side-apply"),
        ),
        (None, service(), ""),
        (replace(LAST, stopped="", closed_because=Closing.FAILED), service(), ""),
        (replace(LAST, closed_because=Closing.BY_HAND), service(), ""),
        (replace(LAST, closed_because=Closing.GONE), service(), ""),
    ],
    ids=[
        "a fight",
        "stopped",
        "ours",
        "nobody's",
        "a person",
        "a person's apply",
        "a manifest",
        "no window",
        "left up",
        "stopped by others",
        "made anew",
    ],
)
def test_a_fight_is_who_took_away_a_stop_of_ours(last: Record | None, seen: Any, sentence: str) -> None:
    assert fight_over(last, seen) == sentence


def test_the_last_window_is_the_one_before_this(log: WindowLog) -> None:
    assert log.last("x") is None
    log.begin(LAST)
    log.begin(replace(LAST, window="20261102T080000Z-hours"))
    assert log.last("20261103T080000Z-hours") == log.read("20261102T080000Z-hours")
    assert log.last("20261102T080000Z-hours") == LAST


def test_the_next_window_goes_on_to_its_end_and_names_who_started_the_model(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.begin(LAST)
    model.stopped, model.pods, model.manager = False, 1, "kustomize-controller"
    opened = open_window(airflow, Served("pong", idle_after=MINUTE))
    begun = log.read(opened["window"])
    assert begun is not None and (begun.found, begun.sentence) == ("running", SENTENCE)
    airflow.xcoms["open_window", "return_value"] = opened
    now = text_of(datetime.now(UTC))
    airflow.xcoms["wait_until_idle_or_closing", "return_value"] = {"stop": True, "because": "idle", "sentence": "Idle."}
    airflow.xcoms["stop", "return_value"] = {"stop": now, "because": "idle"}
    airflow.xcoms["confirm_stopped", "return_value"] = {"stopped": now}
    with pytest.raises(AirflowFailException, match="field manager kustomize-controller wrote"):
        record(airflow, monkeypatch)
    over = log.read(opened["window"])
    assert over is not None and (over.closed_because, over.stopped, over.sentence) == ("idle", now, SENTENCE)
    assert log.current().run == "", "it is let go all the same"


def test_a_model_that_nobody_fights_over_is_recorded_as_ever(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.begin(LAST)
    model.stopped, model.pods = False, 1
    opened = open_window(airflow, Served("pong", idle_after=MINUTE))
    assert opened["fight"] == ""
    airflow.xcoms["open_window", "return_value"] = opened
    airflow.xcoms["wait_until_idle_or_closing", "return_value"] = {"stop": True, "because": "idle", "sentence": "Idle."}
    assert record(airflow, monkeypatch)["closed_because"] == "idle"
    over = log.read(opened["window"])
    assert over is not None and over.sentence == "Idle."
