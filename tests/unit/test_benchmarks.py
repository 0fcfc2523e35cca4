"""The benchmark's arithmetic and what it writes into the page. What it measures is no test: no seconds are asserted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page, tables
from benchmarks.models import publish, write_weights
from benchmarks.peers import PEERS
from benchmarks.tables import GIB, MIB, Report

WALLS = {
    "airfreight": [2.0, 4.0, 3.0],
    "default": [6.0, 6.0, 12.0],
    "tuned": [4.0, 4.0, 4.0],
    "memory": [2.0, 2.0, 1.0],
}


def entry(peer: str, number: int, **changed: Any) -> dict[str, Any]:
    measured = {
        "model": "large",
        "case": "first",
        "peer": peer,
        "round": number,
        "wall_s": WALLS[peer][number],
        "cpu_s": 5.0,
        "peak_rss_bytes": 200 * MIB,
        "written_bytes": 0,
        "received_bytes": GIB,
        "sent_bytes": GIB,
        "hub_cpu_s": 0.25,
        "store_cpu_s": 4.0,
        "floor_s": 2.0,
        "load": 0.5,
    }
    return {**measured, **changed}


@pytest.fixture
def report() -> Report:
    measured = [entry(peer, number) for peer in WALLS for number in range(3)]
    measured.append(entry("airfreight", 0, case="killed", sent_bytes=GIB + 65 * MIB, wall_s=1.5))
    measured.append(entry("airfreight", 0, case="again", received_bytes=0, sent_bytes=2048, wall_s=0.9))
    return Report(
        date="2026-01-01",
        gib={"large": 1.0},
        runs=3,
        case_runs=1,
        sizes={"large": GIB},
        files={"large": 1},
        peers={"airfreight": "Airfreight", "default": "hf + default", "tuned": "hf + tuned", "memory": "from memory"},
        verifies={"airfreight": "yes", "default": "no", "tuned": "yes", "memory": "nothing to verify"},
        versions={"boto3": "1.2.3"},
        machine={"cpu": "a chip", "cores": 2, "sha_instructions": "yes", "memory_gib": 24, "kernel": "6.1"},
        load_before=0.4,
        load_after=2.1,
        sha256_bytes_per_s=[1.5e9, 1.25e9],
        measurements=measured,
    )


def reached(report: Report) -> dict[str, bool]:
    return {target.goal.removeprefix("1 x 1 GiB: "): target.reached for target in tables.targets(report)}


def test_a_ratio_is_taken_within_a_round() -> None:
    # The quotient of the medians would be 3 / 6 = 0.5.
    assert tables.ratio({0: 2.0, 1: 3.0, 2: 9.0}, {0: 1.0, 1: 6.0, 2: 9.0}) == 1.0


def test_a_ratio_ignores_rounds_that_only_one_side_has_and_divisions_by_zero() -> None:
    assert tables.ratio({0: 2.0, 1: 5.0, 2: 7.0}, {0: 1.0, 2: 0.0}) == 2.0
    assert tables.ratio({0: 1.0}, {1: 1.0}) is None


def test_the_median_is_that_of_one_peer_in_one_case(report: Report) -> None:
    assert report.median("large", "first", "airfreight", "wall_s") == 3.0
    assert report.median("large", "killed", "airfreight", "wall_s") == 1.5
    assert report.median("large", "changed", "airfreight", "wall_s") is None


def test_the_first_table_shows_medians_spread_and_ratios(report: Report) -> None:
    lines = tables.first_table(report, "large").splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| Airfreight | 3.00 (2.00 to 4.00) | 1.50 | 2.00 | 5.00 | 4.25 | 0.00 | 200 | yes |"
    assert len(lines) == 2 + len(report.peers)


def test_a_case_lists_only_those_it_was_measured_of(report: Report) -> None:
    assert tables.bytes_table(report, "large", "killed").splitlines()[2:] == [
        "| Airfreight | 1.00 | 1.06 | 0.00 | 1.50 |"
    ]


def test_the_goals_are_compared_and_missed_ones_are_said_to_be(report: Report) -> None:
    assert reached(report) == {
        "3.0 times faster than hf + default": True,  # 3, 1.5 and 4: the middle one is 3
        "1.5 times faster than hf + tuned": False,  # 2, 1 and 1.33
        "at most 1.3 times the seconds of the upload from memory": False,
        "at most 256 MiB of memory": True,
        "no byte of weights on local disk": True,
        "again, no byte of weights from the hub": True,
        "again, no byte of weights to the store": True,
        "killed at half, at most 64 MiB sent twice": False,
    }
    assert "| 1 x 1 GiB: killed at half, at most 64 MiB sent twice | 65 MiB | **no** |" in tables.targets_table(report)


def test_of_many_files_only_the_second_run_is_judged(report: Report) -> None:
    many = [entry("airfreight", 0, model="many"), entry("airfreight", 0, model="many", case="again", wall_s=5.1)]
    more = replace(
        report,
        sizes={"many": 500 * 65536},
        files={"many": 500},
        gib={"many": 65536 / GIB},
        measurements=[*report.measurements, *many],
    )
    goals = {target.goal: target.reached for target in tables.targets(more)}
    assert goals["500 x 64 KiB: again, under 5 s"] is False
    assert not any("faster" in goal or "from memory" in goal for goal in goals)


def test_the_worst_round_decides_about_bytes(report: Report) -> None:
    worse = [*report.measurements, entry("airfreight", 2, peak_rss_bytes=300 * MIB)]
    assert not reached(replace(report, measurements=worse))["at most 256 MiB of memory"]


def test_every_peer_has_a_name_of_its_own() -> None:
    assert len({peer.key for peer in PEERS}) == len({peer.title for peer in PEERS}) == len(PEERS)
    assert {tables.US, tables.MEMORY, "default", "tuned"} <= {peer.key for peer in PEERS}


def test_the_page_keeps_what_people_wrote_around_the_marks(report: Report, tmp_path: Path) -> None:
    written = tmp_path / "page.md"
    written.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.renew(report, "2026-01-01.json", written)
    page.renew(report, "2026-01-01.json", written)
    text = written.read_text()
    assert text.startswith(f"before\n{page.BEGIN}\n") and text.endswith(f"{page.END}\nafter\n")
    assert "old" not in text and text.count("### The goals") == 1
    assert "Load average before the run 0.4, at its end 2.1." in text
    assert "1.25 to 1.50 GB/s a core" in text


def test_a_page_without_marks_is_refused(report: Report, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing to replace\n")
    with pytest.raises(ValueError, match="put both back"):
        page.renew(report, "2026-01-01.json", tmp_path / "page.md")


def test_the_models_are_published_at_their_size_and_one_file_of_four_changes(tmp_path: Path) -> None:
    model = publish(tmp_path, "four", 4, 4096)
    assert model.commit != model.next_commit
    assert [Path(blob).stat().st_size for blob in model.blobs.values()] == [4096] * 4
    assert model.size == 4 * 4096 + sum(size for path, size in model.sizes.items() if path not in model.blobs)
    # Four files and the one that replaces the second, and the three small ones.
    assert len(list((tmp_path / "blobs").glob("*/*"))) == 5 + 3


def test_weights_are_a_safetensors_file_of_exactly_this_size(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_weights(tmp_path / "model.safetensors", 5000)
    assert (tmp_path / "model.safetensors").stat().st_size == 5000
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.get_tensor("weight").nbytes == 5000 - 8 - 128
