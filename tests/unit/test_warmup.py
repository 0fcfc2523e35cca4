"""The lead before an opening, and durations."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.durations import parse_duration, words
from airfreight.ledger import Ledger
from airfreight.warmup import LONGEST, UNKNOWN, check_warmup, expected, lead, longest
from airfreight.windows import Record, WindowLog, text_of
from airfreight_airflow.windows_runs import Served
from tests.unit.memory_store import MemoryShelf
from tests.unit.serving_kube import Model
from tests.unit.window_bench import MINUTE, Airflow, hours_now, open_window

pytest_plugins = ("tests.unit.window_fixtures",)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172800), ("1d1h1m1s", 90061)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "15", "15 m", "m", "-5m", "1m1h", 900, None, "1.5h"])
def test_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match='is no length of time; write it like "15m", "90s" or "1h30m"'):
        parse_duration(text)


def test_nothing_is_no_duration() -> None:
    with pytest.raises(ValueError, match='"0m" is nothing'):
        parse_duration("0m")


@given(st.integers(1, 10**7))
def test_words_are_read_back(seconds: int) -> None:
    assert parse_duration(words(seconds)) == timedelta(seconds=seconds)


def test_a_fixed_lead_stays() -> None:
    assert lead("10m", [3000.0] * 9) == longest("10m") == timedelta(minutes=10)
    with pytest.raises(ValueError, match="more than two hours"):
        check_warmup("3h")


def test_a_model_nobody_knows_gets_a_generous_lead() -> None:
    assert lead("measured", []) == UNKNOWN
    assert lead("measured", [1200.0]) == timedelta(minutes=40)
    assert longest("measured") == LONGEST


@given(st.lists(st.floats(1, 10_000), min_size=3, max_size=60))
def test_a_measured_lead_covers_19_of_20_recent_starts_and_is_no_longer_than_the_schedule(starts: list[float]) -> None:
    chosen = lead("measured", starts)
    assert chosen <= longest("measured")
    slow = expected(starts[-40:])
    assert sum(start <= slow for start in starts[-40:]) >= 0.95 * len(starts[-40:])
    assert chosen.total_seconds() >= min(3600, slow + 29.9)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "start",
    [
        lambda rng: rng.gauss(60, 6),  # a small model, image and weights on the node
        lambda rng: rng.lognormvariate(5.2, 0.15),  # three minutes
        lambda rng: 240 + rng.expovariate(1 / 25),  # a long tail of slow pulls
        lambda rng: 90 if rng.random() < 0.9 else rng.uniform(100, 140),  # seldom another node
    ],
    ids=["normal", "lognormal", "tail", "two nodes"],
)
def test_95_of_100_openings_are_on_time(seed: int, start: object) -> None:
    """Each simulated opening is led by what the ones before it took, from the first one on."""
    rng = random.Random(seed)
    taken: list[float] = []
    late = 0
    for _ in range(100):
        seconds = max(1.0, start(rng))  # type: ignore[operator]
        late += seconds > lead("measured", taken).total_seconds()
        taken.append(seconds)
    assert late <= 5


# ---- what counts as a cold start ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("minutes", "counts"), [(1, True), (75, True), (76, False), (14 * 60, False)])
def test_what_took_longer_than_a_model_may_take_was_an_airflow_that_was_away(minutes: int, counts: bool) -> None:
    asked = datetime(2026, 11, 22, 7, tzinfo=UTC)
    answered = text_of(asked + timedelta(minutes=minutes))
    log = WindowLog(MemoryShelf())
    log.begin(Record("20261122T080000Z-hours", "pong", "models", "hours", "r", text_of(asked), first_token=answered))
    assert log.cold_starts() == ([minutes * 60.0] if counts else [])


def test_the_start_of_a_window_that_another_run_took_over_is_no_cold_start(
    model: Model, log: WindowLog, ledger: Ledger, airflow: Airflow
) -> None:
    served = Served("pong", hours_now())
    assert open_window(airflow, served, "r1", "scheduled")["found"] == "stopped"
    airflow.alive.discard("r1")  # somebody deleted it, after it had started the model or before
    second = open_window(airflow, served, "r2", "scheduled")
    assert second["found"] == "taken over"
    soon = text_of(datetime.now(UTC) + MINUTE)
    assert log.update(second["window"], first_token=soon).cold_start_s is None and log.cold_starts() == []
