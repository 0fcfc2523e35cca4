"""Who asks a model while its windows come and go, from the node and from a pod; and a pod whose metrics are strange."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2
import yaml

from airfreight.rendering import service_url
from devcluster import addons, images
from devcluster.light import image
from devcluster.shell import DevClusterError
from tests.full.gate_bench import NAME, SERVED, Bench

HANG_S = 30.0
"""After so long a client gives up: nobody answered it and nobody refused it."""


def pods(bench: Bench) -> list[Any]:
    selector = f"serving.kserve.io/inferenceservice={NAME}"
    found = json.loads(bench.kubectl("get", "pods", "-n", bench.namespace, "-l", selector, "-o", "json"))
    return list(found["items"])


@dataclass
class Caller:
    """A client that never stops asking, by one address; `calls` are (began, seconds, what came).

    Args:
        pause_s: between two calls.
    """

    url: str
    pause_s: float = 0.1
    calls: list[tuple[float, float, str]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        body = {"model": SERVED, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 16}
        while not self.done.wait(self.pause_s):
            begun = time.monotonic()
            try:
                # A connection of its own for each: one that is kept could outlive its Service.
                with httpx2.Client(trust_env=False, timeout=HANG_S) as client:
                    answer = client.post(f"{self.url}/v1/chat/completions", json=body)
                came = "answered" if answer.status_code == 200 else str(answer.status_code)
            except httpx2.HTTPError as error:
                came = type(error).__name__
            self.calls.append((begun, time.monotonic() - begun, came))


CLIENT = """
import json, sys, time, urllib.error, urllib.request
body = json.dumps({"model": sys.argv[2], "messages": [{"role": "user", "content": "ping"}], "max_tokens": 16})
while True:
    begun, wall = time.monotonic(), time.time()
    asked = urllib.request.Request(sys.argv[1], body.encode(), {"Content-Type": "application/json"})
    try:
        came = "answered" if urllib.request.urlopen(asked, timeout=30).status == 200 else "?"
    except urllib.error.HTTPError as error:
        came = str(error.code)
    except OSError as error:
        came = type(getattr(error, "reason", error)).__name__
    except Exception as error:
        came = type(error).__name__
    print(json.dumps([wall, time.monotonic() - begun, came]), flush=True)
    time.sleep(0.2)
"""


@dataclass
class Client:
    """A pod that never stops asking, by the model's name in the cluster."""

    bench: Bench
    name: str = "client"

    def start(self) -> None:
        url = f"{service_url(NAME, self.bench.namespace)}/v1/chat/completions"
        command = ["python3", "-c", CLIENT, url, SERVED]
        addons.apply(self.bench.cluster, yaml.safe_dump(plain_pod(self.bench, self.name, command, {})))

    @property
    def calls(self) -> list[tuple[float, float, str]]:
        """As `Caller.calls`, with Unix times."""
        try:
            log = self.bench.kubectl("logs", self.name, "-n", self.bench.namespace)
        except DevClusterError:  # it has not started yet
            return []
        return [tuple(json.loads(line)) for line in log.splitlines()]

    def answered_since(self, moment: float) -> bool:
        return any(begun > moment and came == "answered" for begun, _, came in self.calls)

    def remove(self) -> None:
        self.bench.kubectl("delete", "pod", self.name, "-n", self.bench.namespace, "--now", "--ignore-not-found")


GOOD_PAGE = "".join(
    f'vllm:{name}{{engine="0",model_name="{SERVED}"}} 0.0\n'
    for name in ("num_requests_running", "num_requests_waiting", "request_success_total", "prompt_tokens_total",
                 "generation_tokens_total")
)  # fmt: skip

STRANGE_SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if sys.argv[1] == "hang":
            time.sleep(600)
        self.send_response(200)
        self.send_header("Content-Length", str(len(sys.argv[1])))
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


def strange_pod(bench: Bench, name: str, page: str) -> dict[str, Any]:
    command = ["python3", "-c", STRANGE_SERVER, page, f"--served-model-name={SERVED}"]
    labels = {"serving.kserve.io/inferenceservice": NAME}
    return plain_pod(bench, name, command, labels, ports=[{"containerPort": 8080}])


def plain_pod(bench: Bench, name: str, command: list[str], labels: dict[str, str], **more: Any) -> dict[str, Any]:
    container = {
        "name": "kserve-container", "image": images.reference(bench.cluster, image.NAME), "command": command, **more
    }  # fmt: skip
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": bench.namespace, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False, "containers": [container]},
    }  # fmt: skip
