"""Killed, met and overtaken: real processes between the hub stand-in and a real MinIO.

The kills are SIGKILL at moments drawn from a fixed seed: after so many bytes from the hub, and a little later. What is
bounded is checked at each kill: bytes the hub sent, less what the store or a checkpoint then has more than before.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airfreight.checkpoint import Checkpoint
from airfreight.environment import HubSettings
from airfreight.errors import IntegrityError, TemporaryError
from airfreight.leases import Claim, Tenure
from airfreight.manifest import ManifestFile
from airfreight.retry import HeldError, Patience
from airfreight.source import HubModel, S3Root
from airfreight.stores import s3
from airfreight.stores.hub import HubSource
from airfreight.stores.s3 import MIB, S3Store
from airfreight.stores.s3_bucket import Bucket
from airfreight.stores.s3_uploads import Multipart
from airfreight.transfer import CopyResult, copy
from devcluster.hub.faults import Fault
from devcluster.hub.repository import Library
from devcluster.hub.server import HubServer
from tests.integration.conftest import Minio

pytestmark = pytest.mark.integration

KILLS = 50
PART = 5 * MIB  # the least that S3 takes
AT_ONCE = 4
# What lies in the sockets between hub and reader when the reader dies; counted as sent, never read (Linux: tcp_wmem and
# tcp_rmem, 4 and 6 MiB at most).
SOCKETS = 10 * MIB
CONTENTS = {
    "model-00001-of-00003.safetensors": random.Random(1).randbytes(33 * MIB + 7),
    "model-00002-of-00003.safetensors": random.Random(2).randbytes(20 * MIB),
    "model-00003-of-00003.safetensors": random.Random(3).randbytes(11 * MIB),
    "config.json": b'{"model_type": "qwen2"}\n',
    "empty.txt": b"",
    "nested/größe 模型.json": b"{}",
}
SIZE = sum(map(len, CONTENTS.values()))
FAST = Patience(base=0.01, longest=0.05)
SHORT = {"lease": 2.0, "renewal": 0.4, "margin": 1.0}
# The command itself, with smaller parts: a model of tens of MiB then has as many as one of tens of GiB.
SMALL_PARTS = f"import airfreight.stores.s3 as s3; s3.PART_SIZE = {PART}; from airfreight.cli import main; main()"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    changed = {**CONTENTS, "model-00003-of-00003.safetensors": b"other weights", "config.json": b"{}\n"}
    Library(root).publish("acme/pong", CONTENTS, title="Add the model")
    Library(root).publish("acme/pong", changed, title="Next", branch="next")
    return root


@pytest.fixture
def hub(library: Path) -> Iterator[HubServer]:
    with HubServer(library) as server:
        yield server


@dataclass(frozen=True)
class Bench:
    """A hub, an empty bucket, and what can be asked of both."""

    hub: HubServer
    minio: Minio
    bucket: str
    scratch: Path

    def source(self, revision: str = "main") -> HubSource:
        return HubSource(HubModel("acme/pong", revision), HubSettings(self.hub.url))

    def store(self, tenure: Tenure | None = None, root: str = "", revision: str = "main") -> S3Store:
        place = S3Root(self.bucket, root)
        manifest = self.source(revision).manifest()
        return S3Store(place.below(manifest), self.minio.settings, PART, root=place, tenure=tenure)

    def start(self, root: str, owner: str, log: Path) -> subprocess.Popen[bytes]:
        """Start the command as a pod runs it."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.scratch),
            "HF_ENDPOINT": self.hub.url,
            **self.minio.environment,
            "AIRFREIGHT_OWNER": owner,
        }
        words = ("copy", "hf://acme/pong@main", f"s3://{self.bucket}/{root}", "--result", str(log.with_suffix(".json")))
        with log.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-c", SMALL_PARTS, *words], env=environment, stdout=out, stderr=subprocess.STDOUT
            )

    def objects(self, prefix: str = "") -> dict[str, int]:
        """Return keys and sizes."""
        pages = self.minio.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def content(self, key: str) -> bytes:
        return bytes(self.minio.client().get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def uploads(self, prefix: str) -> list[str]:
        """Return the keys of unfinished uploads; MinIO lists them surely for the exact key alone."""
        client = self.minio.client()
        return [
            upload["Key"]
            for path in CONTENTS
            for upload in client.list_multipart_uploads(Bucket=self.bucket, Prefix=prefix + path).get("Uploads", [])
        ]

    def there(self, root: str, prefix: str) -> int:
        """Return the bytes that need not be sent again: whole objects, and what checkpoints tell of the others."""
        objects = self.objects(root)
        whole = {key: size for key, size in objects.items() if key.startswith(prefix)}
        told = 0
        for key in objects:
            if key.startswith(f"{root}.airfreight/"):
                checkpoint = Checkpoint.from_json(self.content(key))
                told += 0 if prefix + checkpoint.path in whole else checkpoint.offset
        return told + sum(size for key, size in whole.items() if not key.endswith("airfreight.json"))

    def check_whole(self, root: str, prefix: str, source: HubSource) -> None:
        """Everything is there and right, and nothing else."""
        assert set(self.objects(root)) == {prefix + path for path in (*CONTENTS, "airfreight.json")}
        assert {path: self.content(prefix + path) for path in CONTENTS} == CONTENTS
        assert self.content(prefix + "airfreight.json") == source.manifest().canonical
        assert self.uploads(prefix) == []


@pytest.fixture
def bench(hub: HubServer, minio: Minio, bucket: str, tmp_path: Path) -> Bench:
    return Bench(hub, minio, bucket, tmp_path)


def test_killed_at_50_moments(bench: Bench) -> None:
    chance = random.Random(20261122)
    source = bench.source()
    version = f"acme/pong/{source.manifest().version}/"
    bench.hub.faults.add(Fault("slow", match="*.safetensors", bytes_per_second=40_000_000, times=1000))
    kills = rounds = adopted = 0
    while kills < KILLS:
        root, finished = f"round-{rounds}/", False
        rounds += 1
        while not finished:
            before = bench.there(root, root + version)
            bench.hub.stats.reset()
            process = bench.start(root, "the-task", bench.scratch / "log")
            point, pause = chance.randrange(24 * MIB), chance.choice([0.0, 0.02, 0.1])
            if kills < KILLS:
                while bench.hub.stats.weight_bytes() <= point and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(pause)
                process.kill()
            code = process.wait(60)
            finished = code == 0
            assert code in {0, -signal.SIGKILL}, (bench.scratch / "log").read_text()
            kills += code != 0
            sent, there = bench.hub.stats.weight_bytes(), bench.there(root, root + version)
            adopted += finished and before > 0
            assert sent - (there - before) <= AT_ONCE * (2 * PART + SOCKETS) < AT_ONCE * 64 * MIB
            for key, size in bench.objects(root + version).items():  # what is visible is whole, at every moment
                path = key.removeprefix(root + version)
                assert size == len(CONTENTS.get(path, source.manifest().canonical))
        bench.check_whole(root, root + version, source)
    assert kills == KILLS
    assert adopted > 0


def test_parts_that_arrive_out_of_order_make_the_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part is held back until the second is there: so several are under way, and their order is free."""
    second, write = threading.Event(), Multipart.write

    def reordered(upload: Multipart, part: bytearray | memoryview, state: str | None, at: int) -> None:
        if at == 0:
            assert second.wait(60)
        write(upload, part, state, at)
        if at == PART:
            second.set()

    monkeypatch.setattr(Multipart, "write", reordered)
    store = bench.store()
    share = [file for file in bench.source().manifest().files if file.path == "model-00001-of-00003.safetensors"]
    copy(bench.source(), store, patience=FAST, share=share)
    prefix = store.artifact.removeprefix(f"s3://{bench.bucket}/")
    assert bench.content(prefix + share[0].path) == CONTENTS[share[0].path]
    assert store.held(share) == {share[0].path}
    assert not any(key.startswith(".airfreight/") for key in bench.objects())


def test_another_machine_goes_on_when_the_lease_is_over(bench: Bench) -> None:
    """The killed run had another name; what it sent is not sent again."""
    dead = bench.store(Tenure("dead", **SHORT))
    file = bench.source().manifest().files[3]
    assert file.size > 2 * PART
    upload = dead.begin(file)
    content = CONTENTS[file.path]
    upload.write(bytearray(content[:PART]), None, 0)
    upload.write(bytearray(content[PART : 2 * PART]), None, PART)
    result = copy(bench.source(), bench.store(Tenure("next", **SHORT)), patience=FAST)
    assert result.resumed_bytes == 2 * PART
    bench.check_whole("", dead.artifact.removeprefix(f"s3://{bench.bucket}/"), bench.source())


def test_a_live_neighbours_upload_is_untouched(bench: Bench) -> None:
    # A lease that does not run out, however long the store takes for a renewal, and renewals that are seen soon.
    neighbour = bench.store(Tenure("pod-a", lease=600.0, renewal=0.4, margin=1.0))
    file = bench.source().manifest().files[3]
    content = CONTENTS[file.path]
    upload = neighbour.begin(file)
    upload.write(bytearray(content[:PART]), None, 0)
    done = threading.Event()

    def renew() -> None:
        while not done.wait(0.1):
            neighbour.renew()

    renewing = threading.Thread(target=renew)
    renewing.start()
    try:
        with pytest.raises(
            HeldError, match=rf"^Another run \(pod-a\) holds {file.path} of s3://.* until .* UTC, or lo"
        ):
            copy(bench.source(), bench.store(Tenure("pod-b", **SHORT)), patience=FAST)
    finally:
        done.set()
        renewing.join()
    prefix = neighbour.artifact.removeprefix(f"s3://{bench.bucket}/")
    assert bench.uploads(prefix) == [prefix + file.path]
    assert prefix + "airfreight.json" not in bench.objects()
    for start in range(PART, len(content), PART):
        upload.write(bytearray(content[start : start + PART]), None, start)
    upload.commit()
    result = copy(bench.source(), bench.store(Tenure("pod-b", **SHORT)), patience=FAST)
    assert (result.moved_bytes, result.reused_files) == (0, len(CONTENTS))
    bench.check_whole("", prefix, bench.source())


def test_a_checkpoint_of_a_finished_file_goes_with_the_next_copy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between completing the upload and removing its checkpoint; the lease has not run out yet."""
    killed = bench.store(Tenure("killed"))
    file = bench.source().manifest().files[3]
    upload = killed.begin(file)
    for start in range(0, file.size, PART):
        upload.write(bytearray(CONTENTS[file.path][start : start + PART]), None, start)
    monkeypatch.setattr(Claim, "done", lambda self: None)
    upload.commit()
    monkeypatch.undo()
    assert any(key.startswith(".airfreight/") for key in bench.objects())
    assert copy(bench.source(), bench.store(), patience=FAST).reused_files == 1
    bench.check_whole("", killed.artifact.removeprefix(f"s3://{bench.bucket}/"), bench.source())


@pytest.mark.parametrize("change", ["aborted", "part replaced"])
def test_a_checkpoint_the_store_does_not_confirm_is_not_believed(bench: Bench, change: str) -> None:
    store = bench.store(Tenure("the-task"))
    file = bench.source().manifest().files[3]
    upload = store.begin(file)
    for start in (0, PART):
        upload.write(bytearray(CONTENTS[file.path][start : start + PART]), None, start)
    client: Any = bench.minio.client()
    prefix = store.artifact.removeprefix(f"s3://{bench.bucket}/")
    address = {"Bucket": bench.bucket, "Key": prefix + file.path}
    (there,) = client.list_multipart_uploads(Bucket=bench.bucket, Prefix=address["Key"])["Uploads"]
    if change == "aborted":
        client.abort_multipart_upload(**address, UploadId=there["UploadId"])
    else:
        client.upload_part(
            **address, UploadId=there["UploadId"], PartNumber=1, Body=bytes(PART), ChecksumAlgorithm="CRC64NVME"
        )
    result = copy(bench.source(), bench.store(Tenure("the-task")), patience=FAST)
    assert result.resumed_bytes == 0
    bench.check_whole("", prefix, bench.source())


def test_uploads_that_nobody_knows_are_aborted_with_the_next_copy(bench: Bench) -> None:
    """Killed between the begin of an upload and the note of its id."""
    source, store = bench.source(), bench.store()
    prefix = store.artifact.removeprefix(f"s3://{bench.bucket}/")
    key = prefix + "model-00001-of-00003.safetensors"
    client: Any = bench.minio.client()
    for name in (key, key, key + ".other"):
        client.create_multipart_upload(Bucket=bench.bucket, Key=name)
    copy(source, store, patience=FAST)
    assert bench.uploads(prefix) == []
    other = client.list_multipart_uploads(Bucket=bench.bucket, Prefix=key + ".other")
    assert [upload["Key"] for upload in other["Uploads"]] == [key + ".other"]


def test_an_upload_that_somebody_aborts_begins_again(bench: Bench) -> None:
    store = bench.store()
    client: Any = bench.minio.client()
    aborted: list[str] = []

    class Interfering(HubSource):
        def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
            count = offset
            for chunk in super().open(file, offset):
                count += len(chunk)
                key = store.artifact.removeprefix(f"s3://{bench.bucket}/") + file.path
                if file.size > 30 * MIB and count > 12 * MIB and not aborted:
                    for upload in client.list_multipart_uploads(Bucket=bench.bucket, Prefix=key).get("Uploads", []):
                        aborted.append(key)
                        client.abort_multipart_upload(Bucket=bench.bucket, Key=key, UploadId=upload["UploadId"])
                yield chunk

    copy(Interfering(HubModel("acme/pong"), HubSettings(bench.hub.url)), store, patience=FAST)
    assert len(aborted) == 1
    bench.check_whole("", store.artifact.removeprefix(f"s3://{bench.bucket}/"), bench.source())


def test_two_commands_at_once_give_one_result(bench: Bench) -> None:
    bench.hub.faults.add(Fault("slow", match="*.safetensors", bytes_per_second=8_000_000, times=1000))
    logs = [bench.scratch / "a.log", bench.scratch / "b.log"]
    processes = [bench.start("", f"pod-{log.stem}", log) for log in logs]
    codes = [process.wait(120) for process in processes]
    assert 0 in codes and set(codes) <= {0, 75}
    for code, log in zip(codes, logs, strict=True):
        if code == 75:
            assert log.read_text().splitlines()[-1].startswith("airfreight: Another run (pod-")
    moved = [
        json.loads(log.with_suffix(".json").read_text())["moved_bytes"]
        for log in logs
        if log.with_suffix(".json").exists()
    ]
    assert sum(moved) <= SIZE + 1024  # no weight file was carried twice
    store = bench.store()
    bench.check_whole("", store.artifact.removeprefix(f"s3://{bench.bucket}/"), bench.source())
    assert copy(bench.source(), store, patience=FAST).moved_bytes == 0


def test_two_runs_of_one_name_do_no_damage(bench: Bench) -> None:
    """As when a pod that was given up for lost still runs: the later one goes on, the earlier one stops."""
    bench.hub.faults.add(Fault("slow", match="*.safetensors", bytes_per_second=8_000_000, times=1000))
    outcomes: list[CopyResult | TemporaryError] = []

    def run() -> None:
        try:
            outcomes.append(copy(bench.source(), bench.store(Tenure("same", **SHORT)), patience=FAST))
        except TemporaryError as error:
            outcomes.append(error)

    earlier = threading.Thread(target=run)
    earlier.start()
    while bench.hub.stats.weight_bytes() < 20 * MIB:
        assert earlier.is_alive(), outcomes
        time.sleep(0.01)
    run()
    earlier.join()
    assert len(outcomes) == 2 and any(isinstance(outcome, CopyResult) for outcome in outcomes)
    bench.check_whole("", bench.store().artifact.removeprefix(f"s3://{bench.bucket}/"), bench.source())


def test_a_branch_that_moves_under_way_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    library = Library(tmp_path / "library")
    first = library.publish(
        "acme/moving", {"model.safetensors": CONTENTS["model-00002-of-00003.safetensors"]}, title="1"
    )
    with HubServer(tmp_path / "library") as hub:

        class Moving(HubSource):
            def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
                for index, chunk in enumerate(super().open(file, offset)):
                    if index == 20 and not offset:
                        library.publish("acme/moving", {"model.safetensors": b"moved"}, title="2")
                        raise TemporaryError("The connection broke.")
                    yield chunk

        source = Moving(HubModel("acme/moving"), HubSettings(hub.url))
        store = S3Store(S3Root(bench.bucket).below(source.manifest()), bench.minio.settings, PART)
        result = copy(source, store, patience=FAST)
        moved = HubSource(HubModel("acme/moving"), HubSettings(hub.url)).manifest()
    prefix = f"acme/moving/{first[:12]}/"
    assert result.manifest.commit == first != moved.commit
    assert bench.content(prefix + "model.safetensors") == CONTENTS["model-00002-of-00003.safetensors"]
    assert set(bench.objects()) == {prefix + "model.safetensors", prefix + "airfreight.json"}


@pytest.mark.parametrize("by_bytes", [7, -7])
def test_a_hub_that_lies_about_length_leaves_nothing(bench: Bench, by_bytes: int) -> None:
    bench.hub.faults.add(Fault("length", match="*00001*", by_bytes=by_bytes, times=10))
    store = bench.store()
    size = len(CONTENTS["model-00001-of-00003.safetensors"])
    with pytest.raises(IntegrityError, match=rf"offers {size + by_bytes} bytes for .*, the manifest says {size}; noth"):
        copy(bench.source(), store, patience=FAST)
    assert not any(key.endswith(("00001-of-00003.safetensors", "airfreight.json")) for key in bench.objects())
    assert bench.uploads(store.artifact.removeprefix(f"s3://{bench.bucket}/")) == []
    assert not any(key.startswith(".airfreight/") for key in bench.objects())


@pytest.mark.parametrize(("change", "finding"), [(7, "has more than"), (-7, "bytes, the manifest says")])
def test_a_source_that_lies_about_length_leaves_nothing(bench: Bench, change: int, finding: str) -> None:
    class Lying(HubSource):
        def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
            content = CONTENTS[file.path]
            told = content + bytes(change) if change > 0 else content[:change]
            for start in range(offset, len(told), MIB):
                yield told[start : start + MIB]

    store = bench.store()
    with pytest.raises(IntegrityError, match=finding):
        copy(Lying(HubModel("acme/pong"), HubSettings(bench.hub.url)), store, patience=FAST)
    prefix = store.artifact.removeprefix(f"s3://{bench.bucket}/")
    assert not any(key.endswith((".safetensors", "airfreight.json")) for key in bench.objects())
    assert bench.uploads(prefix) == []
    assert not any(key.startswith(".airfreight/") for key in bench.objects())


@pytest.mark.parametrize("limit", [s3.COPY_WHOLE, 6 * MIB], ids=["one request", "parts"])
def test_a_new_commit_moves_changed_files_alone(bench: Bench, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "COPY_WHOLE", limit)
    monkeypatch.setattr(s3, "COPY_PART", limit)
    copy(bench.source(), bench.store(), patience=FAST)
    bench.hub.stats.reset()
    source, store = bench.source("next"), bench.store(revision="next")
    result = copy(source, store, patience=FAST)
    changed = {"model-00003-of-00003.safetensors": b"other weights", "config.json": b"{}\n"}
    assert (result.moved_bytes, result.reused_files) == (sum(map(len, changed.values())), len(CONTENTS) - len(changed))
    assert bench.hub.stats.weight_bytes() == len(b"other weights")
    prefix = store.artifact.removeprefix(f"s3://{bench.bucket}/")
    assert {path: bench.content(prefix + path) for path in CONTENTS} == {**CONTENTS, **changed}
    assert store.held(source.manifest().files) == CONTENTS.keys()
    assert bench.uploads(prefix) == []
    assert not any(key.startswith(".airfreight/") for key in bench.objects())


def test_what_was_replaced_in_a_sealed_version_is_seen_and_sent_again(bench: Bench) -> None:
    """A second run asks of each file only whether it was written since; this one was, with nothing of ours in it."""
    first = bench.store()
    copy(bench.source(), first, patience=FAST)
    prefix, path = first.artifact.removeprefix(f"s3://{bench.bucket}/"), "model-00002-of-00003.safetensors"
    bench.minio.client().put_object(Bucket=bench.bucket, Key=prefix + path, Body=bytes(20 * MIB))
    result = copy(bench.source(), bench.store(), patience=FAST)
    assert (result.moved_bytes, result.reused_files) == (20 * MIB, len(CONTENTS) - 1)
    bench.check_whole("", prefix, bench.source())


def test_a_sealed_version_is_known_without_a_look_at_each_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(bench.source(), bench.store(), patience=FAST)
    asked: list[str] = []
    etag_of = Bucket.etag_of
    monkeypatch.setattr(Bucket, "etag_of", lambda self, file, key=None: asked.append(file.path) or etag_of(self, file))
    assert copy(bench.source(), bench.store(), patience=FAST).reused_files == len(CONTENTS)
    assert asked == []


def test_a_damaged_neighbour_version_is_not_copied(bench: Bench) -> None:
    first = bench.store()
    copy(bench.source(), first, patience=FAST)
    key = first.artifact.removeprefix(f"s3://{bench.bucket}/") + "model-00002-of-00003.safetensors"
    bench.minio.client().put_object(Bucket=bench.bucket, Key=key, Body=bytes(20 * MIB))  # same size, no digest
    second = bench.store(revision="next")
    copy(bench.source("next"), second, patience=FAST)
    copied = second.artifact.removeprefix(f"s3://{bench.bucket}/") + "model-00002-of-00003.safetensors"
    assert bench.content(copied) == CONTENTS["model-00002-of-00003.safetensors"]
