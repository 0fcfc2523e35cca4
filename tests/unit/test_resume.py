"""The engine when runs die, meet, or come back: between a source and a store in memory."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import pytest

from airfreight import hashing
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.leases import Tenure
from airfreight.manifest import Manifest, ManifestFile
from airfreight.progress import Progress
from airfreight.retry import HeldError, Patience
from airfreight.transfer import CopyResult, copy, seal
from tests.unit.bundle_store import BundleStore
from tests.unit.memory_store import MemoryShelf, MemorySource, MemoryStore, describe

PART = 4096
AT_ONCE = 2
CONTENTS = {
    "config.json": b"{}",
    "model-1.safetensors": random.Random(1).randbytes(10 * PART + 17),
    "model-2.safetensors": random.Random(2).randbytes(7 * PART),
    "model-3.safetensors": random.Random(3).randbytes(PART - 1),
}
SIZE = sum(map(len, CONTENTS.values()))
TASK = Tenure("task")


class KilledError(BaseException):
    """SIGKILL: nothing of ours runs after it."""


@dataclass
class Life:
    """Counts down to the moment of death; from then on everything the process tries is in vain."""

    left: int = 10**9
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tick(self) -> None:
        with self.lock:
            self.left -= 1
            if self.left < 0:
                raise KilledError


@dataclass
class MortalSource(MemorySource):
    """Dies with its process. `sent` counts the bytes it gave, over all lives."""

    life: Life = field(default_factory=Life)
    sent: Counter[str] = field(default_factory=Counter)

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        for chunk in super().open(file, offset):
            self.life.tick()
            self.sent[file.path] += len(chunk)
            yield chunk


@dataclass
class MortalShelf(MemoryShelf):
    """A shelf as a mortal process reaches it: death comes before or after a write."""

    life: Life = field(default_factory=Life)

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        self.life.tick()
        tag = super().write(name, data, tag)
        self.life.tick()
        return tag

    def remove(self, name: str, tag: str) -> None:
        self.life.tick()
        super().remove(name, tag)
        self.life.tick()


@dataclass
class MortalStore(MemoryStore):
    life: Life = field(default_factory=Life)

    def seal(self, manifest: Manifest) -> str:
        self.life.tick()
        return super().seal(manifest)


@dataclass
class MortalBundles(BundleStore):
    life: Life = field(default_factory=Life)

    def seal(self, manifest: Manifest) -> str:
        self.life.tick()
        return super().seal(manifest)


STORES = {
    "parts in turn": lambda: MortalStore(part_size=PART),
    "parts at once": lambda: MortalStore(part_size=PART, parallel=3),
    "bundles": lambda: MortalBundles(part_size=PART),
}


def live(store: MortalStore | MortalBundles, source: MortalSource, tenure: Tenure, left: int) -> CopyResult | None:
    """Run a copy that dies after `left` steps; None if it did."""
    source.life = Life(left)
    shelf = MortalShelf(store.shelf.objects, store.shelf.now, store.shelf.writes, life=source.life)
    run = store.run(tenure)
    run.shelf, run.life = shelf, source.life
    run.__post_init__()
    try:
        return copy(source, run, patience=Patience(wait=lambda event, seconds: None), files_at_once=AT_ONCE)
    except KilledError:
        return None
    finally:
        store.shelf.writes = shelf.writes


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("resumable", [True, False], ids=["state kept", "state lost"])
@pytest.mark.parametrize("seed", range(50))
def test_killed_anywhere_any_number_of_times(
    seed: int, resumable: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not resumable:
        monkeypatch.setattr(hashing, "_native", lambda: None)
    chance = random.Random(seed)
    contents = {**CONTENTS, "empty.txt": b"", "tokenizer.json": CONTENTS["model-3.safetensors"]}
    store, source = STORES[kind](), MortalSource(contents, chunk=1000)
    window = 2 * PART if kind == "parts in turn" else 4 * PART
    deaths = 0
    while (result := live(store, source, TASK, chance.randrange(5, 60 + 5 * deaths))) is None:
        deaths += 1
        assert all(content == contents[path] for path, (content, _) in store.objects.items())
        assert store.manifest is None or store.held(store.manifest.files) == contents.keys()
        assert deaths < 100
    assert {path: content for path, (content, _) in store.objects.items()} == contents
    assert store.manifest == describe(contents)
    assert store.left == ([], [])
    assert result.artifact == store.artifact
    if resumable:  # the parts that are sent, one that is read, and a chunk more, for each file under way
        assert sum(source.sent.values()) <= sum(map(len, contents.values())) + deaths * AT_ONCE * (window + 1000)
    assert deaths > 0


def test_what_was_sent_is_not_read_again() -> None:
    content = CONTENTS["model-1.safetensors"]
    store, source = MortalStore(part_size=PART), MortalSource({"model-1.safetensors": content}, chunk=PART)
    assert live(store, source, TASK, 20) is None
    sent = sum(source.sent.values())
    source.opened.clear()
    result = live(store, source, TASK, 10**6)
    assert result is not None
    ((_, offset),) = source.opened
    assert sent - 2 * PART <= offset == result.resumed_bytes > 0
    assert result.moved_bytes == len(content) - offset


@pytest.mark.parametrize("resumable", [True, False], ids=["state kept", "state lost"])
def test_progress_tells_of_what_is_there_once(resumable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent by an earlier run, copied inside the store, or moved now: at the end it is the size of the model."""
    if not resumable:
        monkeypatch.setattr(hashing, "_native", lambda: None)
    first = MemoryStore(artifact="memory://models/acme/pong/000000000000/")
    copy(MemorySource({"model-2.safetensors": CONTENTS["model-2.safetensors"]}), first)
    store = MortalStore(part_size=PART, versions=[first])
    assert live(store, MortalSource(CONTENTS, chunk=1000), TASK, 40) is None
    progress = Progress(write=lambda line: None)
    result = copy(MemorySource(CONTENTS), store.run(TASK), progress)
    assert result.resumed_bytes > 0
    assert progress._present == SIZE
    assert progress._moved == result.moved_bytes < SIZE


def test_without_a_state_it_is_read_again_and_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_native", lambda: None)
    content = CONTENTS["model-1.safetensors"]
    store, source = MortalStore(part_size=PART), MortalSource({"model-1.safetensors": content}, chunk=1000)
    assert live(store, source, TASK, 60) is None
    source.opened.clear()
    source.life = Life()
    run = store.run(TASK)
    result = copy(source, run)
    assert source.opened == [("model-1.safetensors", 0)]
    assert result.moved_bytes == len(content)
    assert result.resumed_bytes > 0
    assert sum(map(len, run.uploads[0].sent)) == len(content) - result.resumed_bytes
    assert store.objects["model-1.safetensors"][0] == content


@pytest.mark.parametrize("resumable", [True, False], ids=["state kept", "state lost"])
@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda content: content[:-1] + b"!", "has sha256 [0-9a-f]{64}, the manifest says"),
        (lambda content: content + b"!", "has more than 40977 bytes, the size the manifest says"),
        (lambda content: content[:-1], "has 40976 bytes, the manifest says 40977"),
    ],
    ids=["damaged", "longer", "shorter"],
)
def test_a_source_that_lies_to_the_second_run_is_found_out(
    change: object, finding: str, resumable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not resumable:
        monkeypatch.setattr(hashing, "_native", lambda: None)
    right = {"model.safetensors": CONTENTS["model-1.safetensors"]}
    store = MortalStore(part_size=PART)
    assert live(store, MortalSource(right, chunk=PART), TASK, 20) is None
    wrong = {"model.safetensors": change(right["model.safetensors"])}  # type: ignore[operator]
    with pytest.raises(IntegrityError, match=finding):
        copy(MemorySource(wrong, described=describe(right)), store.run(TASK))
    assert (store.objects, store.manifest, store.left) == ({}, None, ([], []))


@pytest.mark.parametrize("left", range(30))
def test_damaged_bytes_are_never_visible_wherever_a_run_dies(left: int) -> None:
    """The last byte is wrong: no checkpoint may say that all is there and right."""
    right = {"model.safetensors": CONTENTS["model-1.safetensors"][: 3 * PART]}
    wrong = {"model.safetensors": right["model.safetensors"][:-1] + b"!"}
    store = MortalStore(part_size=PART)
    source = MortalSource(wrong, described=describe(right), chunk=PART)
    for lives in (left, 10**6):
        try:
            live(store, source, TASK, lives)
        except IntegrityError:
            break
    else:
        pytest.fail("it was taken for right")
    assert (store.objects, store.manifest, store.left) == ({}, None, ([], []))


@pytest.mark.parametrize(
    ("error", "kept"),
    [(TemporaryError("down"), True), (KeyboardInterrupt(), True), (RequestError("gone"), False)],
    ids=["temporary", "signal", "wrong request"],
)
def test_only_what_somebody_comes_back_for_is_kept(error: BaseException, kept: bool) -> None:
    class Failing(MemorySource):
        def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
            yield from list(super().open(file, offset))[:20]
            raise error

    store = MemoryStore(part_size=PART)
    source = Failing({"model.safetensors": CONTENTS["model-1.safetensors"]})
    with pytest.raises(type(error)):
        copy(source, store, patience=Patience(attempts=1))
    assert bool(store.left[0]) == bool(store.left[1]) == kept
    result = copy(MemorySource(source.contents), store.run())
    assert (result.resumed_bytes > 0) == kept
    assert store.left == ([], [])


@dataclass
class Hand:
    """Stands for the passing of time: each wait moves the store's clock, and something may happen meanwhile."""

    store: MemoryStore
    meanwhile: object = None
    waited: float = 0.0

    def wait(self, event: threading.Event, seconds: float) -> None:
        self.store.shelf.now += seconds
        self.waited += seconds
        if callable(self.meanwhile):
            self.meanwhile()

    def patience(self) -> Patience:
        return Patience(wait=self.wait)


def test_a_dead_neighbours_file_is_taken_when_its_lease_is_over() -> None:
    store = MortalStore(part_size=PART)
    source = MortalSource(CONTENTS, chunk=1000)
    assert live(store, source, Tenure("dead"), 40) is None
    source.life, hand = Life(), Hand(store)
    result = copy(source, store.run(Tenure("next")), patience=hand.patience())
    assert 60 < hand.waited <= 76
    assert result.resumed_bytes > 0
    assert store.manifest == describe(CONTENTS)
    assert store.left == ([], [])


def test_a_live_neighbour_is_left_alone_and_named() -> None:
    store = MemoryStore(part_size=PART)
    neighbour = store.run(Tenure("pod-a"))
    upload = neighbour.begin(next(file for file in describe(CONTENTS).files if file.path == "model-2.safetensors"))
    upload.write(bytearray(CONTENTS["model-2.safetensors"][:PART]), None, 0)
    hand = Hand(store, neighbour.renew)
    ours = store.run(Tenure("pod-b"))
    with pytest.raises(
        HeldError, match=r"^Another run \(pod-a\) holds model-2\.safetensors of memory://.* until .* UTC"
    ):
        copy(MemorySource(CONTENTS), ours, patience=hand.patience())
    assert hand.waited <= 20
    assert store.objects.keys() == CONTENTS.keys() - {"model-2.safetensors"}
    assert store.manifest is None
    rest = CONTENTS["model-2.safetensors"][PART:]
    for start in range(0, len(rest), PART):
        upload.write(bytearray(rest[start : start + PART]), None, PART + start)
    upload.commit()
    result = copy(MemorySource(CONTENTS), ours)
    assert (result.moved_bytes, result.reused_files) == (0, 4)
    assert store.left == ([], [])


def test_waiting_ends_also_where_the_stores_clock_stands_still() -> None:
    store = MemoryStore(part_size=PART)
    store.run(Tenure("pod-a")).begin(describe(CONTENTS).files[1])
    clock = iter(range(0, 100_000, 5))
    patience = Patience(wait=lambda event, seconds: None, clock=lambda: float(next(clock)))
    with pytest.raises(HeldError, match=r"^Another run \(pod-a\) holds"):
        copy(
            MemorySource({}, described=describe(CONTENTS)),
            store.run(),
            patience=patience,
            share=describe(CONTENTS).files[1:2],
        )


def test_what_the_neighbour_finished_meanwhile_is_found() -> None:
    store = MemoryStore(part_size=PART)
    neighbour = store.run(Tenure("pod-a"))
    file = next(file for file in describe(CONTENTS).files if file.path == "model-2.safetensors")
    upload = neighbour.begin(file)
    content = CONTENTS["model-2.safetensors"]

    def finish() -> None:
        for start in range(0, len(content), PART):
            upload.write(bytearray(content[start : start + PART]), None, start)
        upload.commit()

    result = copy(MemorySource(CONTENTS), store.run(Tenure("pod-b")), patience=Hand(store, finish).patience())
    assert (result.moved_bytes, result.reused_files) == (SIZE - len(content), 1)
    assert store.manifest == describe(CONTENTS)


def test_two_runs_at_once_give_one_result() -> None:
    """They share the files; the one that ends last seals, the other says who is at work or that all is there."""
    store = MemoryStore(part_size=PART)
    together = threading.Barrier(2, timeout=10)
    outcomes: dict[str, CopyResult | TemporaryError] = {}

    class Together(MemorySource):
        def manifest(self) -> Manifest:
            together.wait()
            return super().manifest()

    def run(owner: str) -> None:
        patience = Patience(wait=lambda event, seconds: event.wait(0.01))
        try:
            outcomes[owner] = copy(Together(CONTENTS), store.run(Tenure(owner, renewal=0.0)), patience=patience)
        except HeldError as error:
            outcomes[owner] = error

    threads = [threading.Thread(target=run, args=(owner,)) for owner in ("pod-a", "pod-b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    results = [outcome for outcome in outcomes.values() if isinstance(outcome, CopyResult)]
    assert len(outcomes) == 2 and results
    assert {path: content for path, (content, _) in store.objects.items()} == CONTENTS
    assert store.manifest == describe(CONTENTS)
    assert store.left == ([], [])
    assert copy(MemorySource(CONTENTS), store.run()).moved_bytes == 0


def test_a_run_that_was_taken_over_stops_and_finds_the_result() -> None:
    """It slept through its lease; the other run finished everything meanwhile."""
    store = MemoryStore(part_size=PART)

    class Asleep(MemorySource):
        def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
            for index, chunk in enumerate(super().open(file, offset)):
                if index == 2 and not store.manifest:  # nothing was sent yet
                    store.shelf.now += 100
                    copy(MemorySource(CONTENTS), store.run(Tenure("awake")))
                yield chunk

    sleeper = store.run(Tenure("sleeper"))
    sleeper.renew = lambda: None  # type: ignore[method-assign]
    result = copy(Asleep(CONTENTS), sleeper, files_at_once=1, patience=Hand(store).patience())
    assert {path: content for path, (content, _) in store.objects.items()} == CONTENTS
    assert result.manifest == store.manifest
    assert store.left == ([], [])


def test_unchanged_files_come_from_another_version() -> None:
    first = MemoryStore(artifact="memory://models/acme/pong/000000000000/")
    copy(MemorySource(CONTENTS), first)
    changed = {**CONTENTS, "model-2.safetensors": b"new weights"}
    second = MemoryStore(versions=[first])
    source = MemorySource(changed)
    result = copy(source, second)
    assert [path for path, _ in source.opened] == ["model-2.safetensors"]
    assert (result.moved_bytes, result.reused_files) == (len(b"new weights"), 3)
    assert {path: content for path, (content, _) in second.objects.items()} == changed


def test_a_version_that_lost_its_file_meanwhile_is_no_obstacle() -> None:
    first = MemoryStore(artifact="memory://models/acme/pong/000000000000/")
    copy(MemorySource(CONTENTS), first)

    class Losing(MemoryStore):
        def elsewhere(self, files: Sequence[ManifestFile]) -> frozenset[str]:
            there = super().elsewhere(files)
            first.objects.clear()
            return there

    second = Losing(versions=[first])
    result = copy(MemorySource(CONTENTS), second)
    assert (result.moved_bytes, result.reused_files) == (SIZE, 0)
    assert {path: content for path, (content, _) in second.objects.items()} == CONTENTS


def test_shares_are_sealed_when_all_are_there() -> None:
    store, manifest = MemoryStore(part_size=PART), describe(CONTENTS)
    first, second = manifest.files[:2], manifest.files[2:]
    result = copy(MemorySource(CONTENTS), store, share=first)
    assert result.moved_bytes == sum(file.size for file in first)
    assert (store.objects.keys(), store.manifest) == ({file.path for file in first}, None)
    with pytest.raises(
        RequestError, match=r"cannot be sealed, because 2 of 4 files are missing, model-2\.safetensors am"
    ):
        seal(manifest, store)
    copy(MemorySource(CONTENTS), store, share=second)
    assert store.manifest is None
    assert seal(manifest, store) == seal(manifest, store) == store.artifact
    assert store.manifest == manifest


def test_a_share_does_not_touch_the_uploads_of_its_neighbours() -> None:
    store, manifest = MemoryStore(part_size=PART), describe(CONTENTS)
    neighbour = store.run(TASK)  # with our name, even
    upload = neighbour.begin(manifest.files[2])
    upload.write(bytearray(CONTENTS[manifest.files[2].path][:PART]), None, 0)
    copy(MemorySource(CONTENTS), store.run(TASK), share=manifest.files[:2])
    upload.write(bytearray(CONTENTS[manifest.files[2].path][PART : 2 * PART]), None, PART)


def test_memory_is_two_parts_for_each_file_under_way() -> None:
    """The memory that is handed to the store is used again, and so is never more than that."""
    places: dict[str, set[int]] = {}

    class Watching(MemoryStore):
        def begin(self, file: ManifestFile):  # type: ignore[no-untyped-def]
            upload = super().begin(file)
            write = upload.write

            def watched(part: memoryview, state: str | None, at: int) -> None:
                assert part.obj is not None and len(part.obj) <= PART
                places.setdefault(file.path, set()).add(id(part.obj))
                write(part, state, at)

            upload.write = watched  # type: ignore[method-assign, assignment]
            return upload

    copy(MemorySource(CONTENTS), Watching(part_size=PART))
    assert len(places["model-1.safetensors"]) == 2
    assert len(places["model-3.safetensors"]) == 1
