"""Parts on their way: how many, in whose memory, and what a failure does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.outbox import MEMORY, MIB, WINDOW, Outbox, parts_at_once
from airfreight.stores.s3 import OBJECT_LIMIT, part_size


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_few_files_have_more_parts_under_way_than_many() -> None:
    assert [parts_at_once(16 * MIB, 3, files) for files in (1, 2, 3, 4, 8)] == [3, 3, 2, 1, 1]
    assert [parts_at_once(16 * MIB, 1, files) for files in (1, 4)] == [1, 1]


@given(size=st.integers(1, OBJECT_LIMIT), files=st.integers(1, 64), parallel=st.integers(1, 8))
def test_memory_and_what_a_kill_costs_are_bounded(size: int, files: int, parallel: int) -> None:
    part = part_size(size)
    at_once = parts_at_once(part, parallel, files)
    assert 1 <= at_once <= parallel
    assert at_once * part <= max(part, WINDOW)
    assert files * (at_once + 1) * part <= max(2 * files * part, MEMORY)


def test_memory_is_used_again(pool: ThreadPoolExecutor) -> None:
    sent: dict[int, bytes] = {}
    places: set[int] = set()

    def send(part: memoryview, state: str | None, at: int) -> None:
        places.add(id(part.obj))
        sent[at] = bytes(part)

    outbox = Outbox(send, pool, lambda: 3)
    for number in range(40):
        size = 10 if number < 39 else 4
        room = outbox.room(size)
        room[:size] = bytes([number]) * size
        outbox.post(room, size, None, 10 * number)
    outbox.settle()
    assert sent == {10 * number: bytes([number]) * (10 if number < 39 else 4) for number in range(40)}
    assert len(places) <= 4


def test_no_part_starts_while_too_many_are_under_way(pool: ThreadPoolExecutor) -> None:
    gates = [threading.Event() for _ in range(3)]
    started: list[int] = []

    def send(part: memoryview, state: str | None, at: int) -> None:
        started.append(at)
        gates[at].wait(10)

    outbox = Outbox(send, pool, lambda: 2)
    outbox.post(outbox.room(1), 1, None, 0)
    outbox.post(outbox.room(1), 1, None, 1)
    gates[1].set()  # the second is done, the oldest is not: the third must wait for the oldest
    third = pool.submit(outbox.post, memoryview(bytearray(1)), 1, None, 2)
    with pytest.raises(TimeoutError):
        third.result(0.2)
    assert started == [0, 1]
    gates[0].set()
    gates[2].set()
    third.result(10)
    outbox.settle()
    assert started == [0, 1, 2]


def test_a_failed_part_shows_and_the_others_end_first(pool: ThreadPoolExecutor) -> None:
    slow, ended = threading.Event(), list[int]()

    def send(part: memoryview, state: str | None, at: int) -> None:
        if at == 0:
            raise OSError("broken")
        slow.wait(10)
        ended.append(at)

    outbox = Outbox(send, pool, lambda: 3)
    for at in (0, 1):
        outbox.post(outbox.room(1), 1, None, at)
    with pytest.raises(OSError, match="broken"):
        outbox.settle()
    slow.set()
    outbox.close()
    assert ended == [1]
