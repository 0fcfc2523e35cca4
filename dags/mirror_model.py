"""DAG `mirror_model`: carries a published model to another registry, from a bucket into a registry, or back."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airfreight_airflow.form import mirror_params
from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.operators import PUBLISHER, AirfreightPodOperator
from airfreight_airflow.resolving import ResolveOperator
from airfreight_airflow.task_defaults import TASK_DEFAULTS

DOCS = """
Carries one published version of a model to another place: registry to registry (the same image, its digest unchanged), bucket to
registry, registry to bucket. Nothing is served. A run with the same request moves no weight byte again.

Registry to registry takes any image: a vendor's modelcar, a base, a model server. One that Airfreight did not make goes to
`destination` + the last two parts of its name, under the first 12 digits of its digest; for another name give the repository and its
tag in full. Files below its /models that can run code are refused, unless its layers cannot be looked into, which the plan then says.

| task | what it does | when it fails |
|---|---|---|
| `resolve` | checks the request, turns a tag into a digest, lists the files, writes the plan; with `dry_run` the run ends here | source or destination malformed; no such image or version; no login for a registry (`registry_secret`); a registry at plain http that `plain_http_registries` does not name |
| `mirror` | copies what `resolve` found, wherever its tag points by now; every byte is compared with its digest before it becomes visible | no right to push; registry, bucket or network down. Clear it: what is there is not sent again |
| `verify` | reads the copy again, every byte of it; of an image that Airfreight did not make, every blob | exit code 3: the log names wrong, missing and extra files, or blobs; do not serve that copy |

| from | to | what stays the same |
|---|---|---|
| `oci://` | `oci://` | the image, byte by byte: its digest. Signatures and attestations of it (referrers) are not copied. With patterns a new image is made, of the files that are left |
| `s3://` | `oci://` | the manifest: files, digests, source and commit; the image's digest is that of a build of the same version |
| `oci://` | `s3://` | the manifest |

**On call.** The last line of the failed task's log is one sentence: what is wrong and what to change. It is also the XCom `failure`.
Exit codes 2 and 3 are not retried. The copy's address is in the result of `mirror`, as `artifact`.

Through REST: `POST /api/v2/dags/mirror_model/dagRuns` with `{"logical_date": null, "conf": {"source":
"oci://registry.example/models/acme/pong@sha256:…", "destination": "oci://registry.internal:5000/models/"}}`.
"""  # noqa: E501  (a Markdown table row is one line)

with DAG(
    dag_id="mirror_model",
    dag_display_name="Mirror a model",
    description="Registry to registry, bucket to registry, registry to bucket; verified",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=4,
    dagrun_timeout=timedelta(hours=26),
    tags=["airfreight", "publish"],
    params=mirror_params(),
    user_defined_macros={"airfreight": RequestMacros},
    default_args=TASK_DEFAULTS,
) as dag:
    files = [
        *("--allow", "{{ airfreight.allow(params) }}"),
        *("--ignore", "{{ airfreight.ignore(params) }}"),
        *("--allow-unsafe", "{{ airfreight.allow_unsafe(params) }}"),
        *("--base", "{{ airfreight.mirror_base(params) }}"),
    ]
    resolve = ResolveOperator(
        task_id="resolve",
        execution_timeout=timedelta(hours=24),  # packed layers of others' images are read for the names in them
        role=PUBLISHER,
        arguments=[
            *("resolve", "{{ airfreight.mirror_source(params) }}"),
            *("--store", "{{ airfreight.mirror_destination(params) }}"),
            *files,
        ],
    )
    mirror = AirfreightPodOperator(
        task_id="mirror",
        role=PUBLISHER,
        arguments=[
            "copy",
            resolve.output["origin"],  # by digest: a tag may be moved meanwhile
            "{{ airfreight.mirror_destination(params) }}",
            *files,
        ],
        execution_timeout=timedelta(hours=24),
    )
    verify = AirfreightPodOperator(
        task_id="verify",
        role=PUBLISHER,
        arguments=["verify", mirror.output["artifact"]],
        execution_timeout=timedelta(hours=24),
    )
