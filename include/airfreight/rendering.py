"""The InferenceService of a model, as a pure function.

    apiVersion: serving.kserve.io/v1beta1
    kind: InferenceService
    metadata:
      name: pong
      namespace: models
      labels: {app.kubernetes.io/managed-by: airfreight}
      annotations:
        serving.kserve.io/deploymentMode: Standard
        serving.kserve.io/autoscalerClass: none
        airfreight.dev/release: 0a1b2c3d4e5f
        ...
    spec:
      predictor:
        annotations: {airfreight.dev/release: 0a1b2c3d4e5f}
        serviceAccountName: airfreight-model
        model:
          modelFormat: {name: vLLM}
          runtime: airfreight-vllm-cpu-1a2b3c4d5e6f
          storageUri: s3://llm-models/acme/pong/3b1f9d2c4a5e/
          resources: ...

`predictor.model.storageUri` plus a ServingRuntime of ours is the one form KServe injects every kind of weights into.
KServe takes containers, volumes, imagePullSecrets and what is about scheduling of a ServingRuntime, and nothing else of
its pod (v0.20, `MergePodSpec`), so what belongs to the pod stands here: its security context, its token, its grace
period, its rollout. The offline environment and the probes are the runtime's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from airfreight.delivery import Mode
from airfreight.errors import RequestError
from airfreight.observation import RELEASE_ANNOTATION
from airfreight.serving import Serving, parse_env, parse_node_selector, parse_toleration, quantity

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
# Case matters: KServe matches runtimes by the exact word (constants.SupportedModelVLLM).
MODEL_FORMAT = "vLLM"
# What KServe's defaulter writes for vLLM; said here so that applying the same object again changes nothing.
PROTOCOL_VERSION = "v2"
MODEL_SERVICE_ACCOUNT = "airfreight-model"
MANAGED_BY = {"app.kubernetes.io/managed-by": "airfreight"}
ARTIFACT_ANNOTATION = "airfreight.dev/artifact"
SOURCE_ANNOTATION = "airfreight.dev/source"
# What KServe is configured with as it is shipped (uidModelcar). Where a site has another number, KServe writes that one
# over ours, into the server and into the sidecar; where it has none, ours counts for both.
MODELCAR_UID, MODELCAR_GID = 1010, 0
# That user has no entry in /etc/passwd: getpass and everything that looks for a home would fail.
_MODELCAR_ENV = {"HOME": "/tmp", "USER": "vllm"}  # noqa: S108 - the container's own, an emptyDir of the runtime
# Bytes of a node's disk for a server's log, caches and temporary files: what it is promised, and what it may use.
SCRATCH_REQUEST, SCRATCH_LIMIT = 2**30, 24 * 2**30

# The pod label `app` becomes "isvc.<name>-predictor", and a label has at most 63 characters.
NAME_LIMIT = 63 - len("isvc.") - len("-predictor")
# Seconds from the first signal to the kill; a chat in flight may end.
TERMINATION_GRACE_S = 60

_PARALLEL_ARGS = frozenset(
    {"--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp"}
)
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # KServe: IsvcNameFmt
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_S3_PREFIX = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?:[^/\s]+/)+")
_IMAGE_BY_DIGEST = re.compile(r"oci(?:\+native)?://[^\s@]+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Deployment:
    """What is to be served, where.

    Args:
        name: of the InferenceService.
        namespace: of the target.
        artifact: what KServe is told: `s3://bucket/prefix/`, `oci://registry/repo@sha256:...` for a modelcar, or
            `oci+native://registry/repo@sha256:...` for an image volume.
        source: where it came from, at its commit; recorded, not read.
        served_name: the model's name in the OpenAI API.
        runtime: name of a ServingRuntime in the target namespace.
        serving: resources, arguments and placement.
        size_bytes: of the model; 0 where it is not known, and then no disk is asked for.
    """

    name: str
    namespace: str
    artifact: str
    source: str
    served_name: str
    runtime: str
    serving: Serving
    size_bytes: int = 0

    @property
    def mode(self) -> Mode:
        """The delivery mode: the scheme of the artifact."""
        return Mode(self.artifact.partition("://")[0])


def render(deployment: Deployment) -> dict[str, Any]:
    """Return the InferenceService without its release id; `with_release` adds that.

    Raises:
        RequestError: the name, the namespace or the artifact is not one that KServe can serve.
    """
    check_name(deployment.name)
    check_namespace(deployment.namespace)
    check_artifact(deployment.artifact)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": deployment.name,
            "namespace": deployment.namespace,
            "labels": dict(MANAGED_BY),
            "annotations": {
                # The cluster's default may be Knative, and KServe fixes the mode at the first write.
                "serving.kserve.io/deploymentMode": "Standard",
                # One replica; an HPA would only ask a metrics server that may not be there.
                "serving.kserve.io/autoscalerClass": "none",
                # As it was published, whatever the mode: people and the ledger look for this name.
                ARTIFACT_ANNOTATION: deployment.artifact.replace("oci+native://", "oci://", 1),
                SOURCE_ANNOTATION: deployment.source,
            },
        },
        "spec": {"predictor": _predictor(deployment)},
    }


def with_release(rendered: dict[str, Any], release: str) -> dict[str, Any]:
    """Return a copy of a rendered InferenceService that carries its release id, on itself and on its pods."""
    predictor = rendered["spec"]["predictor"]
    annotations = {**predictor.get("annotations", {}), RELEASE_ANNOTATION: release}
    metadata = rendered["metadata"]
    return {
        **rendered,
        "metadata": {**metadata, "annotations": {**metadata["annotations"], RELEASE_ANNOTATION: release}},
        "spec": {**rendered["spec"], "predictor": {**predictor, "annotations": annotations}},
    }


def service_url(name: str, namespace: str) -> str:
    """Return the URL of a model inside the cluster: KServe's Service for the predictor, port 80."""
    return f"http://{name}-predictor.{namespace}.svc.cluster.local"


def check_name(name: str) -> None:
    """Raise RequestError unless `name` can name an InferenceService and everything KServe derives from it."""
    if not _NAME.fullmatch(name) or len(name) > NAME_LIMIT:
        raise RequestError(
            f'"{name}" cannot name an InferenceService: use 1 to {NAME_LIMIT} small letters, digits and "-", and begin '
            "with a letter."
        )


def check_namespace(namespace: str) -> None:
    """Raise RequestError unless `namespace` can name a namespace."""
    if not _NAMESPACE.fullmatch(namespace):
        raise RequestError(f'"{namespace}" cannot name a namespace: use small letters, digits and "-".')


def check_artifact(artifact: str) -> None:
    """Raise RequestError unless the artifact is immutable by name: an S3 prefix with its slash, an image by digest."""
    if artifact.startswith("s3://"):
        if not artifact.endswith("/"):
            raise RequestError(
                f"{artifact} does not end in a slash, and KServe would also fetch what only begins like it: "
                f"write {artifact}/."
            )
        if not _S3_PREFIX.fullmatch(artifact):
            raise RequestError(f"{artifact} is no artifact: write s3://bucket/repository/version/.")
        return
    if artifact.startswith(("oci://", "oci+native://")):
        if not _IMAGE_BY_DIGEST.fullmatch(artifact):
            raise RequestError(
                f"{artifact} is not pinned, and a tag may change under a running model: write it with its digest, "
                "oci://registry/repository@sha256:<64 hex digits>."
            )
        return
    raise RequestError(f"{artifact} cannot be served: an artifact is s3://bucket/.../ or oci://...@sha256:....")


def _predictor(deployment: Deployment) -> dict[str, Any]:
    serving = deployment.serving
    predictor: dict[str, Any] = {
        "minReplicas": 1,
        "maxReplicas": 1,
        "deploymentStrategy": _strategy(serving),
        "serviceAccountName": MODEL_SERVICE_ACCOUNT,
        "automountServiceAccountToken": False,
        # Service links would put a variable per Service into the server's environment; vLLM reads VLLM_*.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, **_user(deployment)},
        "model": _model(deployment),
    }
    if serving.node_selector:
        predictor["nodeSelector"] = dict(parse_node_selector(line) for line in serving.node_selector)
    if serving.tolerations:
        predictor["tolerations"] = [_toleration(line) for line in serving.tolerations]
    return predictor


def _model(deployment: Deployment) -> dict[str, Any]:
    serving = deployment.serving
    model: dict[str, Any] = {
        "modelFormat": {"name": MODEL_FORMAT},
        "protocolVersion": PROTOCOL_VERSION,
        "runtime": deployment.runtime,
        "storageUri": deployment.artifact,
        "resources": _resources(deployment),
    }
    if user := _user(deployment):
        model["securityContext"] = user
    # KServe appends these to the runtime's, and the last one of an argument wins: the runtime serves {{.Name}}.
    args = [*_parallel(serving), *serving.server_args]
    if deployment.served_name != deployment.name:
        args.insert(0, f"--served-model-name={deployment.served_name}")
    if args:
        model["args"] = args
    env = {**(_MODELCAR_ENV if deployment.mode is Mode.OCI else {}), **dict(map(parse_env, serving.env))}
    if env:
        model["env"] = [{"name": name, "value": value} for name, value in env.items()]
    return model


def _user(deployment: Deployment) -> dict[str, int]:
    """The user of a modelcar's pod; of other pods it is the runtime's business.

    `/mnt/models` of a modelcar is a link into `/proc/PID/root` of the sidecar, which Linux opens only to a process of
    the same user and group (proc(5), ptrace access mode). KServe sets the user of server and sidecar, and no group: it
    would be the one that each image has for that user. Said for the pod it holds for the sidecar, whose container is
    KServe's to write; said for the server it holds against what the runtime says.
    """
    return {"runAsUser": MODELCAR_UID, "runAsGroup": MODELCAR_GID} if deployment.mode is Mode.OCI else {}


def _parallel(serving: Serving) -> list[str]:
    """Spread a model over the GPUs it gets, unless the user says how; vLLM alone would use the first one."""
    named = {line.partition("=")[0].replace("_", "-") for line in serving.server_args}
    if serving.gpus < 2 or named & _PARALLEL_ARGS:
        return []
    return [f"--tensor-parallel-size={serving.gpus}"]


def _resources(deployment: Deployment) -> dict[str, Any]:
    """Requests and limits; all are written, because KServe fills in limits of its own where one is missing."""
    serving, disk = deployment.serving, _disk(deployment)
    limits = {"cpu": serving.cpu, "memory": serving.memory}
    if serving.gpus:
        # A node with GPUs is there for this pod: what it may use is what it is promised.
        gpus = {"nvidia.com/gpu": str(serving.gpus)}
        return {"requests": {**limits, **gpus, **disk[0]}, "limits": {**limits, **gpus, **disk[1]}}
    # On the CPU several models share a node; a server waits most of its time and holds about half of its limit.
    cpu, memory = quantity(serving.cpu) / 4, quantity(serving.memory) / 2
    return {"requests": {"cpu": _milli(cpu), "memory": _mebi(memory), **disk[0]}, "limits": {**limits, **disk[1]}}


def _disk(deployment: Deployment) -> tuple[dict[str, str], dict[str, str]]:
    """Request and limit of ephemeral storage. Of S3 the model lies in the pod's own emptyDir; images are the node's."""
    if not deployment.size_bytes:
        return {}, {}
    own = pod_bytes(deployment.mode, deployment.size_bytes)
    limit = own - SCRATCH_REQUEST + SCRATCH_LIMIT
    return {"ephemeral-storage": _mebi(Decimal(own))}, {"ephemeral-storage": _mebi(Decimal(limit))}


def pod_bytes(mode: Mode, size_bytes: int) -> int:
    """Return what each pod is promised of its node's disk, in bytes: whole MiB, scratch included."""
    own = size_bytes if mode is Mode.S3 else 0
    return SCRATCH_REQUEST + -(-own // 2**20) * 2**20


def _strategy(serving: Serving) -> dict[str, Any]:
    if serving.gpus:
        # A surge would need a second set of GPUs, and wait for it for ever where there is none.
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def _toleration(line: str) -> dict[str, str]:
    taint = parse_toleration(line)
    if taint.value is None:
        return {"key": taint.key, "operator": "Exists", "effect": taint.effect}
    return {"key": taint.key, "operator": "Equal", "value": taint.value, "effect": taint.effect}


def _milli(cores: Decimal) -> str:
    return f"{max(1, int(cores * 1000))}m"


def _mebi(size: Decimal) -> str:
    return f"{max(1, int(size / 2**20))}Mi"
