"""docs/benchmarks.md: the measured part between two marks is written here, the rest by people."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables import Report, report_text
from devcluster.config import REPOSITORY

PAGE = REPOSITORY / "docs" / "benchmarks.md"
BEGIN = "<!-- measured: written by `make bench` -->"
END = "<!-- end of what was measured -->"


def renew(report: Report, results: str, page: Path = PAGE) -> None:
    """Replace what stands between the two marks.

    Args:
        results: name of the result file in benchmarks/results.
    Raises:
        ValueError: the page lacks a mark.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page.name} lacks {BEGIN!r} or {END!r}: put both back, around what was measured.")
    page.write_text(f"{before}{BEGIN}\n\n{_conditions(report, results)}\n\n{report_text(report)}\n\n{END}{after}")


def _conditions(report: Report, results: str) -> str:
    machine = report.machine
    rates = [rate / 1e9 for rate in report.sha256_bytes_per_s]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"{report.date}, {report.runs} rounds ({report.case_runs} of the cases below the first two tables), medians. "
        f"Machine: {machine['cores']} cores of {machine['cpu']} (sha256 in hardware: {machine['sha_instructions']}; "
        f"{min(rates):.2f} to {max(rates):.2f} GB/s a core during the run), {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}. Load average before the run {report.load_before:.1f}, "
        f"at its end {report.load_after:.1f}.\n\n"
        f"Versions: {versions}. Every single measurement: benchmarks/results/{results}.\n\n"
        "![Seconds by way of carrying](benchmarks.svg)"
    )
