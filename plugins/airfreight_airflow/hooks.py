"""The cluster as Airflow's connection knows it, and what keeps a pod from starting."""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager
from kubernetes.client import models as k8s

# What the kubelet says when a Secret, a ConfigMap or a key in one is not there (kubelet container/sync_result.go).
# Image pulls are the provider's own business: it knows which of them are transient.
_MISCONFIGURED = "CreateContainerConfigError"


class HouseHook(KubernetesHook):
    """A KubernetesHook whose XCom sidecar comes from our own image, with requests and limits.

    The provider would take both from extras of the connection, and Alpine from the public registry where these are
    missing.
    """

    def __init__(self, *, sidecar_image: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sidecar_image = sidecar_image

    def get_xcom_sidecar_container_image(self) -> str:
        """The image of the sidecar: that of every pod."""
        return self.sidecar_image

    def get_xcom_sidecar_container_resources(self) -> k8s.V1ResourceRequirements:
        """A shell that sleeps; limits because a namespace with a quota refuses containers without."""
        return k8s.V1ResourceRequirements(
            requests={"cpu": "1m", "memory": "16Mi"}, limits={"cpu": "100m", "memory": "64Mi"}
        )


class HousePodManager(PodManager):
    """A PodManager that gives up on a pod which cannot start, and remembers how it last saw the pod.

    The provider waits the whole start-up time for a missing Secret; the kubelet has said within a second what is wrong.
    """

    last_seen: k8s.V1Pod | None = None
    _starting = False

    async def await_pod_start(self, *args: Any, **kwargs: Any) -> None:
        """Wait until the pod left Pending.

        Raises:
            PodLaunchFailedException: it never will; the message is the kubelet's.
        """
        self._starting = True
        try:
            await super().await_pod_start(*args, **kwargs)
        finally:
            self._starting = False

    def read_pod(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        """Read the pod; while it starts, fail where it cannot.

        Raises:
            PodLaunchFailedException: see `await_pod_start`.
        """
        self.last_seen = super().read_pod(pod)
        if self._starting and (problem := why_it_cannot_start(self.last_seen)):
            raise PodLaunchFailedException(problem)
        return self.last_seen


def why_it_cannot_start(pod: k8s.V1Pod) -> str | None:
    """What the kubelet says of a container that will never start, e.g. `secret "airfreight-store" not found`."""
    for status in (pod.status and pod.status.container_statuses) or []:
        waiting = status.state and status.state.waiting
        # A timed-out cache is the kubelet's own hiccup under load ("failed to sync secret cache: timed out …"): it
        # tries again.
        if waiting and waiting.reason == _MISCONFIGURED and "timed out" not in (waiting.message or ""):
            return f"{waiting.reason}: {waiting.message or 'no message'}"
    return None


def why_it_is_not_scheduled(pod: k8s.V1Pod | None) -> str | None:
    """What the scheduler says of a pod without a node, e.g. `0/1 nodes are available: 1 Insufficient cpu.`"""
    for condition in (pod and pod.status and pod.status.conditions) or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return str(condition.message or condition.reason)
    return None
