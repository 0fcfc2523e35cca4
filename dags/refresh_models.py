"""DAG `refresh_models`: has an upstream branch moved? Then `deliver_model` once, through every gate."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param, TriggerRule, task

from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.operators import PUBLISHER, AirfreightPodOperator
from airfreight_airflow.task_defaults import TASK_DEFAULTS
from airfreight_airflow.windows_refresh import (
    DELIVER_DAG,
    JUDGE_TASK,
    LOOK_TASK,
    judge_models,
    say_what_failed,
    skip_without_sources,
    tracked_sources,
)

DOCS = """
Looks once a day at the branch of each model of the catalog with `refresh: daily`, and delivers what is new on it. Where nothing moved, nothing is moved or written.

| task | what it does | when it fails |
|---|---|---|
| `look` | one pod asks the hub where each branch is: one call for each, two at most; skipped when there is no such model | the hub cannot be reached at all |
| `judge` | compares with the release ledger and with earlier tries: live already, rejected, tried a moment ago, or to be delivered; its log has a line for each model | connection `airfreight_store` |
| `deliver` | starts one run of `deliver_model` for each new commit, under the id `refresh__NAME__COMMIT__ENTRY__NUMBER` | `deliver_model` is missing or its conf is refused |
| `report` | says which models could not be looked at, and which entries of the catalog are wrong | that is what it is for |

**On call.** A failed `report` names models and reasons; the others were refreshed. A commit that was rejected, by a gate or by another task that failed for good, is not tried again until its entry in the catalog
changes, or somebody asks: trigger this DAG with the model's name in `models`, or `airfreight deliver`. A delivery that failed for a passing cause is tried again by itself
after 1, 2, 4, then every 8 days, under the next number. A model that is stopped at night is woken for its gates and left stopped.
"""  # noqa: E501  (a Markdown table row is one line)

with DAG(
    dag_id="refresh_models",
    dag_display_name="Refresh models",
    description="Daily: has a branch moved? Then deliver what is new, through every gate",
    doc_md=DOCS,
    schedule=CronTriggerTimetable("0 3 * * *", timezone="UTC"),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    tags=["airfreight", "publish", "refresh"],
    params={
        "models": Param(
            [],
            type=["null", "array"],
            items={"type": "string"},
            title="Models",
            description="Names from the catalog, one per line: look at these alone, and try again what was rejected or "
            "failed. Empty: all.",
        )
    },
    user_defined_macros={"airfreight": RequestMacros},
    default_args=TASK_DEFAULTS,
) as dag:
    look = AirfreightPodOperator(
        task_id=LOOK_TASK, role=PUBLISHER, arguments=["tips", *tracked_sources()], pre_execute=skip_without_sources
    )
    judge = task(task_id=JUDGE_TASK, multiple_outputs=False)(judge_models)()
    deliver = TriggerDagRunOperator.partial(
        task_id="deliver",
        trigger_dag_id=DELIVER_DAG,
        logical_date=None,
        # A run of this id is this very try: whoever started it was faster.
        skip_when_already_exists=True,
        openlineage_inject_parent_info=False,
    ).expand_kwargs(judge)
    report = task(task_id="report", multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE)(say_what_failed)()

    look >> judge
    deliver >> report
