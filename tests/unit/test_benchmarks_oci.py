"""The benchmark of images: its arithmetic, the disk it watches, and that its base and raw upload are a registry's."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.oci import tables
from benchmarks.oci.peers import PEERS
from benchmarks.oci.scratchdisk import used, watched
from benchmarks.tables import GIB, MIB, Report

WALLS = {"airfreight": [6.0, 8.0], "airfreight-hub": [7.0, 9.0], "buildah": [30.0, 24.0], "raw": [5.0, 5.0]}


def entry(peer: str, number: int, **changed: Any) -> dict[str, Any]:
    measured = {
        "model": "four",
        "case": "first",
        "peer": peer,
        "round": number,
        "wall_s": WALLS[peer][number],
        "cpu_s": 8.0,
        "peak_rss_bytes": 180 * MIB,
        "written_bytes": 0,
        "peak_disk_bytes": 0,
        "sent_bytes": 4 * GIB,
        "registry_cpu_s": 20.0,
        "digest": "" if peer == "raw" else "sha256:a",
        "load": 0.5,
    }
    return {**measured, **changed}


@pytest.fixture
def report() -> Report:
    measured = [entry(peer, number) for peer in WALLS for number in range(2)]
    measured += [
        entry("airfreight", 0, case="again", sent_bytes=3000, wall_s=1.5),
        entry("airfreight", 0, case="elsewhere", sent_bytes=0, wall_s=1.6),
        entry("buildah", 0, case="elsewhere", digest="sha256:b"),
        entry("airfreight", 0, case="changed", sent_bytes=GIB + 4000),
        entry("airfreight", 0, case="killed", sent_bytes=4 * GIB + 300 * MIB),
    ]
    return Report(
        date="2026-01-01",
        gib={"four": 1.0},
        runs=2,
        case_runs=1,
        sizes={"four": 4 * GIB},
        files={"four": 4},
        peers={peer: f"by {peer}" for peer in WALLS},
        verifies={"airfreight": "yes", "airfreight-hub": "yes", "buildah": "yes", "raw": "nothing to mount"},
        versions={},
        machine={},
        load_before=0.0,
        load_after=0.0,
        sha256_bytes_per_s=[1e9],
        measurements=measured,
    )


def test_the_first_table_compares_with_the_upload_alone_within_each_round(report: Report) -> None:
    lines = tables.first_table(report).splitlines()
    assert lines[2] == "| by airfreight | 7.00 (6.00 to 8.00) | 1.40 | 2.00 | 5.00 | 0.00 | 0.00 | 180 | 4.00 | yes |"


def test_a_case_of_the_same_content_says_whether_the_digest_was_the_same(report: Report) -> None:
    assert tables.case_table(report, "elsewhere").splitlines()[2:] == [
        "| by airfreight | 0.00 | 0.00 | 1.60 | yes |",
        "| by buildah | 4.00 | 0.00 | 30.00 | no |",
    ]
    assert tables.case_table(report, "changed").splitlines()[2:] == ["| by airfreight | 1.00 | 0.00 | 6.00 |"]


def test_the_goals_of_images_are_judged(report: Report) -> None:
    goals = {target.goal: target.reached for target in tables.targets(report)}
    assert goals == {
        "at most 1.3 times the seconds of the upload alone": False,  # 1.2 and 1.6
        "4 times faster than by buildah": True,  # 5 and 3
        "no byte of weights on local disk": True,
        "at most 256 MiB of memory": True,
        "again, no byte of weights to the registry": True,
        "a change sends only the changed file": True,
        "killed at half, at most 256 MiB sent twice": False,
        "again, under 5 s": True,
        "the same digest from two directories": True,
        "one digest from directory and hub, in all rounds": True,
    }
    other = [*report.measurements, entry("airfreight-hub", 1, digest="sha256:c")]
    goals = {target.goal: target.reached for target in tables.targets(replace(report, measurements=other))}
    assert not goals["one digest from directory and hub, in all rounds"]


def test_every_case_has_a_table_of_its_own(report: Report) -> None:
    text = tables.report_text(report)
    assert text.count("### 4 x 1 GiB, ") == 1 + len(tables.CASES)
    assert text.count("### The goals of images") == 1


def test_every_peer_has_a_name_of_its_own() -> None:
    assert len({peer.key for peer in PEERS}) == len({peer.title for peer in PEERS}) == len(PEERS)
    assert {tables.US, tables.RAW, tables.BUILDAH, tables.HUB} <= {peer.key for peer in PEERS}


def test_the_most_disk_at_once_is_seen_although_it_is_gone_at_the_end(tmp_path: Path) -> None:
    kept = tmp_path / "deep" / "kept"
    kept.parent.mkdir()
    kept.write_bytes(b"x" * 16 * MIB)
    before = used(tmp_path)
    assert before >= 16 * MIB
    with watched(tmp_path) as peak:
        (tmp_path / "gone").write_bytes(b"x" * 3 * MIB)
        deadline = time.monotonic() + 60
        while peak.bytes < 3 * MIB:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (tmp_path / "gone").unlink()
    assert peak.bytes < 16 * MIB, "what was there before is not counted"
    assert used(tmp_path) == before


def test_the_measuring_process_stays_small() -> None:
    """Linux hands its peak memory to what it starts (see `benchmarks.measure`): no boto3 and no engine may be in it."""
    code = "import sys, benchmarks.oci.__main__; print(sorted({'boto3', 'airfreight', 'httpx2'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
