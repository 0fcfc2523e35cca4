"""Patterns, refusals and the plan, the whole way: stand-in hub to a real MinIO, with the words the DAG uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airfreight.cli import main
from devcluster.hub.repository import Library
from devcluster.hub.server import HubServer
from tests.integration.conftest import Minio

pytestmark = pytest.mark.integration

WEIGHTS = bytes(range(256)) * 4096
SAFE = {"config.json": b"{}", "model.safetensors": WEIGHTS, "original/params.json": b"{}"}
PICKLES = {"pytorch_model.bin": b"pickled", "training_args.bin": b"pickled"}
REASON = "our own training, reviewed by Ada"


@dataclass(frozen=True)
class Line:
    """The command line in the environment of a publisher pod."""

    hub: HubServer
    minio: Minio
    bucket: str
    scratch: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """Run a command; return its exit code, its result (empty without one) and all that it said."""
        result = self.scratch / "result.json"
        result.unlink(missing_ok=True)
        code = main([*words, "--result", str(result)])
        said = self.capture.readouterr()
        return code, json.loads(result.read_text()) if result.exists() else {}, said.out + said.err

    def resolve(
        self, model: str, allow: str = "", ignore: str = "", unsafe: str = ""
    ) -> tuple[int, dict[str, Any], str]:
        """Run `resolve` with the arguments that the DAG renders."""
        options = ("--store", self.root, "--allow", allow, "--ignore", ignore, "--allow-unsafe", unsafe)
        return self("resolve", f"hf://acme/{model}@main", *options)

    def copy(self, model: str, allow: str = "", ignore: str = "", unsafe: str = "") -> tuple[int, dict[str, Any], str]:
        """Run `copy` with the arguments that the DAG renders."""
        options = ("--allow", allow, "--ignore", ignore, "--allow-unsafe", unsafe)
        return self("copy", f"hf://acme/{model}@main", self.root, *options)

    @property
    def root(self) -> str:
        return f"s3://{self.bucket}/"

    def objects(self) -> set[str]:
        """Return the served objects: without what Airfreight keeps for itself."""
        listed = self.minio.client().list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return {entry["Key"] for entry in listed if not entry["Key"].startswith(".airfreight/")}


@pytest.fixture
def line(
    minio: Minio, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Line]:
    library = Library(tmp_path / "hub")
    card = b"---\nlicense: cc-by-nc-4.0\n---\n"
    library.publish("acme/pong", {**SAFE, "README.md": card}, title="Add the model")
    library.publish("acme/pickled", {**SAFE, **PICKLES}, title="Add the model")
    with HubServer(tmp_path / "hub") as hub:
        for name, value in {
            "HF_ENDPOINT": hub.url,
            **minio.environment,
        }.items():
            monkeypatch.setenv(name, value)
        yield Line(hub, minio, bucket, tmp_path, capsys)


def test_patterns_make_a_version_of_their_own(line: Line) -> None:
    code, whole, _ = line.copy("pong")
    assert code == 0
    code, resolved, _ = line.resolve("pong", allow="*.json\n*.safetensors", ignore="original/")
    assert code == 0
    code, narrowed, _ = line.copy("pong", allow="*.json\n*.safetensors", ignore="original/")
    assert code == 0
    for key in ("version", "manifest_sha256", "artifact"):
        assert resolved[key] == narrowed[key] != whole[key]
    assert narrowed["version"] == narrowed["manifest_sha256"][:12]
    assert whole["version"] == whole["commit"][:12]
    prefix = f"acme/pong/{narrowed['version']}/"
    assert {key.removeprefix(prefix) for key in line.objects() if key.startswith(prefix)} == {
        "config.json",
        "model.safetensors",
        "airfreight.json",
    }
    again = line.copy("pong", ignore="README.md\noriginal/*")[1]
    assert (again["artifact"], again["moved_bytes"]) == (narrowed["artifact"], 0), "the files are the identity"


def test_pickles_are_refused_before_a_byte_moves_and_taken_with_a_reason(line: Line) -> None:
    for run in (line.resolve, line.copy):
        code, _, said = run("pickled")
        assert code == 2
        assert "holds files that can run code when loaded (pytorch_model.bin, training_args.bin)" in said
    assert line.hub.stats.weight_bytes() == 0
    assert line.objects() == set()

    code, taken, _ = line.copy("pickled", unsafe=REASON)
    assert code == 0
    assert (taken["unsafe_files"], taken["allow_unsafe"]) == (["pytorch_model.bin", "training_args.bin"], REASON)
    assert line.resolve("pickled", unsafe="another good reason")[1]["manifest_sha256"] == taken["manifest_sha256"], (
        "a reason is no part of the identity"
    )


def test_the_patterns_a_refusal_names_are_the_remedy(line: Line) -> None:
    code, copied, _ = line.copy("pickled", ignore="*.bin\ntraining_args.bin")
    assert code == 0
    assert (copied["unsafe_files"], copied["files"]) == ([], len(SAFE))


def test_a_denied_licence_is_refused_by_both_commands(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFREIGHT_LICENCE_DENY", "unknown,cc-by-nc-*")
    for run in (line.resolve, line.copy):
        code, _, said = run("pong")
        assert code == 2
        assert "has the licence cc-by-nc-4.0, which this site denies (licence_deny: cc-by-nc-*)" in said
        assert "names no licence, which this site denies" in run("pickled", ignore="*.bin")[2]
    assert line.hub.stats.weight_bytes() == 0
    assert line.objects() == set()


def test_resolve_writes_the_plan_for_a_dry_run(line: Line) -> None:
    code, _, said = line.resolve("pong")
    assert code == 0
    assert "to move       4 files    1.0 MiB" in said
    assert "licence       cc-by-nc-4.0" in said
    assert "refused       nothing" in said
    assert line.hub.stats.weight_bytes() == 0

    line.copy("pong")
    code, planned, said = line.resolve("pong")
    assert "to move       0 files        0 B" in said
    assert "there         4 files    1.0 MiB" in said
    assert (planned["published"], planned["move_bytes"], planned["reused_files"]) == (True, 0, 4)


def test_the_plan_has_every_refusal(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFREIGHT_LICENCE_DENY", "unknown")
    code, _, said = line.resolve("pickled")
    assert code == 2
    refused = [row for row in said.splitlines() if row.startswith("refused  ")]
    assert ["run code" in refused[0], "names no licence" in refused[1], len(refused)] == [True, True, 2]
    assert said.rstrip().endswith("or give allow_unsafe with a reason (1 more: `airfreight resolve` lists all).")
