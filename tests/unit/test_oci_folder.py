"""An image as a source, whoever built it: layers by range, by scan, in sequence; what hides what; what is refused."""

from __future__ import annotations

import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.manifest import Manifest
from airfreight.reading import Entry, FolderSource
from airfreight.retry import Patience
from airfreight.stores.oci import layer_reader
from airfreight.stores.oci.folder import MANIFEST_SHA256, OciFolder
from airfreight.stores.oci.reference import OciImage
from airfreight.verify import verify
from tests.standins.images import DIRECTORY, HARD, LINK, PIPE, Image, packed, place_index, sha256, tar
from tests.standins.registry import Fault, Registry
from tests.unit.memory_store import describe

MIB = 1024 * 1024
WEIGHTS = random.Random(1).randbytes(3 * MIB + 5)
MODEL = {
    "config.json": b'{"model_type": "qwen2"}\n',
    "empty.txt": b"",
    "model-1.safetensors": WEIGHTS,
    "model-2.safetensors": WEIGHTS[::-1],
    "nested/" + "deep/" * 25 + "größe 模型.json": b"{}",
}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


def folder(registry: Registry, reference: str, tmp_path: Path) -> OciFolder:
    return OciFolder(OciImage(registry.host, "acme/pong").at(reference), RegistrySettings(str(tmp_path / "none")))


def model_layers(model: dict[str, bytes] = MODEL) -> list[bytes]:
    """As Airfreight lays them: a layer for each weight file, one for the others, the manifest last."""
    weights = [name for name in model if name.endswith(".safetensors")]
    rest = {f"models/{name}": data for name, data in model.items() if name not in weights}
    return [
        *(tar({"models/": (DIRECTORY, ""), f"models/{name}": model[name]}) for name in weights),
        tar({"models/": (DIRECTORY, ""), **rest}),
        tar({"models/": (DIRECTORY, ""), "models/airfreight.json": describe(model).canonical}),
    ]


def ours(manifest: Manifest | None = None) -> Image:
    return Image(
        model_layers(),
        {MANIFEST_SHA256: (manifest or describe(MODEL)).sha256},
        {0: "model-1.safetensors", 1: "model-2.safetensors"},
    )


def sentence(kind: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert ". " not in message, "one sentence"
    return message


def contents(found: OciFolder) -> dict[str, bytes]:
    listing = found.listing()
    return {path: b"".join(found.read(path, entry.size)) for path, entry in listing.items() if not entry.problem}


class TestOurs:
    def test_its_manifest_says_it_all(self, registry: Registry, tmp_path: Path) -> None:
        digest = ours().place(registry, tag="v1")
        found = folder(registry, "v1", tmp_path)
        assert str(found.root).endswith("acme/pong:v1"), "nothing was asked yet"
        assert found.recorded() == describe(MODEL)
        assert str(found.root) == f"oci://{registry.host}/acme/pong@{digest}"
        assert registry.counted("GET", "blobs") == 3, "the kind, the header and the manifest of the last layer"

    def test_a_file_is_read_by_range_without_the_rest(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(registry, ours().place(registry), tmp_path)
        source = FolderSource(found)
        (file,) = [file for file in source.manifest().files if file.path == "model-2.safetensors"]
        before = len(registry.requests)
        assert b"".join(source.open(file, 2 * MIB)) == MODEL[file.path][2 * MIB :]
        asked = {request.path for request in registry.requests[before:]}
        assert len(asked) == 1, "its layer alone"

    def test_every_file_from_any_byte(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(registry, ours().place(registry), tmp_path)
        assert contents(found) == MODEL
        for path, data in MODEL.items():
            for offset in {0, 1, len(data) // 2, len(data)}:
                if offset <= len(data):
                    assert b"".join(found.read(path, len(data), offset)) == data[offset:]

    def test_chunks_are_bounded(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(registry, ours().place(registry), tmp_path)
        with closing(found.read("model-1.safetensors", len(WEIGHTS))) as chunks:
            assert all(0 < len(chunk) <= 8 * MIB for chunk in chunks)

    def test_a_tag_that_moves_meanwhile(self, registry: Registry, tmp_path: Path) -> None:
        ours().place(registry, tag="v1")
        found = folder(registry, "v1", tmp_path)
        found.recorded()
        Image([tar({"models/x": b"other"})]).place(registry, tag="v1")
        assert contents(found) == MODEL

    def test_an_index(self, registry: Registry, tmp_path: Path) -> None:
        other = Image([tar({"models/x": b"arm"})]).place(registry)
        index = place_index(
            registry, {"unknown/unknown": other, "linux/arm64": other, "linux/amd64": ours().place(registry)}
        )
        found = folder(registry, index, tmp_path)
        assert found.recorded() == describe(MODEL)
        assert found.root.digest == index
        index = place_index(registry, {"unknown/unknown": ours().place(registry), "linux/arm64": other})
        assert contents(folder(registry, index, tmp_path)) == {"x": b"arm"}

    def test_it_verifies(self, registry: Registry, tmp_path: Path) -> None:
        verify(folder(registry, ours().place(registry), tmp_path), Patience(attempts=1)).check()

    def test_a_manifest_that_was_exchanged(self, registry: Registry, tmp_path: Path) -> None:
        other = describe({"model.safetensors": b"x"})
        message = sentence(IntegrityError, folder(registry, ours(other).place(registry), tmp_path).recorded)
        assert f"with sha256 {describe(MODEL).sha256}, its annotation says {other.sha256}; nothing was" in message

    def test_a_manifest_that_was_taken_out(self, registry: Registry, tmp_path: Path) -> None:
        image = Image(model_layers()[:-1], {MANIFEST_SHA256: "0" * 64})
        message = sentence(RequestError, folder(registry, image.place(registry), tmp_path).recorded)
        assert "says that it was built by airfreight and has no airfreight.json in its last layer" in message

    def test_a_manifest_that_is_too_large(
        self, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airfreight.stores.oci.folder.MANIFEST_LIMIT", 10)
        message = sentence(RequestError, folder(registry, ours().place(registry), tmp_path).recorded)
        assert (
            f"holds an airfreight.json of {len(describe(MODEL).canonical)} bytes, which is none of airfreight"
            in message
        )

    def test_a_manifest_that_is_none(self, registry: Registry, tmp_path: Path) -> None:
        image = Image([tar({"models/airfreight.json": b"{}"})])
        message = sentence(RequestError, folder(registry, image.place(registry), tmp_path).recorded)
        assert "holds an airfreight.json that is not a manifest of airfreight (its format is None" in message

    def test_a_file_of_another_size(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(registry, ours().place(registry), tmp_path)
        message = sentence(IntegrityError, lambda: list(found.read("config.json", 7)))
        assert message.startswith("config.json of oci://")
        assert "has 24 bytes where 7 were expected; nothing was published" in message

    def test_a_file_that_is_not_there(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(registry, ours().place(registry), tmp_path)
        message = sentence(RequestError, lambda: list(found.read("none", 7)))
        assert message.endswith("holds no none: build the image again, or give another address.")


class TestForeign:
    @pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    @pytest.mark.parametrize("pack", [packed, bytes], ids=["gzip", "plain"])
    def test_its_files_are_hashed_in_the_pass_that_verifies_it(
        self, registry: Registry, tmp_path: Path, pack: Callable[[bytes], bytes], form: int
    ) -> None:
        files = {f"models/{name}": data for name, data in MODEL.items()}
        image = Image([pack(tar({"etc/passwd": b"root"}, form)), pack(tar(files, form))])
        source = FolderSource(folder(registry, image.place(registry), tmp_path), Patience(attempts=1))
        manifest = source.manifest()
        assert {file.path: file.sha256 for file in manifest.files} == {
            name: sha256(data) for name, data in MODEL.items()
        }
        assert manifest.repo_id == "acme/pong"
        assert manifest.commit is None
        whole = [request for request in registry.requests if "blobs" in request.path and "Range" not in request.headers]
        assert len(whole) == 2, "each layer was read once"
        for file in manifest.files:
            assert b"".join(source.open(file, file.size // 3)) == MODEL[file.path][file.size // 3 :]

    @pytest.mark.parametrize("pack", [packed, bytes], ids=["gzip", "plain"])
    def test_a_layer_that_is_not_its_digest(
        self, registry: Registry, tmp_path: Path, pack: Callable[[bytes], bytes]
    ) -> None:
        reference = Image([pack(tar({"models/a": WEIGHTS}))]).place(registry)
        (layer,) = [digest for digest, data in registry.blobs.items() if len(data) > MIB]
        room = bytearray(registry.blobs[layer])
        room[4 if pack is packed else 5000] ^= 1  # of gzip the time, which changes no content
        registry.blobs[layer] = bytes(room)
        message = sentence(IntegrityError, folder(registry, reference, tmp_path).listing)
        assert f"The layer {layer} of {registry.host}/acme/pong has digest sha256:" in message

    def test_a_broken_scan_goes_on_where_it_broke(self, registry: Registry, tmp_path: Path) -> None:
        reference = Image([packed(tar({"models/a": WEIGHTS, "models/b": b"b"}))]).place(registry)
        registry.faults.append(Fault("break", "GET", "blobs", skip=1, after=MIB))
        found = folder(registry, reference, tmp_path)
        assert "broke" in sentence(TemporaryError, found.listing)
        assert contents(found) == {"a": WEIGHTS, "b": b"b"}
        ranges = [request.headers.get("Range", "") for request in registry.requests if "blobs" in request.path]
        assert any(text.startswith("bytes=") and int(text[6:].partition("-")[0]) > MIB // 2 for text in ranges)

    def test_looking_for_names_goes_on_where_it_broke_too(self, registry: Registry, tmp_path: Path) -> None:
        layers = [b"\x28\xb5\x2f\xfd zstd", packed(tar({"models/a": WEIGHTS, "models/b": b"b"}))]
        found = folder(registry, Image(layers).place(registry), tmp_path)
        registry.faults.append(Fault("break", "GET", "blobs", skip=2, after=MIB))
        assert "broke" in sentence(TemporaryError, found.paths)
        paths, problem = found.paths()
        assert paths == ["a", "b"] and "is packed with zstd" in problem
        ranges = [request.headers.get("Range", "") for request in registry.requests if "blobs" in request.path]
        assert any(text.startswith("bytes=") and int(text[6:].partition("-")[0]) > MIB // 2 for text in ranges)

    def test_files_deep_inside_a_gzip_are_read_from_near_them(
        self, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(layer_reader, "SPACING", 256 * 1024)
        monkeypatch.setattr(layer_reader, "POINTS", 8)
        files = {f"models/{number:02}": random.Random(number).randbytes(200_000) for number in range(40)}
        found = folder(registry, Image([packed(tar(files))]).place(registry), tmp_path)
        assert contents(found) == {path.removeprefix("models/"): data for path, data in files.items()}
        before = len(registry.requests)
        assert b"".join(found.read("39", 200_000, 100_000)) == files["models/39"][100_000:]
        (request,) = registry.requests[before:]
        assert int(request.headers["Range"].removeprefix("bytes=").partition("-")[0]) > 6_000_000

    @pytest.mark.parametrize("rest", [bytes, lambda length: b"x" * length])
    def test_a_gzip_that_changed_after_it_was_verified(
        self, registry: Registry, tmp_path: Path, rest: Callable[[int], bytes]
    ) -> None:
        found = folder(registry, Image([packed(tar({"models/a": WEIGHTS}))]).place(registry), tmp_path)
        found.listing()
        (layer,) = [digest for digest, data in registry.blobs.items() if len(data) > MIB]
        short = packed(tar({"models/a": WEIGHTS[:1000]}))
        registry.blobs[layer] = short + rest(len(registry.blobs[layer]) - len(short))
        message = sentence(IntegrityError, lambda: list(found.read("a", len(WEIGHTS))))
        assert f"The layer {layer} of {registry.host}/acme/pong ends before its files do: build the image" in message

    def test_gzip_of_many_members_and_of_what_packs_well(self, registry: Registry, tmp_path: Path) -> None:
        data = tar({"models/zeros": bytes(20 * MIB), "models/end": b"end"})
        cuts = [0, 1000, MIB, len(data)]
        layer = b"".join(packed(data[first:last]) for first, last in pairwise(cuts)) + bytes(300_000)
        found = folder(registry, Image([layer]).place(registry), tmp_path)
        tracemalloc.start()
        assert found.listing() == {"zeros": Entry(20 * MIB), "end": Entry(3)}
        assert b"".join(found.read("end", 3)) == b"end"
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB, "what unpacks to much is not held"
        tracemalloc.stop()

    def test_a_manifest_of_ours_without_our_annotation(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(registry, Image(model_layers()).place(registry), tmp_path)
        assert found.recorded() == describe(MODEL)

    def test_files_hide_files(self, registry: Registry, tmp_path: Path) -> None:
        image = Image(
            [
                tar({"models/a": b"1", "models/b": b"1", "models/d/x": b"1", "models/e/x": b"1", "models/f/x": b"1"}),
                packed(tar({"models/b": b"22", "models/.wh.a": b"", "models/d/.wh..wh..opq": b"", "models/d/y": b"2"})),
                tar({"models/.wh.e": b"", "models/f": b"333", "models/c": b"3"}),
                tar({"models/a": b"4444"}),
            ]
        )
        assert contents(folder(registry, image.place(registry), tmp_path)) == {
            "a": b"4444", "b": b"22", "c": b"3", "d/y": b"2", "f": b"333",
        }  # fmt: skip

    def test_a_whiteout_of_its_own_layer_hides_nothing_of_it(self, registry: Registry, tmp_path: Path) -> None:
        image = Image([tar({"models/a": b"1"}), tar({"models/a": b"2", "models/.wh.a": b""})])
        assert contents(folder(registry, image.place(registry), tmp_path)) == {"a": b"2"}

    def test_links(self, registry: Registry, tmp_path: Path) -> None:
        image = Image(
            [
                tar({
                    "models/blobs/x": b"weights", "models/rel": (LINK, "blobs/x"), "models/abs": (LINK, "/models/rel"),
                    "models/hard": (HARD, "models/blobs/x"), "models/out": (LINK, "../etc/passwd"),
                    "models/none": (LINK, "nothing"), "models/dir": (LINK, "blobs"), "models/blobs/": (DIRECTORY, ""),
                    "models/self": (LINK, "self"), "models/pipe": (PIPE, ""), "models/up/link": (LINK, "../blobs/x"),
                }),
            ]
        )  # fmt: skip
        found = folder(registry, image.place(registry), tmp_path)
        assert found.listing() == {
            "blobs/x": Entry(7), "rel": Entry(7), "abs": Entry(7), "hard": Entry(7), "up/link": Entry(7),
            "out": Entry(0, "is a link that leads out of /models"), "none": Entry(0, "is a link to nothing"),
            "dir": Entry(0, "is a link to a directory"), "self": Entry(0, "is a link to itself"),
            "pipe": Entry(0, "is no regular file"),
        }  # fmt: skip
        assert set(contents(found).values()) == {b"weights"}
        message = sentence(RequestError, lambda: list(found.read("out", 1)))
        assert "holds out, which is a link that leads out of /models: put the file itself there" in message
        message = sentence(RequestError, FolderSource(found).manifest)
        assert f"{found.root}/dir is a link to a directory: put the file itself there, or take it out" in message

    def test_a_hard_link_is_what_lay_there_when_its_layer_was_laid_down(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        image = Image(
            [
                tar({"models/a": b"old-bytes", "models/b": (HARD, "models/a"), "models/c": b"1", "models/w": b"w"}),
                tar({"models/a": b"NEW", "models/c2": (HARD, "models/c"), "models/w2": (HARD, "models/w")}),
                tar({"models/.wh.w": b"", "models/w3": (HARD, "models/w2"), "opt/weights": b"far"}),
                tar({"models/far": (HARD, "opt/weights"), "models/none": (HARD, "models/nothing"), "models/x": b"x"}),
                tar({"models/dir": (HARD, "models/sub"), "models/sub/": (DIRECTORY, "")}),
            ]
        )
        found = folder(registry, image.place(registry), tmp_path)
        assert contents(found) == {
            "a": b"NEW", "b": b"old-bytes", "c": b"1", "c2": b"1", "w2": b"w", "w3": b"w", "far": b"far", "x": b"x",
        }  # fmt: skip
        assert {path: entry.problem for path, entry in found.listing().items() if entry.problem} == {
            "none": "is a link to nothing", "dir": "is a link to nothing",
        }  # fmt: skip
        assert found.digests()["b"] == sha256(b"old-bytes")


class TestWhoseItIs:
    """What a mirror asks: it carries layers, and must not read them for that."""

    def test_ours(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(registry, ours().place(registry), tmp_path)
        assert found.told() == describe(MODEL)
        assert registry.counted("GET", "blobs") == 3

    def test_ours_without_our_annotation(self, registry: Registry, tmp_path: Path) -> None:
        for layers in (model_layers(), [packed(layer) for layer in model_layers()]):
            found = folder(registry, Image(layers).place(registry), tmp_path)
            before = len(registry.requests)
            assert found.told() == describe(MODEL)
            asked = {request.path for request in registry.requests[before:] if "blobs" in request.path}
            assert len(asked) == 1, "the last layer alone"

    @pytest.mark.parametrize(
        "layers",
        [
            [tar({"models/a": b"1"})],
            [tar({"models/airfreight.json": b"{}"})],
            [tar({"models/airfreight.json": (LINK, "a")})],
            [tar({"usr/bin/vllm": b"1"})],
            [b"\x28\xb5\x2f\xfd" + bytes(100)],
            [b"no archive" * 200],
            [],
        ],
        ids=["model", "another json", "link", "no model", "zstd", "no archive", "empty"],
    )
    def test_somebody_elses(self, registry: Registry, tmp_path: Path, layers: list[bytes]) -> None:
        assert folder(registry, Image(layers).place(registry), tmp_path).told() is None

    def test_what_is_no_layer(self, registry: Registry, tmp_path: Path) -> None:
        reference = Image([b"weights"], media_type="application/vnd.acme.weights").place(registry)
        assert folder(registry, reference, tmp_path).told() is None

    def test_a_last_layer_that_is_too_large_for_a_list(
        self, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airfreight.stores.oci.folder.LAST_LAYER_LIMIT", 1000)
        found = folder(registry, Image([tar({"models/model.safetensors": WEIGHTS})]).place(registry), tmp_path)
        assert found.told() is None
        assert registry.counted("GET", "blobs") == 0

    def test_one_that_only_says_so(self, registry: Registry, tmp_path: Path) -> None:
        image = Image([tar({"models/a": b"1"})], {MANIFEST_SHA256: "0" * 64})
        message = sentence(RequestError, folder(registry, image.place(registry), tmp_path).told)
        assert "says that it was built by airfreight and has no airfreight.json in its last layer" in message


class TestRefused:
    @pytest.mark.parametrize(
        ("layer", "media_type"),
        [
            (b"\x28\xb5\x2f\xfd" + bytes(100), None),
            (tar({"models/a": b"1"}), "application/vnd.oci.image.layer.v1.tar+zstd"),
        ],
    )
    def test_zstd_by_name(self, registry: Registry, tmp_path: Path, layer: bytes, media_type: str | None) -> None:
        reference = Image([layer], media_type=media_type).place(registry)
        message = sentence(RequestError, folder(registry, reference, tmp_path).listing)
        assert "is packed with zstd, which is not read here nor by KServe's oci+fetch: build the image again" in message

    @pytest.mark.parametrize(
        "layer", [b"rubbish" * 1000, packed(b"rubbish" * 1000), packed(tar({"models/a": b"1" * 9999}))[:100]]
    )
    def test_what_is_no_archive(self, registry: Registry, tmp_path: Path, layer: bytes) -> None:
        message = sentence(RequestError, folder(registry, Image([layer]).place(registry), tmp_path).listing)
        assert "is no archive that can be read (" in message
        assert "build the image again, with layers of plain tar." in message

    def test_more_files_than_any_model_has(
        self, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airfreight.stores.oci.tar_scan.MEMBERS_LIMIT", 2)
        layer = packed(tar({f"models/{number}": b"" for number in range(3)}))
        message = sentence(RequestError, folder(registry, Image([layer]).place(registry), tmp_path).listing)
        assert " holds more than 2 files, or more than 64 MiB of names: build the image again, with nothing" in message

    @pytest.mark.parametrize("size", [b"1" * 4997, b"1" * 21])
    def test_a_number_of_many_digits(self, registry: Registry, tmp_path: Path, size: bytes) -> None:
        info = tarfile.TarInfo("models/a")
        info.pax_headers = {"size": size.decode()}
        layer = packed(info.tobuf(tarfile.PAX_FORMAT))
        message = sentence(RequestError, folder(registry, Image([layer]).place(registry), tmp_path).listing)
        assert "is no archive that can be read (it has a size that is no number)" in message

    def test_an_archive_that_ends_too_early(self, registry: Registry, tmp_path: Path) -> None:
        layers = [tar({"models/a": bytes(300_000)})[:200_000], model_layers()[-1]]
        image = Image(layers, {MANIFEST_SHA256: describe(MODEL).sha256})
        message = sentence(RequestError, folder(registry, image.place(registry), tmp_path).listing)
        assert "is no archive that can be read (it ends in the midst of a file)" in message

    def test_layers_that_hold_no_files(self, registry: Registry, tmp_path: Path) -> None:
        reference = Image([b"raw"], media_type="application/vnd.cncf.model.weight.v1.raw").place(registry)
        message = sentence(RequestError, folder(registry, reference, tmp_path).listing)
        assert "has a layer of the kind application/vnd.cncf.model.weight.v1.raw, which holds no files" in message

    @pytest.mark.parametrize(
        ("data", "says"),
        [
            (b"[]", "is no image manifest, but something else"),
            (b"rubbish", "is no image manifest, but something else"),
            (b"{}", "is an image manifest without layers"),
            (b'{"layers": [7]}', "has a layer that is not described as one"),
        ],
    )
    def test_images_that_are_none(self, registry: Registry, tmp_path: Path, data: bytes, says: str) -> None:
        reference = registry.put_manifest("acme/pong", "application/vnd.oci.image.manifest.v1+json", data)
        assert says in sentence(RequestError, folder(registry, reference, tmp_path).listing)

    def test_an_index_of_nothing(self, registry: Registry, tmp_path: Path) -> None:
        message = sentence(RequestError, folder(registry, place_index(registry, {}), tmp_path).recorded)
        assert "is an index without an image: build the image again" in message

    def test_an_image_without_models(self, registry: Registry, tmp_path: Path) -> None:
        reference = Image([tar({"bin/sh": b"#!"})]).place(registry)
        message = sentence(RequestError, folder(registry, reference, tmp_path).listing)
        assert "holds no /models, where KServe looks for a model: name the image of a model" in message

    def test_names_that_climb_out(self, registry: Registry, tmp_path: Path) -> None:
        found = folder(
            registry, Image([tar({"models/../../etc/passwd": b"x", "models/a": b"1"})]).place(registry), tmp_path
        )
        message = sentence(RequestError, FolderSource(found).manifest)
        assert "the path '../../etc/passwd' climbs out of its directory" in message

    def test_names_that_are_no_text(self, registry: Registry, tmp_path: Path) -> None:
        layer = tar({os.fsdecode(b"models/\xff"): b"x"}, tarfile.GNU_FORMAT)
        found = folder(registry, Image([layer]).place(registry), tmp_path)
        assert "holds a control character" in sentence(RequestError, FolderSource(found).manifest)
