"""Which files lie in which layer, and their archives, read back by Python and by GNU tar."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airfreight.manifest import ManifestFile
from airfreight.stores.oci import layers
from airfreight.stores.oci.layers import LARGE, MODEL_LAYERS, Layer, manifest_layer, plan
from tests.unit.memory_store import describe, lfs, small

GIB = 1024**3
PARTS = st.text(st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/\\"), min_size=1, max_size=60)
PATHS = st.lists(PARTS.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=5).map("/".join)


def weight(path: str, size: int = 1, digit: str = "a") -> ManifestFile:
    return ManifestFile(path, size, sha256=digit * 64)


def archive(layer: Layer, contents: Mapping[str, bytes]) -> bytes:
    return b"".join(span.head + contents[span.file.path] + span.tail for span in layer.spans)


def clash_free(paths: list[str]) -> list[str]:
    """Leave out what is a directory of another path."""
    taken = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    return [path for path in paths if path not in taken]


@given(st.dictionaries(PATHS, st.binary(max_size=2000), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_what_python_reads(found: dict[str, bytes]) -> None:
    contents = {path: found[path] for path in clash_free(list(found))}
    layer = Layer(tuple(sorted(lfs(path, data) for path, data in contents.items())))
    data = archive(layer, contents)
    assert len(data) == layer.size
    assert len(data) % 512 == 0
    assert all(data[span.start :].startswith(contents[span.file.path]) for span in layer.spans)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = tar.getmembers()
        read = {m.name: tar.extractfile(m).read() for m in members if m.isfile()}  # type: ignore[union-attr]
    assert read == {f"models/{path}": content for path, content in contents.items()}
    names = [member.name for member in members]
    assert len(set(names)) == len(names)
    for member in members:
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
        assert member.mode == (0o755 if member.isdir() else 0o644)
        assert "/" not in member.name or member.name.rpartition("/")[0] in names[: names.index(member.name)]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8 * GIB - 1, 8 * GIB, 9000 * GIB])
@pytest.mark.parametrize(
    "path", ["a", "x" * 93, "x" * 94, "ü" * 60, "a/" * 80 + "model.safetensors", "模型/ملف.safetensors"]
)
def test_headers_are_those_of_the_gnu_format(path: str, size: int) -> None:
    """Python's own are the reference; ours are written apart because they may never change."""
    span = Layer((weight(path, size),)).spans[0]
    expected = b""
    parts = ["models", *path.split("/")]
    for depth in range(1, len(parts) + 1):
        info = tarfile.TarInfo("/".join(parts[:depth]))
        info.mode, info.type = (0o644, tarfile.REGTYPE) if depth == len(parts) else (0o755, tarfile.DIRTYPE)
        info.size = size if depth == len(parts) else 0
        expected += info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    assert span.head == expected
    assert span.start == len(expected)
    assert span.end % 512 == 0
    assert span.end - span.start - size == len(span.tail)
    assert span.tail.endswith(bytes(1024))


def test_gnu_tar_unpacks_it(tmp_path: Path) -> None:
    contents = {
        "config.json": b"{}",
        "empty": b"",
        "nested/größe 模型.json": bytes(range(256)) * 9,
        "n" * 120 + "/" + "m" * 130: b"long",
    }
    layer = Layer(tuple(sorted(lfs(path, data) for path, data in contents.items())))
    (tmp_path / "layer.tar").write_bytes(archive(layer, contents))
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        ["tar", "-xf", tmp_path / "layer.tar", "-C", tmp_path / "out"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    top = tmp_path / "out/models"
    assert {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()} == contents
    listing = ["tar", "-tvf", tmp_path / "layer.tar", "--utc"]
    listed = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert all("0/0" in line and "1970-01-01 00:00" in line for line in listed.splitlines())


def test_the_recipe_is_pinned() -> None:
    """If this fails, every image of every site gets another digest: then `RECIPE` must change too."""
    contents = {"a.json": b"{}", "nested/b.txt": b"b" * 600}
    layer = Layer(tuple(sorted(small(path, data) for path, data in contents.items())))
    assert layers.RECIPE == "airfreight/1"
    assert hashlib.sha256(archive(layer, contents)).hexdigest() == (
        "8b0d325f050fef586187a8a6ca2ff1afe18279aabc77ccf83741362eb3d59a51"
    )
    assert layer.key == "4beb14914081b30ffe6629ea2ddd1922fdeba7de4249c7d5fd25b4d510b51602"
    assert hashlib.sha256(manifest_layer(describe(contents))).hexdigest() == (
        "d546603978a445bbb8137e6ce847c84c75a2198f237c33c03d55a88ae1bfe624"
    )


def test_the_key_says_path_size_content_and_recipe() -> None:
    keys = [
        Layer((weight("a.safetensors", 5),)).key,
        Layer((weight("b.safetensors", 5),)).key,
        Layer((weight("a.safetensors", 6),)).key,
        Layer((weight("a.safetensors", 5, "b"),)).key,
        Layer((weight("a.safetensors", 5), weight("b.safetensors", 5))).key,
        Layer((weight("a.safetensors", 5),)).key_by("buildah/1"),
    ]
    assert len(set(keys)) == len(keys)


def test_the_last_layer_holds_the_manifest_alone() -> None:
    manifest = describe({"model.safetensors": b"weights"})
    with tarfile.open(fileobj=io.BytesIO(manifest_layer(manifest))) as tar:
        assert tar.getnames() == ["models", "models/airfreight.json"]
        assert tar.extractfile("models/airfreight.json").read() == manifest.canonical  # type: ignore[union-attr]


def test_each_weight_file_has_a_layer_and_the_others_share_one() -> None:
    files = [
        weight("model-00002.safetensors"),
        weight("config.json"),
        weight("model-00001.safetensors"),
        weight("vocab.bin"),
        weight("big.onnx", LARGE),
        weight("nested/a.txt"),
    ]
    assert [[file.path for file in layer.files] for layer in plan(files)] == [
        ["big.onnx"],
        ["model-00001.safetensors"],
        ["model-00002.safetensors"],
        ["vocab.bin"],
        ["config.json", "nested/a.txt"],
    ]
    assert plan(files) == plan(files[::-1])
    assert [len(layer.files) for layer in plan(files[:1])] == [1]


def test_an_unchanged_shard_keeps_its_layer_when_others_change() -> None:
    old = plan([weight("a.safetensors", digit="1"), weight("b.safetensors", digit="2"), weight("c.json", digit="3")])
    new = plan([weight("a.safetensors", digit="1"), weight("b.safetensors", digit="4"), weight("c.json", digit="3")])
    assert [one.key == other.key for one, other in zip(old, new, strict=True)] == [True, False, True]


@pytest.mark.parametrize("count", [MODEL_LAYERS - 2, MODEL_LAYERS - 1, 1000])
def test_more_weight_files_than_layers_can_be_stacked_share_layers(count: int) -> None:
    files = [weight(f"model-{number:05}.safetensors", 1000 + number % 7) for number in range(count)]
    found = plan([*files, weight("config.json")])
    assert len(found) + 1 <= MODEL_LAYERS  # one more for the manifest
    assert sorted(file for layer in found for file in layer.files) == sorted([*files, weight("config.json")])
    sizes = [sum(file.size for file in layer.files) for layer in found[:-1]]
    assert max(sizes) - min(sizes) <= 1006
    assert found == plan([weight("config.json"), *files[::-1]])


def test_a_layer_is_called_after_its_first_file() -> None:
    names = [weight("a"), weight("b"), weight("c")]
    assert [Layer(tuple(names[:count])).title for count in (1, 2, 3)] == [
        "a", "a and 1 other file", "a and 2 other files",
    ]  # fmt: skip
