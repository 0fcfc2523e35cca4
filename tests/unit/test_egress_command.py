"""`airfreight egress` and its control: what is made and removed, and what the verdict does to the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airfreight import cluster as cluster_module
from airfreight import egress_control
from airfreight.cli import main
from airfreight.cluster import NETWORK_POLICIES, Resource
from airfreight.egress import Site, policy, rules
from airfreight.egress_control import Control, run_control
from airfreight.errors import TemporaryError
from tests.unit.test_validation import Handler, Server, answer
from tests.unit.test_validation_gates import serving

ARTIFACT = "oci://registry/pong@sha256:1"
RELEASE = "a" * 12


class FakePods:
    """A cluster in which pods run at once; the probe under the policy sees `under`, the other one `without`."""

    def __init__(self, under: str = "blocked", without: str = "reached") -> None:
        self.seen = {"under": under, "without": without}
        self.made: list[tuple[str, str]] = []
        self.gone: list[tuple[str, str]] = []
        self.objects: dict[str, dict[str, Any]] = {}
        self.policy: dict[str, Any] | None = policy("pong", "models", ARTIFACT, Site())

    def create(self, resource: Resource, wanted: dict[str, Any]) -> dict[str, Any]:
        name = wanted["metadata"]["name"]
        self.made.append((resource.plural, name))
        self.objects[name] = wanted
        return wanted

    def delete(self, resource: Resource, namespace: str, name: str, uid: str = "") -> bool:
        self.gone.append((resource.plural, name))
        return True

    def get(self, resource: Resource, namespace: str, name: str) -> dict[str, Any] | None:
        if resource is NETWORK_POLICIES:
            return self.policy
        role = name.rpartition("-")[2]
        if role == "sink":
            return {"status": {"phase": "Running", "podIP": "10.0.0.9"}}
        ended = {"terminated": {"message": self.seen[role]}} if self.seen.get(role) else {}
        return {"status": {"containerStatuses": [{"state": ended}]}}

    def items(self, resource: Resource, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        return [
            {
                "metadata": {
                    "annotations": {"airfreight.dev/release": RELEASE}, "creationTimestamp": "2026-11-22T19:00:00Z",
                },
                "spec": {"dnsPolicy": "None"},
                "status": {"podIP": "10.0.0.7"},
            }
        ]  # fmt: skip


def test_the_control_is_made_with_the_models_rules_and_removed() -> None:
    cluster = FakePods()
    allowed = rules("s3://b/p/", Site("http://minio.minio.svc:9000"))
    assert run_control(cluster, "models", "worker@sha256:1", allowed) == Control(True, False)  # type: ignore[arg-type]
    assert [kind for kind, _ in cluster.made] == ["networkpolicies", "pods", "pods", "pods"]
    assert sorted(cluster.gone) == sorted(cluster.made)
    wall = cluster.objects[cluster.made[0][1]]
    assert wall["spec"]["egress"] == allowed
    under = next(one for name, one in cluster.objects.items() if name.endswith("-under"))
    assert wall["spec"]["podSelector"]["matchLabels"].items() <= under["metadata"]["labels"].items()
    assert "serving.kserve.io/inferenceservice" not in under["metadata"]["labels"], "it is no pod of the model"
    assert under["spec"]["automountServiceAccountToken"] is False and under["spec"]["securityContext"]["runAsNonRoot"]


def test_a_control_that_does_not_come_to_an_end_is_removed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_control, "WAIT_S", 0.0)
    cluster = FakePods(under="")
    with pytest.raises(TemporaryError, match="did not get ready within 0 s; look at its events"):
        run_control(cluster, "models", "worker", [], pause=lambda _: None)  # type: ignore[arg-type]
    assert sorted(cluster.gone) == sorted(cluster.made)


def test_the_probe_says_what_it_sees(tmp_path: Path) -> None:
    import socket
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as sink:
        port = sink.getsockname()[1]
        script = egress_control._PROBE.replace("8080", str(port)).replace("/dev/termination-log", str(tmp_path / "log"))
        subprocess.run([sys.executable, "-c", script, "127.0.0.1", "reached"], check=True, timeout=60)
    assert (tmp_path / "log").read_text() == "reached"
    subprocess.run([sys.executable, "-c", script, "127.0.0.1", "blocked"], check=True, timeout=60)
    assert (tmp_path / "log").read_text() == "blocked"


def run(cluster: FakePods, monkeypatch: pytest.MonkeyPatch, result: Path, *words: str) -> int:
    monkeypatch.setattr(cluster_module.Cluster, "connect", lambda **_: cluster)
    base = ["egress", "--name", "pong", "--namespace", "models", "--artifact", ARTIFACT, "--release", RELEASE]
    return main([*base, "--image", "worker", "--result", str(result), *words])


@pytest.mark.parametrize(
    ("asked", "words", "code", "verdict"),
    [
        ([], ["--lookups"], 0, "passed"),
        (["huggingface.co"], ["--lookups"], 4, "failed"),
        ([], [], 0, "not proven"),
        ([], ["--required"], 4, "not proven"),
    ],
    ids=["passed", "asked for the hub", "nobody looked", "and it is required"],
)
def test_the_verdict(
    asked: list[str], words: list[str], code: int, verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places: list[str] = []

    def lookups(handler: Handler) -> None:
        places.append(handler.path)
        answer(handler, 200, {"lookups": [{"name": name} for name in asked]})

    with serving(Server()) as server:
        server.models = lookups
        given = ["--lookups-url", server.url] if words == ["--lookups"] else words
        assert run(FakePods(), monkeypatch, tmp_path / "r.json", *given) == code
    assert json.loads((tmp_path / "r.json").read_text())["gate"]["verdict"] == verdict
    assert places == (["/lookups?client=10.0.0.7&since=1795374000"] if words == ["--lookups"] else [])


def test_without_its_policy_nothing_is_proven(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = FakePods()
    cluster.policy = None
    assert run(cluster, monkeypatch, tmp_path / "r.json") == 0
    assert "That nothing leaves is not proven: the pods are under no policy of ours." in capsys.readouterr().out


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "file:///etc/passwd"])
def test_a_list_that_cannot_be_read_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(FakePods(), monkeypatch, tmp_path / "r.json", "--lookups-url", url) == 2
    assert f"The list of lookups at {url} cannot be read (" in capsys.readouterr().err
