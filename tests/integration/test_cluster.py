"""Deploying against a real API server with KServe's admission and controller; a namespace of its own for every run.

Nothing here waits for a model server: runtimes name an image that cannot be pulled, which is a case of its own.
"""

from __future__ import annotations

import copy
import json
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from airfreight.cli import main
from airfreight.cluster import (
    INFERENCE_SERVICES,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVING_RUNTIMES,
    Cluster,
    Resource,
    Right,
)
from airfreight.doctor import Place, State, examine
from airfreight.errors import RequestError
from airfreight.observation import SERVICE_LABEL, Cause, Failed, Limits, Observation, Pending, metadata
from airfreight.readiness import Assessment, assess
from airfreight.rendering import Deployment, render, with_release
from airfreight.runtime import install, pin
from airfreight.serving import Serving
from airfreight.smoke import pod_of

pytestmark = pytest.mark.integration

KUBERNETES = Path(__file__).parents[2] / "include" / "kubernetes"
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
ROLES = Resource("rbac.authorization.k8s.io/v1", "roles", "Role")
BINDINGS = Resource("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding")
KINDS = {one.kind: one for one in (NAMESPACES, SERVICE_ACCOUNTS, ROLES, BINDINGS)}
# Port 1 of the node itself: refused at once.
NOWHERE = "127.0.0.1:1/nowhere"
IMAGE = f"{NOWHERE}@sha256:{'0' * 64}"
ARTIFACT = f"oci://{IMAGE}"
MANIFEST = "9f" * 32
Found = TypeVar("Found")


class Target:
    """One namespace with include/kubernetes/target in it, a deployer of its own and one runtime."""

    def __init__(self, kubeconfig: Path, directory: Path, prefix: str) -> None:
        self.namespace = f"airfreight-test-{prefix}-{secrets.token_hex(3)}"
        self.kubeconfig = kubeconfig
        self.directory = directory
        self.cluster = Cluster.connect()
        self.runtime = ""

    def make(self) -> None:
        kustomization = yaml.safe_load((KUBERNETES / "target" / "kustomization.yaml").read_text())
        for name in kustomization["resources"]:  # the namespace comes first
            for thing in yaml.safe_load_all((KUBERNETES / "target" / name).read_text()):
                self.create(self._moved(thing))
        self.create(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "airfreight-deployer", "namespace": self.namespace},
            }
        )
        self.runtime = pin(IMAGE, "vllm-cpu", namespace=self.namespace)["metadata"]["name"]
        install(self.cluster, pin(IMAGE, "vllm-cpu", namespace=self.namespace))

    def _moved(self, thing: dict[str, Any]) -> dict[str, Any]:
        if thing["kind"] == "Namespace":
            thing["metadata"]["name"] = self.namespace
            return thing
        thing["metadata"]["namespace"] = self.namespace
        for subject in thing.get("subjects", []):
            subject["namespace"] = self.namespace
        return thing

    def create(self, thing: dict[str, Any]) -> None:
        resource = KINDS[thing["kind"]]
        namespace = thing["metadata"].get("namespace")
        self.cluster._call("POST", resource.path(namespace), f"make {thing['kind']}", body=thing)

    def delete(self) -> None:
        self.cluster._call(
            "DELETE", NAMESPACES.path(None, self.namespace), "delete the test's namespace", none_on_404=True
        )

    def as_deployer(self) -> Path:
        """Return a kubeconfig with a token of this namespace's deployer."""
        path = SERVICE_ACCOUNTS.path(self.namespace, "airfreight-deployer") + "/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
        answer = self.cluster._call("POST", path, "ask for a token", body=body)
        assert answer is not None
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["users"] = [
            {"name": user["name"], "user": {"token": answer["status"]["token"]}} for user in config["users"]
        ]
        mine = self.directory / "deployer.kubeconfig"
        mine.write_text(yaml.safe_dump(config))
        return mine

    def deploy(self, name: str, result: Path, *more: str, artifact: str = ARTIFACT, **serving: Any) -> int:
        return self.run("deploy", name, result, artifact, *more, **serving)

    def smoke(self, name: str, result: Path, *more: str) -> int:
        return self.run("smoke", name, result, ARTIFACT, *more)

    def run(self, command: str, name: str, result: Path, artifact: str, *more: str, **serving: Any) -> int:
        block = json.dumps({"runtime": self.runtime, "cpu": "40m", "memory": "64Mi", **serving})
        return main(
            [
                command, "--name", name, "--namespace", self.namespace, "--artifact", artifact,
                "--source", f"hf://acme/{name}@{'3b' * 20}", "--served-name", name, "--serving", block,
                "--manifest-sha256", MANIFEST, "--result", str(result), *more,
            ]
        )  # fmt: skip

    def live(self, name: str) -> dict[str, Any] | None:
        return self.cluster.get(INFERENCE_SERVICES, self.namespace, name)

    def observe(self, name: str) -> Observation:
        return Observation(
            self.live(name),
            self.cluster.get(DEPLOYMENTS, self.namespace, f"{name}-predictor"),
            self.cluster.items(PODS, self.namespace, f"{SERVICE_LABEL}={name}"),
        )


@pytest.fixture(scope="module")
def target(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        target = Target(kubeconfig, tmp_path_factory.mktemp("target"), "a")
        try:
            target.make()
            yield target
        finally:
            target.delete()


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return tmp_path / "return.json"


def wait_for(what: str, look: Callable[[], Found | None], seconds: float = 60) -> Found:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def test_a_deploy_is_admitted_and_made_into_a_deployment_of_this_release(target: Target, result: Path) -> None:
    assert target.deploy("first", result) == 0
    said = json.loads(result.read_text())
    assert said == {
        "release": said["release"], "name": "first", "namespace": target.namespace, "runtime": target.runtime,
        "changed": True, "stopped": False, "served_name": "first", "delivery": "oci+native", "artifact": ARTIFACT,
        "url": f"http://first-predictor.{target.namespace}.svc.cluster.local",
    }  # fmt: skip
    made = wait_for("the Deployment", lambda: target.cluster.get(DEPLOYMENTS, target.namespace, "first-predictor"))
    template = made["spec"]["template"]
    assert template["metadata"]["annotations"]["airfreight.dev/release"] == said["release"]
    server = next(one for one in template["spec"]["containers"] if one["name"] == "kserve-container")
    assert server["image"] == IMAGE
    assert "--served-model-name=first" in server["args"], "KServe filled in the runtime's template"
    assert server["resources"]["limits"] == {"cpu": "40m", "memory": "64Mi"}
    assert template["spec"]["automountServiceAccountToken"] is False
    assert template["spec"]["serviceAccountName"] == "airfreight-model"
    assert template["spec"]["terminationGracePeriodSeconds"] == 60
    assert {volume["name"] for volume in template["spec"]["volumes"]} >= {"shm", "tmp"}


def test_the_same_deploy_again_changes_and_restarts_nothing(target: Target, result: Path) -> None:
    assert target.deploy("again", result) == 0
    wait_for("the Deployment", lambda: target.cluster.get(DEPLOYMENTS, target.namespace, "again-predictor"))
    before = json.loads(result.read_text())
    generation = metadata(target.live("again") or {})["generation"]
    assert target.deploy("again", result) == 0
    after = json.loads(result.read_text())
    assert (after["changed"], after["release"]) == (False, before["release"])
    assert metadata(target.live("again") or {})["generation"] == generation


def test_another_deploy_takes_away_what_is_no_longer_asked_for(target: Target, result: Path) -> None:
    assert target.deploy("less", result, env=["A=1"], tolerations=["x=y:NoSchedule"]) == 0
    first = json.loads(result.read_text())["release"]
    assert target.deploy("less", result) == 0
    said = json.loads(result.read_text())
    assert said["changed"] and said["release"] != first
    predictor = (target.live("less") or {})["spec"]["predictor"]
    assert "tolerations" not in predictor and "env" not in predictor["model"]


def test_a_dry_run_makes_nothing(target: Target, result: Path) -> None:
    assert target.deploy("dry", result, "--dry-run") == 0
    assert json.loads(result.read_text())["changed"] is True
    assert target.live("dry") is None


def test_a_refusal_of_kserve_is_passed_on_and_the_live_object_stays(target: Target, result: Path) -> None:
    assert target.deploy("refused", result) == 0
    before = target.live("refused")
    wanted = with_release(
        render(Deployment("refused", target.namespace, ARTIFACT, "hf://a/b@c", "refused", target.runtime, Serving())),
        "0" * 12,
    )
    wanted["spec"]["predictor"]["model"]["env"] = [{"name": "PYTHONPATH", "value": "/x"}]
    with pytest.raises(
        RequestError,
        match=r"The cluster refuses to apply InferenceService refused .*PYTHONPATH.*; correct what it names\.",
    ):
        target.cluster.apply(wanted)
    after = target.live("refused")
    assert before is not None and after is not None
    assert before["spec"] == after["spec"]


def test_stop_and_resume_touch_one_annotation_and_a_deploy_leaves_it(target: Target, result: Path) -> None:
    assert target.deploy("power", result) == 0
    power = ["--name", "power", "--namespace", target.namespace, "--result", str(result)]
    assert main(["stop", *power]) == 0
    assert json.loads(result.read_text()) == {
        "name": "power",
        "namespace": target.namespace,
        "stopped": True,
        "changed": True,
    }
    assert main(["stop", *power]) == 0
    assert json.loads(result.read_text())["changed"] is False
    wait_for("no Deployment", lambda: target.cluster.get(DEPLOYMENTS, target.namespace, "power-predictor") is None)

    assert target.deploy("power", result, memory="65Mi") == 0
    said = json.loads(result.read_text())
    assert said["changed"] and said["stopped"], "a delivery to a stopped model leaves it stopped"
    verdict = assess(target.observe("power"), said["release"], datetime.now(UTC))
    assert isinstance(verdict, Failed) and verdict.cause is Cause.STOPPED

    owners = {entry["manager"]: entry["fieldsV1"] for entry in metadata(target.live("power") or {})["managedFields"]}
    assert owners["airfreight-power"] == {"f:metadata": {"f:annotations": {"f:serving.kserve.io/stop": {}}}}
    assert "f:serving.kserve.io/stop" not in json.dumps(owners["airfreight"])

    assert main(["resume", *power]) == 0
    wait_for("the Deployment", lambda: target.cluster.get(DEPLOYMENTS, target.namespace, "power-predictor"))
    assert target.deploy("power", result, memory="65Mi") == 0
    assert json.loads(result.read_text())["changed"] is False


def test_what_is_not_there_cannot_be_stopped(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "--name", "none", "--namespace", target.namespace]) == 2
    assert f"There is no InferenceService none in namespace {target.namespace}" in capsys.readouterr().err


def test_a_missing_runtime_is_named_with_the_nearest(
    target: Target, result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = target.runtime[:-1] + ("0" if target.runtime[-1] != "0" else "1")
    assert target.deploy("x", result, runtime=wrong) == 2
    assert f'did you mean "{target.runtime}"' in capsys.readouterr().err


def test_a_missing_namespace(target: Target, capsys: pytest.CaptureFixture[str], result: Path) -> None:
    elsewhere = copy.copy(target)
    elsewhere.namespace = "airfreight-test-is-not-there"
    assert elsewhere.deploy("x", result) == 2
    assert "There is no namespace airfreight-test-is-not-there; create it with" in capsys.readouterr().err


def test_a_runtime_is_installed_once_and_never_edited(target: Target) -> None:
    runtime = pin(IMAGE, "vllm-gpu", namespace=target.namespace)
    assert install(target.cluster, runtime).changed
    assert not install(target.cluster, runtime).changed
    edited = copy.deepcopy(runtime)
    edited["spec"]["containers"][0]["args"] = ["--port=1"]
    target.cluster.apply(edited)
    with pytest.raises(
        RequestError, match="was edited, though its name is the hash of its content; nothing was changed"
    ):
        install(target.cluster, runtime)
    live = target.cluster.get(SERVING_RUNTIMES, target.namespace, runtime["metadata"]["name"]) or {}
    assert live["spec"]["containers"][0]["args"] == ["--port=1"]


def test_the_deployer_may_do_its_work_here_and_nowhere_else(
    target: Target, result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(target.as_deployer()))
    assert target.deploy("mine", result) == 0
    assert main(["stop", "--name", "mine", "--namespace", target.namespace]) == 0
    elsewhere = copy.copy(target)
    elsewhere.namespace = "default"
    assert elsewhere.deploy("x", result) == 2
    assert (
        f"The service account airfreight-deployer of namespace {target.namespace} may not get servingruntimes in "
        "namespace default; apply include/kubernetes/target there, or choose a namespace where that was done."
    ) in capsys.readouterr().err
    us = Cluster.connect()
    assert us.may(Right(target.namespace, "patch", "inferenceservices", "serving.kserve.io"))
    for verb, resource in (("get", "secrets"), ("list", "secrets"), ("patch", "pods"), ("delete", "namespaces")):
        assert not us.may(Right(target.namespace, verb, resource)), f"{verb} {resource}"
    assert us.get(SECRETS, target.namespace, "airfreight-pull") is None, "the nodes' login it may read, and no other"
    with pytest.raises(RequestError, match="may not get secrets"):
        us.get(SECRETS, target.namespace, "airfreight-store")


def test_without_the_rights_in_the_cluster_a_deploy_says_what_it_cannot_see(
    target: Target, result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(target.as_deployer()))
    assert target.deploy("blind", result, "--size-bytes", "5000000") == 0
    said = capsys.readouterr().out
    assert "Node disk: not checked, because the nodes may not be read; apply include/kubernetes/cluster." in said
    assert "Image: not checked, because the registry cannot be asked" in said


@pytest.mark.parametrize("mode", ["oci", "oci+native"])
def test_the_smoke_test_rehearses_the_pod_that_kserve_makes(
    target: Target, result: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Field by field against the pod of the real controller: what `pod_of` leaves out would go unchecked."""
    name = mode.replace("+", "-")
    assert target.deploy(name, result, "--delivery", mode) == 0
    selector = f"{SERVICE_LABEL}={name}"
    real = wait_for("the pod", lambda: target.cluster.items(PODS, target.namespace, selector))[0]
    service = target.live(name) or {}
    runtime = target.cluster.get(SERVING_RUNTIMES, target.namespace, target.runtime) or {}
    ours = target.cluster.rehearse(PODS, pod_of(service, runtime))
    for pod in (ours, real):
        pod["spec"].pop("nodeName", None)  # the scheduler's
        pod["metadata"]["labels"].pop("pod-template-hash", None)  # the Deployment's
    assert comparable(ours["spec"]) == comparable(real["spec"])
    for field in ("labels", "annotations"):
        assert ours["metadata"][field] == real["metadata"][field]
    assert target.smoke(name, result, "--delivery", mode) == 0
    assert all(check["ok"] for check in json.loads(result.read_text())["checks"])


def comparable(value: Any) -> Any:
    """Return a pod's specification without the order of lists whose entries have names."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) and "name" in item for item in value):
        return sorted((comparable(item) for item in value), key=json.dumps)
    return value


def test_a_secret_of_the_store_that_is_not_there_is_named_before_anything_is_touched(
    target: Target, result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """KServe's own webhook says so, to the rehearsed pod: the deployer may not read that Secret."""
    assert target.deploy("keyless", result, artifact="s3://llm-models/acme/pong/v1/") == 2
    assert f"Namespace {target.namespace} has no Secret airfreight-store" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(target.as_deployer()))
        assert target.deploy("keyless", result, artifact="s3://llm-models/acme/pong/v1/") == 2
    assert (
        f"KServe finds no Secret airfreight-store in namespace {target.namespace}, which the service account "
        "airfreight-model lists, so it would make no pod; create it with"
    ) in capsys.readouterr().err
    assert target.live("keyless") is None


def test_an_image_that_cannot_be_pulled_is_seen_on_the_real_pod(target: Target, result: Path) -> None:
    assert target.deploy("image", result) == 0
    release = json.loads(result.read_text())["release"]

    def waits() -> Assessment | None:
        verdict = assess(target.observe("image"), release, datetime.now(UTC))
        return verdict if isinstance(verdict, Pending) and "could not be pulled yet" in verdict.reason else None

    wait_for("a pull that fails", waits)
    now = assess(target.observe("image"), release, datetime.now(UTC), Limits(pull_s=0))
    assert isinstance(now, Failed) and now.cause is Cause.IMAGE
    assert f"image: the image {IMAGE} of " in now.sentence


def test_a_gpu_that_is_not_there_is_named(target: Target, result: Path) -> None:
    assert target.deploy("gpu", result, gpus=1) == 0
    release = json.loads(result.read_text())["release"]

    def lacks() -> Failed | None:
        verdict = assess(target.observe("gpu"), release, datetime.now(UTC), Limits(unschedulable_s=0))
        return verdict if isinstance(verdict, Failed) else None

    found = wait_for("the scheduler's verdict", lacks)
    assert found.cause is Cause.UNSCHEDULABLE
    assert found.sentence.startswith("gpu: no node has enough nvidia.com/gpu for its pod (0/1 nodes are available: ")


def test_a_specification_kserve_cannot_serve(target: Target, result: Path) -> None:
    assert target.deploy("format", result) == 0
    wanted = render(Deployment("format", target.namespace, ARTIFACT, "hf://a/b@c", "format", target.runtime, Serving()))
    wanted["spec"]["predictor"]["model"]["modelFormat"] = {"name": "vllm"}
    target.cluster.apply(with_release(wanted, "0" * 12))

    def refused() -> Failed | None:
        verdict = assess(target.observe("format"), "0" * 12, datetime.now(UTC), Limits(invalid_s=0))
        return verdict if isinstance(verdict, Failed) else None

    found = wait_for("KServe's verdict", refused)
    assert found.cause is Cause.INVALID and "does not accept the specification" in found.sentence


def test_the_doctor_sees_what_this_namespace_lacks(target: Target) -> None:
    checks = {check.title: check for check in examine(target.cluster, Place(target.namespace, target.namespace))}
    assert checks["Kubernetes"].state is State.OK
    assert checks["KServe"].state is checks["KServe webhook"].state is State.OK
    assert checks[f"service account airfreight-model in {target.namespace}"].state is State.OK
    assert checks[f"service accounts in {target.namespace}"].detail == (
        "airfreight-publisher, airfreight-validator, airfreight-airflow not there"
    )
    assert checks[f"Secret airfreight-store in {target.namespace}"].state is State.MISSING
    assert checks["rights of airfreight-deployer"].state is State.OK
    # What the docs leave to the site is no fault, and is said.
    rights = checks["rights of airfreight-deployer, optional"]
    assert rights.state is State.OK and rights.detail.startswith("it may not list nodes in the cluster (and 2 more), ")
    assert rights.remedy == "kubectl apply -k include/kubernetes/cluster"
    assert checks["rights of airfreight-airflow"].detail.startswith("it may not get pods in ")
    assert target.runtime in checks[f"ServingRuntimes in {target.namespace}"].detail
