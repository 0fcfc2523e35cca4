"""The report of a run as a page for people; what it is made of stands in `reports.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def as_markdown(report: Mapping[str, Any]) -> str:
    """The report for a person; also what the task's log shows."""
    seconds: Mapping[str, float] = report["seconds"]
    lines = [
        f"# {report['source']}",
        "",
        "| | |",
        "|---|---|",
        *(f"| artifact | {artifact} |" for artifact in report["artifacts"]),
        f"| size | {report['files']} files, {_megabytes(report['bytes'])}, moved {_megabytes(report['moved_bytes'])} |",
        f"| manifest | sha256 {report['manifest_sha256']} |",
        *_provenance(report),
        *_service(report),
        "",
        "| step | seconds |",
        "|---|---:|",
        *(f"| {step} | {value:.1f} |" for step, value in seconds.items()),
        "",
    ]
    return "\n".join(lines)


def _provenance(report: Mapping[str, Any]) -> Iterator[str]:
    """Rows that are there only if there is something to say."""
    if report.get("licences"):
        yield f"| licence | {_cell(', '.join(report['licences']))} |"
    if report.get("allow_unsafe"):
        yield f"| can run code | {_cell(', '.join(report['unsafe_files']))}: {_cell(report['allow_unsafe'])} |"


def _service(report: Mapping[str, Any]) -> Iterator[str]:
    where = f"{report.get('name')} in namespace {report.get('namespace')}, release {report.get('release')}"
    mode = f", delivery {report['delivery']}" if report.get("delivery") else ""
    if report.get("answer") is None:
        yield f"| not deployed | rendered as {where}{mode} |"
        return
    yield f"| served as | {where}{mode} |"
    yield f"| address | {report['url']}{', stopped again after its gates' if report['stopped'] else ''} |"
    if report["previous"]:
        yield f"| before it | release {report['previous']}; nobody answered for {report['outage_s']:.0f} s |"
    for one in report["gates"]:
        wanted, found = _cell(one["wanted"]), _cell(one["found"])
        yield f"| gate {_cell(one['name'])} | {one['verdict']}: wanted {wanted}, found {found} |"
    for one in report["changes"]:
        if one["regressed"]:
            yield f"| worse by {one['worse']:.0%} | {one['name']}: {one['now']:g}, before {one['before']:g} |"
    for key in ("question", "answer", "system_fingerprint"):
        yield f"| {key} | {_cell(report[key])} |"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _cell(value: object) -> str:
    """A table cell: the model's answer may hold anything."""
    return " ".join(str(value if value is not None else "").split()).replace("|", "\\|")
