"""A real Airflow (API server, scheduler, DAG processor, triggerer) driven through its REST API.

MinIO is real too; the cluster is the stand-in of the unit tests, so that no image is needed: what is tested here is
everything between a person's request and the pod, and between the pod's end and what the person reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from airfreight.airflow_api import AirflowApi, RunSummary
from airfreight.errors import RequestError, TemporaryError
from airfreight.manifest import Manifest, ManifestFile
from tests.servers import end, free_port
from tests.unit.fake_kube import FakeKube, fake_kube

WAY = ("upload_to_s3", "deploy", "wait_until_ready", "validate", "promote", "report")
"""What follows `resolve` of a plain delivery."""

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DAG = "deliver_model"
START_TIMEOUT_S = 240.0
COMMIT = "41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50"
RELEASE = "9f2c41ab6c1b"
PREDICTOR = "/apis/apps/v1/namespaces/models/deployments/acme-pong-predictor"
SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/acme-pong"
PODS = "/api/v1/namespaces/models/pods"


@dataclass(frozen=True)
class Airflow:
    """A running Airflow and what stands around it."""

    url: str
    password: str
    kube: FakeKube
    minio: Any
    home: Path

    def api(self) -> AirflowApi:
        return AirflowApi(self.url, user="admin", password=self.password)

    def deliver(self, conf: dict[str, Any]) -> RunSummary:
        """Trigger a run and wait for its end."""
        with self.api() as api:
            run_id = api.trigger(DAG, conf)
            for _ in api.follow(DAG, run_id):
                pass
            return api.run_summary(DAG, run_id)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, minio: Any) -> Iterator[Airflow]:
    minio.client().create_bucket(Bucket="llm-models")
    with standalone(tmp_path_factory.mktemp("airflow"), minio) as running:
        yield running


@contextlib.contextmanager
def standalone(
    home: Path, minio: Any, *, below: str = "", readers: Mapping[str, str] | None = None, **settings: str
) -> Iterator[Airflow]:
    """An Airflow of its own that knows `deliver_model`; it is ended afterwards.

    Args:
        below: the path under which it stands, such as "/air".
        readers: passwords of users beside the administrator, by name.
        settings: environment variables beside those of `environment`.
    """
    password, port = secrets.token_hex(12), free_port()
    (home / "passwords.json").write_text(json.dumps({"admin": password, **(readers or {})}))
    url = f"http://127.0.0.1:{port}{below}"
    with fake_kube() as kube, (home / "output").open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "airflow", "standalone"],
            env=environment(home, port, kube, minio) | ({"AIRFLOW__API__BASE_URL": url} if below else {}) | settings,
            cwd=home,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # standalone leaves its children when it is told to end; the group is ended as one
        )
        running = Airflow(url, password, kube, minio, home)
        try:
            wait_until_it_knows_the_dag(running, process)
            yield running
        finally:
            end(process, group=True)


def environment(home: Path, port: int, kube: FakeKube, minio: Any) -> dict[str, str]:
    store = {
        "conn_type": "aws",
        "login": minio.access_key,
        "password": minio.secret_key,
        "extra": {
            "endpoint_url": minio.endpoint_url,
            "region_name": "us-east-1",
            "config_kwargs": {"s3": {"addressing_style": "path"}},
        },
    }
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "PYTHONPATH": f"{ROOT / 'include'}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "3",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API__WORKERS": "1",
        # Another Airflow may run on this machine: the demo's.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
        "AIRFLOW_CONN_AIRFREIGHT_CLUSTER": kube.connection(),
        "AIRFLOW_CONN_AIRFREIGHT_STORE": json.dumps(store),
        "AIRFLOW__AIRFREIGHT__IMAGE": "registry:5000/airfreight-worker:test",
        "AIRFLOW__AIRFREIGHT__STORE_ENDPOINT": minio.endpoint_url,
        "AIRFLOW__AIRFREIGHT__RUNTIME": "airfreight-vllm-cpu-1a2b3c4d5e6f",
        "AIRFLOW__AIRFREIGHT__VOLUME_ACCESS": "ReadWriteMany",
    }


def wait_until_it_knows_the_dag(airflow: Airflow, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with airflow.api() as api:
                api.params(DAG)
                return
        except (TemporaryError, RequestError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (airflow.home / "output").read_text(errors="replace")[-4000:]
                raise RuntimeError(f"Airflow did not start: {error}\n{log}") from error
        time.sleep(0.5)  # between two looks


@pytest.fixture
def kube(airflow: Airflow) -> FakeKube:
    """The cluster as it is after a good deploy: the release is still coming up."""
    manifest = Manifest.of(
        f"hf://acme/pong@{COMMIT}", "acme/pong", COMMIT, [ManifestFile("model.safetensors", 1000, sha256="71" * 32)]
    )
    artifact = f"s3://llm-models/acme/pong/{manifest.version}/"
    airflow.minio.client().put_object(
        Bucket="llm-models", Key=f"acme/pong/{manifest.version}/airfreight.json", Body=manifest.canonical
    )
    copied = {"artifact": artifact, "source": manifest.source, "manifest_sha256": manifest.sha256}
    sizes = {"commit": COMMIT, "files": 1, "size_bytes": 1000, "moved_bytes": 1000, "seconds": 0.5}
    deployed = {"release": RELEASE, "name": "acme-pong", "namespace": "models", "changed": True, "state": "candidate"}
    address = {"url": "http://acme-pong-predictor.models.svc.cluster.local", "served_name": "acme/pong"}
    answered = {"question": "ping", "answer": "pong from A", "system_fingerprint": "vllm-1", "seconds": 1.0}
    gates = [{"name": "chat", "verdict": "passed", "wanted": "text", "found": "pong from A", "sentence": ""}]
    promoted = {"state": "live", "over": None, "previous": None, "stopped": False, "outage_s": 0.0, "changes": []}
    kube = airflow.kube
    kube.created.clear()
    kube.made_claims.clear()
    kube.commands = {
        "resolve": copied | sizes | {"repo_id": "acme/pong", "version": manifest.version, "largest_bytes": 1000},
        "copy": copied | sizes,
        "seal": {key: value for key, value in (copied | sizes).items() if key not in ("moved_bytes", "seconds")},
        "render": {"release": RELEASE, "name": "acme-pong", "namespace": "models", "delivery": "s3"},
        "register": deployed | address,
        "validate": answered | {"gates": gates, "ttft_s": 0.1, "tokens_per_s": None},
        "promote": copied | promoted | {"release": RELEASE, "name": "acme-pong"},
        "roll-back": {"done": "restored", "restored": "0a1b2c3d4e5f", "rejected": RELEASE, "outage_s": 0.0},
    }
    annotations = {"airfreight.dev/release": RELEASE}
    kube.objects = {
        SERVICE: {
            "metadata": {"name": "acme-pong", "namespace": "models", "annotations": annotations},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        },
        PREDICTOR: {
            "metadata": {"name": "acme-pong-predictor", "namespace": "models", "generation": 1},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "x"}},
                "template": {"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "x"}]}},
            },
            "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1},
        },
        PODS: {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []},
    }
    return kube


def commands_of(kube: FakeKube) -> list[str]:
    return [pod["spec"]["containers"][0]["args"][0] for pod in kube.created]


def test_nobody_gets_in_without_a_token(airflow: Airflow) -> None:
    answer = httpx2.post(f"{airflow.url}/api/v2/dags/{DAG}/dagRuns", json={"logical_date": None, "conf": {}})
    assert answer.status_code == 401


def test_the_form_shows_four_fields_and_folds_the_rest(airflow: Airflow) -> None:
    with airflow.api() as api:
        params = api.params(DAG)
    open_fields = [name for name, param in params.items() if "section" not in param["schema"]]
    assert open_fields == ["model", "revision", "name", "namespace"]
    assert params["model"]["value"] == "acme/pong"
    assert params["gpus"]["schema"] == {
        "maximum": 64,
        "minimum": 0,
        "section": "Serving",
        "title": "GPUs",
        "type": ["null", "integer"],
    }


@pytest.mark.parametrize("conf", [{"gpus": 99}, {"gpus": "two"}, {"env": "A=1"}, {"model": ""}], ids=str)
def test_a_value_of_the_wrong_kind_never_becomes_a_run(airflow: Airflow, conf: dict[str, Any]) -> None:
    with airflow.api() as api, pytest.raises(RequestError, match=f"Invalid input for param {next(iter(conf))}"):
        api.trigger(DAG, conf)


def test_one_run_id_is_one_run(airflow: Airflow, kube: FakeKube) -> None:
    kube.commands["resolve"] = (2, "stop here")
    with airflow.api() as api:
        api.trigger(DAG, {}, run_id="once")
        with pytest.raises(RequestError, match="There is a run with this id already"):
            api.trigger(DAG, {}, run_id="once")
        assert [change.state for change in api.follow(DAG, "once") if change.task_id == "resolve"][-1] == "failed"


def test_a_request_that_makes_no_sense_fails_at_resolve_before_any_pod(airflow: Airflow, kube: FakeKube) -> None:
    sentences = {
        '{"gpu": 1}': 'unknown key "gpu" in conf: did you mean "gpus"?',
        '{"model": "not a model"}': "The source 'not a model@main' is malformed: give owner/name",
    }
    with airflow.api() as api:
        runs = {api.trigger(DAG, json.loads(conf)): sentence for conf, sentence in sentences.items()}
        for run_id, sentence in runs.items():
            for _ in api.follow(DAG, run_id):
                pass
            summary = api.run_summary(DAG, run_id)
            error = summary.error()
            assert isinstance(error, RequestError)
            assert f"resolve failed: {sentence}" in error.message
            assert [task.try_number for task in summary.tasks if task.task_id == "resolve"] == [1], "it is not retried"
    assert kube.created == []


def test_a_command_that_refuses_fails_the_run_with_its_sentence(airflow: Airflow, kube: FakeKube) -> None:
    kube.commands["copy"] = (2, "The bucket llm-models does not exist: create it.")
    summary = airflow.deliver({})
    assert summary.failure == {
        "task_id": "upload_to_s3",
        "message": "The bucket llm-models does not exist: create it.",
        "exit_code": 2,
    }
    assert commands_of(kube) == ["resolve", "copy"], "one try, and nothing after it"
    assert {task.task_id: task.state for task in summary.tasks}["roll_back"] == "skipped", "there is nothing to undo"
    assert kube.pods == {}


def test_a_whole_delivery(airflow: Airflow, kube: FakeKube) -> None:
    kube.objects[PREDICTOR], predictor = 404, kube.objects[PREDICTOR]
    with airflow.api() as api:
        run_id = api.trigger(DAG, {"question": "ping", "memory": "8Gi"})
        states = []
        for change in api.follow(DAG, run_id):
            states.append((change.task_id, change.state))
            if (change.task_id, change.state) == ("wait_until_ready", "deferred"):
                kube.objects[PREDICTOR] = predictor
        summary = api.run_summary(DAG, run_id)

    assert summary.state == "success", summary.failure
    assert ("wait_until_ready", "deferred") in states
    assert commands_of(kube) == ["resolve", "copy", "register", "validate", "promote"]
    assert summary.results["wait_until_ready"]["release"] == RELEASE
    deploy = kube.created[2]["spec"]["containers"][0]["args"]
    assert deploy[-1] == "--stage"
    assert deploy[deploy.index("--run") + 1] == f"{DAG}/{run_id}"
    assert json.loads(deploy[deploy.index("--evidence") + 1])["trigger"]["user"] == "admin"
    promote = kube.created[4]["spec"]["containers"][0]["args"]
    evidence = json.loads(promote[promote.index("--evidence") + 1])
    assert (evidence["gates"][0]["name"], evidence["measured"]["ttft_s"]) == ("chat", 0.1)
    assert {"deploy", "wait_until_ready", "validate"} <= set(evidence["seconds"])
    serving = json.loads(deploy[deploy.index("--serving") + 1])
    assert serving["memory"] == "8Gi"
    assert serving["runtime"] == "airfreight-vllm-cpu-1a2b3c4d5e6f"
    assert deploy[deploy.index("--served-name") + 1] == "acme/pong"
    report = summary.results["report"]["report"].removeprefix("s3://llm-models/")
    body = json.loads(airflow.minio.client().get_object(Bucket="llm-models", Key=report)["Body"].read())
    assert body["answer"] == "pong from A"
    assert body["commit"] == COMMIT
    assert set(body["seconds"]) == {"resolve", "upload_to_s3", "deploy", "wait_until_ready", "validate", "promote"}
    assert promotions(airflow, run_id) == [("airfreight_acme-pong", RELEASE)]
    skipped = {task.task_id: task for task in summary.tasks if task.state == "skipped"}
    assert {task.task_id for task in summary.tasks} - set(skipped) == {"resolve", *WAY}
    assert all(task.try_number == 0 and not task.seconds for task in skipped.values()), (
        "no process was started for them"
    )
    assert_no_secret_is_shown(airflow, run_id)


def promotions(airflow: Airflow, run_id: str) -> list[tuple[str, str]]:
    """Which models' assets a run told of which release."""
    with airflow.api() as api:
        events = api.get(f"/api/v2/assets/events?source_run_id={quote(run_id)}")["asset_events"]
    return [(event["name"], event["extra"]["release"]) for event in events]


def test_a_failed_gate_is_rolled_back_and_the_run_is_red_with_the_cause(airflow: Airflow, kube: FakeKube) -> None:
    kube.commands["validate"] = (4, "acme/pong loads and cannot chat; look at its chat template.")
    summary = airflow.deliver({"keep_failed": True})
    assert summary.state == "failed"
    assert summary.failure == {
        "task_id": "validate",
        "message": "acme/pong loads and cannot chat; look at its chat template.",
        "exit_code": 4,
    }
    assert commands_of(kube) == ["resolve", "copy", "register", "validate", "roll-back"]
    undone = kube.created[4]["spec"]["containers"][0]["args"]
    assert undone[undone.index("--cause") + 1] == summary.failure["message"]
    assert undone[undone.index("--run") + 1] == f"{DAG}/{summary.run_id}"
    assert undone[-1] == "--keep"
    states = {task.task_id: task.state for task in summary.tasks}
    assert (states["promote"], states["roll_back"], states["report"]) == (
        "upstream_failed", "success", "upstream_failed",
    )  # fmt: skip
    assert promotions(airflow, summary.run_id) == []


def test_delivering_again_what_is_live_is_no_news(airflow: Airflow, kube: FakeKube) -> None:
    kube.commands["promote"] = {**kube.commands["promote"], "over": RELEASE}
    summary = airflow.deliver({})
    assert summary.state == "success", summary.failure
    assert promotions(airflow, summary.run_id) == []


def test_several_pods_and_a_volume(airflow: Airflow, kube: FakeKube) -> None:
    """Hub to volume, to S3 and back: two pods each, then a seal; the volume is gone before the run ends."""
    summary = airflow.deliver({"staging": "volume", "pods": 2, "deploy": False})
    assert summary.state == "success", summary.failure
    commands = [pod["spec"]["containers"][0]["args"] for pod in kube.created]
    assert sorted(words[0] for words in commands) == ["copy"] * 4 + ["render", "resolve"] + ["seal"] * 2
    shares = sorted(words[words.index("--slice") + 1] for words in commands if "--slice" in words)
    assert shares == ["1/2", "1/2", "2/2", "2/2"]
    assert len(kube.made_claims) == 1
    assert kube.claims == {}
    assert {"download[0]", "download[1]", "upload_from_volume[0]", "upload_from_volume[1]"} <= set(summary.results)
    report = summary.results["report"]["report"].removeprefix("s3://llm-models/")
    body = json.loads(airflow.minio.client().get_object(Bucket="llm-models", Key=report)["Body"].read())
    assert body["moved_bytes"] == 2000, "what both pods moved into S3"


def test_the_volume_is_removed_although_the_run_failed(airflow: Airflow, kube: FakeKube) -> None:
    kube.commands["copy"] = (2, "The hub says no.")
    summary = airflow.deliver({"staging": "volume", "destination": "s3"})
    assert summary.failure is not None
    assert summary.failure["task_id"] == "download[0]"
    assert {task.task_id: task.state for task in summary.tasks}["remove_volume"] == "success"
    assert len(kube.made_claims) == 1
    assert kube.claims == {}


def test_a_dry_run_ends_with_the_plan(airflow: Airflow, kube: FakeKube) -> None:
    summary = airflow.deliver({"dry_run": True})
    assert summary.state == "success"
    assert commands_of(kube) == ["resolve"]
    assert {task.state for task in summary.tasks if task.task_id != "resolve"} == {"skipped"}


def assert_no_secret_is_shown(airflow: Airflow, run_id: str) -> None:
    """Neither logs nor rendered fields nor XComs hold the store's secret key or the cluster's token."""
    logs = [file.read_text(errors="replace") for file in (airflow.home / "logs").rglob("*.log")]
    assert logs, "there are logs to look at"
    with airflow.api() as api:
        tasks = api.get(f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]
        texts = [json.dumps(tasks)]
        for row in tasks:
            place = f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances/{row['task_id']}/xcomEntries"
            for entry in api.get(place)["xcom_entries"]:
                texts.append(json.dumps(api.get(f"{place}/{entry['key']}")))
    assert len(texts) > 10, "there are XComs to look at"
    for text in [*logs, *texts]:
        assert airflow.minio.secret_key not in text
