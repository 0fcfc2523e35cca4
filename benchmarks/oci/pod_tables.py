"""From pods to medians and a Markdown table. Pure, as `benchmarks.tables`, whose arithmetic it uses."""

from __future__ import annotations

import statistics

from benchmarks.tables import GIB, NONE, Report, scaled, table

PODS = "pods"
MODES = {"s3": "s3", "oci": "oci (modelcar)", "oci+native": "oci+native (image volume)"}
CASES = {"cold": "first pod of these bytes", "warm": "second pod"}


def pods_table(report: Report) -> str:
    """Return what the pods of each delivery mode took, cold and warm."""
    head = ["delivery", "pod", "to the server's start, s (least to most)", "to Ready, s (least to most)",
            "written by the node, GiB"]  # fmt: skip
    rows = [
        [
            title,
            named,
            _spread(report.values(PODS, case, mode, "started_s")),
            _spread(report.values(PODS, case, mode, "ready_s")),
            scaled(report.median(PODS, case, mode, "written_bytes"), GIB, 2),
        ]
        for case, named in CASES.items()
        for mode, title in report.peers.items()
    ]
    return table(head, rows)


def report_text(report: Report) -> str:
    """Return the table with its heading."""
    return f"### A model of {report.gib[PODS]:g} GiB, from its InferenceService to Ready\n\n{pods_table(report)}"


def _spread(values: dict[int, float]) -> str:
    if not values:
        return NONE
    seconds = values.values()
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
