"""DAG `deliver_model`: one run carries one version of one model from the hub to a service that answers."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from airfreight_airflow.dry_run import stop_dry_run
from airfreight_airflow.form import deliver_params
from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.operators import DEPLOYER, PUBLISHER, VALIDATOR, AirfreightPodOperator
from airfreight_airflow.reports import write_report
from airfreight_airflow.sensors import ReleaseReadySensor

DOCS = """
Carries one version of one model from the Hugging Face hub into S3, serves it with KServe and asks it a question.
A run with the same model and revision moves no weight byte again and restarts nothing that is live.

| task | what it does | when it fails |
|---|---|---|
| `resolve` | checks the whole request, turns branch or tag into a commit, lists the files and writes the plan; with `dry_run` the run ends here | wrong model or revision; pickles, code or a licence this site denies; gated and no token (Secret `airfreight-hub`, key `token`, or `hub_secret`); hub or proxy down |
| `upload_to_s3` | streams hub to S3, compares every sha256, writes `airfreight.json` last | wrong S3 keys (Secret `airfreight-store`), bucket missing, hub down. Nothing half-done is visible: clear the task, it goes on where it was |
| `deploy` | dry run, then applies the InferenceService | no rights in the namespace, no such runtime, KServe refuses the object |
| `wait_until_ready` | waits for *this* release; writes what it sees | image, memory, GPUs, storage: the sentence says which |
| `validate` | `/v1/models`, then one chat completion through the Service | the model loads and cannot chat: look at the server's log and at `server_args` |
| `report` | reads the artifact back, writes the report beside the store | the store cannot be reached with connection `airfreight_store` |

**On call.** The last line of the failed task's log is one sentence: what is wrong and what to change. It is also the XCom `failure`.
A wrong request (exit code 2), wrong bytes (3) or a model that fails a gate (4) is not retried: change what the sentence names and
trigger again. Anything else was retried twice already: look at the hub, the store or the cluster, then clear the failed task.
Marking a task as failed deletes its pod. `airfreight doctor` checks cluster, rights and store.

Through REST: `POST /api/v2/dags/deliver_model/dagRuns` with `{"logical_date": null, "conf": {"model": "acme/pong"}}`; the keys of
`conf` are the fields of the form. From a shell: `airfreight deliver acme/pong --follow`.
"""  # noqa: E501  (a Markdown table row is one line)

with DAG(
    dag_id="deliver_model",
    dag_display_name="Deliver a model",
    description="Hub to S3 to KServe, and one question to prove that it answers",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=4,
    dagrun_timeout=timedelta(hours=26),
    tags=["airfreight", "publish", "serve"],
    params=deliver_params(model="acme/pong"),
    user_defined_macros={"airfreight": RequestMacros},
    default_args={
        "owner": "airfreight",
        "retries": 2,
        "retry_delay": timedelta(seconds=20),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(minutes=15),
    },
) as dag:
    resolve = AirfreightPodOperator(
        task_id="resolve",
        role=PUBLISHER,
        arguments=[
            *("resolve", "{{ airfreight.checked_source(params) }}"),
            *("--store", "{{ airfreight.store() }}"),
            *("--allow", "{{ airfreight.allow(params) }}"),
            *("--ignore", "{{ airfreight.ignore(params) }}"),
            *("--allow-unsafe", "{{ airfreight.allow_unsafe(params) }}"),
        ],
    )
    upload_to_s3 = AirfreightPodOperator(
        task_id="upload_to_s3",
        role=PUBLISHER,
        arguments=[
            *("copy", resolve.output["source"], "{{ airfreight.store() }}"),
            *("--allow", "{{ airfreight.allow(params) }}"),
            *("--ignore", "{{ airfreight.ignore(params) }}"),
            *("--allow-unsafe", "{{ airfreight.allow_unsafe(params) }}"),
        ],
        pre_execute=stop_dry_run,
        execution_timeout=timedelta(hours=24),
    )
    deploy = AirfreightPodOperator(
        task_id="deploy",
        role=DEPLOYER,
        arguments=[
            "deploy",
            *("--name", "{{ airfreight.service_name(params) }}"),
            *("--namespace", "{{ airfreight.namespace(params) }}"),
            *("--artifact", upload_to_s3.output["artifact"]),
            *("--source", upload_to_s3.output["source"]),
            *("--manifest-sha256", upload_to_s3.output["manifest_sha256"]),
            *("--served-name", resolve.output["repo_id"]),
            *("--serving", "{{ airfreight.serving(params) }}"),
        ],
    )
    wait_until_ready = ReleaseReadySensor(
        task_id="wait_until_ready",
        release_name=deploy.output["name"],
        release_namespace=deploy.output["namespace"],
        release=deploy.output["release"],
        ready_timeout=timedelta(minutes=75),  # the GPU runtime gives a model an hour to start
    )
    validate = AirfreightPodOperator(
        task_id="validate",
        role=VALIDATOR,
        arguments=[
            "validate",
            *("--url", deploy.output["url"]),
            *("--served-name", deploy.output["served_name"]),
            *("--question", "{{ airfreight.question(params) }}"),
        ],
    )
    report = task(task_id="report", multiple_outputs=False)(write_report)(
        uploaded=upload_to_s3.output,
        deployed=deploy.output,
        ready=wait_until_ready.output,
        validated=validate.output,
    )

    wait_until_ready >> validate
