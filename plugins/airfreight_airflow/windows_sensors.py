"""The waiting tasks of `serve_<name>`: all deferred, none changes the cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSkipException

from airfreight.errors import AirfreightError, TemporaryError
from airfreight.waking import OPEN_TASK, PING_TASK
from airfreight.window_rules import GoOn, Terms
from airfreight.windows import (
    Closing,
    text_of,
)
from airfreight_airflow import failures
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_keeper import Keeper
from airfreight_airflow.windows_runs import STOP, STOP_NOW, Asked, Outcome, Served
from airfreight_airflow.windows_triggers import ModelTrigger, ServingTrigger, StoppedTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

ASKED_IDLE = timedelta(seconds=30)
"""`airfreight stop` without --now: so long nothing must run."""


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
            keeper = self.keeper(context)
            if opened["action"] == STOP_NOW:
                return Outcome(True, Closing.ASKED, "Asked for.", {"because": "asked"}).result()
            if opened["action"] == STOP:
                self._wait_until_idle(keeper)
            found = keeper.go_on()
            if isinstance(found, Outcome):
                return found.result()
            self._watch(context, keeper, found.terms)
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
                try:
                    found = keeper.judge_asked(saw, Asked.of(_opened(context)))
                except TemporaryError as error:  # nothing is stopped before the notes of others could be read
                    found = GoOn(error.message.rstrip("."), Terms(None, ASKED_IDLE))
                if isinstance(found, GoOn):
                    self.log.info("%s is not stopped yet: %s.", self.served.name, found.reason)
                    self._wait_until_idle(keeper)
            else:
                found = keeper.judge(saw, Asked.of(_opened(context)))
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


def _trigger(kind: type[ModelTrigger], keeper: Keeper, deadline: float) -> ModelTrigger:
    return kind(
        name=keeper.served.name,
        namespace=keeper.namespace,
        cluster_conn_id=keeper.site.cluster_conn_id,
        deadline=deadline,
    )
