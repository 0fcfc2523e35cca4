"""`airfreight deploy`, `stop` and `doctor` as commands: what is refused beforehand, results and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airfreight import doctor
from airfreight.cli import main
from airfreight.doctor import Check, State

DEPLOY = {
    "--name": "pong",
    "--namespace": "models",
    "--artifact": "s3://llm-models/acme/pong/3b1f9d2c4a5e/",
    "--source": "hf://acme/pong@3b1f9d2c",
    "--served-name": "pong",
    "--serving": '{"runtime": "airfreight-vllm-cpu-000000000000"}',
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--serving", "{", "--serving is no JSON ("),
        ("--serving", "[]", "--serving is no JSON object; write it like '{\"gpus\": 1}'."),
        ("--serving", "{}", "serving: runtime: no ServingRuntime is named and the site has no default; name one."),
        ("--serving", '{"gpu": 1}', 'serving: gpu: there is no such field; did you mean "gpus"?'),
        ("--manifest-sha256", "abc", "--manifest-sha256 abc is no sha256; write its 64 hex digits."),
        ("--artifact", "s3://llm-models/acme/pong/v1", "does not end in a slash"),
        ("--artifact", "oci://registry/pong:v1", "is not pinned"),
        ("--name", "Pong", '"Pong" cannot name an InferenceService'),
        ("--namespace", "a/b", '"a/b" cannot name a namespace'),
        ("--served-name", "pong", "There is no cluster to talk to"),
    ],
)
def test_a_wrong_request_ends_with_2(
    option: str, value: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = tmp_path / "return.json"
    words = [word for pair in (DEPLOY | {option: value}).items() for word in pair]
    assert main(["deploy", *words, "--result", str(result)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("airfreight: ") and "Traceback" not in said
    assert not result.exists()


@pytest.mark.parametrize("command", ["stop", "resume"])
def test_a_wrong_name_is_refused_before_the_cluster_is_asked(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--name", "Pong", "--namespace", "models"]) == 2
    assert '"Pong" cannot name an InferenceService' in capsys.readouterr().err


def examined(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> list[Any]:
    """Let the doctor see `checks`; returns what it was asked with."""
    from airfreight.cluster import Cluster

    asked: list[Any] = []

    def examine(cluster: object, place: object, check_store: object) -> list[Check]:
        asked.append((place, check_store))
        return list(checks)

    monkeypatch.setattr(doctor, "examine", examine)
    monkeypatch.setattr(Cluster, "connect", lambda **_: None)
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    return asked


def test_a_healthy_cluster_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    seen = (Check("a", State.OK, "fine"), Check("b", State.UNSEEN, "may not look"))
    asked = examined(monkeypatch, *seen)
    result = tmp_path / "doctor.json"
    assert main(["doctor", "--target-namespace", "team-a", "--result", str(result)]) == 0
    assert capsys.readouterr().out.splitlines() == ["ok       a: fine", "unseen   b: may not look"]
    assert json.loads(result.read_text())["ok"] is True
    assert asked == [(doctor.Place("airfreight", "team-a"), None)], "without AWS_* nobody can look at the bucket"


def test_a_missing_thing_ends_with_2_and_the_result_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    examined(monkeypatch, Check("a", State.OK, "fine"), Check("b", State.MISSING, "not there", "make it"))
    result = tmp_path / "doctor.json"
    assert main(["doctor", "--result", str(result)]) == 2
    streams = capsys.readouterr()
    assert "missing  b: not there; make it" in streams.out
    assert "1 of 2 checks failed (b); see their remedies above." in streams.err
    assert json.loads(result.read_text())["missing"] == ["b"]


def test_a_bucket_is_looked_at_when_the_environment_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = examined(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert main(["doctor"]) == 0
    assert callable(asked[0][1])
