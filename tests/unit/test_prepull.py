"""Which images are pulled where before the live pod is touched, by what pod, and how each pull stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airfreight.disk import Node
from airfreight.observation import Failed, FailureKind, Limits, Pending
from airfreight.prepull import BEGIN_S, LABEL, Image, Pull, Untried, images_of, judge, missing, pull_pod

NOW = datetime(2026, 11, 22, 19, 0, tzinfo=UTC)
VLLM = f"registry.example/vllm@sha256:{'71' * 32}"
CAR = f"registry.example/acme/pong@sha256:{'5c' * 32}"
INIT = "kserve/storage-initializer:v0.20.0"
PULL = Pull(Image(VLLM, "kserve-container"), "n1", "airfreight-pull-0a1b-0")
Thing = dict[str, Any]


def predictor(**spec: Any) -> Thing:
    server = {"name": "kserve-container", "image": VLLM, "volumeMounts": [{"name": "model", "mountPath": "/mnt"}]}
    return {
        "metadata": {"name": "pong-predictor-smoke", "namespace": "models"},
        "spec": {"containers": [server], "serviceAccountName": "airfreight-model", **spec},
    }


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(state: Thing | None = None, *, made_s: float = 5, scheduled: str = "True", **status: Any) -> Thing:
    conditions = [{"type": "PodScheduled", "status": scheduled, "lastTransitionTime": ago(made_s)}]
    conditions += status.pop("conditions", [])
    container = [] if state is None else [{"name": "pull", "image": VLLM, **state}]
    return {
        "metadata": {"name": PULL.pod, "creationTimestamp": ago(made_s)},
        "spec": {"serviceAccountName": "airfreight-model"},
        "status": {"phase": "Pending", "conditions": conditions, "containerStatuses": container, **status},
    }


def waiting(reason: str, message: str = "") -> Thing:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


def verdict(found: Thing | None) -> Any:
    return judge(found, PULL, "pong", NOW)


# ---- which images ----------------------------------------------------------------------------------------------------


def test_every_image_of_the_pod_is_named_once_with_what_needs_it() -> None:
    made = predictor(
        initContainers=[{"name": "storage-initializer", "image": INIT}],
        volumes=[{"name": "tmp", "emptyDir": {}}, {"name": "model", "image": {"reference": CAR}}],
    )
    assert images_of(made) == [
        Image(INIT, "storage-initializer"), Image(VLLM, "kserve-container"), Image(CAR, "kserve-container's volume"),
    ]  # fmt: skip
    twice = predictor(initContainers=[{"name": "modelcar-init", "image": CAR}])
    twice["spec"]["containers"].append({"name": "modelcar", "image": CAR})
    assert images_of(twice) == [Image(CAR, "modelcar-init"), Image(VLLM, "kserve-container")]


def node(name: str, *images: str, **more: Any) -> Node:
    return Node(name, 100, images=frozenset(images), **more)


def test_what_a_node_lists_is_not_pulled_there() -> None:
    both = [Image(VLLM, "kserve-container"), Image(INIT, "storage-initializer")]
    there = node("n1", VLLM, f"docker.io/{INIT}")
    tagged = node("n2", VLLM.replace("@sha256:" + "71" * 32, ":v1"), INIT)
    assert missing(both, [there]) == []
    assert missing(both, [there, tagged]) == [(both[0], tagged)], "by its digest, whatever its tag"


def test_of_many_nodes_those_that_lack_least_and_have_most_room_are_made_ready() -> None:
    image = Image(VLLM, "kserve-container")
    nodes = [node("full", requested=90), node("has", VLLM, requested=95), node("roomy"), node("middle", requested=50)]
    assert [at.name for _, at in missing([image], nodes, most=3)] == ["roomy", "middle"]
    assert [at.name for _, at in missing([image], nodes)] == ["roomy", "middle", "full"]


# ---- the pod ---------------------------------------------------------------------------------------------------------


def test_the_pod_is_restricted_small_and_like_the_predictor() -> None:
    tolerations = [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    model = predictor(tolerations=tolerations, imagePullSecrets=[{"name": "airfreight-pull"}], priority=0)
    model["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    made = pull_pod(PULL, model, "pong")
    spec, container = made["spec"], made["spec"]["containers"][0]
    assert made["metadata"]["namespace"] == "models" and made["metadata"]["labels"][LABEL] == "pong"
    assert spec["serviceAccountName"] == "airfreight-model" and spec["imagePullSecrets"] == [
        {"name": "airfreight-pull"}
    ]
    assert spec["tolerations"] == tolerations and "priority" not in spec
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert terms == [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]
    assert (container["image"], container["imagePullPolicy"]) == (VLLM, "IfNotPresent")
    assert "nvidia.com/gpu" not in str(container["resources"])
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert (
        not spec["automountServiceAccountToken"] and spec["activeDeadlineSeconds"] and spec["restartPolicy"] == "Never"
    )


# ---- how a pull stands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        {"imageID": VLLM, "state": {"waiting": {"reason": "ContainerCreating"}}},
        {"state": {"running": {}}},
        {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
        {"state": {"terminated": {"exitCode": 128, "reason": "StartError", "message": 'exec: "true": not found'}}},
        {"state": {"terminated": {"exitCode": 127, "reason": "ContainerCannotRun"}}},
        waiting("RunContainerError", "exec: no such file"),
        waiting("CreateContainerError", "no command specified"),
        waiting("CreateContainerConfigError", "container has runAsNonRoot"),
    ],
)
def test_a_container_that_was_made_from_its_image_proves_the_pull(state: Thing) -> None:
    assert verdict(pod(state)) is True


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("failed to resolve: manifest unknown", "correct the image, or the pull secrets of the service account."),
        (
            "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
            "correct the login",
        ),
        ("pull access denied: 401 Unauthorized", "in the Secret that airfreight-model lists in imagePullSecrets, or"),
    ],
)
def test_what_cannot_be_had_fails_at_once_in_the_words_of_the_wait(message: str, remedy: str) -> None:
    found = verdict(pod(waiting("ErrImagePull", message)))
    assert isinstance(found, Failed)
    assert found.sentence.startswith(f"pong on n1: the image {VLLM} of kserve-container cannot be pulled ({message}")
    assert remedy in found.sentence and found.kind is FailureKind.REQUEST


def test_a_registry_that_is_down_and_a_full_disk_are_given_time() -> None:
    full = waiting("ImagePullBackOff", "write /var/lib/containerd/x: no space left on device")
    assert isinstance(verdict(pod(full)), Pending)
    late = verdict(pod(full, made_s=130))
    assert isinstance(late, Failed) and late.sentence.endswith("free disk on that node, or choose other nodes.")
    assert late.kind is FailureKind.TEMPORARY, (
        "tried again: one broken connection after ten minutes is no wrong request"
    )
    assert isinstance(judge(pod(full), PULL, "pong", NOW, Limits(pull_s=0)), Failed)


def test_a_pod_that_its_node_evicts_tells_of_the_disk() -> None:
    said = "The node was low on resource: ephemeral-storage."
    found = verdict(pod(phase="Failed", reason="Evicted", message=said))
    assert isinstance(found, Failed)
    assert f"cannot be pulled (Evicted: {said.rstrip('.')}); free disk on that node" in found.sentence


def test_what_only_could_not_be_tried_is_no_failure_of_the_image() -> None:
    assert verdict(None) == Untried("its pod is gone")
    assert verdict(
        pod(phase="Failed", reason="OutOfpods", message="Node didn't have enough resource: pods")
    ) == Untried("OutOfpods: Node didn't have enough resource: pods")
    unknown = {"state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}}
    ended = verdict(pod(unknown, phase="Failed", reason="DeadlineExceeded"))
    assert ended == Untried("DeadlineExceeded: no message")


def test_a_pod_that_never_begins_is_given_up_and_one_that_pulls_is_not() -> None:
    assert isinstance(verdict(pod(made_s=BEGIN_S - 5, scheduled="False")), Pending)
    full = pod(made_s=BEGIN_S + 5, scheduled="False")
    full["status"]["conditions"][0]["message"] = "0/1 nodes are available: 1 Too many pods."
    assert verdict(full) == Untried("0/1 nodes are available: 1 Too many pods")
    network = [{"type": "PodReadyToStartContainers", "status": "False"}]
    creating = waiting("ContainerCreating")
    assert verdict(pod(creating, made_s=BEGIN_S + 5, conditions=network)) == Untried("its pod does not start")
    assert verdict(pod(creating, made_s=1800)) == Pending(f"{VLLM} on n1")


def test_a_sidecar_that_a_mesh_puts_in_proves_nothing() -> None:
    found = pod(waiting("ContainerCreating"))
    there = {"name": "istio-proxy", "imageID": "istio/proxyv2@sha256:1", "state": {"running": {}}}
    found["status"]["containerStatuses"].insert(0, there)
    found["status"]["initContainerStatuses"] = [{**there, "name": "istio-init"}]
    assert isinstance(verdict(found), Pending)
    assert pull_pod(PULL, {"metadata": {"namespace": "models"}, "spec": {}}, "pong")["metadata"]["annotations"] == {
        "sidecar.istio.io/inject": "false"
    }
