"""`airfreight egress` and its control: what is made and removed, and what the verdict does to the exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airfreight import cluster as cluster_module
from airfreight import egress_control
from airfreight.cli import main
from airfreight.cluster import NETWORK_POLICIES, Resource
from airfreight.commands.egress import lookups_place
from airfreight.egress import LOOKUPS_PORT, Site, policy, rules
from airfreight.egress_control import Control, run_control
from airfreight.errors import RequestError, TemporaryError
from tests.unit.test_validation import Handler, Server, answer
from tests.unit.test_validation_gates import serving

ARTIFACT = "oci://registry/pong@sha256:1"
RELEASE = "a" * 12
MADE, MADE_S = "2026-11-22T19:00:00Z", 1795374000
RESOLVER = "10.96.0.53"


class FakePods:
    """A cluster in which pods run at once; the probe under the policy sees `under`, the other one `without`."""

    def __init__(self, under: str = "blocked", without: str = "reached") -> None:
        self.seen = {"under": under, "without": without}
        self.waiting: dict[str, Any] = {}
        self.made: list[tuple[str, str]] = []
        self.gone: list[tuple[str, str]] = []
        self.objects: dict[str, dict[str, Any]] = {}
        self.policy: dict[str, Any] | None = policy("pong", "models", ARTIFACT, Site())
        self.refusal: Exception | None = None
        self.others: list[dict[str, Any]] = []
        self.blind = False
        self.servers: list[dict[str, Any]] = [pod("10.0.0.7")]

    def create(self, resource: Resource, wanted: dict[str, Any]) -> dict[str, Any]:
        if self.refusal:
            raise self.refusal
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
        seen = self.seen[name.rpartition("-")[2]]
        state = {"terminated": {"message": seen, "reason": "Completed"}} if seen else {"waiting": self.waiting}
        return {"status": {"containerStatuses": [{"state": state}]}}

    def items(self, resource: Resource, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        if resource is NETWORK_POLICIES:
            if self.blind:
                raise RequestError("It may not list networkpolicies; apply X.")
            return [*([self.policy] if self.policy else []), *self.others]
        assert selector == "serving.kserve.io/inferenceservice=pong"
        return self.servers


def foreign(egress: list[Any], **selector: Any) -> dict[str, Any]:
    """Somebody else's policy."""
    return {"metadata": {"name": "theirs"}, "spec": {"podSelector": selector, "egress": egress}}


def pod(address: str, release: str = RELEASE, dns: str = "None") -> dict[str, Any]:
    """A pod of the model."""
    return {
        "metadata": {
            "name": "pong-1", "annotations": {"airfreight.dev/release": release}, "creationTimestamp": MADE,
            "labels": {"component": "predictor"},
        },
        "spec": {"dnsPolicy": dns},
        "status": {"podIP": address} if address else {},
    }  # fmt: skip


# ---- the control -------------------------------------------------------------------------------------------------


def controlled(cluster: FakePods, allowed: list[dict[str, Any]] | None = None) -> Control:
    return run_control(cluster, "models", "worker@sha256:1", allowed or [], RESOLVER, pause=lambda _: None)  # type: ignore[arg-type]


def test_the_control_is_made_with_the_models_rules_and_removed() -> None:
    cluster = FakePods()
    allowed = rules("s3://b/p/", Site("http://minio.minio.svc:9000"))
    assert controlled(cluster, allowed) == Control(True, False)
    assert [kind for kind, _ in cluster.made] == ["networkpolicies", "pods", "pods"]
    assert sorted(cluster.gone) == sorted(cluster.made)
    wall = cluster.objects[cluster.made[0][1]]
    assert wall["spec"]["egress"] == allowed
    under, without = (
        next(one for name, one in cluster.objects.items() if name.endswith(f"-{role}")) for role in ("under", "without")
    )
    wanted = wall["spec"]["podSelector"]["matchLabels"].items()
    assert wanted <= under["metadata"]["labels"].items()
    assert not wanted <= without["metadata"]["labels"].items()
    assert "serving.kserve.io/inferenceservice" not in under["metadata"]["labels"], "it is no pod of the model"
    assert under["spec"]["automountServiceAccountToken"] is False and under["spec"]["securityContext"]["runAsNonRoot"]
    assert under["spec"]["serviceAccountName"] == "airfreight-model", "whose login pulls the image"
    assert [one["spec"]["containers"][0]["command"][-2:] for one in (under, without)] == [
        [RESOLVER, "blocked"],
        [RESOLVER, "reached"],
    ]


def test_no_models_rules_allow_what_the_probes_try_to_reach() -> None:
    for site in (Site(), Site("http://minio.minio.svc.cluster.local:9000", "airfreight", resolver=RESOLVER)):
        for rule in rules("s3://b/p/", site):
            assert LOOKUPS_PORT not in [port["port"] for port in rule["ports"]]


@pytest.mark.parametrize(
    ("under", "waiting", "sentence"),
    [
        ("", {}, "did not come to its end within 0 s; look at its events."),
        (
            "",
            {"reason": "ImagePullBackOff", "message": "no such\n image"},
            "The control's pod cannot start (ImagePullBackOff: no such image); let the nodes of the model's namespace "
            "pull the worker's image.",
        ),
        (
            "it could not tell",
            {},
            "The control's probe ended without a verdict (it could not tell); run it again, with an image that has "
            "python3.",
        ),
    ],
    ids=["for ever", "no image", "no verdict"],
)
def test_a_control_that_cannot_be_run_is_removed_too(
    under: str, waiting: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_control, "WAIT_S", 0.0 if not waiting else 9.0)
    cluster = FakePods(under=under)
    cluster.waiting = waiting
    with pytest.raises(RequestError) as caught:
        controlled(cluster)
    assert sentence in caught.value.message
    assert sorted(cluster.gone) == sorted(cluster.made)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int, str], str]:
    """Runs the probe's own program against a port of this machine; returns what it says."""

    def run(port: int, want: str) -> str:
        log = tmp_path / "log"
        script = egress_control._PROBE.replace(str(LOOKUPS_PORT), str(port)).replace("/dev/termination-log", str(log))
        words = [sys.executable, "-I", "-S", "-c", script.replace("+ 20", "+ 1.2"), "127.0.0.1", want]
        subprocess.run(words, check=True, timeout=60)
        return log.read_text()

    return run


def test_the_probe_says_what_it_sees(probe: Callable[[int, str], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sink:
        port = sink.getsockname()[1]
        assert probe(port, "reached") == "reached"
        assert probe(port, "blocked") == "reached", "after the whole time a policy may take"
    assert probe(port, "blocked") == "blocked"
    assert probe(port, "reached") == "blocked"


# ---- the command -------------------------------------------------------------------------------------------------


def run(cluster: FakePods, monkeypatch: pytest.MonkeyPatch, result: Path, *words: str) -> int:
    monkeypatch.setattr(cluster_module.Cluster, "connect", lambda **_: cluster)
    base = ["egress", "--name", "pong", "--namespace", "models", "--artifact", ARTIFACT, "--release", RELEASE]
    return main([*base, "--image", "worker", "--resolver", RESOLVER, "--result", str(result), *words])


def listing(*names: str, remembers: float = 0.0) -> Callable[[Handler], None]:
    """What our resolver answers."""
    return lambda handler: answer(handler, 200, {"remembers": remembers, "lookups": [{"name": name} for name in names]})


@pytest.mark.parametrize(
    ("asked", "words", "code", "verdict"),
    [
        ([], [], 0, "passed"),
        ([], ["--required"], 0, "passed"),
        (["huggingface.co"], [], 4, "failed"),
    ],
    ids=["passed", "and it is required", "asked for the hub"],
)
def test_the_verdict(
    asked: list[str], words: list[str], code: int, verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places: list[str] = []

    def lookups(handler: Handler) -> None:
        places.append(handler.path)
        listing(*asked)(handler)

    with serving(Server()) as server:
        server.models = lookups
        assert run(FakePods(), monkeypatch, tmp_path / "r.json", "--lookups-url", server.url, *words) == code
    assert json.loads((tmp_path / "r.json").read_text())["gate"]["verdict"] == verdict
    assert places == [f"/lookups?client=10.0.0.7&since={MADE_S}"]


NOT_PROVEN = "That nothing leaves is not proven: "


@pytest.mark.parametrize(
    ("change", "remembers", "why"),
    [
        (lambda cluster: setattr(cluster, "policy", None), 0.0, "the pods are not under the policy of their release"),
        (
            lambda cluster: setattr(cluster, "refusal", RequestError("It may not create pods; apply X.")),
            0.0,
            "the control could not be run; it may not create pods; apply X.",
        ),
        (lambda cluster: cluster.seen.update(under="reached"), 0.0, "this cluster does not enforce NetworkPolicies"),
        (lambda cluster: cluster.servers[0]["spec"].pop("dnsPolicy"), 0.0, "the pods do not ask our resolver"),
        (
            lambda cluster: setattr(cluster, "blind", True),
            0.0,
            "the policies of others cannot be seen; it may not list",
        ),
        (
            lambda cluster: cluster.others.append(foreign([{}], matchLabels={"component": "predictor"})),
            0.0,
            "NetworkPolicy theirs allows these pods something too, and policies add up; let it select other pods.",
        ),
        (lambda cluster: cluster.servers.clear(), 0.0, f"release {RELEASE} has no pod; look at it while one runs."),
        (
            lambda cluster: None,
            MADE_S + 1.0,
            "our resolver remembers nothing from before 19:00:01 UTC, and pod pong-1 is older; delete it and run this "
            "again.",
        ),
    ],
    ids=["no policy", "no right", "no engine", "another DNS", "no list", "another policy", "no pod", "a new resolver"],
)
@pytest.mark.parametrize("required", [False, True])
def test_what_cannot_be_seen_is_not_proven_and_fails_where_it_is_required(
    change: Callable[[FakePods], object], remembers: float, why: str, required: bool,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cluster = FakePods()
    change(cluster)
    words = ["--required"] if required else []
    with serving(Server()) as server:
        server.models = listing(remembers=remembers)
        code = run(cluster, monkeypatch, tmp_path / "r.json", "--lookups-url", server.url, *words)
    assert code == (4 if required else 0)
    gate = json.loads((tmp_path / "r.json").read_text())["gate"]
    assert gate["verdict"] == "not proven"
    assert gate["sentence"].startswith(f"{NOT_PROVEN}{why}")
    shown = capsys.readouterr()
    assert gate["sentence"] in (shown.err if required else shown.out)
    assert set(cluster.made) <= set(cluster.gone)


def test_only_the_releases_own_pods_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = FakePods()
    cluster.servers = [pod("10.0.0.7"), pod("10.0.0.8", release="b" * 12, dns="ClusterFirst"), pod("")]
    clients: list[str] = []
    with serving(Server()) as server:

        def lookups(handler: Handler) -> None:
            clients.append(handler.path.partition("client=")[2].partition("&")[0])
            listing()(handler)

        server.models = lookups
        assert run(cluster, monkeypatch, tmp_path / "r.json", "--lookups-url", server.url) == 0
    assert clients == ["10.0.0.7"], "what has no address has asked for nothing"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "file:///etc/passwd"])
def test_a_list_that_cannot_be_read_proves_nothing(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(FakePods(), monkeypatch, tmp_path / "r.json", "--lookups-url", url) == 0
    said = json.loads((tmp_path / "r.json").read_text())["gate"]["sentence"]
    assert said.startswith(f"{NOT_PROVEN}the list of lookups at {url} cannot be read (")
    assert said.endswith("; let this pod reach our resolver, and look whether it runs.")


def test_an_answer_that_is_none_is_no_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(Server()) as server:
        server.models = lambda handler: answer(handler, 200, {"lookups": []})
        assert run(FakePods(), monkeypatch, tmp_path / "r.json", "--lookups-url", server.url) == 0
    assert "cannot be read (" in json.loads((tmp_path / "r.json").read_text())["gate"]["sentence"]


def test_an_api_server_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = FakePods()
    cluster.refusal = TemporaryError("The Kubernetes API server cannot do it now; try again.")
    assert run(cluster, monkeypatch, tmp_path / "r.json", "--lookups-url", "http://127.0.0.1:1") == 75
    assert not (tmp_path / "r.json").exists()


def test_the_list_is_at_the_resolvers_address() -> None:
    assert lookups_place("10.96.0.53") == "http://10.96.0.53:8053"
    assert lookups_place("fd00::53") == "http://[fd00::53]:8053"
