"""The waiting itself, in the triggerer: many runs wait in one process, and no worker slot is held.

`ReleaseReadyTrigger` reads the cluster every two seconds and asks `airfreight.readiness.assess` what it means. It logs
a line when the answer changes, and one every half minute so that a person sees it is alive. A ready release ends the
task from here; a failed one goes back to the worker, because only the worker can tell "fail" from "retry".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent
from kubernetes_asyncio import client as async_client
from kubernetes_asyncio.client.exceptions import ApiException

from airfreight.errors import AirfreightError, GateError, RequestError, TemporaryError
from airfreight.observation import SERVICE_LABEL, Failed, Observation, Ready, condition, failure_error
from airfreight.pod_rules import SERVER_CONTAINER
from airfreight.readiness import Assessment, assess
from airfreight.timings import ready_facts

POLL_S = 2.0
STILL_WAITING_S = 30.0
"""Seconds between two log lines while nothing changes."""
LOG_LINES = 20
"""Lines of a crashed server's log that are read for the sentence."""

_KSERVE = ("serving.kserve.io", "v1beta1")


@dataclass(frozen=True)
class ReleaseEvent:
    """What the trigger tells the sensor: the wait is lost.

    Args:
        exit_code: of the error kind (see `airfreight.errors`); decides whether Airflow retries.
        message: one sentence for a person.
    """

    exit_code: int
    message: str

    @classmethod
    def of(cls, error: AirfreightError) -> ReleaseEvent:
        """The event for an error."""
        return cls(error.exit_code, error.message)

    def to_event(self) -> TriggerEvent:
        """As Airflow carries it to the worker: plain JSON."""
        return TriggerEvent(asdict(self))  # type: ignore[no-untyped-call]

    @classmethod
    def from_event(cls, event: dict[str, Any]) -> ReleaseEvent:
        """Back from what Airflow carried."""
        return cls(exit_code=int(event["exit_code"]), message=str(event["message"]))


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


class ReleaseReadyTrigger(BaseTrigger):
    """Fires when one release is ready, cannot become ready, or its time is up.

    Args:
        name: of the InferenceService.
        namespace: it is served in.
        release: id that `airfreight deploy` returned.
        cluster_conn_id: connection of type kubernetes; resolved in the triggerer, so no credential lies in the
        trigger's row.
        started: Unix time the wait began, in seconds.
        deadline: Unix time it ends, in seconds; absolute, so that a restarted triggerer does not begin anew.
        poll_s: seconds between two looks.
    """

    def __init__(
        self,
        *,
        name: str,
        namespace: str,
        release: str,
        cluster_conn_id: str,
        started: float,
        deadline: float,
        poll_s: float = POLL_S,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = Release(name, namespace, release)
        self.cluster_conn_id = cluster_conn_id
        self.started = started
        self.deadline = deadline
        self.poll_s = poll_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, to be made again in any triggerer."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "name": self.wanted.name,
                "namespace": self.wanted.namespace,
                "release": self.wanted.release,
                "cluster_conn_id": self.cluster_conn_id,
                "started": self.started,
                "deadline": self.deadline,
                "poll_s": self.poll_s,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look every `poll_s` seconds; yield one event."""
        hook = AsyncKubernetesHook(conn_id=self.cluster_conn_id)
        last, said_at = "", 0.0
        while True:
            reason = ""
            try:
                assessment, facts = await look(hook, self.wanted)
            except (TemporaryError, RequestError) as error:
                if isinstance(error, RequestError):
                    yield ReleaseEvent.of(error).to_event()
                    return
                reason = error.message
            else:
                if isinstance(assessment, Ready):
                    seconds = round(time.time() - self.started, 1)
                    self.log.info("%s is ready after %.1f s.", self.wanted.name, seconds)
                    yield TaskSuccessEvent(xcoms={"return_value": ready_result(self.wanted, seconds, facts)})
                    return
                if isinstance(assessment, Failed):
                    yield ReleaseEvent.of(failure_error(assessment)).to_event()
                    return
                reason = assessment.reason
            now = time.time()
            if reason != last or now - said_at >= STILL_WAITING_S:
                self.log.info("%5.0f s  %s", now - self.started, reason)
                last, said_at = reason, now
            if now >= self.deadline:
                yield ReleaseEvent.of(too_late(self.wanted, self.deadline - self.started, last)).to_event()
                return
            await asyncio.sleep(self.poll_s)


async def look(hook: AsyncKubernetesHook, wanted: Release) -> tuple[Assessment, dict[str, Any]]:
    """Read the cluster once and say what it means for the release; with what its gates will want to know of its pod.

    Raises:
        RequestError: the connection may not read what it must (401, 403).
        TemporaryError: the cluster does not answer.
    """
    try:
        async with hook.get_conn() as connection:
            observation = await observe(connection, wanted)
    except ApiException as error:
        if error.status in (401, 403):
            raise RequestError(
                f"The cluster of connection {hook.conn_id} refuses to be read in namespace {wanted.namespace} "
                f"({error.status} {error.reason}): apply the roles of include/kubernetes to that namespace."
            ) from error
        raise TemporaryError(f"the cluster answered {error.status} {error.reason}") from error
    except (ClientError, OSError, TimeoutError) as error:
        raise TemporaryError(f"the cluster does not answer ({error or type(error).__name__})") from error
    facts = ready_facts(observation.pods, wanted.release)
    return assess(observation, wanted.release, datetime.now(tz=UTC)), facts


def ready_result(wanted: Release, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """The task's result: what became ready, how long it took in seconds, and on what (`airfreight.timings`)."""
    return {"name": wanted.name, "namespace": wanted.namespace, "release": wanted.release, "seconds": seconds, **facts}


def too_late(wanted: Release, waited_s: float, last: str) -> GateError:
    """The sentence for a wait that ran out, with what was seen last."""
    waited = f"{waited_s:.0f} s" if waited_s < 120 else f"{waited_s / 60:.0f} min"
    return GateError(
        f"{wanted.name} was not ready within {waited}; last seen: {last or 'nothing'}; "
        "look at its pods, or give it more time (ready_timeout of the task)."
    )


async def observe(connection: async_client.ApiClient, wanted: Release) -> Observation:
    """Read what there is under a release's name, of any release."""
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

    None when they cannot be read: then a wait takes longer, or ends before a node is added.

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
