"""`airfreight copy` between every pair of places: one identity, verified, and the second run moves nothing.

hub -> s3, hub -> directory, directory -> s3, s3 -> directory, directory -> directory, s3 -> s3
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airfreight import cli
from airfreight.manifest import Manifest
from devcluster.hub.faults import Fault
from devcluster.hub.repository import Library
from devcluster.hub.server import HubServer
from tests.integration.conftest import Minio
from tests.unit.test_directory import killed_then_run_again

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
CONTENTS = {
    "model-00001-of-00002.safetensors": random.Random(1).randbytes(17 * MIB + 5),  # two parts
    "model-00002-of-00002.safetensors": random.Random(2).randbytes(MIB),
    "config.json": b'{"model_type": "qwen2"}\n',
    "empty.txt": b"",
    "nested/größe 模型/ملف.json": b"{}",
}
SIZE = sum(map(len, CONTENTS.values()))
PLACES = ("s3", "directory")
PAIRS = [("hub", "s3"), ("hub", "directory"), ("directory", "s3"), ("s3", "directory"), ("directory", "directory"),
         ("s3", "s3")]  # fmt: skip


@dataclass(frozen=True)
class Yard:
    """A hub, an object store and a disk, and the command line between them."""

    hub: HubServer
    minio: Minio
    scratch: Path

    def root(self, kind: str) -> str:
        """Return a fresh, empty root of a store."""
        if kind == "s3":
            name = f"models-{secrets.token_hex(4)}"
            self.minio.client().create_bucket(Bucket=name)
            return f"s3://{name}/team-a/"
        path = self.scratch / f"volume-{secrets.token_hex(4)}"
        path.mkdir()
        return f"file://{path}/"

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run the command and return its result."""
        result = self.scratch / "return.json"
        result.unlink(missing_ok=True)
        assert cli.main([*words, "--result", str(result)]) == code
        return dict(json.loads(result.read_text())) if result.exists() else {}

    def put(self, place: str, contents: dict[str, bytes]) -> None:
        """Put files at an address, as anybody would."""
        scheme, _, rest = place.partition("://")
        for path, content in contents.items():
            if scheme == "s3":
                bucket, _, prefix = rest.partition("/")
                self.minio.client().put_object(Bucket=bucket, Key=prefix + path, Body=content)
            else:
                (Path(rest) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(rest) / path).write_bytes(content)

    def files(self, place: str) -> dict[str, bytes]:
        """Return every file at an address, except what Airfreight keeps for itself."""
        scheme, _, rest = place.partition("://")
        if scheme == "s3":
            bucket, _, prefix = rest.partition("/")
            client = self.minio.client()
            keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]
            found = {key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
        else:
            found = {str(path.relative_to(rest)): path.read_bytes() for path in Path(rest).rglob("*") if path.is_file()}
        return {path: content for path, content in found.items() if not path.startswith(".airfreight/")}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    library = Library(tmp_path_factory.mktemp("hub"))
    library.publish("acme/pong", CONTENTS, title="Add the model")
    library.publish("acme/pong", {**CONTENTS, "config.json": b"[1]"}, title="Next", branch="next")
    with HubServer(library.root) as server:
        yield server


@pytest.fixture
def yard(hub: HubServer, minio: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_", "AIRFREIGHT_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "HF_ENDPOINT": hub.url,
        **minio.environment,
    }.items():
        monkeypatch.setenv(name, value)
    hub.stats.reset()
    return Yard(hub, minio, tmp_path)


@pytest.fixture
def source_of(yard: Yard) -> Callable[[str], str]:
    """Return how to come by a source of each kind: those that are no hub hold what was delivered there."""

    def make(kind: str) -> str:
        return "hf://acme/pong@main" if kind == "hub" else yard.run("copy", "acme/pong", yard.root(kind))["artifact"]

    return make


@pytest.mark.parametrize(("source", "destination"), PAIRS, ids=lambda kind: kind)
def test_any_pair_gives_one_identity_and_the_second_run_moves_nothing(
    yard: Yard, source_of: Callable[[str], str], source: str, destination: str
) -> None:
    address, root = source_of(source), yard.root(destination)
    manifest_sha256 = yard.run("resolve", "acme/pong")["manifest_sha256"]
    first = yard.run("copy", address, root)
    assert first["manifest_sha256"] == manifest_sha256
    assert (first["moved_bytes"], first["reused_files"], first["sealed"]) == (SIZE, 0, True)
    assert first["artifact"] == f"{root}acme/pong/{first['commit'][:12]}/"
    found = yard.files(first["artifact"])
    manifest = Manifest.from_json(found.pop("airfreight.json"))
    assert found == CONTENTS
    assert manifest.sha256 == manifest_sha256
    yard.hub.stats.reset()
    again = yard.run("copy", address, root)
    assert (again["moved_bytes"], again["reused_files"]) == (0, len(CONTENTS))
    assert again["artifact"] == first["artifact"]
    assert yard.hub.stats.file_bytes == {}
    assert yard.run("verify", first["artifact"])["good"]
    assert yard.run("resolve", address, "--store", root)["published"]


@pytest.mark.parametrize("source", PLACES)
@pytest.mark.parametrize("destination", PLACES)
def test_what_nobody_delivered_is_read_once_for_its_identity(yard: Yard, source: str, destination: str) -> None:
    place, root = f"{yard.root(source)}acme/pong/", yard.root(destination)
    yard.put(place, CONTENTS)
    if source == "s3":
        yard.put(place, {"nested/": b""})  # a folder, as a console makes it
    first = yard.run("copy", place, root)
    assert first["source"] == place
    assert first["commit"] is None
    assert first["version"] == first["manifest_sha256"][:12]
    assert first["artifact"] == f"{root}acme/pong/{first['version']}/"
    found = yard.files(first["artifact"])
    manifest = Manifest.from_json(found.pop("airfreight.json"))
    assert found == CONTENTS
    assert all(file.sha256 is not None for file in manifest.files)
    assert yard.run("copy", place, root)["moved_bytes"] == 0
    # From here on its identity goes with it, wherever it goes.
    onward = yard.run("copy", first["artifact"], yard.root("directory"))
    assert (onward["manifest_sha256"], onward["source"]) == (first["manifest_sha256"], place)
    yard.put(place, {"config.json": b'{"changed": true}'})
    assert yard.run("copy", place, root)["version"] != first["version"]


@pytest.mark.parametrize("destination", PLACES)
def test_slices_copied_apart_are_sealed_together(yard: Yard, destination: str) -> None:
    root, size = yard.root(destination), 0
    commit = yard.run("resolve", "acme/pong")["source"]
    assert yard.run("seal", commit, root, code=2) == {}
    for index in (1, 2, 3):
        share = yard.run("copy", commit, root, "--slice", f"{index}/3")
        size += share["moved_bytes"]
        assert "airfreight.json" not in yard.files(share["artifact"])
    assert size == SIZE
    sealed = yard.run("seal", commit, root)
    assert yard.run("verify", sealed["artifact"])["good"]
    assert yard.run("copy", commit, root)["moved_bytes"] == 0


@pytest.mark.parametrize("destination", PLACES)
def test_the_next_commit_moves_only_what_changed(yard: Yard, destination: str) -> None:
    root = yard.root(destination)
    yard.run("copy", "acme/pong", root)
    bumped = yard.run("copy", "acme/pong@next", root)
    assert (bumped["moved_bytes"], bumped["reused_files"]) == (3, len(CONTENTS) - 1)
    assert yard.run("verify", bumped["artifact"])["good"]


@pytest.mark.parametrize("kind", PLACES)
def test_verify_names_what_is_wrong_missing_and_extra(
    yard: Yard, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = yard.run("copy", "acme/pong", yard.root(kind))["artifact"]
    damaged = b"\0" + CONTENTS["model-00002-of-00002.safetensors"][1:]
    yard.put(artifact, {"model-00002-of-00002.safetensors": damaged, "notes.txt": b"x", "config.json": b"short"})
    capsys.readouterr()
    found = yard.run("verify", artifact, code=3)
    assert (found["wrong"], found["missing"], found["extra"]) == (
        ["config.json", "model-00002-of-00002.safetensors"], [], ["notes.txt"],
    )  # fmt: skip
    out, error = capsys.readouterr()
    assert "wrong    config.json has 5 bytes, the manifest says 24" in out.splitlines()
    assert "extra    notes.txt" in out.splitlines()
    assert (
        f"airfreight: {artifact} is not what its airfreight.json says of 5 files (2 wrong, 0 missing, 1 extra)" in error
    )
    assert yard.run("verify", artifact.removesuffix("/").rpartition("/")[0] + "/", code=2) == {}


@pytest.mark.parametrize("kind", PLACES)
def test_a_damaged_source_makes_nothing_visible(yard: Yard, kind: str) -> None:
    artifact, root = yard.run("copy", "acme/pong", yard.root(kind))["artifact"], yard.root("directory")
    name = "model-00001-of-00002.safetensors"
    yard.put(artifact, {name: CONTENTS[name][:-1] + b"\0"})
    assert yard.run("copy", artifact, root, code=3) == {}
    assert not {name, "airfreight.json"} & {path.rpartition("/")[2] for path in yard.files(root)}
    yard.put(artifact, {name: CONTENTS[name][:-1]})
    assert yard.run("copy", artifact, root, code=3) == {}


@pytest.mark.parametrize("kind", PLACES)
def test_a_source_that_is_not_there_is_named(yard: Yard, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"{yard.root(kind)}acme/nothing/"
    assert yard.run("copy", place, yard.root("directory"), code=2) == {}
    assert "there first, or check the address" in (error := capsys.readouterr().err) or "does not exist" in error


def test_an_object_that_is_gone_is_named(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = yard.run("copy", "acme/pong", yard.root("s3"))["artifact"]
    bucket, _, prefix = artifact.removeprefix("s3://").partition("/")
    yard.minio.client().delete_object(Bucket=bucket, Key=f"{prefix}config.json")
    assert yard.run("copy", artifact, yard.root("directory"), code=2) == {}
    assert f"{artifact}config.json is gone: put it back, or start again" in capsys.readouterr().err


class Cutter:
    """A relay before the object store that breaks its first connections after so many bytes of answer."""

    def __init__(self, endpoint_url: str, after: int, times: int) -> None:
        self._target = ("127.0.0.1", int(endpoint_url.rpartition(":")[2]))
        self._after, self._times, self.cut = after, times, 0
        self._counting = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable[..., None], *given: Any) -> threading.Thread:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._relay, self._listener.accept()[0])

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            asking = self._start(self._pump, client, server, False)
            self._pump(server, client, True)
            asking.join()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                passed += len(data)
                if answers and passed > self._after and self._is_to_be_cut():
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _is_to_be_cut(self) -> bool:
        with self._counting:  # each direction of each connection is a thread of its own
            left = self.cut < self._times
            self.cut += left
            return left


def test_a_bucket_that_cuts_its_answers_is_read_to_the_end(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airfreight.retry.random.random", lambda: 0.0)
    artifact, root = yard.run("copy", "acme/pong", yard.root("s3"))["artifact"], yard.root("directory")
    with Cutter(yard.minio.endpoint_url, after=3 * MIB, times=3) as cutter:
        monkeypatch.setenv("AWS_ENDPOINT_URL", cutter.url)
        copied = yard.run("copy", artifact, root)
        assert cutter.cut == 3
    assert copied["moved_bytes"] < SIZE + 6 * MIB, "it goes on where it broke"
    assert yard.run("verify", copied["artifact"])["good"]


@pytest.mark.parametrize("kind", PLACES)
def test_two_runs_of_one_version_at_once_make_one_artifact(yard: Yard, kind: str) -> None:
    root = yard.root(kind)
    words = [sys.executable, "-m", "airfreight.cli", "copy", "acme/pong", root]
    yard.hub.faults.add(Fault("slow", match="*model-00001*", bytes_per_second=8_000_000))
    runs = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(run.communicate(timeout=120)[1], run.returncode) for run in runs]
    assert sorted(code for _, code in ends)[0] == 0, ends
    for error, code in ends:
        assert code == 0 or (code == 75 and "Another run" in error), ends
    yard.hub.faults.clear()
    artifact = yard.run("resolve", "acme/pong", "--store", root)["artifact"]
    assert yard.run("verify", artifact)["good"]
    assert yard.run("copy", "acme/pong", root)["moved_bytes"] == 0


@pytest.mark.parametrize("steps", sorted(random.Random(7).sample(range(1, 240), 50)))
def test_a_directory_killed_at_fifty_points_is_ended_by_the_next_run(tmp_path: Path, steps: int) -> None:
    killed_then_run_again(tmp_path, steps)
