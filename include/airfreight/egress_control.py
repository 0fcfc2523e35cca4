"""Shows that egress rules bite in a cluster: one probe under them, one without, and a sink that both try to reach.

    sink       accepts connections and does nothing with them
    under      tries the sink, under a NetworkPolicy with the very rules of the model's pods; must fail
    without    tries the sink, under none; must succeed, else the first failure means nothing

All of it is made in the model's namespace, lives for seconds, and is removed at the end. A policy takes a moment to
reach a new pod, so each probe tries for a while until it has seen what it is to see.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from airfreight.cluster import NETWORK_POLICIES, PODS, Cluster, Resource
from airfreight.egress import policy_for
from airfreight.errors import AirfreightError, TemporaryError
from airfreight.rendering import MANAGED_BY

PORT = 8080
LABEL = "airfreight.dev/egress-control"
TRIES = 20  # of a probe, about one a second
WAIT_S = 180.0  # for a pod of the control to start or to end; its image may have to be pulled

_SINK = f"""
import socket
server = socket.create_server(("", {PORT}))
while True:
    server.accept()[0].close()
"""
# Ends with "reached" or "blocked" in its termination message, early when it saw what it wants twice in a row.
_PROBE = f"""
import socket, sys, time
host, want, seen = sys.argv[1], sys.argv[2], ""
same = 0
for _ in range({TRIES}):
    try:
        socket.create_connection((host, {PORT}), 2).close()
        now = "reached"
    except OSError:
        now = "blocked"
    same = same + 1 if now == seen else 1
    seen = now
    if seen == want and same > 1:
        break
    time.sleep(1)
open("/dev/termination-log", "w").write(seen)
"""


@dataclass(frozen=True)
class Control:
    """What the two probes saw."""

    reached_without: bool
    reached_under: bool


def run_control(
    cluster: Cluster,
    namespace: str,
    image: str,
    rules: list[dict[str, Any]],
    pause: Callable[[float], object] = time.sleep,
) -> Control:
    """Run the control in a namespace.

    Args:
        image: any image with python3 in it; the worker's.
        rules: of the model's policy.
    Raises:
        RequestError: pods or policies may not be made there.
        TemporaryError: a pod of it did not start or end in time.
    """
    mark = secrets.token_hex(4)
    with ExitStack() as stack:

        def make(resource: Resource, wanted: dict[str, Any]) -> str:
            name = str(wanted["metadata"]["name"])
            stack.callback(_remove, cluster, resource, namespace, name)
            cluster.create(resource, wanted)
            return name

        under = {LABEL: f"{mark}-under"}
        make(NETWORK_POLICIES, policy_for(f"airfreight-control-{mark}", namespace, under, rules))
        sink = make(PODS, _pod(namespace, image, f"{mark}-sink", [_SINK]))
        address = _wait(cluster, namespace, sink, _address, pause)
        probes = {
            role: make(PODS, _pod(namespace, image, f"{mark}-{role}", [_PROBE, address, wanted]))
            for role, wanted in (("under", "blocked"), ("without", "reached"))
        }
        seen = {role: _wait(cluster, namespace, name, _verdict, pause) for role, name in probes.items()}
    return Control(reached_without=seen["without"] == "reached", reached_under=seen["under"] == "reached")


def _pod(namespace: str, image: str, mark: str, words: list[str]) -> dict[str, Any]:
    container = {
        "name": "control",
        "image": image,
        "command": ["python3", "-c", *words],
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"airfreight-control-{mark}", "namespace": namespace, "labels": {**MANAGED_BY, LABEL: mark},
        },
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "activeDeadlineSeconds": 600,  # of a control whose run died
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }  # fmt: skip


def _address(pod: dict[str, Any]) -> str | None:
    status = pod.get("status") or {}
    return str(status["podIP"]) if status.get("phase") == "Running" and status.get("podIP") else None


def _verdict(pod: dict[str, Any]) -> str | None:
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        ended = (status.get("state") or {}).get("terminated")
        if ended:
            return str(ended.get("message") or "it said nothing")
    return None


def _wait(
    cluster: Cluster,
    namespace: str,
    name: str,
    look: Callable[[dict[str, Any]], str | None],
    pause: Callable[[float], object],
) -> str:
    end = time.monotonic() + WAIT_S
    while True:
        found = look(cluster.get(PODS, namespace, name) or {})
        if found is not None:
            return found
        if time.monotonic() > end:
            raise TemporaryError(
                f"The pod {name} in namespace {namespace} did not get ready within {WAIT_S:.0f} s; look at its events."
            )
        pause(0.5)


def _remove(cluster: Cluster, resource: Resource, namespace: str, name: str) -> None:
    try:
        cluster.delete(resource, namespace, name)
    except AirfreightError as error:  # it ends by itself after ten minutes
        import logging

        logging.getLogger(__name__).warning("%s", error)
