"""What `up` says before it does anything, and why it refuses."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devcluster.config import Cluster
from devcluster.preflight import GIB, Machine, announcement, refusals

CLUSTER = Cluster(Path("/caches/airfreight"), Path("/state"), ipaddress.IPv4Network("198.18.0.0/16"))
GOOD = Machine(
    system="Linux",
    architecture="x86_64",
    uid=0,
    controllers=frozenset({"cpu", "memory", "pids", "io"}),
    disk_free_bytes=100 * GIB,
    memory_bytes=16 * GIB,
    missing_packages=("buildah", "runc"),
    subnet_taken_by=None,
    cached=False,
)


def test_a_good_machine_is_not_refused() -> None:
    assert refusals(GOOD, CLUSTER) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"system": "Darwin"},
            "This is Darwin: the embedded cluster needs Linux; "
            "on this machine use CLUSTER=current with a cluster you have.",
        ),
        (
            {"architecture": "aarch64"},
            "This is aarch64: the CPU model server is built for x86_64 alone; "
            "use CLUSTER=current with a cluster you have.",
        ),
        (
            {"uid": 1000},
            "You are not root: kubelet and containerd need root; run it with sudo, or use CLUSTER=current.",
        ),
        (
            {"controllers": frozenset({"cpu"})},
            "The cgroup controllers memory, pids are not available: mount them, or use a machine where containers run.",
        ),
        (
            {"disk_free_bytes": int(29.5 * GIB)},
            "29.5 GiB are free under /caches/airfreight and 30 GiB are needed: "
            "free some, or point AIRFREIGHT_CACHE at a larger disk.",
        ),
        (
            {"disk_free_bytes": 4 * GIB, "cached": True},
            "4.0 GiB are free under /caches/airfreight and 5 GiB are needed: "
            "free some, or point AIRFREIGHT_CACHE at a larger disk.",
        ),
        ({"memory_bytes": 7 * GIB}, "7.0 GiB of memory are there and 8 GiB are needed: use a larger machine."),
        (
            {"subnet_taken_by": "198.18.0.0/15 dev wg0"},
            "The subnet 198.18.0.0/16 overlaps the route 198.18.0.0/15 dev wg0: "
            "set AIRFREIGHT_CLUSTER_SUBNET to a free block of /16.",
        ),
    ],
    ids=["system", "architecture", "root", "cgroups", "disk cold", "disk warm", "memory", "subnet"],
)
def test_each_refusal_says_what_is_wrong_and_what_to_change(change: dict[str, Any], sentence: str) -> None:
    assert refusals(replace(GOOD, **change), CLUSTER) == [sentence]


def test_all_reasons_are_said_at_once() -> None:
    assert len(refusals(replace(GOOD, uid=1, memory_bytes=GIB, disk_free_bytes=0), CLUSTER)) == 3


def test_a_full_cache_needs_little_disk() -> None:
    assert refusals(replace(GOOD, disk_free_bytes=6 * GIB, cached=True), CLUSTER) == []


def test_the_announcement_says_what_is_installed_kept_changed_and_how_to_undo_it() -> None:
    said = announcement(GOOD, CLUSTER)
    lines = {line.split("  ")[1].strip(): line for line in said.splitlines() if line.startswith("  ")}
    assert lines["installs (Debian packages)"].endswith("buildah runc")
    assert "/caches/airfreight" in lines["keeps"]
    assert "GiB" in lines["keeps"]
    assert "/state" in lines["uses while it runs"]
    assert 'a network namespace "airfreight", a link "airfreight-host"' in lines["changes"]
    assert "routes for 198.18.0.0/16, the kernel settings that kubelet wants" in said
    assert "minutes" in lines["takes"]
    assert "make down" in lines["undo"]
    assert "make clean" in lines["undo"]


def test_the_announcement_of_a_second_run_promises_less() -> None:
    said = announcement(replace(GOOD, missing_packages=(), cached=True), CLUSTER)
    assert "nothing, all is there" in said
    assert "under a minute, from the cache" in said
