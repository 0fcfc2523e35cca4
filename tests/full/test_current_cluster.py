"""`make demo CLUSTER=current`: the current context, which here is the embedded cluster by its kubeconfig."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import airflow
from devcluster.config import REPOSITORY, Cluster
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def demo(embedded: Cluster, cache: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    port = {"AIRFREIGHT_AIRFLOW_PORT": str(free_port())}
    own = {"KUBECONFIG": str(embedded.kubeconfig), "AIRFREIGHT_CACHE": cache, **port}
    return subprocess.run(
        [sys.executable, "-m", "devcluster.demo", "--cluster", "current"],
        cwd=REPOSITORY, env={**os.environ, **own, **environment}, capture_output=True, text=True, check=False,
        timeout=800,
    )  # fmt: skip


def test_it_says_what_the_environment_lacks(embedded: Cluster, tmp_path: Path) -> None:
    done = demo(embedded, str(tmp_path), {})
    assert done.returncode == 1
    assert "AIRFLOW__AIRFREIGHT__IMAGE" in done.stderr
    assert "docs/install.md" in done.stderr


def test_it_delivers_to_the_current_context(embedded: Cluster, tmp_path: Path) -> None:
    done = demo(embedded, str(tmp_path), airflow.site_environment(embedded))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "pong from A" in done.stdout
    finally:
        airflow.stop_standalone(tmp_path / "current-airflow")
