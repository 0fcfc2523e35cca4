"""What is known of a run of `serve_<name>`: its model, what it was asked, how its window ends, whether it goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airfreight.catalog import CatalogModel
from airfreight.durations import parse_duration
from airfreight.hours import Hours
from airfreight.warmup import longest
from airfreight.windows import Current, Opening, text_of

if TYPE_CHECKING:
    from airflow.sdk import Context

OPEN, STOP, STOP_NOW = "open", "stop", "stop_now"
RESUME_TASK = "resume"
ADOPTED = f"{Opening.FOUND}__"
"""How the id of a run begins that `adopt_models` starts: its conf has no room for it, for a form has no such field."""
NOBODYS = "stop"
"""What a stop keeps where no window is open, so that who wakes the model meanwhile waits for the end of it."""
_ALIVE, _ENDED = ("queued", "running"), ("success", "failed")


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


@dataclass(frozen=True)
class Asked:
    """A stop that a person asked for, who does not know what happened since.

    Args:
        at: when (RFC 3339); "": nothing overrules it.
        window: that was open then, "" when none was; None: not known.
        opens: when its hours open, as its note said then.
    """

    at: str = ""
    window: str | None = None
    opens: str = ""

    @classmethod
    def of(cls, opened: dict[str, Any]) -> Asked:
        """From what `open_window` left of a stop."""
        seen = opened.get("seen") or {}
        return cls(str(opened.get("asked") or ""), seen.get("window"), str(seen.get("opens") or ""))

    def overruled(self, kept: Current, name: str) -> str:
        """Say why it counts no more: somebody woke the model since, or its hours opened; "" when it counts."""
        if not self.at or not kept.run or kept.window == NOBODYS:
            return ""
        if kept.touched > self.at:
            return f"Somebody woke {name} after this stop was asked for."
        if self.window is not None and (kept.window != self.window or kept.opens > self.opens):
            return f"A window of {name} opened after this stop was asked for; to end that one too, ask again."
        return ""


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
    states = _states(context, context["dag"].dag_id, str(context["run_id"]))
    return sorted(task for task, state in states.items() if state == "failed")


def starts_again(context: Context, dag_id: str, run_id: str) -> bool:
    """Whether a run of `serve_<name>` failed to start its model, and will try that again."""
    return _states(context, dag_id, run_id).get(RESUME_TASK) == "up_for_retry"


def _states(context: Context, dag_id: str, run_id: str) -> dict[str, str]:
    ti: Any = context["ti"]
    states = ti.get_task_states(dag_id=dag_id, run_ids=[run_id])
    return {task: str(state) for task, state in states.get(run_id, {}).items()}
