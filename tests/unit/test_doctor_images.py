"""What the doctor says of registry, base, pull login, private CA and delivery modes."""

from __future__ import annotations

import base64
import json
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airfreight.cluster import Resource
from airfreight.delivery import Facts
from airfreight.doctor import Check, Place, State
from airfreight.doctor_images import check_ca_bundle, examine_images, judge_deliveries
from airfreight.environment import RegistrySettings
from airfreight.errors import RequestError
from airfreight.stores.oci.registry import OCI_MANIFEST
from tests.standins.registry import Registry

Thing = dict[str, Any]
SETTINGS = RegistrySettings("/nowhere/config.json")


class FakeCluster:
    """Objects by plural and name; `hidden` plurals may not be read."""

    def __init__(self, **things: dict[str, Thing]) -> None:
        self.things = {
            "configmaps": {"inferenceservice-config": {"data": {"storageInitializer": '{"enableModelcar": true}'}}},
            "serviceaccounts": {"airfreight-model": {"imagePullSecrets": [{"name": "airfreight-pull"}]}},
            "namespaces": {"models": {"metadata": {}}},
        } | things
        self.hidden: set[str] = set()
        self.lacks: set[tuple[str | None, str]] = set()

    def get(self, resource: Resource, namespace: str | None, name: str) -> Thing | None:
        if resource.plural in self.hidden:
            raise RequestError(f"The user jo may not get {resource.plural}.")
        return None if (namespace, name) in self.lacks else self.things.get(resource.plural, {}).get(name)

    def items(
        self, resource: Resource, namespace: str | None = None, selector: str = "", *, fields: str = ""
    ) -> list[Thing]:
        return []

    def version(self) -> Thing:
        return {"major": "1", "minor": "34"}

    def rehearse(self, resource: Resource, wanted: Thing) -> Thing:
        return wanted


def report(cluster: FakeCluster, root: str, base: str = "", pull_secret: str = "") -> dict[str, Check]:
    checks = examine_images(cluster, Place(), root, SETTINGS, base, pull_secret)  # type: ignore[arg-type]
    return {check.title: check for check in checks}


def _encoded(logins: Thing) -> str:
    return base64.b64encode(json.dumps({"auths": logins}).encode()).decode()


def login(host: str) -> Thing:
    data = _encoded({host: {"auth": "eDp5"}})
    return {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}}


def test_a_site_that_has_everything() -> None:
    with Registry() as registry:
        digest = registry.put_manifest("base", OCI_MANIFEST, json.dumps({"mediaType": OCI_MANIFEST}).encode())
        cluster = FakeCluster(secrets={"airfreight-pull": login(registry.host)})
        checks = report(cluster, f"oci://{registry.host}/models/", f"{registry.host}/base@{digest}", "airfreight-pull")
        assert {check.state for check in checks.values()} == {State.OK}
        assert not any(check.remedy for check in checks.values())
        assert checks["registry"].detail == f"oci://{registry.host}/models/ answers"
        assert checks["pull login in models"].detail == f"Secret airfreight-pull has one for {registry.host}"


def test_a_registry_that_does_not_answer_and_one_that_is_none() -> None:
    with Registry() as registry:
        host = registry.host
    assert "cannot be reached" in report(FakeCluster(), f"oci://{host}/models/")["registry"].detail
    (check,) = report(FakeCluster(), "models").values()
    assert check.state is State.MISSING and "'models'" in check.detail


def test_bases() -> None:
    with Registry() as registry:
        root = f"oci://{registry.host}/models/"
        gone = f"{registry.host}/base@sha256:{'0' * 64}"
        assert report(FakeCluster(), root)["modelcar base"].detail == "none is set: images serve oci+native alone"
        check = report(FakeCluster(), root, gone)["modelcar base"]
        assert (check.state, check.detail) == (State.MISSING, f"{gone} is not at its registry")
        check = report(FakeCluster(), root, f"{registry.host}/base:v1")["modelcar base"]
        assert check.state is State.MISSING and "is not pinned" in check.detail and "@sha256:<64" in check.remedy


def test_pull_logins() -> None:
    with Registry() as registry:
        root, title = f"oci://{registry.host}/models/", "pull login in models"
        assert report(FakeCluster(), root)[title].detail == (
            f"none, which is right where {registry.host} asks for none or the nodes have one of their own; else make "
            "airfreight-pull"
        )
        check = report(FakeCluster(), root, pull_secret="airfreight-pull")[title]
        assert check.state is State.MISSING and "create secret docker-registry airfreight-pull" in check.remedy
        check = report(FakeCluster(), root, pull_secret="other")[title]
        assert check.detail == "the service account airfreight-model does not list other"
        check = report(FakeCluster(secrets={"airfreight-pull": login("other.example")}), root)[title]
        assert check.state is State.MISSING and f"none for {registry.host}" in check.detail


def test_a_malformed_login_spoils_the_good_one_beside_it() -> None:
    with Registry() as registry:
        spoilt = {
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": _encoded({"x": {"auth": "?"}})},
        }
        cluster = FakeCluster(secrets={"airfreight-pull": login(registry.host), "other": spoilt})
        cluster.things["serviceaccounts"]["airfreight-model"]["imagePullSecrets"].append({"name": "other"})
        check = report(cluster, f"oci://{registry.host}/models/")["pull login in models"]
    assert check.state is State.MISSING
    assert check.detail == "Secret other in namespace models holds a malformed login for x"
    assert check.remedy.startswith("make it anew: kubectl -n models")


def test_what_may_not_be_read_is_unseen() -> None:
    cluster = FakeCluster()
    cluster.hidden = {"serviceaccounts"}
    with Registry() as registry:
        checks = report(cluster, f"oci://{registry.host}/models/")
    assert checks["images"].state is State.UNSEEN and checks["registry"].state is State.OK


def test_one_way_to_deliver_an_image_is_enough() -> None:
    first, second = judge_deliveries(Facts("modelcar", (1, 32)))
    assert (first.state, first.title) == (State.OK, "delivery oci+native")
    assert first.detail.startswith("not possible, Kubernetes 1.32") and first.remedy.startswith("upgrade the cluster")
    assert second == Check("delivery oci", State.OK, "possible")
    old = Facts("modelcar", (1, 34), old_nodes=("a with containerd://1.7.2",))
    first, _ = judge_deliveries(old)
    assert first.detail.endswith("can mount an image (a with containerd://1.7.2)") and first.remedy.startswith(
        "upgrade to"
    )
    first, _ = judge_deliveries(replace(old, new_nodes=1))
    assert first.detail == "possible, though not on a with containerd://1.7.2"
    assert {check.state for check in judge_deliveries(Facts(""))} == {State.MISSING}
    assert {check.detail for check in judge_deliveries(Facts())} == {"possible, as far as one may look"}


@pytest.mark.parametrize(
    ("config", "detail", "remedy"),
    [
        (None, "not there", "make it: kubectl -n airfreight create configmap ca --from-file=ca.crt=PEM-FILE"),
        ({"data": {"bundle.pem": "x"}}, "it lacks the key ca.crt", "make it anew"),
        ({"data": {"ca.crt": "x"}}, "its key ca.crt holds no certificate in PEM", "make it anew"),
    ],
)
def test_a_private_ca_that_is_none(config: Thing | None, detail: str, remedy: str) -> None:
    cluster = FakeCluster(configmaps={"ca": config} if config else {})
    check = check_ca_bundle(cluster, Place(), "ca")  # type: ignore[arg-type]
    assert (check.state, check.detail) == (State.MISSING, detail) and check.remedy.startswith(remedy)


def test_a_private_ca() -> None:
    import certifi

    text = Path(certifi.where()).read_text()
    one = text[text.index("-----BEGIN") : text.index("-----END CERTIFICATE-----") + 26]
    assert ssl.create_default_context(cadata=one)
    cluster = FakeCluster(configmaps={"ca": {"data": {"ca.crt": one}}})
    check = check_ca_bundle(cluster, Place(), "ca")  # type: ignore[arg-type]
    assert (check.state, check.detail) == (State.OK, "1 CA certificates")
    assert check.title == "ConfigMap ca in airfreight"
    cluster.things["namespaces"]["airfreight-build"] = {}
    check = check_ca_bundle(cluster, Place(), "ca")  # type: ignore[arg-type]
    assert (check.state, check.title) == (State.OK, "ConfigMap ca in airfreight and airfreight-build")
    cluster.lacks.add(("airfreight-build", "ca"))
    check = check_ca_bundle(cluster, Place(), "ca")  # type: ignore[arg-type]
    assert (check.state, check.title) == (State.MISSING, "ConfigMap ca in airfreight-build")
    assert check.remedy.startswith("make it: kubectl -n airfreight-build create configmap ca")
