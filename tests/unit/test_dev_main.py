"""The command line of the embedded cluster, as far as it goes without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import __main__ as commands
from devcluster.config import Cluster


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """An environment whose cluster does not exist."""
    places = {"AIRFREIGHT_CACHE": tmp_path / "cache", "AIRFREIGHT_CLUSTER_STATE": tmp_path / "state"}
    return {**os.environ, **{name: str(path) for name, path in places.items()}}


def devcluster(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command."""
    command = [sys.executable, "-m", "devcluster", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_wrong_subnet_is_one_sentence(nowhere: dict[str, str]) -> None:
    done = devcluster({**nowhere, "AIRFREIGHT_CLUSTER_SUBNET": "10.0.0.0/24"}, "status")
    assert done.returncode == 1
    assert done.stderr.startswith("devcluster: AIRFREIGHT_CLUSTER_SUBNET is 10.0.0.0/24: give a block of /16 or larger")
    assert done.stderr.count("\n") == 1


def test_status_of_nothing_names_what_is_missing(nowhere: dict[str, str]) -> None:
    done = devcluster(nowhere, "status")
    assert done.returncode == 1
    lines = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert lines["kubelet"] == "✗"
    assert lines["airflow"] == "·"  # the cluster is whole without it
    assert done.stderr == ""


def test_a_reader_that_has_seen_enough_is_no_error(nowhere: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "devcluster", "status"], env=nowhere, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_kubectl_before_it_was_built_says_what_to_run(nowhere: dict[str, str]) -> None:
    done = devcluster(nowhere, "kubectl", "get", "pods")
    assert (done.returncode, done.stderr) == (
        1,
        "devcluster: kubectl has not been built yet: run `make cluster-up`\n",
    )


def test_kubectl_gets_its_words_and_the_administrators_kubeconfig(nowhere: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "cache" / "bin" / "kubectl"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$KUBECONFIG" "$@"; exit 7\n')
    program.chmod(0o755)
    done = devcluster(nowhere, "kubectl", "logs", "--help")
    assert (done.returncode, done.stdout) == (7, f"{tmp_path}/state/pki/admin.kubeconfig logs --help\n")


def test_a_proxy_keeps_its_exceptions_and_gets_the_cluster_added_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster.from_environment({})
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.delenv("no_proxy", raising=False)
    for _ in range(2):
        commands.reach_directly(cluster)
    assert os.environ["NO_PROXY"] == f"intranet,{cluster.no_proxy}"
    assert os.environ["no_proxy"] == cluster.no_proxy
