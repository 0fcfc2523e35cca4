"""The run that keeps a window: what it knows of its model, and whether the window ends now.

A trigger says what it saw; here, in a worker with the store's connection, the notes of other runs and the release
ledger are read, and `airfreight.window_rules` decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airfreight.durations import words
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.hours import Window
from airfreight.observation import Observation, is_stopped
from airfreight.waking import OPEN_TASK
from airfreight.window_rules import GIVE_UP, GoOn, Stop, Terms, end, longer, terms, until_others
from airfreight.windows import Closing, Current, text_of
from airfreight_airflow.looks import Release, read
from airfreight_airflow.requests import namespace_of, service_name_of
from airfreight_airflow.settings import read_settings
from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_runs import (
    NOBODYS,
    OPEN,
    Asked,
    Outcome,
    Served,
    is_alive,
    is_over,
    starts_again,
)
from airfreight_airflow.windows_store import release_ledger, through, window_log
from airfreight_airflow.windows_triggers import WatchTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

STORE_RETRY = timedelta(seconds=60)
_BECAUSE = {Kind.IDLE: Closing.IDLE, Kind.CLOSING: Closing.CLOSING, Kind.NEVER_READY: Closing.NEVER_READY}

log = logging.getLogger(__name__)


class Keeper:
    """One run at one model.

    Args:
        context: Airflow's, of a task of this run; what the run keeps is kept under its id.
    """

    def __init__(self, served: Served, context: Context) -> None:
        self.served = served
        self.run_id = str(context["run_id"])
        self.is_over: Callable[[str], bool] = lambda run: is_over(context, run)
        self.is_alive: Callable[[str], bool] = lambda run: is_alive(context, served.dag_id, run)
        self._starts_again: Callable[[str], bool] = lambda run: starts_again(context, served.dag_id, run)
        self._left: Callable[[], dict[str, Any]] = lambda: context["ti"].xcom_pull(task_ids=OPEN_TASK) or {}
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

    def terms(self, kept: Current) -> Terms:
        """Return the terms of a window of this run as things stand."""
        now = datetime.now(tz=UTC)
        return until_others(terms(kept, self.served.idle_after, now), self.served.hours, now)

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

    def judge(self, event: WindowEvent, asked: Asked | None = None) -> Outcome | GoOn:
        """Say what an event means for the window.

        Args:
            asked: the stop that this run is, which keeps no window.
        Raises:
            TemporaryError: the trigger was lost.
        """
        match event.kind:
            case Kind.STOPPED:
                self._ends(asked)
                because = Closing.ASKED if event.ours else Closing.BY_HAND
                return Outcome(False, because, event.sentence, ended=True)
            case Kind.GONE:
                self._ends()
                return Outcome(False, Closing.GONE, event.sentence, ended=True)
            case Kind.IDLE | Kind.CLOSING | Kind.NEVER_READY:
                return self._judge_end(event)
            case Kind.AGAIN:
                return self.go_on(again=True)
        raise TemporaryError(event.sentence or "The wait ended without a reason.")

    def judge_asked(self, event: WindowEvent, asked: Asked) -> Outcome | GoOn:
        """Say what idleness means for a stop that a person asked for.

        Raises:
            TemporaryError: the store does not answer.
        """
        if sentence := asked.overruled(self.log.current(), self.served.name):
            return Outcome(False, Closing.ASKED, sentence)
        if run := self.trying():
            return GoOn(f"{run} is delivering to it", Terms(None, None))
        return Outcome(True, Closing.ASKED, event.sentence, _ask_of(event))

    def why_not_start(self) -> str:
        """Say why a start that is tried again, or was cleared, starts nothing; "" when it does. Takes the window again.

        Raises:
            TemporaryError: the store does not answer.
        """
        self.log.forget(self.is_alive)  # a run that is gone keeps no window from one that is cleared
        kept = self._kept(datetime.now(tz=UTC))
        if kept.run != self.run_id:
            return f"Another run ({kept.run}) keeps a window of {self.served.name} now; nothing is started."
        # Also one that has ended: the model was stopped already, so it had nothing to wait for.
        if by := [one for one in kept.closers if one != self.run_id]:
            return f"Run {by[0]} was asked to stop {self.served.name} since; nothing is started."
        return ""

    def go_on(self, *, again: bool = False) -> Outcome | GoOn:
        """Say under which terms the window of this run goes on; where another run keeps one by now, it does not.

        Args:
            again: it has gone on for a while, and its hours may have opened since; their run may come late to say so.
        """
        now = datetime.now(tz=UTC)
        try:
            kept = self._kept(now)
            if kept.run != self.run_id:
                return _lost_to(kept.run)
            if self._was_stopped_by(kept):
                # The note stays as it is until `record` lets it go: whoever wakes the model waits for that.
                return Outcome(False, Closing.ASKED, f"{self.served.name} was stopped while it started.", ended=True)
            # It may be noted as being closed: the store went away then, or a task was cleared.
            kept = self._reopen(self.run_id) or kept
            if again and (wanted := longer(kept, self.served.hours, now)):
                kept = self._extend(kept, wanted) or kept
        except TemporaryError as error:
            later = Terms(None, None, again=now + STORE_RETRY)
            return GoOn(f"the store cannot be asked ({error.message})", later)
        return GoOn("its window is open", self.terms(kept))

    def hold(self, window: str, *, own: bool, asked: Asked) -> str | Outcome | GoOn:
        """Say in the note that the window is being closed, before the pod that stops the model is started.

        From then on who wakes the model waits for the end of it, and so does a delivery that wants to try a release.
        One that did so before is seen here.

        Args:
            window: of this run, which may have let it go: its `stop` failed, and was cleared by hand hours later.
            own: this run opened a window, and may close no other; who was asked to stop the model closes any.
            asked: by a person, who may be overruled.
        Returns:
            The run that keeps the note; or why the model is left up; or what is waited for first.
        Raises:
            TemporaryError: the store does not answer.
        """
        kept = self.log.current()
        if not kept.run:
            kept = self.log.take(Current(window or NOBODYS, self.run_id, closing=True, closers=(self.run_id,)), bool)
        if own and kept.run != self.run_id:
            return Outcome(False, Closing.FAILED, f"Another run keeps a window of {self.served.name} now.")
        if own and self.run_id not in kept.closers:
            # It was, when it was judged. Who woke the model since was told that its window is open.
            return GoOn("its window was opened again", Terms(None, None))
        if own and kept.until and (wanted := longer(kept, self.served.hours, datetime.now(tz=UTC))):
            # They have opened again since it was judged: Airflow was away, or its DAG paused.
            if self._extend(kept, wanted) is None:
                return self.hold(window, own=own, asked=asked)
            return GoOn("its hours want it open", Terms(None, None))
        if sentence := asked.overruled(kept, self.served.name):
            return Outcome(False, Closing.ASKED, sentence)
        if self.log.close(kept.run, kept, self.run_id) is None:
            return self.hold(window, own=own, asked=asked)  # somebody left a note since
        try:
            run = self.trying()
        except AirfreightError:
            with suppress(AirfreightError):
                self.give_back(kept.run)
            raise
        if run:
            self.give_back(kept.run)
            return GoOn(f"{run} is delivering to it", Terms(None, None))
        return kept.run

    def give_back(self, run: str) -> Current | None:
        """Take back what `hold` noted, for the model is not stopped after all; returns the window that is kept then.

        Args:
            run: that keeps the note.
        """
        kept = self._reopen(run)
        if kept is not None and kept.window == NOBODYS and not kept.closing:
            self.log.let_go(run)
            return None
        return kept

    def _was_stopped_by(self, kept: Current) -> bool:
        """Whether a stop that another run was asked for has closed this window, and the model is down.

        Raises:
            TemporaryError: the cluster does not answer.
        """
        if all(one == self.run_id for one in kept.closers):
            return False
        with suppress(RequestError):  # what may not be read is found out by the watch
            service = self.observe().inference_service
            return service is not None and is_stopped(service)
        return False

    def _reopen(self, run: str) -> Current | None:
        return self.log.reopen(run, self.run_id, self.is_alive)

    def _extend(self, kept: Current, wanted: Window) -> Current | None:
        return self.log.extend(self.run_id, kept, text_of(wanted.opens), text_of(wanted.closes))

    def _kept(self, now: datetime) -> Current:
        """What is noted now. A window of this run that nobody keeps is taken back: it was let go when a task failed
        that somebody cleared since, and the model may be up again. A closing that is over then says nothing of it.
        """
        kept = self.log.current()
        left = {} if kept.run else self._left()
        if left.get("action") != OPEN:
            return kept
        own = Current(str(left["window"]), self.run_id)
        opens, until = str(left.get("opens") or ""), str(left.get("until") or "")
        return self.log.take(replace(own, opens=opens, until=until) if until > text_of(now) else own, bool)

    def _ends(self, asked: Asked | None = None) -> None:
        """Say that this window is over: who wakes the model from now on waits for another one.

        A stop that finds the model stopped says so to the run that would start it again minutes later.
        """
        try:
            kept = self.log.current()
            if asked is None or kept.run in ("", self.run_id):
                self.log.close(self.run_id, kept)
            elif not asked.overruled(kept, self.served.name) and self._starts_again(kept.run):
                self.log.close(kept.run, kept, self.run_id)
        except TemporaryError as error:  # then who wakes it is told that it is open, for some seconds
            log.info("The store cannot be told that the window is over (%s).", error.message)

    def _judge_end(self, event: WindowEvent) -> Outcome | GoOn:
        now, because = datetime.now(tz=UTC), _BECAUSE[event.kind]
        try:
            kept = self._kept(now)
            if kept.run != self.run_id:
                return _lost_to(kept.run)
            if because is not Closing.NEVER_READY and (wanted := longer(kept, self.served.hours, now)):
                # The hours as they are now count, not as they were when the window was noted.
                extended = self._extend(kept, wanted)
                if extended is None:
                    return self._judge_end(event)  # somebody left a note since
                kept = extended
            found = end(because, kept, self.served.idle_after, now, self.trying())
            if isinstance(found, Stop) and self.log.close(self.run_id, kept) is None:
                return self._judge_end(event)
            if isinstance(found, Stop) and (late := self.trying()):
                # It came between the two, and may have found the model running: one of us two sees the other.
                self._reopen(self.run_id)
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
            return replace(found, terms=until_others(found.terms, self.served.hours, now))
        return Outcome(True, because, event.sentence, _ask_of(event))

    def _goes_on(self) -> None:
        try:
            self._reopen(self.run_id)
        except TemporaryError as error:  # the next judgement does it
            log.info("The store cannot be told that the window goes on (%s).", error.message)


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
