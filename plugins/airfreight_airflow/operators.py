"""The house operator: one pod that runs one `airfreight` command.

It does not run arbitrary images, takes no pod template and is not deferrable: our steps are short or show progress a
person wants to see live. What it decides for every step stands in this file, with the reason beside it:

- who the pod is (`Role`): publisher pods see the store's and the hub's secrets and the proxy, deployer pods see
  Kubernetes, and validator pods see neither;
- what the pod may do: Pod Security "restricted", read-only root, a `/tmp` of its own, requests and limits;
- what an exit code means: 2, 3, 4 fail for good, anything else is tried again;
- what a person reads when it fails: the sentence the command wrote to its termination message.

The site's settings are read when the task runs, so that a DAG file parses anywhere and a changed setting makes no new
DAG version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.container import container_is_succeeded
from airflow.providers.cncf.kubernetes.utils.pod_manager import EMPTY_XCOM_RESULT, PodLaunchTimeoutException
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException, AirflowTaskTimeout
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight_airflow import failures
from airfreight_airflow.hooks import HouseHook, HousePodManager, why_it_is_not_scheduled
from airfreight_airflow.requests import refuse_unknown_keys
from airfreight_airflow.settings import Settings, read_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

RESULT_FILE = "/airflow/xcom/return.json"
TERMINATION_LOG = "/dev/termination-log"
WORKER_UID = 1000
"""User and group of the worker image (include/images/worker)."""


@dataclass(frozen=True, slots=True)
class Role:
    """Who a pod is.

    Args:
        service_account: its ServiceAccount in the workers' namespace.
        kubernetes: whether it gets a token for the Kubernetes API.
        publishes: whether it gets the secrets of store and hub, their endpoints, and the proxy.
    """

    service_account: str
    kubernetes: bool = False
    publishes: bool = False


PUBLISHER = Role("airfreight-publisher", publishes=True)
DEPLOYER = Role("airfreight-deployer", kubernetes=True)
VALIDATOR = Role("airfreight-validator")


class AirfreightPodOperator(KubernetesPodOperator):
    """Run `airfreight ARGUMENTS… --result FILE` in a pod; its JSON result becomes one XCom per key.

    Args:
        arguments: the command and its arguments. (templated)
        role: who the pod is.
        pod_memory: memory limit of the pod; half of it is requested.
        pod_cpu: CPU limit of the pod.
        kwargs: anything a KubernetesPodOperator takes; what stands in the house defaults below need not be given.
    Raises:
        AirflowFailException: exit code 2, 3 or 4, an unknown conf key, or a cluster that refuses the pod: not retried.
        AirflowException: any other end of the pod: retried.
    """

    def __init__(
        self,
        *,
        arguments: list[str],
        role: Role,
        pod_memory: str = "1Gi",
        pod_cpu: str = "2",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", f"airfreight-{kwargs['task_id']}")
        kwargs.setdefault("execution_timeout", timedelta(minutes=15))
        super().__init__(
            cmds=["airfreight"],
            arguments=[*arguments, "--result", RESULT_FILE],
            do_xcom_push=True,
            multiple_outputs=True,
            labels={"app.kubernetes.io/managed-by": "airfreight", "airfreight.dev/role": role.service_account},
            container_resources=_resources(pod_cpu, pod_memory),
            security_context=_pod_security(),
            container_security_context=_container_security(),
            xcom_sidecar_container_security_context=_container_security(),
            volumes=[k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="256Mi"))],
            volume_mounts=[k8s.V1VolumeMount(name="tmp", mount_path="/tmp")],  # noqa: S108  (a volume of the pod's own)
            deferrable=False,
            durable=True,  # a restarted worker finds the running pod again instead of starting a second one
            startup_timeout_seconds=900,  # covers the image's pull; the provider's 120 s do not
            schedule_timeout_seconds=300,  # room for a node autoscaler
            startup_check_interval_seconds=1,
            on_finish_action="delete_pod",  # its log is already in the task's log
            on_kill_action="delete_pod",
            termination_grace_period=10,  # a copy needs a moment to leave its checkpoint
            termination_message_policy="FallbackToLogsOnError",  # a command that died without a word: its last line
            log_pod_spec_on_failure=False,  # the sentence is the message, not three pages of YAML
            log_events_on_failure=True,
            container_name_log_prefix_enabled=False,
            **kwargs,
        )
        self.role = role
        self._site: Settings | None = None

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render as always; a request that cannot be rendered fails with its sentence."""
        with self._ending(context):
            super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> Any:
        """Run the pod to its end and return its result."""
        with self._ending(context):
            refuse_unknown_keys(context["dag_run"].conf, context["dag"].params)
            self.settle(read_settings(), context["params"].get("hub_secret") or "")
            return super().execute(context)

    def settle(self, site: Settings, hub_secret: str = "") -> None:
        """Take what the site decides. None of these fields is a template, and none is known when the DAG is parsed.

        Args:
            site: the settings as they are now.
            hub_secret: Secret with the hub token that the request asks for; empty: the site's.
        Raises:
            RequestError: no image is configured.
        """
        self._site = site
        self.kubernetes_conn_id = site.cluster_conn_id
        self.image = site.require_image()
        self.namespace = site.namespace
        self.service_account_name = self.role.service_account
        self.automount_service_account_token = self.role.kubernetes
        if self.execution_timeout is not None:
            # Ends a pod whose worker died for good: nobody else would.
            start_up = self.startup_timeout_seconds + self.schedule_timeout_seconds
            self.active_deadline_seconds = int(self.execution_timeout.total_seconds()) + start_up
        self.env_vars = [*self._own_env(), *(_publisher_env(site, hub_secret) if self.role.publishes else [])]

    @cached_property
    def hook(self) -> HouseHook:
        """The cluster of the site's connection."""
        return HouseHook(conn_id=self.kubernetes_conn_id, sidecar_image=str(self.image))

    @cached_property
    def pod_manager(self) -> HousePodManager:
        """Reads pods and logs; see `HousePodManager`."""
        return HousePodManager(kube_client=self.client, callbacks=self.callbacks)

    def is_istio_enabled(self, pod: k8s.V1Pod) -> bool:  # noqa: ARG002  (the provider's signature)
        """Say no: with an XCom sidecar the provider looks at the base container alone anyway; saves two reads."""
        return False

    def extract_xcom(self, pod: k8s.V1Pod, *, ignore_kill_failure: bool = True) -> Any:  # noqa: ARG002  (the provider's signature)
        """The command's result; None when it failed, because then its sentence counts.

        The sidecar is not told to end, as the provider would: the pod is deleted a moment later, and that is one exec
        less.

        Raises:
            AirflowException: the command succeeded and wrote no result.
        """
        if not container_is_succeeded(self.pod_manager.read_pod(pod), self.base_container_name):
            return None
        text = self.pod_manager.extract_xcom_json(pod)
        if text.rstrip() == EMPTY_XCOM_RESULT:
            raise AirflowException(f"`{' '.join(self.arguments[:1])}` ended well and wrote no result to {RESULT_FILE}.")
        return json.loads(text)

    def _own_env(self) -> Iterator[k8s.V1EnvVar]:
        yield k8s.V1EnvVar(name="AIRFREIGHT_TERMINATION_LOG", value=TERMINATION_LOG)
        yield k8s.V1EnvVar(name="PYTHONUNBUFFERED", value="1")
        # The root file system is read-only; /tmp is the pod's own.
        yield k8s.V1EnvVar(name="HOME", value="/tmp")  # noqa: S108
        yield k8s.V1EnvVar(name="HF_HOME", value="/tmp/huggingface")  # noqa: S108

    @contextmanager
    def _ending(self, context: Context) -> Iterator[None]:
        """Turn whatever ends the task early into one sentence and into "fail" or "retry"."""
        try:
            yield
        except AirfreightError as error:
            failures.end_task(context, error)
        except AirflowFailException:
            raise
        except (AirflowException, AirflowTaskTimeout, ApiException, ConfigException, HTTPError) as error:
            cause = _first(error)
            if isinstance(cause, AirflowTaskTimeout):
                self.on_kill()
            failures.end_task(context, self._explain(cause))

    def _explain(self, cause: BaseException) -> AirfreightError:
        ended = self._how_it_ended()
        if ended is not None and ended.exit_code:
            return _of_pod(ended, f"{self.task_id}: the pod")
        connection = f"of connection {self.kubernetes_conn_id}"
        match cause:
            case AirflowTaskTimeout():
                return TemporaryError(f"{self.task_id} took longer than {self.execution_timeout} and was stopped.")
            case AirflowNotFoundException() | ConfigException():
                return RequestError(
                    f"The cluster {connection} cannot be reached ({_line(cause)}): define it, of type kubernetes."
                )
            case ApiException():
                return _of_api(cause, connection, str(self.namespace))
            case HTTPError():
                return TemporaryError(f"The cluster {connection} does not answer ({_line(cause)}).")
            case PodLaunchTimeoutException():
                seen = why_it_is_not_scheduled(self._last_seen())
                return TemporaryError(f"The pod of {self.task_id} did not start ({seen or _line(cause)}).")
            case PodLaunchFailedException():
                return _of_launch(cause, self.task_id)
        seen = self._last_seen()
        if seen and seen.status and seen.status.phase == "Failed" and seen.status.reason:
            said = f"{seen.status.reason}: {seen.status.message or 'no message'}"  # Evicted, DeadlineExceeded …
            return TemporaryError(f"The cluster ended the pod of {self.task_id} ({said}).")
        return TemporaryError(f"{self.task_id}: {_line(cause)}")

    def _last_seen(self) -> k8s.V1Pod | None:
        # Not `self.pod_manager`: making one needs the very connection that may be what failed.
        manager = self.__dict__.get("pod_manager")
        return manager.last_seen if manager else None

    def _how_it_ended(self) -> k8s.V1ContainerStateTerminated | None:
        pod = self._last_seen()
        for status in (pod and pod.status and pod.status.container_statuses) or []:
            if status.name == self.base_container_name and status.state:
                return status.state.terminated
        return None


def _publisher_env(site: Settings, hub_secret: str) -> Iterator[k8s.V1EnvVar]:
    if site.store_endpoint:
        yield k8s.V1EnvVar(name="AWS_ENDPOINT_URL", value=site.store_endpoint)
    if site.store_secret:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            yield _from_secret(key, site.store_secret, key, optional=False)
    if site.hub_endpoint:
        yield k8s.V1EnvVar(name="HF_ENDPOINT", value=site.hub_endpoint)
    if secret := hub_secret or site.hub_secret:
        # The site's Secret may be absent; one that the request names must exist.
        yield _from_secret("HF_TOKEN", secret, "token", optional=not hub_secret)
    if site.https_proxy:
        yield k8s.V1EnvVar(name="HTTPS_PROXY", value=site.https_proxy)
        # The proxy is for the hub. The store stands near the pods, and weights would pass it twice.
        store = urlsplit(site.store_endpoint).hostname
        hosts = [host.strip() for host in site.no_proxy.split(",") if host.strip()]
        direct = [*hosts, *([store] if store and store not in hosts else [])]
        yield k8s.V1EnvVar(name="NO_PROXY", value=",".join(direct))


def _from_secret(name: str, secret: str, key: str, *, optional: bool) -> k8s.V1EnvVar:
    reference = k8s.V1SecretKeySelector(name=secret, key=key, optional=optional)
    return k8s.V1EnvVar(name=name, value_from=k8s.V1EnvVarSource(secret_key_ref=reference))


def _resources(cpu: str, memory: str) -> k8s.V1ResourceRequirements:
    # Requests are small: our pods wait for networks, and must fit beside a model server.
    return k8s.V1ResourceRequirements(
        requests={"cpu": "100m", "memory": "192Mi"}, limits={"cpu": cpu, "memory": memory}
    )


def _pod_security() -> k8s.V1PodSecurityContext:
    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=WORKER_UID,
        run_as_group=WORKER_UID,
        fs_group=WORKER_UID,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )


def _container_security() -> k8s.V1SecurityContext:
    return k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )


def _of_pod(ended: k8s.V1ContainerStateTerminated, who: str) -> AirfreightError:
    said = _last_line(ended.message or "")
    if ended.reason == "OOMKilled":
        return TemporaryError(f"{who} was killed for using more memory than its limit: raise pod_memory of the task.")
    return failures.of_exit_code(
        ended.exit_code, said or f"{who} ended with exit code {ended.exit_code} and no message."
    )


def _of_api(error: ApiException, connection: str, namespace: str) -> AirfreightError:
    said = _api_message(error)
    match error.status:
        case 401:
            return RequestError(f"The cluster {connection} does not accept its credentials ({said}): renew them.")
        case 403:
            return RequestError(
                f"The cluster {connection} refuses ({said}): apply the service accounts and roles of "
                f"include/kubernetes to namespace {namespace}."
            )
        case 404 if 'namespaces "' in said:
            return RequestError(f"There is no namespace {namespace} {connection} for our pods ({said}): create it.")
        case 404:
            return TemporaryError(f"The pod is gone ({said}): somebody deleted it, or its node was lost.")
        case 400 | 422:
            return RequestError(f"The cluster {connection} does not take the pod ({said}): correct what it names.")
    return TemporaryError(f"The cluster {connection} answered {error.status} ({said}).")


def _of_launch(error: BaseException, task_id: str) -> AirfreightError:
    said = _line(error)
    if "CreateContainerConfigError" in said:
        return RequestError(
            f"The pod of {task_id} cannot start ({said}): create what it names in the workers' namespace."
        )
    if "Image cannot be pulled" in said:
        return RequestError(
            f"The pod of {task_id} cannot start ({said}): correct `image` in section [airfreight], or make it pullable."
        )
    return TemporaryError(f"The pod of {task_id} did not start ({said}).")


def _first(error: BaseException) -> BaseException:
    """What happened first: the provider's clean-up raises "Pod … returned a failure" over the cause of the failure."""
    while error.__context__ is not None and isinstance(
        error.__context__, AirflowException | AirflowTaskTimeout | ApiException | ConfigException | HTTPError
    ):
        error = error.__context__
    return error


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
