"""A node pulls what it lacks before anything is applied: a model's image that holds nothing which could run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airfreight.cluster import INFERENCE_SERVICES, NODES, PODS
from airfreight.prepull import LABEL
from devcluster.config import Cluster as Embedded
from tests.site import Site, until

AGAIN_S = 20.0  # a pod of an image that is there, on a busy machine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture
def site(embedded: Embedded, kubeconfig: Path, tmp_path: Path) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        made = Site(embedded, tmp_path)
        try:
            made.make()
            yield made
        finally:
            made.remove()


def register(site: Site, artifact: str) -> tuple[int, dict[str, Any]]:
    ledger = f"file://{site.directory}/"
    return site.run("register", "pong", artifact, "--delivery", "oci+native", "--ledger", ledger)


def listed(site: Site, image: str) -> bool:
    nodes: list[dict[str, Any]] = site.cluster.items(NODES)
    return any(image in (entry.get("names") or []) for node in nodes for entry in node["status"].get("images") or [])


def test_an_image_is_pulled_once_and_no_pod_of_it_stays(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = site.publish_alone()
    image = artifact.removeprefix("oci://")
    assert not listed(site, image)
    code, said = register(site, artifact)
    assert code == 0
    # On a cluster that is new the model server's own image is one of them.
    assert image in [one["image"] for one in said["prepulled"]]
    shown = capsys.readouterr().out
    assert f"pulled {image} on " in shown and "; nothing that serves was touched." in shown
    assert site.cluster.get(INFERENCE_SERVICES, site.namespace, "pong") is None, "nothing is applied yet"
    until("the pod that pulled to go", lambda: not site.cluster.items(PODS, site.namespace, f"{LABEL}=pong"), 60)
    code, said = register(site, artifact)
    # The kubelet lists its 50 largest images: a small one may cost a pod again, which finds it there.
    assert code == 0 and all(one["seconds"] < AGAIN_S for one in said["prepulled"])


def test_an_image_that_was_removed_is_refused_and_nothing_is_registered(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """The registry answers for the model's image, but the server's is gone."""
    from airfreight.runtime import pin

    pinned = pin(f"{site.embedded.node_registry}/airfreight/gone@sha256:{'0' * 64}", "vllm-cpu", [], site.namespace)
    site.apply(pinned)
    site.runtime = pinned["metadata"]["name"]
    code, said = register(site, site.publish_alone())
    assert code == 2 and said == {}
    refusal = capsys.readouterr().err
    assert "airfreight/gone@sha256:000" in refusal and "of kserve-container cannot be pulled (" in refusal
    assert refusal.rstrip().endswith("correct the image, or the pull secrets of the service account.")
    until("its pods to go", lambda: not site.cluster.items(PODS, site.namespace, f"{LABEL}=pong"), 60)
