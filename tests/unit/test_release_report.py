"""The report of a run: identity, gates, measurements against the release before, and what got worse."""

from __future__ import annotations

import json

from airfreight.ledger_rules import State
from airfreight.release_report import names
from tests.unit.test_handover import CAUSE, A, B, Bench

GATES = [{"name": "chat", "verdict": "passed", "wanted": "text", "found": "pong | from A"}]


def reports(bench: Bench, release: str) -> tuple[dict[str, object], str]:
    found = {name: data[0].decode() for name, data in bench.shelf.objects.items() if name.startswith(f"{release}.run")}
    data, page = sorted(found)
    return json.loads(found[data]), found[page]


def deliver(bench: Bench, release: str, run: str, ttft_s: float, tokens_per_s: float) -> str:
    bench.register(release, run)
    bench.run(run).stage(release)
    evidence = {
        "gates": GATES,
        "measured": {"ttft_s": ttft_s, "tokens_per_s": tokens_per_s},
        "seconds": {"resolve": 6.14},
    }
    return bench.run(run).promote(release, evidence).story


def test_a_run_that_went_well() -> None:
    bench = Bench()
    deliver(bench, A, "run-1", 0.5, 100)
    report, page = reports(bench, A)
    assert report["state"] == "live" and report["release"] == A and report["previous"] is None
    assert report["manifest_sha256"] == "9f" * 32 and report["gates"] == GATES and report["regressions"] == []
    assert report["failed"] == []
    assert f"# hf://acme/pong@{A}: live" in page
    assert "| chat | passed | text | pong \\| from A |" in page and "| resolve | 6.1 |" in page
    assert "| ttft_s | 0.5 s | - |  |" in page


def test_what_got_worse_by_more_than_a_fifth_is_flagged() -> None:
    bench = Bench()
    deliver(bench, A, "run-1", 0.5, 100)
    story = deliver(bench, B, "run-2", 0.7, 90)
    assert story.endswith(f"Worse than {A}: ttft_s by 40%.")
    report, page = reports(bench, B)
    assert report["regressions"] == ["ttft_s"] and report["previous"] == A
    assert "| ttft_s | 0.7 s | 0.5 s | worse by 40% |" in page
    assert "| tokens_per_s | 90/s | 100/s |  |" in page


def test_a_run_that_was_rolled_back_says_why_and_what_it_cost() -> None:
    bench = Bench()
    bench.deliver(A)
    bench.fail(B)
    report, page = reports(bench, B)
    assert (report["state"], report["cause"], report["previous"]) == (str(State.REJECTED), CAUSE, A)
    assert CAUSE in page and "| users reached the candidate for | 30 s |" in page


def test_a_run_that_was_rolled_back_shows_its_gates() -> None:
    bench = Bench()
    bench.deliver(A)
    bench.register(B, "run-2")
    bench.run("run-2").stage(B)
    slow = {"name": "ttft", "verdict": "failed", "wanted": "<= 0.5 s", "found": "1.2 s", "sentence": "Too slow."}
    bench.run("run-2").roll_back(CAUSE, {"gates": [*GATES, slow]}, keep=False, timeout_s=60)
    report, page = reports(bench, B)
    assert report["state"] == "rejected" and report["gates"] == [*GATES, slow] and report["failed"] == ["ttft"]
    assert "| chat | passed | text | pong \\| from A |" in page
    assert "| ttft | failed | <= 0.5 s | 1.2 s |" in page


def test_names_are_those_of_objects() -> None:
    assert names(A, "deliver_model/manual__2026-11-22T16:11:00+00:00") == (
        f"{A}.deliver_model-manual__2026-11-22T16-11-00-00-00.report.json",
        f"{A}.deliver_model-manual__2026-11-22T16-11-00-00-00.report.md",
    )
