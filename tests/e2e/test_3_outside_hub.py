"""A hub outside the cluster, reached through the forward proxy on the host, by publisher pods alone."""

from __future__ import annotations

import pytest

from devcluster import daemons, demo
from tests.e2e.conftest import Delivery
from tests.e2e.test_1_refusals import failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_bytes_come_through_the_proxy(delivery: Delivery, bucket: str) -> None:
    """The stand-in hub by its address on the node stands for the public hub; only that host and port may pass."""
    hub = f"{delivery.cluster.node_ip}:30890"
    path = delivery.cluster.logs / "proxy.log"
    earlier = path.stat().st_size if path.exists() else 0  # of proxies before this one
    try:
        proxy = demo.start_proxy(delivery.cluster, (hub,))
        settings = demo.through_proxy(proxy, f"http://{hub}")
        delivery.start_airflow(**settings, AIRFLOW__AIRFREIGHT__STORE=f"s3://{delivery.bucket}/proxied/")
        summary = delivery.deliver(model="acme/pong", namespace=delivery.locked)
        log = path.read_bytes()[earlier:].decode()
    finally:
        daemons.stop(delivery.cluster, ["proxy"])
    # Published, and the deploy refused: nothing is to be served here.
    assert failure(summary)[0] == "deploy"
    copied = summary.results["upload_to_s3"]
    assert copied["moved_bytes"] == copied["size_bytes"]
    assert copied["artifact"].startswith(f"s3://{delivery.bucket}/proxied/acme/pong/")
    assert f" {hub} " in log, log[-2000:]
    assert "minio" not in log, "the store is not behind the proxy"
