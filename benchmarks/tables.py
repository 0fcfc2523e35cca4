"""From measurements to medians, ratios and Markdown tables. Pure: no clock, no file, no network.

Ratios are taken within a round, where both sides met the same machine, and then the median of the rounds is taken: a
quotient of two medians would compare different minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

GIB = 1 << 30
MIB = 1 << 20
US = "airfreight"
MEMORY = "memory"
NONE = "-"
MANY_FILES = 100
SMALL_MIB = 1.0
"""Below this it is configuration, listings and requests: no weight file of the benchmark is as small."""


@dataclass(frozen=True)
class Report:
    """Everything a result file holds.

    Attributes:
        date: ISO date of the run, UTC.
        gib: model -> GiB of each of its weight files.
        runs, case_runs: rounds; rounds that also measured the cases beside `first`.
        sizes, files: model -> bytes; model -> weight files.
        peers, verifies: peer -> its title; peer -> whether it compares sha256.
        load_before, load_after: the machine's load average over a minute.
        sha256_bytes_per_s: of one core, once for each floor.
        measurements: `benchmarks.rounds.Measurement`, each as a mapping.
    """

    date: str
    gib: dict[str, float]
    runs: int
    case_runs: int
    sizes: dict[str, int]
    files: dict[str, int]
    peers: dict[str, str]
    verifies: dict[str, str]
    versions: dict[str, str]
    machine: dict[str, str | int]
    load_before: float
    load_after: float
    sha256_bytes_per_s: list[float]
    measurements: list[dict[str, Any]]

    def values(self, model: str, case: str, peer: str, field: str) -> dict[int, float]:
        """Return round -> value of one quantity."""
        return {
            entry["round"]: entry[field]
            for entry in self.measurements
            if (entry["model"], entry["case"], entry["peer"]) == (model, case, peer)
        }

    def median(self, model: str, case: str, peer: str, field: str) -> float | None:
        """Return the median over the rounds, None where nothing was measured."""
        values = self.values(model, case, peer, field)
        return statistics.median(values.values()) if values else None


@dataclass(frozen=True)
class Target:
    """A goal and what was measured: `reached` says whether the goal was met."""

    goal: str
    measured: str
    reached: bool


def ratio(above: dict[int, float], below: dict[int, float]) -> float | None:
    """Return the median of `above / below` over the rounds that have both; None where there is none."""
    shared = [above[turn] / below[turn] for turn in above if below.get(turn)]
    return statistics.median(shared) if shared else None


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def first_table(report: Report, model: str) -> str:
    """Return what each way of carrying a model into an empty store took."""
    head = [
        "way",
        "seconds (least to most)",
        "÷ machine's floor",
        "÷ upload from memory",
        "client CPU-s/GiB",
        "hub and store CPU-s/GiB",
        "written to local disk, GiB",
        "peak memory, MiB",
        "sha256 compared",
    ]
    gib = report.sizes[model] / GIB
    rows = []
    for peer, title in report.peers.items():
        wall = report.values(model, "first", peer, "wall_s")
        cpu = report.median(model, "first", peer, "cpu_s")
        rows.append(
            [
                title,
                f"{statistics.median(wall.values()):.2f} ({min(wall.values()):.2f} to {max(wall.values()):.2f})",
                number(ratio(wall, report.values(model, "first", peer, "floor_s"))),
                number(ratio(wall, report.values(model, "first", MEMORY, "wall_s"))),
                number(None if cpu is None else cpu / gib),
                number(_servers(report, model, peer) / gib),
                scaled(report.median(model, "first", peer, "written_bytes"), GIB, 2),
                scaled(report.median(model, "first", peer, "peak_rss_bytes"), MIB, 0),
                report.verifies[peer],
            ]
        )
    return table(head, rows)


def bytes_table(report: Report, model: str, case: str) -> str:
    """Return what moved in a case: GiB from the hub, GiB to the store, and the seconds of the last run."""
    head = ["way", "from the hub, GiB", "to the store, GiB", "written to local disk, GiB", "seconds"]
    rows = [
        [
            title,
            scaled(report.median(model, case, peer, "received_bytes"), GIB, 2),
            scaled(report.median(model, case, peer, "sent_bytes"), GIB, 2),
            scaled(report.median(model, case, peer, "written_bytes"), GIB, 2),
            number(report.median(model, case, peer, "wall_s")),
        ]
        for peer, title in report.peers.items()
        if report.values(model, case, peer, "wall_s")
    ]
    return table(head, rows)


def targets(report: Report) -> list[Target]:
    """Return the goals of the engine beside what was measured, for each model; bytes are the worst of all rounds."""
    found = []
    for model in report.sizes:
        ours = report.values(model, "first", US, "wall_s")
        name = named(report, model)
        if report.files[model] >= MANY_FILES:
            slowest = max(report.values(model, "again", US, "wall_s").values(), default=None)
            found.append(at_most(f"{name}: again, under 5 s", slowest, 5.0, ""))
        for peer, least in (("default", 3.0), ("tuned", 1.5)):
            if report.files[model] >= MANY_FILES:
                continue  # there the requests are what costs
            value = ratio(report.values(model, "first", peer, "wall_s"), ours)
            found.append(at_least(f"{name}: {least} times faster than {report.peers[peer]}", value, least))
        if report.files[model] < MANY_FILES:
            value = ratio(ours, report.values(model, "first", MEMORY, "wall_s"))
            found.append(at_most(f"{name}: at most 1.3 times the seconds of the upload from memory", value, 1.3, ""))
        for goal, case, field, least_mib, most_mib in (
            ("at most 256 MiB of memory", "first", "peak_rss_bytes", 0.0, 256.0),
            ("no byte of weights on local disk", "first", "written_bytes", 0.0, SMALL_MIB),
            ("again, no byte of weights from the hub", "again", "received_bytes", 0.0, SMALL_MIB),
            ("again, no byte of weights to the store", "again", "sent_bytes", 0.0, SMALL_MIB),
            ("killed at half, at most 64 MiB sent twice", "killed", "sent_bytes", report.sizes[model] / MIB, 64.0),
        ):
            worst = max(report.values(model, case, US, field).values(), default=None)
            if worst is not None:
                found.append(at_most(f"{name}: {goal}", worst / MIB - least_mib, most_mib, " MiB"))
    return found


def targets_table(report: Report) -> str:
    """Return `targets` as a table."""
    rows = [[target.goal, target.measured, "yes" if target.reached else "**no**"] for target in targets(report)]
    return table(["goal", "measured", "reached"], rows)


def report_text(report: Report) -> str:
    """Return every table, with a heading each."""
    parts = []
    for model in report.sizes:
        parts.append(f"### {named(report, model)}, into an empty store\n\n{first_table(report, model)}")
    cases = (
        ("again", "the same once more"),
        ("changed", "the next version, one file of four changed"),
        ("killed", "killed with SIGKILL at half, then again: bytes of both runs, seconds of the second"),
    )
    for case, title in cases:
        for model in report.sizes:
            if report.values(model, case, US, "wall_s"):
                parts.append(f"### {named(report, model)}, {title}\n\n{bytes_table(report, model, case)}")
    parts.append(f"### The goals\n\n{targets_table(report)}")
    return "\n\n".join(parts)


def _servers(report: Report, model: str, peer: str) -> float:
    """Return the processor time of both servers during a first copy."""
    medians = [report.median(model, "first", peer, field) for field in ("hub_cpu_s", "store_cpu_s")]
    return sum(value for value in medians if value is not None)


def named(report: Report, model: str) -> str:
    """Return what a model is, as headings and goals call it."""
    gib = report.gib[model]
    size = f"{gib:g} GiB" if gib >= 1 / 128 else f"{gib * GIB / 1024:g} KiB"
    return f"{report.files[model]} x {size}"


def at_least(goal: str, value: float | None, limit: float) -> Target:
    """Return a goal that is reached from `limit` on; not when nothing was measured."""
    return Target(goal, number(value), value is not None and value >= limit)


def at_most(goal: str, value: float | None, limit: float, unit: str) -> Target:
    """Return a goal that is reached up to `limit`; not when nothing was measured."""
    measured = number(value) if not unit else f"{value:.0f}{unit}"
    return Target(goal, measured, value is not None and value <= limit)


def number(value: float | None) -> str:
    """Return a number as tables show it."""
    return NONE if value is None else f"{value:.2f}"


def scaled(value: float | None, unit: int, digits: int) -> str:
    """Return a number of units as tables show it."""
    return NONE if value is None else f"{value / unit:.{digits}f}"
