"""A model that serves in a stand-in of the Kubernetes API: an InferenceService, its Deployment, a pod, its metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.unit.fake_kube import FakeKube, fake_kube

SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/pong"
DEPLOYMENT = "/apis/apps/v1/namespaces/models/deployments/pong-predictor"
PODS = "/api/v1/namespaces/models/pods"
METRICS = f"{PODS}/pong-predictor-x:8080/proxy/metrics"
RELEASE = "9f2c41ab6c1b"
STOP = "serving.kserve.io/stop"
MARKS = {"airfreight.dev/release": RELEASE}


def page(running: float = 0, finished: float = 5, model: str = "pong") -> str:
    """A vLLM metrics page."""
    label = f'{{engine="0",model_name="{model}"}}'
    return "\n".join(
        f"{name}{label} {value}"
        for name, value in {
            "vllm:num_requests_running": running,
            "vllm:num_requests_waiting": 0.0,
            "vllm:request_success_total": finished,
            "vllm:prompt_tokens_total": finished * 7,
            "vllm:generation_tokens_total": finished * 9,
        }.items()
    )


@dataclass
class Model:
    """The model, to be changed by a test at any time; `install` puts it into the cluster."""

    kube: FakeKube
    stopped: bool = False
    manager: str = "airfreight-power"
    ready: bool = True
    page: Any = field(default_factory=page)
    pods: int = 1
    exists: bool = True

    def install(self) -> None:
        """Answer for this model from now on."""
        self.kube.objects |= {
            SERVICE: lambda: self.service() if self.exists else 404,
            DEPLOYMENT: lambda: 404 if self.stopped else deployment(self.ready),
            PODS: lambda: {
                "kind": "PodList",
                "apiVersion": "v1",
                "metadata": {},
                "items": [pod(self.ready)] * self.pods,
            },
            METRICS: lambda: self.page() if callable(self.page) else self.page,
            METRICS.replace(":8080", "%3A8080"): lambda: self.page() if callable(self.page) else self.page,
        }

    def service(self) -> dict[str, Any]:
        """The InferenceService, with who wrote its stop annotation."""
        value = "true" if self.stopped else "false"
        owned = {"f:metadata": {"f:annotations": {f"f:{STOP}": {}}}}
        entry = {"manager": self.manager, "time": "2026-11-22T12:00:00Z", "fieldsV1": owned}
        down = "True" if self.stopped and not self.pods else "False"
        conditions = [{"type": "Ready", "status": str(self.ready)}, {"type": "Stopped", "status": down}]
        return {
            "kind": "InferenceService",
            "metadata": {"name": "pong", "namespace": "models", "uid": "u", "annotations": {**MARKS, STOP: value},
                         "managedFields": [entry]},
            "spec": {"predictor": {"model": {"args": []}}},
            "status": {"conditions": conditions},
        }  # fmt: skip


def deployment(ready: bool = True) -> dict[str, Any]:
    """Its Deployment, rolled out or not."""
    return {
        "kind": "Deployment",
        "metadata": {"name": "pong-predictor", "namespace": "models", "generation": 1},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"annotations": MARKS}, "spec": {"containers": [{"name": "kserve-container"}]}},
        },
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": int(ready)},
    }


def pod(ready: bool = True) -> dict[str, Any]:
    """One of its pods."""
    status = {"name": "kserve-container", "image": "i", "imageID": "", "ready": ready, "restartCount": 0,
              "state": {"running": {"startedAt": "2026-11-22T12:00:00Z"}}}  # fmt: skip
    args = ["--model=/mnt/models", "--served-model-name=pong"]
    server = {"name": "kserve-container", "args": args, "ports": [{"containerPort": 8080}]}
    return {
        "kind": "Pod",
        "metadata": {"name": "pong-predictor-x", "namespace": "models", "uid": "uid-x", "annotations": MARKS},
        "spec": {"containers": [server]},
        "status": {"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"},
                   {"type": "Ready", "status": str(ready)}], "containerStatuses": [status]},
    }  # fmt: skip


@contextmanager
def serving_kube() -> Iterator[Model]:
    """Serve a model on a free port of loopback."""
    with fake_kube() as kube:
        model = Model(kube)
        model.install()
        yield model


def after(count: int, before: Any, then: Any) -> Callable[[], Any]:
    """Give `before` so often, and then `then`."""
    calls, lock = [0], threading.Lock()

    def answer() -> Any:
        with lock:
            calls[0] += 1
            return before if calls[0] <= count else then

    return answer
