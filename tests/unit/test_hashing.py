"""Hashes that stop, travel as text and go on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight import hashing
from tests.unit.memory_store import lfs, small


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose libcrypto lacks the old calls."""
    monkeypatch.setattr(hashing, "LIBRARIES", ("libno-such-crypto.so.3", "libc.so.6"))
    hashing._native.cache_clear()
    yield
    hashing._native.cache_clear()


def writable(content: bytes) -> memoryview:
    return memoryview(bytearray(content))


@given(content=st.binary(max_size=1000), cut=st.integers(0, 15))
def test_a_state_goes_on_to_the_right_digest(content: bytes, cut: int) -> None:
    file, offset = lfs("a", content), min(cut * 64, len(content) // 64 * 64)
    first = hashing.fresh(file)
    first.update(content[:offset])
    state = first.state()
    assert state is not None and len(state) == 64
    second = hashing.resumed(file, state, offset)
    assert second is not None
    second.update(writable(content[offset:]))
    assert second.hexdigest() == second.hexdigest() == file.digest


def test_it_is_the_state_of_the_standard() -> None:
    """FIPS 180-4, 5.3.3: the initial words."""
    assert hashing.fresh(lfs("a", b"")).state() == ("6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19")


def test_lengths_beyond_32_bits_of_bits_are_kept() -> None:
    """The padding holds the length: a state must carry it past 512 MiB, where its low word is full."""
    block = bytes(1024 * 1024)
    whole = hashlib.sha256()
    for _ in range(520):
        whole.update(block)
    file = lfs("a", b"")
    first = hashing.fresh(file)
    for _ in range(516):
        first.update(block)
    second = hashing.resumed(file, first.state(), 516 * len(block))
    assert second is not None
    for _ in range(4):
        second.update(writable(block))
    assert second.hexdigest() == whole.hexdigest()


def test_there_is_no_state_within_a_block() -> None:
    hasher = hashing.fresh(lfs("a", b"x"))
    hasher.update(b"x")
    assert hasher.state() is None


@pytest.mark.parametrize(("state", "offset"), [(None, 64), ("5" * 63, 64), ("g" * 64, 64), ("5" * 64, 63)])
def test_what_is_no_state_is_not_taken_up(state: str | None, offset: int) -> None:
    assert hashing.resumed(lfs("a", bytes(100)), state, offset) is None


def test_byte_0_needs_no_state() -> None:
    hasher = hashing.resumed(lfs("a", b"abc"), None, 0)
    assert hasher is not None
    hasher.update(b"abc")
    assert hasher.hexdigest() == hashlib.sha256(b"abc").hexdigest()


def test_git_blob_ids_have_no_state() -> None:
    file = small("a", bytes(128))
    hasher = hashing.fresh(file)
    hasher.update(bytes(64))
    assert hasher.state() is None
    assert hashing.resumed(file, "5" * 64, 64) is None
    hasher.update(writable(bytes(64)))
    assert hasher.hexdigest() == file.digest


@pytest.mark.usefixtures("no_library")
def test_without_the_library_hashlib_does_it() -> None:
    file = lfs("a", bytes(200))
    hasher = hashing.fresh(file)
    hasher.update(bytes(128))
    assert hasher.state() is None
    hasher.update(writable(bytes(72)))
    assert hasher.hexdigest() == file.digest
    assert hashing.resumed(file, "5" * 64, 64) is None


def test_a_library_that_computes_nonsense_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing._Native, "hexdigest", lambda self: "0" * 64)
    hashing._native.cache_clear()
    assert hashing._native() is None
    monkeypatch.undo()
    hashing._native.cache_clear()
    assert hashing._native() is not None
