"""DAG `roll_back_model`: an earlier release of a model is live again, with the runtime it had."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airfreight_airflow.form import roll_back_params
from airfreight_airflow.gating import RELEASER, announce_end, announce_failure, run_name
from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.promoting import AnnouncingOperator
from airfreight_airflow.task_defaults import TASK_DEFAULTS

DOCS = """
Makes an earlier release of a model live again, exactly as it was: the same artifact, the same InferenceService, the same ServingRuntime, which is put back too where
somebody deleted it. A model that runs is waited for until it chats; a stopped one stays stopped. Nothing is downloaded from the hub.

| task | what it does | when it fails |
|---|---|---|
| `roll_back` | takes the target's lock, asks the cluster for a dry run, applies the release, waits until it answers, moves `live.json`, tells it by the model's asset; prints for how long nobody answered | no such release, or it was never live: `airfreight releases` lists them; the InferenceService was edited by hand: the sentence names who; the release does not answer: what was live before is put back |

**On call.** `previous` is the release that was live last before the one that is live now. Which ones there are, and why others were rejected:
`airfreight releases --name NAME --namespace NAMESPACE --ledger s3://llm-models/`. While another run is at the model this one waits for its end, at most an hour.
A run that was killed holds the model's lock until its lease ends, or until `airfreight releases … --unlock RUN`.

Through REST: `POST /api/v2/dags/roll_back_model/dagRuns` with `{"logical_date": null, "conf": {"name": "acme-pong"}}`.
"""  # noqa: E501  (a Markdown table row is one line)

with DAG(
    dag_id="roll_back_model",
    dag_display_name="Roll back a model",
    description="Make an earlier release of a model live again, with its own runtime",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=4,
    dagrun_timeout=timedelta(hours=4),
    tags=["airfreight", "serve"],
    params=roll_back_params(),
    user_defined_macros={"airfreight": RequestMacros, "run_name": run_name},
    on_success_callback=announce_end,
    on_failure_callback=announce_failure,
    default_args=TASK_DEFAULTS,
) as dag:
    roll_back = AnnouncingOperator(
        task_id="roll_back",
        role=RELEASER,
        arguments=[
            "roll-back",
            *("--name", "{{ params.name }}"),
            *("--namespace", "{{ airfreight.namespace(params) }}"),
            *("--to", "{{ params.release }}"),
            *("--cause", "{{ params.reason or '' }}"),
            *("--ledger", "{{ airfreight.store() }}"),
            *("--run", "{{ run_name(dag_run) }}"),
        ],
        # An hour for the lock, and as long as the GPU runtime gives a model to start.
        execution_timeout=timedelta(hours=2, minutes=30),
    )
