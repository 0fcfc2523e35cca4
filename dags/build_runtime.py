"""DAG `build_runtime`: builds the image of a model server with buildah and pins its digest in an immutable runtime."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from airfreight_airflow.form import runtime_params
from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.operators import DEPLOYER, IMAGE_BUILDER, AirfreightPodOperator
from airfreight_airflow.task_defaults import TASK_DEFAULTS

DOCS = """
Builds the image of a model server, without weights, from a Containerfile, and names it by its digest in a new ServingRuntime. A runtime is
never changed: another image or another setting gives one with another name, and what runs on the old one keeps running.

| task | what it does | when it fails |
|---|---|---|
| `build_image` | buildah builds the image in the builder's namespace and pushes it; the result holds its digest | the shipped Containerfile and no `BASE` in `base_args`; the ConfigMap is missing or has no key `Containerfile`; the base cannot be pulled; an instruction fails: the log has its output; no login for the registry (`registry_secret`), no disk on the node |
| `pin_runtime` | applies the ServingRuntime `airfreight-<template>-<hash>`, whose image is that digest | no rights in the namespace, a setting the template does not know |

The name of the runtime is the result of `pin_runtime`, as `name`: give it as `runtime` when a model is delivered, or set it in section
`[airfreight]`.

**On call.** The last line of the failed task's log is one sentence: what is wrong and what to change. It is also the XCom `failure`.
A wrong request (exit code 2) is not retried. Building the same again is safe: the same content gives the same runtime.

Through REST: `POST /api/v2/dags/build_runtime/dagRuns` with `{"logical_date": null, "conf": {"template": "vllm-gpu", "base_args":
["BASE=registry.example/vllm@sha256:…"]}}`.
"""  # noqa: E501  (a Markdown table row is one line)

with DAG(
    dag_id="build_runtime",
    dag_display_name="Build a model server",
    description="The image of a model server by buildah, and the ServingRuntime that names it by its digest",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=2,
    dagrun_timeout=timedelta(hours=8),
    tags=["airfreight", "serve"],
    params=runtime_params(),
    user_defined_macros={"airfreight": RequestMacros},
    default_args=TASK_DEFAULTS,
) as dag:
    build_image = AirfreightPodOperator(
        task_id="build_image",
        role=IMAGE_BUILDER,
        context_configmap="{{ airfreight.containerfile_configmap(params) }}",
        arguments=[
            *("runtime", "build", "{{ airfreight.runtime_image(params) }}"),
            *("--containerfile", "{{ airfreight.containerfile(params) }}"),
            *("--context", "{{ airfreight.context(params) }}"),
            *("--base-arg", "{{ airfreight.lines(params, 'base_args') }}"),
        ],
        repeated=["--base-arg"],
        pod_memory="4Gi",
        execution_timeout=timedelta(hours=6),
    )
    pin_runtime = AirfreightPodOperator(
        task_id="pin_runtime",
        role=DEPLOYER,
        arguments=[
            *("runtime", "pin", build_image.output["image"]),
            *("--template", "{{ params.template }}"),
            *("--namespace", "{{ airfreight.namespace(params) }}"),
            *("--set", "{{ airfreight.lines(params, 'set') }}"),
        ],
        # The digest comes from the push of a minute ago; the deployer has no login to ask the registry again.
        flags=["--apply", "--offline"],
        repeated=["--set"],
    )
