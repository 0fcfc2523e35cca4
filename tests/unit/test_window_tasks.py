"""The tasks of `serve_<name>` in every overlap: what they take, what they leave to others, how they end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airfreight.errors import TemporaryError
from airfreight.hours import next_window
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Found
from airfreight.windows import Current, Record, WindowLog, moment, text_of
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_runs import Served
from airfreight_airflow.windows_sensors import ServingSensor, StoppedSensor, WatchSensor
from airfreight_airflow.windows_triggers import ServingTrigger, StoppedTrigger
from tests.unit.serving_kube import Model
from tests.unit.window_bench import (
    MINUTE,
    Airflow,
    deferred,
    hours_now,
    make,
    open_window,
    opened,
    record,
    resume_task,
    saw,
    stop_task,
    watch,
)

pytest_plugins = ("tests.unit.window_fixtures",)

# ---- opening -----------------------------------------------------------------------------------------------------


def test_a_woken_window_is_taken_and_recorded(model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow) -> None:
    opened = open_window(airflow, Served("pong", idle_after=30 * MINUTE))
    assert (
        opened["because"] == "wake" and opened["found"] == "stopped" and opened["until"] == "" and opened["eta"] == ""
    )
    assert log.current().run == "r1" and log.current().touched
    assert [one.because for one in log.records()] == ["wake"]
    assert airflow.xcoms["open_window", "url"] == "http://pong-predictor.models.svc.cluster.local"
    assert airflow.xcoms["open_window", "served_name"] == "pong"


def test_the_eta_is_what_19_of_20_recorded_cold_starts_took(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    for day in range(1, 5):
        start = datetime(2026, 11, day, tzinfo=UTC)
        log.begin(Record(f"2026110{day}T080000Z-hours", "pong", "models", "hours", "r0", text_of(start),
                         first_token=text_of(start + timedelta(seconds=60 + day)), closed_because="idle"))  # fmt: skip
    opened = open_window(airflow, Served("pong", idle_after=30 * MINUTE))
    assert opened["expected_s"] == 64.0
    assert moment(opened["eta"]) - moment(opened["requested"]) == timedelta(seconds=64)


def test_a_herd_that_wakes_a_model_opens_one_window(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", idle_after=30 * MINUTE)
    open_window(airflow, served)
    before = log.current()
    for run_id in ("r2", "r3"):
        with pytest.raises(AirflowSkipException, match="pong is open already: run r1 keeps window"):
            open_window(airflow, served, run_id)
    assert len(log.records()) == 1
    assert log.current().touched >= before.touched and log.current().run == "r1"


def test_a_missed_opening_is_made_up_for(model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow) -> None:
    opened = open_window(airflow, Served("pong", hours_now()), run_type="scheduled")
    assert opened["because"] == "hours" and opened["window"].endswith("-hours") and opened["until"]
    assert moment(log.current().until) - datetime.now(tz=UTC) < 61 * MINUTE and not log.current().touched


def test_a_run_that_came_early_waits_for_the_lead(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    hours = hours_now(40, 90)
    found = next_window(hours, datetime.now(tz=UTC))
    assert found is not None
    with pytest.raises(AirflowSkipException, match="not to be opened now"):
        open_window(airflow, Served("pong", hours, warmup="10m"), run_type="scheduled")
    wait = deferred(lambda: open_window(airflow, Served("pong", hours), run_type="scheduled"))
    assert wait.trigger.moment == found.opens - 15 * MINUTE, "15 min is the lead while no cold start is recorded"
    assert log.current() == Current(), "nobody keeps a window that is not open yet"


def test_a_window_that_ended_is_not_opened_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", hours_now())
    opened = open_window(airflow, served, run_type="scheduled")
    log.update(opened["window"], closed_because="idle")
    log.let_go("r1")
    with pytest.raises(AirflowSkipException, match=r"was open and has ended \(idle\); airfreight wake pong opens"):
        open_window(airflow, served, "r2", "scheduled")


def test_a_dead_runs_window_goes_on_under_the_next_run(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", hours_now())
    first = open_window(airflow, served, run_type="scheduled")
    airflow.alive.remove("r1")
    again = open_window(airflow, served, "r2", "scheduled")
    assert again["window"] == first["window"] and again["requested"] == first["requested"]
    assert [one.run for one in log.records()] == ["r2"] and log.current().run == "r2"


def test_hours_that_open_while_it_is_woken_leave_a_note(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", hours_now())
    log.take(Current("w", "r1", touched="2026"), lambda run: True)
    with pytest.raises(AirflowSkipException, match="run r1 keeps window w"):
        open_window(airflow, served, "r2", "scheduled")
    assert log.current().until and log.current().run == "r1"


def test_who_comes_while_it_is_being_closed_waits_and_opens_another(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    kept = log.take(Current("w", "r1"), lambda run: True)
    log.close("r1", kept)
    wait = deferred(lambda: open_window(airflow, Served("pong", idle_after=MINUTE), "r2"))
    assert wait.trigger.moment - datetime.now(tz=UTC) < 6 * timedelta(seconds=1)
    log.let_go("r1")
    assert open_window(airflow, Served("pong", idle_after=MINUTE), "r2")["because"] == "wake"


def test_an_opening_waits_for_a_delivery(model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow) -> None:
    ledger.take("deliver_model/manual__1")
    ledger.note("deliver_model/manual__1", "a" * 12, Found())
    wait = deferred(lambda: open_window(airflow, Served("pong", hours_now()), run_type="scheduled"))
    assert wait.trigger.moment - datetime.now(tz=UTC) < 16 * timedelta(seconds=1)
    ledger.let_go("deliver_model/manual__1")
    assert open_window(airflow, Served("pong", hours_now()), run_type="scheduled")["because"] == "hours"


def test_an_opening_does_not_wait_for_a_delivery_that_has_not_touched_the_model_yet(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """It checks and has nodes pull images, for an hour perhaps."""
    ledger.take("deliver_model/manual__1")
    assert open_window(airflow, Served("pong", hours_now()), run_type="scheduled")["because"] == "hours"


def test_a_delivery_that_died_with_its_lock_keeps_nobody_waiting(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    ledger.take("deliver_model/manual__1")
    ledger.note("deliver_model/manual__1", "a" * 12, Found())
    airflow.ended.add("manual__1")
    assert open_window(airflow, Served("pong", hours_now()), run_type="scheduled")["because"] == "hours"
    log.let_go("r1")
    opened(airflow, log, until=text_of(datetime.now(tz=UTC)))
    assert saw(airflow, Served("pong", hours_now(closes=0)), Kind.CLOSING)["because"] == "closing"


def test_a_delivery_that_leaves_it_running_opens_a_window_and_one_that_leaves_it_stopped_does_not(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", idle_after=MINUTE)
    with pytest.raises(AirflowSkipException, match="was left stopped by its delivery"):
        open_window(airflow, served, run_type="asset_triggered")
    model.stopped = False
    assert open_window(airflow, served, run_type="asset_triggered")["found"] == "running"


def test_a_model_that_was_not_delivered_is_said(model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow) -> None:
    model.exists = False
    with pytest.raises(AirflowFailException, match="There is no InferenceService pong in namespace models: deliver"):
        open_window(airflow, Served("pong", idle_after=MINUTE))
    assert log.current() == Current()


def test_a_broken_entry_opens_nothing(model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow) -> None:
    with pytest.raises(AirflowFailException, match=r"models\.yaml:4: hours: wrong"):
        open_window(airflow, Served("pong", broken="models.yaml:4: hours: wrong"))


@pytest.mark.parametrize("action", ["stop", "stop_now"])
def test_a_broken_entry_keeps_nobody_from_stopping_its_model(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, action: str
) -> None:
    served = Served("pong", broken="models.yaml:4: hours: wrong")
    assert open_window(airflow, served, action=action)["action"] == action


def test_a_stop_takes_no_window(model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow) -> None:
    opened = open_window(airflow, Served("pong", idle_after=MINUTE), action="stop_now")
    assert opened["action"] == "stop_now" and log.current() == Current() and not log.records()
    airflow.xcoms["open_window", "return_value"] = opened
    with pytest.raises(AirflowSkipException, match="nothing is started"):
        resume_task(Served("pong", idle_after=MINUTE)).execute(airflow.context("resume"))


# ---- until it is over --------------------------------------------------------------------------------------------


def test_the_terms_are_those_of_the_hours_and_of_idle_after(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    closing = datetime.now(tz=UTC) + 60 * MINUTE
    opened(airflow, log, until=text_of(closing))
    airflow.xcoms["ping", "return_value"] = {"first_token": "2026"}
    trigger = watch(airflow, Served("pong", hours_now(), idle_after=30 * MINUTE))
    assert trigger.closes == pytest.approx(closing.timestamp(), abs=0.01)
    assert (trigger.idle_after_s, trigger.give_up_s) == (1800.0, None)


def test_the_time_before_its_opening_is_no_idle_time(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """Started an hour early and up in a minute, it would be stopped again before anybody may come."""
    served = Served("pong", hours_now(20, 90), idle_after=10 * MINUTE, warmup="30m")
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, served, run_type="scheduled")
    opens = moment(log.current().opens)
    assert 18 * MINUTE < opens - datetime.now(tz=UTC) < 21 * MINUTE
    trigger = watch(airflow, served)
    assert trigger.idle_not_before == (opens + 10 * MINUTE).timestamp() and trigger.idle_after_s == 600.0
    again = deferred(lambda: saw(airflow, served, Kind.IDLE))
    assert again.trigger.idle_not_before == trigger.idle_not_before and not log.current().closing


def test_a_model_that_did_not_answer_is_given_up_after_a_while(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    assert watch(airflow, Served("pong", idle_after=MINUTE)).give_up_s == 600.0


def test_idleness_ends_it_and_takes_its_evidence_along(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    result = saw(airflow, Served("pong", idle_after=MINUTE), Kind.IDLE, evidence={"u/0": [1.0]})
    assert result["stop"] and result["because"] == "idle"
    assert json.loads(result["last_look"]) == {"because": "idle", "evidence": {"u/0": [1.0]}}
    assert log.current().closing


def test_a_note_of_another_run_keeps_it_open(model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow) -> None:
    opened(airflow, log)
    log.take(Current("w2", "r2", touched=text_of(datetime.now(tz=UTC))), lambda run: True)
    again = deferred(lambda: saw(airflow, Served("pong", idle_after=30 * MINUTE), Kind.IDLE))
    assert again.trigger.idle_after_s == 1800.0 and not log.current().closing


def test_a_delivery_keeps_it_open_beyond_its_closing(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log, until=text_of(datetime.now(tz=UTC)))
    ledger.take("deliver_model/manual__1")
    ledger.note("deliver_model/manual__1", "a" * 12, Found())
    again = deferred(lambda: saw(airflow, Served("pong", hours_now(closes=0)), Kind.CLOSING))
    assert again.trigger.closes - datetime.now(tz=UTC).timestamp() < 31
    ledger.let_go("deliver_model/manual__1")
    assert saw(airflow, Served("pong", hours_now(closes=0)), Kind.CLOSING)["because"] == "closing"


def test_a_roll_back_by_hand_of_an_ended_run_keeps_it_open_beyond_its_closing(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """Airflow says that the run is over; somebody has taken its name to undo it, and waits for an answer."""
    run = "deliver_model/manual__1"
    opened(airflow, log, until=text_of(datetime.now(tz=UTC)))
    ledger.take(run)
    ledger.note(run, "a" * 12, Found())
    airflow.ended.add("manual__1")
    ledger.undo(run)
    again = deferred(lambda: saw(airflow, Served("pong", hours_now(closes=0)), Kind.CLOSING))
    assert again.trigger.closes - datetime.now(tz=UTC).timestamp() < 31
    ledger.let_go(run)
    assert saw(airflow, Served("pong", hours_now(closes=0)), Kind.CLOSING)["because"] == "closing"


def test_a_store_that_is_away_stops_nothing(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(airflow, log)

    def away(self: WindowLog) -> Current:
        raise TemporaryError("The object store cannot be reached")

    there, served = WindowLog.current, Served("pong", idle_after=30 * MINUTE)
    monkeypatch.setattr(WindowLog, "current", away)
    for kind in (Kind.IDLE, Kind.AGAIN):
        again = deferred(lambda kind=kind: saw(airflow, served, kind))  # type: ignore[misc]
        assert again.trigger.again_at - datetime.now(tz=UTC).timestamp() < 61
        # Else somebody who asks meanwhile would be cut off as by a closing.
        assert (again.trigger.closes, again.trigger.idle_after_s) == (None, None)
    closing = deferred(lambda: saw(airflow, served, Kind.CLOSING))
    assert closing.trigger.closes - datetime.now(tz=UTC).timestamp() < 61, "hours that are over stay over"

    monkeypatch.setattr(WindowLog, "current", there)
    back = deferred(lambda: saw(airflow, served, Kind.AGAIN))
    assert (back.trigger.idle_after_s, back.trigger.again_at) == (1800.0, None)
    log.let_go("r1")
    log.take(Current("w2", "r2"), lambda run: True)
    assert saw(airflow, served, Kind.AGAIN)["sentence"] == "Another run (r2) keeps the window now."


def test_a_window_that_another_run_keeps_is_left_to_it(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    log.let_go("r1")
    log.take(Current("w2", "r2"), lambda run: True)
    result = saw(airflow, Served("pong", idle_after=MINUTE), Kind.IDLE)
    assert not result["stop"] and result["sentence"] == "Another run (r2) keeps the window now."


@pytest.mark.parametrize(
    ("kind", "more", "stop", "because"),
    [
        (Kind.STOPPED, {"sentence": "x"}, False, "stopped by hand"),
        (Kind.STOPPED, {"sentence": "x", "ours": True}, False, "asked"),
        (Kind.GONE, {}, False, "gone"),
        (Kind.NEVER_READY, {}, True, "never ready"),
    ],
)
def test_what_others_did_ends_it(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, kind: Kind, more: Any, stop: bool, because: str
) -> None:
    opened(airflow, log)
    result = saw(airflow, Served("pong", idle_after=MINUTE), kind, **more)
    assert (result["stop"], result["because"]) == (stop, because)


def test_a_run_that_opened_nothing_watches_nothing(airflow: Airflow) -> None:
    with pytest.raises(AirflowSkipException, match="opened no window"):
        make(WatchSensor, Served("pong", idle_after=MINUTE)).execute(airflow.context("wait_until_idle_or_closing"))


def test_an_asked_stop_waits_until_nothing_runs_or_does_not(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", hours_now())
    opened(airflow, log, "stop")
    trigger = watch(airflow, served)
    assert (trigger.closes, trigger.idle_after_s) == (None, 30.0)
    event = vars(WindowEvent(Kind.IDLE, 0.0, evidence={"u/0": [1.0]}))
    result = make(WatchSensor, served).asked(airflow.context("wait_until_idle_or_closing"), event)
    assert result["stop"] and result["because"] == "asked"
    opened(airflow, log, "stop_now")
    now = make(WatchSensor, served).execute(airflow.context("wait_until_idle_or_closing"))
    assert json.loads(now["last_look"]) == {"because": "asked"}


def test_the_other_waits_defer_and_end_with_their_event(model: Model, log: WindowLog, airflow: Airflow) -> None:
    served = Served("pong", idle_after=MINUTE)
    ready = make(ServingSensor, served, ready_timeout=10 * MINUTE)
    assert isinstance(deferred(lambda: ready.execute(airflow.context("wait_until_ready"))).trigger, ServingTrigger)
    assert ready.seen({}, vars(WindowEvent(Kind.SERVING, 0.0))) == {"ready": "1970-01-01T00:00:00.000Z"}
    down = make(StoppedSensor, served, down_timeout=10 * MINUTE)
    assert isinstance(deferred(lambda: down.execute(airflow.context("confirm_stopped"))).trigger, StoppedTrigger)
    with pytest.raises(AirflowException, match="held"):
        down.seen(airflow.context("confirm_stopped"), vars(WindowEvent(Kind.LOST, 0.0, "held", 75)))


# ---- stopping ----------------------------------------------------------------------------------------------------


def test_the_last_look_that_finds_work_leaves_it_up_and_watches_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    asked = pods.pop()
    served = Served("pong", idle_after=30 * MINUTE)
    opened(airflow, log)
    watched = saw(airflow, served, Kind.IDLE, evidence={"u/0": [1.0]})
    airflow.xcoms["wait_until_idle_or_closing", "return_value"] = watched
    pods += [{"busy": "x has answered since the last look", "stop": ""}, {"busy": "", "stop": "2026-11-22T12:00:00Z"}]

    again = deferred(lambda: stop_task(served).execute(airflow.context("stop")))
    assert again.trigger.idle_after_s == 1800.0 and again.method_name == "seen"
    assert not log.current().closing, "who wakes it now leaves a note again"
    event = vars(WindowEvent(Kind.IDLE, 0.0, evidence={"u/0": [2.0]}))
    result = stop_task(served).seen(airflow.context("stop"), event)
    assert result["because"] == "idle" and result["stop"] == "2026-11-22T12:00:00Z"
    assert [json.loads(one)["evidence"] for one in asked] == [{"u/0": [1.0]}, {"u/0": [2.0]}]


def test_nothing_is_stopped_where_the_window_ended_otherwise(airflow: Airflow) -> None:
    result = {"stop": False, "sentence": "pong was stopped by field manager x."}
    airflow.xcoms["wait_until_idle_or_closing", "return_value"] = result
    with pytest.raises(AirflowSkipException, match="was stopped by field manager x"):
        stop_task(Served("pong", idle_after=MINUTE)).execute(airflow.context("stop"))


def test_an_asked_stop_that_finds_work_waits_for_idleness_alone(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    pods.pop()
    served = Served("pong", hours_now())
    look = json.dumps({"because": "idle", "evidence": {"u/0": [1.0]}})
    watched = {"stop": True, "because": "asked", "last_look": look}
    airflow.xcoms["wait_until_idle_or_closing", "return_value"] = watched
    pods += [{"busy": "x has 1 running", "stop": ""}, {"busy": "", "stop": "2026"}]
    again = deferred(lambda: stop_task(served).execute(airflow.context("stop")))
    assert (again.method_name, again.trigger.idle_after_s) == ("asked", 30.0)
    event = vars(WindowEvent(Kind.IDLE, 0.0, evidence={"u/0": [2.0]}))
    assert stop_task(served).asked(airflow.context("stop"), event)["because"] == "asked"


# ---- the record --------------------------------------------------------------------------------------------------


def test_the_record_says_what_the_tasks_know_and_lets_the_window_go(
    model: Model, log: WindowLog, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(airflow, log)
    requested = moment(airflow.xcoms["open_window", "return_value"]["requested"])
    airflow.xcoms |= {
        ("wait_until_ready", "return_value"): {"ready": "2026-11-22T12:01:00.000Z"},
        ("ping", "return_value"): {"first_token": text_of(requested + timedelta(seconds=61.5))},
        ("wait_until_idle_or_closing", "return_value"): {"stop": True, "because": "idle", "sentence": "Idle for 60 s."},
        ("stop", "return_value"): {"stop": "2026-11-22T12:30:00.000Z", "because": "idle"},
        ("confirm_stopped", "return_value"): {"stopped": "2026-11-22T12:30:02.000Z"},
    }
    result = record(airflow, monkeypatch)
    assert result["closed_because"] == "idle" and result["cold_start_s"] == 61.5
    assert result["expected_s"] == result["cold_start_s"], "the only one; who wakes it next is told"
    (kept,) = log.records()
    assert (kept.ready, kept.stop, kept.stopped) == (
        "2026-11-22T12:01:00.000Z", "2026-11-22T12:30:00.000Z", "2026-11-22T12:30:02.000Z",
    )  # fmt: skip
    assert log.current() == Current()


def test_a_window_ended_by_others_has_their_time(
    model: Model, log: WindowLog, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(airflow, log)
    watched = {"stop": False, "because": "stopped by hand", "sentence": "by x", "at": "2026-11-22T12:30:00.000Z"}
    airflow.xcoms["wait_until_idle_or_closing", "return_value"] = watched
    record(airflow, monkeypatch)
    (kept,) = log.records()
    assert (kept.stopped, kept.closed_because, kept.sentence) == ("2026-11-22T12:30:00.000Z", "stopped by hand", "by x")


def test_a_run_that_failed_is_recorded_as_that_and_fails(
    model: Model, log: WindowLog, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(airflow, log)
    airflow.states = {"stop": "failed", "resume": "success"}
    airflow.xcoms["stop", "failure"] = {"message": "The cluster refuses to patch it."}
    with pytest.raises(AirflowFailException, match=r"stop failed: The cluster refuses to patch it\."):
        record(airflow, monkeypatch)
    (kept,) = log.records()
    assert (kept.closed_because, kept.stopped) == ("failed", "") and log.current() == Current()


def test_a_run_that_opened_nothing_records_nothing(
    log: WindowLog, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AirflowSkipException):
        record(airflow, monkeypatch)
    airflow.states = {"open_window": "failed"}
    with pytest.raises(AirflowFailException, match="open_window failed: look at its log"):
        record(airflow, monkeypatch)
