"""The smoke test: would the pod that KServe makes be right? No model server runs, nothing is pulled, nothing is stored.

The InferenceService and then its pod go through the cluster's own admission as a server-side dry run: KServe's
webhooks, Pod Security, quotas. KServe's controller makes the pod from the InferenceService and the ServingRuntime; it
cannot be asked to only say which, so `pod_of` makes the same one, and KServe's pod webhook then injects the model into
it exactly as it would (it looks at the label and the annotation alone). What came back is checked and shown:

    ok     sidecar modelcar         registry.example/models/acme/pong@sha256:5c1b...
    ok     shared process namespace  true
    WRONG  mount                     nothing at /mnt

Sources: KServe v0.20 `pkg/controller/v1beta1/inferenceservice/components/predictor.go` (buildPodSpec),
`.../utils/utils.go` (MergeRuntimeContainers, MergePodSpec),
`pkg/webhook/admission/pod/storage_initializer_injector.go`, `pkg/utils/storage.go`; shared-process-namespace access:
proc(5).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airfreight.cluster import PODS
from airfreight.delivery import Mode
from airfreight.observation import SERVICE_LABEL, annotations_of, metadata, name_of

SERVER = "kserve-container"
INITIALIZER = "storage-initializer"
MODELCAR, MODELCAR_INIT = "modelcar", "modelcar-init"
MODELS = "/mnt/models"
_NAME_ENV = "INFERENCE_SERVICE_NAME"
SOURCE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
# What the controller takes of a runtime beside containers and volumes; what the predictor has goes before it.
_OF_THE_RUNTIME = ("imagePullSecrets", "nodeSelector", "affinity", "tolerations", "schedulerName")
# What of a predictor is not part of its pod: KServe v0.20, ComponentExtensionSpec, and the implementations.
_NOT_OF_THE_POD = frozenset(
    {"model", "minReplicas", "maxReplicas", "deploymentStrategy", "annotations", "labels", "name", "timeout", "logger",
     "batcher", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling", "containerConcurrency", "workerSpec",
     "canaryTrafficPercent", "storageUris", "storageContainerName"}
)  # fmt: skip
# constants.ServiceAnnotationDisallowedList, as far as somebody sets them, and what the defaulter writes for itself.
_NOT_OF_THE_PODS_ANNOTATIONS = frozenset({"kubectl.kubernetes.io/last-applied-configuration", "modelFormat"})
# Fields of predictor.model that say which model; the others are the container's.
_NOT_OF_THE_CONTAINER = frozenset(
    {"modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storage", "storageUri", "args", "env"}
)


@dataclass(frozen=True)
class Check:
    """One line of the smoke test.

    Args:
        name: what was looked at.
        ok: whether it is right.
        found: what is there, for a person.
    """

    name: str
    ok: bool
    found: str


def table(checks: list[Check]) -> str:
    """Return the checks as lines for a person, the columns aligned."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{'ok' if check.ok else 'WRONG':6} {check.name:{width}}  {check.found}" for check in checks)


def pod_of(service: Mapping[str, Any], runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod as KServe's controller would make it, before its webhook injects the model.

    Args:
        service: an InferenceService as admission leaves it, `predictor.model` with a runtime.
        runtime: that ServingRuntime.
    """
    predictor = service["spec"]["predictor"]
    name = name_of(service)
    annotations = {**annotations_of(service), **(predictor.get("annotations") or {})}
    under = {key: runtime["spec"][key] for key in _OF_THE_RUNTIME if runtime["spec"].get(key)}
    over = {key: value for key, value in predictor.items() if key not in _NOT_OF_THE_POD}
    spec = copy.deepcopy({**under, **over})
    if "nodeSelector" in under:
        spec["nodeSelector"] = {**under["nodeSelector"], **(over.get("nodeSelector") or {})}
    if "imagePullSecrets" in under:  # its merge key is the name
        both = [*under["imagePullSecrets"], *(over.get("imagePullSecrets") or [])]
        spec["imagePullSecrets"] = list({one["name"]: dict(one) for one in both}.values())
    containers = runtime["spec"]["containers"]
    server = next(one for one in containers if one["name"] == SERVER)
    merged = _filled(_merged(server, predictor["model"]), service)
    others = [copy.deepcopy(one) for one in containers if one["name"] != SERVER]
    spec["containers"] = [merged, *others, *(spec.get("containers") or [])]
    spec["volumes"] = [*copy.deepcopy(runtime["spec"].get("volumes") or []), *(spec.get("volumes") or [])]
    return {
        "apiVersion": PODS.group_version,
        "kind": PODS.kind,
        "metadata": {
            "name": f"{name}-predictor-smoke",
            "namespace": metadata(service)["namespace"],
            "labels": {
                **(metadata(service).get("labels") or {}),
                "app": f"isvc.{name}-predictor",
                "component": "predictor",
                SERVICE_LABEL: name,
            },
            "annotations": {
                **{key: value for key, value in annotations.items() if key not in _NOT_OF_THE_PODS_ANNOTATIONS},
                SOURCE_URI: predictor["model"]["storageUri"],
            },
        },
        "spec": spec,
    }


def examine(pod: Mapping[str, Any], mode: Mode, storage_uri: str) -> list[Check]:
    """Check a pod as KServe's webhook left it.

    Args:
        storage_uri: what the InferenceService names.
    """
    rules = {Mode.S3: _s3, Mode.OCI: _modelcar, Mode.NATIVE: _native}
    return rules[mode](pod["spec"], storage_uri)


def _s3(spec: Mapping[str, Any], storage_uri: str) -> list[Check]:
    initializer = _container(spec, INITIALIZER, init=True)
    names = {entry["name"]: entry for entry in initializer.get("env") or []}
    keys = {name: ((names.get(name) or {}).get("valueFrom") or {}).get("secretKeyRef") or {} for name in _KEYS}
    endpoint = (names.get("AWS_ENDPOINT_URL") or {}).get("value") or ""
    identity = sorted(names.keys() & _IDENTITY) or (
        ["nobody"] if str((names.get("awsAnonymousCredential") or {}).get("value")).lower() == "true" else []
    )
    if all(keys.values()):
        given = f"keys of Secret {keys[_KEYS[0]].get('name')}"
    else:
        # On AWS the node itself may have a role; any other store needs keys.
        given = ", ".join(identity) or ("none" if endpoint else "none but those of the node")
    return [
        _is(f"init container {INITIALIZER}", initializer.get("args"), [storage_uri, MODELS], " ".join),
        Check("store", bool(initializer), endpoint or "AWS S3"),
        Check("credentials", bool(initializer) and given != "none", given),
        _mount(spec, INITIALIZER, MODELS, init=True),
        _mount(spec, SERVER, MODELS),
        _absent(spec, MODELCAR),
    ]


# Keys of the Secret; and what stands for them where the cluster gives its pods an identity of their own.
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_IDENTITY = frozenset({"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"})


def _modelcar(spec: Mapping[str, Any], storage_uri: str) -> list[Check]:
    image = storage_uri.removeprefix("oci://")
    sidecar, server = _container(spec, MODELCAR), _container(spec, SERVER)
    env = {entry["name"]: entry.get("value", "") for entry in server.get("env") or []}
    command = " ".join(sidecar.get("args") or [])
    return [
        _is(f"sidecar {MODELCAR}", sidecar.get("image"), image),
        _is(f"init container {MODELCAR_INIT}", _container(spec, MODELCAR_INIT, init=True).get("image"), image),
        _is("shared process namespace", spec.get("shareProcessNamespace"), True, lambda _: "true"),
        Check(f"link {MODELS}", f"/root/models {MODELS}" in command, command or "none"),
        _mount(spec, SERVER, "/mnt"),
        _mount(spec, MODELCAR, "/mnt"),
        _same_user(_user(spec, server), _user(spec, sidecar)),
        Check("HOME and USER", bool(env.get("HOME") and env.get("USER")), f"{env.get('HOME')}, {env.get('USER')}"),
        _absent(spec, INITIALIZER),
    ]


def _native(spec: Mapping[str, Any], storage_uri: str) -> list[Check]:
    image = storage_uri.removeprefix("oci+native://")
    volumes = {one["name"]: one["image"] for one in spec.get("volumes") or [] if one.get("image")}
    mount = next((one for one in _mounts(_container(spec, SERVER)) if one["mountPath"] == MODELS), {})
    volume, folder = volumes.get(mount.get("name", ""), {}), mount.get("subPath")
    return [
        _is("image volume", volume.get("reference"), image),
        Check(f"mount {MODELS}", folder == "models", _folder(mount, folder)),
        Check("read only", mount.get("readOnly") is True, str(mount.get("readOnly", False)).lower()),
        _absent(spec, MODELCAR),
        _absent(spec, INITIALIZER),
    ]


def _folder(mount: Mapping[str, Any], folder: str | None) -> str:
    if not mount:
        return "none"
    return f"folder {folder} of the image" if folder else "the whole image"


def _same_user(server: tuple[Any, Any], sidecar: tuple[Any, Any]) -> Check:
    """`/proc/PID/root` opens only to the sidecar's own user and group; what nobody says is the image's, so unknown."""
    right = server == sidecar and None not in server
    said = [
        "uid {}, gid {}".format(*("the image's" if one is None else one for one in who)) for who in (server, sidecar)
    ]
    return Check(
        "user and group", right, f"server and sidecar {said[0]}" if right else f"server {said[0]}; sidecar {said[1]}"
    )


def _user(spec: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[Any, Any]:
    own, whole = container.get("securityContext") or {}, spec.get("securityContext") or {}
    return own.get("runAsUser", whole.get("runAsUser")), own.get("runAsGroup", whole.get("runAsGroup"))


def _is(name: str, found: Any, wanted: Any, words: Any = str) -> Check:
    if found == wanted:
        return Check(name, True, words(found))
    return Check(name, False, f"{'none' if found is None else found}, not {words(wanted)}")


def _mount(spec: Mapping[str, Any], container: str, path: str, *, init: bool = False) -> Check:
    found = next((one for one in _mounts(_container(spec, container, init=init)) if one["mountPath"] == path), None)
    name = f"mount {path} in {container}"
    return Check(name, found is not None, f"volume {found['name']}" if found else "none")


def _absent(spec: Mapping[str, Any], container: str) -> Check:
    there = bool(_container(spec, container) or _container(spec, container, init=True))
    return Check(f"no {container}", not there, "there, and two ways of delivery are one too many" if there else "none")


def _mounts(container: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(container.get("volumeMounts") or [])


def _container(spec: Mapping[str, Any], name: str, *, init: bool = False) -> Mapping[str, Any]:
    containers = spec.get("initContainers" if init else "containers") or []
    return next((one for one in containers if one["name"] == name), {})


# ---- the controller's merge ----------------------------------------------------------------------------------------


def _merged(server: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Put predictor.model over the runtime's container: a strategic merge, except that arguments are appended."""
    merged: dict[str, Any] = copy.deepcopy(dict(server))
    for key, value in model.items():
        if key in _NOT_OF_THE_CONTAINER:
            continue
        under = merged.get(key)
        merged[key] = {**under, **value} if isinstance(under, dict) and isinstance(value, dict) else value
    if "resources" in model:
        merged["resources"] = {
            kind: {**((server.get("resources") or {}).get(kind) or {}), **((model["resources"] or {}).get(kind) or {})}
            for kind in ("requests", "limits")
        }
    merged["args"] = [*(server.get("args") or []), *(model.get("args") or [])]
    env = [*(server.get("env") or []), *(model.get("env") or []), {"name": _NAME_ENV, "value": "{{.Name}}"}]
    merged["env"] = list({entry["name"]: entry for entry in env}.values())
    merged["name"] = SERVER
    return merged


def _filled(container: dict[str, Any], service: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a runtime's arguments and environment say of the InferenceService."""
    words = {"{{.Name}}": name_of(service), "{{.Namespace}}": str(metadata(service)["namespace"])}

    def fill(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    container["args"] = [fill(line) for line in container["args"]]
    container["env"] = [
        {**entry, "value": fill(entry["value"])} if "value" in entry else entry for entry in container["env"]
    ]
    return container
