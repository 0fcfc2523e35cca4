"""What the API server's refusals become, and which of them are tried again; the server is a real HTTP server here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airfreight.cluster import INFERENCE_SERVICES, PODS, SERVING_RUNTIMES, Cluster, Right
from airfreight.cluster_errors import api_error
from airfreight.errors import RequestError, TemporaryError
from airfreight.preflight import check_target, missing_runtime
from airfreight.retry import Patience
from tests.standins.web import Listener

DOING = "apply InferenceService pong in namespace models"


def status(message: str, code: int = 403, kind: str = "inferenceservices", name: str = "pong") -> str:
    return json.dumps({"kind": "Status", "message": message, "code": code, "details": {"kind": kind, "name": name}})


RBAC = status(
    'inferenceservices.serving.kserve.io "pong" is forbidden: User '
    '"system:serviceaccount:airfreight:airfreight-deployer" cannot patch resource "inferenceservices" '
    'in API group "serving.kserve.io" in the namespace "other"'
)
ADMISSION = status(
    'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: '
    'the InferenceService "pong" is invalid: minReplicas'
)


@pytest.mark.parametrize(
    ("code", "body", "kind", "sentence"),
    [
        (401, status("Unauthorized"), RequestError, "does not accept these credentials"),
        (
            403,
            RBAC,
            RequestError,
            "The service account airfreight-deployer of namespace airfreight may not patch inferenceservices in "
            "namespace other; apply include/kubernetes/target there, or choose a namespace where that was done.",
        ),
        (
            403,
            RBAC.replace("inferenceservices", "networkpolicies"),
            RequestError,
            "may not patch networkpolicies in namespace other; apply include/kubernetes/egress there, or choose a",
        ),
        (
            403,
            status('nodes is forbidden: User "jo" cannot list resource "nodes" in API group "" at the cluster scope'),
            RequestError,
            "The user jo may not list nodes in this cluster; ask its administrator",
        ),
        (
            403,
            ADMISSION,
            RequestError,
            f'The cluster refuses to {DOING}: the InferenceService "pong" is invalid: minReplicas; correct what it',
        ),
        (
            403,
            status('pods "x" is forbidden: exceeded quota: small'),
            RequestError,
            "exceeded quota: small; correct what",
        ),
        (
            404,
            "404 page not found\n",
            RequestError,
            "KServe is not installed; install KServe 0.20 or newer in Standard mode",
        ),
        (404, status('namespaces "x" not found', 404, "namespaces", "x"), RequestError, "There is no namespace x"),
        (404, status("not found", 404), RequestError, "It is not there"),
        (
            422,
            status("spec.predictor.minReplicas: Invalid value: -1"),
            RequestError,
            "Invalid value: -1; correct what it names",
        ),
        (400, "not even JSON", RequestError, f"The cluster refuses to {DOING}: not even JSON"),
        (409, status("the object has been modified"), TemporaryError, "409 the object has been modified); try again."),
        (429, "", TemporaryError, "cannot do it now"),
        (503, "apiserver is shutting down", TemporaryError, "503 apiserver is shutting down"),
        (
            500,
            status('Internal error occurred: failed calling webhook "x": connect: connection refused'),
            TemporaryError,
            "KServe's webhook does not answer",
        ),
        (
            500,
            status('admission webhook "pod-mutator" denied the request: secrets "airfreight-store" not found', 500),
            RequestError,
            f'The cluster refuses to {DOING}: secrets "airfreight-store" not found; correct what it names.',
        ),
        (
            500,
            status('admission webhook "pod-mutator" denied the request: context deadline exceeded', 500),
            TemporaryError,
            "KServe's webhook does not answer",
        ),
    ],
)
def test_a_refusal_is_one_sentence(code: int, body: str, kind: type[Exception], sentence: str) -> None:
    error = api_error(code, body, DOING)
    assert type(error) is kind
    assert sentence in error.message and "\n" not in error.message


def test_the_nearest_runtime_is_named() -> None:
    there = ["airfreight-vllm-cpu-1a2b3c4d5e6f", "airfreight-vllm-gpu-000000000000", "kserve-vllmserver"]
    said = missing_runtime("airfreight-vllm-cpu-1a2b3c4d5e60", "models", there)
    assert said.startswith("There is no ServingRuntime airfreight-vllm-cpu-1a2b3c4d5e60 in namespace models; ")
    assert 'did you mean "airfreight-vllm-cpu-1a2b3c4d5e6f"' in said and "kserve-vllmserver" not in said
    assert "choose one of airfreight-vllm-cpu-1a2b3c4d5e6f, airfreight-vllm-gpu" in missing_runtime(
        "x", "models", there
    )
    assert "airfreight runtime pin IMAGE@sha256:... --template vllm-gpu --namespace models --apply" in missing_runtime(
        "x", "models", ["kserve-vllmserver"]
    )


class ApiServer:
    """Answers each request with the next of `answers`, then with 404; keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.asked: list[tuple[str, str, dict[str, list[str]], Any, str]] = []
        outer = self

        class Handle(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                url = urlsplit(self.path)
                sent = json.loads(body) if body else None
                asked = (self.command, url.path, parse_qs(url.query), sent, self.headers["Content-Type"])
                outer.asked.append(asked)
                code, text = outer.answers.pop(0) if outer.answers else (404, status("not found", 404))
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PATCH = do_POST = do_DELETE = _do  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = Listener(("127.0.0.1", 0), Handle)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    server = ApiServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, f"http://127.0.0.1:{server.http.server_port}")))
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def write_kubeconfig(directory: Path, url: str) -> Path:
    path = directory / "kubeconfig"
    entry = {"name": "here"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{**entry, "context": {"cluster": "here", "user": "here"}}],
        "clusters": [{**entry, "cluster": {"server": url}}],
        "users": [{**entry, "user": {"token": "a-token"}}],
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def cluster(server: ApiServer) -> Cluster:
    return Cluster.connect(patience=Patience(attempts=3, base=0.01))


def service(**annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "pong", "namespace": "models", "uid": "1", "annotations": annotations},
        "spec": {"predictor": {"minReplicas": 1}},
    }


def test_an_apply_is_rehearsed_first_and_is_ours_alone(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(404, status("no", 404)), (201, json.dumps(service())), (201, json.dumps(service()))]
    assert cluster.apply(service()).changed
    _, rehearsal, real = server.asked
    path = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/pong"
    ours = {"fieldManager": ["airfreight"], "force": ["false"]}
    assert rehearsal == ("PATCH", path, {**ours, "dryRun": ["All"]}, service(), "application/apply-patch+yaml")
    assert real == ("PATCH", path, ours, service(), "application/apply-patch+yaml")


def test_a_creation_is_rehearsed_and_stores_nothing(server: ApiServer, cluster: Cluster) -> None:
    pod = {"metadata": {"name": "pong-smoke", "namespace": "models"}}
    server.answers = [(201, json.dumps({"made": True}))]
    assert cluster.rehearse(PODS, pod) == {"made": True}
    path = "/api/v1/namespaces/models/pods"
    assert server.asked == [("POST", path, {"dryRun": ["All"]}, pod, "application/json")]


def test_long_lists_come_in_pages(server: ApiServer, cluster: Cluster) -> None:
    first = {"metadata": {"continue": "here"}, "items": [{"a": 1}]}
    server.answers = [(200, json.dumps(first)), (200, json.dumps({"metadata": {}, "items": [{"a": 2}]}))]
    assert cluster.items(PODS, fields="status.phase=Running") == [{"a": 1}, {"a": 2}]
    queries = [asked[2] for asked in server.asked]
    asked_for = {"limit": ["500"], "fieldSelector": ["status.phase=Running"]}
    assert queries == [asked_for, {**asked_for, "continue": ["here"]}]


EDITED = json.dumps(
    {
        "kind": "Status", "code": 409, "reason": "Conflict",
        "message": "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\": ...",
        "details": {"causes": [
            {"reason": "FieldManagerConflict", "field": f".spec.predictor.model.resources.limits.{what}",
             "message": 'conflict with "kubectl-edit" using serving.kserve.io/v1beta1 at 2026-11-22T19:00:00Z'}
            for what in ("memory", "cpu")
        ]},
    }
)  # fmt: skip


def test_what_was_edited_by_hand_is_named_with_its_owner_and_not_overwritten(
    server: ApiServer, cluster: Cluster
) -> None:
    server.answers = [(200, json.dumps(service())), (409, EDITED)]
    with pytest.raises(
        RequestError,
        match=r"^It was edited by hand \(apply InferenceService pong in namespace models: kubectl-edit set "
        r"\.spec\.predictor\.model\.resources\.limits\.cpu, \.spec.*memory\), and nothing was overwritten: .*--take-",
    ):
        cluster.apply(service())
    assert len(server.asked) == 2, "asking again would change nothing"


def test_what_was_edited_is_taken_over_when_asked_to(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(200, json.dumps(service()))] * 3
    cluster.apply(service(), take_over=True)
    assert [asked[2]["force"] for asked in server.asked if asked[0] == "PATCH"] == [["true"]] * 2


def test_another_life_under_the_same_name_is_not_deleted(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(200, json.dumps({"kind": "Status", "status": "Success"}))]
    assert cluster.delete(INFERENCE_SERVICES, "models", "pong", uid="1")
    method, path, _, body, _ = server.asked[0]
    assert (method, path.rsplit("/", 1)[1]) == ("DELETE", "pong")
    assert body["preconditions"] == {"uid": "1"}


def test_a_refused_rehearsal_writes_nothing(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(404, status("no", 404)), (403, ADMISSION)]
    with pytest.raises(RequestError, match="minReplicas"):
        cluster.apply(service())
    assert [asked[2].get("dryRun") for asked in server.asked if asked[0] == "PATCH"] == [["All"]]


def test_a_status_that_moves_is_no_change(server: ApiServer, cluster: Cluster) -> None:
    before = {**service(), "status": {"conditions": []}}
    before["metadata"] = {**before["metadata"], "resourceVersion": "7"}
    server.answers = [(200, json.dumps(before)), (200, json.dumps(service())), (200, json.dumps(service()))]
    assert not cluster.apply(service()).changed


def test_a_dry_run_ends_there(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(200, json.dumps(service())), (200, json.dumps(service(a="b")))]
    assert cluster.apply(service(), dry_run=True).changed
    assert len(server.asked) == 2


def test_a_webhook_that_comes_back_is_waited_for(server: ApiServer, cluster: Cluster) -> None:
    down = (500, status("failed calling webhook: connection refused"))
    server.answers = [(404, status("no", 404)), down, down, (201, json.dumps(service())), (201, json.dumps(service()))]
    assert cluster.apply(service()).changed


def test_what_stays_down_is_temporary(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(503, "no")] * 9
    with pytest.raises(TemporaryError, match="503 no"):
        cluster.get(INFERENCE_SERVICES, "models", "pong")
    assert len(server.asked) == 3


def test_stop_touches_one_annotation(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(200, json.dumps(service())), (200, json.dumps(service()))]
    assert cluster.set_stopped("models", "pong", True).changed
    method, _, query, body, _ = server.asked[1]
    assert (method, query["fieldManager"]) == ("PATCH", ["airfreight-power"])
    assert body["metadata"]["annotations"] == {"serving.kserve.io/stop": "true"}
    assert body["metadata"]["uid"] == "1" and "spec" not in body and "labels" not in body["metadata"]


@pytest.mark.parametrize(
    ("annotations", "stopped"),
    [({}, False), ({"serving.kserve.io/stop": "false"}, False), ({"serving.kserve.io/stop": "True"}, True)],
)
def test_what_is_so_already_is_not_written(
    server: ApiServer, cluster: Cluster, annotations: dict[str, str], stopped: bool
) -> None:
    server.answers = [(200, json.dumps(service(**annotations)))]
    assert not cluster.set_stopped("models", "pong", stopped).changed
    assert len(server.asked) == 1


def test_stopping_what_is_not_there(cluster: Cluster) -> None:
    with pytest.raises(RequestError, match="There is no InferenceService pong in namespace models; correct the name"):
        cluster.set_stopped("models", "pong", True)


def test_without_kserve_the_sentence_says_so(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(404, "404 page not found\n")]
    with pytest.raises(RequestError, match="KServe is not installed"):
        cluster.get(SERVING_RUNTIMES, "models", "x")


def test_what_is_no_api_server(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(200, "<html>")]
    with pytest.raises(RequestError, match="is no Kubernetes API server"):
        cluster.version()


def test_preflight_takes_what_it_may_not_read_as_there(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(200, "{}"), (403, RBAC), (403, RBAC)]
    check_target(cluster, "models", "airfreight-x", "s3://llm-models/a/b/c/")
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([(404, status("no", 404))] * 2, "There is no namespace models; create it with include/kubernetes/target"),
        (
            [
                (404, status("no", 404)),
                (403, RBAC),
                (200, json.dumps({"items": [{"metadata": {"name": "airfreight-y"}}]})),
            ],
            "There is no ServingRuntime airfreight-x in namespace models; did you mean",
        ),
        ([(200, "{}"), (404, status("no", 404))], "Namespace models has no service account airfreight-model"),
        ([(200, "{}"), (200, "{}"), (404, status("no", 404))], "Namespace models has no Secret airfreight-store"),
    ],
)
def test_preflight_names_what_is_missing(
    server: ApiServer, cluster: Cluster, answers: list[tuple[int, str]], sentence: str
) -> None:
    server.answers = answers
    with pytest.raises(RequestError) as caught:
        check_target(cluster, "models", "airfreight-x", "s3://llm-models/a/b/c/")
    assert sentence in caught.value.message


def test_rights_of_others_and_of_ourselves(server: ApiServer, cluster: Cluster) -> None:
    server.answers = [(201, '{"status": {"allowed": true}}'), (201, '{"status": {"allowed": false}}')]
    right = Right("models", "patch", "inferenceservices", "serving.kserve.io")
    assert cluster.may(right) and not cluster.may(right, "system:serviceaccount:a:b")
    ours, theirs = server.asked
    assert ours[1].endswith("/selfsubjectaccessreviews") and "user" not in ours[3]["spec"]
    assert theirs[1].endswith("/subjectaccessreviews") and theirs[3]["spec"]["user"] == "system:serviceaccount:a:b"
    assert theirs[3]["spec"]["resourceAttributes"]["verb"] == "patch"


def test_no_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(
        RequestError, match=r"There is no cluster to talk to .*; set KUBECONFIG to a kubeconfig, or run in a pod"
    ):
        Cluster.connect()


def test_a_context_that_is_not_there(server: ApiServer) -> None:
    with pytest.raises(RequestError, match="There is no cluster to talk to"):
        Cluster.connect(context="elsewhere")


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write_kubeconfig(tmp_path, "https://127.0.0.1:1")))
    with pytest.raises(TemporaryError, match=r"The Kubernetes API server https://127.0.0.1:1 cannot be reached"):
        Cluster.connect(patience=Patience(attempts=1)).version()
