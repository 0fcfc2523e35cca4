"""The waiting tasks of `serve_<name>`: all deferred, none changes the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSkipException

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.hours import Window, current
from airfreight.observation import KubernetesObject, is_stopped
from airfreight.rendering import service_url
from airfreight.warmup import expected, lead
from airfreight.watching import served_name_in
from airfreight.window_rules import Due, GoOn, Terms, due, terms
from airfreight.windows import Closing, Current, Opening, Record, text_of, window_id
from airfreight_airflow import failures
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_keeper import OPEN_TASK, PING_TASK, Keeper, Outcome, Served, is_alive
from airfreight_airflow.windows_triggers import ModelTrigger, ServingTrigger, StoppedTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

OPEN, STOP, STOP_NOW = "open", "stop", "stop_now"
ACTIONS = (OPEN, STOP, STOP_NOW)
ASKED_IDLE = timedelta(seconds=30)
"""`airfreight stop` without --now: so long nothing must run."""
LAG = timedelta(seconds=5)
"""How soon a window is asked for again while the one before it is being closed."""
DELIVERY_LAG = timedelta(seconds=15)


class WindowSensor(BaseSensorOperator):
    """Common to all of them: which model, and how an error ends the task.

    Args:
        served: the model, from the catalog.
    """

    def __init__(self, *, served: Served, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.served = served

    def keeper(self, context: Context) -> Keeper:
        """This run, at its model."""
        return Keeper(self.served, context)


class OpenWindowSensor(WindowSensor):
    """Wait until the window is to be opened, take it, and begin its record. Skips the run when there is nothing to do.

    Returns:
        The window: action, window, name, namespace, url, served_name, because, requested, until, expected_s, eta,
        found. `eta` is when it will probably answer, from recorded cold starts; "" when none is known.
    """

    def execute(self, context: Context) -> Any:
        """Open it, or defer until it is time."""
        with ending(context):
            return self._begin(context)

    def go_on(self, context: Context, event: Any = None) -> Any:  # noqa: ARG002  (Airflow's signature)
        """Back from a wait: everything is looked at again."""
        return self.execute(context)

    def _begin(self, context: Context) -> dict[str, Any]:
        if self.served.broken:
            raise RequestError(self.served.broken)
        keeper, now = self.keeper(context), datetime.now(tz=UTC)
        action = str(context["params"].get("action") or OPEN)
        service = self._service(keeper)
        if action != OPEN:
            self._refuse_tried(keeper, action)
            keeper.log.forget(lambda run: is_alive(context, self.served.dag_id, run))
            stop = {"action": action, "because": Closing.ASKED, "asked": text_of(now)}
            return self._left(context, keeper, service, stop)
        because = _because(context)
        if because is Opening.DELIVERY and is_stopped(service):
            raise AirflowSkipException(f"{self.served.name} was left stopped by its delivery; nothing to watch.")
        cold_starts = keeper.log.cold_starts()
        hours = self._hours(context, keeper, because, cold_starts, now)
        by_hours = because is Opening.HOURS
        asked = Current(
            window_id(hours.opens if hours and by_hours else now, because),
            keeper.run_id,
            opens=text_of(hours.opens) if hours else "",
            until=text_of(hours.closes) if hours else "",
            touched="" if by_hours else text_of(now),
        )
        kept = keeper.log.take(asked, lambda run: is_alive(context, self.served.dag_id, run))
        if kept.run != keeper.run_id:
            if kept.closing:
                self._wait_until(now + LAG, f"window {kept.window} is being closed; opening after that")
            raise AirflowSkipException(
                f"{self.served.name} is open already: run {kept.run} keeps window {kept.window}."
            )
        # Asked once the window is ours: the delivery then leaves the model up, which this run would only start again.
        if delivery := keeper.trying():
            self._wait_until(now + DELIVERY_LAG, f"{delivery} is delivering to it; opening after that")
        requested = text_of(now)
        record = keeper.log.begin(
            Record(
                window=kept.window,
                name=self.served.name,
                namespace=keeper.namespace,
                because=because,
                run=keeper.run_id,
                requested=requested,
                found="stopped" if is_stopped(service) else "running",
                closes=kept.until,
            )
        )
        if record.run != keeper.run_id:  # of a run that died: the window goes on under this one
            record = keeper.log.update(record.window, run=keeper.run_id)
        expected_s = expected(cold_starts) if cold_starts and is_stopped(service) else None
        eta = text_of(now + timedelta(seconds=expected_s)) if expected_s is not None else ""
        self.log.info("Window %s of %s: %s, found %s.", record.window, record.name, because, record.found)
        return self._left(
            context,
            keeper,
            service,
            {"action": OPEN, "because": because, "window": record.window, "requested": record.requested,
             "until": kept.until, "expected_s": expected_s, "eta": eta, "found": record.found},
        )  # fmt: skip

    def _service(self, keeper: Keeper) -> KubernetesObject:
        service = keeper.observe().inference_service
        if service is None:
            raise RequestError(
                f"There is no InferenceService {self.served.name} in namespace {keeper.namespace}: deliver the model "
                "first (airfreight deliver)."
            )
        return service

    def _refuse_tried(self, keeper: Keeper, action: str) -> None:
        if action == STOP_NOW and (run := keeper.trying()):
            raise RequestError(
                f"{run} is trying a release on {self.served.name}, and a stop would cut off its gates: wait for its "
                "end, or mark its running task as failed, so that it rolls back, and stop the model then."
            )

    def _hours(
        self, context: Context, keeper: Keeper, because: Opening, cold_starts: list[float], now: datetime
    ) -> Window | None:
        """The window of the hours that this run keeps open, or None where they want nothing; waits until it starts."""
        if because is not Opening.HOURS:
            return current(self.served.hours, now) if self.served.hours else None
        fired = context["dag_run"].run_after
        wanted = due(self.served.hours, self.served.longest, lead(self.served.warmup, cold_starts), now, fired)
        if wanted is None:
            raise AirflowSkipException(f"{self.served.name} is not to be opened now: its window is over.")
        self._refuse_ended(keeper, wanted)
        if wanted.starts > now:
            self._wait_until(wanted.starts, f"opening at {wanted.window.opens:%Y-%m-%d %H:%M:%S} UTC")
        return wanted.window

    def _refuse_ended(self, keeper: Keeper, wanted: Due) -> None:
        record = keeper.log.read(window_id(wanted.window.opens, Opening.HOURS))
        if record is not None and record.is_over:
            raise AirflowSkipException(
                f"Window {record.window} of {self.served.name} was open and has ended ({record.closed_because}); "
                f"airfreight wake {self.served.name} opens another."
            )

    def _left(
        self, context: Context, keeper: Keeper, service: KubernetesObject, result: dict[str, Any]
    ) -> dict[str, Any]:
        """The result; what other tasks take from it by its name is an XCom of its own."""
        url = service_url(self.served.name, keeper.namespace)
        named = {"namespace": keeper.namespace, "url": url, "served_name": served_name_in(service)}
        for key, value in named.items():
            context["ti"].xcom_push(key=key, value=value)
        return {"name": self.served.name, **named, **result}

    def _wait_until(self, time: datetime, why: str) -> None:
        self.log.info("%s: %s; waiting until %s UTC.", self.served.name, why, f"{time:%Y-%m-%d %H:%M:%S}")
        self.defer(trigger=DateTimeTrigger(moment=time), method_name="go_on")


class ServingSensor(WindowSensor):
    """Wait until the model serves, whichever release it carries by then.

    Args:
        ready_timeout: how long that may take, counted from the start of the try.
    Returns:
        `{"ready": RFC 3339 time}`
    """

    def __init__(self, *, ready_timeout: timedelta, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ready_timeout = ready_timeout

    def execute(self, context: Context) -> Any:
        """Defer."""
        keeper = self.keeper(context)
        deadline = time.time() + self.ready_timeout.total_seconds()
        self.defer(trigger=_trigger(ServingTrigger, keeper, deadline), method_name="seen")

    def seen(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """End with the trigger's answer."""
        saw = WindowEvent.from_event(event)
        if saw.kind is not Kind.SERVING:
            failures.end_task(context, failures.of_exit_code(saw.exit_code, saw.sentence))
        return {"ready": text_of(datetime.fromtimestamp(saw.at, tz=UTC))}


class WatchSensor(WindowSensor):
    """Wait until the window is over: idle, its closing, stopped by somebody else, or gone.

    Runs also when the model did not become ready, for somebody has to end the window then too.

    Returns:
        `Outcome.result`: whether to stop, why, and the JSON for the last look.
    """

    def execute(self, context: Context) -> Any:
        """Defer under the terms that hold now."""
        with ending(context):
            opened = _opened(context)
            keeper, now = self.keeper(context), datetime.now(tz=UTC)
            if opened["action"] == STOP_NOW:
                return Outcome(True, Closing.ASKED, "Asked for.", {"because": "asked"}).result()
            if opened["action"] == STOP:
                self._wait_until_idle(keeper)
            kept = keeper.log.current()
            if kept.run != keeper.run_id:
                return Outcome(False, Closing.FAILED, "Another run keeps the window now.").result()
            keeper.log.reopen(keeper.run_id)
            self._watch(context, keeper, terms(kept, self.served.idle_after, now))
        return None

    def seen(self, context: Context, event: dict[str, Any]) -> Any:
        """Judge what the trigger saw; the window ends, or goes on."""
        with ending(context):
            keeper = self.keeper(context)
            found = keeper.judge(WindowEvent.from_event(event))
            if isinstance(found, GoOn):
                self.log.info("%s stays open: %s.", self.served.name, found.reason)
                self._watch(context, keeper, found.terms)
            self.log.info("The window of %s is over (%s). %s", self.served.name, found.because, found.sentence)
            return found.result()

    def asked(self, context: Context, event: dict[str, Any]) -> Any:
        """A stop that was asked for waits for idleness, and for the end of a delivery that tries a release."""
        with ending(context):
            keeper, saw = self.keeper(context), WindowEvent.from_event(event)
            if saw.kind is Kind.IDLE:
                found = keeper.judge_asked(saw, str(_opened(context).get("asked", "")))
                if isinstance(found, GoOn):
                    self.log.info("%s is not stopped yet: %s.", self.served.name, found.reason)
                    self._wait_until_idle(keeper)
            else:
                found = keeper.judge(saw)
            return found.result() if isinstance(found, Outcome) else None

    def _watch(self, context: Context, keeper: Keeper, under: Terms) -> NoReturn:
        answered = context["ti"].xcom_pull(task_ids=PING_TASK) is not None
        self.defer(trigger=keeper.watch(under, answered=answered), method_name="seen")

    def _wait_until_idle(self, keeper: Keeper) -> NoReturn:
        self.defer(trigger=keeper.watch(Terms(None, ASKED_IDLE)), method_name="asked")


class StoppedSensor(WindowSensor):
    """Wait until no pod of the stopped model is left.

    Returns:
        `{"stopped": RFC 3339 time, "sentence": …}`
    """

    def __init__(self, *, down_timeout: timedelta, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.down_timeout = down_timeout

    def execute(self, context: Context) -> Any:
        """Defer."""
        deadline = time.time() + self.down_timeout.total_seconds()
        self.defer(trigger=_trigger(StoppedTrigger, self.keeper(context), deadline), method_name="seen")

    def seen(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """End with the trigger's answer."""
        saw = WindowEvent.from_event(event)
        if saw.kind is not Kind.DOWN:
            failures.end_task(context, failures.of_exit_code(saw.exit_code, saw.sentence))
        return {"stopped": text_of(datetime.fromtimestamp(saw.at, tz=UTC)), "sentence": saw.sentence}


@contextmanager
def ending_but_for_the_store(context: Context) -> Iterator[None]:
    """Likewise; what may heal is left to the caller, who waits for it."""
    try:
        yield
    except TemporaryError:
        raise
    except AirfreightError as error:
        failures.end_task(context, error)


@contextmanager
def ending(context: Context) -> Iterator[None]:
    """End the task with the sentence of our errors."""
    try:
        yield
    except AirfreightError as error:
        failures.end_task(context, error)


def _opened(context: Context) -> dict[str, Any]:
    opened = context["ti"].xcom_pull(task_ids=OPEN_TASK)
    if not opened:
        raise AirflowSkipException("This run opened no window.")
    found: dict[str, Any] = opened
    return found


def _because(context: Context) -> Opening:
    run_type = context["dag_run"].run_type
    kind = str(getattr(run_type, "value", run_type))
    return {"scheduled": Opening.HOURS, "asset_triggered": Opening.DELIVERY}.get(kind, Opening.WAKE)


def _trigger(kind: type[ModelTrigger], keeper: Keeper, deadline: float) -> ModelTrigger:
    return kind(
        name=keeper.served.name,
        namespace=keeper.namespace,
        cluster_conn_id=keeper.site.cluster_conn_id,
        deadline=deadline,
    )
