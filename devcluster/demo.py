"""`make demo`: bring everything up, deliver a model through Airflow's REST API, ask it a question, say what happened.

Interrupted anywhere it is simply run again: each part finds what is there and does what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airfreight.airflow_api import AirflowApi, RunSummary
from airfreight.commands.people import DAG_ID, show
from airfreight.errors import AirfreightError
from devcluster import __main__ as cluster_commands
from devcluster import airflow, daemons
from devcluster.addons import credentials
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import DevClusterError, interrupt_on_signals, wait_until
from devcluster.steps import say

STAND_IN_MODEL = "acme/pong"
PROXY_PORT = 8118


@dataclass(frozen=True)
class Target:
    """Where the demo's Airflow is and how to log in."""

    url: str
    user: str
    password: str


def start_proxy(cluster: Cluster, allow: tuple[str, ...] = ()) -> str:
    """Start the forward proxy on the host's end of the cluster's link and return its URL.

    Args:
        allow: the hosts it lets through; the public hub's when empty.
    """
    name = "proxy"
    words = [sys.executable, "-m", "devcluster.proxy", "--listen", f"{cluster.host_ip}:{PROXY_PORT}"]
    daemons.stop(cluster, [name])
    daemons.start(cluster, name, [*words, *(word for host in allow for word in ("--allow", host))], cwd=REPOSITORY)
    wait_until("the proxy", lambda: _listens(cluster, name), timeout_s=20)
    return f"http://{cluster.host_ip}:{PROXY_PORT}"


def _listens(cluster: Cluster, name: str) -> bool:
    import socket

    daemons.check_alive(cluster, name)
    with socket.create_connection((cluster.host_ip, PROXY_PORT), timeout=1):
        return True


def through_proxy(proxy_url: str, hub_endpoint: str) -> dict[str, str]:
    """Airflow's settings for a hub outside the cluster: publisher pods, and no others, get the proxy."""
    return {
        "AIRFLOW__AIRFREIGHT__HUB_ENDPOINT": hub_endpoint,
        "AIRFLOW__AIRFREIGHT__HTTPS_PROXY": proxy_url,
        "AIRFLOW__AIRFREIGHT__NO_PROXY": ".svc.cluster.local",
    }


def prepare(model: str, cluster: Cluster) -> Target:
    """The embedded cluster and its Airflow, ready for a delivery of `model`."""
    cluster_commands.reach_directly(cluster)
    cluster_commands.up(cluster)
    begun = time.monotonic()
    extra: dict[str, str] = {}
    if model.split("/")[0] != STAND_IN_MODEL.split("/")[0]:
        say(f"  · {model} is on the public hub: publisher pods get there by a proxy that lets only its hosts through")
        extra = through_proxy(start_proxy(cluster), "")
    remark = airflow.start(cluster, extra)
    say(f"  ✓ Airflow at {airflow.url()}: {remark} ({time.monotonic() - begun:.0f} s)")
    return Target(airflow.url(), airflow.USER, credentials(cluster)["airflow_password"])


def prepare_current() -> Target:
    """CLUSTER=current: somebody's own cluster and, for this run, an Airflow of ours against it.

    The section [airfreight] and the store's connection come from the shell's environment, as docs/install.md says.

    Raises:
        DevClusterError: `airfreight doctor` names what is missing.
    """
    if subprocess.run([_airfreight(), "doctor"], check=False).returncode != 0:
        raise DevClusterError(
            "the current cluster is not ready: mend what doctor names, then run this again (docs/install.md)."
        )
    needed = ("AIRFLOW__AIRFREIGHT__IMAGE", "AIRFLOW__AIRFREIGHT__RUNTIME", "AIRFLOW_CONN_AIRFREIGHT_STORE")
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        raise DevClusterError(
            f"CLUSTER=current needs {', '.join(missing)} in the environment: docs/install.md says what they hold."
        )
    cluster = Cluster.from_environment()
    home = airflow.current_home(cluster)
    kubeconfig = os.environ.get("KUBECONFIG", str(Path.home() / ".kube" / "config"))
    connection = json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": kubeconfig}})
    password = airflow.start_standalone(home, {"AIRFLOW_CONN_AIRFREIGHT_CLUSTER": connection})
    say(f"  ✓ Airflow at {airflow.url()} against the current context of {kubeconfig}")
    return Target(airflow.url(), airflow.USER, password)


def _airfreight() -> str:
    return str(Path(sys.executable).parent / "airfreight")


def deliver(target: Target, conf: Mapping[str, object]) -> RunSummary:
    """Trigger `deliver_model` through REST, show each task as it goes, and say what the run did.

    An interrupt ends the watching; the run in Airflow goes on by itself.

    Raises:
        DevClusterError: the run failed; the message holds its sentence.
    """
    with AirflowApi(target.url, user=target.user, password=target.password) as api:
        run_id = api.trigger(DAG_ID, conf)
        say(f"  {run_id}")
        show(api, DAG_ID, run_id)
        found = api.run_summary(DAG_ID, run_id)
    if error := found.error():
        raise DevClusterError(f"{error.message}\nThe run is in the UI at {target.url}.")
    return found


def _proof(steps: Mapping[str, float], results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The egress gate's row, where the site wants that gate."""
    if not (proven := results.get("prove_egress")):
        return []
    gate = proven["gate"]
    return [("prove_egress", f"{steps['prove_egress']:6.1f} s", f"{gate['verdict']}: {gate['found']}")]


def _before(promoted: Mapping[str, Any]) -> str:
    return f"live, {promoted['previous']} before it" if promoted["previous"] else "live, the first release"


def summary(run: RunSummary, target: Target, seconds: float) -> str:
    """What a person wants to know at the end. Pure."""
    results, steps = run.results, {task.task_id: task.seconds or 0.0 for task in run.tasks}
    resolved, copied, deployed = results["resolve"], results["upload_to_s3"], results["deploy"]
    ready, checked = results["wait_until_ready"], results["validate"]
    megabytes = copied["size_bytes"] / 1e6
    moved = copied["moved_bytes"] / 1e6
    rows = [
        ("resolve", f"{steps['resolve']:6.1f} s", f"{resolved['revision']} is commit {resolved['commit'][:12]}"),
        (
            "upload_to_s3",
            f"{steps['upload_to_s3']:6.1f} s",
            f"{copied['files']} files, {megabytes:.1f} MB, of which {moved:.1f} MB moved in {copied['seconds']:.1f} s",
        ),
        (
            "deploy",
            f"{steps['deploy']:6.1f} s",
            f"release {deployed['release']}, {'applied' if deployed['changed'] else 'live already, nothing changed'}",
        ),
        (
            "wait_until_ready",
            f"{steps['wait_until_ready']:6.1f} s",
            f"the model server was ready after {ready['seconds']:.1f} s",
        ),
        ("validate", f"{steps['validate']:6.1f} s", f"first token after {checked['ttft_s']:.2f} s"),
        *_proof(steps, results),
        ("promote", f"{steps['promote']:6.1f} s", _before(results["promote"])),
        ("report", f"{steps['report']:6.1f} s", results["report"]["report"]),
    ]
    table = "\n".join(f"  {name:<18}{time_:>10}  {remark}" for name, time_, remark in rows)
    return f"""
Delivered {resolved["source"]}
{table}
  {"the run":<18}{run.seconds:>8.1f} s  of which Airflow's own share {run.airflow_seconds or 0:.1f} s

  artifact   {copied["artifact"]}
  service    {deployed["url"]}
  question   {checked["question"]}
  answer     {checked["answer"]}
  server     {checked["system_fingerprint"]}

Airflow's UI   {target.url}  user {target.user}  password {target.password}
Try next       in the UI choose "Deliver a model", Trigger, revision "next": the answer becomes "pong from B"
               make demo       again: no weight byte moves, nothing that is live restarts
               make cluster-status    what runs;  make kubectl ARGS="get pods -A"
Undo           make down
Everything together took {seconds:.0f} s."""


def main() -> int:
    """Run the demo; 0 done, 1 failed, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--model", default=STAND_IN_MODEL, help="owner/name; acme/… is the stand-in's, anything else the public hub's"
    )
    parser.add_argument("--cluster", choices=["embedded", "current"], default="embedded")
    asked = parser.parse_args()
    begun = time.monotonic()
    interrupt_on_signals()
    try:
        target = prepare_current() if asked.cluster == "current" else prepare(asked.model, Cluster.from_environment())
        say(f"Delivering {asked.model} through {target.url}/api/v2/dags/deliver_model/dagRuns")
        run = deliver(target, {"model": asked.model})
    except (DevClusterError, AirfreightError) as error:
        sys.stderr.write(f"\nmake demo: {error}\nLogs: make cluster-logs. To start over: make down.\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nmake demo: interrupted; run it again to go on, or `make down` to clear up\n")
        return 130
    say(summary(run, target, time.monotonic() - begun))
    return 0


if __name__ == "__main__":
    sys.exit(main())
