"""The run that keeps a window: what it knows of its model, and whether the window ends now.

A trigger says what it saw; here, in a worker with the store's connection, the notes of other runs and the release
ledger are read, and `airfreight.window_rules` decides.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airfreight.catalog import CatalogModel
from airfreight.durations import parse_duration, words
from airfreight.errors import RequestError, TemporaryError
from airfreight.hours import Hours
from airfreight.observation import Observation
from airfreight.warmup import longest
from airfreight.window_rules import GoOn, Stop, Terms, end
from airfreight.windows import Closing, text_of
from airfreight_airflow.settings import Settings, read_settings
from airfreight_airflow.triggers import Release
from airfreight_airflow.windows_looks import read
from airfreight_airflow.windows_store import release_ledger, through, window_log
from airfreight_airflow.windows_triggers import Kind, WatchTrigger, WindowEvent

if TYPE_CHECKING:
    from airflow.sdk import Context

OPEN_TASK, PING_TASK, WATCH_TASK = "open_window", "ping", "wait_until_idle_or_closing"
STORE_RETRY = timedelta(seconds=60)
_ALIVE = ("queued", "running", "restarting")

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
    """

    stop: bool
    because: str
    sentence: str = ""
    last_look: dict[str, Any] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        """As the task's XCom."""
        return {**asdict(self), "last_look": json.dumps(self.last_look), "at": text_of(datetime.now(tz=UTC))}


class Keeper:
    """One run at one model.

    Args:
        run_id: of this run; what it keeps is kept under this name.
    """

    def __init__(self, served: Served, run_id: str, site: Settings | None = None) -> None:
        self.served = served
        self.run_id = run_id
        self.site = site or read_settings()
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

    def delivery(self) -> str | None:
        """Return the run that is delivering to the model now, or None."""
        with through(self.site):
            return release_ledger(self.site, self.namespace, self.served.name).holder()

    def watch(self, terms: Terms, give_up_at: float | None = None) -> WatchTrigger:
        """Return the trigger that waits for the end of a window under these terms."""
        closes = terms.closes.timestamp() if terms.closes else None
        idle_after_s = terms.idle_after.total_seconds() if terms.idle_after else None
        log.info("%s is open %s.", self.served.name, _terms_words(terms))
        return WatchTrigger(
            name=self.served.name,
            namespace=self.namespace,
            cluster_conn_id=self.site.cluster_conn_id,
            closes=closes,
            idle_after_s=idle_after_s,
            give_up_at=give_up_at,
            **poll_of(idle_after_s),
        )

    def judge(self, event: WindowEvent) -> Outcome | GoOn:
        """Say what an event means for the window.

        Raises:
            TemporaryError: the trigger was lost.
        """
        match event.kind:
            case Kind.STOPPED:
                return Outcome(False, Closing.ASKED if event.ours else Closing.BY_HAND, event.sentence)
            case Kind.GONE:
                return Outcome(False, Closing.GONE, event.sentence)
            case Kind.NEVER_READY:
                return Outcome(True, Closing.NEVER_READY, event.sentence, {"because": "closing", "drain_s": 0})
            case Kind.IDLE | Kind.CLOSING:
                return self._judge_end(event)
        raise TemporaryError(event.sentence or "The wait ended without a reason.")

    def _judge_end(self, event: WindowEvent) -> Outcome | GoOn:
        now = datetime.now(tz=UTC)
        because = Closing.IDLE if event.kind is Kind.IDLE else Closing.CLOSING
        try:
            kept = self.log.current()
            if kept.run != self.run_id:
                return Outcome(False, Closing.FAILED, f"Another run ({kept.run or 'none'}) keeps the window now.")
            found = end(because, kept, self.served.idle_after, now, self.delivery())
            if isinstance(found, Stop) and self.log.close(self.run_id, kept) is None:
                return self._judge_end(event)
        except TemporaryError as error:
            # Without the notes of others nothing is stopped; the store comes back.
            return GoOn(f"the store cannot be asked ({error.message})", Terms(now + STORE_RETRY, None))
        if isinstance(found, GoOn):
            return found
        ask = {"because": "idle", "evidence": event.evidence} if because is Closing.IDLE else {"because": "closing"}
        return Outcome(True, because, event.sentence, ask)


def is_alive(context: Context, dag_id: str, run_id: str) -> bool:
    """Whether a run of a DAG still goes on; one that was deleted does not."""
    ti: Any = context["ti"]
    return bool(ti.get_dr_count(dag_id=dag_id, run_ids=[run_id], states=list(_ALIVE)))


def failed_tasks(context: Context) -> list[str]:
    """The tasks of this run that failed, by name."""
    ti: Any = context["ti"]
    run_id = context["run_id"]
    states = ti.get_task_states(dag_id=context["dag"].dag_id, run_ids=[run_id])
    return sorted(task for task, state in states.get(run_id, {}).items() if str(state) == "failed")


def poll_of(idle_after_s: float | None) -> dict[str, float]:
    """How often a window is looked at: ten times in its idle time, every 2 to 10 s."""
    return {"poll_s": 10.0 if idle_after_s is None else max(2.0, min(10.0, idle_after_s / 10))}


def _terms_words(terms: Terms) -> str:
    parts = [f"until {terms.closes:%Y-%m-%d %H:%M:%S} UTC"] if terms.closes else []
    parts += [f"until it is idle for {words(terms.idle_after.total_seconds())}"] if terms.idle_after else []
    return " or ".join(parts)
