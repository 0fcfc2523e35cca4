"""Stopping a model at the end of its window, and recording what the window was.

The pod that stops the model takes the last look itself. When it finds work it leaves the model up and says why; the
task then waits for the end of the window again, in the triggerer, and starts another pod.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.observation import is_stopped
from airfreight.waking import OPEN_TASK, PING_TASK, WATCH_TASK
from airfreight.warmup import expected
from airfreight.window_rules import GoOn, Terms
from airfreight.windows import Closing, Current
from airfreight_airflow import failures
from airfreight_airflow.operators import DEPLOYER, AirfreightPodOperator
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_keeper import STORE_RETRY, Keeper
from airfreight_airflow.windows_runs import OPEN, STOP, STOP_NOW, Asked, Outcome, Served, failed_tasks
from airfreight_airflow.windows_sensors import ASKED_IDLE, ending, ending_but_for_the_store

if TYPE_CHECKING:
    from airflow.sdk import Context

READY_TASK, STOP_TASK, DOWN_TASK = "wait_until_ready", "stop", "confirm_stopped"


class ResumeOperator(AirfreightPodOperator):
    """Take the stop away, where this run opened a window and keeps it: a run that stops a model starts nothing first.

    Tried again, or cleared by a person, it looks whether that is still so: somebody may have asked for a stop since.
    Who asks for one from now on, or delivers, sees that a window is open.

    Args:
        served: the model, from the catalog.
    """

    def __init__(self, *, served: Served, **kwargs: Any) -> None:
        arguments = ["resume", "--name", served.name, "--namespace", "{{ airfreight.namespace(params) }}"]
        super().__init__(role=DEPLOYER, arguments=arguments, **kwargs)
        self.served = served

    def execute(self, context: Context) -> Any:
        """Run the pod; skip where nothing is to be started."""
        if not _keeps_a_window(context):
            raise AirflowSkipException("This run stops the model; nothing is started.")
        if context["ti"].try_number > 1:
            with ending(context):
                why_not = Keeper(self.served, context).why_not_start()
            if why_not:
                raise AirflowSkipException(why_not)
        return super().execute(context)


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
        return self._stop(context, str(watched["last_look"]), str(watched["because"]))

    def seen(self, context: Context, event: dict[str, Any]) -> Any:
        """Back from waiting once more for the end of the window."""
        with ending(context):
            found = Keeper(self.served, context).judge(WindowEvent.from_event(event))
        return self._found(context, found)

    def asked(self, context: Context, event: dict[str, Any]) -> Any:
        """Likewise, for a stop that a person asked for: idleness is all it waits for."""
        saw = WindowEvent.from_event(event)
        if saw.kind is Kind.AGAIN:  # the store did not answer: what was to be done is done now
            return self.execute(context)
        with ending(context):
            keeper = Keeper(self.served, context)
            judge = keeper.judge_asked if saw.kind is Kind.IDLE else keeper.judge
            found = judge(saw, _asked(context))
        return self._found(context, found)

    def _found(self, context: Context, found: Outcome | GoOn) -> Any:
        if isinstance(found, GoOn):
            under = found.terms if _keeps_a_window(context) else Terms(None, ASKED_IDLE)
            self._wait(context, found.reason, under)
        if found.stop:
            return self._stop(context, str(found.result()["last_look"]), str(found.because))
        if found.ended:
            return {"stopped": False, "busy": "", "stop": "", "because": found.because}
        raise AirflowSkipException(found.sentence)  # it stays up, so nothing is to be confirmed

    def _stop(self, context: Context, last_look: str, because: str) -> Any:
        try:
            with ending_but_for_the_store(context):
                hold = Keeper(self.served, context).hold(
                    str((context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}).get("window") or ""),
                    own=_keeps_a_window(context),
                    asked=_asked(context),
                )
        except TemporaryError as error:
            again = Terms(None, None, again=datetime.now(tz=UTC) + STORE_RETRY)
            self._wait(context, f"the store cannot be asked ({error.message})", again)
        if isinstance(hold, Outcome):
            raise AirflowSkipException(hold.sentence)
        if isinstance(hold, GoOn):
            self._watch(context, hold.reason)
        # The command's own --result, which the house operator appended, comes after it.
        self.arguments[self.arguments.index("--last-look") + 1] = last_look
        try:
            result = super().execute(context)
        except AirflowException:
            if hold != str(context["run_id"]):  # of our own window `record` takes care
                self._reopen(context, hold)
            raise
        if result and result.get("busy"):
            self._watch(context, str(result["busy"]), hold)
        return {**(result or {}), "because": because}

    def _watch(self, context: Context, reason: str, hold: str = "") -> NoReturn:
        """Wait for the end of the window again, after it was to be stopped and was not."""
        kept = self._reopen(context, hold or str(context["run_id"]))
        ours = kept if _keeps_a_window(context) else None
        under = Keeper(self.served, context).terms(ours) if ours else Terms(None, ASKED_IDLE)
        self._wait(context, reason, under)

    def _wait(self, context: Context, reason: str, under: Terms) -> NoReturn:
        self.log.info("%s stays open: %s.", self.served.name, reason)
        with ending(context):
            answered = not _keeps_a_window(context) or context["ti"].xcom_pull(task_ids=PING_TASK) is not None
            trigger = Keeper(self.served, context).watch(under, answered=answered)
        self.defer(trigger=trigger, method_name="seen" if _keeps_a_window(context) else "asked")

    def _reopen(self, context: Context, run: str) -> Current | None:
        with ending(context):
            return Keeper(self.served, context).give_back(run)


def _keeps_a_window(context: Context) -> bool:
    """Whether this run opened a window; one that was only asked to stop keeps none."""
    opened = context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}
    return bool(opened.get("action") == OPEN)


def _asked(context: Context) -> Asked:
    """The stop that a person asked for; one that nothing overrules when nobody did, or wants it now.

    One at once that failed is tried again minutes later, and knows no more than the other what happened since.
    """
    opened = context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}
    waited = opened.get("action") == STOP or (opened.get("action") == STOP_NOW and context["ti"].try_number > 1)
    return Asked.of(opened) if waited else Asked()


def record_window(served: Served) -> dict[str, Any]:
    """The `record` task: complete the window's record, let the window go, and fail if a task of the run did.

    Also when `open_window` found that somebody else took away the stop of the window before: it is to be known.

    Returns:
        `{"window": id, "closed_because": …, "cold_start_s": …, "expected_s": …}`, {} for a run that opened none.
        `expected_s` is what the next cold start will probably take, None when none is recorded.
    """
    context = get_current_context()
    opened = context["ti"].xcom_pull(task_ids=OPEN_TASK)
    failed = failed_tasks(context)
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
        keeper.log.let_go(keeper.run_id)  # also of a run that took the window and ended before it said so
    except AirfreightError as error:
        failures.end_task(context, error)
    if failed:
        raise AirflowFailException(_sentence(context, failed))
    if opened and opened.get("fight"):
        failures.end_task(context, RequestError(str(opened["fight"])))
    if not opened:
        raise AirflowSkipException("This run opened no window.")
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
    fight = str((context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}).get("fight") or "")
    sentence = _sentence(context, failed) if failed else fight or str(watched.get("sentence", ""))
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
