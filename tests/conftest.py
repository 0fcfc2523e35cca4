"""What all tests share: the embedded cluster.

Airflow reads its environment when it is first imported, so tests/unit/conftest.py stands for itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from devcluster import control_plane
from devcluster.__main__ import reach_directly
from devcluster.config import Cluster

# No test asserts seconds: how long an example takes is the machine's business, which may do other things.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session")
def embedded() -> Cluster:
    """The embedded cluster; it must be up (`make cluster-up`), and its absence fails: nothing is skipped silently."""
    cluster = Cluster.from_environment()
    reach_directly(cluster)
    if not control_plane.api_answers(cluster):
        pytest.fail("the embedded cluster is not up: run `make cluster-up`", pytrace=False)
    return cluster


@pytest.fixture(scope="session")
def kubeconfig(embedded: Cluster) -> Path:
    """The administrator's kubeconfig of the embedded cluster."""
    return embedded.kubeconfig
