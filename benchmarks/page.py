"""docs/benchmarks.md: the measured part between two marks is written here, the rest by people."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import Report, report_text
from devcluster.config import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks.md"
BEGIN = "<!-- measured: written by `make bench` -->"
END = "<!-- end of what was measured -->"
PLOT = "![Seconds by way of carrying](benchmarks.svg)"


def renew(
    report: Report, results: str, page: Path = PAGE, *, text: str | None = None, marks: tuple[str, str] = (BEGIN, END)
) -> None:
    """Replace what stands between two marks.

    Args:
        results: name of the result file in benchmarks/results.
        text: the tables; by default those of `benchmarks.tables`, with their plot.
        marks: the first and the last line.
    Raises:
        ValueError: the page lacks a mark.
    """
    first, last = marks
    before, begin, rest = page.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{page.name} lacks {first!r} or {last!r}: put both back, around what was measured.")
    tables = f"{PLOT}\n\n{report_text(report)}" if text is None else text
    page.write_text(f"{before}{first}\n\n{_conditions(report, results)}\n\n{tables}\n\n{last}{after}")


def _conditions(report: Report, results: str) -> str:
    machine = report.machine
    rates = [rate / 1e9 for rate in report.sha256_bytes_per_s]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"{report.date}, {report.runs} rounds ({report.case_runs} of the cases beside the first copy), medians. "
        f"Machine: {machine['cores']} cores of {machine['cpu']} (sha256 in hardware: {machine['sha_instructions']}; "
        f"{min(rates):.2f} to {max(rates):.2f} GB/s a core during the run), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}. Load average before the run {report.load_before:.1f}, "
        f"at its end {report.load_after:.1f}.\n\n"
        f"Versions: {versions}. Every single measurement: benchmarks/results/{results}."
    )
