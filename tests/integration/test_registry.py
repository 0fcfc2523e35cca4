"""The client of registries against a real one, Debian's docker-registry, read back by skopeo and buildah."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError
from airfreight.reading import FolderSource
from airfreight.retry import LostError, Patience
from airfreight.stores.oci.folder import OciFolder
from airfreight.stores.oci.mirror import mirror
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Document,
    Repository,
)
from tests.integration.registries import RealRegistry, running
from tests.standins.images import sha256, tar

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
PART = 4 * MIB
WEIGHTS = random.Random(1).randbytes(3 * PART + 12_345)
MODEL = {"model.safetensors": WEIGHTS, "config.json": b'{"model_type": "qwen2"}\n', "nested/größe 模型.json": b"{}"}
FAST = Patience(base=0.01, longest=0.05)
# $2b$05$ and 22 characters of salt: bcrypt as cheap as it gets
HASHED = "import crypt, sys; print(crypt.crypt(sys.argv[1], '$2b$05$abcdefghijklmnopqrstuu'))"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with running(tmp_path_factory.mktemp("other")) as registry:
        yield registry


@pytest.fixture
def open_at(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Repository]:
    """Open a repository of this test's own, unless a name is given."""

    def opened(registry: RealRegistry, name: str | None = None, login_file: Path | None = None) -> Repository:
        own = name or request.node.originalname.replace("_", "-")
        return Repository(OciImage(registry.host, own), RegistrySettings(str(login_file or tmp_path / "none")))

    return opened


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def push(repository: Repository, data: bytes) -> str:
    upload = repository.begin_upload(len(data))
    for at in range(0, len(data), PART):
        upload.append(data[at : at + PART], at)
    upload.finish(digest_of(data))
    return digest_of(data)


def push_image(repository: Repository, tag: str | None = None, platform: str = "amd64") -> str:
    """Push the model as an image that container tools can unpack, and return its digest."""
    layers = [
        tar({"models/model.safetensors": MODEL["model.safetensors"]}),
        tar({f"models/{name}": data for name, data in MODEL.items() if name != "model.safetensors"}),
    ]
    config = {
        "architecture": platform,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": OCI_CONFIG,
            "digest": repository.put_blob(json.dumps(config).encode()),
            "size": len(json.dumps(config)),
        },
        "layers": [{"mediaType": OCI_LAYER, "digest": push(repository, layer), "size": len(layer)} for layer in layers],
    }
    return repository.put_document(Document(OCI_MANIFEST, json.dumps(manifest).encode()), tag)


def run(*command: str | Path, cwd: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "TMPDIR": str(cwd), "XDG_RUNTIME_DIR": str(cwd)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chunks_and_ranges(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    repository = open_at(registry)
    repository.ping()
    digest = push(repository, WEIGHTS)
    assert repository.blob_size(digest) == len(WEIGHTS)
    assert b"".join(repository.open_blob(digest, len(WEIGHTS))) == WEIGHTS
    assert b"".join(repository.open_blob(digest, len(WEIGHTS), 5_000_001, 9_000_000)) == WEIGHTS[5_000_001:9_000_000]
    assert repository.blob_size(digest_of(b"nothing")) is None
    assert not registry.uploads(repository.image.repository)


def test_one_body_of_several_chunks(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    """As for a registry that refuses chunks."""
    repository = open_at(registry)
    repository._wire.shared.takes_chunks = False
    assert repository.blob_size(push(repository, WEIGHTS)) == len(WEIGHTS)


def test_an_upload_goes_on_in_another_process(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    upload = open_at(registry).begin_upload(len(WEIGHTS))
    upload.append(WEIGHTS[:PART], 0)
    upload.release()
    upload = open_at(registry).resume_upload(upload.location, len(WEIGHTS))
    assert upload.offset == PART
    upload.append(WEIGHTS[PART:], PART)
    upload.finish(digest_of(WEIGHTS))
    assert open_at(registry).blob_size(digest_of(WEIGHTS)) == len(WEIGHTS)


def test_a_chunk_that_broke_half_way_is_noticed(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    """distribution 2.8 forgets the upload then; 3 goes on, which the stand-in shows (tests/unit)."""
    repository = open_at(registry)
    upload = repository.begin_upload(len(WEIGHTS))
    upload.append(WEIGHTS[:PART], 0)
    broken = http.client.HTTPConnection(registry.host)
    broken.putrequest("PATCH", upload.location.removeprefix(f"http://{registry.host}"))
    broken.putheader("Content-Length", str(PART))
    broken.endheaders(WEIGHTS[PART : PART + MIB])
    broken.close()
    upload._doubtful = True
    try:
        upload.append(WEIGHTS[PART:], PART)
        upload.finish(digest_of(WEIGHTS))  # it had not yet noticed anything of that chunk
    except LostError as error:
        assert "this layer is sent again from its beginning" in error.message
        push(repository, WEIGHTS)
    assert b"".join(repository.open_blob(digest_of(WEIGHTS), len(WEIGHTS))) == WEIGHTS


def test_wrong_bytes_are_never_visible(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    repository = open_at(registry)
    data = random.Random(7).randbytes(MIB)
    upload = repository.begin_upload(len(data))
    upload.append(data, 0)
    with pytest.raises(IntegrityError, match="computed another digest when asked to push to"):
        upload.finish(digest_of(b"other"))
    assert not registry.blobs() & {digest_of(data), digest_of(b"other")}


def test_an_upload_that_was_dropped(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    repository = open_at(registry)
    upload = repository.begin_upload(len(WEIGHTS))
    upload.append(WEIGHTS[:PART], 0)
    assert registry.uploads(repository.image.repository)
    upload.cancel()
    assert not registry.uploads(repository.image.repository)
    with pytest.raises(LostError):
        repository.resume_upload(upload.location, len(WEIGHTS))


def test_mounts(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    digest = push(open_at(registry, "from/here"), WEIGHTS[:MIB])
    repository = open_at(registry)
    assert repository.mount(digest, "from/here")
    assert repository.blob_size(digest) == MIB
    assert not repository.mount(digest_of(b"nothing"), "from/here")
    assert not registry.uploads(repository.image.repository)


def test_documents_and_tags(registry: RealRegistry, open_at: Callable[..., Repository]) -> None:
    repository = open_at(registry)
    assert repository.tags() == []
    digest = push_image(repository, "v1")
    push_image(repository, "v2")
    assert repository.tags() == ["v1", "v2"]
    described = repository.describe("v1")
    assert described is not None
    assert (described.digest, described.media_type) == (digest, OCI_MANIFEST)
    assert repository.document("v2").digest == repository.resolve(digest) == digest
    with pytest.raises(RequestError, match=r":v3 does not exist: check the repository and the tag"):
        repository.resolve("v3")


def hashed(password: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", HASHED, password]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def write_login(login_file: Path, registry: RealRegistry, password: str) -> None:
    auth = base64.b64encode(f"me:{password}".encode()).decode()
    login_file.write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))


def test_a_password_that_is_exchanged_during_an_upload(tmp_path: Path, open_at: Callable[..., Repository]) -> None:
    login_file = tmp_path / "config.json"
    with running(tmp_path, f"me:{hashed('s3cret')}") as registry:
        write_login(login_file, registry, "s3cret")
        repository = open_at(registry, login_file=login_file)
        upload = repository.begin_upload(len(WEIGHTS))
        upload.append(WEIGHTS[:PART], 0)
        (tmp_path / "htpasswd").write_text(f"me:{hashed('n3xt')}\n")
        with pytest.raises(RequestError, match="refused the login 'me'"):
            open_at(registry, login_file=login_file).begin_upload(1)
        write_login(login_file, registry, "n3xt")
        FAST.call(lambda: upload.append(WEIGHTS[PART:], PART))  # the refusal may close the connection under a body
        upload.finish(digest_of(WEIGHTS))
        assert repository.blob_size(digest_of(WEIGHTS)) == len(WEIGHTS)


def test_a_login(tmp_path: Path, open_at: Callable[..., Repository]) -> None:
    login_file = tmp_path / "config.json"
    with running(tmp_path, f"me:{hashed('s3cret')}") as registry:
        with pytest.raises(RequestError, match="wants a login to pull from"):
            open_at(registry).resolve("v1")
        for password, fits in (("wrong", False), ("s3cret", True)):
            write_login(login_file, registry, password)
            repository = open_at(registry, login_file=login_file)
            if fits:
                assert repository.resolve(push_image(repository))
            else:
                with pytest.raises(RequestError, match=r"refused the login 'me' of .*config\.json to push to"):
                    repository.begin_upload(1)


class TestMirror:
    def test_read_back_by_skopeo_and_buildah(
        self, registry: RealRegistry, other: RealRegistry, open_at: Callable[..., Repository], tmp_path: Path
    ) -> None:
        digest = push_image(open_at(registry), "v1")
        target = open_at(other, "mirror/pong")
        done = mirror(open_at(registry), "v1", target, "v1", FAST)
        assert done.image.digest == digest
        assert not other.uploads("mirror/pong")

        inspected = json.loads(
            run("skopeo", "inspect", "--tls-verify=false", f"docker://{done.image.name}", cwd=tmp_path)
        )
        assert inspected["Digest"] == digest
        run("skopeo", "copy", "--src-tls-verify=false", f"docker://{done.image.name}", "dir:read", cwd=tmp_path)
        for layer in inspected["Layers"]:
            name = layer.removeprefix("sha256:")
            assert sha256((tmp_path / "read" / name).read_bytes()) == name

        storage = ["buildah", "--root", "root", "--runroot", "run", "--storage-driver", "vfs"]
        made = run(*storage, "from", "--tls-verify=false", f"docker://{done.image.name}", cwd=tmp_path).strip()
        mounted = Path(run(*storage, "mount", made, cwd=tmp_path).strip())
        files = {str(path.relative_to(mounted / "models")): path for path in mounted.glob("models/**/*")}
        found = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
        run(*storage, "rm", made, cwd=tmp_path)
        assert found == MODEL

    def test_a_blob_that_was_lost_on_the_destinations_disk_is_sent_again(
        self, registry: RealRegistry, other: RealRegistry, open_at: Callable[..., Repository]
    ) -> None:
        source, target = open_at(registry), open_at(other)
        digest = push_image(source, "v1")
        mirror(source, "v1", target, "v1", FAST)
        layer = json.loads(target.document(digest).data)["layers"][0]
        name = layer["digest"].removeprefix("sha256:")
        (other.storage / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data").unlink()
        done = mirror(source, "v1", target, "v1", FAST)
        assert (done.moved_bytes, done.reused_blobs) == (layer["size"], 2)
        assert digest_of(b"".join(target.open_blob(layer["digest"], layer["size"]))) == layer["digest"]

    def test_an_index_and_the_next_version(
        self, registry: RealRegistry, other: RealRegistry, open_at: Callable[..., Repository]
    ) -> None:
        source, target = open_at(registry), open_at(other)
        entries = [
            {
                "mediaType": OCI_MANIFEST,
                "digest": push_image(source, platform=platform),
                "size": len(source.document(push_image(source, platform=platform)).data),
                "platform": {"os": "linux", "architecture": platform},
            }
            for platform in ("amd64", "arm64")
        ]
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        digest = source.put_document(Document(OCI_INDEX, data), "v1")
        done = mirror(source, "v1", target, "v1", FAST)
        assert (done.image.digest, done.blobs, done.reused_blobs) == (digest, 4, 0)
        assert target.resolve("v1") == digest
        again = mirror(source, "v1", target, "v2", FAST)
        assert (again.moved_bytes, again.reused_blobs) == (0, 4)
        next_door = mirror(target, "v1", open_at(other, "next/door"), "v1", FAST)
        assert (next_door.moved_bytes, next_door.mounted_blobs) == (0, 4)


MIRROR = """
import json, pathlib, re, sys
from airfreight.environment import RegistrySettings
from airfreight.stores.oci.mirror import mirror
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Repository
source, target = (OciImage(host, "big/pong") for host in sys.argv[1:3])
settings = RegistrySettings("/none")
done = mirror(Repository(source, settings), "v1", Repository(target, settings), "v1")
peak = int(re.search(r"VmHWM:\\s*([0-9]+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([done.image.digest, done.moved_bytes, done.reused_blobs, peak]))
"""


class TestLargeMirror:
    """In a process of its own, which can be killed and measured."""

    LAYERS = 6
    SIZE = 48 * MIB

    @pytest.fixture(scope="class")
    @classmethod
    def digest(cls, registry: RealRegistry) -> str:
        repository = Repository(OciImage(registry.host, "big/pong"), RegistrySettings("/none"))
        layers = [push(repository, random.Random(number).randbytes(cls.SIZE)) for number in range(cls.LAYERS)]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": repository.put_blob(b"{}"), "size": 2},
            "layers": [{"mediaType": OCI_LAYER, "digest": layer, "size": cls.SIZE} for layer in layers],
        }
        return repository.put_document(Document(OCI_MANIFEST, json.dumps(manifest).encode()), "v1")

    def test_killed_and_run_again(self, registry: RealRegistry, digest: str, tmp_path: Path) -> None:
        command = [sys.executable, "-c", MIRROR, registry.host]
        with running(tmp_path) as target:
            first = subprocess.Popen([*command, target.host], stdout=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not target.blobs() and first.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)  # between two looks at what is visible there
            first.kill()
            first.wait()
            arrived = len(target.blobs())
            assert arrived
            again = subprocess.run([*command, target.host], stdout=subprocess.PIPE, text=True, check=True)
            found, moved, reused, peak = json.loads(again.stdout)
            assert found == digest
            assert reused >= arrived
            assert moved <= (self.LAYERS + 1 - reused) * self.SIZE
            assert peak < 256 * MIB
            repository = Repository(OciImage(target.host, "big/pong"), RegistrySettings("/none"))
            for layer in repository.document("v1").data.split(b'"sha256:')[1:]:
                blob = f"sha256:{layer[:64].decode()}"
                size = repository.blob_size(blob)
                assert size is not None
                assert digest_of(b"".join(repository.open_blob(blob, size))) == blob


def test_an_image_of_another_tool_as_a_source(
    registry: RealRegistry, open_at: Callable[..., Repository], tmp_path: Path
) -> None:
    """Built by buildah and pushed with its gzip layers; read in whole once, then file by file."""
    for name, data in MODEL.items():
        (tmp_path / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "models" / name).write_bytes(data)
    image = OciImage(registry.host, "acme/foreign", tag="v1")
    storage = ["buildah", "--root", "root", "--runroot", "run", "--storage-driver", "vfs"]
    made = run(*storage, "from", "scratch", cwd=tmp_path).strip()
    run(*storage, "copy", made, "models", "/models", cwd=tmp_path)
    run(*storage, "commit", "--rm", made, "pong", cwd=tmp_path)
    run(*storage, "push", "--tls-verify=false", "pong", f"docker://{image.name}", cwd=tmp_path)
    repository = open_at(registry, image.repository)
    assert b"gzip" in repository.document("v1").data, "buildah compresses what it pushes"

    source = FolderSource(OciFolder(image, RegistrySettings(str(tmp_path / "none"))), FAST)
    manifest = source.manifest()
    assert {file.path: file.sha256 for file in manifest.files} == {name: sha256(data) for name, data in MODEL.items()}
    for file in manifest.files:
        half = file.size // 2
        assert b"".join(source.open(file, half)) == MODEL[file.path][half:]
