"""From measurements of images to tables and goals. Pure, as `benchmarks.tables`, whose arithmetic it uses."""

from __future__ import annotations

from benchmarks.tables import GIB, MIB, SMALL_MIB, US, Report, Target, at_least, at_most, number, ratio, scaled, table

RAW = "raw"
BUILDAH = "buildah"
HUB = "airfreight-hub"
MODEL = "four"
CASES = {
    "again": "the same once more",
    "elsewhere": "the same content from another directory, with other times and modes",
    "changed": "one file of four changed, another tag of the same repository",
    "killed": "killed with SIGKILL at half of the time, then again: bytes of both runs, seconds of the second",
}


def first_table(report: Report) -> str:
    """Return what each way took to bring the model into an empty registry."""
    head = [
        "way",
        "seconds (least to most)",
        "÷ the upload alone",
        "client CPU-s/GiB",
        "registry CPU-s/GiB",
        "written to local disk, GiB",
        "most local disk at once, GiB",
        "peak memory, MiB",
        "to the registry, GiB",
        "can be mounted",
    ]
    gib = report.sizes[MODEL] / GIB
    rows = []
    for peer, title in report.peers.items():
        wall = report.values(MODEL, "first", peer, "wall_s")
        cpu, registry = (report.median(MODEL, "first", peer, field) for field in ("cpu_s", "registry_cpu_s"))
        middle = report.median(MODEL, "first", peer, "wall_s")
        rows.append(
            [
                title,
                f"{number(middle)} ({min(wall.values()):.2f} to {max(wall.values()):.2f})",
                number(ratio(wall, report.values(MODEL, "first", RAW, "wall_s"))),
                number(None if cpu is None else cpu / gib),
                number(None if registry is None else registry / gib),
                scaled(report.median(MODEL, "first", peer, "written_bytes"), GIB, 2),
                scaled(report.median(MODEL, "first", peer, "peak_disk_bytes"), GIB, 2),
                scaled(report.median(MODEL, "first", peer, "peak_rss_bytes"), MIB, 0),
                scaled(report.median(MODEL, "first", peer, "sent_bytes"), GIB, 2),
                report.verifies[peer],
            ]
        )
    return table(head, rows)


def case_table(report: Report, case: str) -> str:
    """Return what a case moved and took; for the same content also whether the digest was the same."""
    same = case in {"again", "elsewhere"}
    head = ["way", "to the registry, GiB", "written to local disk, GiB", "seconds", *(["same digest"] if same else [])]
    rows = []
    for peer, title in report.peers.items():
        if report.values(MODEL, case, peer, "wall_s"):
            row = [
                title,
                scaled(report.median(MODEL, case, peer, "sent_bytes"), GIB, 2),
                scaled(report.median(MODEL, case, peer, "written_bytes"), GIB, 2),
                number(report.median(MODEL, case, peer, "wall_s")),
            ]
            rows.append([*row, "yes" if same_digest(report, case, peer) else "no"] if same else row)
    return table(head, rows)


def same_digest(report: Report, case: str, peer: str) -> bool:
    """Whether in every round a case gave the digest of the first build."""
    first = {entry["round"]: entry["digest"] for entry in _of(report, "first", peer)}
    return all(entry["digest"] == first[entry["round"]] for entry in _of(report, case, peer))


def targets(report: Report) -> list[Target]:
    """Return the goals of images beside what was measured; bytes are the worst of all rounds."""
    ours = report.values(MODEL, "first", US, "wall_s")
    value = ratio(ours, report.values(MODEL, "first", RAW, "wall_s"))
    found = [at_most("at most 1.3 times the seconds of the upload alone", value, 1.3, "")]
    value = ratio(report.values(MODEL, "first", BUILDAH, "wall_s"), ours)
    found.append(at_least(f"4 times faster than {report.peers[BUILDAH]}", value, 4.0))
    for goal, case, field, less_mib, most_mib in (
        ("no byte of weights on local disk", "first", "written_bytes", 0.0, SMALL_MIB),
        ("at most 256 MiB of memory", "first", "peak_rss_bytes", 0.0, 256.0),
        ("again, no byte of weights to the registry", "again", "sent_bytes", 0.0, SMALL_MIB),
        ("a change sends only the changed file", "changed", "sent_bytes", report.gib[MODEL] * 1024, SMALL_MIB),
        ("killed at half, at most 256 MiB sent twice", "killed", "sent_bytes", report.sizes[MODEL] / MIB, 256.0),
    ):
        worst = max(report.values(MODEL, case, US, field).values(), default=None)
        if worst is not None:
            found.append(at_most(goal, worst / MIB - less_mib, most_mib, " MiB"))
    slowest = max(report.values(MODEL, "again", US, "wall_s").values(), default=None)
    if slowest is not None:
        found.append(at_most("again, under 5 s", slowest, 5.0, " s"))
    if _of(report, "elsewhere", US):
        same = same_digest(report, "elsewhere", US)
        found.append(Target("the same digest from two directories", "yes" if same else "no", same))
    digests = {entry["digest"] for peer in (US, HUB) for entry in _of(report, "first", peer)}
    found.append(Target("one digest from directory and hub, in all rounds", f"{len(digests)}", len(digests) == 1))
    return found


def report_text(report: Report) -> str:
    """Return every table, with a heading each."""
    name = f"{report.files[MODEL]} x {report.gib[MODEL]:g} GiB"
    parts = [f"### {name}, into an empty registry\n\n{first_table(report)}"]
    for case, title in CASES.items():
        if report.values(MODEL, case, US, "wall_s"):
            parts.append(f"### {name}, {title}\n\n{case_table(report, case)}")
    rows = [[target.goal, target.measured, "yes" if target.reached else "**no**"] for target in targets(report)]
    parts.append("### The goals of images\n\n" + table(["goal", "measured", "reached"], rows))
    return "\n\n".join(parts)


def _of(report: Report, case: str, peer: str) -> list[dict[str, str]]:
    return [entry for entry in report.measurements if (entry["case"], entry["peer"]) == (case, peer)]
