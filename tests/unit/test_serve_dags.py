"""The DAGs `serve_<name>`: one per model with windows, house rules kept, and a schedule that knows DST and holidays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pendulum
import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import DataInterval, TimeRestriction
from hypothesis import given, settings
from hypothesis import strategies as st

from airfreight.hours import Hours, windows
from airfreight_airflow import windows_timetable
from airfreight_airflow.operators import AirfreightPodOperator
from airfreight_airflow.windows_assets import PROMOTIONS, announce, model_asset
from airfreight_airflow.windows_dags import window_dags
from airfreight_airflow.windows_timetable import OpeningsTimetable

CATALOG = """\
models:
  - name: pong
    source: hf://acme/pong
    hours: {open: "08:00", close: "18:00", days: mon-fri, timezone: Europe/Berlin}
    idle_after: 30m
    warmup: 20m
  - name: small
    source: hf://acme/small
    idle_after: 5m
  - name: plain
    source: hf://acme/plain
  - name: bad
    source: hf://acme/bad
    hours: {open: "08:00", close: "18:00"}
  - name: pong
    source: hf://acme/other
  - source: hf://acme/nameless
"""
TASKS = ["open_window", "resume", "wait_until_ready", "ping", "wait_until_idle_or_closing", "stop", "confirm_stopped",
         "record"]  # fmt: skip


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DAG]:
    file = tmp_path_factory.mktemp("catalog") / "models.yaml"
    file.write_text(CATALOG)
    return window_dags(file, "On call.")


def test_one_dag_for_each_model_with_hours_or_idle_after(dags: dict[str, DAG]) -> None:
    assert set(dags) == {"serve_pong", "serve_small", "serve_bad", "serve_catalog-line-15", "serve_catalog-line-17"}
    assert [task.task_id for task in dags["serve_pong"].topological_sort()] == TASKS


def test_an_entry_that_is_wrong_takes_down_only_itself_and_is_shown(dags: dict[str, DAG]) -> None:
    bad = dags["serve_bad"]
    assert bad.description and "models.yaml:14: hours.timezone: this field is required; add it." in bad.description
    assert bad.doc_md and bad.description in bad.doc_md
    assert bad.dag_display_name == "Broken: Serve bad" and "broken" in bad.tags
    assert not bad.timetable.can_be_scheduled
    assert [task.task_id for task in bad.topological_sort()] == TASKS, "a window that is open ends all the same"
    assert "name: pong is on line 2 already" in str(dags["serve_catalog-line-15"].description)


@pytest.mark.parametrize("text", ["models: [\n", "models:\n  a: b\n", ""])
def test_a_file_that_is_no_catalog_still_gives_dags(tmp_path: Path, text: str) -> None:
    (tmp_path / "models.yaml").write_text(text)
    found = window_dags(tmp_path / "models.yaml", "On call.")
    assert len(found) == (1 if text else 0)
    assert len(window_dags(tmp_path / "nowhere.yaml", "On call.")) == 1


def test_house_rules(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        assert "airfreight" in dag.tags and dag.description and dag.catchup is False and dag.dagrun_timeout
        for task in dag.tasks:
            where = f"{dag.dag_id}.{task.task_id}"
            tries = {"resume": 6, "stop": 6}.get(task.task_id, 2)
            assert task.owner == "airfreight" and task.retries == tries and task.execution_timeout, where
        dag.params.validate()


def test_a_dag_is_paused_at_first_only_where_a_schedule_would_start_it(dags: dict[str, DAG]) -> None:
    schedule: Any = dags["serve_pong"].schedule
    assert dags["serve_pong"].is_paused_upon_creation and isinstance(schedule.timetable, OpeningsTimetable)
    watched = [one.uri for one in schedule.asset_condition.objects]
    assert watched == ["airfreight://models/pong"], "what a delivery leaves running outside of its hours"
    assert dags["serve_small"].is_paused_upon_creation is False
    assert dags["serve_small"].schedule == [model_asset("small")]


def test_pods_have_the_rights_they_need_and_no_others(dags: dict[str, DAG]) -> None:
    accounts = {
        task.task_id: task.role.service_account
        for task in dags["serve_pong"].tasks
        if isinstance(task, AirfreightPodOperator)
    }
    assert accounts == {"resume": "airfreight-deployer", "ping": "airfreight-validator", "stop": "airfreight-deployer"}


def test_a_window_is_ended_whatever_became_of_its_start(dags: dict[str, DAG]) -> None:
    rules = {task.task_id: task.trigger_rule for task in dags["serve_pong"].tasks}
    assert rules["wait_until_idle_or_closing"] == rules["record"] == "all_done"
    assert {rule for task, rule in rules.items() if task not in ("wait_until_idle_or_closing", "record")} == {
        "all_success"
    }


def test_an_api_server_that_is_replaced_costs_no_window_and_leaves_no_model_up(dags: dict[str, DAG]) -> None:
    """Five minutes without one are usual; the pods that start and stop a model are tried for longer."""
    for name in ("resume", "stop"):
        task = dags["serve_pong"].get_task(name)
        first, longest = task.retry_delay, task.max_retry_delay
        delays = [min(first * 2**tried, longest) for tried in range(task.retries)]
        assert timedelta(minutes=10) < sum(delays, timedelta()) < timedelta(minutes=20)


def test_commands_are_ones_the_command_line_has(dags: dict[str, DAG]) -> None:
    import typer

    from airfreight.cli import build_app

    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    for task in dags["serve_pong"].tasks:
        if isinstance(task, AirfreightPodOperator):
            known = {option for parameter in commands[task.arguments[0]].params for option in parameter.opts}
            given = {str(word) for word in task.arguments if str(word).startswith("--")}
            # Every pod has --slice, and leaves it out when it is empty.
            assert given - {"--slice"} <= known, task.task_id


# Airflow 3.3 compiles .airflowignore with the old name of pathspec's class.
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_a_dag_survives_the_way_through_the_database(dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow import plugins_manager

    import airfreight_plugin

    assert airfreight_plugin.AirfreightPlugin.timetables == [OpeningsTimetable]
    path = f"{OpeningsTimetable.__module__}.{OpeningsTimetable.__qualname__}"
    monkeypatch.setattr(plugins_manager, "get_timetables_plugins", lambda: {path: OpeningsTimetable})
    for dag in dags.values():
        back = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        assert back.dag_id == dag.dag_id
    given: Any = dags["serve_pong"].timetable
    back: Any = DagSerialization.from_dict(DagSerialization.to_dict(dags["serve_pong"])).timetable
    assert back.timetable.hours == given.timetable.hours and back.timetable.lead == timedelta(minutes=20)
    assert back.summary == "Asset or 08:00-18:00 mon-fri Europe/Berlin"
    free = TimeRestriction(None, None, catchup=False)
    assert back.next_dagrun_info(last_automated_data_interval=None, restriction=free) is not None


# ---- the schedule ------------------------------------------------------------------------------------------------


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def table(lead_minutes: int = 60, **hours: Any) -> OpeningsTimetable:
    given: dict[str, Any] = {"open": "08:00", "close": "18:00", "timezone": "Europe/Berlin"} | hours
    return OpeningsTimetable([Hours(**given)], timedelta(minutes=lead_minutes))


def test_it_fires_its_lead_before_the_opening_on_the_days_when_clocks_change() -> None:
    one = table(open="03:30", close="10:00")
    assert one.next_fire(utc("2026-03-28T12:00"), None) == utc("2026-03-29T00:30")  # 03:30 CEST is 01:30 UTC
    assert one.next_fire(utc("2026-10-24T12:00"), None) == utc("2026-10-25T01:30")  # 03:30 CET is 02:30 UTC


def test_a_missed_opening_fires_on_return_and_a_missed_window_does_not() -> None:
    one = table(days="mon-fri")
    friday = utc("2026-11-20T06:00")
    assert one.next_fire(utc("2026-11-23T11:00"), friday) == utc("2026-11-23T06:00"), "monday's window is open"
    assert one.next_fire(utc("2026-11-23T19:00"), friday) == utc("2026-11-24T06:00"), "monday's window is over"
    assert one.next_fire(utc("2026-11-23T11:00"), utc("2026-11-23T06:00")) == utc("2026-11-24T06:00"), "it fired"


def test_holidays_are_no_openings() -> None:
    one = table(days="mon-fri", holidays=["2026-11-24"])
    assert one.next_fire(utc("2026-11-23T19:00"), None) == utc("2026-11-25T06:00")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60 * 24 * 380), st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
       st.integers(0, 120))  # fmt: skip
def test_every_opening_is_fired_for_once_and_in_order(minute: int, zone: str, lead: int) -> None:
    one = table(lead, open="02:30", close="04:00", timezone=zone)
    now = utc("2026-01-01T00:00") + timedelta(minutes=minute)
    fired, fires = None, []
    for _ in range(6):
        following = one.next_fire(now, fired)
        assert following is not None
        fires.append(following)
        fired, now = following, max(now, following)
    opens = [window.opens - one.lead for window in windows(one.hours, fires[0], fires[-1] + timedelta(days=1))]
    assert fires == opens[: len(fires)]


def test_airflow_asks_it_and_gets_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # noqa: ARG003
            return utc("2026-11-23T11:00")

    monkeypatch.setattr(windows_timetable, "datetime", Clock)
    free = TimeRestriction(None, None, catchup=False)
    last = DataInterval.exact(pendulum.instance(utc("2026-11-20T06:00")))
    info = table().next_dagrun_info(last_automated_data_interval=last, restriction=free)
    assert info is not None and info.run_after == utc("2026-11-23T06:00") and info.data_interval.start == info.run_after
    until = TimeRestriction(None, pendulum.instance(utc("2026-11-22T00:00")), catchup=False)
    assert table().next_dagrun_info(last_automated_data_interval=last, restriction=until) is None


def test_its_description_is_for_people() -> None:
    one = OpeningsTimetable([*table(days="sat").hours, *table(days=["mon", "wed"]).hours, *table().hours], timedelta(0))
    assert one.summary == (
        "08:00-18:00 sat Europe/Berlin, 08:00-18:00 mon+wed Europe/Berlin, 08:00-18:00 daily Europe/Berlin"
    )
    assert table(20).description == "Opens 08:00-18:00 daily Europe/Berlin; fires 20 min before"


def test_a_promotion_is_an_event_on_the_models_asset() -> None:
    added: list[Any] = []

    class Events:
        def add(self, asset: Any, extra: Any) -> None:
            added.append((asset, extra))

    announce({"outlet_events": {PROMOTIONS: Events()}}, "pong", {"commit": "41ab", "digest": "71d0"})
    assert added == [(model_asset("pong"), {"commit": "41ab", "digest": "71d0"})]


def test_the_dags_page_tells_the_person_on_call_about_every_task() -> None:
    page = (Path(__file__).parents[2] / "dags" / "serve_models.py").read_text(encoding="utf-8")
    assert "On call" in page
    assert not [task for task in TASKS if f"`{task}`" not in page]


def test_the_shipped_catalog_gives_no_dag() -> None:
    assert window_dags(Path(__file__).parents[2] / "include" / "models.yaml", "On call.") == {}
