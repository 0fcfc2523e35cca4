"""The plan: what a copy would do, in numbers and in words."""

from __future__ import annotations

import dataclasses

import pytest

from airfreight.errors import RequestError
from airfreight.plan import make_plan
from airfreight.prechecks import Facts, Limits, Rules
from tests.unit.memory_store import COMMIT, describe

MIB = 1024 * 1024
SHARDS = {"a.safetensors": bytes(3 * MIB), "b.safetensors": bytes(2 * MIB), "c.safetensors": bytes(MIB)}
CONTENTS = {**SHARDS, "d.json": b"{}"}
MANIFEST = describe(CONTENTS)
ARTIFACT = "s3://llm-models/acme/pong/41ab6c1b1c1f/"


def test_every_file_is_counted_once() -> None:
    plan = make_plan(MANIFEST, held={"a.safetensors", "d.json"}, copied={"a.safetensors", "b.safetensors"})
    assert (plan.files, plan.size_bytes) == (4, 6 * MIB + 2)
    assert (plan.reused_files, plan.reused_bytes) == (2, 3 * MIB + 2)
    assert (plan.copied_files, plan.copied_bytes) == (1, 2 * MIB)
    assert (plan.move_files, plan.move_bytes) == (1, MIB)


@pytest.mark.parametrize(("on_disk", "disk"), [(False, 0), (True, 3 * MIB + 2)])
def test_disk_is_what_a_volume_must_still_take(on_disk: bool, disk: int) -> None:
    for copied in ((), {"b.safetensors"}):
        assert make_plan(MANIFEST, held={"a.safetensors"}, copied=copied, on_disk=on_disk).disk_bytes == disk


def test_room_is_judged_by_what_is_missing() -> None:
    limits = Limits.of_directory("/models/", free_bytes=3 * MIB + 2)
    make_plan(MANIFEST, held={"a.safetensors"}, limits=limits, on_disk=True).check()
    with pytest.raises(RequestError, match=r"needs 6\.0 MiB more and the volume has room for 3\.0 MiB"):
        make_plan(MANIFEST, limits=limits, on_disk=True).check()


def test_the_table_is_for_people() -> None:
    plan = make_plan(
        MANIFEST, artifact=ARTIFACT, held={"a.safetensors"}, copied={"b.safetensors"}, facts=Facts(("apache-2.0",))
    )
    assert plan.table() == "\n".join(
        [
            f"hf://acme/pong@{COMMIT} as version 41ab6c1b1c1f",
            f"to {ARTIFACT}",
            "all           4 files    6.0 MiB",
            "to move       2 files    1.0 MiB",
            "copied there  1 file     2.0 MiB",
            "there         1 file     3.0 MiB",
            "local disk                   0 B",
            "licence       apache-2.0",
            "refused       nothing",
        ]
    )


def test_the_table_names_what_is_refused_and_why_what_is_unsafe_is_taken() -> None:
    unsafe = describe({**CONTENTS, "x.bin": b"x"})
    refused = make_plan(unsafe, rules=Rules.of(["unknown"]), facts=Facts(()))
    lines = refused.table().splitlines()
    assert "licence       none named" in lines
    assert "can run code  x.bin (refused)" in lines
    assert [line.startswith("refused       hf://acme/pong@") for line in lines[-2:]] == [True, True]
    with pytest.raises(RequestError, match=r"\(x\.bin\).* \(1 more: `airfreight resolve` lists all\)\.$"):
        refused.check()
    taken = make_plan(unsafe, rules=Rules.of(allow_unsafe="it is our own"))
    assert 'can run code  x.bin (taken, because "it is our own")' in taken.table().splitlines()
    taken.check()


def test_a_reason_without_need_is_not_recorded() -> None:
    result = make_plan(MANIFEST, rules=Rules.of(allow_unsafe="it is our own")).result()
    assert (result["allow_unsafe"], result["unsafe_files"]) == (None, [])


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_plan(MANIFEST).files = 0  # type: ignore[misc]
