"""Checkpoints and leases, on a shelf in memory whose clock is set by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.checkpoint import Checkpoint, Part, Stored, folder, name
from airfreight.errors import TemporaryError
from airfreight.leases import Leases, Tenure
from airfreight.retry import HeldError
from tests.unit.memory_store import MemoryShelf, lfs

ARTIFACT = "s3://llm-models/acme/pong/41ab6c1b1c1f/"
FILE = lfs("model.safetensors", b"weights")
PART = Part('"9b2c"', 5, "Zm9v")


def leases(shelf: MemoryShelf, owner: str, lease: float = 60.0) -> Leases:
    return Leases(ARTIFACT, shelf, Tenure(owner, lease, renewal=15.0, margin=10.0), clock=lambda: shelf.now)


texts = st.text(max_size=20)


@given(texts, texts, st.integers(0, 2**60), st.lists(st.builds(Part, texts, st.integers(0, 2**40), texts), max_size=5))
def test_what_is_written_is_read(path: str, digest: str, size: int, parts: list[Part]) -> None:
    checkpoint = Checkpoint(ARTIFACT, path, size, digest, 16, "id", tuple(parts), "0f", None, "me", "c", 60.0, "…")
    assert Checkpoint.from_json(checkpoint.to_json()) == checkpoint
    assert checkpoint.offset == sum(part.size for part in parts)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"format":2}', b'{"format":1}', b'{"format":1,"parts":[1]}', b"\xff"]
)
def test_anything_else_is_no_checkpoint(data: bytes) -> None:
    with pytest.raises(ValueError):
        Checkpoint.from_json(data)


def test_it_lies_outside_every_served_prefix() -> None:
    assert folder(ARTIFACT).startswith(".airfreight/uploads/")
    assert len({folder(ARTIFACT), folder(ARTIFACT + "x/")}) == 2
    assert name(FILE) != name(lfs("copy.safetensors", b"weights"))


def test_a_first_claim_is_empty_and_dated() -> None:
    shelf = MemoryShelf()
    claim = leases(shelf, "me").claim(FILE)
    assert (claim.checkpoint.offset, claim.checkpoint.upload_id, claim.checkpoint.owner) == (0, "", "me")
    assert claim.checkpoint.expires.endswith("Z")
    assert Checkpoint.from_json(shelf.objects[name(FILE)][0]) == claim.checkpoint


def test_the_next_run_goes_on_when_the_lease_ran_out_and_not_before() -> None:
    shelf = MemoryShelf()
    leases(shelf, "dead").claim(FILE).record(upload_id="u", parts=(PART,), state="5" * 64)
    shelf.now = 69.9
    with pytest.raises(HeldError) as caught:
        leases(shelf, "next").claim(FILE)
    assert caught.value.seconds == pytest.approx(0.1)
    assert caught.value.message.startswith(f"Another run (dead) holds model.safetensors of {ARTIFACT} until ")
    assert caught.value.message.endswith(" UTC, or longer if it is alive: wait for its end, then run this again.")
    shelf.now = 70.0
    found = leases(shelf, "next").claim(FILE).checkpoint
    assert (found.upload_id, found.parts, found.state, found.owner) == ("u", (PART,), "5" * 64, "next")


def test_a_retry_of_the_same_task_goes_on_at_once() -> None:
    shelf = MemoryShelf()
    leases(shelf, "task-7").claim(FILE).record(upload_id="u")
    assert leases(shelf, "task-7").claim(FILE).checkpoint.upload_id == "u"


def test_what_was_let_go_is_anybodys() -> None:
    shelf = MemoryShelf()
    first = leases(shelf, "first").claim(FILE)
    first.record(upload_id="u", parts=(PART,))
    first.release()
    first.release()
    second = leases(shelf, "second").claim(FILE)
    assert second.checkpoint.parts == (PART,)
    first.release()
    first.drop(lambda: pytest.fail("not ours any more"))
    second.record(upload_id="v")


def test_renewals_keep_it() -> None:
    shelf = MemoryShelf()
    ours = leases(shelf, "ours")
    ours.claim(FILE)
    tags = set()
    for _ in range(20):
        shelf.now += 16.0
        ours.renew()
        ours.renew()  # not due again
        with pytest.raises(HeldError) as caught:
            leases(shelf, "other").claim(FILE)
        tags.add(caught.value.lease)
    assert (len(tags), shelf.writes) == (20, 21)


def test_who_slept_through_the_end_of_its_lease_stops() -> None:
    shelf = MemoryShelf()
    ours = leases(shelf, "sleeper")
    claim = ours.claim(FILE)
    shelf.now = 71.0
    other = leases(shelf, "other").claim(FILE)
    sentence = (
        rf"^Another run took model\.safetensors of {ARTIFACT} over, because the lease of this one \(sleeper\) ran"
    )
    for _ in range(2):
        with pytest.raises(HeldError, match=sentence):
            claim.record(parts=(PART,))
    claim.renew()
    claim.release()
    claim.done()
    other.record(parts=(PART,))
    assert Checkpoint.from_json(shelf.objects[name(FILE)][0]).owner == "other"


def test_of_two_with_one_name_the_later_goes_on_and_neither_takes_it_back() -> None:
    shelf = MemoryShelf()
    first, second = leases(shelf, "same"), leases(shelf, "same")
    claim = first.claim(FILE)
    second.claim(FILE)
    with pytest.raises(HeldError):
        claim.record(upload_id="u")
    with pytest.raises(HeldError):
        first.claim(FILE)


def test_a_write_whose_answer_was_lost_is_still_ours() -> None:
    @dataclass
    class Mute(MemoryShelf):
        mute: bool = False

        def write(self, name: str, data: bytes, tag: str | None) -> str:
            written = super().write(name, data, tag)
            if self.mute:
                self.mute = False
                raise TemporaryError("The connection broke.")
            return written

    shelf = Mute()
    claim = leases(shelf, "ours").claim(FILE)
    shelf.mute = True
    with pytest.raises(TemporaryError, match="broke"):
        claim.record(parts=(PART,))
    claim.record(parts=(PART,))
    assert claim.checkpoint.parts == (PART,)

    fresh = Mute(mute=True)
    ours = leases(fresh, "ours")
    with pytest.raises(TemporaryError, match="broke"):
        ours.claim(FILE)
    ours.claim(FILE).record(parts=(PART,))


def test_of_two_at_the_same_moment_one_wins() -> None:
    @dataclass
    class Overtaken(MemoryShelf):
        def write(self, name: str, data: bytes, tag: str | None) -> str:
            if not self.objects:
                leases(rival, "rival").claim(FILE)
                self.objects.update(rival.objects)
            return super().write(name, data, tag)

    rival, shelf = MemoryShelf(writes=10), Overtaken()
    with pytest.raises(HeldError, match=r"Another run \(rival\) holds"):
        leases(shelf, "ours").claim(FILE)


def test_other_content_of_the_same_path_begins_afresh() -> None:
    shelf = MemoryShelf()
    claim = leases(shelf, "first").claim(FILE)
    claim.record(upload_id="u", parts=(PART,))
    claim.release()
    found = leases(shelf, "second").claim(lfs("model.safetensors", b"changed")).checkpoint
    assert (found.upload_id, found.parts) == ("", ())


@pytest.mark.parametrize("data", [b"not json", b'{"format":99}'])
def test_what_cannot_be_read_is_left_alone_until_a_lease_is_over(data: bytes) -> None:
    shelf = MemoryShelf()
    shelf.write(name(FILE), data, None)
    with pytest.raises(HeldError, match="of another airfreight"):
        leases(shelf, "ours").claim(FILE)
    shelf.now = 71.0
    assert leases(shelf, "ours").claim(FILE).checkpoint.path == FILE.path


def test_leftovers_are_those_no_live_run_holds() -> None:
    shelf = MemoryShelf()
    files = {
        label: lfs(f"{label}.safetensors", label.encode()) for label in ("dead", "released", "ours", "shares", "live")
    }
    leases(shelf, "dead").claim(files["dead"])
    leases(shelf, "me").claim(files["shares"])
    shelf.now = 71.0
    leases(shelf, "gone").claim(files["released"]).release()
    leases(shelf, "me").claim(files["ours"])
    leases(shelf, "me").claim(files["shares"])
    leases(shelf, "alive").claim(files["live"])
    undone: list[str] = []
    for claim in leases(shelf, "me").leftovers([files["ours"]]):
        claim.drop(lambda path=claim.checkpoint.path: undone.append(path))  # type: ignore[misc]
    assert sorted(undone) == ["dead.safetensors", "ours.safetensors", "released.safetensors"]
    assert shelf.names() == sorted(name(files[label]) for label in ("shares", "live"))


def test_undoing_that_fails_is_tried_again() -> None:
    shelf = MemoryShelf()
    claim = leases(shelf, "me").claim(FILE)
    claim.release()
    ours = leases(shelf, "me")

    def fail() -> None:
        raise TemporaryError("The object store answers 503.")

    with pytest.raises(TemporaryError):
        for claim in ours.leftovers([]):
            claim.drop(fail)
    for claim in ours.leftovers([]):
        claim.drop(lambda: None)
    assert shelf.names() == []


def test_an_age_is_told_by_the_store_alone() -> None:
    """A machine whose clock is a day ahead takes nothing over."""
    from datetime import UTC, datetime, timedelta

    shelf = MemoryShelf()
    leases(shelf, "alive").claim(FILE)
    tomorrow = Leases(
        ARTIFACT, shelf, Tenure("ahead"), clock=lambda: 1e9, now=lambda: datetime.now(UTC) + timedelta(days=1)
    )
    with pytest.raises(HeldError):
        tomorrow.claim(FILE)
    assert shelf.read(name(FILE)) == Stored(shelf.objects[name(FILE)][0], "1", 0.0)
