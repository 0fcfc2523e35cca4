"""The smoke test: the pod as KServe's controller makes it, and what of a pod after KServe's webhook is right or wrong.

The injected containers are those of KServe v0.20 (`pkg/utils/storage.go`); that `pod_of` makes the pod of the real
controller is shown by tests/integration/test_cluster.py.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from airfreight.delivery import Mode
from airfreight.rendering import Deployment, render
from airfreight.runtime import pin
from airfreight.serving import Serving
from airfreight.smoke import SOURCE_URI, Check, examine, pod_of, table

IMAGE = f"registry.example/acme/pong@sha256:{'5c' * 32}"
URIS = {
    Mode.S3: "s3://llm-models/acme/pong/3b1f9d2c4a5e/",
    Mode.OCI: f"oci://{IMAGE}",
    Mode.NATIVE: f"oci+native://{IMAGE}",
}
RUNTIME = pin(f"registry.example/vllm@sha256:{'0' * 64}", "vllm-cpu", namespace="models")
Thing = dict[str, Any]


def rendered(mode: Mode, **serving: Any) -> Thing:
    name = RUNTIME["metadata"]["name"]
    return render(Deployment("pong", "models", URIS[mode], "hf://acme/pong@3b", "pong", name, Serving(**serving)))


def server(pod: Thing) -> Thing:
    found: Thing = next(one for one in pod["spec"]["containers"] if one["name"] == "kserve-container")
    return found


def injected(mode: Mode) -> Thing:
    """Return the pod after KServe's webhook."""
    pod = copy.deepcopy(pod_of(rendered(mode), RUNTIME))
    spec, container = pod["spec"], server(pod)
    shared = {"name": "kserve-provision-location", "mountPath": "/mnt"}
    if mode is Mode.OCI:
        container["env"].append({"name": "MODEL_INIT_MODE", "value": "async"})
        container["volumeMounts"].append(shared)
        spec["containers"].append(
            {
                "name": "modelcar",
                "image": IMAGE,
                "args": ["sh", "-c", "ln -sf /proc/$$$$/root/models /mnt/models && sleep infinity"],
                "securityContext": {"runAsUser": 1010},
                "volumeMounts": [shared],
            }
        )
        spec["initContainers"] = [{"name": "modelcar-init", "image": IMAGE}]
        spec["shareProcessNamespace"] = True
    elif mode is Mode.NATIVE:
        spec["volumes"].append({"name": "mnt-models", "image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}})
        container["volumeMounts"].append(
            {"name": "mnt-models", "mountPath": "/mnt/models", "subPath": "models", "readOnly": True}
        )
    else:
        at = {**shared, "mountPath": "/mnt/models"}
        key = {"secretKeyRef": {"name": "airfreight-store", "key": "x"}}
        env = [{"name": name, "valueFrom": key} for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        env.append({"name": "AWS_ENDPOINT_URL", "value": "http://minio:9000"})
        spec["initContainers"] = [
            {"name": "storage-initializer", "args": [URIS[mode], "/mnt/models"], "env": env, "volumeMounts": [at]}
        ]
        container["volumeMounts"].append({**at, "readOnly": True})
    return pod


def wrong(pod: Thing, mode: Mode) -> list[str]:
    return [f"{check.name}: {check.found}" for check in examine(pod, mode, URIS[mode]) if not check.ok]


@pytest.mark.parametrize("mode", list(Mode))
def test_what_kserve_makes_is_right(mode: Mode) -> None:
    assert wrong(injected(mode), mode) == []


@pytest.mark.parametrize("mode", list(Mode))
def test_a_pod_into_which_nothing_was_injected_is_wrong(mode: Mode) -> None:
    assert len(wrong(pod_of(rendered(mode), RUNTIME), mode)) >= 2


def test_the_pod_before_injection() -> None:
    pod = pod_of(rendered(Mode.OCI, env=["A=1"], server_args=["--max-num-seqs=1"], cpu="1"), RUNTIME)
    container = server(pod)
    assert container["image"] == f"registry.example/vllm@sha256:{'0' * 64}"
    assert "--served-model-name=pong" in container["args"], "KServe fills in the runtime's template"
    assert container["args"][-1] == "--max-num-seqs=1", "the user's arguments come last"
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env["A"] == "1" and env["HF_HUB_OFFLINE"] == "1" and env["INFERENCE_SERVICE_NAME"] == "pong"
    assert container["resources"]["limits"]["cpu"] == "1"
    assert container["securityContext"]["runAsUser"] == 1010 and container["securityContext"]["runAsNonRoot"] is True
    assert pod["metadata"]["labels"]["serving.kserve.io/inferenceservice"] == "pong"
    assert pod["metadata"]["annotations"][SOURCE_URI] == URIS[Mode.OCI]
    assert pod["spec"]["serviceAccountName"] == "airfreight-model"
    assert {"model", "minReplicas", "deploymentStrategy"} & pod["spec"].keys() == set()
    assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["shm", "tmp"]


def test_what_kserve_takes_of_a_runtime_and_what_of_the_predictor_goes_before_it() -> None:
    runtime = copy.deepcopy(RUNTIME)
    gpu = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    runtime["spec"] |= {
        "imagePullSecrets": [{"name": "other-pull"}], "nodeSelector": {"pool": "gpu", "zone": "x"},
        "affinity": affinity, "tolerations": [gpu], "schedulerName": "bins",
    }  # fmt: skip
    spec = pod_of(rendered(Mode.OCI), runtime)["spec"]
    assert {key: spec[key] for key in ("imagePullSecrets", "affinity", "tolerations", "schedulerName")} == {
        "imagePullSecrets": [{"name": "other-pull"}], "affinity": affinity, "tolerations": [gpu],
        "schedulerName": "bins",
    }  # fmt: skip
    assert spec["nodeSelector"] == {"pool": "gpu", "zone": "x"}
    service = rendered(Mode.OCI)
    service["spec"]["predictor"]["imagePullSecrets"] = [{"name": "mine"}, {"name": "other-pull"}]
    assert pod_of(service, RUNTIME)["spec"]["imagePullSecrets"] == [{"name": "mine"}, {"name": "other-pull"}]
    assert pod_of(service, runtime)["spec"]["imagePullSecrets"] == [{"name": "other-pull"}, {"name": "mine"}]
    own = pod_of(rendered(Mode.OCI, node_selector=["zone=y", "a=b"], tolerations=["mine:NoExecute"]), runtime)["spec"]
    assert own["nodeSelector"] == {"pool": "gpu", "zone": "y", "a": "b"}
    assert own["tolerations"] == [{"key": "mine", "operator": "Exists", "effect": "NoExecute"}]
    assert (
        not {"imagePullSecrets", "nodeSelector", "schedulerName"} & pod_of(rendered(Mode.OCI), RUNTIME)["spec"].keys()
    )


def test_nothing_that_was_handed_in_is_changed() -> None:
    service, runtime = rendered(Mode.OCI), copy.deepcopy(RUNTIME)
    before = copy.deepcopy(service)
    pod = pod_of(service, runtime)
    pod["spec"]["volumes"].append({})
    server(pod)["env"].append({})
    assert service == before and runtime == RUNTIME


def test_the_trap_of_user_and_group() -> None:
    pod = injected(Mode.OCI)
    server(pod)["securityContext"]["runAsGroup"] = 1010
    assert wrong(pod, Mode.OCI) == ["user and group: server uid 1010, gid 1010; sidecar uid 1010, gid 0"]
    del pod["spec"]["securityContext"]["runAsGroup"], server(pod)["securityContext"]["runAsGroup"]
    (found,) = wrong(pod, Mode.OCI)
    assert found.startswith("user and group: server uid 1010, gid the image's"), "what nobody says may differ"


def test_another_image_is_named() -> None:
    pod = injected(Mode.OCI)
    pod["spec"]["containers"][-1]["image"] = "registry.example/acme/pong:latest"
    assert wrong(pod, Mode.OCI) == [f"sidecar modelcar: registry.example/acme/pong:latest, not {IMAGE}"]
    pod = injected(Mode.NATIVE)
    pod["spec"]["volumes"][-1]["image"]["reference"] = "registry.example/acme/pong:latest"
    assert wrong(pod, Mode.NATIVE) == [f"image volume: registry.example/acme/pong:latest, not {IMAGE}"]


def test_a_modelcar_with_a_storage_initializer_too_is_wrong() -> None:
    pod = injected(Mode.OCI)
    pod["spec"]["initContainers"].append({"name": "storage-initializer"})
    assert wrong(pod, Mode.OCI) == ["no storage-initializer: there, and two ways of delivery are one too many"]


def test_s3_without_keys() -> None:
    pod = injected(Mode.S3)
    initializer = pod["spec"]["initContainers"][0]
    initializer["env"] = initializer["env"][2:]
    assert wrong(pod, Mode.S3) == ["credentials: none"]
    initializer["env"] = [{"name": "AWS_ROLE_ARN", "value": "arn:aws:iam::1:role/models"}]
    assert wrong(pod, Mode.S3) == [], "a cluster may give its pods an identity"
    initializer["env"] = []
    assert wrong(pod, Mode.S3) == [], "on AWS the node may have a role"


def test_s3_of_another_prefix() -> None:
    pod = injected(Mode.S3)
    pod["spec"]["initContainers"][0]["args"] = ["s3://llm-models/acme/pong/3b1f9d2c4a5e", "/mnt/models"]
    (found,) = wrong(pod, Mode.S3)
    assert found.startswith("init container storage-initializer: ")


def test_an_image_volume_that_can_be_written_or_is_the_whole_image() -> None:
    pod = injected(Mode.NATIVE)
    server(pod)["volumeMounts"][-1].update(subPath="", readOnly=False)
    assert wrong(pod, Mode.NATIVE) == ["mount /mnt/models: the whole image", "read only: false"]


def test_the_table() -> None:
    assert table([Check("a", True, "x"), Check("longer", False, "none")]) == "ok     a       x\nWRONG  longer  none"
