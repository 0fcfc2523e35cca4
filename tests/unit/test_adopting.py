"""`adopt_models`: whose model is adopted, whose is left alone, and what the window is that its DAG then opens."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRuntimeError, AirflowSkipException
from airflow.sdk.execution_time.comms import ErrorResponse

from airfreight.errors import IntegrityError, TemporaryError
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Found
from airfreight.window_rules import WAKE_IDLE
from airfreight.windows import Closing, Record, WindowLog, moment, text_of
from airfreight_airflow import windows_adopting
from airfreight_airflow.windows_keeper import Keeper
from airfreight_airflow.windows_opening import OpenWindowSensor
from airfreight_airflow.windows_runs import Served
from tests.unit.serving_kube import Model
from tests.unit.window_bench import MINUTE, Airflow, hours_now, make, open_window, record, watch

pytest_plugins = ("tests.unit.window_fixtures",)

NOW = datetime.now(UTC)
LAST = Record(
    "20261101T080000Z-hours", "pong", "models", "hours", "r0", text_of(NOW - timedelta(hours=9)),
    stop=text_of(NOW - MINUTE * 11), stopped=text_of(NOW - MINUTE * 11), closed_because=Closing.CLOSING,
)  # fmt: skip
FLUX = "field manager kustomize-controller wrote serving.kserve.io/stop again"


class Site:
    """The worker of `adopt_models`: its catalog, the runs and DAGs that Airflow has, what its tasks left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, catalog: Path) -> None:
        self.catalog = catalog
        self.under_way: set[str] = set()
        self.paused: set[str] = set()
        self.unknown: set[str] = set()
        self.ended: set[str] = set()
        self.states: dict[str, str] = {}
        self.left: dict[str, Any] = {}
        monkeypatch.setattr(windows_adopting, "get_current_context", self.context)

    def context(self) -> Any:
        ti = SimpleNamespace(
            get_dr_count=self.count,
            get_dag=self.dag,
            xcom_push=lambda key, value: self.left.update({key: value}),
            xcom_pull=lambda task_ids, key: self.left.get(key),
            get_task_states=lambda dag_id, run_ids: {run_ids[0]: self.states},
        )
        return {"ti": ti, "run_id": "scheduled__x", "dag": SimpleNamespace(dag_id="adopt_models")}

    def count(self, dag_id: str, run_ids: list[str] | None = None, states: list[str] | None = None) -> int:
        if run_ids is not None:  # has the run ended that holds the release ledger?
            return int(run_ids[0] in self.ended)
        assert states == ["queued", "running"]
        return int(dag_id in self.under_way)

    def dag(self, dag_id: str) -> Any:
        if dag_id in self.unknown:
            raise AirflowRuntimeError(ErrorResponse(detail={"status_code": 404}))
        return SimpleNamespace(is_paused=dag_id in self.paused)

    def look(self) -> list[dict[str, Any]]:
        return windows_adopting.models_to_adopt(self.catalog)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Model, log: WindowLog, ledger: Ledger) -> Site:
    model.stopped, model.pods = False, 1
    file = tmp_path / "models.yaml"
    file.write_text(
        "models:\n  - {name: pong, source: hf://acme/pong, idle_after: 30m}\n"
        "  - {name: plain, source: hf://acme/plain}\n  - {name: bad}\n"
    )
    return Site(monkeypatch, file)


def test_a_model_that_runs_and_that_nobody_keeps_is_adopted(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    (one,) = site.look()
    assert one.keys() == {"trigger_dag_id", "trigger_run_id"}, "the pods of a run refuse a conf that its form has not"
    assert one["trigger_dag_id"] == "serve_pong" and one["trigger_run_id"].startswith("found__20")
    assert "pong: It runs, and nobody keeps a window of it. Opening one, which ends when it is idle." in caplog.text
    windows_adopting.say_what_failed()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda site, model: site.under_way.add("serve_pong"), "a run of serve_pong is under way; nothing to do."),
        (lambda site, model: site.paused.add("serve_pong"), "serve_pong is paused, so nothing of it runs: unpause it"),
        (lambda site, model: site.unknown.add("serve_pong"), "Airflow does not know serve_pong yet"),
        (lambda site, model: setattr(model, "stopped", True), "it is stopped; nothing to do."),
        (lambda site, model: setattr(model, "exists", False), "it is not delivered yet."),
    ],
)
def test_what_is_left_alone(site: Site, model: Model, caplog: pytest.LogCaptureFixture, change: Any, said: str) -> None:
    caplog.set_level("INFO")
    change(site, model)
    assert site.look() == []
    assert f"pong: {said}" in caplog.text


def test_a_release_that_is_tried_is_left_alone_until_its_run_has_ended(site: Site, ledger: Ledger) -> None:
    ledger.take("deliver_model/d1")
    assert len(site.look()) == 1, "it only publishes so far"
    ledger.note("deliver_model/d1", "9f2c41ab6c1b", Found(existed=True))
    assert site.look() == []
    site.ended.add("d1")
    assert len(site.look()) == 1, "it died with its lock"


@pytest.mark.parametrize(("minutes", "adopted"), [(9, 0), (11, 1)])
def test_a_model_that_was_just_told_to_stop_is_left_alone(
    site: Site, log: WindowLog, minutes: int, adopted: int
) -> None:
    at = text_of(datetime.now(UTC) - minutes * MINUTE)
    log.begin(replace(LAST, stop=at, stopped=at))
    assert len(site.look()) == adopted


def test_a_fight_is_said_and_the_model_adopted_all_the_same(
    site: Site, model: Model, log: WindowLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    log.begin(LAST)
    model.manager = "kustomize-controller"
    assert len(site.look()) == 1
    assert FLUX in caplog.text


def test_a_model_that_cannot_be_looked_at_fails_the_run_at_its_end_and_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.catalog.write_text(site.catalog.read_text() + "  - {name: ping, source: hf://acme/ping, idle_after: 30m}\n")
    observe = Keeper.observe

    def unreadable(self: Keeper) -> Any:
        if self.served.name == "ping":
            raise IntegrityError("x.json cannot be read: remove it.")
        return observe(self)

    monkeypatch.setattr(Keeper, "observe", unreadable)
    assert [one["trigger_dag_id"] for one in site.look()] == ["serve_pong"]
    site.states["adopt"] = "failed"
    with pytest.raises(AirflowFailException) as caught:
        windows_adopting.say_what_failed()
    assert str(caught.value) == "ping: x.json cannot be read: remove it. adopt failed; look at its log."


def test_a_cluster_that_is_away_is_asked_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Keeper) -> Any:
        raise TemporaryError("the cluster does not answer")

    monkeypatch.setattr(Keeper, "observe", away)
    with pytest.raises(AirflowException, match="the cluster does not answer") as caught:
        site.look()
    assert not isinstance(caught.value, AirflowFailException)


# ---- the window of such a model ----------------------------------------------------------------------------------


def found(airflow: Airflow, served: Served) -> Any:
    airflow.run_id = "found__20261123T080000Z"
    airflow.alive.add(airflow.run_id)
    return make(OpenWindowSensor, served).execute(airflow.context("open_window", run_type="operator_triggered"))


@pytest.mark.parametrize(("idle_after", "expected"), [(5 * MINUTE, 5 * MINUTE), (None, WAKE_IDLE)])
def test_its_window_ends_by_idleness(
    site: Site, log: WindowLog, airflow: Airflow, idle_after: timedelta | None, expected: timedelta
) -> None:
    # Their hours are over.
    served = Served("pong", hours_now(-120, -60), idle_after)
    opened = found(airflow, served)
    assert opened["because"] == "found" and opened["found"] == "running" and opened["window"].endswith("Z-found")
    airflow.xcoms["open_window", "return_value"] = opened
    trigger = watch(airflow, served)
    assert (trigger.closes, trigger.idle_after_s) == (None, expected.total_seconds())


def test_inside_of_its_hours_it_is_kept_up_until_they_close(site: Site, log: WindowLog, airflow: Airflow) -> None:
    found(airflow, Served("pong", hours_now()))
    assert moment(log.current().until) > datetime.now(UTC) + 58 * MINUTE


def test_it_names_who_took_the_stop_away(
    site: Site, model: Model, log: WindowLog, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.begin(LAST)
    model.manager = "kustomize-controller"
    opened = found(airflow, Served("pong", idle_after=MINUTE))
    airflow.xcoms["open_window", "return_value"] = opened
    begun = log.read(opened["window"])
    assert begun is not None and FLUX in begun.sentence
    with pytest.raises(AirflowFailException, match=FLUX):
        record(airflow, monkeypatch)


def test_a_model_that_was_stopped_since_is_not_started(site: Site, model: Model, airflow: Airflow) -> None:
    model.stopped, model.pods = True, 0
    with pytest.raises(AirflowSkipException, match="Nobody need watch over pong: it was stopped meanwhile"):
        found(airflow, Served("pong", idle_after=MINUTE))


def test_who_woke_it_meanwhile_keeps_its_window_and_gets_no_note(site: Site, log: WindowLog, airflow: Airflow) -> None:
    served = Served("pong", idle_after=MINUTE)
    open_window(airflow, served, "r2")
    kept = log.current()
    with pytest.raises(AirflowSkipException, match=r"Nobody need watch over pong: run r2 keeps window .*-wake"):
        found(airflow, served)
    assert log.current() == kept, "a note of it would overrule a stop that somebody asked for"
    airflow.alive.discard("r2")
    assert found(airflow, served)["because"] == "found", "the run that kept it was deleted"


def test_a_delivery_that_tries_a_release_since_is_left_alone(site: Site, ledger: Ledger, airflow: Airflow) -> None:
    ledger.take("deliver_model/d1")
    ledger.note("deliver_model/d1", "9f2c41ab6c1b", Found(existed=True, stopped=True))
    with pytest.raises(AirflowSkipException, match="deliver_model/d1 is delivering to it"):
        found(airflow, Served("pong", idle_after=MINUTE))


# ---- the DAG -----------------------------------------------------------------------------------------------------


def test_the_dag_starts_one_run_for_each_model_and_reports_whatever_failed() -> None:
    bag = DagBag(str(Path(__file__).parents[2] / "dags" / "adopt_models.py"))
    dag = bag.dags["adopt_models"]
    assert {task.task_id: task.downstream_task_ids for task in dag.tasks} == {
        "look": {"adopt"}, "adopt": {"report"}, "report": set(),
    }  # fmt: skip
    adopt: Any = dag.get_task("adopt")
    assert adopt.is_mapped and adopt.operator_class is TriggerDagRunOperator
    assert dag.get_task("report").trigger_rule == "all_done"
