"""Gates, their table and sentences, and what is called a regression."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import GateError
from airfreight.gates import Change, Gate, Verdict, check, compare, gate, gates_table

SECONDS = st.floats(0.001, 1e5)


def test_a_gate_that_could_not_be_made_is_never_passed() -> None:
    assert gate("gpu", None, "1", "?", "nobody looked").verdict is Verdict.NOT_PROVEN
    assert gate("gpu", True, "1", "1", "never shown") == Gate("gpu", Verdict.PASSED, "1", "1", "")
    assert gate("gpu", False, "1", "0", "no GPU").sentence == "no GPU"


def test_the_first_failure_is_the_sentence_and_the_others_are_named() -> None:
    gates = [gate("chat", True, "", "", ""), gate("ttft", False, "", "", "too slow"), gate("speed", False, "", "", "x")]
    with pytest.raises(GateError, match=r"^too slow \(speed failed too\)$"):
        check(gates)
    check([gate("chat", True, "", "", ""), gate("gpu", None, "", "", "unknown")])


def test_the_table_is_aligned() -> None:
    lines = gates_table(
        [gate("ttft", True, "<= 2 s", "0.050 s", ""), gate("gpu", None, "1 held", "?", "")]
    ).splitlines()
    assert lines == [
        "gate  verdict     wanted  found",
        "ttft  passed      <= 2 s  0.050 s",
        "gpu   not proven  1 held  ?",
    ]


def test_more_than_a_fifth_worse_is_a_regression() -> None:
    now = {"load_s": 61.0, "pull_s": 59.0, "tokens_per_s": 70.0, "ttft_s": 0.5, "fetch_s": None}
    before = {"load_s": 50.0, "pull_s": 50.0, "tokens_per_s": 100.0, "ttft_s": 1.0}
    changes = {one.name: one for one in compare(now, before)}
    assert changes["load_s"] == Change("load_s", 61.0, 50.0, 0.22) and changes["load_s"].regressed
    assert changes["pull_s"].worse == 0.18 and not changes["pull_s"].regressed
    assert changes["tokens_per_s"].regressed, "fewer tokens per second are worse"
    assert changes["ttft_s"].worse == -0.5
    assert "fetch_s" not in changes, "what was not measured is not compared"


def test_a_second_more_or_less_is_the_clocks() -> None:
    assert [one.regressed for one in compare({"load_s": 3.0, "ttft_s": 0.03}, {"load_s": 2.0, "ttft_s": 0.02})] == [
        False
    ] * 2


def test_without_a_release_before_nothing_regressed() -> None:
    assert compare({"load_s": 3.0}, None) == [Change("load_s", 3.0, None, None)]
    assert not compare({"load_s": 3.0}, {"load_s": 0.0})[0].regressed


@given(SECONDS, SECONDS)
def test_getting_better_is_no_regression(now: float, before: float) -> None:
    for name, better in (("load_s", now <= before), ("tokens_per_s", now >= before)):
        change = compare({name: now}, {name: before})[0]
        assert not (better and change.regressed)
        assert change.result()["regressed"] is change.regressed
