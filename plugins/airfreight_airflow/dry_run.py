"""A dry run ends after `resolve`, whose log then has the plan.

    AirfreightPodOperator(task_id="upload_to_s3", pre_execute=stop_dry_run, ...)

The task that would move the first byte is skipped, and with it, by Airflow's own rule, all that follow.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk.exceptions import AirflowSkipException


def stop_dry_run(context: Any) -> None:
    """Return if this run is to do what was asked.

    Args:
        context: Airflow's, of the task that is about to run.
    Raises:
        AirflowSkipException: the request says `dry_run`.
    """
    if context["params"].get("dry_run"):
        raise AirflowSkipException("This is a dry run: nothing was moved, and the plan is in the log of resolve.")
