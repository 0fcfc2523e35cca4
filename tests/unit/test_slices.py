"""Slices: every file in exactly one, nearly equal, the same on every machine. Up to 10 TB and 100,000 files."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import RequestError
from airfreight.manifest import ManifestFile
from airfreight.slices import Slice, pack, parse_slice

DIGEST = "0" * 64
TB = 10**12


def named(sizes: list[int]) -> list[ManifestFile]:
    return [ManifestFile(f"model-{number:06}.safetensors", size, sha256=DIGEST) for number, size in enumerate(sizes)]


sizes = st.lists(st.integers(0, 50_000_000_000) | st.integers(0, 20), max_size=200)  # up to 10 TB in all


@given(sizes, st.integers(1, 40))
def test_every_file_is_in_exactly_one_slice(sizes: list[int], count: int) -> None:
    files = named(sizes)
    shares = pack(files, count)
    assert len(shares) == count
    assert sorted(file for share in shares for file in share) == sorted(files)
    assert all(list(share) == sorted(share, key=lambda file: file.path) for share in shares)
    assert shares == tuple(Slice(index, count).of(files) for index in range(1, count + 1))


@given(sizes, st.integers(1, 40))
def test_slices_differ_by_at_most_one_file(sizes: list[int], count: int) -> None:
    loads = [sum(file.size for file in share) for share in pack(named(sizes), count)]
    largest = max(sizes, default=0)
    assert max(loads) - min(loads) <= largest
    assert max(loads) <= sum(sizes) / count + largest * (1 - 1 / count) + 1  # + 1: floating point of 10 TB


@given(st.lists(st.integers(1, 30), min_size=1, max_size=7), st.integers(1, 3))
def test_slices_are_within_graham_of_the_best(sizes: list[int], count: int) -> None:
    best = min(
        max(sum(size for size, place in zip(sizes, places, strict=True) if place == share) for share in range(count))
        for places in placements(len(sizes), count)
    )
    heaviest = max(sum(file.size for file in share) for share in pack(named(sizes), count))
    assert 3 * count * heaviest <= (4 * count - 1) * best


def placements(files: int, count: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for _ in range(files):
        found = [(*places, share) for places in found for share in range(count)]
    return found


@given(sizes, st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_order_of_the_files_does_not_matter(sizes: list[int], count: int, chance: random.Random) -> None:
    files = named(sizes)
    shuffled = chance.sample(files, len(files))
    assert pack(shuffled, count) == pack(files, count)


@given(st.integers(1, 100), st.integers(1, 40))
def test_files_of_no_bytes_are_shared_out_by_number(number: int, count: int) -> None:
    lengths = [len(share) for share in pack(named([0] * number), count)]
    assert max(lengths) - min(lengths) <= 1


def test_a_hundred_thousand_files_of_ten_terabytes() -> None:
    chance = random.Random(1)
    files = named([chance.randrange(200_000_000) for _ in range(100_000)])
    total = sum(file.size for file in files)
    assert total > 9.9 * TB
    shares = pack(files, 64)
    loads = [sum(file.size for file in share) for share in shares]
    assert sum(loads) == total
    assert sum(map(len, shares)) == len(files)
    assert max(loads) - min(loads) < 200_000_000
    assert max(loads) < total / 64 * 1.0001


def test_a_real_model_is_shared_out_as_a_person_would() -> None:
    shards = named([5_000_000_000] * 6)
    config = ManifestFile("config.json", 643, sha256=DIGEST)
    assert [[file.path for file in share] for share in pack([config, *shards], 3)] == [
        ["config.json", "model-000000.safetensors", "model-000003.safetensors"],
        ["model-000001.safetensors", "model-000004.safetensors"],
        ["model-000002.safetensors", "model-000005.safetensors"],
    ]


def test_no_slices_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="0 is no number of slices"):
        pack([], 0)


@pytest.mark.parametrize(
    ("text", "expected"), [("1/1", Slice(1, 1)), (" 2/8 ", Slice(2, 8)), ("1000/1000", Slice(1000, 1000))]
)
def test_a_slice_is_read(text: str, expected: Slice) -> None:
    assert parse_slice(text) == expected
    assert parse_slice(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "2", "0/8", "9/8", "-1/8", "1/0", "1/1001", "a/b", "1/2/3", "1 / 2", "٢/٨", "1.0/2"]
)
def test_what_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_slice(text)
    assert caught.value.message == (
        f"The slice {text!r} is not understood: give the share and the number of shares, 1/1 to 1000/1000, as in 2/8 "
        "for the second of eight."
    )


def test_what_must_travel_together_is_in_one_slice() -> None:
    files = [ManifestFile(f"{index:03}", size, sha256="0" * 64) for index, size in enumerate([50, 40, 3, 2, 1, 0])]
    bundles = [(files[0],), (files[1],), tuple(files[2:])]
    shares = [Slice(index, 3).of_bundles(bundles) for index in (1, 2, 3)]
    assert sorted(file.path for share in shares for file in share) == [file.path for file in files]
    assert tuple(files[2:]) in shares


def test_slices_are_the_same_where_nothing_must_travel_together() -> None:
    files = [ManifestFile(f"{index:03}", 7 * index % 5, sha256="0" * 64) for index in range(20)]
    for index in (1, 2, 3):
        assert Slice(index, 3).of_bundles([(file,) for file in files]) == Slice(index, 3).of(files)
