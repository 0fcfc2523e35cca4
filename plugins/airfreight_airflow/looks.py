"""Looking at a model's objects in the cluster, in the triggerer: what the triggers judge, and what windows watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from kubernetes_asyncio import client as async_client
from kubernetes_asyncio.client.exceptions import ApiException

from airfreight.errors import RequestError, TemporaryError
from airfreight.observation import SERVICE_LABEL, Observation, condition
from airfreight.pod_rules import SERVER_CONTAINER

OBJECTS_S = 30.0
"""For all objects of a model; whoever waits for an API server that hangs misses its deadline, or its closing."""
LOG_LINES = 20
"""Lines of a crashed server's log that are read for the sentence."""

_KSERVE = ("serving.kserve.io", "v1beta1")


@dataclass(frozen=True, slots=True)
class Release:
    """Which release is waited for.

    Args:
        name: of the InferenceService.
        namespace: it is served in.
        release: id that `airfreight deploy` returned.
    """

    name: str
    namespace: str
    release: str


async def read(hook: AsyncKubernetesHook, wanted: Release) -> Observation:
    """Read what there is of a model.

    Raises:
        RequestError: the connection may not read what it must (401, 403).
        TemporaryError: the cluster does not answer.
    """
    async with answering(hook, wanted), hook.get_conn() as connection:
        return await observe(connection, wanted)


@asynccontextmanager
async def answering(hook: AsyncKubernetesHook, wanted: Release) -> AsyncIterator[None]:
    """Turn what the cluster's client raises into our kinds."""
    try:
        yield
    except ApiException as error:
        if error.status in (401, 403):
            raise RequestError(
                f"The cluster of connection {hook.conn_id} refuses to be read in namespace {wanted.namespace} "
                f"({error.status} {error.reason}): apply the roles of include/kubernetes to that namespace."
            ) from error
        raise TemporaryError(f"the cluster answered {error.status} {error.reason}") from error
    # A server that hangs up in the middle is no OSError to aiohttp, and one that answers HTML is a ValueError.
    except (ClientError, OSError, TimeoutError, ValueError) as error:
        raise TemporaryError(f"the cluster does not answer ({str(error) or type(error).__name__})") from error


async def observe(connection: async_client.ApiClient, wanted: Release) -> Observation:
    """Read what there is under a release's name, of any release, within OBJECTS_S; raises as the cluster's client."""
    async with asyncio.timeout(OBJECTS_S):
        return await _observe(connection, wanted)


async def _observe(connection: async_client.ApiClient, wanted: Release) -> Observation:
    service, deployment, pods = await asyncio.gather(
        _or_none(
            async_client.CustomObjectsApi(connection).get_namespaced_custom_object(
                *_KSERVE, wanted.namespace, "inferenceservices", wanted.name
            )
        ),
        _or_none(
            async_client.AppsV1Api(connection).read_namespaced_deployment(f"{wanted.name}-predictor", wanted.namespace)
        ),
        async_client.CoreV1Api(connection).list_namespaced_pod(
            wanted.namespace, label_selector=f"{SERVICE_LABEL}={wanted.name}"
        ),
    )
    as_json = [connection.sanitize_for_serialization(pod) for pod in pods.items]
    return Observation(
        inference_service=service,
        deployment=connection.sanitize_for_serialization(deployment) if deployment else None,
        pods=as_json,
        logs={pod["metadata"]["name"]: await _last_words(connection, pod) for pod in as_json if _crashed(pod)},
        events={
            pod["metadata"]["name"]: await _events(connection, pod, "Unhealthy" if _is_starting(pod) else "")
            for pod in as_json
            if _is_starting(pod) or _has_no_node(pod)
        },
    )


async def _or_none(request: Any) -> Any:
    try:
        return await request
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def _crashed(pod: dict[str, Any]) -> bool:
    return any(
        status["name"] == SERVER_CONTAINER and (status.get("lastState") or status.get("state") or {}).get("terminated")
        for status in pod.get("status", {}).get("containerStatuses") or []
    )


def _is_starting(pod: dict[str, Any]) -> bool:
    return any(
        status["name"] == SERVER_CONTAINER and not status.get("started") and status.get("containerID")
        for status in pod.get("status", {}).get("containerStatuses") or []
    )


def _has_no_node(pod: dict[str, Any]) -> bool:
    return bool(condition(pod, "PodScheduled").get("status") == "False")


async def _events(connection: async_client.ApiClient, pod: dict[str, Any], reason: str) -> list[dict[str, Any]]:
    """Events about a pod: its failed probes, or of one without a node all, for an autoscaler tells there what it does.

    Empty when they cannot be read: then a wait takes longer, or ends before a node is added.

    Args:
        reason: of the events; empty: any.
    """
    about = f"involvedObject.uid={pod['metadata']['uid']}" + (f",reason={reason}" if reason else "")
    try:
        found = await async_client.CoreV1Api(connection).list_namespaced_event(
            pod["metadata"]["namespace"], field_selector=about
        )
    except (ApiException, ClientError, OSError, TimeoutError):
        return []
    return [connection.sanitize_for_serialization(event) for event in found.items]


async def _last_words(connection: async_client.ApiClient, pod: dict[str, Any]) -> str:
    """The end of the server's log before it crashed; empty when it cannot be read, for it only makes the sentence
    better.
    """
    status = next(entry for entry in pod["status"]["containerStatuses"] if entry["name"] == SERVER_CONTAINER)
    try:
        response: Any = await async_client.CoreV1Api(connection).read_namespaced_pod_log(
            pod["metadata"]["name"],
            pod["metadata"]["namespace"],
            container=SERVER_CONTAINER,
            previous=bool((status.get("lastState") or {}).get("terminated")),
            tail_lines=LOG_LINES,
            _preload_content=False,  # the client would decode strictly, and servers print what they like
        )
        return (await response.read()).decode("utf-8", errors="replace") if response.status == 200 else ""
    except (ApiException, ClientError, OSError, TimeoutError):
        return ""
