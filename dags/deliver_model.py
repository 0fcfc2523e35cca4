"""DAG `deliver_model`: one run carries one version of one model from the hub to a service that answers."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, TriggerRule, task

from airfreight_airflow.form import deliver_params
from airfreight_airflow.gating import RELEASER, announce_end, announce_failure, run_name
from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.operators import (
    BUILDER,
    DEPLOYER,
    DOWNLOADER,
    PUBLISHER,
    READ,
    VALIDATOR,
    WRITE,
    AirfreightPodOperator,
)
from airfreight_airflow.promoting import GateMacros, PromoteOperator, ProveEgressOperator, RollBackOperator
from airfreight_airflow.reports import write_report
from airfreight_airflow.resolving import ResolveOperator, off_the_way, split_pods
from airfreight_airflow.sensors import ReleaseReadySensor
from airfreight_airflow.staging import CreateVolumeOperator, RemoveVolumeOperator
from airfreight_airflow.task_defaults import TASK_DEFAULTS
from airfreight_airflow.windows_keeper import forget_dead_window

DOCS = """
Carries one version of one model from the Hugging Face hub into S3, into a registry as an image, or into both; serves it with KServe and
lets it be live only after its gates: it comes up, it answers, and as well as the request asks. If a gate fails, what was live before is put
back and answers again before the run ends, red, with the cause. A run with the same model and revision moves no weight byte again, restarts
nothing that is live, and only asks the questions again. A model that is stopped is started for its gates and stopped again. One run at a
time changes a model; another one waits for its end, or is refused (`if_busy`).

| task | what it does | when it fails |
|---|---|---|
| `resolve` | checks the whole request, turns branch or tag into a commit, lists the files, writes the plan for each destination, and skips the tasks that this request does not need; with `dry_run` the run ends here | wrong model or revision; pickles, code or a licence this site denies; gated and no token (Secret `airfreight-hub`, key `token`, or `hub_secret`); two fields that do not go together; a layer too large for the registry; hub or proxy down |
| `split` | with several `pods` or a volume: says which pod copies what | never |
| `create_volume` | `staging` volume: makes the run's volume | quota, no right to make volumes, wrong `storage_class` |
| `download`, `seal_volume` | hub to volume; several pods copy, then it is sealed | as `upload_to_s3`; a pod without a node: no storage class, or a volume of another zone |
| `upload_from_volume`, `build_from_volume` | volume to S3, volume to registry | as `upload_to_s3` and `build_modelcar` |
| `build_with_buildah` | `builder` buildah: the same content built by buildah from the volume | the builder's namespace lacks a Secret or is labelled `restricted`; no room on the volume |
| `remove_volume` | removes the run's volume, also after a failure | the cluster does not answer: clear it, or delete the claim that `create_volume` names |
| `upload_to_s3`, `upload_slices` | streams to S3, compares every sha256, writes `airfreight.json` last; where several pods or a volume come before it, `upload_to_s3` only seals | wrong S3 keys (Secret `airfreight-store`), bucket missing, hub down. Nothing half-done is visible: clear the task, it goes on where it was |
| `build_modelcar`, `build_slices` | streams into the registry, one layer per weight file, and names the image by its digest; likewise | login of the registry (`registry_secret`), no right to push, a registry that refuses large layers. Clear the task: layers that are there are not sent again |
| `render` | `deploy` off: prints the InferenceService for people who deploy it themselves | wrong serving fields |
| `smoke_test` | images: shows the pod that KServe would make, without making it | this cluster cannot deliver that way; a pull secret is missing: the sentence names the remedy |
| `deploy` | takes the model's lock, checks and rehearses as `smoke_test` does, has the nodes pull the images they lack, writes the release into the ledger as a candidate, then applies exactly what the ledger holds: up to there nothing live was touched. One pod for all of it (`airfreight register --stage`), for each pod costs Airflow some 4 s | another run is at this model (`if_busy`); somebody edited the InferenceService by hand (`take_over`); no rights in the namespace, no such runtime, KServe refuses the object; an image that no node can pull |
| `wait_until_ready` | waits for *this* release; writes what it sees | image, memory, GPUs, storage: the sentence says which |
| `validate` | the gates: `/v1/models`, a chat completion through the Service, and what the request asks for: speed, expected answers, GPUs in use, the way through a gateway | the model loads and cannot chat: look at the server's log and at `server_args`; a gate failed: its sentence says what was wanted and what was found |
| `prove_egress` | where the site wants it (`egress` of its settings): the egress gate. The pods' NetworkPolicy is there, it bites, and from their first moment to the last answer they looked up nothing but their store | the model server asked for something outside: its image or arguments want it; or nothing could be proven and the site requires it: the sentence names what is missing |
| `promote` | the release is live: the ledger's pointer moves, the model's asset tells it, a model that was stopped is stopped again | another run was faster, or the InferenceService carries another release by now |
| `roll_back` | only if one of the last five failed: puts back what was live, with its runtime, waits until it answers, rejects the candidate with the cause; a first release is removed, or kept stopped (`keep_failed`) | what is put back does not answer either: look at it at once, and see `roll_back_model` |
| `report` | reads the artifact back, writes the report beside the store; a run that was rolled back has its report beside the rejected release, by `roll_back` | the store cannot be reached with connection `airfreight_store` |

**On call.** The last line of the failed task's log is one sentence: what is wrong and what to change. It is also the XCom `failure`.
A wrong request (exit code 2), wrong bytes (3) or a model that fails a gate (4) is not retried: change what the sentence names and
trigger again. Anything else was retried twice already: look at the hub, the store, the registry or the cluster, then clear the failed task.
After a rollback clear `deploy` and what follows it, or trigger again: the later tasks alone find no release of theirs any more.
A run that is ended by hand or by its time rolls nothing back: `airfreight roll-back --run deliver_model/RUN_ID` does, or the next delivery (docs/releases.md).
What is live, what was, and why a release was rejected: `airfreight releases --name NAME --namespace NAMESPACE --ledger s3://llm-models/`; with
`--unlock RUN` it frees the model of a run that was killed. A task that reads the volume is cleared together with `download` and all that follows: its volume is gone. Marking a task as failed deletes its pod.
`airfreight doctor` checks cluster, rights, store and registry.

Through REST: `POST /api/v2/dags/deliver_model/dagRuns` with `{"logical_date": null, "conf": {"model": "acme/pong"}}`; the keys of
`conf` are the fields of the form. From a shell: `airfreight deliver acme/pong --follow`.
"""  # noqa: E501  (a Markdown table row is one line)

with DAG(
    dag_id="deliver_model",
    dag_display_name="Deliver a model",
    description="Hub to S3 or to a registry, to KServe; live once its gates have passed, else what was live is back",
    doc_md=DOCS,
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=4,
    dagrun_timeout=timedelta(hours=26),
    tags=["airfreight", "publish", "serve"],
    params=deliver_params(model="acme/pong"),
    user_defined_macros={"airfreight": RequestMacros, "gates": GateMacros, "run_name": run_name},
    on_success_callback=announce_end,
    on_failure_callback=announce_failure,
    default_args=TASK_DEFAULTS,
) as dag:
    # What every copy of this run says: which files, and why those that can run code are taken.
    files = [
        *("--allow", "{{ airfreight.allow(params) }}"),
        *("--ignore", "{{ airfreight.ignore(params) }}"),
        *("--allow-unsafe", "{{ airfreight.allow_unsafe(params) }}"),
    ]
    base = ["--base", "{{ airfreight.base(params) }}"]
    # A skipped task before another one is well: it is not on this request's way.
    after_any = {"trigger_rule": TriggerRule.NONE_FAILED}
    several = {"execution_timeout": timedelta(hours=24), "map_index_template": "{{ task.share or 'all' }}"}

    resolve = ResolveOperator(
        task_id="resolve",
        role=PUBLISHER,
        arguments=[
            *("resolve", "{{ airfreight.checked_source(params) }}"),
            *("--store", "{{ airfreight.stores(params) }}"),
            *base,
            *files,
        ],
        repeated=["--store"],
        off_the_way=off_the_way,
    )
    split = task(task_id="split", multiple_outputs=False)(split_pods)()

    create_volume = CreateVolumeOperator(
        task_id="create_volume",
        size_bytes=resolve.output["size_bytes"],
        largest_bytes=resolve.output["largest_bytes"],
    )
    hub, volume = resolve.output["source"], "{{ airfreight.volume() }}"
    s3, registry = "{{ airfreight.store() }}", "{{ airfreight.registry() }}"
    staged = "{{ airfreight.staged(ti) }}"
    download = AirfreightPodOperator.partial(
        task_id="download", role=DOWNLOADER, volume=WRITE, arguments=["copy", hub, volume, *files], **several
    ).expand(share=split)
    seal_volume = AirfreightPodOperator(
        task_id="seal_volume", role=DOWNLOADER, volume=WRITE, arguments=["seal", hub, volume, *files]
    )
    upload_from_volume = AirfreightPodOperator.partial(
        task_id="upload_from_volume", role=PUBLISHER, volume=READ, arguments=["copy", staged, s3, *files],
        **several, **after_any,
    ).expand(share=split)  # fmt: skip
    build_from_volume = AirfreightPodOperator.partial(
        task_id="build_from_volume", role=PUBLISHER, volume=READ, arguments=["copy", staged, registry, *base, *files],
        **several, **after_any,
    ).expand(share=split)  # fmt: skip
    build_with_buildah = AirfreightPodOperator(
        task_id="build_with_buildah",
        role=BUILDER,
        volume=READ,
        context_configmap="{{ airfreight.builder_policy() }}",
        arguments=[
            *("build", staged, registry),
            *base,
            *("--policy", "{{ airfreight.policy_file() }}"),
            *("--allow-unsafe", "{{ airfreight.allow_unsafe(params) }}"),
        ],
        pod_memory="4Gi",
        execution_timeout=timedelta(hours=24),
        **after_any,
    )
    remove_volume = RemoveVolumeOperator(task_id="remove_volume").as_teardown(
        setups=create_volume, on_failure_fail_dagrun=True
    )

    upload_slices = AirfreightPodOperator.partial(
        task_id="upload_slices", role=PUBLISHER, arguments=["copy", hub, s3, *files], **several
    ).expand(share=split)
    upload_to_s3 = AirfreightPodOperator(
        task_id="upload_to_s3",
        role=PUBLISHER,
        arguments=["{{ airfreight.copy_or_seal(params) }}", hub, s3, *files],
        execution_timeout=timedelta(hours=24),
        **after_any,
    )
    build_slices = AirfreightPodOperator.partial(
        task_id="build_slices", role=PUBLISHER, arguments=["copy", hub, registry, *base, *files], **several
    ).expand(share=split)
    build_modelcar = AirfreightPodOperator(
        task_id="build_modelcar",
        role=PUBLISHER,
        arguments=["{{ airfreight.copy_or_seal(params) }}", hub, registry, *base, *files],
        execution_timeout=timedelta(hours=24),
        **after_any,
    )

    target = [
        *("--name", "{{ airfreight.service_name(params) }}"),
        *("--namespace", "{{ airfreight.namespace(params) }}"),
    ]
    ledger = ["--ledger", "{{ airfreight.store() }}", "--run", "{{ run_name(dag_run) }}"]
    release = [
        *target,
        *("--artifact", "{{ airfreight.artifacts(params, ti) }}"),
        *("--source", resolve.output["source"]),
        *("--manifest-sha256", resolve.output["manifest_sha256"]),
        *("--size-bytes", resolve.output["size_bytes"]),
        *("--served-name", resolve.output["repo_id"]),
        *("--serving", "{{ airfreight.serving(params) }}"),
        *("--delivery", "{{ airfreight.delivery(params) }}"),
        *("--pull-secret", "{{ airfreight.pull_secret() }}"),
    ]
    either = {"repeated": ["--artifact"], **after_any}
    render = AirfreightPodOperator(task_id="render", role=DEPLOYER, arguments=["render", *release], **either)
    take_over = {"--take-over": "{{ params.take_over }}"}
    smoke_test = AirfreightPodOperator(
        task_id="smoke_test", role=DEPLOYER, arguments=["smoke", *release], switches=take_over, **either
    )
    walls = [
        *("--store-url", "{{ airfreight.wall('store_endpoint') }}"),
        *("--store-port", "{{ airfreight.wall('store_port') }}"),
        *("--resolver-namespace", "{{ airfreight.wall('resolver_namespace') }}"),
        *("--resolver", "{{ airfreight.wall('resolver') }}"),
    ]
    deploy = AirfreightPodOperator(
        task_id="deploy",
        role=RELEASER,
        arguments=[
            "register",
            *release,
            *ledger,
            *("--if-busy", "{{ airfreight.if_busy(params) }}"),
            *("--evidence", "{{ gates.trigger(dag_run) }}"),
            *walls,
        ],
        flags=["--stage"],
        switches={**take_over, "--egress": "{{ airfreight.walled() }}"},
        execution_timeout=timedelta(minutes=140),  # an hour for another run at this model, an hour to pull its images
        pre_execute=forget_dead_window,
        **either,
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
            *("--max-ttft", "{{ airfreight.threshold(params, 'max_ttft') }}"),
            *("--min-tokens-per-s", "{{ airfreight.threshold(params, 'min_tokens_per_s') }}"),
            *("--prompts", "{{ airfreight.prompts(params) }}"),
            *("--gpus", "{{ params.gpus or '' }}"),
            *("--ready", "{{ gates.ready(ti) }}"),
            *("--gateway-url", "{{ airfreight.gateway_url(params) }}"),
            *("--gateway-host", "{{ airfreight.gateway_host(params) }}"),
            *("--ca-file", "{{ airfreight.ca_file() }}"),
        ],
    )
    prove_egress = ProveEgressOperator(
        task_id="prove_egress",
        role=DEPLOYER,
        arguments=[
            *("egress", *target),
            *("--artifact", deploy.output["artifact"]),
            *("--release", deploy.output["release"]),
            *("--image", "{{ airfreight.image() }}"),
            *walls,
        ],
        switches={"--required": "{{ airfreight.proof_required() }}"},
    )
    promote = PromoteOperator(
        task_id="promote",
        role=RELEASER,
        arguments=[
            *("promote", *target, *ledger),
            *("--release", deploy.output["release"]),
            *("--evidence", "{{ gates.judged(ti) }}"),
        ],
        **after_any,
    )
    roll_back = RollBackOperator(
        task_id="roll_back",
        role=RELEASER,
        arguments=[
            *("roll-back", *target, *ledger),
            *("--cause", "{{ gates.cause(ti) }}"),
            *("--evidence", "{{ gates.judged(ti) }}"),
        ],
        flags=["--in-run"],
        switches={"--keep": "{{ params.keep_failed }}"},
        trigger_rule=TriggerRule.ONE_FAILED,
        execution_timeout=timedelta(minutes=80),  # as long as the GPU runtime gives a model to start
    )
    report = task(task_id="report", multiple_outputs=False, **after_any)(write_report)()

    resolve >> split
    create_volume >> download >> seal_volume
    [download, seal_volume] >> upload_from_volume >> upload_to_s3
    [download, seal_volume] >> build_from_volume >> build_modelcar
    [download, seal_volume] >> build_with_buildah
    [upload_from_volume, build_from_volume, build_with_buildah] >> remove_volume
    upload_slices >> upload_to_s3
    build_slices >> build_modelcar
    published = [upload_to_s3, build_modelcar, build_with_buildah]
    published >> render >> report
    published >> smoke_test >> deploy
    published >> deploy
    deploy >> wait_until_ready >> validate >> promote >> report
    validate >> prove_egress >> promote
    [deploy, wait_until_ready, validate, prove_egress, promote] >> roll_back
