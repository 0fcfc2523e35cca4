"""Reading a model for its window, in the triggerer: its objects, and its pods' metrics through the pod proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from kubernetes_asyncio import client as async_client
from kubernetes_asyncio.client.exceptions import ApiException

from airfreight.idleness import Look
from airfreight.last_look import PAGE_S
from airfreight.metrics import PAGE_LIMIT, MetricsError, adapter_of, proxy_target
from airfreight.observation import Observation
from airfreight.pod_rules import SERVER_CONTAINER
from airfreight.watching import Page, readable, replica, serving_pods, wanted_replicas
from airfreight_airflow.looks import Release, answering, observe


async def look_at(hook: AsyncKubernetesHook, wanted: Release) -> tuple[Observation, Look]:
    """Read what there is of a model, its pods' metrics too; raises as `looks.read` does."""
    async with answering(hook, wanted), hook.get_conn() as connection:
        seen = await observe(connection, wanted)
        pods = serving_pods(seen.pods)
        pages = await asyncio.gather(*(_page(connection, pod) for pod in pods))
    return seen, _look(pods, pages, wanted_replicas(seen.deployment))


def _look(pods: Sequence[Any], pages: Sequence[Page | None], wanted: int) -> Look:
    replicas = tuple(replica(pod, page) for pod, page in zip(pods, pages, strict=True))
    return Look(time.monotonic(), time.time(), replicas, wanted)


async def _page(connection: async_client.ApiClient, pod: Any) -> Page | None:
    """The metrics of one pod through the API server's proxy; whatever goes wrong is in the result."""
    if not readable(pod):
        return None
    begun = time.monotonic()
    try:
        path = adapter_of(pod).path
        status, text = await asyncio.wait_for(_get(connection, pod, path), PAGE_S)
    except MetricsError as error:
        return Page(0, str(error), 0.0)
    except TimeoutError:
        return Page(0, f"no whole answer within {PAGE_S:.0f} s", time.monotonic() - begun)
    except (ApiException, ClientError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        return Page(getattr(error, "status", None) or 0, " ".join(str(reason).split())[:200], time.monotonic() - begun)
    return Page(status, text, time.monotonic() - begun)


async def _get(connection: async_client.ApiClient, pod: Any, path: str) -> tuple[int, str]:
    response: Any = await async_client.CoreV1Api(connection).connect_get_namespaced_pod_proxy_with_path(
        proxy_target(pod, SERVER_CONTAINER), pod["metadata"]["namespace"], path, _preload_content=False
    )
    try:
        text = b""
        while len(text) < PAGE_LIMIT and (part := await response.content.read(64 * 1024)):
            text += part
    finally:
        response.close()
    return int(response.status), text.decode("utf-8", errors="replace")
