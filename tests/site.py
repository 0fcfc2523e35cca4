"""A target namespace on the embedded cluster, made as docs/install.md makes one, with the tiny model published as files
and as an image: for tests that serve something. Everything made here is removed by `remove`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import yaml

from airfreight.cli import main
from airfreight.cluster import INFERENCE_SERVICES, PODS, Cluster, Resource
from airfreight.observation import SERVICE_LABEL, Failed, Observation, Pending
from airfreight.readiness import Assessment, assess
from airfreight.runtime import pin
from devcluster import addons, control_plane, images, tenant
from devcluster.config import REPOSITORY
from devcluster.config import Cluster as Embedded
from devcluster.hub.publish import tiny_model

DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
Found = TypeVar("Found")
TARGET = REPOSITORY / "include" / "kubernetes" / "target"


class Site:
    """One namespace of the tests.

    Attributes:
        namespace: its name; also the prefix of everything published.
        files: of the tiny model, by path.
        runtime: name of the pinned ServingRuntime.
    """

    def __init__(self, embedded: Embedded, directory: Path) -> None:
        self.embedded = embedded
        self.directory = directory
        self.namespace = f"airfreight-test-{secrets.token_hex(3)}"
        self.cluster = Cluster.connect()
        # A node keeps the images of earlier runs, so a model of the same bytes might be there and need no pull.
        self.files = tiny_model(padding_mb=1) | {"README.md": f"# Pong of {self.namespace}\n".encode()}
        self.runtime = ""
        self.images: list[str] = []

    def make(self) -> None:
        """Make the namespace with all that a target has."""
        overlay = self.directory / "overlay"
        overlay.mkdir()
        relative = Path(*[".."] * (len(overlay.parts) - 1), *TARGET.parts[1:])  # kustomize takes no absolute path
        (overlay / "kustomization.yaml").write_text(f"resources: [{relative}]\nnamespace: {self.namespace}\n")
        self.kubectl("apply", "--server-side", "-k", str(overlay))
        found = json.loads(self.kubectl("get", "secret", "airfreight-store", "-n", tenant.TARGET, "-o", "json"))
        kept = {key: value for key, value in found["metadata"]["annotations"].items() if key.startswith("serving.")}
        found["metadata"] = {"name": "airfreight-store", "namespace": self.namespace, "annotations": kept}
        self.apply(found)
        pinned = pin(images.reference(self.embedded, "runtime-cpu"), "vllm-cpu", [], self.namespace)
        self.apply(pinned)
        self.runtime = pinned["metadata"]["name"]

    def remove(self) -> None:
        """Remove the namespace and what was published to the store and the registry."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._empty_store)
            stack.callback(self._empty_registry)
            self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def _empty_store(self) -> None:
        client = tenant.store_client(self.embedded)
        found = client.list_objects_v2(Bucket=tenant.BUCKET, Prefix=f"{self.namespace}/").get("Contents", [])
        for item in found:
            client.delete_object(Bucket=tenant.BUCKET, Key=item["Key"])

    def _empty_registry(self) -> None:
        """Delete the image manifests; docker-registry deletes no layers while it runs."""
        with httpx2.Client(trust_env=False, timeout=30) as client:
            for image in self.images:
                repository, _, digest = image.partition("/")[2].partition("@")
                client.delete(f"http://{self.embedded.registry}/v2/{repository}/manifests/{digest}")

    def kubectl(self, *words: str) -> str:
        return control_plane.kubectl(self.embedded, *words)

    def apply(self, thing: dict[str, Any]) -> None:
        addons.apply(self.embedded, yaml.safe_dump(thing))

    def source(self) -> str:
        """Write the model to a directory, readable by its owner alone, as safetensors does; returns its address."""
        directory = self.directory / "acme" / "pong"
        for path, data in self.files.items():
            file = directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            file.chmod(0o600)
        return f"file://{directory}/"

    def publish(self, base: str, below: str = "models") -> str:
        """Publish the model as an image on a base; returns the artifact."""
        root = f"oci://{self.embedded.registry}/{self.namespace}/{below}/"
        artifact = self._copy(root, "--base", base, "--plain-http")
        self.images.append(artifact.removeprefix("oci://"))
        return artifact

    def publish_alone(self) -> str:
        """Publish the model as an image that holds nothing else; returns the artifact."""
        artifact = self._copy(f"oci://{self.embedded.registry}/{self.namespace}/alone/", "--plain-http")
        self.images.append(artifact.removeprefix("oci://"))
        return artifact

    def publish_files(self) -> str:
        """Publish the model into the store; returns the artifact."""
        return self._copy(f"s3://{tenant.BUCKET}/{self.namespace}/")

    def _copy(self, destination: str, *more: str) -> str:
        result = self.directory / "copy.json"
        code = main(["copy", self.source(), destination, *more, "--result", str(result)])
        assert code == 0, f"copy to {destination} ended with {code}"
        return str(json.loads(result.read_text())["artifact"])

    def run(
        self, command: str, name: str, artifact: str, *more: str, cpu: str = "40m", memory: str = "512Mi"
    ) -> tuple[int, dict[str, Any]]:
        """Run deploy, smoke or render; returns the exit code and the result.

        Args:
            cpu, memory: limits. Those by default let the server's container run, and not the server come up.
        """
        result = self.directory / f"{name}.json"
        result.unlink(missing_ok=True)
        serving = json.dumps({"runtime": self.runtime, "cpu": cpu, "memory": memory})
        code = main(
            [
                command, "--name", name, "--namespace", self.namespace, "--artifact", artifact, "--source", "file:///x/",
                "--served-name", "pong", "--serving", serving, "--plain-http",
                "--size-bytes", str(sum(map(len, self.files.values()))), "--result", str(result), *more,
            ]
        )  # fmt: skip
        return code, json.loads(result.read_text()) if result.exists() else {}

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.cluster.items(PODS, self.namespace, f"{SERVICE_LABEL}={name}")

    def verdict(self, name: str, release: str) -> Assessment:
        """Judge a release as the sensor does."""
        observation = Observation(
            self.cluster.get(INFERENCE_SERVICES, self.namespace, name),
            self.cluster.get(DEPLOYMENTS, self.namespace, f"{name}-predictor"),
            self.pods(name),
        )
        return assess(observation, release, datetime.now(UTC))

    def end(self, name: str, release: str, seconds: float) -> Assessment:
        """Wait until a release is ready or lost."""
        waits: list[Assessment] = []

        def look() -> Assessment | None:
            waits[:] = [self.verdict(name, release)]
            return None if isinstance(waits[0], Pending) else waits[0]

        try:
            return until(f"{name} to come to an end", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {waits}") from None

    def run_in_server(self, name: str, *words: str) -> str:
        """Run a command in the model server's container, as its user."""
        return self.kubectl(
            "exec", "-n", self.namespace, f"deploy/{name}-predictor", "-c", "kserve-container", "--", *words
        )

    def delete(self, name: str) -> None:
        self.kubectl("delete", "inferenceservice", "-n", self.namespace, name, "--ignore-not-found")


def until(what: str, look: Callable[[], Found | None], seconds: float) -> Found:
    """Return what `look` finds; asked every half second, because the API has no event for it.

    Raises:
        AssertionError: nothing within `seconds`.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def sentence_of(verdict: Assessment) -> str:
    assert isinstance(verdict, Failed), verdict
    return verdict.sentence
