"""Why a pod's task ended early, in one sentence: from what was raised, and from how the pod was last seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodLaunchTimeoutException
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException, AirflowTaskTimeout
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight_airflow import failures
from airfreight_airflow.hooks import why_it_is_not_scheduled

BASE = "base"
"""Name of the container that runs the command."""
EXPLAINABLE = (AirflowException, AirflowTaskTimeout, ApiException, ConfigException, HTTPError)
"""What the provider raises on purpose; anything else is a bug and stays as it is."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where it happened.

    Args:
        task_id: of the task.
        conn_id: connection of the cluster.
        namespace: of our pods.
        time_limit: the task's execution_timeout, for people.
        pod: as it was last seen, or None.
    """

    task_id: str
    conn_id: str
    namespace: str
    time_limit: str
    pod: k8s.V1Pod | None


def explain(cause: BaseException, where: Circumstances) -> AirfreightError:
    """The error that the end of a task stands for; its kind decides whether Airflow tries again."""
    ended = _how_it_ended(where.pod)
    if ended is not None and ended.exit_code:
        return _of_pod(ended, f"The pod of {where.task_id}")
    status = where.pod.status if where.pod else None
    if status and status.phase == "Failed" and status.reason:  # Evicted, DeadlineExceeded, …
        said = f"{status.reason}: {status.message or 'no message'}"
        return TemporaryError(f"The cluster ended the pod of {where.task_id} ({said}).")
    cluster = f"The cluster of connection {where.conn_id}"
    match cause:
        case AirflowTaskTimeout():
            return TemporaryError(f"{where.task_id} took longer than {where.time_limit} and was stopped.")
        case AirflowNotFoundException() | ConfigException():
            return RequestError(f"{cluster} cannot be reached ({_line(cause)}): define it, of type kubernetes.")
        case ApiException():
            return _of_api(cause, cluster, where.namespace)
        case HTTPError():
            return TemporaryError(f"{cluster} does not answer ({_line(cause)}).")
        case PodLaunchTimeoutException():
            seen = why_it_is_not_scheduled(where.pod)
            return TemporaryError(f"The pod of {where.task_id} did not start ({seen or _line(cause)}).")
        case PodLaunchFailedException():
            return _of_launch(cause, where)
    return TemporaryError(f"{where.task_id}: {_line(cause)}")


def first_cause(error: BaseException) -> BaseException:
    """What happened first: the provider's clean-up raises "Pod … returned a failure" over the cause of the failure."""
    while isinstance(error.__context__, EXPLAINABLE):
        error = error.__context__
    return error


def exit_code_of(pod: k8s.V1Pod) -> int | None:
    """The exit code of a pod's command; None while it runs."""
    ended = _how_it_ended(pod)
    return int(ended.exit_code) if ended else None


def _how_it_ended(pod: k8s.V1Pod | None) -> k8s.V1ContainerStateTerminated | None:
    for status in (pod and pod.status and pod.status.container_statuses) or []:
        if status.name == BASE and status.state:
            return status.state.terminated
    return None


def _of_pod(ended: k8s.V1ContainerStateTerminated, who: str) -> AirfreightError:
    said = _last_line(ended.message or "")
    if ended.reason == "OOMKilled":
        return TemporaryError(f"{who} was killed for using more memory than its limit: raise pod_memory of the task.")
    return failures.of_exit_code(
        ended.exit_code, said or f"{who} ended with exit code {ended.exit_code} and no message."
    )


def _of_api(error: ApiException, cluster: str, namespace: str) -> AirfreightError:
    said = _api_message(error)
    match error.status:
        case 401:
            return RequestError(f"{cluster} does not accept its credentials ({said}): renew them.")
        case 403:
            return RequestError(
                f"{cluster} refuses ({said}): apply the service accounts and roles of "
                f"include/kubernetes to namespace {namespace}."
            )
        case 404 if 'namespaces "' in said:
            return RequestError(f"{cluster} has no namespace {namespace} for our pods ({said}): create it.")
        case 404:
            return TemporaryError(f"The pod is gone ({said}): somebody deleted it, or its node was lost.")
        case 400 | 422:
            return RequestError(f"{cluster} does not take the pod ({said}): correct what it names.")
    return TemporaryError(f"{cluster} answered {error.status} ({said}).")


def _of_launch(error: BaseException, where: Circumstances) -> AirfreightError:
    said, task_id = _line(error), where.task_id
    if "CreateContainerConfigError" in said:
        return RequestError(
            f"The pod of {task_id} cannot start ({said}): create what it names in namespace {where.namespace}."
        )
    if "Image cannot be pulled" in said:
        return RequestError(
            f"The pod of {task_id} cannot start ({said}): correct `image` in section [airfreight], or make it pullable."
        )
    return TemporaryError(f"The pod of {task_id} did not start ({said}).")


def _api_message(error: ApiException) -> str:
    try:
        message = json.loads(error.body or "{}").get("message")
    except (ValueError, AttributeError):
        message = None
    return _shortened(str(message or error.reason or error.status))


def _last_line(text: str) -> str:
    """The last line: a termination message of ours is one line, the fallback is the end of the log."""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("airfreight: ") if lines else ""


def _line(error: BaseException) -> str:
    return _shortened(" ".join(str(error).split()) or type(error).__name__)


def _shortened(text: str, most: int = 500) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
