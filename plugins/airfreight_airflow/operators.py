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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.container import container_is_succeeded
from airflow.providers.cncf.kubernetes.utils.pod_manager import EMPTY_XCOM_RESULT
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowTaskTimeout
from kubernetes.client import models as k8s

from airfreight.errors import AirfreightError
from airfreight_airflow import failures
from airfreight_airflow.explanations import BASE, EXPLAINABLE, Circumstances, explain, first_cause
from airfreight_airflow.hooks import HouseHook, HousePodManager
from airfreight_airflow.pods import (
    DEPLOYER,
    PUBLISHER,
    RESULT_FILE,
    VALIDATOR,
    Role,
    container_security,
    environment_of,
    mounts_of,
    pod_security,
    resources,
    volumes_of,
)
from airfreight_airflow.requests import hub_secret_of, refuse_unknown_keys
from airfreight_airflow.settings import Settings, read_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["DEPLOYER", "PUBLISHER", "VALIDATOR", "AirfreightPodOperator", "Role"]


class AirfreightPodOperator(KubernetesPodOperator):
    """Run `airfreight ARGUMENTS… --result FILE` in a pod; its JSON result becomes one XCom per key.

    Args:
        arguments: the command and its arguments. (templated)
        role: who the pod is.
        pod_memory: memory limit of the pod.
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
            container_resources=resources(pod_cpu, pod_memory),
            security_context=pod_security(),
            container_security_context=container_security(),
            xcom_sidecar_container_security_context=container_security(),
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

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render as always; a request that cannot be rendered fails with its sentence."""
        with self._ending(context):
            super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> Any:
        """Run the pod to its end and return its result."""
        with self._ending(context):
            refuse_unknown_keys(context["dag_run"].conf, context["dag"].params)
            self.settle(read_settings(), hub_secret_of(context["params"]), _owner(context))
            return super().execute(context)

    def settle(self, site: Settings, hub_secret: str = "", owner: str = "") -> None:
        """Take what the site decides. None of these fields is a template, and none is known when the DAG is parsed.

        Args:
            site: the settings as they are now.
            hub_secret: Secret with the hub token that the request asks for; empty: the site's.
            owner: name under which the pod holds leases; see `environment_of`.
        Raises:
            RequestError: no image is configured.
        """
        self.kubernetes_conn_id = site.cluster_conn_id
        self.image = site.require_image()
        self.namespace = site.namespace
        self.service_account_name = self.role.service_account
        self.automount_service_account_token = self.role.kubernetes
        if self.execution_timeout is not None:
            # Ends a pod whose worker died for good: nobody else would.
            start_up = self.startup_timeout_seconds + self.schedule_timeout_seconds
            self.active_deadline_seconds = int(self.execution_timeout.total_seconds()) + start_up
        self.env_vars = environment_of(self.role, site, hub_secret, owner)
        self.volumes, self.volume_mounts = volumes_of(site), mounts_of(site)

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
            failures.end_task(context, explain(cause, self._circumstances()))

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


def _owner(context: Context) -> str:
    """What every try of a task has in common and no other task has."""
    ti = context["ti"]
    return f"{ti.dag_id}/{context['run_id']}/{ti.task_id}/{ti.map_index}"
