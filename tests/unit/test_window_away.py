"""What was away when a window was to open, go on or end: Airflow, the cluster, the store, a right, or its old hours."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airfreight.errors import TemporaryError
from airfreight.hours import current, next_window
from airfreight.ledger import Ledger
from airfreight.windows import Current, WindowLog, moment, text_of
from airfreight_airflow.operators import AirfreightPodOperator
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_opening import OpenWindowSensor
from airfreight_airflow.windows_runs import Served
from airfreight_airflow.windows_sensors import WatchSensor
from tests.unit.serving_kube import SERVICE, Model
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

HOUR = 60 * MINUTE
SERVED = Served("pong", idle_after=30 * MINUTE)
WATCH = "wait_until_idle_or_closing"


def ago(time: timedelta) -> str:
    return text_of(datetime.now(tz=UTC) - time)


def in_s(unix: float) -> float:
    return unix - datetime.now(tz=UTC).timestamp()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A store that does not answer until this is called."""

    def unanswered(self: WindowLog) -> Current:
        raise TemporaryError("The object store cannot be reached.")

    there = WindowLog.current
    monkeypatch.setattr(WindowLog, "current", unanswered)
    return lambda: monkeypatch.setattr(WindowLog, "current", there)


# ---- hours that are not those of the note ---------------------------------------------------------------------------


def test_hours_that_were_made_longer_in_the_window_keep_it_open(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """The schedule fires no second time for the same opening, so no run leaves a note."""
    opened(airflow, log, opens=ago(HOUR), until=ago(timedelta()))
    served = Served("pong", hours_now(-60, 60))
    wanted = current(served.hours, datetime.now(tz=UTC))
    assert wanted is not None
    again = deferred(lambda: saw(airflow, served, Kind.CLOSING))
    assert again.trigger.closes == wanted.closes.timestamp() and again.trigger.idle_after_s is None
    assert moment(log.current().until) == wanted.closes and log.current().is_open


def test_an_airflow_that_was_away_over_night_keeps_the_day_after_open(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log, opens=ago(25 * HOUR), until=ago(15 * HOUR))
    served = Served("pong", hours_now(-60, 60), idle_after=2 * HOUR)
    assert in_s(watch(airflow, served).closes or 0) < 0, "its old closing was missed, so it is judged at once"
    again = deferred(lambda: saw(airflow, served, Kind.CLOSING))
    assert in_s(again.trigger.closes) > 50 * 60 and again.trigger.idle_after_s == 7200.0
    assert again.trigger.idle_not_before == pytest.approx(datetime.now(tz=UTC).timestamp() + 3600, abs=120)
    with pytest.raises(AirflowSkipException, match="run r1 keeps window w"):
        open_window(airflow, served, "r2", "scheduled")
    assert not log.current().touched, "nobody woke it: it closes with its hours"


def test_a_dag_that_was_paused_over_night_does_not_stop_the_day_after(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    """Paused after its closing was judged, and before the pod that stops the model."""
    looked = pods.pop()
    opened(airflow, log, opens=ago(25 * HOUR), until=ago(15 * HOUR))
    airflow.xcoms[WATCH, "return_value"] = saw(airflow, Served("pong", hours_now(-60, 0)), Kind.CLOSING)
    served = Served("pong", hours_now(-60, 60))
    again = deferred(lambda: stop_task(served).execute(airflow.context("stop")))
    assert again.method_name == "seen" and in_s(again.trigger.closes) > 50 * 60
    assert log.current().is_open and not looked


def test_idleness_does_not_end_a_window_that_its_hours_want_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log, until=ago(15 * HOUR), touched=ago(16 * HOUR))
    again = deferred(lambda: saw(airflow, Served("pong", hours_now(-60, 60)), Kind.IDLE))
    assert in_s(again.trigger.closes) > 50 * 60 and again.trigger.idle_after_s is None


def test_a_note_that_comes_while_the_closing_is_moved_is_heeded(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(airflow, log, until=ago(timedelta()))
    extend, left = WindowLog.extend, []

    def between(self: WindowLog, run: str, judged: Current, opens: str, until: str) -> Current | None:
        if not left:
            left.append(log.take(Current("w2", "r2", touched=ago(timedelta())), lambda run: True))
        return extend(self, run, judged, opens, until)

    monkeypatch.setattr(WindowLog, "extend", between)
    deferred(lambda: saw(airflow, Served("pong", hours_now(-60, 60)), Kind.CLOSING))
    assert log.current().touched and moment(log.current().until) > datetime.now(tz=UTC)


def test_a_model_that_was_woken_in_its_window_is_not_cut_off_at_its_closing(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """However long ago: who woke it in the morning may be at work with it still."""
    opened(airflow, log, until=ago(timedelta()), touched=ago(8 * HOUR))
    served = Served("pong", hours_now(-60, 0))
    again = deferred(lambda: saw(airflow, served, Kind.CLOSING))
    assert (again.trigger.closes, again.trigger.idle_after_s) == (None, 1800.0)
    assert saw(airflow, served, Kind.IDLE)["because"] == "idle"


def test_a_touch_of_the_day_before_does_not_keep_it_open_beyond_the_next_closing(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """Asked all the time it is never idle, so the run is told of the next hours by the clock."""
    served = Served("pong", hours_now(10, 40))  # so they were open yesterday too
    opened(airflow, log, opens=ago(24 * HOUR), until=ago(20 * HOUR), touched=ago(21 * HOUR))
    wakeful = deferred(lambda: saw(airflow, served, Kind.CLOSING))
    assert (wakeful.trigger.closes, wakeful.trigger.idle_after_s) == (None, 1800.0)
    opening = next_window(served.hours, datetime.now(tz=UTC))
    assert opening is not None and wakeful.trigger.again_at == (opening.opens + 5 * MINUTE).timestamp()
    assert watch(airflow, served).again_at == wakeful.trigger.again_at, "also one whose task begins anew"
    with pytest.raises(AirflowSkipException, match="run r1 keeps window w"):
        open_window(airflow, Served("pong", hours_now(10, 40), warmup="30m"), "r2", "scheduled")
    asked = deferred(lambda: saw(airflow, served, Kind.AGAIN))
    assert asked.trigger.closes == opening.closes.timestamp() and not log.current().touched
    log.extend("r1", log.current(), ago(HOUR), ago(timedelta()))
    assert saw(airflow, Served("pong", hours_now(-60, 0)), Kind.CLOSING)["because"] == "closing"


def test_a_release_that_goes_live_in_the_hours_is_no_wake(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", hours_now(-60, 0))
    opened(airflow, log, opens=ago(HOUR), until=ago(timedelta()))
    model.stopped, before = False, log.current()
    with pytest.raises(AirflowSkipException, match="run r1 keeps window w"):
        open_window(airflow, served, "r2", "asset_triggered")
    assert log.current() == before
    assert saw(airflow, served, Kind.CLOSING)["because"] == "closing"


# ---- cluster and store at an opening --------------------------------------------------------------------------------


def opening(airflow: Airflow, served: Served, run_type: str, answered: str = "", **params: Any) -> Any:
    context = airflow.context("open_window", "r1", run_type, **params)
    return make(OpenWindowSensor, served).go_on(context, {}, answered)


@pytest.mark.parametrize("what", ["cluster", "store"])
def test_an_opening_outlasts_a_cluster_or_store_that_does_not_answer(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    served, hours_ago = Served("pong", hours_now(-300, 60)), datetime.now(tz=UTC) - 5 * HOUR
    airflow.fired = hours_ago

    def unanswered(self: WindowLog) -> list[float]:
        raise TemporaryError("The object store cannot be reached.")

    with monkeypatch.context() as patch:
        if what == "cluster":
            patch.setitem(model.kube.objects, SERVICE, 503)
        else:
            patch.setattr(WindowLog, "cold_starts", unanswered)
        wait = deferred(lambda: open_window(airflow, served, run_type="scheduled"))
        assert 50 < in_s(wait.trigger.moment.timestamp()) < 61 and wait.method_name == "go_on"
    assert opening(airflow, served, "scheduled", **wait.kwargs)["because"] == "hours"


def test_a_window_of_the_hours_that_is_over_is_waited_for_no_more(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    model.kube.objects[SERVICE] = 503
    with pytest.raises(AirflowException):
        open_window(airflow, Served("pong", hours_now(-60, 0)), run_type="scheduled")


@pytest.mark.parametrize(
    ("run_type", "asked", "answered", "waits"),
    [
        ("manual", 10 * MINUTE, None, True),
        ("manual", 61 * MINUTE, None, False),
        ("manual", 5 * HOUR, 10 * MINUTE, True),  # it waited for a delivery until then
        ("manual", 5 * HOUR, 61 * MINUTE, False),
        # A delivery left it up, and nobody else ends its window.
        ("asset_triggered", 5 * HOUR, None, True),
        ("asset_triggered", 25 * HOUR, None, False),
    ],
)
def test_a_wake_outlasts_an_hour_and_what_a_delivery_left_up_a_day(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    run_type: str,
    asked: timedelta,
    answered: timedelta | None,
    waits: bool,
) -> None:
    model.kube.objects[SERVICE] = 503
    airflow.fired = datetime.now(tz=UTC) - asked
    last = ago(answered) if answered else ""
    if waits:
        wait = deferred(lambda: opening(airflow, SERVED, run_type, last))
        assert wait.kwargs == {"answered": last}, "the next look knows since when nobody answers"
    else:
        with pytest.raises(AirflowException):
            opening(airflow, SERVED, run_type, last)


def test_a_wait_for_another_reason_says_that_they_answered(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    log.close("r2", log.take(Current("w", "r2"), lambda run: True))
    wait = deferred(lambda: open_window(airflow, SERVED))
    assert datetime.now(tz=UTC) - moment(wait.kwargs["answered"]) < MINUTE


@pytest.mark.parametrize("action", ["stop", "stop_now"])
def test_a_stop_is_not_done_an_hour_late(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, action: str
) -> None:
    model.kube.objects[SERVICE] = 503
    with pytest.raises(AirflowException) as ended:
        open_window(airflow, SERVED, action=action)
    assert not isinstance(ended.value, AirflowFailException), "it is tried again soon, as always"


# ---- the store while it is open --------------------------------------------------------------------------------------


def test_a_watch_that_begins_while_the_store_is_away_asks_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, away: Callable[[], None]
) -> None:
    """Else `stop` would have nothing to go by, and the model would stay up with nobody to end its window."""
    log.take(Current("w", "r1"), lambda run: True)
    airflow.xcoms["open_window", "return_value"] = {"action": "open", "window": "w"}
    trigger = watch(airflow, SERVED)
    assert trigger.again_at and in_s(trigger.again_at) < 61
    assert (trigger.closes, trigger.idle_after_s) == (None, None)
    away()
    assert deferred(lambda: saw(airflow, SERVED, Kind.AGAIN)).trigger.idle_after_s == 1800.0


def test_a_stop_that_was_asked_for_waits_for_the_store(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, away: Callable[[], None]
) -> None:
    opened_stop = {"action": "stop", "asked": ago(MINUTE)}
    airflow.xcoms["open_window", "return_value"] = opened_stop
    idle, sensor = vars(WindowEvent(Kind.IDLE, 0.0, evidence={"u/0": [1.0]})), make(WatchSensor, SERVED)
    again = deferred(lambda: sensor.asked(airflow.context(WATCH), idle))
    assert (again.method_name, again.trigger.idle_after_s) == ("asked", 30.0)
    away()
    assert sensor.asked(airflow.context(WATCH), idle)["stop"]


# ---- a right that was missing ----------------------------------------------------------------------------------------


def without_rights(airflow: Airflow, log: WindowLog, monkeypatch: pytest.MonkeyPatch, **hours: str) -> None:
    """`resume` may not start the model: the watch sees it stopped, the run fails, and lets its window go."""
    opened(airflow, log, **hours)
    airflow.xcoms["open_window", "return_value"] |= hours
    ended = saw(airflow, SERVED, Kind.STOPPED, sentence="pong was stopped by Airfreight.", ours=True)
    assert not ended["stop"]
    airflow.states = {"resume": "failed"}
    with pytest.raises(AirflowFailException, match="resume failed"):
        record(airflow, monkeypatch)
    assert log.current() == Current()


def test_a_window_whose_task_was_cleared_is_kept_again(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    pods: list[Any],
) -> None:
    """The right was given and `resume` cleared: the model is up now, and somebody has to end its window."""
    pods.pop()
    without_rights(airflow, log, monkeypatch)
    trigger = watch(airflow, SERVED)
    assert (trigger.closes, trigger.idle_after_s) == (None, 1800.0)
    assert log.current() == Current("w", "r1")
    with pytest.raises(AirflowSkipException, match="run r1 keeps window w"):
        open_window(airflow, SERVED, "r2")
    log.let_go("r1")
    watched = saw(airflow, SERVED, Kind.IDLE, evidence={"u/0": [1.0]})
    assert watched["stop"] and log.current().run == "r1"
    airflow.xcoms[WATCH, "return_value"] = watched
    pods.append({"busy": "", "stop": "2026-11-22T12:00:00Z"})
    assert stop_task(SERVED).execute(airflow.context("stop"))["because"] == "idle"


def test_a_cleared_window_closes_with_its_hours_unless_these_are_over(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"opens": ago(HOUR), "until": ago(-HOUR)}
    without_rights(airflow, log, monkeypatch, **times)
    assert 3500 < in_s(watch(airflow, SERVED).closes or 0) < 3601
    assert log.current() == Current("w", "r1", **times)
    log.let_go("r1")
    over = {"opens": ago(3 * HOUR), "until": ago(HOUR)}
    airflow.xcoms["open_window", "return_value"] |= over
    trigger = watch(airflow, SERVED)
    assert (trigger.closes, trigger.idle_after_s) == (None, 1800.0), "somebody has just started it"


def test_a_cleared_window_is_left_to_the_run_that_keeps_one_by_now(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_rights(airflow, log, monkeypatch)
    log.take(Current("w2", "r2"), lambda run: True)
    result = make(WatchSensor, SERVED).execute(airflow.context(WATCH))
    assert not result["stop"] and result["sentence"] == "Another run (r2) keeps the window now."
    assert log.current() == Current("w2", "r2")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the pods that start the model were asked."""
    asked: list[Any] = []
    monkeypatch.setattr(AirfreightPodOperator, "execute", lambda self, context: asked.append(self.arguments[:1]))
    return asked


def test_a_start_that_was_cleared_keeps_its_window_from_then_on(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
) -> None:
    """Its watch begins an hour later perhaps; a stop until then would see no window, and be overruled by this one."""
    without_rights(airflow, log, monkeypatch)
    airflow.tries = 2
    resume_task(SERVED).execute(airflow.context("resume"))
    assert started == [["resume"]] and log.current() == Current("w", "r1")
    assert open_window(airflow, SERVED, "r2", action="stop")["seen"]["window"] == "w"


def test_a_start_that_was_cleared_is_left_to_the_run_that_keeps_a_window_by_now(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
) -> None:
    without_rights(airflow, log, monkeypatch)
    log.take(Current("w2", "r2"), lambda run: True)
    airflow.tries = 2
    with pytest.raises(
        AirflowSkipException, match=r"Another run \(r2\) keeps a window of pong now; nothing is started"
    ):
        resume_task(SERVED).execute(airflow.context("resume"))
    assert not started


def test_a_start_that_was_cleared_takes_over_from_a_run_that_is_gone(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
) -> None:
    without_rights(airflow, log, monkeypatch)
    log.take(Current("w2", "deleted"), lambda run: True)
    airflow.tries = 2
    resume_task(SERVED).execute(airflow.context("resume"))
    assert started == [["resume"]] and log.current() == Current("w", "r1")


def stopped_while_it_starts(airflow: Airflow, state: str) -> None:
    """`airfreight stop` in run r2 finds the model stopped; `resume` of run r1 is in this state."""
    mine = airflow.xcoms.pop(("open_window", "return_value"))
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action="stop")
    airflow.states, at_once = {"resume": state}, vars(WindowEvent(Kind.STOPPED, 0.0, "x", ours=True))
    assert make(WatchSensor, SERVED).asked(airflow.context(WATCH, "r2"), at_once)["because"] == "asked"
    airflow.xcoms["open_window", "return_value"], airflow.states = mine, {}


def test_a_start_that_is_tried_again_heeds_a_stop_that_was_asked_for_since(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
) -> None:
    opened(airflow, log)
    stopped_while_it_starts(airflow, "up_for_retry")
    assert log.current().closers == ("r2",)
    airflow.alive.remove("r2")  # it had nothing to wait for
    airflow.tries = 2
    with pytest.raises(AirflowSkipException, match="Run r2 was asked to stop pong since; nothing is started"):
        resume_task(SERVED).execute(airflow.context("resume"))
    assert not started
    model.stopped = True
    airflow.xcoms[WATCH, "return_value"] = result = make(WatchSensor, SERVED).execute(airflow.context(WATCH))
    assert not result["stop"] and result["sentence"] == "pong was stopped while it started."
    assert not log.current().is_open
    mine = airflow.xcoms.pop(("open_window", "return_value"))
    deferred(lambda: open_window(airflow, SERVED, "r3"))  # somebody wakes it now
    assert log.current().run == "r1", "no note that nobody would read"
    airflow.xcoms["open_window", "return_value"] = mine
    assert record(airflow, monkeypatch)["closed_because"] == "asked" and log.current() == Current()
    assert open_window(airflow, SERVED, "r3")["found"] == "stopped"


def test_a_start_that_came_about_after_all_is_watched(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    stopped_while_it_starts(airflow, "up_for_retry")
    airflow.alive.remove("r2")
    model.stopped = False
    watch(airflow, SERVED)
    assert log.current().is_open


def test_hours_that_have_opened_since_close_it_though_their_run_comes_late(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """It went on by a touch; the store, or Airflow, was away at the opening, and both came back together."""
    served = Served("pong", hours_now(-10, 60))
    opened(airflow, log, touched=ago(20 * HOUR))
    trigger = deferred(lambda: saw(airflow, served, Kind.AGAIN)).trigger
    assert 3500 < in_s(trigger.closes or 0) < 3601


def test_a_stop_says_nothing_to_a_run_whose_start_is_under_way_or_that_came_since(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, started: list[Any]
) -> None:
    """It would take itself for closed until it watches; who wakes the model meanwhile would wait for that."""
    opened(airflow, log)
    stopped_while_it_starts(airflow, "running")
    assert log.current().is_open
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action="stop")
    log.take(Current("w3", "r3", touched=ago(-MINUTE)), lambda run: True)
    airflow.states, at_once = {"resume": "up_for_retry"}, vars(WindowEvent(Kind.STOPPED, 0.0, "x", ours=True))
    make(WatchSensor, SERVED).asked(airflow.context(WATCH, "r2"), at_once)
    assert log.current().is_open, "woken since"
    airflow.tries = 2
    airflow.xcoms["open_window", "return_value"] = {"action": "open", "window": "w"}
    resume_task(SERVED).execute(airflow.context("resume"))
    assert started == [["resume"]]


# ---- a stop, and what opened since -----------------------------------------------------------------------------------


def stop_asked(airflow: Airflow, action: str = "stop") -> None:
    """`airfreight stop` in run r2, which has waited for idleness since."""
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action=action)
    watched = {"stop": True, "because": "asked", "last_look": json.dumps({"because": "asked"})}
    airflow.xcoms[WATCH, "return_value"] = watched


def overruled(airflow: Airflow, log: WindowLog, sentence: str) -> None:
    idle = vars(WindowEvent(Kind.IDLE, 0.0, evidence={"u/0": [1.0]}))
    ended = make(WatchSensor, SERVED).asked(airflow.context(WATCH, "r2"), idle)
    assert not ended["stop"] and ended["sentence"] == sentence
    with pytest.raises(AirflowSkipException, match=sentence):
        stop_task(SERVED).execute(airflow.context("stop", "r2"))
    assert log.current().is_open


SINCE = "A window of pong opened after this stop was asked for; to end that one too, ask again."


@pytest.mark.parametrize("woken", [False, True], ids=["no window was open", "the hours left a note in a woken one"])
def test_a_stop_that_was_asked_for_before_an_opening_does_not_end_the_hours(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any], woken: bool
) -> None:
    """Hours leave no wake, and a window of theirs that has ended is not opened again that day."""
    looked, served = pods.pop(), Served("pong", hours_now(), idle_after=30 * MINUTE)
    if woken:
        log.take(Current("w", "r1", touched=ago(HOUR)), lambda run: True)
    stop_asked(airflow)
    left = {key: airflow.xcoms.pop(key) for key in list(airflow.xcoms)}
    if woken:
        with pytest.raises(AirflowSkipException, match="run r1 keeps window w"):
            open_window(airflow, served, "r3", "scheduled")
    else:
        open_window(airflow, served, "r3", "scheduled")
    airflow.xcoms = left
    overruled(airflow, log, SINCE)
    assert not looked


def test_a_stop_ends_the_window_that_it_was_asked_for_in(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    """Also one of the hours that is warmed up and opens while the stop waits."""
    pods.pop()
    log.take(Current("w", "r1", opens=ago(-MINUTE), until=ago(-HOUR)), lambda run: True)
    stop_asked(airflow)
    pods.append({"busy": "", "stop": "2026-11-22T12:00:00Z"})
    assert stop_task(SERVED).execute(airflow.context("stop", "r2"))["stop"]
    assert log.current().closers == ("r2",)


def test_a_stop_at_once_that_failed_is_overruled_by_a_wake_when_it_is_tried_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    pods.pop()
    stop_asked(airflow, "stop_now")
    log.take(Current("w", "r3", touched=ago(-MINUTE)), lambda run: True)
    airflow.tries = 2
    with pytest.raises(AirflowSkipException, match="Somebody woke pong after this stop was asked for"):
        stop_task(SERVED).execute(airflow.context("stop", "r2"))
    airflow.tries = 1
    pods.append({"busy": "", "stop": "2026-11-22T12:00:00Z"})
    assert stop_task(SERVED).execute(airflow.context("stop", "r2"))["stop"], "at the same moment the stop wins"
