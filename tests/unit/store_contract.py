"""What every store must hold to. A store's own test file inherits `StoreContract` and says only how to make one.

    class TestMemoryStore(StoreContract):
        @pytest.fixture
        def store(self) -> Store:
            return MemoryStore()

        @pytest.fixture
        def rival(self, store: Store) -> Store:
            return store.run()

        def read(self, store: MemoryStore, path: str) -> bytes:
            return store.objects[path][0]

`store` must be empty and of the place of `CONTENTS`. `rival` is the same place as another process sees it, with a lease
of its own. `large` is the content of a file of at least three parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from airfreight.checkpoint import LEASE
from airfreight.errors import RequestError
from airfreight.leases import MARGIN
from airfreight.manifest import ManifestFile
from airfreight.retry import HeldError
from airfreight.transfer import Store
from tests.unit.memory_store import describe, lfs, small

CONTENTS = {
    "config.json": b'{"model_type": "qwen2"}',
    "empty.txt": b"",
    "nested/größe/模型.txt": b"names in many scripts",
    "model.safetensors": bytes(range(256)) * 100,
}


def put_all(store: Store, contents: Mapping[str, bytes]) -> None:
    """Send files as the engine does, bundle by bundle."""
    for bundle in store.bundles(describe(contents).files):
        for file in bundle:
            put(store, file, contents[file.path])


def put(store: Store, file: ManifestFile, content: bytes) -> None:
    """Send one file, as the engine does."""
    upload = store.begin(file)
    for start in range(upload.offset, len(content), upload.part_size):
        upload.write(bytearray(content[start : start + upload.part_size]), None, start)
    upload.commit()


class StoreContract:
    """The tests; each starts from an empty store."""

    def read(self, store: Any, path: str) -> bytes:
        """Return the content of a file that is held."""
        raise NotImplementedError

    @pytest.fixture
    def large(self) -> bytes:
        return bytes(range(251)) * 60

    def test_empty_store_holds_nothing(self, store: Store) -> None:
        assert store.sealed() is None
        assert store.held(describe(CONTENTS).files) == frozenset()

    def test_prepare_leaves_nothing(self, store: Store) -> None:
        store.prepare(describe(CONTENTS).files)
        store.prepare(describe(CONTENTS).files)
        assert store.sealed() is None
        assert store.held(describe(CONTENTS).files) == frozenset()

    def test_files_are_held_once_committed(self, store: Store) -> None:
        put_all(store, CONTENTS)
        assert store.held(describe(CONTENTS).files) == frozenset(CONTENTS)

    def test_bundles_have_each_file_once_whatever_the_order(self, store: Store, rival: Store) -> None:
        files = describe(CONTENTS).files
        bundles = store.bundles(files)
        assert sorted(file.path for bundle in bundles for file in bundle) == sorted(CONTENTS)
        assert set(rival.bundles(files[::-1])) == set(bundles)
        for bundle in bundles:
            assert store.bundles(bundle) == [bundle]

    def test_a_bundle_is_held_as_a_whole_or_not_at_all(self, store: Store) -> None:
        files = describe(CONTENTS).files
        bundle = max(store.bundles(files), key=len)
        for file in bundle[:-1]:
            put(store, file, CONTENTS[file.path])
            assert store.held(files) == frozenset()
        put(store, bundle[-1], CONTENTS[bundle[-1].path])
        assert store.held(files) == {file.path for file in bundle}

    def test_parts_come_in_any_order_where_the_store_says_so(self, store: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        upload = store.begin(file)
        starts = range(0, len(large), upload.part_size)
        for start in reversed(starts) if upload.parallel > 1 else starts:
            upload.write(bytearray(large[start : start + upload.part_size]), None, start)
        upload.commit()
        assert store.held([file]) == {"model.safetensors"}
        assert self.read(store, file.path) == large

    def test_only_parts_without_a_gap_are_gone_on_with(self, store: Store, rival: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        first = store.begin(file)
        size = first.part_size
        starts = (0, 2 * size) if first.parallel > 1 else (0,)
        for start in starts:
            first.write(bytearray(large[start : start + size]), str(start % 10) * 64, start)
        first.release()
        second = rival.begin(file)
        assert (second.offset, second.state) == (size, "0" * 64)
        for start in range(size, len(large), size):
            second.write(bytearray(large[start : start + size]), None, start)
        second.commit()
        assert self.read(store, file.path) == large

    def test_nothing_is_held_before_commit(self, store: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        upload = store.begin(file)
        for start in range(0, len(large), upload.part_size):
            upload.write(bytearray(large[start : start + upload.part_size]), None, start)
        assert store.held([file]) == frozenset()
        upload.abort()
        assert store.held([file]) == frozenset()

    def test_several_parts_make_one_file(self, store: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        upload = store.begin(file)
        assert len(large) > 2 * upload.part_size
        upload.abort()
        put(store, file, large)
        assert store.held([file]) == {"model.safetensors"}

    def test_what_was_let_go_is_gone_on_with(self, store: Store, rival: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        first = store.begin(file)
        size = first.part_size
        assert (first.offset, first.state) == (0, None)
        first.write(bytearray(large[:size]), "5" * 64, 0)
        first.release()
        second = rival.begin(file)
        assert (second.part_size, second.offset, second.state) == (size, size, "5" * 64)
        for start in range(size, len(large), size):
            second.write(bytearray(large[start : start + size]), None, start)
        second.commit()
        assert store.held([file]) == {"model.safetensors"}
        assert self.read(store, file.path) == large

    def test_what_a_live_run_holds_is_left_alone(self, store: Store, rival: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        first = store.begin(file)
        first.write(bytearray(large[: first.part_size]), None, 0)
        with pytest.raises(
            HeldError, match=r"^Another run \(.+\) holds model\.safetensors of .+ until .+ UTC"
        ) as caught:
            rival.begin(file)
        assert 0 < caught.value.seconds <= LEASE + MARGIN
        rival.tidy([file])
        for start in range(first.part_size, len(large), first.part_size):
            first.write(bytearray(large[start : start + first.part_size]), None, start)
        first.commit()
        assert store.held([file]) == {"model.safetensors"}

    def test_what_was_aborted_begins_again(self, store: Store, rival: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        first = store.begin(file)
        first.write(bytearray(large[: first.part_size]), None, 0)
        first.abort()
        assert rival.begin(file).offset == 0

    def test_tidy_removes_what_was_let_go(self, store: Store, rival: Store, large: bytes) -> None:
        file = lfs("model.safetensors", large)
        first = store.begin(file)
        first.write(bytearray(large[: first.part_size]), None, 0)
        first.release()
        rival.tidy([])
        assert rival.begin(file).offset == 0

    def test_commit_may_be_repeated(self, store: Store, large: bytes) -> None:
        for file, content in ((lfs("model.safetensors", large), large), (small("a.json", b"{}"), b"{}")):
            upload = store.begin(file)
            for start in range(0, len(content), upload.part_size):
                upload.write(bytearray(content[start : start + upload.part_size]), None, start)
            upload.commit()
            upload.commit()
            upload.abort()
            assert store.held([file]) == {file.path}

    def test_other_content_of_the_same_size_is_not_held(self, store: Store) -> None:
        put(store, lfs("model.safetensors", b"right"), b"right")
        assert store.held([lfs("model.safetensors", b"wrong")]) == frozenset()

    def test_another_digest_kind_is_not_held(self, store: Store) -> None:
        put(store, small("a.json", b"{}"), b"{}")
        assert store.held([lfs("a.json", b"{}")]) == frozenset()

    def test_a_file_may_be_sent_again(self, store: Store) -> None:
        put(store, lfs("model.safetensors", b"old one"), b"old one")
        put(store, lfs("model.safetensors", b"new one"), b"new one")
        assert store.held([lfs("model.safetensors", b"new one")]) == {"model.safetensors"}

    def test_seal_returns_the_artifact_and_is_read_back(self, store: Store) -> None:
        manifest = describe(CONTENTS)
        assert store.seal(manifest) == store.artifact
        assert store.artifact.endswith("/")
        assert store.sealed() == manifest

    def test_seal_may_be_repeated(self, store: Store) -> None:
        manifest = describe(CONTENTS)
        assert store.seal(manifest) == store.seal(manifest)

    def test_seal_refuses_another_manifest(self, store: Store) -> None:
        store.seal(describe(CONTENTS))
        other = describe({"model.safetensors": b"other"})
        with pytest.raises(RequestError, match=r"already holds another manifest .* a version is never overwritten"):
            store.seal(other)
        assert store.sealed() == describe(CONTENTS)
