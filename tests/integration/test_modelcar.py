"""Images of models in a real docker-registry: made from every source, read back, killed, raced and measured.

Kills against docker-registry 2.8 show that the image is right whatever happened; that release forgets an upload whose
request was cut, so how much is sent again is measured at the stand-in, which keeps it as distribution 3 does.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airfreight import cli
from airfreight.environment import RegistrySettings
from airfreight.stores.oci.reference import OciImage, parse_image
from airfreight.stores.oci.registry import OCI_INDEX, OCI_MANIFEST, Document, Repository
from devcluster.hub.faults import Fault
from devcluster.hub.repository import Library
from devcluster.hub.server import HubServer
from tests.integration.conftest import Minio
from tests.standins.registry import Registry

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
CONTENTS = {
    "model-00001-of-00003.safetensors": random.Random(1).randbytes(33 * MIB + 7),
    "model-00002-of-00003.safetensors": random.Random(2).randbytes(17 * MIB),
    "model-00003-of-00003.safetensors": random.Random(3).randbytes(9 * MIB),
    "config.json": b'{"model_type": "qwen2"}\n',
    "empty.txt": b"",
    "nested/größe 模型/ملف.json": b"{}",
}
CHANGED = {**CONTENTS, "model-00002-of-00003.safetensors": random.Random(4).randbytes(17 * MIB)}
SIZE = sum(map(len, CONTENTS.values()))
NO_LOGINS = RegistrySettings("/nonexistent/config.json")
START_TIMEOUT = 30.0  # seconds
KILLS = 12
PART = MIB
AT_ONCE = 4
# The command itself, with smaller parts: a model of tens of MiB then has as many as one of tens of GiB.
SMALL_PARTS = (
    f"import airfreight.stores.oci.uploads as uploads; uploads.PART_SIZE = {PART}; uploads.SMALL = 4096; "
    "from airfreight.cli import main; raise SystemExit(main())"
)


@dataclass(frozen=True)
class DockerRegistry:
    """A running docker-registry (distribution 2.8) and where its blobs lie."""

    host: str
    storage: Path

    def blob(self, digest: str) -> Path:
        name = digest.removeprefix("sha256:")
        return self.storage / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"

    def uploads(self) -> list[Path]:
        """Return what is left of uploads that were begun."""
        return [path for path in self.storage.glob("docker/registry/v2/repositories/**/_uploads/*") if path.is_dir()]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    directory = tmp_path_factory.mktemp("registry")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    (directory / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '{host}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", directory / "config.yml"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                with urllib.request.urlopen(f"http://{host}/v2/", timeout=5):
                    break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
                time.sleep(0.05)  # between two looks at its own address
        yield DockerRegistry(host, directory / "data")
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    library = Library(tmp_path_factory.mktemp("hub"))
    library.publish("Acme/Pong", CONTENTS, title="Add the model")
    library.publish("Acme/Pong", CHANGED, title="Next", branch="next")
    with HubServer(library.root) as server:
        yield server


@dataclass(frozen=True)
class Yard:
    """A hub, an object store, a registry and a disk, and the command line between them."""

    hub: HubServer
    minio: Minio
    registry: DockerRegistry
    scratch: Path

    def oci(self) -> str:
        """Return a fresh root in the registry."""
        return f"oci://{self.registry.host}/models-{secrets.token_hex(4)}/"

    def s3(self) -> str:
        name = f"models-{secrets.token_hex(4)}"
        self.minio.client().create_bucket(Bucket=name)
        return f"s3://{name}/team-a/"

    def directory(self) -> str:
        path = self.scratch / f"volume-{secrets.token_hex(4)}"
        path.mkdir()
        return f"file://{path}/"

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run the command and return its result."""
        result = self.scratch / "return.json"
        result.unlink(missing_ok=True)
        assert cli.main([*words, "--result", str(result)]) == code
        return dict(json.loads(result.read_text())) if result.exists() else {}

    def start(self, log: Path, *words: str, owner: str = "") -> subprocess.Popen[bytes]:
        """Start the command as a pod runs it, with small parts."""
        environment = {**os.environ, "AIRFREIGHT_OWNER": owner}
        with log.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-c", SMALL_PARTS, *words, "--result", str(log.with_suffix(".json"))],
                env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip


@pytest.fixture
def yard(
    hub: HubServer, minio: Minio, registry: DockerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Yard]:
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_", "AIRFREIGHT_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "HF_ENDPOINT": hub.url,
        "AWS_ENDPOINT_URL": minio.endpoint_url,
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "DOCKER_CONFIG": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config.json").write_text("{}")  # buildah wants one; nobody logs in
    hub.stats.reset()
    yield Yard(hub, minio, registry, tmp_path)
    hub.faults.clear()


def opened(artifact: str) -> tuple[Repository, str]:
    image = parse_image("The artifact", artifact)
    return Repository(image, NO_LOGINS), str(image.digest)


def unpacked(artifact: str) -> tuple[dict[str, bytes], list[tarfile.TarInfo]]:
    """Unpack all layers one over the other, as a container sees them."""
    repository, digest = opened(artifact)
    found: dict[str, bytes] = {}
    members: list[tarfile.TarInfo] = []
    for layer in json.loads(repository.document(digest).data)["layers"]:
        with tarfile.open(fileobj=io.BytesIO(repository.read_blob(layer["digest"], 2**30))) as tar:
            members += tar.getmembers()
            found |= {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    return {name.removeprefix("models/"): data for name, data in found.items()}, members


def check_whole(artifact: str, contents: dict[str, bytes] = CONTENTS) -> None:
    found, members = unpacked(artifact)
    found.pop("airfreight.json")
    assert found == contents
    assert all(member.mode == (0o755 if member.isdir() else 0o644) for member in members)
    assert all((member.uid, member.gid, member.mtime) == (0, 0, 0) for member in members)


def put(place: str, contents: dict[str, bytes], mode: int = 0o644) -> None:
    for path, content in contents.items():
        target = Path(place.removeprefix("file://")) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)


def put_base(registry: DockerRegistry, architectures: tuple[str, ...] = ("amd64", "arm64")) -> str:
    """Push a small base, an index with attestations as BuildKit makes it; return it by digest."""
    image = OciImage(registry.host, f"bases-{secrets.token_hex(4)}/tiny")
    repository = Repository(image, NO_LOGINS)
    entries = []
    for architecture in (*architectures, "unknown"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            info = tarfile.TarInfo("bin/sh")
            info.size, info.mode = len(architecture), 0o755
            tar.addfile(info, io.BytesIO(architecture.encode()))
        layer = repository.put_blob(buffer.getvalue())
        config = {
            "architecture": architecture, "os": "unknown" if architecture == "unknown" else "linux",
            "config": {"Cmd": ["sh"], "User": "65532:65532"}, "rootfs": {"type": "layers", "diff_ids": [layer]},
            "history": [{"created_by": "COPY / /"}],
        }  # fmt: skip
        data = json.dumps(config).encode()
        document = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": repository.put_blob(data),
                       "size": len(data)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer,
                        "size": len(buffer.getvalue())}],
        }  # fmt: skip
        made = Document(OCI_MANIFEST, json.dumps(document).encode())
        repository.put_document(made)
        entries.append(
            {"mediaType": OCI_MANIFEST, "digest": made.digest, "size": len(made.data),
             "platform": {"architecture": architecture, "os": config["os"]}}
        )  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return image.at(repository.put_document(Document(OCI_INDEX, json.dumps(index).encode()))).name


def test_every_source_gives_one_image_and_every_destination_takes_it_back(
    yard: Yard, capsys: pytest.CaptureFixture[str]
) -> None:
    first = yard.run("copy", "Acme/Pong", yard.oci())
    assert "Acme/Pong goes to the repository models-" in capsys.readouterr().out
    assert first["artifact"].startswith(f"oci://{yard.registry.host}/models-")
    assert "/acme/pong@sha256:" in first["artifact"]
    assert (first["moved_bytes"], first["reused_files"], first["tag"]) == (SIZE, 0, first["version"])
    assert SIZE < first["sent_bytes"] < SIZE + 64 * 1024
    check_whole(first["artifact"])
    for place in (yard.s3(), yard.directory()):
        taken = yard.run("copy", first["artifact"], place)
        assert taken["manifest_sha256"] == first["manifest_sha256"]
        assert yard.run("verify", taken["artifact"])["good"]
        again = yard.run("copy", taken["artifact"], yard.oci())
        assert again["image_digest"] == first["image_digest"], "one digest, wherever it comes from"
    found = yard.run("verify", first["artifact"])
    assert (found["good"], found["files"], found["read_bytes"]) == (True, len(CONTENTS), SIZE)


def test_two_directories_that_only_their_owner_can_read(yard: Yard) -> None:
    digests = set()
    for _ in range(2):
        place = yard.run("copy", "Acme/Pong", yard.directory())["artifact"]
        for path in Path(place.removeprefix("file://")).rglob("*"):
            if path.is_file():
                path.chmod(0o600)
                os.utime(path, (random.randrange(10**9), random.randrange(10**9)))
        copied = yard.run("copy", place, yard.oci())
        check_whole(copied["artifact"])
        digests.add(copied["image_digest"])
    assert len(digests) == 1


def test_the_second_run_sends_nothing_and_a_bump_only_the_changed_shard(yard: Yard) -> None:
    root, ledger = yard.oci(), yard.directory()
    first = yard.run("copy", "Acme/Pong", root, "--ledger", ledger)
    yard.hub.stats.reset()
    started = time.monotonic()
    again = yard.run("copy", "Acme/Pong", root, "--ledger", ledger)
    assert time.monotonic() - started < 5
    assert (again["moved_bytes"], again["sent_bytes"], again["reused_files"]) == (0, 0, len(CONTENTS))
    assert again["artifact"] == first["artifact"]
    assert yard.hub.stats.file_bytes == {}
    plan = yard.run("resolve", "Acme/Pong@next", "--store", root, "--ledger", ledger)
    changed = len(CHANGED["model-00002-of-00003.safetensors"])
    assert (plan["move_files"], plan["move_bytes"], plan["published"]) == (1, changed, False)
    bump = yard.run("copy", "Acme/Pong@next", root, "--ledger", ledger)
    assert bump["moved_bytes"] == changed
    assert changed < bump["sent_bytes"] < changed + 64 * 1024
    check_whole(bump["artifact"], CHANGED)
    found = yard.run("resolve", "Acme/Pong@next", "--store", root, "--store", yard.s3(), "--ledger", ledger)
    assert found["artifacts"][0] == found["artifact"] == bump["artifact"]
    assert (found["artifacts"][1].startswith("s3://"), found["published"]) == (True, False)


def test_without_a_ledger_the_earlier_image_tells_the_same(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    root = yard.oci()
    yard.run("copy", "Acme/Pong", root)
    assert "no --ledger: a layer that is interrupted is sent again from its beginning" in capsys.readouterr().out
    assert yard.run("copy", "Acme/Pong@next", root)["moved_bytes"] == len(CHANGED["model-00002-of-00003.safetensors"])


def test_on_a_base_each_platform_gets_an_image(yard: Yard) -> None:
    base = put_base(yard.registry)
    copied = yard.run("copy", "Acme/Pong", yard.oci(), "--base", base)
    name = copied["artifact"].removeprefix("oci://")
    index = json.loads(skopeo("inspect", "--raw", f"docker://{name}"))
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == ["amd64", "arm64"]
    for architecture in ("amd64", "arm64"):
        config = json.loads(skopeo("--override-arch", architecture, "inspect", "--config", f"docker://{name}"))
        assert (config["architecture"], config["config"]["User"]) == (architecture, "65532:65532")
    check = yard.run("verify", copied["artifact"])
    assert check["good"]
    same = yard.run("copy", "Acme/Pong", yard.oci(), "--base", base)
    assert same["image_digest"] == copied["image_digest"]
    root = copied["artifact"].partition("acme/pong@")[0]
    assert yard.run("copy", "Acme/Pong", root, "--base", base)["sent_bytes"] == 0
    assert yard.run("copy", "Acme/Pong", root, code=2) == {}


def skopeo(*words: str) -> str:
    return subprocess.run(
        ["skopeo", *words, "--tls-verify=false"], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_skopeo_reads_what_was_written(yard: Yard, tmp_path: Path) -> None:
    copied = yard.run("copy", "Acme/Pong", yard.oci())
    name = copied["artifact"].removeprefix("oci://")
    target = tmp_path / "layout"
    subprocess.run(
        ["skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", f"docker://{name}", f"oci:{target}:x"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (entry,) = json.loads((target / "index.json").read_text())["manifests"]
    assert entry["digest"] == copied["image_digest"]
    for path in (target / "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_buildah_mounts_the_same_files(yard: Yard, tmp_path: Path) -> None:
    copied = yard.run("copy", "Acme/Pong", yard.oci(), "--base", put_base(yard.registry))
    name = copied["artifact"].removeprefix("oci://")
    buildah = ["buildah", "--root", tmp_path / "root", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]

    def ask(*words: str) -> str:
        done = subprocess.run([*buildah, *words], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    container = ask("from", "--tls-verify=false", f"docker://{name}")
    try:
        models = Path(ask("mount", container)) / "models"
        found = {str(path.relative_to(models)): path for path in models.rglob("*") if path.is_file()}
        assert {path: file.read_bytes() for path, file in found.items() if path != "airfreight.json"} == CONTENTS
        assert all(file.stat().st_mode & 0o777 == 0o644 for file in found.values())
    finally:
        ask("rm", container)
        shutil.rmtree(tmp_path / "root", ignore_errors=True)


def test_a_damaged_registry_is_found_by_verify(yard: Yard, capsys: pytest.CaptureFixture[str]) -> None:
    copied = yard.run("copy", "Acme/Pong", yard.oci())
    repository, digest = opened(copied["artifact"])
    layer = json.loads(repository.document(digest).data)["layers"][1]
    with yard.registry.blob(layer["digest"]).open("r+b") as blob:
        blob.seek(layer["size"] // 2)
        byte = blob.read(1)
        blob.seek(layer["size"] // 2)
        blob.write(bytes([byte[0] ^ 1]))
    try:
        assert yard.run("verify", copied["artifact"], code=3)["wrong"] == ["model-00002-of-00003.safetensors"]
        out, error = capsys.readouterr()
        assert "wrong    model-00002-of-00003.safetensors has sha256 " in out
        assert "(1 wrong, 0 missing, 0 extra): remove the image, have the registry's disks checked, and" in error
    finally:
        with yard.registry.blob(layer["digest"]).open("r+b") as blob:
            blob.seek(layer["size"] // 2)
            blob.write(byte)


@pytest.mark.parametrize("where", ["same registry", "another"])
def test_a_mirrored_image_keeps_its_digest(yard: Yard, where: str) -> None:
    first = yard.run("copy", "Acme/Pong", yard.oci(), "--base", put_base(yard.registry))
    by_tag = first["artifact"].partition("@")[0] + ":" + first["tag"]
    with Registry() as other:
        root = yard.oci() if where == "same registry" else f"oci://{other.host}/mirror/"
        assert not yard.run("resolve", by_tag, "--store", root)["published"]
        copied = yard.run("copy", by_tag, root)
        assert copied["image_digest"] == first["image_digest"]
        assert (copied["moved_bytes"] == 0) == (where == "same registry")
        assert yard.run("verify", copied["artifact"])["good"]
        planned = yard.run("resolve", by_tag, "--store", root)
        assert (planned["published"], planned["artifact"]) == (True, copied["artifact"])
        assert yard.run("copy", by_tag, root)["moved_bytes"] == 0
        other_version = yard.run("copy", "Acme/Pong@next", yard.oci())["artifact"]
        taken = copied["artifact"].partition("@")[0] + ":" + copied["tag"]
        assert yard.run("copy", other_version, taken, code=2) == {}


def test_slices_are_sealed_together(yard: Yard) -> None:
    root, ledger, moved = yard.oci(), yard.s3(), 0
    commit = yard.run("resolve", "Acme/Pong")["source"]
    assert yard.run("copy", commit, root, "--slice", "1/3", code=2) == {}, "without a ledger"
    for index in (1, 2, 3):
        share = yard.run("copy", commit, root, "--slice", f"{index}/3", "--ledger", ledger)
        assert (share["sealed"], share["image_digest"]) == (False, None)
        moved += share["moved_bytes"]
    assert moved == SIZE
    sealed = yard.run("seal", commit, root, "--ledger", ledger)
    assert sealed["image_digest"] == yard.run("copy", commit, yard.oci())["image_digest"]
    check_whole(sealed["artifact"])


def kill_until_done(yard: Yard, root: str, ledger: str, seed: int, kills: int = KILLS) -> tuple[dict[str, Any], int]:
    """Run the copy, killing it at moments drawn from a seed, until it ends; return its result and the kills."""
    chance = random.Random(seed)
    log = yard.scratch / "log"
    yard.hub.faults.add(Fault("slow", match="*.safetensors", bytes_per_second=30_000_000, times=1000))
    killed = 0
    while True:
        yard.hub.stats.reset()
        process = yard.start(log, "copy", "Acme/Pong", root, "--ledger", ledger, owner="the-task")
        point, pause = chance.randrange(14 * MIB), chance.choice([0.0, 0.02, 0.1])
        if killed < kills:
            while yard.hub.stats.weight_bytes() <= point and process.poll() is None:
                time.sleep(0.002)
            time.sleep(pause)
            process.kill()
        code = process.wait(120)
        assert code in {0, -signal.SIGKILL}, log.read_text()
        if code == 0:
            return json.loads(log.with_suffix(".json").read_text()), killed
        killed += 1


@pytest.mark.parametrize("ledger", ["directory", "s3"])
def test_killed_at_many_moments_against_docker_registry(yard: Yard, ledger: str) -> None:
    place = yard.directory() if ledger == "directory" else yard.s3()
    expected = yard.run("copy", "Acme/Pong", yard.oci())["image_digest"]
    result, killed = kill_until_done(yard, yard.oci(), place, seed=20261122, kills=KILLS // 2)
    assert killed > 0
    assert result["image_digest"] == expected
    check_whole(result["artifact"])


@pytest.mark.parametrize("ledger", ["directory", "s3"])
def test_killed_at_many_moments_no_more_than_a_part_is_sent_again(yard: Yard, ledger: str) -> None:
    place = yard.directory() if ledger == "directory" else yard.s3()
    with Registry() as registry:
        root = f"oci://{registry.host}/models/"
        result, killed = kill_until_done(yard, root, place, seed=20261123)
        assert killed >= KILLS // 2
        sent = registry.received("PATCH") + registry.received("PUT")
        documents = sum(len(data) for _, data in registry.manifests.values())
        again = sent - documents - sum(map(len, registry.blobs.values()))
        assert again <= killed * AT_ONCE * PART
        assert registry.uploads == {}
        check_whole(result["artifact"])


def test_two_runs_at_once_make_one_image(yard: Yard) -> None:
    root, ledger = yard.oci(), yard.directory()
    yard.hub.faults.add(Fault("slow", match="*.safetensors", bytes_per_second=12_000_000, times=1000))
    logs = [yard.scratch / "a.log", yard.scratch / "b.log"]
    runs = [yard.start(log, "copy", "Acme/Pong", root, "--ledger", ledger, owner=log.stem) for log in logs]
    codes = [run.wait(180) for run in runs]
    assert 0 in codes and set(codes) <= {0, 75}, [log.read_text() for log in logs]
    for code, log in zip(codes, logs, strict=True):
        if code == 75:
            assert log.read_text().splitlines()[-1].startswith("airfreight: Another run (")
    moved = [json.loads(path.read_text())["moved_bytes"] for log in logs if (path := log.with_suffix(".json")).exists()]
    assert sum(moved) <= SIZE + 1024, "no weight file was carried twice"
    yard.hub.faults.clear()
    done = yard.run("copy", "Acme/Pong", root, "--ledger", ledger)
    assert done["sent_bytes"] == 0
    check_whole(done["artifact"])


def test_memory_does_not_grow_with_the_model(yard: Yard) -> None:
    """Six files of 128 MiB, four at a time, in parts of 16 MiB: at most 256 MiB of memory."""
    place = Path(yard.directory().removeprefix("file://")) / "acme/large"
    place.mkdir(parents=True)
    block = random.Random(5).randbytes(8 * MIB)
    for number in range(6):
        with (place / f"model-{number}.safetensors").open("wb") as file:
            file.write(number.to_bytes(8, "big"))
            for _ in range(16):
                file.write(block)
    words = ["copy", f"file://{place}/", yard.oci(), "--ledger", yard.s3()]
    # VmHWM of proc(5): what getrusage tells counts the parent before the exec too.
    script = (
        "from airfreight.cli import main; code = main(); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))); raise SystemExit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    peak = int(done.stdout.partition("VmHWM:")[2].split()[0]) * 1024
    assert peak <= 256 * MIB, f"{peak // MIB} MiB"


def test_500_small_files_again_cost_under_five_seconds(yard: Yard) -> None:
    place = f"{yard.directory()}acme/many/"
    put(place, {f"part-{number:03}/größe {number}.json": b"x" * number for number in range(500)}, mode=0o600)
    put(place, {"model.safetensors": b"weights"})
    root, ledger = yard.oci(), yard.directory()
    first = yard.run("copy", place, root, "--ledger", ledger)
    started = time.monotonic()
    again = yard.run("copy", place, root, "--ledger", ledger)
    assert time.monotonic() - started < 5
    assert (again["sent_bytes"], again["artifact"]) == (0, first["artifact"])
    found, _ = unpacked(first["artifact"])
    assert len(found) == 502
