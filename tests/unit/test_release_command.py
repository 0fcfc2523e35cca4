"""`airfreight register | stage | promote | roll-back | releases` as commands: refusals, and whole runs.

The ledger lies in a directory, the cluster in memory.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airfreight import cluster as cluster_module
from airfreight import deployment, pulling, served_model
from airfreight.cli import main
from airfreight.delivery import NOTHING_KNOWN
from airfreight.errors import RequestError
from airfreight.observation import is_stopped
from airfreight.prepull import Pulled
from airfreight.smoke import Check
from tests.unit.fake_cluster import FakeCluster

RUNTIME = "airfreight-vllm-cpu-000000000000"


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCluster:
    made = FakeCluster()
    runtime = {"apiVersion": "serving.kserve.io/v1alpha1", "kind": "ServingRuntime", "spec": {"containers": []}}
    made.objects[("ServingRuntime", RUNTIME)] = {**runtime, "metadata": {"name": RUNTIME}}
    monkeypatch.setattr(cluster_module.Cluster, "connect", lambda **_: made)
    monkeypatch.setattr(deployment, "ask", lambda *_: (NOTHING_KNOWN, 0))
    monkeypatch.setattr(deployment, "check", lambda *_: None)
    monkeypatch.setattr(deployment, "check_room", lambda *_: None)
    monkeypatch.setattr(deployment, "rehearse", lambda *_, **__: deployment.Rehearsal({}))
    monkeypatch.setattr(served_model.ServedModel, "_chat", lambda *_: None)
    monkeypatch.setenv("AIRFREIGHT_LEDGER", f"file://{tmp_path}/")
    return made


class Commands:
    """Runs commands, and reads what they wrote."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "return.json"

    def __call__(self, command: str, *words: str, run: str = "run-1", name: str = "pong") -> dict[str, Any]:
        assert self.code(command, *words, run=run, name=name) == 0
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    def code(self, command: str, *words: str, run: str = "run-1", name: str = "pong") -> int:
        runs = [] if command == "releases" else ["--run", run]
        where = ["--name", name, "--namespace", "models", "--result", str(self.file)]
        return main([command, *where, *runs, *words])

    def register(self, version: str, run: str = "run-1", *words: str) -> dict[str, Any]:
        return self("register", *self.words(version), *words, run=run)

    @staticmethod
    def words(version: str) -> list[str]:
        serving = json.dumps({"runtime": RUNTIME})
        artifact = f"s3://llm-models/acme/pong/{version}/"
        source = f"hf://acme/pong@{version}"
        return ["--artifact", artifact, "--source", source, "--served-name", "acme/pong", "--serving", serving]


@pytest.fixture
def run(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def test_a_run_from_register_to_promote(kube: FakeCluster, run: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    registered = run.register("one")
    release = registered["release"]
    assert registered["state"] == "candidate" and registered["served_name"] == "acme/pong"
    assert kube.log == [], "nothing that serves is touched yet"
    staged = run("stage", "--release", release)
    assert staged["changed"] and staged["url"] == "http://pong-predictor.models.svc.cluster.local"
    assert run("promote", "--release", release, "--evidence", '{"gates": []}')["state"] == "live"
    listed = run("releases")
    assert [(one["release"], one["state"]) for one in listed["releases"]] == [(release, "live")]
    assert listed["locked_by"] is None
    shown = capsys.readouterr().out
    assert f"Release {release} of pong in namespace models is live." in shown
    assert f"{release}  live   " in shown


def test_a_run_that_is_rolled_back_and_one_that_is_asked_back(kube: FakeCluster, run: Commands) -> None:
    first = run.register("one")["release"]
    run("stage", "--release", first)
    run("promote", "--release", first)
    second = run.register("two", "run-2")["release"]
    run("stage", "--release", second, run="run-2")
    done = run("roll-back", "--cause", "too slow", run="run-2")
    assert (done["done"], done["restored"], done["rejected"], done["cause"]) == ("restored", first, second, "too slow")
    assert kube.serving == first
    third = run.register("three", "run-3")["release"]
    run("stage", "--release", third, run="run-3")
    run("promote", "--release", third, run="run-3")
    back = run("roll-back", "--to", "previous", "--cause", "rude", run="me")
    assert (back["restored"], back["over"], back["source"]) == (first, third, "hf://acme/pong@one")
    states = {one["release"]: (one["state"], one["cause"]) for one in run("releases")["releases"]}
    assert states[first] == ("live", "rude") and states[second] == ("rejected", "too slow")


def test_a_second_run_is_refused_and_a_dead_one_unlocked(
    kube: FakeCluster, run: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    run.register("one", "dead")
    assert run.code("register", *run.words("two"), "--if-busy", "refuse", run="next") == 2
    assert "Another run (dead) is changing pong in namespace models" in capsys.readouterr().err
    assert run("releases")["locked_by"] == "dead"
    assert run.code("releases", "--unlock", "somebody") == 2
    assert "is not locked by somebody, but by dead" in capsys.readouterr().err
    assert run("releases", "--unlock", "dead")["locked_by"] is None
    run.register("two", "next", "--if-busy", "refuse")


def test_what_the_cluster_refuses_lets_the_lock_go(
    kube: FakeCluster, run: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    kube.refused = "The cluster refuses to apply InferenceService pong: no."
    assert run.code("register", *run.words("one")) == 2
    assert "The cluster refuses" in capsys.readouterr().err
    assert run("releases")["locked_by"] is None


@pytest.mark.parametrize("at", ["check", "check_room", "rehearse"])
def test_what_is_found_before_the_live_pod_is_touched_lets_the_lock_go(
    kube: FakeCluster, run: Commands, at: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RequestError("No node has room on its disk; make some.")

    monkeypatch.setattr(deployment, at, refuse)
    assert run.code("register", *run.words("one"), "--stage") == 2
    assert "No node has room on its disk; make some." in capsys.readouterr().err
    assert kube.log == []
    assert run("releases") == {"releases": [], "locked_by": None}


def test_an_image_that_cannot_be_pulled_is_never_registered(
    kube: FakeCluster, run: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RequestError("pong on n1: the image x of kserve-container cannot be pulled (not found); correct it.")

    monkeypatch.setattr(pulling, "pull_ahead", refuse)
    assert run.code("register", *run.words("one"), "--stage") == 2
    assert "of kserve-container cannot be pulled (not found)" in capsys.readouterr().err
    assert kube.log == []
    assert run("releases") == {"releases": [], "locked_by": None}


UNPROVEN = "The registry r.example gives it to nobody without a login; make Secret airfreight-pull."


@pytest.mark.parametrize("pulled", [[], [Pulled("registry.example/vllm@sha256:1", "n1", 1.0)]])
def test_what_runs_is_not_changed_for_an_image_that_no_node_could_be_asked_to_pull(
    kube: FakeCluster,
    run: Commands,
    pulled: list[Pulled],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = f"r.example/pong@sha256:{'1' * 64}"
    words = ["--artifact", f"oci://{image}", "--delivery", "oci", *run.words("two")[2:], "--stage"]
    monkeypatch.setattr(deployment, "ask", lambda *_: (replace(NOTHING_KNOWN, unproven=UNPROVEN), 0))
    monkeypatch.setattr(pulling, "pull_ahead", lambda *_: pulled)
    first = run("register", *words)["release"]
    run("promote", "--release", first)
    other = [word.replace("1" * 64, "2" * 64) for word in words]
    log = list(kube.log)
    assert run.code("register", *other, run="run-2") == 2
    assert (
        "make Secret airfreight-pull; or, where the nodes have a login of their own, mend what kept them from pulling "
        "it beforehand, as the log says, or stop the model first, for pong runs and is not touched before a node has "
        "shown that it gets the image."
    ) in capsys.readouterr().err
    assert kube.log == log and run("releases")["locked_by"] is None
    pulled.append(Pulled(image.replace("1" * 64, "2" * 64), "n1", 1.0))
    run("register", *other, run="run-3")


def test_images_are_pulled_for_what_starts_a_pod_and_told(
    kube: FakeCluster, run: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def pull(cluster: object, pod: object, model: str, nodes: object, say: object, clock: object) -> list[Pulled]:
        asked.append((pod, model, nodes))
        return [Pulled("registry/vllm@sha256:1", "n1", 12.04)]

    def rehearse(cluster: FakeCluster, plan: deployment.Plan, *, take_over: bool) -> deployment.Rehearsal:
        applied = cluster.apply(plan.object, dry_run=True)
        return deployment.Rehearsal(applied.object, pod={"kind": "Pod"}, changed=applied.changed)

    monkeypatch.setattr(pulling, "pull_ahead", pull)
    monkeypatch.setattr(deployment, "rehearse", rehearse)
    looked: list[object] = []
    monkeypatch.setattr(deployment, "check_room", lambda *words: looked.append(words) or ["n1"])
    first = run.register("one", "run-1", "--stage")
    assert asked == [({"kind": "Pod"}, "pong", ["n1"])]
    assert first["prepulled"] == [{"image": "registry/vllm@sha256:1", "node": "n1", "seconds": 12.0}]
    run("promote", "--release", first["release"])
    assert run.register("one", "run-2", "--stage")["prepulled"] == [] and len(asked) == 1, "no pod starts"
    assert len(looked) == 1, "nor does anybody need room"
    run("promote", "--release", first["release"], run="run-2")
    kube.set_stopped("models", "pong", True)
    run.register("one", "run-3", "--stage")
    assert len(asked) == 2, "it is started for its gates, on a node that nobody knows yet"
    assert len(looked) == 2


def test_a_promote_that_is_tried_again_is_found_done(kube: FakeCluster, run: Commands) -> None:
    release = run.register("one", "run-1", "--stage")["release"]
    first = run("promote", "--release", release)
    assert run("promote", "--release", release) == first


def test_what_a_killed_run_left_is_undone_by_the_next_one_that_is_refused(
    kube: FakeCluster, run: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run.register("one", "run-1", "--stage")["release"]
    run("promote", "--release", first)
    second = run.register("two", "dead", "--stage")["release"]
    run("releases", "--unlock", "dead")

    def refuse(*_: object, **__: object) -> None:
        raise RequestError("No node has room on its disk; make some.")

    monkeypatch.setattr(deployment, "check", refuse)
    assert run.code("register", *run.words("three"), "--stage", run="next") == 2
    assert f"What dead tried here ({second}) is still to be undone: airfreight roll-back" in capsys.readouterr().out
    assert kube.serving == second, "nothing is touched by a run that is refused"
    done = run("roll-back", "--cause", "no room", run="next")
    assert (done["restored"], kube.serving) == (first, first)
    listed = {one["release"]: (one["state"], one["cause"]) for one in run("releases")["releases"]}
    assert listed[second] == ("rejected", "Its run (dead) ended before its gates did.")
    assert run("releases")["locked_by"] is None


def test_a_pod_that_would_be_wrong_is_never_registered(
    kube: FakeCluster, run: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = deployment.Rehearsal({}, [Check("mount", False, "no /mnt/models")])
    monkeypatch.setattr(deployment, "rehearse", lambda *_, **__: wrong)
    assert run.code("register", *run.words("one"), "--stage") == 4
    streams = capsys.readouterr()
    assert "no /mnt/models" in streams.out
    assert "KServe would not make the right pod for delivery s3 of pong (mount: no /mnt/models)" in streams.err
    assert kube.log == []
    assert run("releases") == {"releases": [], "locked_by": None}


def test_register_and_stage_in_one_command(kube: FakeCluster, run: Commands) -> None:
    first = run.register("one", "run-1", "--stage")
    assert kube.log == [f"apply InferenceService {first['release']}"]
    assert (first["changed"], first["woken"], first["state"], first["over"]) == (True, False, "candidate", None)
    assert (first["delivery"], first["served_name"]) == ("s3", "acme/pong")
    assert first["url"] == "http://pong-predictor.models.svc.cluster.local"
    live = run("promote", "--release", first["release"])
    assert (live["over"], live["source"], live["artifact"]) == (
        None, "hf://acme/pong@one", "s3://llm-models/acme/pong/one/",
    )  # fmt: skip
    again = run.register("one", "run-2", "--stage")
    assert (again["state"], again["changed"], again["over"]) == ("live", False, first["release"])


def test_what_was_deployed_without_gates_can_be_delivered_again_later(kube: FakeCluster, run: Commands) -> None:
    """The ledger knows it as the cluster had it; its id stands for its content."""
    ungated = ["--name", "pong", "--namespace", "models", *run.words("one"), "--result", str(run.file)]
    assert main(["deploy", *ungated]) == 0
    first = json.loads(run.file.read_text())["release"]
    second = run.register("two", "run-2", "--stage")
    assert second["over"] == first
    run("promote", "--release", second["release"], run="run-2")
    again = run.register("one", "run-3", "--stage")
    assert (again["release"], again["state"], again["served_name"]) == (first, "candidate", "acme/pong")
    assert run("promote", "--release", first, run="run-3")["over"] == second["release"]
    assert kube.serving == first


def test_a_stopped_model_is_woken_for_its_gates_and_stopped_after_them(kube: FakeCluster, run: Commands) -> None:
    first = run.register("one", "run-1", "--stage")["release"]
    run("promote", "--release", first)
    kube.set_stopped("models", "pong", True)
    second = run.register("two", "run-2", "--stage")
    assert second["was_stopped"] and second["woken"]
    assert run("promote", "--release", second["release"], run="run-2")["stopped"] is True
    assert kube.service is not None and is_stopped(kube.service)


def test_with_egress_the_policy_comes_with_the_release(kube: FakeCluster, run: Commands) -> None:
    words = ("--egress", "--store-url", "http://minio.minio.svc:9000", "--resolver", "10.96.0.53")
    release = run.register("one", "run-1", *words)["release"]
    run("stage", "--release", release)
    assert kube.log == ["apply NetworkPolicy airfreight-egress-pong", f"apply InferenceService {release}"]
    assert kube.service is not None
    assert kube.service["spec"]["predictor"]["dnsConfig"]["nameservers"] == ["10.96.0.53"]
    run("roll-back", "--cause", "x")
    assert ("NetworkPolicy", "airfreight-egress-pong") not in kube.objects and kube.service is None


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        ("register", ["--if-busy", "maybe"], "--if-busy is 'maybe'; write wait or refuse."),
        ("register", ["--evidence", "["], "--evidence is no JSON ("),
        ("register", ["--evidence", "[]"], "--evidence is no JSON object"),
        ("register", ["--serving", "{}"], "no ServingRuntime is named and the site has no default"),
        ("register", ["--egress", "--resolver", "dns"], "dns is no IP address of a resolver"),
        ("stage", ["--release", "0" * 12], "does not hold pong in namespace models any more"),
        ("promote", ["--release", "0" * 12], "does not hold pong in namespace models any more"),
        ("roll-back", ["--to", "latest"], "'latest' is no release: give its 12 hex digits"),
        ("roll-back", ["--to", "previous"], "pong in namespace models has no earlier release"),
        ("roll-back", ["--to", "0" * 12], "There is no release 000000000000 of pong"),
    ],
)
def test_a_wrong_request_ends_with_2(
    kube: FakeCluster, run: Commands, command: str, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run.words("one") if command == "register" else []
    assert run.code(command, *first, *words) == 2
    assert sentence in capsys.readouterr().err
    assert kube.log == []


def test_without_a_ledger_it_says_how_to_name_one(
    kube: FakeCluster, run: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AIRFREIGHT_LEDGER")
    assert run.code("releases") == 2
    assert "No release ledger is named" in capsys.readouterr().err


def test_a_wrong_name_is_refused_before_anything_is_asked(run: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("releases", "roll-back"):
        assert run.code(command, name="Pong") == 2
        assert '"Pong" cannot name an InferenceService' in capsys.readouterr().err
