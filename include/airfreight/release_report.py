"""What one run did to one target, for people and for programs; pure. Written beside the release it is about:

s3://llm-models/.airfreight/releases/models/pong/9f2c41ab6c1b.manual__2026-11-22T16-11-00.report.json   and   ….md

{"format": 1, "state": "live", "run": "deliver_model/manual__…", "at": "…", "release": "9f2c41ab6c1b",
 "artifact": "s3://…", "manifest_sha256": "71d0…", "runtime": "airfreight-vllm-…", "source": "hf://…@41ab…",
 "previous": "0a1b2c3d4e5f", "gates": [{"name": "chat", "verdict": "passed", "wanted": "text", "found": "pong", …}],
 "failed": [],
 "changes": [{"name": "load_s", "now": 61.0, "before": 48.0, "worse": 0.271, "regressed": true}], "cost": {…},
 "cause": "", "trigger": {…}}
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airfreight.gates import Change, Verdict, compare
from airfreight.ledger_rules import Entry, Event, Release, State

FORMAT = 1
_UNITS = {"tokens_per_s": "/s"}


def measured(evidence: Mapping[str, Any]) -> dict[str, float | None]:
    """Return every measurement in an event's evidence by name: the phases of the start, and the speed of the answer."""
    found = {**(evidence.get("timings") or {}), **(evidence.get("measured") or {})}
    return {name: value for name, value in found.items() if isinstance(value, (int, float)) and value is not True}


def changes_since(evidence: Mapping[str, Any], before: Entry | None) -> list[Change]:
    """Compare what was measured now with what was when the release before it was made live."""
    events = [event for event in before.history if event.state is State.LIVE] if before else []
    former = next((event.evidence for event in reversed(events) if measured(event.evidence)), None)
    return compare(measured(evidence), measured(former) if former else None)


def build(release: Release, event: Event, previous: str | None) -> dict[str, Any]:
    """Return the report of an event.

    Args:
        event: how the run ended; its evidence holds what was measured.
        previous: the release that was live before.
    """
    evidence = event.evidence
    gates = [dict(one) for one in evidence.get("gates") or []]
    return {
        "format": FORMAT,
        "state": str(event.state),
        "run": event.run,
        "at": event.at,
        "cause": event.cause,
        "release": release.release,
        "previous": previous,
        "artifact": release.artifact,
        "manifest_sha256": release.manifest_sha256,
        "source": release.source,
        "runtime": release.runtime,
        "image": _image(release),
        "served_name": release.served_name,
        "gates": gates,
        "failed": [one["name"] for one in gates if one.get("verdict") == Verdict.FAILED],
        "changes": list(evidence.get("changes") or []),
        "seconds": dict(evidence.get("seconds") or {}),
        "cost": dict(evidence.get("cost") or {}),
        "node": evidence.get("node"),
        "gpus": evidence.get("gpus"),
        "trigger": evidence.get("trigger"),
        "regressions": [change["name"] for change in evidence.get("changes") or [] if change.get("regressed")],
    }


def names(release: str, run: str) -> tuple[str, str]:
    """Return the names of the two objects of a run's report."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", run).strip("-")[:120] or "run"
    return f"{release}.{slug}.report.json", f"{release}.{slug}.report.md"


def as_markdown(report: Mapping[str, Any]) -> str:
    """Return the report for a person."""
    lines = [
        f"# {report['source'] or report['release']}: {report['state']}",
        "",
        *([f"{report['cause']}", ""] if report["cause"] else []),
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(report[name])} |" for name in _IDENTITY if report.get(name)),
        *(f"| {name.replace('_', ' ')} | {value:.0f} s |" for name, value in _costs(report["cost"])),
        "",
        *_table(
            "gate | verdict | wanted | found",
            [_row(one, "name", "verdict", "wanted", "found") for one in report["gates"]],
        ),
        *_table("measured | now | before | ", [_change(one) for one in report["changes"]]),
        *_table("step | seconds", [f"{name} | {value:.1f}" for name, value in report["seconds"].items()]),
    ]
    return "\n".join(lines)


_IDENTITY = (
    "release", "previous", "artifact", "manifest_sha256", "runtime", "image", "served_name", "node", "gpus", "run",
    "at",
)  # fmt: skip


def _image(release: Release) -> str:
    spec = (release.serving_runtime or {}).get("spec") or {}
    return next((str(one.get("image")) for one in spec.get("containers") or [] if one.get("image")), "")


def _costs(cost: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    words = {"exposed_s": "users reached the candidate for", "outage_s": "nobody answered for"}
    for name, value in cost.items():
        yield words.get(name, name), float(value)


def _change(change: Mapping[str, Any]) -> str:
    unit = _UNITS.get(change["name"], " s")
    before = "-" if change["before"] is None else f"{change['before']:g}{unit}"
    flag = f"worse by {change['worse']:.0%}" if change.get("regressed") else ""
    return f"{change['name']} | {change['now']:g}{unit} | {before} | {flag}"


def _row(entry: Mapping[str, Any], *keys: str) -> str:
    return " | ".join(_cell(entry.get(key, "")) for key in keys)


def _table(head: str, rows: Sequence[str]) -> list[str]:
    if not rows:
        return []
    return [f"| {head} |", "|" + "---|" * len(head.split("|")), *(f"| {row} |" for row in rows), ""]


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
