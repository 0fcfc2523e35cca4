"""The engine, between a source and a store in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.manifest import Manifest, ManifestFile
from airfreight.progress import Progress
from airfreight.reading import FolderSource
from airfreight.retry import Patience
from airfreight.transfer import PROGRESS_BYTES, Store, copy, published
from tests.unit.memory_store import MemorySource, MemoryStore, MemoryUpload, describe
from tests.unit.store_contract import StoreContract

CONTENTS = {
    "config.json": b'{"model_type": "qwen2"}',
    "empty.txt": b"",
    "model-1.safetensors": bytes(range(256)) * 100,
    "model-2.safetensors": bytes(range(255)) * 40,
}
SIZE = sum(map(len, CONTENTS.values()))


@dataclass
class Waits:
    """Stands for the passing of time: remembers how long was waited and returns at once."""

    seconds: list[float] = field(default_factory=list)

    def patience(self, attempts: int = 4) -> Patience:
        return Patience(attempts=attempts, wait=lambda event, seconds: self.seconds.append(seconds))


class TestMemoryStore(StoreContract):
    """The contract, against the memory store."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def rival(self, store: MemoryStore) -> Store:
        return store.run()

    def read(self, store: MemoryStore, path: str) -> bytes:
        return store.objects[path][0]


@dataclass
class Cutting(MemorySource):
    """Breaks the connection after `after` bytes of each answer, `times` times for each file."""

    after: int = 1500
    times: int = 2

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        cut = sum(path == file.path for path, _ in self.opened) < self.times
        sent = 0
        for chunk in super().open(file, offset):
            if cut and sent + len(chunk) > self.after:
                raise TemporaryError("The connection broke.")
            sent += len(chunk)
            yield chunk


def test_copy_takes_everything_and_seals_last() -> None:
    store = MemoryStore()
    result = copy(MemorySource(CONTENTS), store)
    assert {path: content for path, (content, _) in store.objects.items()} == CONTENTS
    assert store.manifest == describe(CONTENTS)
    assert (result.artifact, result.moved_bytes, result.reused_files) == (store.artifact, SIZE, 0)
    assert result.manifest == describe(CONTENTS)
    assert store.unfinished == []


def test_parts_are_full_but_the_last() -> None:
    store = MemoryStore(part_size=4096)
    copy(MemorySource(CONTENTS, chunk=10_000), store)
    sizes = {upload.file.path: [len(part) for part in upload.sent] for upload in store.uploads}
    assert sizes == {
        "config.json": [23],
        "empty.txt": [],
        "model-1.safetensors": [4096] * 6 + [1024],
        "model-2.safetensors": [4096, 4096, 2008],
    }


@given(content=st.binary(max_size=200), chunk=st.integers(1, 50), part=st.integers(1, 60))
def test_any_cut_gives_the_same_bytes(content: bytes, chunk: int, part: int) -> None:
    contents = {"a.safetensors": content, "weights.safetensors": b"x"}
    store = MemoryStore(part_size=part)
    copy(MemorySource(contents, chunk=chunk), store)
    assert store.objects["a.safetensors"][0] == content


def test_second_copy_opens_nothing_and_needs_no_right_to_write() -> None:
    store = MemoryStore()
    copy(MemorySource(CONTENTS), store)
    prepared, source = store.prepared, MemorySource(CONTENTS)
    result = copy(source, store)
    assert (result.moved_bytes, result.reused_files) == (0, len(CONTENTS))
    assert source.opened == []
    assert store.prepared == prepared


def test_only_unfinished_files_are_sent() -> None:
    """A run that died left two files and no manifest."""
    store = MemoryStore()
    copy(MemorySource(CONTENTS), store)
    store.manifest = None
    del store.objects["model-1.safetensors"], store.objects["config.json"]
    source = MemorySource(CONTENTS)
    result = copy(source, store)
    assert sorted(path for path, _ in source.opened) == ["config.json", "model-1.safetensors"]
    assert (result.moved_bytes, result.reused_files) == (25600 + 23, 2)
    assert store.manifest == describe(CONTENTS)


def test_only_objects_with_the_right_digest_are_reused() -> None:
    store = MemoryStore()
    store.objects["model-1.safetensors"] = (bytes(25600), "0" * 64)
    assert copy(MemorySource(CONTENTS), store).reused_files == 0
    assert store.objects["model-1.safetensors"][0] == CONTENTS["model-1.safetensors"]


def test_a_version_with_another_manifest_is_refused_before_anything_moves() -> None:
    store = MemoryStore(sealed_with=[describe({"model.safetensors": b"other"})])
    source = MemorySource(CONTENTS)
    with pytest.raises(RequestError) as caught:
        copy(source, store)
    assert "memory://models/acme/pong/41ab6c1b1c1f/ already holds another manifest (sha256 " in caught.value.message
    assert caught.value.message.endswith(
        "and a version is never overwritten: give another destination or remove it first."
    )
    assert (source.opened, store.objects, store.prepared) == ([], {}, 0)


def test_a_rival_that_seals_first_is_found_out() -> None:
    """Two runs end at the same moment; the loser says so."""

    class Overtaken(MemoryStore):
        def seal(self, manifest):  # type: ignore[no-untyped-def]
            self.manifest = describe({"model.safetensors": b"rival"})
            return super().seal(manifest)

    with pytest.raises(RequestError, match="already holds another manifest"):
        copy(MemorySource(CONTENTS), Overtaken())


def test_unsafe_models_are_refused_before_the_store_is_asked() -> None:
    store = MemoryStore(exists=False)
    with pytest.raises(RequestError, match="can run code when loaded"):
        copy(MemorySource({"pytorch_model.bin": b"x"}), store)


def test_a_missing_place_is_refused() -> None:
    source = MemorySource(CONTENTS)
    with pytest.raises(RequestError, match=r"There is no such place\."):
        copy(source, MemoryStore(exists=False))
    assert source.opened == []


@pytest.mark.parametrize("path", ["model-1.safetensors", "config.json"])
def test_a_changed_byte_is_never_visible(path: str) -> None:
    wrong = {**CONTENTS, path: b"!" + CONTENTS[path][1:]}
    store = MemoryStore()
    with pytest.raises(IntegrityError) as caught:
        copy(MemorySource(wrong, described=describe(CONTENTS)), store)
    file = next(file for file in describe(CONTENTS).files if file.path == path)
    actual = next(file for file in describe(wrong).files if file.path == path)
    assert caught.value.message == (
        f"hf://acme/pong@41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50: {path} has {file.digest_name} {actual.digest}, the "
        f"manifest says {file.digest}; nothing was published: the hub, or a mirror or proxy before it, serves damaged "
        "bytes and must be repaired."
    )
    assert path not in store.objects
    assert store.manifest is None
    assert store.unfinished == []


@pytest.mark.parametrize(
    ("place", "culprit"),
    [
        ("file:///models/acme/pong/1/", "the disk behind file:///models/acme/pong/1/ serves damaged bytes"),
        ("s3://llm-models/acme/pong/1/", "the bucket behind s3://llm-models/acme/pong/1/ serves damaged bytes"),
    ],
)
def test_wrong_bytes_are_laid_at_the_door_of_who_served_them(place: str, culprit: str) -> None:
    """A copy of a copy: its manifest names the hub, which had no part in it."""

    class Damaged:
        root = place

        def recorded(self) -> Manifest:
            return describe(CONTENTS)

        def read(self, path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
            yield CONTENTS[path][offset:].replace(b"\xf0", b"!")

    with pytest.raises(IntegrityError) as caught:
        copy(FolderSource(Damaged()), MemoryStore())  # type: ignore[arg-type]
    assert caught.value.message.startswith("hf://acme/pong@41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50: model-")
    assert caught.value.message.endswith(f"; nothing was published: {culprit} and must be repaired.")


@pytest.mark.parametrize(
    ("content", "finding"), [(b"short", "has 5 bytes, the manifest says 7"), (b"too long", "has more than 7 bytes")]
)
def test_a_wrong_length_is_never_visible(content: bytes, finding: str) -> None:
    store = MemoryStore()
    described = describe({"model.safetensors": b"weights"})
    with pytest.raises(IntegrityError, match=finding):
        copy(MemorySource({"model.safetensors": content}, described=described), store)
    assert (store.objects, store.manifest, store.unfinished) == ({}, None, [])


def test_a_cut_stream_goes_on_at_its_offset() -> None:
    source, store, waits = Cutting(CONTENTS), MemoryStore(), Waits()
    result = copy(source, store, patience=waits.patience())
    assert store.objects["model-1.safetensors"][0] == CONTENTS["model-1.safetensors"]
    assert [offset for path, offset in source.opened if path == "model-1.safetensors"] == [0, 1000, 2000]
    assert result.moved_bytes == SIZE
    assert len(waits.seconds) == 4


def test_a_stream_that_always_breaks_ends() -> None:
    source, store = Cutting(CONTENTS, times=1000), MemoryStore()
    with pytest.raises(TemporaryError, match=r"The connection broke\."):
        copy(source, store, patience=Waits().patience(attempts=4))
    assert store.unfinished == []
    assert store.manifest is None


def test_real_progress_renews_the_patience() -> None:
    """A file that breaks more often than the attempts allow arrives, if each attempt brings at least 8 MiB."""
    content = bytes(5 * PROGRESS_BYTES)
    source = Cutting({"model.safetensors": content}, chunk=PROGRESS_BYTES, after=PROGRESS_BYTES, times=1000)
    store = MemoryStore(part_size=PROGRESS_BYTES)
    copy(source, store, patience=Waits().patience(attempts=2))
    assert store.objects["model.safetensors"][0] == content
    assert len(source.opened) == 5


def test_a_failed_part_is_sent_again_without_reading_again() -> None:
    class Failing(MemoryUpload):
        failures = 2

        def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:
            if len(self.sent) == 1 and self.failures:
                self.failures -= 1
                raise TemporaryError("The object store answers 503.")
            super().write(part, state, at)

    class FailingStore(MemoryStore):
        def begin(self, file: ManifestFile) -> MemoryUpload:
            self.uploads.append(Failing(self, file, self.leases.claim(file)))
            return self.uploads[-1]

    source, store, lines = MemorySource(CONTENTS), FailingStore(), []
    copy(source, store, progress=Progress(lines.append), patience=Waits().patience())
    assert {path: content for path, (content, _) in store.objects.items()} == CONTENTS
    assert len(source.opened) == len(CONTENTS)
    assert lines[-1].endswith("4 retries")
    assert lines[0] == "trying again: The object store answers 503."


@pytest.mark.parametrize("method", ["sealed", "held", "prepare", "elsewhere", "begin", "seal", "tidy"])
def test_every_step_of_the_store_is_tried_again(method: str) -> None:
    store, waits = MemoryStore(), Waits()
    whole = getattr(store, method)
    failures = iter([TemporaryError("down"), TemporaryError("down")])

    def broken(*arguments: object) -> object:
        for failure in failures:
            raise failure
        return whole(*arguments)

    setattr(store, method, broken)
    copy(MemorySource(CONTENTS), store, patience=waits.patience())
    assert store.manifest == describe(CONTENTS)
    assert len(waits.seconds) == 2


def test_the_first_failure_ends_all_work() -> None:
    """One file is corrupt while another would drip for ever; the copy ends and leaves no upload open."""
    endless = threading.Event()

    class Dripping(MemorySource):
        def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
            if file.path == "model-1.safetensors":
                endless.set()
                while True:
                    yield b""
            assert endless.wait(10)
            yield from super().open(file, offset)

    wrong = {**CONTENTS, "model-2.safetensors": bytes(10200)}
    store = MemoryStore()
    with pytest.raises(IntegrityError, match=r"model-2\.safetensors has sha256"):
        copy(Dripping(wrong, described=describe(CONTENTS)), store, patience=Patience(deadline=time.monotonic() + 20))
    assert store.unfinished == []
    assert store.manifest is None


def test_files_go_side_by_side_but_no_more_than_asked() -> None:
    lock, state = threading.Lock(), {"now": 0, "most": 0}
    both = threading.Barrier(2, timeout=10)

    class Watched(MemorySource):
        def open(self, file: ManifestFile, offset: int = 0) -> Iterator[bytes]:  # type: ignore[override]
            with lock:
                state["now"] += 1
                state["most"] = max(state["most"], state["now"])
            both.wait()
            yield from super().open(file, offset)
            with lock:
                state["now"] -= 1

    copy(Watched(CONTENTS), MemoryStore(), files_at_once=2)
    assert state["most"] == 2


def test_the_deadline_ends_a_source_that_drips() -> None:
    clock = iter(range(1000))
    patience = Patience(deadline=30.0, clock=lambda: float(next(clock)))
    store = MemoryStore()
    with pytest.raises(TemporaryError, match="The time for the whole copy is over: run it again"):
        copy(MemorySource(CONTENTS, chunk=10), store, patience=patience)
    assert (store.manifest, store.unfinished) == (None, [])


def test_a_deadline_is_counted_from_the_call() -> None:
    clock = iter(range(1000, 3000))
    patience = Patience(clock=lambda: float(next(clock)))
    with pytest.raises(TemporaryError, match="The time for the whole copy is over: run it again"):
        copy(MemorySource(CONTENTS, chunk=10), MemoryStore(), patience=patience, deadline_s=30.0)


def test_published_means_sealed_and_whole() -> None:
    store, manifest = MemoryStore(), describe(CONTENTS)
    assert not published(store, manifest)
    copy(MemorySource(CONTENTS), store)
    assert published(store, manifest)
    del store.objects["config.json"]
    assert not published(store, manifest)
    with pytest.raises(RequestError, match="already holds another manifest"):
        published(store, describe({"model.safetensors": b"x"}))
