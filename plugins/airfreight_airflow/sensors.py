"""Sensors: they only read, and wait without holding a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.sdk import BaseHook, BaseSensorOperator
from airflow.sdk.exceptions import AirflowNotFoundException

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.observation import Failed, Ready, failure_error
from airfreight_airflow import failures
from airfreight_airflow.looks import Release
from airfreight_airflow.settings import read_settings
from airfreight_airflow.triggers import ReleaseEvent, ReleaseReadyTrigger, look, ready_result

if TYPE_CHECKING:
    from airflow.sdk import Context

_GRACE = timedelta(minutes=2)
"""How much later than the trigger's own deadline Airflow gives up on the trigger itself."""


class ReleaseReadySensor(BaseSensorOperator):
    """Wait until one release is rolled out and KServe says Ready. Always deferred; never changes anything.

    Args:
        release_name: name of the InferenceService. (templated)
        release_namespace: its namespace. (templated)
        release: id that `airfreight deploy` returned. (templated)
        ready_timeout: how long the release may take, counted from the start of the try.
    Raises:
        AirflowFailException: the release cannot become ready, or its time is up; never retried.
        AirflowException: something that heals stood in the way; retried.
    """

    template_fields: Sequence[str] = ("release_name", "release_namespace", "release")

    def __init__(
        self,
        *,
        release_name: str,
        release_namespace: str,
        release: str,
        ready_timeout: timedelta = timedelta(minutes=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(timeout=ready_timeout + 2 * _GRACE, **kwargs)
        self.release_name = release_name
        self.release_namespace = release_namespace
        self.release = release
        self.ready_timeout = ready_timeout

    def execute(self, context: Context) -> Any:
        """Look once, for a release that is live already needs no wait; then defer."""
        wanted = Release(self.release_name, self.release_namespace, self.release)
        started = time.time()
        try:
            conn_id = read_settings().cluster_conn_id
            ready, facts = self._look(conn_id, wanted)
            if ready:
                self.log.info("%s is ready already.", wanted.name)
                return ready_result(wanted, 0.0, facts)
        except TemporaryError as error:
            self.log.info("%s; the wait goes on.", error.message)
        except AirfreightError as error:
            failures.end_task(context, error)
        self.defer(
            trigger=ReleaseReadyTrigger(
                name=wanted.name,
                namespace=wanted.namespace,
                release=wanted.release,
                cluster_conn_id=conn_id,
                started=started,
                deadline=started + self.ready_timeout.total_seconds(),
            ),
            method_name="end_early",
            timeout=self.ready_timeout + _GRACE,
        )
        return None

    def end_early(self, context: Context, event: dict[str, Any]) -> None:
        """End the task with the trigger's sentence. A ready release never comes here: the trigger ends that task."""
        lost = ReleaseEvent.from_event(event)
        failures.end_task(context, failures.of_exit_code(lost.exit_code, lost.message))

    def _look(self, conn_id: str, wanted: Release) -> tuple[bool, dict[str, Any]]:
        try:
            extras = BaseHook.get_connection(conn_id).extra_dejson
        except AirflowNotFoundException:
            raise RequestError(f"There is no connection {conn_id}: define it, of type kubernetes.") from None
        assessment, facts = asyncio.run(look(AsyncKubernetesHook(conn_id=conn_id, connection_extras=extras), wanted))
        if isinstance(assessment, Failed):
            raise failure_error(assessment)
        return isinstance(assessment, Ready), facts
