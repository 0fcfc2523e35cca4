"""What a run of a DAG did, in plain values: its tasks and their changes, its summary, the error it stands for; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from airfreight.errors import BY_EXIT_CODE, AirfreightError

# Model start and bytes moved are the run's work; what remains of its wall time is Airflow's own share. One line per
# stage: its tasks run side by side, so the slowest counts. Each leaves its seconds as result `seconds`.
_WORK = (
    ("download",),
    ("upload_slices", "build_slices", "upload_from_volume", "build_from_volume", "build_with_buildah"),
    ("upload_to_s3", "build_modelcar"),
    ("wait_until_ready",),
)


class RunFailedError(AirfreightError):
    """A run failed and left no exit code of ours. Exit code 1."""


@dataclass(frozen=True)
class TaskRow:
    """One task of a run, as it was when it was looked at.

    Args:
        task_id: of the task; of one of several pods with its number, `upload_slices[2]`.
        state: in Airflow's words; None: not scheduled yet.
        seconds: since its last try began, or that try's whole duration once it is over; None before it began.
        try_number: 1 is the first.
    """

    task_id: str
    state: str | None
    seconds: float | None
    try_number: int


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Args:
        state: `success`, `failed`, `running` or `queued`.
        seconds: wall time from its start to its end, or to now.
        airflow_seconds: wall time less the seconds in which bytes moved and the model server started; None before the
        end.
        tasks: in the order in which they began.
        results: by task id, the JSON result of each task that has one.
        failure: of the task that failed, or None: task_id, message, exit_code (None if the task left none).
    """

    dag_id: str
    run_id: str
    state: str
    seconds: float
    airflow_seconds: float | None
    tasks: tuple[TaskRow, ...]
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failure: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a plain JSON object."""
        return asdict(self)

    def error(self) -> AirfreightError | None:
        """The error that the failed run stands for; None unless it failed."""
        if self.state != "failed":
            return None
        failure = self.failure or {
            "task_id": "the run",
            "message": "it was ended without an error of a task",
            "exit_code": None,
        }
        message = f"{self.dag_id} {self.run_id}: {failure['task_id']} failed: {failure['message']}"
        return BY_EXIT_CODE.get(failure["exit_code"], RunFailedError)(message)


def row_of(row: Mapping[str, Any]) -> TaskRow:
    """Return a task instance of the REST API as one of ours."""
    seconds = row.get("duration")
    if seconds is None and row.get("start_date"):
        seconds = seconds_between(row["start_date"], row.get("end_date"))
    map_index = int(row.get("map_index", -1))
    return TaskRow(
        task_id=f"{row['task_id']}[{map_index}]" if map_index >= 0 else str(row["task_id"]),
        state=row.get("state"),
        seconds=None if seconds is None else round(float(seconds), 1),
        try_number=int(row.get("try_number") or 0),
    )


def split(task_id: str) -> tuple[str, int]:
    """The name and number of a task as `TaskRow` has it; the number of one that is not mapped is -1."""
    name, bracket, number = task_id.removesuffix("]").partition("[")
    return name, int(number) if bracket else -1


def _worked(results: Mapping[str, Mapping[str, Any]], task_id: str) -> float:
    """Seconds of work of a task; of one in several pods those of the slowest."""
    return max(
        (float(found.get("seconds") or 0) for key, found in results.items() if split(key)[0] == task_id), default=0
    )


def seconds_between(start: str | None, end: str | None) -> float:
    """Return the seconds between two times in ISO 8601; up to now without an end, 0 without a start."""
    if not start:
        return 0.0
    until = datetime.fromisoformat(end) if end else datetime.now(tz=UTC)
    return round((until - datetime.fromisoformat(start)).total_seconds(), 1)


def worked(results: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the seconds in which a run moved bytes or waited for the model server, by the results of its tasks."""
    return sum(max((_worked(results, task_id) for task_id in stage), default=0.0) for stage in _WORK)
