"""An Airflow of the tests' own for one bench (`gate_bench`): whole DAGs on the real cluster, the light model server.

    with own_airflow(bench, home, "airflow-windows", AIRFREIGHT_CATALOG=str(catalog)) as airflow:
        airflow.unpause("serve_pong")
        summary = airflow.run("deliver_model", model="acme/pong", cpu="480m", memory="480Mi")

It serves in the bench's namespace with the bench's runtime and keeps ledger and windows in the bench's bucket. Commands
that ask Airflow (`airfreight wake`, `deliver`, …) find it by their environment while it is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airfreight.airflow_api import AirflowApi, RunSummary
from airfreight.errors import TemporaryError
from devcluster import addons, airflow, daemons
from devcluster.shell import wait_until
from tests.full.gate_bench import Bench
from tests.servers import free_port


@dataclass
class OwnAirflow:
    """One Airflow.

    Args:
        home: AIRFLOW_HOME; what it holds outlives `kill`.
        daemon: its name among the cluster's processes; its log is `<state>/logs/<daemon>.log`.
        environment: beside the embedded cluster's own.
    """

    bench: Bench
    home: Path
    port: int
    daemon: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def password(self) -> str:
        return addons.credentials(self.bench.cluster)["airflow_password"]

    def api(self) -> AirflowApi:
        return AirflowApi(airflow.url(self.port), user=airflow.USER, password=self.password)

    def start(self, **more: str) -> None:
        """Start it, or anew with more environment; wait until it is healthy and knows `deliver_model`."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.environment.update(more)
        airflow.start(self.bench.cluster, self.environment, home=self.home, port=self.port, name=self.daemon)

    def kill(self) -> None:
        """End it as a machine does that loses its power."""
        daemons.stop(self.bench.cluster, [self.daemon], grace_s=0)

    def stop(self) -> None:
        daemons.stop(self.bench.cluster, [self.daemon], grace_s=20)

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        """A DAG as Airflow lists it now; None when there is none, or nobody answers yet."""
        try:
            with self.api() as api:
                return api.dag(dag_id)
        except TemporaryError:
            return None

    def wait_for_dag(self, dag_id: str, timeout_s: float = 180) -> dict[str, Any]:
        wait_until(f"Airflow to know {dag_id}", lambda: self.dag(dag_id) is not None, timeout_s=timeout_s, poll_s=2)
        found = self.dag(dag_id)
        assert found is not None
        return found

    def unpause(self, dag_id: str) -> None:
        with self.api() as api:
            api.call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": False})

    def run(self, dag_id: str, **conf: Any) -> RunSummary:
        """Start a run through REST, wait for its end and say what it did."""
        with self.api() as api:
            run_id = api.trigger(dag_id, conf)
        return self.finish(dag_id, run_id)

    def finish(self, dag_id: str, run_id: str) -> RunSummary:
        with self.api() as api:
            for _ in api.follow(dag_id, run_id):
                pass
            return api.run_summary(dag_id, run_id)

    def log_of(self, dag_id: str, run_id: str, task_id: str) -> str:
        """What all tries of a task logged, from the files of this Airflow."""
        there = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        return "\n".join(path.read_text(errors="replace") for path in sorted(there.rglob("*.log*")))


@contextmanager
def own_airflow(bench: Bench, home: Path, daemon: str, **environment: str) -> Iterator[OwnAirflow]:
    """An Airflow that runs; it is ended afterwards, its home stays."""
    port = free_port()
    settings = {
        "AIRFLOW__AIRFREIGHT__STORE": f"s3://{bench.bucket}/",
        "AIRFLOW__AIRFREIGHT__TARGET_NAMESPACE": bench.namespace,
        "AIRFLOW__AIRFREIGHT__RUNTIME": bench.runtime,
        "AIRFLOW__AIRFREIGHT__EGRESS": "off",  # a bench has no rights for policies; see include/kubernetes/egress
        **environment,
    }
    made = OwnAirflow(bench, home, port, daemon, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFREIGHT_AIRFLOW_URL", airflow.url(port))
        patch.setenv("AIRFREIGHT_AIRFLOW_USER", airflow.USER)
        patch.setenv("AIRFREIGHT_AIRFLOW_PASSWORD", made.password)
        try:
            made.start()
            yield made
        finally:
            made.stop()
