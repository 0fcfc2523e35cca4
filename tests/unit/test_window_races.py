"""Windows, wakes, stops and deliveries that meet: nothing is stopped that somebody else keeps, and no wake is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskDeferred

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.hours import Hours
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Found
from airfreight.windows import Current, WindowLog, moment, text_of
from airfreight_airflow import windows_keeper
from airfreight_airflow.operators import VALIDATOR, AirfreightPodOperator
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_keeper import forget_dead_window
from airfreight_airflow.windows_operators import PingOperator
from airfreight_airflow.windows_runs import Served
from airfreight_airflow.windows_sensors import WatchSensor
from airfreight_airflow.windows_timetable import OpeningsTimetable
from tests.unit.serving_kube import SERVICE, Model
from tests.unit.window_bench import (
    MINUTE,
    Airflow,
    deferred,
    make,
    open_window,
    opened,
    record,
    saw,
    stop_task,
    watch,
)

pytest_plugins = ("tests.unit.window_fixtures",)

SERVED = Served("pong", idle_after=30 * MINUTE)
DELIVERY = "deliver_model/manual__1"
WATCH = "wait_until_idle_or_closing"


def tries(ledger: Ledger) -> None:
    ledger.take(DELIVERY)
    ledger.note(DELIVERY, "a" * 12, Found())


def asked(airflow: Airflow, event: WindowEvent) -> Any:
    return make(WatchSensor, SERVED).asked(airflow.context(WATCH), vars(event))


IDLE = WindowEvent(Kind.IDLE, 0.0, "Idle for 30 s.", evidence={"u/0": [1.0]})

# ---- two windows of the hours --------------------------------------------------------------------------------------


def two_windows(gap: int) -> tuple[tuple[Hours, ...], list[datetime]]:
    """Hours whose first window closes in 20 min, and whose second opens `gap` minutes after that."""
    now = datetime.now(tz=UTC).replace(second=0, microsecond=0)
    times = [now + minutes * MINUTE for minutes in (-120, 20, 20 + gap, 140)]
    texts = [f"{time:%H:%M}" for time in times]
    ranges = (
        Hours(open=texts[0], close=texts[1], timezone="UTC"),
        Hours(open=texts[2], close=texts[3], timezone="UTC"),
    )
    return ranges, times


@pytest.mark.parametrize("ended", [False, True], ids=["the first is open", "the first ended idle"])
def test_two_windows_closer_than_the_schedules_lead_are_both_opened(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, ended: bool
) -> None:
    """The run for the second comes while the first is open, or should be, and means the second."""
    hours, times = two_windows(gap=30)
    served, timetable = Served("pong", hours), OpeningsTimetable(hours, timedelta(hours=1))
    airflow.fired = timetable.next_fire(times[0], None)
    first = open_window(airflow, served, "r1", "scheduled")
    assert moment(first["until"]) == times[1]
    if ended:
        log.update(first["window"], closed_because="idle")
        log.let_go("r1")
    airflow.fired = timetable.next_fire(datetime.now(tz=UTC), airflow.fired)
    assert airflow.fired == times[2] - timedelta(hours=1)
    wait = deferred(lambda: open_window(airflow, served, "r2", "scheduled"))
    assert wait.trigger.moment == times[2] - 15 * MINUTE, "15 min is the lead while no cold start is recorded"


def test_a_second_window_that_is_warmed_up_within_the_first_is_noted_by_its_run(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    hours, times = two_windows(gap=5)
    served, timetable = Served("pong", hours, warmup="30m"), OpeningsTimetable(hours, 30 * MINUTE)
    airflow.fired = timetable.next_fire(times[0], None)
    open_window(airflow, served, "r1", "scheduled")
    airflow.fired = timetable.next_fire(datetime.now(tz=UTC), airflow.fired)
    with pytest.raises(AirflowSkipException, match="is open already: run r1 keeps window"):
        open_window(airflow, served, "r2", "scheduled")
    kept = log.current()
    assert (kept.run, moment(kept.opens), moment(kept.until)) == ("r1", times[2], times[3])


# ---- never ready ---------------------------------------------------------------------------------------------------


def test_a_model_that_never_became_ready_is_left_to_the_delivery_that_mends_it(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    tries(ledger)
    again = deferred(lambda: saw(airflow, SERVED, Kind.NEVER_READY, sentence="pong never became ready."))
    assert again.trigger.give_up_s == 600.0 and not log.current().closing
    ledger.let_go(DELIVERY)
    ended = saw(airflow, SERVED, Kind.NEVER_READY, sentence="pong never became ready.")
    assert ended["because"] == "never ready" and json.loads(ended["last_look"]) == {"because": "closing", "drain_s": 0}
    assert log.current().closing


def test_who_wakes_a_model_that_never_became_ready_gets_as_long_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log, touched=text_of(datetime.now(tz=UTC)))
    assert deferred(lambda: saw(airflow, SERVED, Kind.NEVER_READY)).trigger.give_up_s == 600.0
    log.let_go("r1")
    log.take(Current("w", "r1", touched=text_of(datetime.now(tz=UTC) - 11 * MINUTE)), lambda run: True)
    assert saw(airflow, SERVED, Kind.NEVER_READY)["stop"]


def test_a_model_that_has_answered_is_never_given_up(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    airflow.xcoms["ping", "return_value"] = {"first_token": "2026"}
    tries(ledger)
    assert watch(airflow, SERVED).give_up_s is None
    assert deferred(lambda: saw(airflow, SERVED, Kind.IDLE)).trigger.give_up_s is None


# ---- a delivery and the end of a window ----------------------------------------------------------------------------


def test_a_delivery_that_only_pulls_images_does_not_keep_it_open(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    ledger.take(DELIVERY)
    assert saw(airflow, SERVED, Kind.IDLE)["because"] == "idle"


def test_a_delivery_that_begins_as_the_window_is_closed_is_seen(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(airflow, log)
    close = WindowLog.close

    def between(self: WindowLog, run: str, judged: Current) -> Current | None:
        tries(ledger)
        return close(self, run, judged)

    monkeypatch.setattr(WindowLog, "close", between)
    again = deferred(lambda: saw(airflow, SERVED, Kind.IDLE))
    assert again.trigger.idle_after_s == 1800.0 and not log.current().closing


def test_a_stop_that_was_asked_for_waits_for_a_delivery_and_one_at_once_is_refused(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log, action="stop")
    tries(ledger)
    again = deferred(lambda: asked(airflow, IDLE))
    assert again.trigger.idle_after_s == 30.0 and again.method_name == "asked"
    with pytest.raises(AirflowFailException, match=f"{DELIVERY} is trying a release on pong, and a stop would cut off"):
        open_window(airflow, SERVED, action="stop_now")
    ledger.let_go(DELIVERY)
    assert asked(airflow, IDLE)["stop"]
    assert open_window(airflow, SERVED, action="stop_now")["action"] == "stop_now"


# ---- a wake and a stop ---------------------------------------------------------------------------------------------


def test_a_wake_after_a_stop_was_asked_for_outlives_it(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    stop = open_window(airflow, SERVED, "r2", action="stop")
    with pytest.raises(AirflowSkipException, match="is open already"):
        open_window(airflow, SERVED, "r3")
    airflow.xcoms["open_window", "return_value"] = stop
    ended = asked(airflow, IDLE)
    assert not ended["stop"] and ended["sentence"] == "Somebody woke pong after this stop was asked for."


@pytest.mark.parametrize("kind", [Kind.STOPPED, Kind.GONE])
def test_who_wakes_a_model_that_was_just_stopped_waits_and_opens_another_window(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, kind: Kind
) -> None:
    opened(airflow, log)
    saw(airflow, SERVED, kind, sentence="x")
    wait = deferred(lambda: open_window(airflow, SERVED, "r2"))
    assert wait.trigger.moment - datetime.now(tz=UTC) < 6 * timedelta(seconds=1)
    log.let_go("r1")
    assert open_window(airflow, SERVED, "r2")["because"] == "wake" and log.current().run == "r2"


def ping_task() -> Any:
    return make(PingOperator, SERVED, role=VALIDATOR, arguments=["ping"])


@pytest.mark.parametrize("gone", ["stopped", "deleted"])
def test_a_model_that_is_stopped_while_it_is_pinged_is_not_pinged_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """Three tries of a minute each, and who wakes it meanwhile would be told that its window is open."""

    def fails(self: AirfreightPodOperator, context: Any) -> Any:
        raise AirflowException("cannot be reached (Name or service not known)")

    monkeypatch.setattr(AirfreightPodOperator, "execute", fails)
    model.stopped, model.exists = gone == "stopped", gone != "deleted"
    with pytest.raises(AirflowSkipException, match="pong was stopped meanwhile"):
        ping_task().execute(airflow.context("ping"))


@pytest.mark.parametrize("away", [False, True])
def test_a_ping_that_fails_for_another_reason_is_tried_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    def fails(self: AirfreightPodOperator, context: Any) -> Any:
        raise AirflowException("answered 500")

    monkeypatch.setattr(AirfreightPodOperator, "execute", fails)
    model.stopped = False
    if away:
        model.kube.objects[SERVICE] = 500
    with pytest.raises(AirflowException, match="answered 500"):
        ping_task().execute(airflow.context("ping"))


# ---- what a run leaves behind --------------------------------------------------------------------------------------


def test_a_stop_that_is_cleared_hours_later_does_not_stop_the_next_window(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    looked = pods.pop()
    opened(airflow, log)
    airflow.xcoms[WATCH, "return_value"] = saw(airflow, SERVED, Kind.CLOSING)
    log.let_go("r1")  # its `stop` failed, and `record` let the window go
    open_window(airflow, SERVED, "r2")
    with pytest.raises(AirflowSkipException, match="Another run keeps a window of pong now"):
        stop_task(SERVED).execute(airflow.context("stop"))
    assert not looked
    log.let_go("r2")
    pods.append({"busy": "", "stop": "2026-11-22T12:00:00Z"})
    assert stop_task(SERVED).execute(airflow.context("stop"))["stop"], "nobody keeps it"


def test_a_cleared_stop_that_finds_work_keeps_the_window_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    pods.pop()
    opened(airflow, log)
    airflow.xcoms[WATCH, "return_value"] = saw(airflow, SERVED, Kind.CLOSING)
    log.let_go("r1")
    pods.append({"busy": "pong answers", "stop": ""})
    again = deferred(lambda: stop_task(SERVED).execute(airflow.context("stop")))
    assert again.method_name == "seen" and again.trigger.idle_after_s == 1800.0
    assert log.current().is_open and log.current().run == "r1"
    with pytest.raises(AirflowSkipException, match="is open already: run r1 keeps window"):
        open_window(airflow, SERVED, "r2")


@pytest.mark.parametrize("action", ["open", "stop", "stop_now"])
def test_while_the_pod_stops_it_who_wakes_it_waits(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    action: str,
) -> None:
    """Whether or not a run keeps a window: nobody's model is stopped too, when a person says so."""
    opened(airflow, log, action=action)
    if action == "open":
        log.let_go("r1")
    airflow.xcoms[WATCH, "return_value"] = {"stop": True, "because": "x", "last_look": '{"because": "asked"}'}
    kept, waits = [], []

    def pod(self: AirfreightPodOperator, context: Any) -> Any:
        kept.append(log.current())
        waits.append(deferred(lambda: open_window(airflow, SERVED, "r2")).trigger.moment - datetime.now(tz=UTC))
        return {"busy": "", "stop": "2026-11-22T12:00:00Z"}

    monkeypatch.setattr(AirfreightPodOperator, "execute", pod)
    assert stop_task(SERVED).execute(airflow.context("stop"))["stop"]
    assert kept[0].closing and waits[0] < 6 * timedelta(seconds=1)


def test_a_stop_that_was_asked_for_closes_the_window_of_another_run_and_opens_it_again_when_it_finds_work(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(airflow, log)
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action="stop")
    airflow.xcoms[WATCH, "return_value"] = {"stop": True, "because": "asked", "last_look": '{"because": "asked"}'}
    closing = []

    def pod(self: AirfreightPodOperator, context: Any) -> Any:
        closing.append(log.current().closing)
        if len(closing) == 1:
            return {"busy": "pong answers", "stop": ""}
        raise AirflowException("no right to stop it")

    monkeypatch.setattr(AirfreightPodOperator, "execute", pod)
    again = deferred(lambda: stop_task(SERVED).execute(airflow.context("stop", "r2")))
    assert again.method_name == "asked" and log.current().is_open and log.current().run == "r1"
    with pytest.raises(AirflowException, match="no right"):
        stop_task(SERVED).execute(airflow.context("stop", "r2"))
    assert closing == [True, True] and log.current().is_open


@pytest.mark.parametrize("died", [False, True])
def test_of_two_stops_one_that_finds_work_does_not_speak_for_the_other(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, died: bool
) -> None:
    """The other may be past its last look: who was told now that the window is open would be cut off."""
    opened(airflow, log)
    airflow.alive |= {"r4"}
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action="stop_now")
    to_be_stopped(airflow)

    def pod(self: AirfreightPodOperator, context: Any) -> Any:
        log.close("r1", log.current(), "r3")
        return {"busy": "pong answers", "stop": ""}

    monkeypatch.setattr(AirfreightPodOperator, "execute", pod)
    if died:
        airflow.alive.remove("r3")
    deferred(lambda: stop_task(SERVED).execute(airflow.context("stop", "r2")))
    assert log.current().closing is not died
    if not died:
        wait = deferred(lambda: open_window(airflow, SERVED, "r4"))
        assert wait.trigger.moment - datetime.now(tz=UTC) < 6 * timedelta(seconds=1)
        log.reopen("r1", "r3")
    with pytest.raises(AirflowSkipException, match="is open already"):
        open_window(airflow, SERVED, "r4")


def test_a_delivery_that_came_since_is_seen_before_the_pod_is_started(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    looked = pods.pop()
    opened(airflow, log)
    airflow.xcoms[WATCH, "return_value"] = saw(airflow, SERVED, Kind.CLOSING)
    tries(ledger)  # the DAG was paused for longer than a delivery waits
    again = deferred(lambda: stop_task(SERVED).execute(airflow.context("stop")))
    assert again.method_name == "seen" and log.current().is_open and not looked


def test_a_store_that_is_away_when_it_is_to_be_stopped_is_asked_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch, pods: list[Any]
) -> None:
    looked = pods.pop()
    opened(airflow, log)
    airflow.xcoms[WATCH, "return_value"] = saw(airflow, SERVED, Kind.CLOSING)

    def away(self: WindowLog) -> Current:
        raise TemporaryError("The object store cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(WindowLog, "current", away)
        again = deferred(lambda: stop_task(SERVED).execute(airflow.context("stop")))
    assert again.method_name == "seen" and again.trigger.again_at is not None and not looked
    back = vars(WindowEvent(Kind.AGAIN, 0.0))
    assert deferred(lambda: stop_task(SERVED).seen(airflow.context("stop"), back)).trigger.idle_after_s == 1800.0
    assert log.current().is_open


def test_a_stop_that_a_wake_overrules_ends_without_confirming_anything(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    looked = pods.pop()
    opened(airflow, log)
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action="stop")
    airflow.xcoms[WATCH, "return_value"] = asked(airflow, IDLE)
    with pytest.raises(AirflowSkipException, match="is open already"):
        open_window(airflow, SERVED, "r3")
    with pytest.raises(AirflowSkipException, match="Somebody woke pong after this stop was asked for"):
        stop_task(SERVED).execute(airflow.context("stop", "r2"))
    with pytest.raises(AirflowSkipException, match="Somebody woke pong after this stop was asked for"):
        stop_task(SERVED).asked(airflow.context("stop", "r2"), vars(IDLE))
    assert not looked and log.current().is_open


def test_an_opening_that_waits_for_a_delivery_has_taken_its_window(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """So the delivery leaves the model up, instead of stopping what is started again a moment later."""
    tries(ledger)
    deferred(lambda: open_window(airflow, SERVED))
    assert log.current().is_open and log.current().run == "r1" and not log.records()
    ledger.let_go(DELIVERY)
    model.stopped = False
    assert open_window(airflow, SERVED)["found"] == "running"


def test_a_window_that_could_not_be_recorded_is_let_go(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def refused(self: WindowLog, record: Any) -> Any:
            raise RequestError("The store refuses to put it.")

        patch.setattr(WindowLog, "begin", refused)
        with pytest.raises(AirflowFailException, match="refuses to put it"):
            open_window(airflow, SERVED)
    assert log.current().run == "r1"
    airflow.states = {"open_window": "failed"}
    with pytest.raises(AirflowException, match="open_window failed"):
        record(airflow, monkeypatch)
    assert log.current() == Current()


def test_a_stop_forgets_the_window_of_a_run_that_is_gone(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    """Else a delivery at night would take the model for one in use, and leave it up."""
    opened(airflow, log)
    open_window(airflow, SERVED, "r2", action="stop")
    assert log.current().run == "r1", "it goes on"
    airflow.alive.remove("r1")
    open_window(airflow, SERVED, "r2", action="stop")
    assert log.current() == Current()


@pytest.mark.parametrize("alive", [True, False])
def test_a_delivery_does_not_take_the_window_of_a_run_that_is_gone_for_open(
    log: WindowLog, airflow: Airflow, alive: bool
) -> None:
    """Else it would leave a model up that it found stopped, and nobody would stop it."""
    opened(airflow, log)
    if not alive:
        airflow.alive.remove("r1")
    forget_dead_window(airflow.context("deploy", "manual__1", model="acme/pong", name="pong", namespace="models"))
    assert log.current().is_open is alive


def test_a_delivery_goes_on_where_windows_cannot_be_looked_at(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> WindowLog:
        raise RequestError("There is no connection airfreight_store: define it, of type aws.")

    monkeypatch.setattr(windows_keeper, "window_log", missing)
    forget_dead_window(airflow.context("deploy", "manual__1", model="acme/pong", name="pong", namespace="models"))


# ---- a stop that comes to nothing -------------------------------------------------------------------------------


def to_be_stopped(airflow: Airflow, because: str = "asked") -> None:
    ask = {"stop": True, "because": because, "last_look": json.dumps({"because": because})}
    airflow.xcoms[WATCH, "return_value"] = ask


def test_a_stop_that_finds_work_where_no_window_is_open_leaves_no_window_behind(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    """Else who wakes the model would leave a note for a run that watches nothing."""
    pods.pop()
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action="stop")
    to_be_stopped(airflow)
    pods.append({"busy": "pong answers", "stop": ""})
    assert deferred(lambda: stop_task(SERVED).execute(airflow.context("stop", "r2"))).method_name == "asked"
    assert log.current() == Current()
    tries(ledger)
    assert deferred(lambda: stop_task(SERVED).execute(airflow.context("stop", "r2"))).method_name == "asked"
    assert log.current() == Current()


def test_a_window_that_was_opened_again_since_it_was_judged_is_judged_anew(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, pods: list[Any]
) -> None:
    looked = pods.pop()
    opened(airflow, log)
    airflow.xcoms[WATCH, "return_value"] = saw(airflow, SERVED, Kind.CLOSING)
    log.reopen("r1")  # a delivery was seen, and then the triggerer died: the task begins at its beginning
    again = deferred(lambda: stop_task(SERVED).execute(airflow.context("stop")))
    assert again.method_name == "seen" and again.trigger.give_up_s == 600.0 and not looked
    assert log.current().is_open


@pytest.mark.parametrize("error", [TemporaryError("Not now."), RequestError("Denied.")])
def test_a_ledger_that_cannot_be_read_leaves_the_window_of_another_run_open(
    model: Model,
    log: WindowLog,
    ledger: Ledger,
    airflow: Airflow,
    monkeypatch: pytest.MonkeyPatch,
    pods: list[Any],
    error: AirfreightError,
) -> None:
    asks = pods.pop()
    opened(airflow, log)
    airflow.xcoms["open_window", "return_value"] = open_window(airflow, SERVED, "r2", action="stop_now")
    to_be_stopped(airflow)

    def fails(self: Ledger) -> Any:
        raise error

    with monkeypatch.context() as patch, pytest.raises((TaskDeferred, AirflowFailException)) as ended:
        patch.setattr(Ledger, "held", fails)
        stop_task(SERVED).execute(airflow.context("stop", "r2"))
    assert log.current().is_open and log.current().run == "r1"
    if isinstance(ended.value, TaskDeferred):
        pods.append({"busy": "", "stop": "2026-11-22T12:00:00Z"})
        back = vars(WindowEvent(Kind.AGAIN, 0.0))
        assert stop_task(SERVED).asked(airflow.context("stop", "r2"), back)["stop"], "at once, as it was asked for"
        assert asks == ['{"because": "asked"}']


def test_a_judgement_that_lets_a_window_go_on_opens_it_again(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    opened(airflow, log)
    log.close("r1", log.current())  # as a stop that was marked failed leaves it
    tries(ledger)
    deferred(lambda: saw(airflow, SERVED, Kind.CLOSING))
    assert log.current().is_open


def test_a_run_that_took_a_window_and_skipped_lets_it_go(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hours closed while it waited for a delivery."""
    tries(ledger)
    deferred(lambda: open_window(airflow, SERVED))
    assert log.current().run == "r1"
    with pytest.raises(AirflowSkipException, match="opened no window"):
        record(airflow, monkeypatch)
    assert log.current() == Current()
