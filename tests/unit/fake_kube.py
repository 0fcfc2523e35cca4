"""A stand-in for the Kubernetes API, as far as our operator and trigger use it: pods, their logs, exec, events, three
reads.

A pod created here has ended at once, as `exit_code`, `message` and `result` say; its XCom sidecar still runs. What is
asked is kept in `calls`, what is created in `created`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.standins.web import Listener

_WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


@dataclass
class FakeKube:
    """What the cluster answers, to be changed by a test at any time."""

    exit_code: int = 0
    message: str | None = None
    reason: str | None = None
    result: dict[str, Any] | None = field(default_factory=lambda: {"ok": True})
    commands: dict[str, Any] = field(default_factory=dict)
    """By command (`resolve`, `copy` …): its result, or (exit code, message); instead of the above."""
    log: str = "copying model.safetensors\n"
    base_state: dict[str, Any] | None = None
    """State of the base container instead of the ended one, e.g. {"waiting": {…}}."""
    pod_status: dict[str, Any] | None = None
    """The whole status of every pod, instead of one made of the above."""
    conditions: list[dict[str, Any]] = field(default_factory=list)
    refuse_create: tuple[int, str] | None = None
    lose_pods: bool = False
    """Whether a pod is gone when it is read again."""
    objects: dict[str, Any] = field(default_factory=dict)
    """Answers by path for everything that is no pod of ours; an int is a status, a str a page of text, and what can be
    called is called for one of them (and may take its time)."""
    created: list[dict[str, Any]] = field(default_factory=list)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    claims: dict[str, dict[str, Any]] = field(default_factory=dict)
    """PersistentVolumeClaims by their path, as they were made."""
    made_claims: list[dict[str, Any]] = field(default_factory=list)
    refuse_claim: tuple[int, str] | None = None
    calls: list[str] = field(default_factory=list)
    url: str = ""

    def connection(self) -> str:
        """An Airflow connection to this cluster, as JSON for the environment."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config": config}})

    def outcome(self, pod: dict[str, Any]) -> Any:
        """How the pod's command ends: a result, or an exit code and a message."""
        return self.commands.get(pod["spec"]["containers"][0]["args"][0], self.result)

    def status_of(self, pod: dict[str, Any]) -> dict[str, Any]:
        """The pod's status now."""
        if self.pod_status is not None:
            return self.pod_status
        outcome = self.outcome(pod)
        code, message = outcome if isinstance(outcome, tuple) else (self.exit_code, self.message)
        ended = {
            "exitCode": code,
            "message": message,
            "reason": self.reason or "Completed",
            "finishedAt": datetime.now(tz=UTC).isoformat(),  # the provider reads no log of a pod that ended long ago
        }
        state = self.base_state or {"terminated": ended}
        waiting = "waiting" in state or bool(self.conditions)
        statuses = [{"name": "base", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}]
        if not waiting:
            sidecar = {"name": "airflow-xcom-sidecar", "image": "i", "imageID": "", "ready": True, "restartCount": 0}
            statuses.append({**sidecar, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
        return {
            "phase": "Pending" if waiting else "Running",
            "conditions": self.conditions or [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [] if self.conditions else statuses,
        }


@contextmanager
def fake_kube() -> Iterator[FakeKube]:
    """Serve a `FakeKube` on a free port of loopback."""
    kube = FakeKube()

    class Handler(_Handler):
        cluster = kube

    server = Listener(("127.0.0.1", 0), Handler)
    kube.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield kube
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: FakeKube

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        kube, path = self._asked()
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if path.endswith("/persistentvolumeclaims"):
            return self._claim(path, pod)
        if kube.refuse_create:
            code, message = kube.refuse_create
            return self._answer({"kind": "Status", "code": code, "message": message}, code)
        pod["metadata"].setdefault("namespace", path.split("/")[4])
        kube.created.append(pod)
        kube.pods[pod["metadata"]["name"]] = pod
        return self._answer({**pod, "status": {"phase": "Pending"}}, 201)

    def do_GET(self) -> None:
        kube, path = self._asked()
        parts = path.strip("/").split("/")
        if path in kube.claims:
            return self._answer(kube.claims[path])
        if path in kube.objects:
            found = kube.objects[path]
            found = found() if callable(found) else found
            if isinstance(found, str):
                return self._answer_text(found)
            return self._not(found) if isinstance(found, int) else self._answer(found)
        if path.endswith("/events"):
            return self._answer({"kind": "EventList", "metadata": {"resourceVersion": "1"}, "items": []})
        if path.endswith("/exec"):
            return self._exec()
        if path.endswith("/log"):
            lines = [f"2026-01-01T00:00:00Z {line}\n" for line in kube.log.splitlines()]
            return self._answer_text("".join(lines))
        if parts[-1] == "pods":
            wanted = {
                part.partition("=")[0]: part.partition("=")[2]
                for part in parse_qs(urlsplit(self.path).query).get("labelSelector", [""])[0].split(",")
                if "=" in part and "!=" not in part
            }
            found_pods = [
                {**pod, "status": kube.status_of(pod)}
                for pod in kube.pods.values()
                if wanted.items() <= pod["metadata"].get("labels", {}).items()
            ]
            return self._answer({"kind": "PodList", "metadata": {}, "items": found_pods})
        if "pods" in parts and parts[-1] in kube.pods and not kube.lose_pods:
            pod = kube.pods[parts[-1]]
            return self._answer({**pod, "status": kube.status_of(pod)})
        return self._not(404)

    def do_PATCH(self) -> None:
        kube, path = self._asked()
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pod = kube.pods[path.rsplit("/", 1)[1]]
        pod["metadata"].setdefault("labels", {}).update(patch["metadata"]["labels"])
        self._answer(pod)

    def do_DELETE(self) -> None:
        kube, path = self._asked()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/persistentvolumeclaims/" in path and kube.claims.pop(path, None) is None:
            return self._not(404)
        kube.pods.pop(path.rsplit("/", 1)[1], None)
        return self._answer({"kind": "Status", "status": "Success"})

    def _claim(self, path: str, claim: dict[str, Any]) -> None:
        kube, place = self.cluster, f"{path}/{claim['metadata']['name']}"
        if kube.refuse_claim:
            code, message = kube.refuse_claim
            return self._answer({"kind": "Status", "code": code, "message": message}, code)
        if place in kube.claims:
            return self._not(409)
        kube.claims[place] = claim
        kube.made_claims.append(claim)
        return self._answer(claim, 201)

    def _asked(self) -> tuple[FakeKube, str]:
        path = urlsplit(self.path).path
        self.cluster.calls.append(f"{self.command} {path}")
        return self.cluster, path

    def _not(self, code: int) -> None:
        self._answer({"kind": "Status", "code": code, "message": f"{self.path} says {code}"}, code)

    def _answer(self, value: Any, code: int = 200) -> None:
        self._send(json.dumps(value).encode(), "application/json", code)

    def _answer_text(self, text: str) -> None:
        self._send(text.encode(), "text/plain", 200)

    def _send(self, body: bytes, kind: str, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _exec(self) -> None:
        """Answer an exec in the sidecar with the result file, over a WebSocket (channel 1: stdout, 3: status)."""
        name = urlsplit(self.path).path.split("/")[-2]
        result = self.cluster.outcome(self.cluster.pods[name])
        text = "__airflow_xcom_result_empty__" if result is None else json.dumps(result)
        key = self.headers["Sec-WebSocket-Key"] + _WEBSOCKET_GUID
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        accept = base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.wfile.write(_frame(2, b"\x01" + text.encode()))
        self.wfile.write(_frame(2, b"\x03" + json.dumps({"status": "Success"}).encode()))
        self.wfile.write(_frame(8, struct.pack("!H", 1000)))
        self.close_connection = True


def _frame(opcode: int, payload: bytes) -> bytes:
    head = bytes([0x80 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    return head + bytes([126]) + struct.pack("!H", len(payload)) + payload
