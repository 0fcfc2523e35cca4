"""`create_volume` and `remove_volume`: setup and teardown of a run that puts the model onto a volume first.

    create_volume = CreateVolumeOperator(task_id="create_volume", size_bytes=…, largest_bytes=…)
    remove_volume = RemoveVolumeOperator(task_id="remove_volume").as_teardown(setups=create_volume)

The worker asks the Kubernetes API itself, through the house hook: two calls are not worth a pod. Both may be run any
number of times. The teardown also runs when the tasks between failed; clearing one of these makes the volume anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowNotFoundException
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight_airflow import failures, volumes
from airfreight_airflow.hooks import HouseHook
from airfreight_airflow.route import Route
from airfreight_airflow.settings import Settings, read_settings

if TYPE_CHECKING:
    from airflow.sdk import Context
    from kubernetes.client import CoreV1Api, V1PersistentVolumeClaim


class _VolumeOperator(BaseOperator):
    """What both have in common: the API, the run's place, and sentences for what the API says."""

    @contextmanager
    def _api(self, context: Context) -> Iterator[tuple[CoreV1Api, Settings, str]]:
        """Yield the API, the settings and the namespace; whatever ends the task early becomes its sentence."""
        conn_id, namespace = "airfreight_cluster", ""
        try:
            site = read_settings()
            route = Route.of(context["params"], site.destination, site.volume_access)
            conn_id, namespace = site.cluster_conn_id, volumes.namespace_of_volume(route, site)
            yield HouseHook(conn_id=conn_id, sidecar_image=site.image).core_v1_client, site, namespace
        except AirfreightError as error:
            failures.end_task(context, error)
        except (ApiException, HTTPError, ConfigException, AirflowNotFoundException) as error:
            failures.end_task(context, explain(error, conn_id, namespace))


class CreateVolumeOperator(_VolumeOperator):
    """Make the volume of this run, large enough for its model; the one that an earlier try made is taken.

    Args:
        size_bytes: of the model. (templated)
        largest_bytes: of its largest file. (templated)
    Raises:
        AirflowFailException: the cluster refuses the claim.
        AirflowException: the cluster does not answer, or an older volume of the run is still being removed: retried.
    """

    template_fields: Sequence[str] = ("size_bytes", "largest_bytes")

    def __init__(self, *, size_bytes: Any, largest_bytes: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size_bytes = size_bytes
        self.largest_bytes = largest_bytes

    def execute(self, context: Context) -> dict[str, str]:
        """Make it, and return its name, its namespace and its size."""
        with self._api(context) as (api, site, namespace):
            builder = Route.of(context["params"], site.destination, site.volume_access).builder
            size = int(self.size_bytes)
            wanted = volumes.volume_bytes(size, int(self.largest_bytes or size), builder)
            body = volumes.claim(context["dag"].dag_id, context["run_id"], wanted, site)
            name = str(body.metadata.name)
            try:
                api.create_namespaced_persistent_volume_claim(namespace, body)
            except ApiException as error:
                if error.status != 409:
                    raise
                check_older(api.read_namespaced_persistent_volume_claim(name, namespace), context["run_id"], wanted)
            self.log.info(
                "Volume %s in namespace %s: %d MiB, %s, storage class %s.",
                *(name, namespace, wanted // volumes.MIB, site.volume_access, site.storage_class or "default"),
            )
        return {"volume": name, "namespace": namespace, "size": f"{wanted // volumes.MIB}Mi"}


class RemoveVolumeOperator(_VolumeOperator):
    """Remove the volume of this run; done if there is none.

    Raises:
        AirflowFailException: the cluster refuses.
        AirflowException: the cluster does not answer: retried.
    """

    def execute(self, context: Context) -> dict[str, str]:
        """Remove it, and return its name. Kubernetes ends it once the last pod that mounts it is gone."""
        name = volumes.claim_name(context["dag"].dag_id, context["run_id"])
        with self._api(context) as (api, _, namespace):
            try:
                api.delete_namespaced_persistent_volume_claim(name, namespace)
                self.log.info("Volume %s in namespace %s is removed.", name, namespace)
            except ApiException as error:
                if error.status != 404:
                    raise
                self.log.info("There is no volume %s in namespace %s.", name, namespace)
        return {"volume": name, "namespace": namespace}


def check_older(found: V1PersistentVolumeClaim, run_id: str, wanted: int) -> None:
    """Check that a claim which is there already is this run's and will do.

    Args:
        wanted: bytes that this run needs.
    Raises:
        RequestError: it is another run's, or too small.
        TemporaryError: it is being removed.
    """
    name = found.metadata.name
    if found.metadata.deletion_timestamp:
        raise TemporaryError(
            f"Volume {name} of this run is still being removed: a pod that mounts it has to end first."
        )
    if not volumes.is_of_run(found, run_id):
        raise RequestError(f"There is a volume {name} which is not this run's: remove it if nobody needs it.")
    if volumes.requested_bytes(found) < wanted:
        raise RequestError(
            f"Volume {name} of this run has {volumes.requested_bytes(found) // volumes.MIB} MiB and "
            f"{wanted // volumes.MIB} MiB are needed now: remove it, then clear create_volume."
        )


def explain(error: Exception, conn_id: str, namespace: str) -> AirfreightError:
    """The sentence, and by its kind whether to try again, for what the Kubernetes API or the way to it said."""
    cluster = f"The cluster of connection {conn_id}"
    if not isinstance(error, ApiException):
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, HTTPError):
            return TemporaryError(f"{cluster} does not answer ({said}).")
        return RequestError(f"{cluster} cannot be reached ({said}): define it, of type kubernetes.")
    said = _message(error)
    if error.status == 403 and "exceeded quota" in said:
        return RequestError(
            f"Namespace {namespace} has no room for the volume of this run ({said}): raise its quota, or choose "
            "staging none."
        )
    if error.status in (401, 403):
        return RequestError(
            f"{cluster} does not let Airflow make and remove volumes in namespace {namespace} ({said}): apply the "
            "roles of include/kubernetes."
        )
    if error.status in (400, 404, 422):
        return RequestError(
            f"{cluster} does not take the volume of this run ({said}): look at namespace {namespace}, at "
            "`storage_class` and at `volume_access` in section [airfreight]."
        )
    return TemporaryError(f"{cluster} answered {error.status} ({said}).")


def _message(error: ApiException) -> str:
    try:
        message = json.loads(error.body or "{}").get("message")
    except (ValueError, AttributeError):
        message = None
    return str(message or error.reason or error.status)[:500]
