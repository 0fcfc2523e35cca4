"""buildah as in a site: in an unprivileged pod, from a volume, into the cluster's registry; read back by skopeo."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airfreight.cli import main
from airfreight.environment import RegistrySettings
from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Repository
from devcluster import images
from devcluster.config import Cluster
from devcluster.control_plane import kubectl
from devcluster.shell import wait_until

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[2] / "include" / "kubernetes" / "builder"
CLAIM, TIMEOUT = "model", 300.0  # seconds
RESTRICTED = {
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Site:
    """A namespace like airfreight-build, with a volume."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.namespace = f"airfreight-test-build-{secrets.token_hex(3)}"
        self.registry_path = self.namespace
        self.base = images.public_reference(cluster, "modelcar-base")

    def make(self) -> None:
        for name in ("namespace.yaml", "service-account.yaml"):
            for thing in yaml.safe_load_all((EXAMPLES / name).read_text()):
                if thing["kind"] == "Namespace":
                    thing["metadata"]["name"] = self.namespace
                else:
                    thing["metadata"]["namespace"] = self.namespace
                self.apply(thing)
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": CLAIM, "namespace": self.namespace},
                "spec": {
                    "storageClassName": "airfreight-local",
                    "accessModes": ["ReadWriteMany"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }
        )

    def remove(self) -> None:
        kubectl(self.cluster, "delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def apply(self, thing: dict[str, Any]) -> None:
        kubectl(self.cluster, "apply", "-f", "-", stdin=yaml.safe_dump(thing))

    def example(self, name: str, words: list[str]) -> dict[str, Any]:
        """The example pod with a command of ours."""
        pod: dict[str, Any] = yaml.safe_load((EXAMPLES / "example-pod.yaml").read_text())
        pod["metadata"] = {"name": name, "namespace": self.namespace}
        container = pod["spec"]["containers"][0]
        container |= {"image": images.reference(self.cluster, "builder"), "command": ["airfreight", *words]}
        container["env"] = [{"name": "AIRFREIGHT_PLAIN_HTTP", "value": self.cluster.registry}]
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = CLAIM
        return pod

    def run(self, pod: dict[str, Any]) -> tuple[int, str]:
        """Run a pod to its end; return its exit code and its output."""
        self.apply(pod)
        name = pod["metadata"]["name"]
        state = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"

        def ended() -> str:
            return kubectl(self.cluster, "get", "pod", "--namespace", self.namespace, name, "-o", state)

        wait_until(f"the end of pod {name}", lambda: bool(ended()), timeout_s=TIMEOUT)
        return int(ended()), kubectl(self.cluster, "logs", "--namespace", self.namespace, name)


@pytest.fixture(scope="module")
def site(embedded: Cluster) -> Iterator[Site]:
    """A namespace of its own, with a model on its volume that a pod with another user put there."""
    made = Site(embedded)
    try:
        made.make()
        fill = made.example("fill", ["copy", "hf://acme/pong@main", "file:///model/"])
        container = fill["spec"]["containers"][0]
        container["securityContext"] = RESTRICTED
        container["env"] = [{"name": "HF_ENDPOINT", "value": embedded.hub_service_url}]
        container["volumeMounts"][0]["readOnly"] = False
        code, output = made.run(fill)
        assert code == 0, output
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def version(site: Site) -> str:
    """The version of the model on the volume."""
    output = kubectl(site.cluster, "logs", "--namespace", site.namespace, "fill")
    return str(json.loads(output.splitlines()[-1])["version"])


def build_words(site: Site, version: str, *further: str) -> list[str]:
    source, destination = f"file:///model/acme/pong/{version}/", f"oci://{site.cluster.registry}/{site.registry_path}/"
    return ["build", source, destination, "--base", site.base, *further]


def test_a_pod_without_privileges_builds_a_model_that_reads_back_equal(
    site: Site, version: str, tmp_path: Path
) -> None:
    code, output = site.run(site.example("first", build_words(site, version)))
    assert code == 0, output
    first = json.loads(output.splitlines()[-1])
    image = OciImage(site.cluster.registry, f"{site.registry_path}/acme/pong", digest=first["image_digest"])
    assert first["artifact"] == str(image)
    # skopeo checks every digest on its way.
    plain = ["skopeo", "copy", "--quiet", "--src-tls-verify=false"]
    subprocess.run([*plain, f"docker://{image.name}", f"dir:{tmp_path}/image"], check=True, timeout=TIMEOUT)
    document = json.loads((tmp_path / "image" / "manifest.json").read_text())
    layers = [layer for layer in document["layers"] if layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar"]
    assert len(layers) == 4 + 1 + 1  # four weight files, the small ones, the manifest
    found: dict[str, bytes] = {}
    for layer in layers:
        blob = (tmp_path / "image" / layer["digest"].removeprefix("sha256:")).read_bytes()
        with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
            for entry in archive.getmembers():
                assert (entry.uid, entry.gid, entry.mtime) == (0, 0, 0)
                assert entry.mode & 0o777 == (0o644 if entry.isfile() else 0o755)
                if (reader := archive.extractfile(entry)) is not None:
                    found[entry.name.removeprefix("models/")] = reader.read()
    manifest = Manifest.from_json(found.pop(MANIFEST_NAME))
    assert sorted(found) == [file.path for file in manifest.files]
    for file in manifest.files:
        hasher = file.hasher()
        hasher.update(found[file.path])
        assert (len(found[file.path]), hasher.hexdigest()) == (file.size, file.digest)
    said = document["annotations"]
    assert said["airfreight.dev/manifest-sha256"] == hashlib.sha256(manifest.canonical).hexdigest()
    assert said["airfreight.dev/recipe"].startswith("buildah/")
    assert said["airfreight.dev/base"] == site.base.partition("@")[2]

    assert main(["verify", first["artifact"], "--plain-http", "--result", str(tmp_path / "verified")]) == 0
    assert json.loads((tmp_path / "verified").read_text())["read_bytes"] == manifest.size

    code, output = site.run(site.example("again", build_words(site, version)))
    assert code == 0, output
    again = json.loads(output.splitlines()[-1])
    assert (again["artifact"], again["moved_bytes"], again["sent_bytes"]) == (first["artifact"], 0, 0)


def test_another_machine_builds_the_same_image(
    site: Site, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This host, as root with all capabilities, from a directory of its own.
    monkeypatch.setenv("HF_ENDPOINT", f"http://{site.cluster.node_ip}:30890")
    assert main(["copy", "hf://acme/pong@main", f"file://{tmp_path}/", "--result", str(tmp_path / "copied")]) == 0
    source, result = f"file://{tmp_path}/acme/pong/{version}/", tmp_path / "built"
    destination = f"oci://{site.cluster.registry}/{site.registry_path}/second/pong"
    words = ["build", source, destination, "--base", site.base, "--plain-http", "--result", str(result)]
    assert main(words) == 0
    first = Repository(
        OciImage(site.cluster.registry, f"{site.registry_path}/acme/pong"),
        RegistrySettings("/nonexistent/config.json", frozenset({site.cluster.registry})),
    ).resolve(version)
    assert json.loads(result.read_text())["image_digest"] == first


def test_a_policy_decides_which_bases_are_built_on(site: Site, version: str) -> None:
    policy = yaml.safe_load((EXAMPLES / "example-policy.yaml").read_text())
    policy["metadata"]["namespace"] = site.namespace
    where = site.base.rpartition("/")[0]
    text = policy["data"]["policy.json"]
    assert "registry.example/bases" in text
    policy["data"] = {"policy.json": text, "ours.json": text.replace("registry.example/bases", where)}
    site.apply(policy)

    def under(name: str) -> dict[str, Any]:
        words = build_words(site, version, "--policy", f"/policy/{name}.json")
        words[2] += f"policy-{name}:v1"  # a repository of its own: what is there is not built again
        pod = site.example(f"policy-{name}", words)
        pod["spec"]["containers"][0]["volumeMounts"].append({"name": "policy", "mountPath": "/policy"})
        volume = {"name": "policy", "configMap": {"name": policy["metadata"]["name"]}}
        pod["spec"]["volumes"].append(volume)
        return pod

    code, output = site.run(under("policy"))
    assert code == 2
    assert f"airfreight: The policy rejects the base {site.base} (" in output
    code, output = site.run(under("ours"))
    assert code == 0, output


def test_a_runtime_is_built_in_a_pod_and_the_same_twice(site: Site) -> None:
    lines = ["ARG BASE", "FROM ${BASE}", "USER 0:0", 'RUN ["sh", "-c", "echo ran > /ran"]', "USER 1000:0", ""]
    recipe = {"Containerfile": "\n".join(lines)}
    named = {"name": "recipe", "namespace": site.namespace}
    site.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": recipe})
    destination = f"oci://{site.cluster.registry}/{site.registry_path}/runtime"

    def pod(name: str, *, confined: bool) -> dict[str, Any]:
        words = ["runtime", "build", destination, "--context", "/recipe", "--base-arg", f"BASE={site.base}"]
        made = site.example(name, words)
        container = made["spec"]["containers"][0]
        if not confined:
            del container["securityContext"]["seccompProfile"]
        container["volumeMounts"].append({"name": "recipe", "mountPath": "/recipe"})
        made["spec"]["volumes"].append({"name": "recipe", "configMap": {"name": "recipe"}})
        return made

    results = []
    for name in ("runtime-1", "runtime-2"):
        code, output = site.run(pod(name, confined=False))
        assert code == 0, output
        results.append(json.loads(output.splitlines()[-1]))
    assert results[0]["image"] == results[1]["image"]
    assert results[0]["bases"] == [site.base]
    code, output = site.run(pod("runtime-3", confined=True))
    assert code == 2
    assert "A RUN line needs a user namespace" in output
