"""Opening a window now: which run does it for a herd, what is refused, and the ETA from earlier runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airfreight import waking
from airfreight.airflow_http import NotFoundError, RefusedError
from airfreight.errors import RequestError, TemporaryError
from airfreight.waking import Woken, ask_to_stop, awake_dag, wake
from airfreight.windows import moment, text_of

LONG_AGO = "2026-11-01T00:00:00Z"


class Api:
    """As much of `AirflowApi` as waking asks for."""

    def __init__(self) -> None:
        self.found: dict[str, Any] | None = {"is_paused": False}
        self.seen: list[dict[str, Any]] = []
        self.results: dict[tuple[str, str], Any] = {}
        self.taken: set[str] = set()
        self.triggered: list[tuple[str, dict[str, str], str]] = []
        self.refuse = 409

    def dag(self, dag_id: str) -> dict[str, Any] | None:
        return self.found if dag_id == "serve_pong" else None

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return self.seen[:20]

    def running(self, dag_id: str) -> list[dict[str, Any]]:
        return [one for one in reversed(self.seen) if one["state"] == "running"]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        return self.results.get((run_id, task_id))

    def trigger(self, dag_id: str, conf: dict[str, str], *, run_id: str) -> str:
        if run_id in self.taken:
            raise RefusedError("No.", self.refuse)
        self.taken.add(run_id)
        self.triggered.append((dag_id, conf, run_id))
        return run_id


@pytest.fixture
def api() -> Any:
    return Api()


def run(run_id: str, state: str = "success", since: str = LONG_AGO, key: str = "run_after") -> dict[str, Any]:
    return {"dag_run_id": run_id, "state": state, key: since}


def just_now(seconds: float) -> str:
    return text_of(datetime.now(UTC) - timedelta(seconds=seconds))


def test_a_model_without_records_is_woken_and_answers_soon(api: Any) -> None:
    woken = wake(api, "pong")
    assert api.triggered == [("serve_pong", {"action": "open"}, woken.run_id)]
    assert woken.result() == {
        "dag_id": "serve_pong", "run_id": woken.run_id, "open": False, "answers": False, "eta": "",
    }  # fmt: skip
    assert woken.sentence == (
        f"serve_pong {woken.run_id}: it will probably answer soon; Airflow knows of no cold start of it yet."
    )


def test_all_who_saw_the_same_runs_have_one_run(api: Any) -> None:
    api.seen = [run("old")]
    assert len({wake(api, "pong").run_id for _ in range(5)}) == 1
    assert len(api.triggered) == 1, "Airflow refused the others as there already"


def test_another_refusal_of_the_trigger_is_no_run(api: Any) -> None:
    wake(api, "pong")
    api.refuse = 403
    with pytest.raises(RefusedError, match=r"No\."):
        wake(api, "pong")


@pytest.mark.parametrize("change", [lambda seen: [run("new"), *seen], lambda seen: [run("old", "running")]])
def test_a_run_that_came_or_ended_makes_a_new_one(api: Any, change: Any) -> None:
    api.seen = [run("old")]
    first = wake(api, "pong").run_id
    api.seen = change(api.seen)
    assert wake(api, "pong").run_id != first


@pytest.mark.parametrize("key", ["run_after", "queued_at"])
def test_who_asks_within_a_minute_gets_the_run_of_who_asked(api: Any, key: str) -> None:
    api.seen = [run("wake__a", "queued", just_now(30), key)]
    assert wake(api, "pong").run_id == "wake__a"
    assert api.triggered == []


@pytest.mark.parametrize(
    ("run_id", "state", "ago_s"),
    [("wake__a", "running", 70.0), ("wake__a", "success", 0.0), ("scheduled__a", "running", 0.0)],
    ids=["a minute ago", "over", "not woken"],
)
def test_else_the_run_that_keeps_the_window_gets_a_note(api: Any, run_id: str, state: str, ago_s: float) -> None:
    api.seen = [run(run_id, state, just_now(ago_s))]
    assert [wake(api, "pong").run_id] == [run_id for _, _, run_id in api.triggered]


def test_the_eta_counts_from_now_by_the_newest_run_that_knew_one(api: Any) -> None:
    api.seen = [run("stop"), run("warm"), run("cold"), run("colder")]
    api.results["stop", "open_window"] = {"action": "stop"}
    api.results["warm", "open_window"] = {"action": "open", "expected_s": None}
    api.results["cold", "open_window"] = {"action": "open", "expected_s": 64.0}
    api.results["colder", "open_window"] = {"action": "open", "expected_s": 900.0}
    asked = moment(just_now(0))
    woken = wake(api, "pong")
    assert woken.eta["expected_s"] == 64.0 and not woken.eta["open"]
    assert asked <= moment(woken.eta["eta"]) - timedelta(seconds=64) <= datetime.now(UTC)
    assert woken.sentence.endswith(f": it will probably answer by {woken.eta['eta']}.")


def test_a_cold_start_counts_from_the_end_of_its_own_window(api: Any) -> None:
    api.seen = [run("first"), run("before")]
    api.results["before", "open_window"] = {"action": "open", "expected_s": 900.0}
    api.results["first", "open_window"] = {"action": "open", "expected_s": None}
    assert wake(api, "pong").eta["expected_s"] == 900.0
    api.results["first", "record"] = {"window": "w", "cold_start_s": 64.0, "expected_s": 64.0}
    assert wake(api, "pong").eta["expected_s"] == 64.0
    api.results["first", "record"] = {}
    assert wake(api, "pong").eta["expected_s"] == 900.0, "a run that broke off recorded nothing"


def test_a_window_that_is_being_closed_is_not_open(api: Any) -> None:
    api.seen = [run("r", "running")]
    api.results["r", "open_window"] = {"action": "open", "window": "w", "eta": "", "expected_s": 64.0}
    api.results["r", "ping"] = {"first_token": "x"}
    api.results["r", "wait_until_idle_or_closing"] = {"stop": True}
    woken = wake(api, "pong")
    assert not woken.eta["open"] and not woken.eta["answers"] and woken.eta["expected_s"] == 64.0


@pytest.mark.parametrize("error", [RefusedError("No.", 403), TemporaryError("Not now.")])
def test_a_model_that_was_woken_is_woken_though_its_runs_may_not_be_read(
    api: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refused(*_: str) -> None:
        raise error

    api.seen = [run("r")]
    monkeypatch.setattr(api, "result", refused)
    woken = wake(api, "pong")
    assert woken.eta == {"open": False, "answers": False, "eta": ""} and api.triggered


def test_an_open_window_is_named_and_whether_it_answers(api: Any) -> None:
    api.seen = [run("r", "running")]
    api.results["r", "open_window"] = {"action": "open", "window": "w", "eta": "2026-11-22T12:00:00Z"}
    woken = wake(api, "pong")
    assert woken.eta == {"open": True, "answers": False, "eta": "2026-11-22T12:00:00Z", "window": "w"}
    assert woken.sentence.endswith(": it is starting, and will probably answer by 2026-11-22T12:00:00Z.")
    api.results["r", "ping"] = {"first_token": "x"}
    assert wake(api, "pong").sentence.endswith(": window w is open, and the model answers.")


def test_the_run_that_keeps_the_window_is_found_behind_a_herd_of_notes(api: Any) -> None:
    notes = [run(f"wake__{number}") for number in range(40)]
    api.seen = [*notes, run("r", "running")]
    api.results["r", "open_window"] = {"action": "open", "window": "w", "eta": "2026-11-22T12:00:00Z"}
    api.results["r", "ping"] = {"first_token": "x"}
    assert wake(api, "pong").eta == {"open": True, "answers": True, "eta": "2026-11-22T12:00:00Z", "window": "w"}


def test_a_run_that_stops_keeps_no_window_though_it_goes_on(api: Any) -> None:
    api.seen = [run("open", "running"), run("stop", "running")]
    api.results["stop", "open_window"] = {"action": "stop"}
    api.results["open", "open_window"] = {"action": "open", "window": "w", "eta": ""}
    assert wake(api, "pong").eta["window"] == "w"


def stop(run_id: str, action: str = "stop", state: str = "running", since: str = LONG_AGO) -> dict[str, Any]:
    return run(run_id, state, since) | {"conf": {"action": action}}


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is eight o'clock of the day that the runs below are of."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # noqa: ARG003
            return datetime(2026, 11, 22, 8, 0, tzinfo=UTC)

    monkeypatch.setattr(waking, "datetime", Clock)


@pytest.mark.parametrize(("minutes", "same"), [(59, True), (61, False)])
def test_a_stop_that_waits_for_an_hour_is_no_answer_to_another(api: Any, minutes: int, same: bool) -> None:
    """Hours may have overruled it that no run has noted: the run that keeps the window asks for them itself."""
    api.seen = [stop("stop__a", since=just_now(60.0 * minutes))]
    assert (ask_to_stop(api, "pong")[1] == "stop__a") is same
    assert len(api.triggered) == 1 - same


def test_who_asks_for_a_stop_that_waits_already_starts_no_other(api: Any) -> None:
    api.seen = [run("scheduled__a", "running") | {"conf": {}}]
    dag_id, first = ask_to_stop(api, "pong")
    assert api.triggered == [("serve_pong", {"action": "stop"}, first)] and dag_id == "serve_pong"
    assert ask_to_stop(api, "pong") == ("serve_pong", first), "asked at the same moment"
    api.seen.insert(0, stop(first, since=just_now(60)))
    assert {ask_to_stop(api, "pong")[1] for _ in range(20)} == {first}
    assert len(api.triggered) == 1
    at_once = ask_to_stop(api, "pong", now=True)[1]
    assert api.triggered[1:] == [("serve_pong", {"action": "stop_now"}, at_once)]
    api.seen.insert(0, stop(at_once, "stop_now", since=just_now(30)))
    assert ask_to_stop(api, "pong")[1] == first and ask_to_stop(api, "pong", now=True)[1] == at_once


@pytest.mark.parametrize(
    "newer",
    [
        [run("wake__a", "skipped") | {"conf": {"action": "open"}}],
        [run("scheduled__b", "running") | {"conf": {}}],
        [run("asset__b") | {"conf": None}],
    ],
    ids=["woken", "hours", "delivered"],
)
def test_a_stop_asked_for_after_an_opening_is_another(api: Any, newer: list[dict[str, Any]]) -> None:
    api.seen = [*newer, stop("stop__a", since=just_now(60))]
    assert ask_to_stop(api, "pong")[1] not in ("stop__a", "")
    assert len(api.triggered) == 1


@pytest.mark.parametrize(
    ("state", "ended", "requested", "same"),
    [
        ("running", None, "", True),  # it waits for its opening, which overrules whichever came before
        ("running", None, "2026-11-22T07:45:00.000Z", False),
        ("running", None, "2026-11-22T07:35:00.000Z", True),
        ("success", "2026-11-22T07:50:00Z", "2026-11-22T07:35:00.000Z", True),
        ("success", "2026-11-22T07:50:00Z", "2026-11-22T07:45:00.000Z", False),
        ("success", "2026-11-22T07:50:00Z", "", False),  # skipped: it left a note for the run that keeps a window
        ("success", "2026-11-22T07:01:00Z", "", True),
    ],
)
def test_a_stop_that_an_opening_overruled_is_another(
    api: Any, eight: None, state: str, ended: str | None, requested: str, same: bool
) -> None:
    """The run of the hours comes an hour before they open, so it is older than a stop at 07:40 that it overrules."""
    hours = run("scheduled__a", state, "2026-11-22T07:00:00Z") | {"conf": {}, "end_date": ended}
    api.seen = [stop("stop__a", since="2026-11-22T07:40:00Z"), hours]
    if requested:
        api.results["scheduled__a", "open_window"] = {"action": "open", "requested": requested}
    assert (ask_to_stop(api, "pong")[1] == "stop__a") is same
    assert len(api.triggered) == 1 - same


def test_who_may_not_read_results_asks_for_a_stop_all_the_same(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: str) -> None:
        raise RefusedError("No.", 403)

    api.seen = [stop("stop__a", since=just_now(60)), run("scheduled__a", "running") | {"conf": {}}]
    monkeypatch.setattr(api, "result", refused)
    assert ask_to_stop(api, "pong")[1] == api.triggered[0][2] != "stop__a"


def test_a_stop_that_ended_is_asked_for_anew(api: Any) -> None:
    api.seen = [stop("stop__a", state="success", since=just_now(60))]
    assert ask_to_stop(api, "pong")[1] != "stop__a"
    api.found = {"is_paused": True}
    with pytest.raises(RefusedError, match="serve_pong is paused"):
        ask_to_stop(api, "pong")


def test_what_cannot_be_woken_is_said_with_its_number(api: Any) -> None:
    with pytest.raises(NotFoundError, match="Airflow has no DAG serve_pang: give pang hours or idle_after") as missing:
        awake_dag(api, "pang")
    api.found = {"is_paused": True}
    with pytest.raises(RefusedError, match="serve_pong is paused, so its runs wait: unpause it in Airflow") as paused:
        wake(api, "pong")
    with pytest.raises(RequestError, match='"Pong" cannot name an InferenceService') as wrong:
        wake(api, "Pong")
    assert (missing.value.status, paused.value.status) == (404, 409)
    assert not isinstance(wrong.value, RefusedError)
    assert api.triggered == []


def test_a_result_is_what_the_sentence_says() -> None:
    eta = {"open": False, "answers": False, "eta": "2026-11-22T12:00:00Z", "expected_s": 64.0}
    assert Woken("serve_pong", "r", eta).result() == {"dag_id": "serve_pong", "run_id": "r", **eta}
