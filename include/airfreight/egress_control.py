"""Shows that egress rules bite in a cluster: two probes try to reach the same port, one under the rules, one without.

    under      tries our resolver's list of lookups, under a NetworkPolicy with the very rules of the model's pods, and
               those allow its DNS at most; must fail
    without    tries the same, under none; must succeed, else the first failure means nothing

Both start together in the model's namespace, live for seconds, and are removed at the end. A policy takes a moment to
reach a new pod, so each probe tries until it has seen what it is to see.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from airfreight.cluster import NETWORK_POLICIES, PODS, Cluster, Resource
from airfreight.egress import LOOKUPS_PORT, policy_for
from airfreight.errors import AirfreightError, RequestError
from airfreight.observation import one_line
from airfreight.rendering import MODEL_SERVICE_ACCOUNT
from airfreight.short_pod import short_pod

LABEL = "airfreight.dev/egress-control"
PROBE_S = 20  # seconds for a policy to reach a new pod, at most
WAIT_S = 120.0  # for a probe to start and to end; its image may have to be pulled
POLL_S = 0.25
DEADLINE_S = 600  # of a control whose run died
# Reasons of a container that waits for something which does not come by itself.
_STUCK = frozenset({"ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"})

# Ends with "reached" or "blocked" in its termination message. "reached" needs seeing once; "blocked" twice, with half a
# second between: where packets are dropped each try lasts longer than the kernel takes to send again (1 s, RFC 6298).
_PROBE = f"""
import socket, sys, time
host, want, seen, times = sys.argv[1], sys.argv[2], "", 0
end = time.monotonic() + {PROBE_S}
while time.monotonic() < end and (seen != want or times < 2 and want == "blocked"):
    if seen:
        time.sleep(0.5)
    try:
        socket.create_connection((host, {LOOKUPS_PORT}), 1.5).close()
        now = "reached"
    except OSError:
        now = "blocked"
    seen, times = now, times + 1 if now == seen else 1
open("/dev/termination-log", "w").write(seen if seen == "reached" or times > 1 else "it could not tell")
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
    resolver: str,
    pause: Callable[[float], object] = time.sleep,
) -> Control:
    """Run the control in a namespace.

    Args:
        image: any image with python3 in it that the model's nodes can pull; the worker's.
        rules: of the model's policy.
        resolver: IP address of our resolver.
    Raises:
        RequestError: pods or policies may not be made there, or a probe did not start or end in time.
        TemporaryError: the API server does not answer.
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
        probes = {
            role: make(PODS, _pod(namespace, image, f"{mark}-{role}", resolver, wanted))
            for role, wanted in (("under", "blocked"), ("without", "reached"))
        }
        seen = {role: _wait(cluster, namespace, name, pause) for role, name in probes.items()}
    return Control(reached_without=seen["without"] == "reached", reached_under=seen["under"] == "reached")


def _pod(namespace: str, image: str, mark: str, resolver: str, wanted: str) -> dict[str, Any]:
    container = {
        "name": "control",
        "image": image,
        "command": ["python3", "-I", "-S", "-c", _PROBE, resolver, wanted],
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
    }
    account = {"serviceAccountName": MODEL_SERVICE_ACCOUNT}  # for the login with which nodes pull
    return short_pod(
        f"airfreight-control-{mark}", namespace, {LABEL: mark}, container, deadline_s=DEADLINE_S, spec=account
    )


def _verdict(pod: dict[str, Any]) -> str | None:
    """Return what a probe saw; None while it has not ended.

    Raises:
        RequestError: it will not start, or ended without one.
    """
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        state = status.get("state") or {}
        if ended := state.get("terminated"):
            said = str(ended.get("message") or ended.get("reason") or "nothing")
            if said not in ("reached", "blocked"):
                raise RequestError(
                    f"The control's probe ended without a verdict ({one_line(said, 200)}); run it again, with an image "
                    "that has python3."
                )
            return said
        waiting = state.get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            raise RequestError(
                f"The control's pod cannot start ({waiting['reason']}: {one_line(str(waiting.get('message', '')), 200)}"
                "); let the nodes of the model's namespace pull the worker's image."
            )
    return None


def _wait(cluster: Cluster, namespace: str, name: str, pause: Callable[[float], object]) -> str:
    end = time.monotonic() + WAIT_S
    while True:
        found = _verdict(cluster.get(PODS, namespace, name) or {})
        if found is not None:
            return found
        if time.monotonic() > end:
            raise RequestError(
                f"The pod {name} in namespace {namespace} did not come to its end within {WAIT_S:.0f} s; look at "
                "its events."
            )
        pause(POLL_S)


def _remove(cluster: Cluster, resource: Resource, namespace: str, name: str) -> None:
    try:
        cluster.delete(resource, namespace, name)
    except AirfreightError as error:  # it ends by itself after ten minutes
        import logging

        logging.getLogger(__name__).warning("%s", error)
