"""The run that keeps a window: what it knows of its model, and whether the window ends now.

A trigger says what it saw; here, in a worker with the store's connection, the notes of other runs and the release
ledger are read, and `airfreight.window_rules` decides.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airfreight.catalog import CatalogModel
from airfreight.durations import parse_duration, words
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.hours import Hours
from airfreight.observation import Observation
from airfreight.warmup import longest
from airfreight.window_rules import GIVE_UP, GoOn, Stop, Terms, end, terms
from airfreight.windows import Closing, Current, text_of
from airfreight_airflow.requests import namespace_of, service_name_of
from airfreight_airflow.settings import read_settings
from airfreight_airflow.triggers import Release
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_looks import read
from airfreight_airflow.windows_store import release_ledger, through, window_log
from airfreight_airflow.windows_triggers import WatchTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

OPEN_TASK, PING_TASK, WATCH_TASK = "open_window", "ping", "wait_until_idle_or_closing"
STORE_RETRY = timedelta(seconds=60)
_BECAUSE = {Kind.IDLE: Closing.IDLE, Kind.CLOSING: Closing.CLOSING, Kind.NEVER_READY: Closing.NEVER_READY}
_ALIVE, _ENDED = ("queued", "running"), ("success", "failed")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What a DAG `serve_<name>` knows of its model, from the catalog.

    Args:
        name: of the InferenceService.
        broken: what is wrong with its entry; then no window is opened, and one that is open still ends.
    """

    name: str
    hours: tuple[Hours, ...] = ()
    idle_after: timedelta | None = None
    warmup: str = "measured"
    broken: str = ""

    @classmethod
    def of(cls, model: CatalogModel) -> Served:
        """From its entry."""
        idle_after = parse_duration(model.idle_after) if model.idle_after else None
        return cls(model.name, model.hours, idle_after, model.warmup)

    @property
    def dag_id(self) -> str:
        """Of its DAG."""
        return f"serve_{self.name}"

    @property
    def longest(self) -> timedelta:
        """How long before an opening its schedule fires."""
        return longest(self.warmup)


@dataclass(frozen=True)
class Outcome:
    """How a window ends.

    Args:
        stop: whether the model is to be stopped now.
        because: a `Closing`.
        sentence: for a person.
        last_look: JSON for `airfreight stop --last-look`.
        ended: the model is stopped, or gone, already.
    """

    stop: bool
    because: str
    sentence: str = ""
    last_look: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    def result(self) -> dict[str, Any]:
        """As the task's XCom."""
        return {**asdict(self), "last_look": json.dumps(self.last_look), "at": text_of(datetime.now(tz=UTC))}


class Keeper:
    """One run at one model.

    Args:
        context: Airflow's, of a task of this run; what the run keeps is kept under its id.
    """

    def __init__(self, served: Served, context: Context) -> None:
        self.served = served
        self.run_id = str(context["run_id"])
        self.is_over: Callable[[str], bool] = lambda run: is_over(context, run)
        self.site = read_settings()
        self.namespace = self.site.target_namespace
        self.log = window_log(self.site, self.namespace, served.name)

    def observe(self) -> Observation:
        """Read what there is of the model now.

        Raises:
            RequestError: the connection is missing, or may not read.
            TemporaryError: the cluster does not answer.
        """
        conn_id = self.site.cluster_conn_id
        try:
            extras = BaseHook.get_connection(conn_id).extra_dejson
        except AirflowNotFoundException:
            raise RequestError(f"There is no connection {conn_id}: define it, of type kubernetes.") from None
        hook = AsyncKubernetesHook(conn_id=conn_id, connection_extras=extras)
        return asyncio.run(read(hook, Release(self.served.name, self.namespace, "")))

    def trying(self) -> str | None:
        """Return the run that is trying a release on the model now, or None: nothing opens or ends before it has ended.

        One that only checks and has nodes pull images has not touched the model yet, and may take an hour for it. One
        that failed so badly that it could not let the model go holds it for hours, and delivers nothing, unless
        somebody undoes it by hand (`airfreight roll-back --run`).
        """
        with through(self.site):
            lock = release_ledger(self.site, self.namespace, self.served.name).held()
        if lock is None or lock.candidate is None or (self.is_over(lock.run) and not lock.undoing):
            return None
        return lock.run

    def watch(self, under: Terms, *, answered: bool = True) -> WatchTrigger:
        """Return the trigger that waits for the end of a window under these terms.

        Args:
            answered: the model has answered in this window; one that has not is given up when it does not become ready.
        """
        idle_after_s = under.idle_after.total_seconds() if under.idle_after else None
        log.info("%s is open %s.", self.served.name, _terms_words(under))
        return WatchTrigger(
            name=self.served.name,
            namespace=self.namespace,
            cluster_conn_id=self.site.cluster_conn_id,
            closes=_unix(under.closes),
            idle_after_s=idle_after_s,
            idle_not_before=_unix(under.not_before),
            again_at=_unix(under.again),
            give_up_s=None if answered else GIVE_UP.total_seconds(),
            **poll_of(idle_after_s),
        )

    def judge(self, event: WindowEvent) -> Outcome | GoOn:
        """Say what an event means for the window.

        Raises:
            TemporaryError: the trigger was lost.
        """
        match event.kind:
            case Kind.STOPPED:
                self._ends()
                because = Closing.ASKED if event.ours else Closing.BY_HAND
                return Outcome(False, because, event.sentence, ended=True)
            case Kind.GONE:
                self._ends()
                return Outcome(False, Closing.GONE, event.sentence, ended=True)
            case Kind.IDLE | Kind.CLOSING | Kind.NEVER_READY:
                return self._judge_end(event)
            case Kind.AGAIN:
                return self._ask_again()
        raise TemporaryError(event.sentence or "The wait ended without a reason.")

    def judge_asked(self, event: WindowEvent, asked: str) -> Outcome | GoOn:
        """Say what idleness means for a stop that a person asked for, who does not know what happened since.

        Args:
            asked: when (RFC 3339).
        """
        if overruled := self._overruled(self.log.current(), asked):
            return overruled
        if run := self.trying():
            return GoOn(f"{run} is delivering to it", Terms(None, None))
        return Outcome(True, Closing.ASKED, event.sentence, _ask_of(event))

    def hold(self, window: str, *, own: bool, asked: str) -> str | Outcome | GoOn:
        """Say in the note that the window is being closed, before the pod that stops the model is started.

        From then on who wakes the model waits for the end of it, and so does a delivery that wants to try a release.
        One that did so before is seen here.

        Args:
            window: of this run, which may have let it go: its `stop` failed, and was cleared by hand hours later.
            own: this run opened a window, and may close no other; who was asked to stop the model closes any.
            asked: when a person asked for the stop (RFC 3339); "": a wake since then does not count.
        Returns:
            The run that keeps the note; or why the model is left up; or what is waited for first.
        Raises:
            TemporaryError: the store does not answer.
        """
        kept = self.log.current()
        if not kept.run:
            kept = self.log.take(Current(window or "stop", self.run_id, closing=True), bool)
        if own and kept.run != self.run_id:
            return Outcome(False, Closing.FAILED, f"Another run keeps a window of {self.served.name} now.")
        if own and not kept.closing:
            # It was, when it was judged. Who woke the model since was told that its window is open.
            return GoOn("its window was opened again", Terms(None, None))
        if overruled := self._overruled(kept, asked):
            return overruled
        if self.log.close(kept.run, kept) is None:
            return self.hold(window, own=own, asked=asked)  # somebody left a note since
        try:
            run = self.trying()
        except AirfreightError:
            with suppress(AirfreightError):
                self.give_back(kept.run, own=own)
            raise
        if run:
            self.give_back(kept.run, own=own)
            return GoOn(f"{run} is delivering to it", Terms(None, None))
        return kept.run

    def _overruled(self, kept: Current, asked: str) -> Outcome | None:
        """Whether a stop that a person asked for came before a wake, which wins."""
        if asked and kept.touched > asked:
            return Outcome(False, Closing.ASKED, f"Somebody woke {self.served.name} after this stop was asked for.")
        return None

    def give_back(self, run: str, *, own: bool) -> Current | None:
        """Take back what `hold` noted, for the model is not stopped after all; returns the window that is open then.

        Args:
            run: that keeps the note.
            own: as for `hold`; a run that was only asked to stop the model keeps no window of its own.
        """
        if run == self.run_id and not own:
            self.log.let_go(run)
            return None
        return self.log.reopen(run)

    def _ends(self) -> None:
        """Say that this window is over: who wakes the model from now on waits for another one."""
        try:
            self.log.close(self.run_id, self.log.current())
        except TemporaryError as error:  # then who wakes it is told that it is open, for some seconds
            log.info("The store cannot be told that the window is over (%s).", error.message)

    def _judge_end(self, event: WindowEvent) -> Outcome | GoOn:
        now, because = datetime.now(tz=UTC), _BECAUSE[event.kind]
        try:
            kept = self.log.current()
            if kept.run != self.run_id:
                return _lost_to(kept.run)
            found = end(because, kept, self.served.idle_after, now, self.trying())
            if isinstance(found, Stop) and self.log.close(self.run_id, kept) is None:
                return self._judge_end(event)
            if isinstance(found, Stop) and (late := self.trying()):
                # It came between the two, and may have found the model running: one of us two sees the other.
                self.log.reopen(self.run_id)
                found = end(because, kept, self.served.idle_after, now, late)
        except TemporaryError as error:
            # Without the notes of others nothing is stopped; the store comes back. An idle model may be asked something
            # until then, so idleness is judged anew; hours that are over stay over.
            later = now + STORE_RETRY
            under = Terms(later, None) if because is Closing.CLOSING else Terms(None, None, again=later)
            return GoOn(f"the store cannot be asked ({error.message})", under)
        if isinstance(found, GoOn):
            if kept.closing:  # noted by this run's last judgement, or by a stop that came to nothing
                self._goes_on()
            return found
        return Outcome(True, because, event.sentence, _ask_of(event))

    def _goes_on(self) -> None:
        try:
            self.log.reopen(self.run_id)
        except TemporaryError as error:  # the next judgement does it
            log.info("The store cannot be told that the window goes on (%s).", error.message)

    def _ask_again(self) -> Outcome | GoOn:
        now = datetime.now(tz=UTC)
        try:
            kept = self.log.current()
        except TemporaryError as error:
            again = Terms(None, None, again=now + STORE_RETRY)
            return GoOn(f"the store cannot be asked ({error.message})", again)
        if kept.run != self.run_id:
            return _lost_to(kept.run)
        if kept.closing:  # it was, when the store went away
            self.log.reopen(self.run_id)
        return GoOn("the store answers again", terms(kept, self.served.idle_after, now))


def forget_dead_window(context: Any) -> None:
    """Let go what a run of `serve_<name>` keeps that is gone (a `pre_execute` of `deploy`).

    A delivery leaves a stopped model up when a window was opened for it, and whether the run that says so goes on only
    Airflow knows. What cannot be asked is left as it is.
    """
    try:
        params = context["params"]
        name, site = service_name_of(params), read_settings()
        kept = window_log(site, namespace_of(params, site.target_namespace), name)
        if kept.forget(lambda run: is_alive(context, f"serve_{name}", run)):
            log.info("The run that kept a window of %s is gone; no window is open.", name)
    except AirfreightError as error:
        log.info("Whether a window of this model is open is not known (%s).", error.message)


def is_alive(context: Context, dag_id: str, run_id: str) -> bool:
    """Whether a run of a DAG still goes on; one that was deleted does not."""
    ti: Any = context["ti"]
    return bool(ti.get_dr_count(dag_id=dag_id, run_ids=[run_id], states=list(_ALIVE)))


def is_over(context: Context, holder: str) -> bool:
    """Whether a run that the release ledger names, as `dag/run`, is one of this Airflow and has ended.

    One that this Airflow does not know may be another's, or a person's, and may go on.
    """
    dag_id, _, run_id = holder.partition("/")
    ti: Any = context["ti"]
    return bool(run_id and ti.get_dr_count(dag_id=dag_id, run_ids=[run_id], states=list(_ENDED)))


def failed_tasks(context: Context) -> list[str]:
    """The tasks of this run that failed, by name."""
    ti: Any = context["ti"]
    run_id = context["run_id"]
    states = ti.get_task_states(dag_id=context["dag"].dag_id, run_ids=[run_id])
    return sorted(task for task, state in states.get(run_id, {}).items() if str(state) == "failed")


def poll_of(idle_after_s: float | None) -> dict[str, float]:
    """How often a window is looked at: ten times in its idle time, every 2 to 10 s."""
    return {"poll_s": 10.0 if idle_after_s is None else max(2.0, min(10.0, idle_after_s / 10))}


def _ask_of(event: WindowEvent) -> dict[str, Any]:
    """What the pod that stops the model is to look for first."""
    if event.kind is Kind.IDLE:
        return {"because": "idle", "evidence": event.evidence}
    # Nobody could reach a model that never was ready, so there is nothing to wait for.
    return {"because": "closing", **({"drain_s": 0} if event.kind is Kind.NEVER_READY else {})}


def _lost_to(run: str) -> Outcome:
    return Outcome(False, Closing.FAILED, f"Another run ({run or 'none'}) keeps the window now.")


def _unix(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _terms_words(under: Terms) -> str:
    parts = [f"until {under.closes:%Y-%m-%d %H:%M:%S} UTC"] if under.closes else []
    since = f", at the earliest at {under.not_before:%H:%M:%S} UTC" if under.not_before else ""
    parts += [f"until it is idle for {words(under.idle_after.total_seconds())}{since}"] if under.idle_after else []
    return " or ".join(parts) or "until the store can be asked"
