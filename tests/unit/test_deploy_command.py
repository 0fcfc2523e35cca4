"""`airfreight deploy`, `smoke` and `render`: what is asked, what is shown, what each refusal exits with."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight.cli import main
from airfreight.cluster import Applied, Cluster, Resource
from airfreight.errors import RequestError
from airfreight.runtime import pin
from airfreight.smoke import SOURCE_URI
from airfreight.stores.oci.registry import OCI_MANIFEST
from tests.standins.registry import Registry

RUNTIME = pin(f"registry.example/vllm@sha256:{'0' * 64}", "vllm-cpu", namespace="models")
S3 = "s3://llm-models/acme/pong/3b1f9d2c4a5e/"
Thing = dict[str, Any]


class FakeCluster:
    """A cluster that admits everything and whose webhook injects image volumes and modelcars; what it was asked."""

    def __init__(self) -> None:
        self.oci: Thing = {"enableModelcar": True}
        self.level = "baseline"
        self.refuses = self.edited = ""
        self.forgets_the_mount = False
        self.disk, self.gpus = "100Gi", "0"
        self.runtime: Thing = RUNTIME
        self.pods: list[Thing] = []
        self.nodes: dict[str, str] = {"a": "containerd://2.1.4"}
        self.changes, self.stopped = True, False
        self.applied: list[Thing] = []
        self.live: Thing | None = None
        self.images: list[str] = []
        self.secret: Thing = {"data": {}}

    def version(self) -> Thing:
        return {"major": "1", "minor": "34"}

    def get(self, resource: Resource, namespace: str | None, name: str) -> Thing | None:
        label = {"pod-security.kubernetes.io/enforce": self.level}
        return {
            "ServingRuntime": self.runtime,
            "InferenceService": self.live,
            "ConfigMap": {"data": {"storageInitializer": json.dumps(self.oci)}},
            "Namespace": {"metadata": {"labels": label}},
            "ServiceAccount": {"metadata": {"name": name}},
            "Secret": self.secret,
        }.get(resource.kind)

    def items(self, resource: Resource, namespace: str | None = None, selector: str = "", *, fields: str = "") -> Any:
        if resource.kind != "Node":
            return self.pods if resource.kind == "Pod" else []
        status = {
            "allocatable": {"ephemeral-storage": self.disk, "nvidia.com/gpu": self.gpus},
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": [{"names": self.images}],
        }
        return [
            {"metadata": {"name": name}, "spec": {},
             "status": {**status, "nodeInfo": {"containerRuntimeVersion": runtime}}}
            for name, runtime in self.nodes.items()
        ]  # fmt: skip

    def apply(self, wanted: Thing, *, dry_run: bool = False, take_over: bool = False) -> Applied:
        if self.edited and not take_over:
            raise RequestError(f"{self.edited} edited it by hand.")
        self.applied += [] if dry_run else [wanted]
        made = copy.deepcopy(wanted)
        if self.stopped:
            made["metadata"]["annotations"]["serving.kserve.io/stop"] = "true"
        return Applied(self.changes, made)

    def rehearse(self, resource: Resource, wanted: Thing) -> Thing:
        uri = (wanted["metadata"].get("annotations") or {}).get(SOURCE_URI)
        if uri is None:
            return wanted
        if self.refuses:
            raise RequestError(self.refuses)
        pod = copy.deepcopy(wanted)
        spec, server = pod["spec"], pod["spec"]["containers"][0]
        if uri.startswith("oci+native://"):
            spec["volumes"].append({"name": "m", "image": {"reference": uri.removeprefix("oci+native://")}})
            mount = {"name": "m", "mountPath": "/mnt/models", "subPath": "models", "readOnly": True}
            server["volumeMounts"] += [] if self.forgets_the_mount else [mount]
        elif uri.startswith("s3://"):
            mounts = [{"name": "k", "mountPath": "/mnt/models"}]
            server["volumeMounts"] += mounts
            spec["initContainers"] = [
                {"name": "storage-initializer", "args": [uri, "/mnt/models"], "volumeMounts": mounts}
            ]
        return pod


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster()
    monkeypatch.setattr(Cluster, "connect", lambda **_: fake)
    return fake


@pytest.fixture
def image() -> Iterator[str]:
    document = {
        "mediaType": OCI_MANIFEST,
        "layers": [{"size": 3 * 2**30}],
        "annotations": {"airfreight.dev/recipe": "1"},
    }
    with Registry() as registry:
        yield f"oci://{registry.host}/pong@{registry.put_manifest('pong', OCI_MANIFEST, json.dumps(document).encode())}"


def words(command: str, *artifacts: str, **options: str) -> list[str]:
    named = {
        "name": "pong", "namespace": "models", "source": "hf://acme/pong@3b", "served_name": "pong",
        "serving": json.dumps({"runtime": RUNTIME["metadata"]["name"]}), **options,
    }  # fmt: skip
    pairs = [word for key, value in named.items() for word in (f"--{key.replace('_', '-')}", value)]
    return [command, *pairs, *(word for artifact in artifacts for word in ("--artifact", artifact))]


def test_a_deploy_says_what_it_found_and_applies(
    cluster: FakeCluster, image: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = tmp_path / "return.json"
    assert main(words("deploy", S3, image, result=str(result))) == 0
    lines = capsys.readouterr().out.splitlines()
    host = image.removeprefix("oci://").partition("/")[0]
    assert lines[:3] == [
        f"Image: {host} gives it to everybody, and it holds the model alone.",
        "Delivery oci+native: the image is mounted as a volume, once for a node.",
        "Node disk: 4.0 GiB needed, 100.0 GiB free on a.",
    ]
    said = json.loads(result.read_text())
    assert lines[3] == f"pong in models, release {said['release']}: applied."
    assert (said["delivery"], said["artifact"], said["changed"], said["stopped"]) == ("oci+native", image, True, False)
    (applied,) = cluster.applied
    assert applied["spec"]["predictor"]["model"]["storageUri"] == image.replace("oci://", "oci+native://")
    assert applied["metadata"]["annotations"]["airfreight.dev/release"] == said["release"]


def test_modelcars_off_changes_the_mode_and_says_why(
    cluster: FakeCluster, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.oci = {}
    assert main(words("deploy", S3, image)) == 0
    assert (
        "Delivery s3: not oci+native: KServe serves no images here (its modelcars are off)" in capsys.readouterr().out
    )
    assert cluster.applied[0]["spec"]["predictor"]["model"]["storageUri"] == S3


def test_what_was_edited_by_hand_is_overwritten_only_when_asked(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.edited = "kubectl-edit"
    assert main(words("deploy", S3)) == 2
    assert "kubectl-edit edited it by hand." in capsys.readouterr().err
    assert main([*words("deploy", S3), "--take-over"]) == 0
    assert len(cluster.applied) == 1


@pytest.mark.parametrize("command", ["deploy", "smoke"])
def test_a_mode_that_is_not_possible_ends_with_2(
    cluster: FakeCluster, image: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(command, image, delivery="oci")) == 2
    assert "Delivery oci is not possible here: the image holds the model alone" in capsys.readouterr().err
    assert cluster.applied == []


@pytest.mark.parametrize("command", ["deploy", "smoke"])
def test_a_wrong_pod_ends_with_4_and_the_table_is_shown(
    cluster: FakeCluster, image: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.forgets_the_mount = True
    assert main(words(command, image)) == 4
    said = capsys.readouterr()
    assert "WRONG  mount /mnt/models       none" in said.out
    assert "KServe would not make the right pod for delivery oci+native of pong (image volume: none, not" in said.err
    assert "choose another delivery." in said.err and cluster.applied == []


def test_a_smoke_test_shows_a_table_and_applies_nothing(
    cluster: FakeCluster, image: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = tmp_path / "return.json"
    assert main(words("smoke", image, result=str(result))) == 0
    said = json.loads(result.read_text())
    assert said["delivery"] == "oci+native" and all(check["ok"] for check in said["checks"])
    assert {"name": "mount /mnt/models", "ok": True, "found": "folder models of the image"} in said["checks"]
    assert "ok     image volume            127.0.0.1" in capsys.readouterr().out
    assert cluster.applied == []


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (
            'The cluster refuses to create Pod x: secrets "airfreight-store" not found; correct what it names.',
            "KServe finds no Secret airfreight-store in namespace models, which the service account airfreight-model "
            "lists, so it would make no pod; create it with AWS_ACCESS_KEY_ID",
        ),
        (
            'The cluster refuses to create Pod x: pods "x" is forbidden: violates PodSecurity "restricted:latest": a; '
            "correct what it names.",
            'Namespace models refuses the pod of delivery s3 (violates PodSecurity "restricted:latest": a); label it '
            "pod-security.kubernetes.io/enforce=baseline, which KServe's own containers need, or choose delivery",
        ),
        (
            "The cluster refuses to create Pod x: exceeded quota: compute, used: cpu=2; correct what it names.",
            "Namespace models has no quota left for the pod (exceeded quota: compute, used: cpu=2); lower cpu, memory",
        ),
        (
            "The service account d may not create pods; apply it.",
            "The service account d may not create pods; apply it.",
        ),
    ],
)
def test_a_refused_pod_has_its_remedy(
    cluster: FakeCluster, refusal: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.refuses = refusal
    assert main(words("deploy", S3)) == 2
    assert sentence in capsys.readouterr().err
    assert cluster.applied == []


def test_no_disk_ends_it_before_anything_is_touched(cluster: FakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.disk = "10Gi"
    assert main(words("deploy", S3, size_bytes=str(20 * 2**30))) == 2
    assert "The model needs 21.0 GiB in each pod, and none of 1 fitting nodes has that" in capsys.readouterr().err
    assert cluster.applied == []


def live_pod(**requests: str) -> Thing:
    """A pod of the live release, on the one node."""
    labels = {"serving.kserve.io/inferenceservice": "pong"}
    containers = [{"name": "kserve-container", "resources": {"requests": requests}}]
    spec = {"nodeName": "a", "containers": containers}
    return {"metadata": {"name": "pong-x", "namespace": "models", "labels": labels}, "spec": spec}


GPU = json.dumps({"runtime": RUNTIME["metadata"]["name"], "gpus": 1})
NINETY = str(90 * 2**30)


def test_with_gpus_the_live_pod_makes_room_for_the_next(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their strategy is Recreate, so what the live pod was promised is free when the next one starts."""
    cluster.disk, cluster.gpus = "150Gi", "1"
    cluster.pods = [live_pod(**{"ephemeral-storage": "91Gi"})]
    assert main(words("deploy", S3, size_bytes=NINETY, serving=GPU)) == 0
    assert "Node disk: 91.0 GiB needed, 150.0 GiB free on a." in capsys.readouterr().out
    cluster.pods[0]["metadata"]["labels"] = {"serving.kserve.io/inferenceservice": "other"}
    assert main(words("deploy", S3, size_bytes=NINETY, serving=GPU)) == 2
    assert "a, has 59.0 GiB left of 150.0 GiB, 91.0 GiB of them promised to other" in capsys.readouterr().err


def test_without_gpus_the_live_pod_stays_until_the_next_one_is_up(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.disk, cluster.pods = "150Gi", [live_pod(**{"ephemeral-storage": "91Gi"})]
    assert main(words("deploy", S3, size_bytes=NINETY)) == 2
    assert "The model needs 91.0 GiB in each pod" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["deploy", "smoke"])
def test_what_is_live_already_needs_no_room(
    cluster: FakeCluster, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.disk, cluster.pods, cluster.changes = "150Gi", [live_pod(**{"ephemeral-storage": "91Gi"})], False
    assert main(words(command, S3, size_bytes=NINETY)) == 0
    assert "Node disk: not checked, because this changes nothing and so starts no pod." in capsys.readouterr().out
    cluster.stopped = True
    assert main(words(command, S3, size_bytes=NINETY)) == 2, "a stopped one is started for its gates"
    assert "The model needs 91.0 GiB in each pod" in capsys.readouterr().err


def test_nodes_that_cannot_run_the_model_do_not_speak_for_those_that_can(
    cluster: FakeCluster, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.nodes = {"a": "containerd://2.1.4", "old": "containerd://1.7.27"}
    assert main(words("deploy", S3, image)) == 0
    assert "Delivery s3: not oci+native: the model may come to a node whose container" in capsys.readouterr().out
    labelled = json.dumps({"runtime": RUNTIME["metadata"]["name"], "node_selector": ["pool=new"]})
    items = cluster.items

    def with_a_label(*asked: Any, **more: Any) -> Any:
        found = items(*asked, **more)
        found[:1] = [{**one, "metadata": {"name": "a", "labels": {"pool": "new"}}} for one in found[:1]]
        return found

    cluster.items = with_a_label  # type: ignore[method-assign]
    assert main(words("deploy", S3, image, serving=labelled)) == 0
    assert "Delivery oci+native: the image is mounted as a volume" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["deploy", "smoke"])
def test_a_runtime_without_a_digest_is_refused(
    cluster: FakeCluster, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.runtime = copy.deepcopy(RUNTIME)
    cluster.runtime["spec"]["containers"][0]["image"] = "vllm:latest"
    assert main(words(command, S3, serving='{"runtime": "our-vllm"}')) == 2
    said = capsys.readouterr().err
    assert "The ServingRuntime our-vllm in namespace models names the image vllm:latest of kserve-container" in said
    assert cluster.applied == []


def test_a_name_of_which_kserve_makes_no_host_is_refused(
    cluster: FakeCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("deploy", S3, name="p" * 48)) == 2
    assert "so it would make no pod; choose a name that is 2 characters shorter" in capsys.readouterr().err
    assert cluster.applied == []


def private_image(registry: Registry) -> str:
    document = json.dumps({"mediaType": OCI_MANIFEST, "layers": []}).encode()
    return f"oci://{registry.host}/pong@{registry.put_manifest('pong', OCI_MANIFEST, document)}"


@pytest.mark.parametrize("modelcars", [{}, {"enableModelcar": True}])
def test_an_image_that_cannot_be_pulled_leaves_the_files(
    cluster: FakeCluster, modelcars: Thing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.oci = modelcars
    account = {"metadata": {"name": "airfreight-model"}, "imagePullSecrets": [{"name": "airfreight-pull"}]}
    get = cluster.get

    def with_a_missing_secret(resource: Resource, namespace: str | None, name: str) -> Thing | None:
        if name == "airfreight-pull":
            return None
        return account if resource.kind == "ServiceAccount" else get(resource, namespace, name)

    monkeypatch.setattr(cluster, "get", with_a_missing_secret)
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        image = private_image(registry)
        assert main(words("deploy", S3, image)) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("Image: Secret airfreight-pull in namespace models, with which")
        assert lines[1] == (
            "Delivery s3: not oci+native: nodes could not pull the image, as was said; not oci: nodes could not pull "
            "the image, as was said."
        )
        assert cluster.applied[0]["spec"]["predictor"]["model"]["storageUri"] == S3
        for asked in (words("deploy", image), words("deploy", S3, image, delivery="oci+native")):
            assert main(asked) == 2
            assert "Secret airfreight-pull in namespace models, with which" in capsys.readouterr().err
    assert len(cluster.applied) == 1


def live_service(uri: str, stop: str = "false") -> Thing:
    annotations = {"serving.kserve.io/stop": stop}
    return {"metadata": {"annotations": annotations}, "spec": {"predictor": {"model": {"storageUri": uri}}}}


@pytest.fixture
def closed() -> Iterator[str]:
    """An image in a registry that asks for a login, which no Secret has."""
    with Registry(auth="basic", accounts={"puller": "right"}) as registry:
        yield private_image(registry)


OWN = (
    "lists no Secret with one; make Secret airfreight-pull of type kubernetes.io/dockerconfigjson there and list it in "
    "imagePullSecrets; or, where the nodes have a login of their own, deliver it with airfreight register --stage, "
    "which has them pull it first, or stop the model first, for pong runs and is not touched before a node has shown "
    "that it gets the image."
)


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_model_that_runs_is_not_changed_for_an_image_that_nobody_may_get(
    cluster: FakeCluster, closed: str, dry_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.live = live_service("oci+native://registry.example/pong@sha256:0")
    assert main([*words("deploy", closed), *dry_run]) == 2
    said = capsys.readouterr()
    assert "gives it to nobody without a login" in said.out and OWN in said.err
    assert cluster.applied == []


def test_what_loses_nothing_by_an_image_that_nobody_may_get_is_a_note(
    cluster: FakeCluster, closed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    live = live_service("oci+native://registry.example/pong@sha256:0")
    asked = words("deploy", closed)
    assert main(asked) == 0, "nothing is there"
    cluster.live = live_service("oci+native://registry.example/pong@sha256:0", stop="true")
    assert main(asked) == 0, "it is stopped"
    cluster.live, cluster.changes = live, False
    assert main(asked) == 0, "it stays as it is"
    cluster.changes, cluster.images = True, [closed.removeprefix("oci://")]
    assert main(asked) == 0, "the nodes have the image"
    cluster.images = []
    for command in ("smoke", "render"):
        assert main(words(command, closed)) == 0, "nothing is touched"
    assert main(asked) == 2, "and else it is refused"


def test_of_files_and_an_image_that_nobody_may_get_the_files_are_taken(
    cluster: FakeCluster, closed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.live = live_service("s3://llm-models/acme/pong/000000000000/")
    assert main(words("deploy", S3, closed)) == 0
    cluster.live = {"metadata": {}, "spec": {"predictor": {"model": {}}}}
    assert main(words("deploy", S3, closed)) == 0
    shown = capsys.readouterr().out
    assert "Delivery s3: not oci+native: only nodes with a login of their own could pull the image, as was" in shown
    assert [one["spec"]["predictor"]["model"]["storageUri"] for one in cluster.applied] == [S3, S3]
    assert main(words("deploy", S3, closed, delivery="oci+native")) == 2
    said = capsys.readouterr().err
    assert "list it in imagePullSecrets; or choose delivery s3; or, where the nodes have a login of their own" in said
    assert "and is not touched before a node has shown" in said


@pytest.mark.parametrize(
    ("mode", "ready", "other", "code"),
    [
        ("oci", "True", False, 0),
        ("oci+native", "True", False, 0),
        ("oci+native", "False", False, 2),
        ("oci+native", None, False, 2),
        ("oci+native", "True", True, 2),
    ],
)
def test_a_model_that_is_ready_with_the_image_has_shown_that_a_node_gets_it(
    cluster: FakeCluster, closed: str, mode: str, ready: str | None, other: bool, code: int
) -> None:
    """Whatever of it changes otherwise, and though the nodes list but some of their images."""
    uri = closed.replace("oci://", f"{mode}://")
    cluster.live = live_service(uri.replace("pong@", "ping@") if other else uri)
    cluster.live["status"] = {"conditions": [{"type": "Ready", "status": ready}] if ready else []}
    assert main(words("deploy", closed, delivery="oci+native")) == code
    assert len(cluster.applied) == (code == 0)


@pytest.mark.parametrize("command", ["deploy", "smoke", "render"])
def test_a_model_keeps_its_mode_when_a_node_joins_that_cannot_mount_images(
    cluster: FakeCluster, image: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.nodes = {"a": "containerd://2.1.4", "old": "containerd://1.7.27"}
    cluster.live = live_service(image.replace("oci://", "oci+native://"))
    assert main(words(command, S3, image)) == 0
    said = capsys.readouterr()
    kept = "Delivery oci+native: as the model has it now, though not on old with containerd://1.7.27; `delivery` may"
    assert kept in said.out + said.err


def test_nodes_that_a_runtime_or_admission_lets_it_on_are_those_that_count(
    cluster: FakeCluster, image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One node that cannot mount images and takes everybody, and one with a taint that can."""
    cluster.nodes = {"a": "containerd://2.1.4", "old": "containerd://1.7.27"}
    cluster.gpus, items = "1", cluster.items

    def tainted(*asked: Any, **more: Any) -> Any:
        found = items(*asked, **more)
        for one in found[:1]:
            one["spec"] = {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]}
        for one in found[1:]:
            one["status"]["allocatable"] = {"ephemeral-storage": "50Gi"}
        return found

    monkeypatch.setattr(cluster, "items", tainted)
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert main(words("deploy", S3, image, serving=GPU)) == 0
    shown = capsys.readouterr().out
    assert "Delivery s3: not oci+native: the model may come to a node" in shown and "no node takes this pod" in shown
    rehearse = cluster.rehearse

    def admitted(resource: Resource, wanted: Thing) -> Thing:
        made = rehearse(resource, wanted)
        made["spec"]["tolerations"] = [toleration]
        return made

    with monkeypatch.context() as patch:
        patch.setattr(cluster, "rehearse", admitted)
        assert main(words("deploy", S3, serving=GPU, size_bytes=str(2**30))) == 0
        assert "Node disk: 2.0 GiB needed, 100.0 GiB free on a." in capsys.readouterr().out
    cluster.runtime = copy.deepcopy(RUNTIME)
    cluster.runtime["spec"]["tolerations"] = [toleration]
    assert main(words("deploy", S3, image, serving=GPU)) == 0
    shown = capsys.readouterr().out
    assert "Delivery oci+native: the image is mounted" in shown and "100.0 GiB free on a." in shown


def test_the_secrets_of_a_runtime_are_those_that_count(
    cluster: FakeCluster, closed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.runtime = copy.deepcopy(RUNTIME)
    cluster.runtime["spec"]["imagePullSecrets"] = [{"name": "own"}]
    config = base64.b64encode(json.dumps({"auths": {"other.example": {}}}).encode()).decode()
    cluster.secret = {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": config}}
    native = closed.replace("oci://", "oci+native://")
    cluster.live, cluster.changes = live_service(native), False
    assert main(words("deploy", S3, closed, pull_secret="airfreight-pull")) == 0
    assert cluster.applied[0]["spec"]["predictor"]["model"]["storageUri"] == native, "it keeps its mode"
    cluster.changes = True
    assert main(words("deploy", closed, pull_secret="airfreight-pull")) == 2
    said = capsys.readouterr().err
    assert "The ServingRuntime lists imagePullSecrets of its own, and Secret airfreight-pull is not among them" in said
    assert "name a ServingRuntime that lists none; or, where the nodes have a login of their own, deliver it" in said


def test_render_without_a_cluster_prints_what_deploy_would_apply(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    result = tmp_path / "return.json"
    assert main(words("render", S3, size_bytes="5", result=str(result))) == 0
    said = json.loads(result.read_text())
    assert yaml.safe_load(capsys.readouterr().out) == said["object"]
    assert said["delivery"] == "s3" and said["url"] == "http://pong-predictor.models.svc.cluster.local"
    monkeypatch.undo()
    fake = FakeCluster()
    monkeypatch.setattr(Cluster, "connect", lambda **_: fake)
    assert main(words("deploy", S3, size_bytes="5")) == 0
    assert fake.applied == [said["object"]]


def test_render_of_an_image_with_a_mode_needs_no_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    image = f"oci://registry.example/pong@sha256:{'1' * 64}"
    assert main(words("render", image, delivery="oci")) == 0
    assert yaml.safe_load(capsys.readouterr().out)["spec"]["predictor"]["model"]["storageUri"] == image
    assert main(words("render", image)) == 2
    assert "There is no cluster to talk to" in capsys.readouterr().err


def test_render_says_aside_what_it_chose(cluster: FakeCluster, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("render", image)) == 0
    said = capsys.readouterr()
    assert yaml.safe_load(said.out)["kind"] == "InferenceService"
    assert "Delivery oci+native: the image is mounted" in said.err
    assert cluster.applied == []


@pytest.mark.parametrize(
    ("artifacts", "options", "sentence"),
    [
        ((), {}, "Missing option '--artifact'"),
        ((S3, "s3://b-b/x/"), {}, "are two artifacts of one kind"),
        (("oci://registry.example/pong:v1",), {}, "is not pinned, and a tag may change under a running model"),
        ((S3,), {"delivery": "oci"}, "Delivery oci needs the model as an image"),
        ((S3,), {"delivery": "nfs"}, 'There is no delivery mode "nfs": choose auto, s3, oci, oci+native.'),
    ],
)
@pytest.mark.parametrize("command", ["deploy", "smoke", "render"])
def test_a_wrong_request_is_refused_before_the_cluster_is_asked(
    command: str,
    artifacts: tuple[str, ...],
    options: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Cluster, "connect", lambda **_: pytest.fail("the cluster was asked"))
    assert main(words(command, *artifacts, **options)) == 2
    assert sentence in capsys.readouterr().err
