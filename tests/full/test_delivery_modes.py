"""One model in all three delivery modes, served by the real model server on the embedded cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from airfreight.observation import Ready
from devcluster import images
from devcluster.config import Cluster as Embedded
from tests.site import Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

READY_S = 300
HASH_ALL = (
    "import hashlib,json,pathlib; root=pathlib.Path('/mnt/models'); "
    "print(json.dumps({str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() "
    "for p in root.rglob('*') if p.is_file()}))"
)


@pytest.fixture(scope="module")
def site(embedded: Embedded, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        for name, value in _store(embedded).items():
            patch.setenv(name, value)
        made = Site(embedded, tmp_path_factory.mktemp("site"))
        try:
            made.make()
            yield made
        finally:
            made.remove()


def _store(embedded: Embedded) -> dict[str, str]:
    from devcluster.addons import STORE_USER, credentials

    return {
        "AWS_ENDPOINT_URL": embedded.store_url,
        "AWS_ACCESS_KEY_ID": STORE_USER,
        "AWS_SECRET_ACCESS_KEY": credentials(embedded)["store_password"],
    }


@pytest.fixture(scope="module")
def published(site: Site) -> dict[str, str]:
    """The same model as an image on the cluster's own base, and as files."""
    return {"image": site.publish(images.public_reference(site.embedded, "modelcar-base")), "s3": site.publish_files()}


@pytest.mark.parametrize("mode", ["s3", "oci", "oci+native"])
def test_the_model_is_served_byte_for_byte(site: Site, published: dict[str, str], mode: str) -> None:
    name = mode.replace("+", "-")
    artifact = published["s3" if mode == "s3" else "image"]
    code, said = site.run("smoke", name, artifact, "--delivery", mode)
    assert code == 0 and said["delivery"] == mode
    code, said = site.run("deploy", name, artifact, "--delivery", mode, cpu="2", memory="4Gi")
    assert code == 0 and said["artifact"] == artifact
    try:
        verdict = site.end(name, said["release"], READY_S)
        assert isinstance(verdict, Ready), verdict
        served: dict[str, str] = json.loads(site.run_in_server(name, "python3", "-c", HASH_ALL))
        served.pop("airfreight.json")
        # KServe's storage initializer leaves files of no bytes out.
        wanted = {path: data for path, data in site.files.items() if data or mode != "s3"}
        assert served == {path: hashlib.sha256(data).hexdigest() for path, data in wanted.items()}
        address = site.kubectl(
            "get", "service", f"{name}-predictor", "-n", site.namespace, "-o", "jsonpath={.spec.clusterIP}"
        )
        body = {"model": "pong", "messages": [{"role": "user", "content": "ping"}]}
        with httpx2.Client(trust_env=False, timeout=60) as client:
            answer = client.post(f"http://{address}/v1/chat/completions", json=body).raise_for_status()
        assert answer.json()["choices"][0]["message"]["content"] == "pong from A"
    finally:
        site.delete(name)
