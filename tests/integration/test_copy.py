"""The whole way, hub stand-in to a real MinIO, through the library and through the command as a pod runs it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airfreight.environment import HubSettings, S3Settings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.leases import Tenure
from airfreight.retry import Patience
from airfreight.source import HubModel, S3Root
from airfreight.stores.hub import HubSource
from airfreight.stores.s3 import MIB, PART_SIZE, S3Store
from airfreight.transfer import copy, published
from devcluster.hub.faults import Fault
from devcluster.hub.repository import Library
from devcluster.hub.server import DEMO_TOKEN, OUTSIDER_TOKEN, HubServer
from tests.integration.conftest import Minio
from tests.unit.memory_store import describe
from tests.unit.store_contract import StoreContract

pytestmark = pytest.mark.integration

PART = 5 * MIB
WEIGHTS = {
    "model-00001-of-00003.safetensors": random.Random(1).randbytes(12 * MIB + 7),
    "model-00002-of-00003.safetensors": random.Random(2).randbytes(6 * MIB),
    "model-00003-of-00003.safetensors": random.Random(3).randbytes(MIB),
}
SMALL = {
    "config.json": b'{"model_type": "qwen2"}\n',
    "empty.txt": b"",
    "nested/größe 模型.json": b"{}",
}
BIG = random.Random(5).randbytes(3 * PART_SIZE + 8 * MIB)  # four parts, as the command cuts them
CONTENTS: Mapping[str, bytes] = {**WEIGHTS, **SMALL}
FAST = Patience(base=0.01, longest=0.05)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    library = Library(root)
    library.publish("acme/pong", CONTENTS, title="Add the model")
    library.publish("acme/pong", {**CONTENTS, "config.json": b"{}"}, title="Next", branch="next")
    library.publish("acme/pong-gated", {"model.safetensors": b"weights"}, title="Add", gated="manual")
    library.publish("acme/big", {"model.safetensors": BIG, "config.json": b"{}"}, title="Add the model")
    library.publish("acme/empty", {".gitattributes": b"*.safetensors filter=lfs\n"}, title="initial commit")
    return root


@pytest.fixture
def hub(library: Path) -> Iterator[HubServer]:
    with HubServer(library, page_size=2) as server:
        yield server


@dataclass(frozen=True)
class Bench:
    """A hub, an empty bucket and how to reach both."""

    hub: HubServer
    minio: Minio
    bucket: str
    scratch: Path

    def source(self, repo_id: str = "acme/pong", revision: str = "main", token: str | None = None) -> HubSource:
        return HubSource(HubModel(repo_id, revision), HubSettings(self.hub.url, token))

    def store(self, source: HubSource) -> S3Store:
        return S3Store(S3Root(self.bucket).below(source.manifest()), self.minio.settings, least_part=PART)

    def objects(self) -> dict[str, bytes]:
        """Return every object of the bucket that is served."""
        client = self.minio.client()
        keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=self.bucket).get("Contents", [])]
        served = [key for key in keys if not key.startswith(".airfreight/")]
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in served}

    def checkpoints(self) -> list[str]:
        """Return the keys of what unfinished runs left for the next one."""
        listing = self.minio.client().list_objects_v2(Bucket=self.bucket, Prefix=".airfreight/")
        return [entry["Key"] for entry in listing.get("Contents", [])]

    def unfinished(self) -> list[str]:
        """Return the keys of multipart uploads that were neither completed nor aborted."""
        uploads = self.minio.client().list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return [upload["Key"] for upload in uploads]

    def unfinished_of(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that have an unfinished upload; MinIO lists it for the exact key alone."""
        client = self.minio.client()
        return [key for key in keys if client.list_multipart_uploads(Bucket=self.bucket, Prefix=key).get("Uploads")]

    def prefix(self, source: HubSource) -> str:
        return f"acme/pong/{source.manifest().version}/"

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the environment of a pod that runs the command."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.scratch),
            "HF_ENDPOINT": self.hub.url,
            **self.minio.environment,
            "AIRFREIGHT_TERMINATION_LOG": str(self.scratch / "termination-log"),
            **changes,
        }

    def start(self, *words: str, **changes: str) -> subprocess.Popen[str]:
        """Start the command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "airfreight.cli", *words],
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **changes: str) -> tuple[int, str, str]:
        """Run the command to its end; return exit code, stdout and stderr."""
        process = self.start(*words, **changes)
        out, error = process.communicate(timeout=120)
        return process.returncode, out, error

    def parts(self, key: str) -> int:
        """Return how many parts the unfinished upload of a key has, 0 without one."""
        client = self.minio.client()
        uploads = client.list_multipart_uploads(Bucket=self.bucket, Prefix=key).get("Uploads", [])
        return sum(
            len(client.list_parts(Bucket=self.bucket, Key=key, UploadId=upload["UploadId"]).get("Parts", []))
            for upload in uploads
        )


@pytest.fixture
def bench(hub: HubServer, minio: Minio, bucket: str, tmp_path: Path) -> Bench:
    return Bench(hub, minio, bucket, tmp_path)


class TestS3Store(StoreContract):
    """The contract, against MinIO."""

    @pytest.fixture
    def large(self) -> bytes:
        return random.Random(4).randbytes(2 * PART + 12345)

    @pytest.fixture
    def store(self, minio: Minio, bucket: str) -> S3Store:
        place = S3Root(bucket, "acme/pong/41ab6c1b1c1f/")
        return S3Store(place, minio.settings, PART, tenure=Tenure(owner="one"))

    @pytest.fixture
    def rival(self, minio: Minio, bucket: str) -> S3Store:
        place = S3Root(bucket, "acme/pong/41ab6c1b1c1f/")
        return S3Store(place, minio.settings, PART, tenure=Tenure(owner="another"))

    @pytest.fixture(autouse=True)
    def _reader(self, minio: Minio, bucket: str) -> None:
        self._client, self._bucket = minio.client(), bucket

    def read(self, store: Any, path: str) -> bytes:
        key = f"acme/pong/41ab6c1b1c1f/{path}"
        content: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        return content


def test_copy_brings_every_byte_and_the_manifest(bench: Bench) -> None:
    source = bench.source()
    result = copy(source, bench.store(source), patience=FAST)
    prefix = bench.prefix(source)
    assert bench.objects() == {
        **{prefix + path: content for path, content in CONTENTS.items()},
        prefix + "airfreight.json": source.manifest().canonical,
    }
    assert result.artifact == f"s3://{bench.bucket}/{prefix}"
    assert (result.moved_bytes, result.reused_files) == (sum(map(len, CONTENTS.values())), 0)
    assert bench.unfinished() == []


def test_objects_carry_their_digest_and_a_checksum_of_the_whole(bench: Bench) -> None:
    source = bench.source()
    copy(source, bench.store(source), patience=FAST)
    for path in WEIGHTS:
        head = bench.minio.client().head_object(
            Bucket=bench.bucket, Key=bench.prefix(source) + path, ChecksumMode="ENABLED"
        )
        assert head["Metadata"] == {"sha256": hashlib.sha256(CONTENTS[path]).hexdigest()}
        assert head["ChecksumType"] == "FULL_OBJECT"
        assert head["ChecksumCRC64NVME"]


def test_second_copy_moves_nothing(bench: Bench) -> None:
    source = bench.source()
    copy(source, bench.store(source), patience=FAST)
    bench.hub.stats.reset()
    again = bench.source()
    result = copy(again, bench.store(again), patience=FAST)
    assert (result.moved_bytes, result.reused_files) == (0, len(CONTENTS))
    assert bench.hub.stats.file_bytes == {}
    assert published(bench.store(again), again.manifest())


def test_another_commit_is_another_version(bench: Bench) -> None:
    for revision in ("main", "next"):
        source = bench.source(revision=revision)
        copy(source, bench.store(source), patience=FAST)
    assert len({key.split("/")[2] for key in bench.objects()}) == 2


def test_a_sealed_version_with_a_lost_object_is_healed(bench: Bench) -> None:
    source = bench.source()
    copy(source, bench.store(source), patience=FAST)
    lost = bench.prefix(source) + "model-00003-of-00003.safetensors"
    bench.minio.client().delete_object(Bucket=bench.bucket, Key=lost)
    assert not published(bench.store(source), source.manifest())
    result = copy(source, bench.store(source), patience=FAST)
    assert result.moved_bytes == MIB
    assert lost in bench.objects()


def test_a_corrupt_byte_makes_nothing_visible(bench: Bench) -> None:
    bench.hub.faults.add(Fault("corrupt", match="*model-00001*", after_bytes=7 * MIB))
    source = bench.source()
    right = hashlib.sha256(WEIGHTS["model-00001-of-00003.safetensors"]).hexdigest()
    with pytest.raises(IntegrityError, match=rf"model-00001.* has sha256 .{{64}}, the manifest says {right}; "):
        copy(source, bench.store(source), patience=FAST)
    prefix = bench.prefix(source)
    assert prefix + "airfreight.json" not in bench.objects()
    assert prefix + "model-00001-of-00003.safetensors" not in bench.objects()
    assert bench.unfinished() == []


def test_a_corrupt_small_file_makes_nothing_visible(bench: Bench) -> None:
    bench.hub.faults.add(Fault("corrupt", match="*config.json", after_bytes=3))
    source = bench.source()
    with pytest.raises(IntegrityError, match=r"config\.json has git_blob_id [0-9a-f]{40}, the manifest says "):
        copy(source, bench.store(source), patience=FAST)
    assert not {bench.prefix(source) + name for name in ("config.json", "airfreight.json")} & bench.objects().keys()


def test_a_cut_stream_goes_on_where_it_broke(bench: Bench) -> None:
    bench.hub.faults.add(Fault("cut", match="*model-00001*", after_bytes=8 * MIB))
    bench.hub.faults.add(Fault("cut", match="*model-00001*", after_bytes=MIB))
    source = bench.source()
    copy(source, bench.store(source), patience=FAST)
    assert (
        bench.objects()[bench.prefix(source) + "model-00001-of-00003.safetensors"]
        == WEIGHTS["model-00001-of-00003.safetensors"]
    )
    ranges = [request.range for request in bench.hub.stats.requests if request.range]
    assert len({text for text in ranges if text}) == 2
    # What was in the sockets when the connection broke is lost and sent again, no more.
    sent = bench.hub.stats.file_bytes["acme/pong/model-00001-of-00003.safetensors"]
    assert sent < len(WEIGHTS["model-00001-of-00003.safetensors"]) + 8 * MIB


def test_429_and_its_retry_after_are_obeyed(bench: Bench) -> None:
    bench.hub.faults.add(Fault("status", match="*model-00002*", status=429, retry_after_s=7))
    waits: list[float] = []
    source = bench.source()
    patience = Patience(base=0.0, wait=lambda event, seconds: waits.append(seconds))
    copy(source, bench.store(source), patience=patience)
    assert waits == [7.0]


def test_a_stall_is_noticed_and_healed(bench: Bench) -> None:
    import httpx2

    # One that is not noticed lasts longer than a test may.
    bench.hub.faults.add(Fault("stall", match="*model-00001*", after_bytes=MIB, seconds=600))
    source = HubSource(HubModel("acme/pong"), HubSettings(bench.hub.url), httpx2.Timeout(2))
    copy(source, bench.store(source), patience=FAST)
    assert bench.unfinished() == []


def test_the_token_does_not_follow_to_the_other_host(bench: Bench) -> None:
    source = bench.source("acme/pong-gated", token=DEMO_TOKEN)
    copy(source, bench.store(source), patience=FAST)
    sent = {request.path.split("/")[1]: request.token for request in bench.hub.stats.requests}
    assert sent["api"] is True
    assert sent["_cdn"] is False


@pytest.mark.parametrize(
    ("repo_id", "revision", "token", "sentence"),
    [
        ("acme/pong-gated", "main", None, "hf://acme/pong-gated is gated and no token was given: put a token of an "
         "account with access into Secret airfreight-hub, key token."),
        ("acme/pong-gated", "main", OUTSIDER_TOKEN, "the account of the token has no access: ask for it at "),
        ("acme/pong", "main", "hf_wrong", "refused the token: put a valid one into Secret airfreight-hub, key token."),
        ("acme/nothing", "main", None, "hf://acme/nothing does not exist at "),
        ("acme/nothing", "main", DEMO_TOKEN, "or the account of the token may not see it"),
        ("acme/pong", "nope", None, "hf://acme/pong has no revision 'nope': give a branch, a tag or a commit"),
        ("acme/empty", "main", None, "holds no weight file (.safetensors or .gguf)"),
    ],
)  # fmt: skip
def test_a_wrong_request_fails_at_once(
    bench: Bench, repo_id: str, revision: str, token: str | None, sentence: str
) -> None:
    source = bench.source(repo_id, revision, token)
    with pytest.raises(RequestError) as caught:
        copy(source, bench.store(source), patience=FAST)
    assert sentence in caught.value.message
    assert bench.objects() == {}


def test_a_missing_bucket_is_named(bench: Bench) -> None:
    source = bench.source()
    store = S3Store(S3Root("no-such-bucket").below(source.manifest()), bench.minio.settings)
    bench.hub.stats.reset()
    with pytest.raises(RequestError) as caught:
        copy(source, store, patience=FAST)
    assert caught.value.message == (
        f"Bucket no-such-bucket does not exist at {bench.minio.endpoint_url}: create it, or name another one in the "
        "destination."
    )
    assert bench.hub.stats.file_bytes == {}


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_credentials_are_named(bench: Bench, wrong: str) -> None:
    source = bench.source()
    keys = {"access_key": bench.minio.access_key, "secret_key": bench.minio.secret_key, wrong: "wrongwrong"}
    store = S3Store(S3Root(bench.bucket).below(source.manifest()), S3Settings(bench.minio.endpoint_url, **keys))
    with pytest.raises(RequestError) as caught:
        copy(source, store, patience=FAST)
    assert f"refused the credentials for bucket {bench.bucket} (" in caught.value.message
    assert "Secret airfreight-store" in caught.value.message
    assert "wrongwrong" not in caught.value.message
    assert bench.hub.stats.file_bytes == {}


def test_a_store_that_is_down_is_named(bench: Bench) -> None:
    source = bench.source()
    store = S3Store(S3Root(bench.bucket).below(source.manifest()), S3Settings("http://127.0.0.1:9", "key", "secret"))
    with pytest.raises(TemporaryError, match=r"The object store http://127\.0\.0\.1:9 cannot be reached"):
        copy(source, store, patience=Patience(attempts=2, base=0.0))


def test_a_foreign_manifest_is_refused(bench: Bench) -> None:
    source = bench.source()
    store = bench.store(source)
    key = bench.prefix(source) + "airfreight.json"
    bench.minio.client().put_object(Bucket=bench.bucket, Key=key, Body=describe({"a.safetensors": b"x"}).canonical)
    with pytest.raises(RequestError, match=r"already holds another manifest .*a version is never overwritten"):
        copy(source, store, patience=FAST)
    bench.minio.client().put_object(Bucket=bench.bucket, Key=key, Body=b"{}")
    with pytest.raises(RequestError, match=r"airfreight\.json is not a manifest of airfreight"):
        copy(source, store, patience=FAST)
    assert bench.hub.stats.file_bytes == {}


def test_stray_uploads_of_our_own_keys_are_cleared_and_no_others(bench: Bench) -> None:
    client: Any = bench.minio.client()
    source = bench.source()
    own = bench.prefix(source) + "model-00001-of-00003.safetensors"
    for key in (own, f"{own}.other"):
        client.create_multipart_upload(Bucket=bench.bucket, Key=key)
    copy(source, bench.store(source), patience=FAST)
    assert bench.unfinished_of([own, f"{own}.other"]) == [f"{own}.other"]


def test_a_killed_command_is_simply_run_again(bench: Bench) -> None:
    bench.hub.faults.add(Fault("stall", match="*model-00001*", after_bytes=MIB, seconds=600, times=1000))
    killed = bench.start("copy", "acme/pong", f"s3://{bench.bucket}/")
    done = ("model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors")

    def under_way() -> bool:
        """Two files are done, and all that the hub will give of the third has left it."""
        third = bench.hub.stats.file_bytes.get("acme/pong/model-00001-of-00003.safetensors", 0)
        return sum(key.endswith(done) for key in bench.objects()) == 2 and third >= MIB

    deadline = time.monotonic() + 300
    while not under_way():
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    left = bench.objects()
    assert not any(key.endswith(("airfreight.json", "model-00001-of-00003.safetensors")) for key in left)

    bench.hub.faults.clear()
    bench.hub.stats.reset()
    result = bench.scratch / "xcom" / "return.json"
    code, out, error = bench.run("copy", "acme/pong", f"s3://{bench.bucket}/", "--result", str(result))
    assert (code, error) == (0, "")
    value = json.loads(result.read_text())
    unfinished = sum(len(content) for path, content in CONTENTS.items() if not any(k.endswith(path) for k in left))
    assert value["moved_bytes"] == unfinished
    assert bench.hub.stats.weight_bytes() == len(WEIGHTS["model-00001-of-00003.safetensors"])
    assert value["reused_files"] == len(left)
    assert len(bench.objects()) == len(CONTENTS) + 1
    assert "done: 6/6 files" in out


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_a_multipart_upload_that_was_cut_off_is_never_visible_and_gone_on_with(bench: Bench, kill: bool) -> None:
    stop = 2 * PART_SIZE + MIB
    bench.hub.faults.add(Fault("stall", match="*model.safetensors", after_bytes=stop, seconds=600, times=1000))
    # A retry of a task that was terminated goes on under any name; of one that was killed at once only under its own.
    task = {"AIRFREIGHT_OWNER": "deliver_model/one/upload_to_s3"} if kill else {}
    process = bench.start("copy", "acme/big", f"s3://{bench.bucket}/", **task)
    commit = bench.source("acme/big").manifest().commit
    key = f"acme/big/{str(commit)[:12]}/model.safetensors"
    deadline = time.monotonic() + 300
    while bench.parts(key) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill() if kill else process.terminate()
    while process.poll() is None:  # a signal is seen between two chunks, and this hub sends none
        for listener in bench.hub._listeners:
            listener.end_connections()
        time.sleep(0.1)
    _, error = process.communicate()
    assert bench.objects().keys() <= {f"acme/big/{str(commit)[:12]}/config.json"}
    assert bench.unfinished_of([key]) == [key]
    if not kill:
        sentence = "Stopped by SIGTERM before the work was done: nothing half-made is visible, run it again."
        assert (process.returncode, error) == (143, f"airfreight: {sentence}\n")
        assert (bench.scratch / "termination-log").read_text() == sentence + "\n"

    bench.hub.faults.clear()
    result = bench.scratch / "return.json"
    assert bench.run("copy", "acme/big", f"s3://{bench.bucket}/", "--result", str(result), **task)[0] == 0
    assert json.loads(result.read_text())["resumed_bytes"] >= PART_SIZE
    assert bench.objects()[key] == BIG
    assert bench.objects()[f"acme/big/{str(commit)[:12]}/airfreight.json"]
    assert bench.unfinished_of([key]) == bench.checkpoints() == []


def test_the_commands_write_what_the_pods_promise(bench: Bench) -> None:
    result = bench.scratch / "return.json"
    resolve = ("resolve", "hf://acme/pong@main", "--store", f"s3://{bench.bucket}/", "--result", str(result))
    assert bench.run(*resolve)[0] == 0
    before = json.loads(result.read_text())
    commit = bench.source().manifest().commit
    plan = {"move_files": 6, "move_bytes": before["size_bytes"], "copied_files": 0, "copied_bytes": 0,
            "reused_files": 0, "reused_bytes": 0, "disk_bytes": 0, "refusals": [], "licences": [], "unsafe_files": [],
            "allow_unsafe": None}  # fmt: skip
    assert before == {
        **plan,
        "origin": f"hf://acme/pong@{commit}",
        "source": f"hf://acme/pong@{commit}",
        "repo_id": "acme/pong",
        "revision": "main",
        "commit": commit,
        "version": commit[:12],
        "files": 6,
        "size_bytes": sum(map(len, CONTENTS.values())),
        "manifest_sha256": bench.source().manifest().sha256,
        "largest_bytes": max(map(len, CONTENTS.values())),
        "artifact": f"s3://{bench.bucket}/acme/pong/{commit[:12]}/",
        "artifacts": [f"s3://{bench.bucket}/acme/pong/{commit[:12]}/"],
        "published": False,
    }
    code, _, error = bench.run("copy", before["source"], f"s3://{bench.bucket}", "--result", str(result))
    assert (code, error) == (0, "")
    copied = json.loads(result.read_text())
    assert copied.keys() == {
        "artifact", "source", "version", "commit", "manifest_sha256", "files", "size_bytes", "moved_bytes",
        "reused_files", "resumed_bytes", "seconds", "slice", "sealed", "licences", "unsafe_files", "allow_unsafe",
        "largest_bytes",
    }  # fmt: skip
    assert {key: copied[key] for key in ("artifact", "source", "manifest_sha256")} == {
        key: before[key] for key in ("artifact", "source", "manifest_sha256")
    }
    assert bench.run(*resolve)[0] == 0
    done = {"move_files": 0, "move_bytes": 0, "reused_files": 6, "reused_bytes": before["size_bytes"]}
    assert json.loads(result.read_text()) == {**before, **done, "published": True}


def test_a_failing_command_says_one_sentence(bench: Bench) -> None:
    result = bench.scratch / "return.json"
    code, _, error = bench.run("copy", "acme/pong-gated", f"s3://{bench.bucket}/", "--result", str(result))
    assert code == 2
    sentence = (bench.scratch / "termination-log").read_text()
    assert sentence.startswith("hf://acme/pong-gated is gated and no token was given: put a token of an account")
    assert error == f"airfreight: {sentence}"
    assert not result.exists()
    assert bench.run("resolve", "acme/pong-gated", "--result", str(result), HF_TOKEN=DEMO_TOKEN)[0] == 0
    assert DEMO_TOKEN not in result.read_text()
