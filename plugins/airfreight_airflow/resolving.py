"""The first task of our DAGs: it checks the request, and at its end skips what this run does not need.

A task that is skipped by the one before it starts no process: for Airflow's scheduler it is done. A task that skipped
itself would cost a worker and some four seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.bases.skipmixin import SkipMixin

from airfreight_airflow.operators import AirfreightPodOperator
from airfreight_airflow.route import Route
from airfreight_airflow.settings import read_settings

if TYPE_CHECKING:
    from airflow.sdk import Context


class ResolveOperator(AirfreightPodOperator, SkipMixin):
    """Run `airfreight resolve`; then skip what this run does not need: after a dry run everything.

    Args:
        off_the_way: says by the request which tasks are skipped.
    Raises:
        AirflowFailException: as the house operator does; so AirflowException.
        DownstreamTasksSkipped: how Airflow is told what to skip; not a failure.
    """

    inherits_from_skipmixin = True

    def __init__(
        self, *, off_the_way: Callable[[Mapping[str, Any]], Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.off_the_way = off_the_way

    def execute(self, context: Context) -> Any:
        """Run the pod, leave its result, skip."""
        result: dict[str, Any] = super().execute(context)
        # Outside of the house operator's error handling: what Airflow raises to skip looks like an error to it.
        self.skip_rest(context, result)
        return result

    def skip_rest(self, context: Context, result: Mapping[str, Any]) -> None:
        """Skip what this run does not need; returns if it needs everything."""
        dag, ti, params = context["dag"], context["ti"], context["params"]
        if params.get("dry_run"):
            self.log.info("This is a dry run: nothing was moved, and the plan is above.")
            skipped: Sequence[str] = [task_id for task_id in dag.task_ids if task_id != self.task_id]
        else:
            skipped = self.off_the_way(params) if self.off_the_way else ()
        tasks = [dag.get_task(task_id) for task_id in skipped]
        if not tasks:
            return
        # Skipping ends the task by an exception, and Airflow takes no result from a task that ends by one.
        for key, value in {**result, "return_value": dict(result)}.items():
            ti.xcom_push(key=key, value=value)
        self.skip(ti, tasks)


def off_the_way(params: Mapping[str, Any]) -> Sequence[str]:
    """The tasks of `deliver_model` that a request skips (`route.py`)."""
    return _route(params).skipped()


def split_pods() -> list[str]:
    """The `split` task: what each pod copies, for the tasks that are mapped over it; "" is everything."""
    return _route(get_current_context()["params"]).shares()


def _route(params: Mapping[str, Any]) -> Route:
    site = read_settings()
    return Route.of(params, site.destination, site.volume_access, walled=site.walled)
