"""The embedded cluster after a crash: `up` is simply run again. Slow; two of the tests throw its state away."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time

import pytest

from devcluster import control_plane, daemons, network, tenant
from devcluster.config import REPOSITORY, Cluster
from devcluster.shell import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
UP = [sys.executable, "-m", "devcluster", "up"]


def up() -> str:
    done = subprocess.run(UP, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def all_pods_ready(cluster: Cluster) -> bool:
    conditions = "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status} {end}"
    found = control_plane.kubectl(cluster, "get", "pods", "-A", "-o", conditions).split()
    return len(found) >= 4 and set(found) == {"True"}


def test_killed_daemons_are_started_again_on_their_state(embedded: Cluster) -> None:
    bucket = f"crash-{secrets.token_hex(4)}"
    tenant.store_client(embedded).create_bucket(Bucket=bucket)
    for name in ("kube-apiserver", "kubelet", "containerd", "kube-proxy", "etcd"):
        pid = daemons.pid_of(embedded, name)
        assert pid is not None, name
        os.kill(pid, signal.SIGKILL)
    up()
    wait_until("all pods to be ready", lambda: all_pods_ready(embedded), timeout_s=180)
    tenant.store_client(embedded).delete_bucket(Bucket=bucket)  # it is still there


def test_a_second_up_does_only_what_is_missing(embedded: Cluster) -> None:
    begun = time.monotonic()
    before = {name: daemons.pid_of(embedded, name) for name in control_plane.NAMES}
    assert "): built" not in up()
    assert {name: daemons.pid_of(embedded, name) for name in control_plane.NAMES} == before
    print(f"a second up took {time.monotonic() - begun:.0f} s")  # shown with -rP; no verdict on seconds


def test_an_interrupt_ends_up_at_once_and_it_can_be_run_again(embedded: Cluster) -> None:
    subprocess.run([sys.executable, "-m", "devcluster", "down"], cwd=REPOSITORY, check=True, capture_output=True)
    process = subprocess.Popen(UP, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "start etcd" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[0]
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    up()
    wait_until("all pods to be ready", lambda: all_pods_ready(embedded), timeout_s=180)


def test_a_machine_that_lost_its_network_is_cleared_and_built_anew(embedded: Cluster) -> None:
    """As after a reboot: files of a former cluster, no namespace, no processes that belong to it."""
    subprocess.run(["ip", "link", "delete", embedded.host_link], check=True)
    subprocess.run(["umount", str(network.namespace_path(embedded))], check=True)
    network.namespace_path(embedded).unlink()
    assert "incomplete: clearing it" in up()
    wait_until("all pods to be ready", lambda: all_pods_ready(embedded), timeout_s=180)
