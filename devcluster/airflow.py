"""Airflow on the host, `airflow standalone`, with this repository's DAGs: for `make demo`, `make ui` and the tests.

Its configuration is a dictionary of environment variables, the same that docs/install.md names for a site's Airflow.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from cryptography.fernet import Fernet

from airfreight.airflow_api import AirflowApi
from airfreight.commands.people import DAG_ID
from airfreight.errors import AirfreightError
from devcluster import daemons, images, pki, tenant
from devcluster.addons import STORE_USER, credentials
from devcluster.config import REPOSITORY, Cluster
from devcluster.control_plane import http_ok
from devcluster.shell import DevClusterError, Interrupted, wait_until
from devcluster.steps import say

USER = "admin"
NAME = "airflow"  # of the daemon
PORT = int(os.environ.get("AIRFREIGHT_AIRFLOW_PORT", "8080"))


def url(port: int = PORT) -> str:
    """Where the UI and the REST API are."""
    return f"http://127.0.0.1:{port}"


def base_environment(home: Path, port: int, password: str) -> dict[str, str]:
    """An Airflow on SQLite with one user, its secrets made once per home."""
    home.mkdir(parents=True, exist_ok=True)
    pki.write_private(home / "passwords.json", json.dumps({USER: password}))
    keys = home / "keys.json"
    if not keys.exists():
        pki.write_private(
            keys, json.dumps({"fernet": Fernet.generate_key().decode(), "jwt": secrets.token_urlsafe(64)})
        )
    made = json.loads(keys.read_text())
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__FERNET_KEY": made["fernet"],
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__PARALLELISM": "6",  # standalone forks a worker for each
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url(port)}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": made["jwt"],
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",  # the default second, six times a run, is felt
        "AIRFLOW__TRIGGERER__DEFAULT_CAPACITY": "50",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "PYTHONPATH": str(REPOSITORY / "include"),
        # standalone starts `airflow …` from PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    # Airflow here talks to this machine alone; a proxy of the shell's must not come between.
    return {**environment, "NO_PROXY": "*", "no_proxy": "*"}


def site_environment(cluster: Cluster) -> dict[str, str]:
    """The two connections and the section [airfreight], for the embedded cluster."""
    store = {"conn_type": "aws", "login": STORE_USER, "password": credentials(cluster)["store_password"],
             "extra": {"endpoint_url": cluster.store_url, "region_name": "us-east-1",
                       "config_kwargs": {"s3": {"addressing_style": "path"}, "signature_version": "s3v4"}}}  # fmt: skip
    kubernetes = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(cluster.airflow_kubeconfig)}}
    return {
        "AIRFLOW_CONN_AIRFREIGHT_CLUSTER": json.dumps(kubernetes),
        "AIRFLOW_CONN_AIRFREIGHT_STORE": json.dumps(store),
        "AIRFLOW__AIRFREIGHT__IMAGE": images.reference(cluster, "worker"),
        "AIRFLOW__AIRFREIGHT__STORE": f"s3://{tenant.BUCKET}/",
        "AIRFLOW__AIRFREIGHT__STORE_ENDPOINT": cluster.store_service_url,
        "AIRFLOW__AIRFREIGHT__HUB_ENDPOINT": cluster.hub_service_url,
        "AIRFLOW__AIRFREIGHT__RUNTIME": tenant.runtime_name(cluster),
        "AIRFLOW__AIRFREIGHT__REGISTRY": f"oci://{cluster.registry}/models/",
        "AIRFLOW__AIRFREIGHT__PLAIN_HTTP_REGISTRIES": cluster.registry,
        "AIRFLOW__AIRFREIGHT__MODELCAR_BASE": images.public_reference(cluster, "modelcar-base"),
        "AIRFLOW__AIRFREIGHT__BUILDER_IMAGE": images.reference(cluster, "builder"),
        "AIRFLOW__AIRFREIGHT__EGRESS": "shown",
        "AIRFLOW__AIRFREIGHT__RESOLVER": cluster.resolver_ip,
        "AIRFLOW__AIRFREIGHT__RESOLVER_NAMESPACE": tenant.WORKERS,
        "AIRFLOW__AIRFREIGHT__STORAGE_CLASS": "airfreight-local",  # manifests/cluster.yaml
        "AIRFLOW__AIRFREIGHT__VOLUME_ACCESS": "ReadWriteMany",  # one node: every pod reaches every volume
    }


def start(
    cluster: Cluster,
    extra: dict[str, str] | None = None,
    *,
    home: Path | None = None,
    port: int = PORT,
    name: str = NAME,
) -> str:
    """Start Airflow for the embedded cluster, or anew when its configuration changed; wait until it is healthy.

    Args:
        extra: environment beside, and before, the embedded cluster's own settings.
        home: AIRFLOW_HOME; the cluster's own when none is given.
        name: of the daemon; tests run one of their own beside the demo's.
    Returns:
        "running" when it ran already, as asked; "started" otherwise.
    """
    home = home or cluster.state / "airflow"
    password = credentials(cluster)["airflow_password"]
    environment = {**base_environment(home, port, password), **site_environment(cluster), **(extra or {})}
    stamp = home / "environment.json"
    wanted = json.dumps({key: value for key, value in environment.items() if key != "PATH"}, sort_keys=True)
    if daemons.pid_of(cluster, name) and stamp.exists() and stamp.read_text() == wanted:
        _wait_ready(cluster, port, password, name)
        return "running"
    daemons.stop(cluster, [name], grace_s=20)
    refuse_taken_port(port)
    pki.write_private(stamp, wanted)
    daemons.start(cluster, name, [Path(sys.executable).parent / "airflow", "standalone"], env=environment, cwd=home)
    _wait_ready(cluster, port, password, name)
    return "started"


def refuse_taken_port(port: int) -> None:
    """Say so when something else listens on Airflow's port.

    An Airflow that was just killed may hold it for some seconds more: its threads end one by one.

    Raises:
        DevClusterError: the port is still taken after 15 s.
    """
    try:
        wait_until(f"port {port} to be free", lambda: _is_free(port), timeout_s=15)
    except Interrupted:
        raise
    except DevClusterError as error:
        raise DevClusterError(
            f"port {port} is taken by another program: stop it, or set AIRFREIGHT_AIRFLOW_PORT to a free one."
        ) from error


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
    return True


def _wait_ready(cluster: Cluster, port: int, password: str, name: str = NAME) -> None:
    """Wait until every part is healthy and the DAG can be triggered; it is read seconds after the server answers."""

    def ready() -> bool:
        daemons.check_alive(cluster, name)
        return is_healthy(port) and knows_the_dag(port, password)

    wait_until("Airflow to know its DAG", ready, timeout_s=300, poll_s=0.5)


def knows_the_dag(port: int, password: str) -> bool:
    """Whether `deliver_model` can be triggered by now."""
    with AirflowApi(url(port), user=USER, password=password) as api:
        try:
            return bool(api.params(DAG_ID))
        except AirfreightError:
            return False


def is_healthy(port: int) -> bool:
    """Whether database, scheduler, triggerer and dag processor all say so."""
    import urllib.request

    if not http_ok(f"{url(port)}/api/v2/version"):
        return False
    with urllib.request.urlopen(f"{url(port)}/api/v2/monitor/health", timeout=5) as answer:
        health = json.load(answer)
    return (
        all(part.get("status") in ("healthy", None) for part in health.values())
        and health["scheduler"]["status"] == "healthy"
    )


def start_standalone(home: Path, extra: dict[str, str], port: int = PORT) -> str:
    """Start an Airflow that belongs to no embedded cluster, or find it running; returns the password of its user."""
    home.mkdir(parents=True, exist_ok=True)
    secret = home / "password"
    if not secret.exists():
        pki.write_private(secret, secrets.token_urlsafe(12))
    stop_standalone(home)
    beside = _beside(home)
    refuse_taken_port(port)
    environment = {**base_environment(home, port, secret.read_text()), **extra}
    daemons.start(beside, NAME, [Path(sys.executable).parent / "airflow", "standalone"], env=environment, cwd=home)
    _wait_ready(beside, port, secret.read_text())
    return secret.read_text()


def stop_standalone(home: Path) -> None:
    """End the Airflow that `start_standalone` started, if it runs."""
    daemons.stop(_beside(home), [NAME], grace_s=20)


def _beside(home: Path) -> Cluster:
    """The place where a daemon of no embedded cluster is remembered and logs."""
    return Cluster(cache=home, state=home, subnet=Cluster.from_environment().subnet)


def current_home(cluster: Cluster) -> Path:
    """AIRFLOW_HOME of CLUSTER=current."""
    return cluster.cache / "current-airflow"


def serve_ui(cluster: Cluster, port: int = PORT) -> int:
    """`make ui`: Airflow with the DAGs and the form, no cluster, in the foreground until Ctrl-C."""
    home = cluster.cache / "ui"
    refuse_taken_port(port)
    home.mkdir(parents=True, exist_ok=True)
    secret = home / "password"
    if not secret.exists():
        pki.write_private(secret, secrets.token_urlsafe(12))
    environment = {**os.environ, **base_environment(home, port, secret.read_text())}
    begun = time.monotonic()
    with (home / "airflow.log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "airflow"), "standalone"], env=environment, cwd=home,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            wait_until(
                "Airflow's health",
                lambda: _running(process, home) and is_healthy(port) and knows_the_dag(port, secret.read_text()),
                timeout_s=300,
                poll_s=0.5,
            )
            say(
                f"Airflow is at {url(port)} (user {USER}, password {secret.read_text()}) "
                f"after {time.monotonic() - begun:.0f} s."
            )
            say("There is no cluster behind it: DAGs and forms can be looked at, runs cannot succeed. Ctrl-C ends it.")
            return process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(process)


def _running(process: subprocess.Popen[bytes], home: Path) -> bool:
    if process.poll() is not None:
        raise DevClusterError(f"Airflow ended with status {process.returncode}; see {home / 'airflow.log'}")
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End standalone and its children: SIGTERM alone would leave the children, so the whole group gets it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=15)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def main() -> int:
    """`python -m devcluster.airflow ui`."""
    parser = argparse.ArgumentParser(prog="devcluster.airflow", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("command", choices=["ui"])
    parser.add_argument("--port", type=int, default=PORT)
    asked = parser.parse_args()
    try:
        return serve_ui(Cluster.from_environment(), asked.port)
    except DevClusterError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
