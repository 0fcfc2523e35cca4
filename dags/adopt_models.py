"""DAG `adopt_models`: does a model run whose window nobody keeps? Then its DAG opens one, which ends by idleness."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronTriggerTimetable, TriggerRule, task

from airfreight_airflow.task_defaults import TASK_DEFAULTS
from airfreight_airflow.windows_adopting import LOOK_TASK, models_to_adopt, say_what_failed

DOCS = """
Looks every half hour for models of the catalog with `hours` or `idle_after` that run while nobody keeps a window of them: somebody started them by hand, a GitOps tool did, or the run
that kept the window was deleted or failed. `serve_<name>` then opens a window, which ends when the model is idle for `idle_after`, or half an hour; nothing is stopped here.

| task | what it does | when it fails |
|---|---|---|
| `look` | reads each such model, its release ledger and the record of its last window; its log has a line for each. Left alone: what is stopped, what a delivery tries a release on, what was told to stop within 10 min, what has a run of `serve_<name>` under way, and what has that DAG paused | the cluster or the store does not answer |
| `adopt` | starts one run of `serve_<name>` for each, under the id `found__TIME` | Airflow refuses the run |
| `report` | says which models could not be looked at | that is what it is for |

**On call.** A failed `report` names models and reasons; the others were looked at. Nothing depends on this DAG: while it is paused, a model started by hand stays up until somebody stops it, or its next window ends.
Where somebody else took away a stop that Airfreight had written, `record` of the window that is opened fails at its end, and names the field manager.
"""  # noqa: E501  (a Markdown table row is one line)

with DAG(
    dag_id="adopt_models",
    dag_display_name="Adopt models",
    description="Every 30 min: does a model run whose window nobody keeps? Then it is stopped when it is idle",
    doc_md=DOCS,
    schedule=CronTriggerTimetable("*/30 * * * *", timezone="UTC"),
    catchup=False,
    is_paused_upon_creation=True,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=30),
    tags=["airfreight", "serve", "windows"],
    default_args=TASK_DEFAULTS,
) as dag:
    look = task(task_id=LOOK_TASK, multiple_outputs=False)(models_to_adopt)()
    adopt = TriggerDagRunOperator.partial(
        task_id="adopt",
        logical_date=None,
        skip_when_already_exists=True,  # a second try: the first had its run started
        openlineage_inject_parent_info=False,
    ).expand_kwargs(look)
    report = task(task_id="report", multiple_outputs=False, trigger_rule=TriggerRule.ALL_DONE)(say_what_failed)()

    adopt >> report
