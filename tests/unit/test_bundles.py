"""The engine with a store whose unit is larger than a file, and with one that loses what it was sent."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.leases import Tenure
from airfreight.manifest import ManifestFile
from airfreight.progress import Progress
from airfreight.retry import HeldError, LostError, Patience
from airfreight.transfer import Store, copy
from tests.unit.bundle_store import BundleStore
from tests.unit.memory_store import MemorySource, MemoryStore, describe
from tests.unit.store_contract import StoreContract

CONTENTS = {
    "config.json": b"{}",
    "empty.txt": b"",
    "model-1.safetensors": bytes(range(256)) * 100,
    "model-2.safetensors": bytes(range(255)) * 40,
    "tokenizer.json": bytes(range(250)) * 50,
}
SMALL = ["config.json", "empty.txt", "tokenizer.json"]
SIZE = sum(map(len, CONTENTS.values()))


def patience(attempts: int = 6) -> Patience:
    return Patience(attempts=attempts, wait=lambda event, seconds: None)


class TestBundleStore(StoreContract):
    """The contract, against a store that bundles."""

    @pytest.fixture
    def store(self) -> BundleStore:
        return BundleStore()

    @pytest.fixture
    def rival(self, store: BundleStore) -> Store:
        return store.run()

    def read(self, store: BundleStore, path: str) -> bytes:
        return store.objects[path][0]


class TestParallelStore(StoreContract):
    """The contract, against a store that takes several parts of a file at once."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(parallel=3)

    @pytest.fixture
    def rival(self, store: MemoryStore) -> Store:
        return store.run()

    def read(self, store: MemoryStore, path: str) -> bytes:
        return store.objects[path][0]


def arrived(store: MemoryStore) -> dict[str, bytes]:
    return {path: content for path, (content, _) in store.objects.items()}


def test_the_files_of_a_bundle_go_one_after_the_other() -> None:
    store = BundleStore()
    result = copy(MemorySource(CONTENTS), store)
    assert arrived(store) == CONTENTS
    assert [event for event in store.events if event[1] in SMALL] == [
        (what, path) for path in SMALL for what in ("begin", "commit")
    ]
    assert (result.moved_bytes, result.reused_files, store.left) == (SIZE, 0, ([], []))


def test_nothing_of_a_bundle_is_visible_before_its_last_file_was_right() -> None:
    wrong = {**CONTENTS, "tokenizer.json": CONTENTS["tokenizer.json"][:-1] + b"!"}
    store = BundleStore()
    with pytest.raises(IntegrityError, match=r"tokenizer\.json has git_blob_id"):
        copy(MemorySource(wrong, described=describe(CONTENTS)), store, files_at_once=1)
    assert arrived(store).keys().isdisjoint(SMALL)
    assert ("abort", "tokenizer.json") in store.events
    assert (store.manifest, store.left) == (None, ([], []))


def test_a_bundle_of_which_a_part_is_elsewhere_is_sent_whole() -> None:
    class Claiming(BundleStore):
        def elsewhere(self, files):  # type: ignore[no-untyped-def]
            return frozenset({"config.json", "model-1.safetensors"})

        def reuse(self, file: ManifestFile) -> bool:
            self.objects[file.path] = (CONTENTS[file.path], file.digest)
            return True

    store = Claiming()
    result = copy(MemorySource(CONTENTS), store)
    assert arrived(store) == CONTENTS
    assert (result.moved_bytes, result.reused_files) == (SIZE - len(CONTENTS["model-1.safetensors"]), 1)


def test_a_bundle_goes_on_where_a_run_let_go_of_it() -> None:
    class Failing(MemorySource):
        def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
            if file.path == "tokenizer.json" and offset == 0:
                yield from list(super().open(file))[:6]
                raise TemporaryError("The connection broke.")
            yield from super().open(file, offset)

    contents = {"model.safetensors": b"w"} | {path: CONTENTS[path] for path in SMALL}
    store = BundleStore()
    with pytest.raises(TemporaryError):
        copy(Failing(contents), store, patience=patience(1))
    assert store.objects.keys().isdisjoint(SMALL)
    source = MemorySource(contents)
    result = copy(source, store.run())
    assert arrived(store) == contents
    assert "config.json" not in [path for path, _ in source.opened]
    assert result.resumed_bytes == len(CONTENTS["config.json"]) + 4096
    assert store.left == ([], [])


def test_a_bundle_whose_next_file_cannot_begin_is_let_go() -> None:
    class Refusing(BundleStore):
        def begin(self, file: ManifestFile):  # type: ignore[no-untyped-def]
            if file.path == "tokenizer.json":
                raise TemporaryError("The registry answers 503.")
            return super().begin(file)

    store = Refusing()
    with pytest.raises(TemporaryError, match="503"):
        copy(MemorySource(CONTENTS), store, patience=patience(2), files_at_once=1)
    assert ("release", "empty.txt") in store.events
    next_run = BundleStore(shelf=store.shelf, objects=store.objects, rows=store.rows)
    assert copy(MemorySource(CONTENTS), next_run).resumed_bytes > 0
    assert arrived(store) == CONTENTS


def test_a_bundle_that_a_neighbour_holds_is_left_whole() -> None:
    store = BundleStore()
    neighbour = store.run(Tenure("pod-a"))
    neighbour.bundles(describe(CONTENTS).files)
    neighbour.begin(describe(CONTENTS).files[0])
    clock = iter(range(0, 100_000, 5))
    ours = store.run(Tenure("pod-b"))
    with pytest.raises(HeldError, match=r"^Another run \(pod-a\) holds config\.json"):
        copy(
            MemorySource(CONTENTS),
            ours,
            patience=Patience(wait=lambda event, seconds: None, clock=lambda: float(next(clock))),
        )
    assert arrived(store).keys() == CONTENTS.keys() - set(SMALL)


@pytest.mark.parametrize("losses", [{1}, {3}, {9}, {2, 5, 9, 12}, set(range(1, 6))])
def test_what_a_server_lost_is_begun_again(losses: set[int]) -> None:
    store, lines = BundleStore(losses=losses), list[str]()
    progress = Progress(lines.append, interval=0.0)
    copy(MemorySource(CONTENTS), store, progress=progress, patience=patience())
    assert arrived(store) == CONTENTS
    assert store.manifest == describe(CONTENTS)
    assert lines.count("trying again: The registry forgot the upload.") == len(losses)
    assert [event for event, _ in store.events].count("abort") == len(losses)
    assert progress._present == SIZE
    assert store.left == ([], [])


def test_a_server_that_loses_everything_is_given_up() -> None:
    """However much is sent each time: it is no progress."""
    store = BundleStore(losses=set(range(7, 1000)))
    with pytest.raises(LostError, match=r"^The registry forgot the upload\.$"):
        copy(MemorySource(CONTENTS), store, patience=patience(3), files_at_once=1)
    assert (store.manifest, store.left) == (None, ([], []))


def test_a_refused_part_is_not_sent_again_and_again() -> None:
    """What is lost is begun again at once, not after the same part was repeated as often as patience allows."""
    store = BundleStore(losses={2})
    copy(MemorySource({"model.safetensors": bytes(3 * 4096)}), store, patience=patience())
    assert store.asked == 1 + 1 + 3 + 1


def test_a_share_that_is_wrong_is_not_hidden_by_losses() -> None:
    class Forbidding(BundleStore):
        def begin(self, file: ManifestFile):  # type: ignore[no-untyped-def]
            if self.asked:
                raise RequestError("The registry denied it.")
            return super().begin(file)

    with pytest.raises(RequestError, match="denied"):
        copy(MemorySource(CONTENTS), Forbidding(losses={1}), patience=patience(), files_at_once=1)
