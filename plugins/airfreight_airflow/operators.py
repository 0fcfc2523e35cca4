"""The house operator: one pod that runs one `airfreight` command.

It does not run arbitrary images, takes no pod template and is not deferrable: our steps are short or show progress a
person wants to see live. What it decides for every step stands in this file, with the reason beside it:

- who the pod is (`Role`): publisher pods see the secrets of store, hub and registry and the proxy, deployer pods see
  Kubernetes, builder pods run buildah in a namespace of their own, and validator pods see none of it;
- what the pod may do: Pod Security "restricted", read-only root, a `/tmp` of its own, requests and limits;
- which volume of the run it mounts, and where it therefore has to run;
- how arguments are spelled: an option that renders to nothing is left out, and one of several lines is repeated;
- what an exit code means: 2, 3, 4 fail for good, anything else is tried again;
- what a person reads when it fails: the sentence the command wrote to its termination message.

The site's settings are read when the task runs, so that a DAG file parses anywhere and a changed setting makes no new
DAG version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.container import container_is_succeeded
from airflow.providers.cncf.kubernetes.utils.pod_manager import EMPTY_XCOM_RESULT
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from kubernetes.client import models as k8s

from airfreight.errors import AirfreightError, GateError
from airfreight_airflow import failures
from airfreight_airflow.explanations import BASE, EXPLAINABLE, Circumstances, exit_code_of, explain, first_cause
from airfreight_airflow.hooks import HouseHook, HousePodManager
from airfreight_airflow.pods import (
    BUILDER,
    DEPLOYER,
    DOWNLOADER,
    IMAGE_BUILDER,
    NO_MOUNTS,
    PUBLISHER,
    RESULT_FILE,
    VALIDATOR,
    VOLUME_LABEL,
    Mounts,
    Role,
    beside_the_volume,
    container_security,
    environment_of,
    mounts_of,
    pod_security,
    resources,
    restricted,
    volumes_of,
)
from airfreight_airflow.requests import hub_secret_of, refuse_unknown_keys
from airfreight_airflow.route import MANY_NODES, Route
from airfreight_airflow.settings import Settings, read_settings
from airfreight_airflow.volumes import claim_name, namespace_of_volume

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = [
    "BUILDER",
    "DEPLOYER",
    "DOWNLOADER",
    "IMAGE_BUILDER",
    "PUBLISHER",
    "VALIDATOR",
    "AirfreightPodOperator",
    "Role",
]

READ, WRITE = "read", "write"
"""What a task does with the volume of its run, if the run has one."""


class AirfreightPodOperator(KubernetesPodOperator):
    """Run `airfreight ARGUMENTS… --result FILE` in a pod; its JSON result becomes one XCom per key.

    Args:
        arguments: the command and its arguments. An option (`--x`) whose value renders to nothing is left out with its
            value. (templated)
        role: who the pod is.
        flags: options without a value.
        switches: options without a value, each given when its text is neither empty nor False. (templated)
        repeated: options that are given once per line of their value.
        share: for `--slice`, e.g. 2/8; empty: everything. What a mapped task is mapped over.
        volume: `read` or `write` to mount the volume of the run at /staging, if the run has one; empty: never.
        context_configmap: name of a ConfigMap to mount at /context; empty: none. (templated)
        pod_memory: memory limit of the pod.
        pod_cpu: CPU limit of the pod.
        kwargs: anything a KubernetesPodOperator takes; what stands in the house defaults below need not be given.
    Raises:
        AirflowFailException: exit code 2, 3 or 4, an unknown conf key, or a cluster that refuses the pod: not retried.
        AirflowException: any other end of the pod: retried.
    """

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "context_configmap", "switches")

    def __init__(
        self,
        *,
        arguments: list[str],
        role: Role,
        flags: Sequence[str] = (),
        switches: Mapping[str, str] | None = None,
        repeated: Sequence[str] = (),
        share: str = "",
        volume: str = "",
        context_configmap: str = "",
        pod_memory: str = "1Gi",
        pod_cpu: str = "2",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", f"airfreight-{kwargs['task_id']}")
        kwargs.setdefault("execution_timeout", timedelta(minutes=15))
        super().__init__(
            cmds=["airfreight"],
            arguments=[*arguments, "--slice", share, "--result", RESULT_FILE],
            do_xcom_push=True,
            multiple_outputs=True,
            labels={"app.kubernetes.io/managed-by": "airfreight", "airfreight.dev/role": role.service_account},
            container_resources=resources(pod_cpu, pod_memory),
            security_context=pod_security(role),
            container_security_context=container_security(role),
            xcom_sidecar_container_security_context=restricted(),
            base_container_name=BASE,
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
        self.flags = list(flags)
        self.switches = dict(switches or {})
        self.repeated = list(repeated)
        self.share = share
        self.volume = volume
        self.context_configmap = context_configmap
        self.sidecar_image = ""
        self.left: dict[str, Any] | None = None

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render as always; a request that cannot be rendered fails with its sentence."""
        with self._ending(context):
            super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> Any:
        """Run the pod to its end and return its result."""
        with self._ending(context):
            refuse_unknown_keys(context["dag_run"].conf, context["dag"].params)
            site, params = read_settings(), context["params"]
            # Not when fields are rendered: Airflow renders those of a mapped task without asking the operator.
            self.arguments = [*spelled(self.arguments, self.repeated), *self.flags, *switched(self.switches)]
            mounts = self._mount(site, params, claim_name(context["dag"].dag_id, context["run_id"]))
            self.settle(site, hub_secret_of(params), _owner(context), mounts)
            return super().execute(context)

    def settle(self, site: Settings, hub_secret: str = "", owner: str = "", mounts: Mounts = NO_MOUNTS) -> None:
        """Take what the site decides. None of these fields is a template, and none is known when the DAG is parsed.

        Args:
            site: the settings as they are now.
            hub_secret: Secret with the hub token that the request asks for; empty: the site's.
            owner: name under which the pod holds leases; see `environment_of`.
            mounts: what of the run it mounts.
        Raises:
            RequestError: no image is configured.
        """
        self.kubernetes_conn_id = site.cluster_conn_id
        self.image = site.require_builder_image() if self.role.builds else site.require_image()
        self.sidecar_image = site.require_image()
        self.namespace = self.namespace or (site.builder_namespace if self.role.builds else site.namespace)
        self.service_account_name = self.role.service_account
        self.automount_service_account_token = self.role.kubernetes
        if self.execution_timeout is not None:
            # Ends a pod whose worker died for good: nobody else would.
            start_up = self.startup_timeout_seconds + self.schedule_timeout_seconds
            self.active_deadline_seconds = int(self.execution_timeout.total_seconds()) + start_up
        self.env_vars = environment_of(self.role, site, hub_secret, owner)
        self.volumes, self.volume_mounts = volumes_of(self.role, site, mounts), mounts_of(self.role, site, mounts)

    def _mount(self, site: Settings, params: Any, claim: str) -> Mounts:
        """Say what of its run the pod mounts, and go where the volume is: a claim belongs to one namespace."""
        route = Route.of(params, site.destination, site.volume_access) if self.volume else Route()
        if not route.staged:
            return Mounts(context=self.context_configmap)
        self.namespace = namespace_of_volume(route, site)
        self.labels = {**self.labels, VOLUME_LABEL: claim}
        if site.volume_access != MANY_NODES:
            self.affinity = beside_the_volume(claim)
        return Mounts(claim, read_only=self.volume == READ, context=self.context_configmap)

    @cached_property
    def hook(self) -> HouseHook:
        """The cluster of the site's connection."""
        return HouseHook(conn_id=self.kubernetes_conn_id, sidecar_image=self.sidecar_image)

    @cached_property
    def pod_manager(self) -> HousePodManager:
        """Reads pods and logs; see `HousePodManager`."""
        return HousePodManager(kube_client=self.client, callbacks=self.callbacks)

    def is_istio_enabled(self, pod: k8s.V1Pod) -> bool:  # noqa: ARG002  (the provider's signature)
        """Say no: with an XCom sidecar the provider looks at the base container alone anyway; saves two reads."""
        return False

    def extract_xcom(self, pod: k8s.V1Pod, *, ignore_kill_failure: bool = True) -> Any:  # noqa: ARG002  (the provider's signature)
        """The command's result; None when it failed: its sentence counts, with what it left of a gate that failed.

        The sidecar is not told to end, as the provider would: the pod is deleted a moment later, and that is one exec
        less.

        Raises:
            AirflowException: the command succeeded and wrote no result.
        """
        ended = self.pod_manager.read_pod(pod)
        if not container_is_succeeded(ended, self.base_container_name):
            self.left = self._left_by(pod) if exit_code_of(ended) == GateError.exit_code else None
            return None
        text = self.pod_manager.extract_xcom_json(pod)
        if text.rstrip() == EMPTY_XCOM_RESULT:
            raise AirflowException(f"`{' '.join(self.arguments[:1])}` ended well and wrote no result to {RESULT_FILE}.")
        return json.loads(text)

    def _left_by(self, pod: k8s.V1Pod) -> dict[str, Any] | None:
        """The result of a command that failed a gate; None where there is none, or it cannot be read."""
        with suppress(*EXPLAINABLE, ValueError):  # what was never written is no JSON
            left = json.loads(self.pod_manager.extract_xcom_json(pod))
            return left if isinstance(left, dict) else None
        return None

    @contextmanager
    def _ending(self, context: Context) -> Iterator[None]:
        """Turn whatever ends the task early into one sentence and into "fail" or "retry"."""
        try:
            yield
        except AirfreightError as error:
            failures.end_task(context, error)
        except AirflowFailException:
            raise
        except EXPLAINABLE as error:
            cause = first_cause(error)
            if isinstance(cause, AirflowTaskTimeout):
                self.on_kill()
            failures.end_task(context, explain(cause, self._circumstances()), self.left)

    def _circumstances(self) -> Circumstances:
        # Not `self.pod_manager`: making one needs the very connection that may be what failed.
        manager = self.__dict__.get("pod_manager")
        return Circumstances(
            task_id=self.task_id,
            conn_id=str(self.kubernetes_conn_id),
            namespace=str(self.namespace),
            time_limit=str(self.execution_timeout),
            pod=manager.last_seen if manager else None,
        )


def spelled(arguments: Sequence[Any], repeated: Sequence[str] = ()) -> list[str]:
    """The arguments as the command gets them: an option without a value is left out, one of several lines repeated.

        ["resolve", "hf://acme/pong", "--base", "", "--store", "s3://a/\\noci://b/"], repeated: ["--store"]
        ["resolve", "hf://acme/pong", "--store", "s3://a/", "--store", "oci://b/"]

    Args:
        arguments: rendered; None where a task that was skipped left no result. Each `--option` has its value behind it.
    """
    words = iter(arguments)
    said: list[str] = []
    for word in words:
        option = "" if word is None else str(word)
        if not option.startswith("--"):
            said.append(option)
            continue
        value = str(next(words, None) or "")
        for text in value.splitlines() if option in repeated else [value]:
            if text.strip():
                # What a person wrote may begin with a dash and is no option of ours.
                said += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return said


def switched(switches: Mapping[str, str]) -> list[str]:
    """The options without a value that are given; a field that was rendered holds text, so `False` is one too."""
    return [option for option, value in switches.items() if str(value).strip() not in ("", "False", "None")]


def _owner(context: Context) -> str:
    """What every try of a task has in common and no other task has."""
    ti = context["ti"]
    return f"{ti.dag_id}/{context['run_id']}/{ti.task_id}/{ti.map_index}"
