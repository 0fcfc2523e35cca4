"""Stopping a model at the end of its window, and recording what the window was.

The pod that stops the model takes the last look itself. When it finds work it leaves the model up and says why; the
task then waits for the end of the window again, in the triggerer, and starts another pod.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airfreight.errors import AirfreightError
from airfreight.observation import is_stopped
from airfreight.warmup import expected
from airfreight.window_rules import GoOn, Terms, terms
from airfreight.windows import Closing
from airfreight_airflow import failures
from airfreight_airflow.operators import DEPLOYER, AirfreightPodOperator
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_keeper import OPEN_TASK, PING_TASK, WATCH_TASK, Keeper, Served, failed_tasks
from airfreight_airflow.windows_sensors import ASKED_IDLE, OPEN, ending

if TYPE_CHECKING:
    from airflow.sdk import Context

READY_TASK, STOP_TASK, DOWN_TASK = "wait_until_ready", "stop", "confirm_stopped"


def skip_unless_opening(context: Any) -> None:
    """Return if this run opens a window (a `pre_execute`); a run that stops a model starts nothing first."""
    opened = context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}
    if opened.get("action") != OPEN:
        raise AirflowSkipException("This run stops the model; nothing is started.")


class PingOperator(AirfreightPodOperator):
    """Ask the model one thing. One that was stopped meanwhile cannot answer, and is not asked again and again: whoever
    wakes it is told that a window is open for as long as this task goes on.

    Args:
        served: the model, from the catalog.
    """

    def __init__(self, *, served: Served, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.served = served

    def execute(self, context: Context) -> Any:
        """Run the pod; skip when it failed because the model is gone."""
        try:
            return super().execute(context)
        except AirflowException:
            if self._is_gone(context):
                raise AirflowSkipException(f"{self.served.name} was stopped meanwhile.") from None
            raise

    def _is_gone(self, context: Context) -> bool:
        try:
            service = Keeper(self.served, context).observe().inference_service
        except AirfreightError:
            return False
        return service is None or is_stopped(service)


class StopModelOperator(AirfreightPodOperator):
    """Run `airfreight stop` with the last look; wait and run it again as long as that finds work.

    Args:
        served: the model, from the catalog.
    """

    def __init__(self, *, served: Served, **kwargs: Any) -> None:
        arguments = ["stop", "--name", served.name, "--namespace", "{{ airfreight.namespace(params) }}"]
        super().__init__(role=DEPLOYER, arguments=[*arguments, "--last-look", ""], **kwargs)
        self.served = served

    def execute(self, context: Context) -> Any:
        """Stop the model if the window's end says so; skip otherwise."""
        watched = context["ti"].xcom_pull(task_ids=WATCH_TASK) or {}
        if not watched.get("stop"):
            raise AirflowSkipException(watched.get("sentence") or "There is nothing to stop.")
        with ending(context):
            self._skip_if_lost(context, Keeper(self.served, context))  # cleared by hand, it may come hours later
        return self._stop(context, str(watched["last_look"]), str(watched["because"]))

    def seen(self, context: Context, event: dict[str, Any]) -> Any:
        """Back from waiting once more for the end of the window."""
        with ending(context):
            found = Keeper(self.served, context).judge(WindowEvent.from_event(event))
        if isinstance(found, GoOn):
            return self._watch(context, found.reason)
        result = found.result()
        if not found.stop:
            return {"stopped": False, "busy": "", "stop": "", "because": found.because}
        return self._stop(context, str(result["last_look"]), str(found.because))

    def asked(self, context: Context, event: dict[str, Any]) -> Any:
        """Likewise, for a stop that a person asked for: idleness is all it waits for."""
        saw = WindowEvent.from_event(event)
        if saw.kind is not Kind.IDLE:
            return self.seen(context, event)
        with ending(context):
            keeper = Keeper(self.served, context)
            self._skip_if_lost(context, keeper)
            found = keeper.judge_asked(saw, _asked_at(context))
        if isinstance(found, GoOn):
            return self._watch(context, found.reason)
        result = found.result()
        if not found.stop:
            return {"stopped": False, "busy": "", "stop": "", "because": found.because}
        return self._stop(context, str(result["last_look"]), Closing.ASKED)

    def _stop(self, context: Context, last_look: str, because: str) -> Any:
        # The command's own --result, which the house operator appended, comes after it.
        self.arguments[self.arguments.index("--last-look") + 1] = last_look
        result = super().execute(context)
        if result and result.get("busy"):
            return self._watch(context, str(result["busy"]))
        return {**(result or {}), "because": because}

    def _watch(self, context: Context, reason: str) -> Any:
        self.log.info("%s stays open: %s.", self.served.name, reason)
        with ending(context):
            keeper = Keeper(self.served, context)
            self._skip_if_lost(context, keeper)
            # A run that was only asked to stop keeps no window.
            kept = keeper.log.reopen(keeper.run_id)
            asked = Terms(None, ASKED_IDLE)
            following = terms(kept, self.served.idle_after, datetime.now(tz=UTC)) if kept else asked
            self.defer(trigger=keeper.watch(following), method_name="seen" if kept else "asked")

    def _skip_if_lost(self, context: Context, keeper: Keeper) -> None:
        """End the task if the window it would end is somebody else's by now; who asked for a stop means any window."""
        opened = context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}
        if opened.get("action") == OPEN and not keeper.may_end():
            raise AirflowSkipException(f"Another run keeps a window of {self.served.name} now, which is left open.")


def _asked_at(context: Context) -> str:
    """When the stop was asked for; a run that kept a window was asked when its `stop` was."""
    opened = context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}
    watched = context["ti"].xcom_pull(task_ids=WATCH_TASK) or {}
    return str(opened.get("asked") or watched.get("at") or "")


def record_window(served: Served) -> dict[str, Any]:
    """The `record` task: complete the window's record, let the window go, and fail if a task of the run did.

    Returns:
        `{"window": id, "closed_because": …, "cold_start_s": …, "expected_s": …}`, {} for a run that opened none.
        `expected_s` is what the next cold start will probably take, None when none is recorded.
    """
    context = get_current_context()
    opened = context["ti"].xcom_pull(task_ids=OPEN_TASK)
    failed = failed_tasks(context)
    if not opened and not failed:
        raise AirflowSkipException("This run opened no window.")
    result: dict[str, Any] = {}
    try:
        keeper = Keeper(served, context)
        if opened and opened["action"] == OPEN:
            record = keeper.log.update(str(opened["window"]), **_changes(context, failed))
            # What the next who wakes it is told: `airfreight.waking` reads it here, over Airflow's REST API.
            cold_starts = keeper.log.cold_starts()
            result = {"window": record.window, "closed_because": record.closed_because,
                      "cold_start_s": record.cold_start_s,
                      "expected_s": expected(cold_starts) if cold_starts else None}  # fmt: skip
        keeper.log.let_go(keeper.run_id)  # also of a run that took the window and failed before it said so
    except AirfreightError as error:
        failures.end_task(context, error)
    if failed:
        raise AirflowFailException(_sentence(context, failed))
    return result


def _changes(context: Any, failed: list[str]) -> dict[str, Any]:
    """What the tasks of the run know of its window."""
    tasks = (WATCH_TASK, READY_TASK, PING_TASK, STOP_TASK, DOWN_TASK)
    watched, ready, ping, stop, down = (context["ti"].xcom_pull(task_ids=task) or {} for task in tasks)
    by_others = watched.get("because") in (Closing.BY_HAND, Closing.ASKED, Closing.GONE) and not watched.get("stop")
    ended = str(watched.get("at", "")) if by_others else ""
    because = str(stop.get("because") or watched.get("because") or Closing.FAILED)
    if failed and not (stop.get("stop") or ended):
        because = Closing.FAILED
    sentence = _sentence(context, failed) if failed else str(watched.get("sentence", ""))
    return {
        "ready": str(ready.get("ready", "")),
        "first_token": str(ping.get("first_token", "")),
        "stop": str(stop.get("stop", "")) or ended,
        "stopped": str(down.get("stopped", "")) or ended,
        "closed_because": because,
        "sentence": sentence,
    }


def _sentence(context: Any, failed: list[str]) -> str:
    left = context["ti"].xcom_pull(task_ids=failed[0], key=failures.FAILURE_KEY) or {}
    return f"{failed[0]} failed: {left.get('message') or 'look at its log'}"
