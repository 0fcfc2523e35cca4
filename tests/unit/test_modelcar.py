"""A model's image by buildah: from a directory into a registry, with a stand-in for either."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airfreight import cli, prechecks
from airfreight.buildah import Buildah
from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.manifest import MANIFEST_NAME, Manifest, ManifestFile
from airfreight.modelcar import Built, ModelcarBuild
from airfreight.progress import Progress
from airfreight.reading import FolderSource
from airfreight.retry import Patience
from airfreight.source import DirectoryRoot
from airfreight.stores.directory_source import DirectoryFolder
from airfreight.stores.oci.base import BaseSource, parse_base
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import OCI_CONFIG, OCI_MANIFEST, Document, Repository
from tests.standins.registry import Fault, Registry
from tests.unit.fake_buildah import log, told, work

__all__ = ["log", "work"]  # fixtures

SETTINGS = RegistrySettings("/nonexistent/config.json")
FAST = Patience(base=0.001, longest=0.002)
COMMIT = "41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50"
CONTENTS = {
    "config.json": b"{}",
    "model-1.safetensors": bytes(range(256)) * 300,
    "model-2.safetensors": b"second" * 1000,
    "sub/empty.txt": b"",
    "ünï [1] *.txt": b"a name",
}


def describe(contents: dict[str, bytes], commit: str = COMMIT) -> Manifest:
    """The manifest of files by their content."""
    files = [ManifestFile(path, len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in contents.items()]
    return Manifest.of(f"hf://acme/Pong@{commit}", "acme/Pong", commit, files)


def lay(directory: Path, contents: dict[str, bytes], manifest: Manifest) -> Path:
    """Files on a disk as a copy leaves them, readable by their owner alone."""
    for path, data in contents.items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(0o600)
    (directory / MANIFEST_NAME).write_bytes(manifest.canonical)
    return directory


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with a base in it."""
    with Registry() as made:
        yield made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model in a directory."""
    return lay(tmp_path / "model", CONTENTS, describe(CONTENTS))


def put_base(registry: Registry) -> OciImage:
    """A base of one layer."""
    layer = b"a base's layer"
    digest = registry.put_blob("base", layer)
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}})
    described = {"mediaType": OCI_CONFIG, "digest": registry.put_blob("base", config.encode()), "size": len(config)}
    layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": len(layer)}]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers}
    found = registry.put_manifest("base", OCI_MANIFEST, json.dumps(manifest).encode())
    return parse_base(f"{registry.host}/base@{found}")


def build(registry: Registry, directory: Path, place: Path, *, tag: str = "v1", base: OciImage | None = None) -> Built:
    """One build, in a working directory of its own."""
    target = Repository(OciImage(registry.host, "models/acme/pong"), SETTINGS)
    place.mkdir(parents=True, exist_ok=True)
    ground = BaseSource(base, Repository(base, SETTINGS)) if base is not None else None
    source = FolderSource(DirectoryFolder(DirectoryRoot(f"{directory}/")))
    quiet = Progress(write=lambda _: None)
    return ModelcarBuild(source, target, tag, ground, Buildah(place), quiet, FAST, lambda _: None).run()


def image_of(registry: Registry, tag: str) -> tuple[Document, dict[str, object]]:
    """An image manifest by its tag."""
    document = Repository(OciImage(registry.host, "models/acme/pong"), SETTINGS).document(tag)
    return document, json.loads(document.data)


def entries(registry: Registry, digest: str) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """What is in one layer."""
    with tarfile.open(fileobj=io.BytesIO(registry.blobs[digest])) as archive:
        return {
            entry.name: (entry, reader.read() if (reader := archive.extractfile(entry)) else b"")
            for entry in archive.getmembers()
        }


def test_the_image_holds_the_model_and_says_what_it_is(log: Path, work: Path, registry: Registry, model: Path) -> None:
    base = put_base(registry)
    built = build(registry, model, work, base=base)
    document, image = image_of(registry, "v1")
    assert built.artifact == f"oci://{registry.host}/models/acme/pong@{document.digest}"
    manifest = describe(CONTENTS)
    assert image["annotations"] == {
        "airfreight.dev/source": manifest.source,
        "airfreight.dev/commit": COMMIT,
        "airfreight.dev/version": COMMIT[:12],
        "airfreight.dev/manifest-sha256": manifest.sha256,
        "airfreight.dev/recipe": "buildah/1.28.2",
        "airfreight.dev/base": base.digest,
    }
    of_base, *layers = image["layers"]  # type: ignore[misc]
    assert registry.blobs[of_base["digest"]] == b"a base's layer"
    assert [layer["annotations"].get("org.opencontainers.image.title") for layer in layers] == [
        "model-1.safetensors", "model-2.safetensors", None, MANIFEST_NAME,
    ]  # fmt: skip
    found = {
        name: (entry, data) for layer in layers for name, (entry, data) in entries(registry, layer["digest"]).items()
    }
    files = {name: data for name, (entry, data) in found.items() if entry.isfile()}
    assert files == {
        **{f"models/{path}": data for path, data in CONTENTS.items()},
        f"models/{MANIFEST_NAME}": manifest.canonical,
    }
    for entry, _ in found.values():
        assert (entry.uid, entry.gid, entry.mtime) == (0, 0, 0)
        assert entry.mode & 0o777 == (0o644 if entry.isfile() else 0o755)  # the sources were 0600
    assert built.moved_bytes == manifest.size
    assert built.sent_bytes == sum(layer["size"] for layer in layers[:-1])
    assert next(call for call in told(log) if call[0] == "pull")[-1] == f"docker://{base.name}"


def test_the_same_model_from_another_directory_is_the_same_image(
    log: Path, tmp_path: Path, registry: Registry, model: Path
) -> None:
    base = put_base(registry)
    first = build(registry, model, tmp_path / "w1", base=base)
    other = shutil.copytree(model, tmp_path / "elsewhere" / "deep")
    with Registry() as second:
        again = build(second, other, tmp_path / "w2", base=put_base(second))
        assert again.artifact.partition("@")[2] == first.artifact.partition("@")[2]


def test_building_again_moves_nothing(log: Path, tmp_path: Path, registry: Registry, model: Path) -> None:
    first = build(registry, model, tmp_path / "w1")
    log.write_text("")
    registry.requests.clear()
    again = build(registry, model, tmp_path / "w2")
    assert (again.artifact, again.moved_bytes, again.sent_bytes) == (first.artifact, 0, 0)
    assert again.reused_files == len(CONTENTS)
    assert not [request for request in registry.requests if request.method not in {"GET", "HEAD"}]
    assert log.read_text() == ""


def test_a_new_version_builds_what_changed(log: Path, tmp_path: Path, registry: Registry, model: Path) -> None:
    build(registry, model, tmp_path / "w1")
    changed = {**CONTENTS, "model-2.safetensors": b"other" * 1000}
    second = lay(tmp_path / "second", changed, describe(changed, "b" * 40))
    built = build(registry, second, tmp_path / "w2", tag="v2")
    assert built.moved_bytes == 5000
    assert built.reused_files == len(CONTENTS) - 1
    titles = ["model-1.safetensors", None, MANIFEST_NAME]
    old, new = (
        {layer["annotations"].get("org.opencontainers.image.title"): layer["digest"] for layer in layers}
        for layers in (image_of(registry, tag)[1]["layers"] for tag in ("v1", "v2"))  # type: ignore[attr-defined]
    )
    assert [old[title] == new[title] for title in titles] == [True, True, False]
    assert old["model-2.safetensors"] != new["model-2.safetensors"]


def test_a_robot_that_may_not_list_tags_builds_all(log: Path, tmp_path: Path, registry: Registry, model: Path) -> None:
    build(registry, model, tmp_path / "w1")
    registry.faults.append(Fault("status", "GET", match="tags/list", status=403, times=100))
    changed = {**CONTENTS, "model-2.safetensors": b"other" * 1000}
    second = lay(tmp_path / "second", changed, describe(changed, "b" * 40))
    built = build(registry, second, tmp_path / "w2", tag="v2")
    assert registry.faults[0].times < 100, "the fault was met"
    assert (built.reused_files, built.moved_bytes) == (0, sum(map(len, changed.values())))


def test_wrong_bytes_are_never_published(log: Path, work: Path, registry: Registry, model: Path) -> None:
    (model / "model-2.safetensors").write_bytes(b"Second" * 1000)
    with pytest.raises(IntegrityError, match=r"model-2\.safetensors has sha256 .*; nothing was published"):
        build(registry, model, work)
    assert registry.tags == {}


def test_a_file_of_another_size_is_never_published(log: Path, work: Path, registry: Registry, model: Path) -> None:
    (model / "config.json").write_bytes(b"{")
    with pytest.raises(IntegrityError, match=r"config\.json has 1 bytes where 2 were expected"):
        build(registry, model, work)
    assert registry.tags == {}


def test_a_tag_that_means_another_version_is_left_alone(
    log: Path, tmp_path: Path, registry: Registry, model: Path
) -> None:
    build(registry, model, tmp_path / "w1")
    changed = {**CONTENTS, "config.json": b"[]"}
    second = lay(tmp_path / "second", changed, describe(changed, "b" * 40))
    before = dict(registry.tags)
    with pytest.raises(RequestError, match="a version is never overwritten"):
        build(registry, second, tmp_path / "w2")
    assert registry.tags == before


@pytest.mark.parametrize("fault", [Fault("status", "PATCH", status=503), Fault("lose", "PATCH"), Fault("cut", "PATCH")])
def test_a_registry_that_fails_once(log: Path, work: Path, registry: Registry, model: Path, fault: Fault) -> None:
    registry.faults.append(fault)
    built = build(registry, model, work)
    assert built.artifact.endswith(image_of(registry, "v1")[0].digest)


def test_a_registry_that_always_fails(log: Path, work: Path, registry: Registry, model: Path) -> None:
    registry.faults.append(Fault("status", "PATCH", status=503, times=10**6))
    with pytest.raises(TemporaryError):
        build(registry, model, work)
    assert registry.tags == {}
    assert registry.uploads == {}


def test_a_tag_that_somebody_else_moves_meanwhile(
    log: Path, work: Path, registry: Registry, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repository, "resolve", lambda *_: f"sha256:{'e' * 64}")
    with pytest.raises(IntegrityError, match=r":v1 is sha256:e+ at the registry, and sha256:.* was built"):
        build(registry, model, work)


def test_a_place_that_is_no_registry(
    log: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cli.main(["build", f"file://{model}/", "s3://bucket/"]) == 2
    assert "is no registry, and buildah builds images: give oci://registry/path/." in capsys.readouterr().err


def test_the_command(
    log: Path,
    tmp_path: Path,
    registry: Registry,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    base, result = put_base(registry), tmp_path / "result.json"
    words = ["build", f"file://{model}/", f"oci://{registry.host}/models/", "--base", base.name]
    assert cli.main([*words, "--result", str(result)]) == 0
    value = json.loads(result.read_text())
    manifest = describe(CONTENTS)
    assert value["artifact"] == f"oci://{registry.host}/models/acme/pong@{value['image_digest']}"
    assert (value["tag"], value["builder"], value["sealed"]) == (COMMIT[:12], "buildah", True)
    assert (value["manifest_sha256"], value["moved_bytes"]) == (manifest.sha256, manifest.size)
    said = capsys.readouterr().out
    assert "acme/Pong goes to the repository models/acme/pong: registries take small letters only" in said
    assert "layer 1 of 3, model-1.safetensors: buildah writes" in said


def test_a_layer_above_the_registrys_limit_is_refused_before_anything_is_built(
    log: Path,
    tmp_path: Path,
    registry: Registry,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(prechecks, "LAYER_LIMITS", ((registry.host.partition(":")[0], 32 * 1024),))
    assert cli.main(["build", f"file://{model}/", f"oci://{registry.host}/models/"]) == 2
    assert capsys.readouterr().err == (
        f"airfreight: hf://acme/Pong@{COMMIT}: model-1.safetensors would make a layer of 77.0 KiB and the registry "
        f"{registry.host} takes 32.0 KiB: choose a model in smaller shards, or another destination.\n"
    )
    assert not log.exists()
    assert registry.requests == []


def test_the_command_without_root(
    log: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert cli.main(["build", f"file://{model}/", "oci://127.0.0.1:1/models/"]) == 2
    assert "buildah must run as root of its own container" in capsys.readouterr().err
