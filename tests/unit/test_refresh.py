"""Refresh: what is delivered, once, and what is left alone, with a branch that moves, fails, and moves again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airfreight.catalog import CatalogModel, parse
from airfreight.errors import TemporaryError
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Event, Release, State, Target
from airfreight.refresh import Seen, Try, conf, entry_digest, is_try_of, judge, run_id, source_of, tracked
from airfreight_airflow import windows_refresh
from airfreight_airflow.form import deliver_params
from airfreight_airflow.macros import RequestMacros
from tests.unit.memory_store import MemoryShelf

A, B = "a" * 40, "b" * 40
NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PONG = CatalogModel(name="pong", source="hf://acme/pong", refresh="daily", serving={"gpus": 1})  # type: ignore[arg-type]


def test_only_branches_are_tracked() -> None:
    pinned = PONG.model_copy(update={"revision": A})
    assert tracked([PONG, pinned, PONG.model_copy(update={"refresh": "never"})]) == [PONG]


def test_a_delivery_gets_what_the_entry_says_at_the_commit() -> None:
    text = """\
models:
  - name: pong
    source: hf://acme/pong
    ignore_patterns: ["*.gguf"]
    serving: {gpus: 2, runtime: airfreight-vllm-gpu-0a1b2c3d4e5f}
    idle_after: 30m
    refresh: daily
"""
    (model,) = parse(text, "x")
    assert conf(model, A) == {
        "model": "acme/pong", "revision": A, "name": "pong", "ignore_patterns": ["*.gguf"], "gpus": 2,
        "runtime": "airfreight-vllm-gpu-0a1b2c3d4e5f",
    }  # fmt: skip


WHOLE = """\
models:
  - name: pong
    source: hf://acme/pong
    destination: both
    builder: buildah
    delivery: oci
    allow_patterns: ["*.json", "*.safetensors"]
    ignore_patterns: ["*.gguf"]
    hub_secret: acme-hub
    serving:
      runtime: airfreight-vllm-gpu-0a1b2c3d4e5f
      gpus: 2
      cpu: "4"
      memory: 24Gi
      server_args: ["--max-model-len=8192"]
      env: [VLLM_LOGGING_LEVEL=DEBUG]
      node_selector: [kubernetes.io/arch=amd64]
      tolerations: ["nvidia.com/gpu:NoSchedule"]
    validation:
      question: Who are you?
      max_ttft: 2
      min_tokens_per_s: 20.5
      prompts: ['2+2? => \\b4\\b']
      gateway_url: https://10.1.2.3/
      gateway_host: pong.example.com
    refresh: daily
"""


def test_a_delivery_asks_its_gates_what_the_entry_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = parse(WHOLE, "x")
    given = conf(model, A)
    asked = {
        "question": "Who are you?", "max_ttft": 2, "min_tokens_per_s": 20.5, "prompts": [r"2+2? => \b4\b"],
        "gateway_url": "https://10.1.2.3", "gateway_host": "pong.example.com",
    }  # fmt: skip
    assert {key: given.get(key) for key in asked} == asked
    assert given["hub_secret"] == "acme-hub"
    assert "validation" not in given

    # As a person would have to give them: `deliver_model` has each of these fields and takes each of these values.
    params = deliver_params(model="acme/pong")
    assert {name: params[name].resolve(value) for name, value in given.items()} == given
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__REGISTRY", "oci://registry.example/models")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__BUILDER_IMAGE", "registry.example/builder:1")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__MODELCAR_BASE", f"registry.example/base@sha256:{'5' * 64}")
    assert RequestMacros.checked_source(given) == f"hf://acme/pong@{A}"


def test_what_the_gates_are_asked_makes_another_try_and_asking_nothing_does_not() -> None:
    # As before there was such a block: an upgrade delivers nothing again that a gate rejected.
    assert entry_digest(PONG) == "8268c3"
    said_nothing = parse(
        "models:\n  - {name: pong, source: acme/pong, refresh: daily, serving: {gpus: 1},\n"
        "     validation: {question: ping, max_ttft: null, prompts: []}}\n",
        "x",
    )
    assert [entry_digest(one) for one in said_nothing] == ["8268c3"]
    (asks,) = parse(
        "models:\n  - {name: pong, source: acme/pong, refresh: daily, serving: {gpus: 1}, validation: {max_ttft: 2}}\n",
        "x",
    )
    assert entry_digest(asks) != "8268c3"
    seen = Seen(B, rejected="ttft: 9 s, at most 2", tries=tries(Try("failed", NOW)))
    assert judge(asks, seen, NOW, asked=True).conf["max_ttft"] == 2
    assert is_try_of(run_id(asks, B, 1), asks, B)
    assert not is_try_of(run_id(PONG, B, 1), asks, B), "what was rejected under other thresholds is tried again"


def test_a_branch_that_did_not_move_is_left_alone() -> None:
    found = judge(PONG, Seen(A, live=source_of(PONG, A)), NOW)
    assert not found.run_id and found.sentence == f"main is at {A[:12]}, which is live; nothing to do."


def test_a_hub_that_does_not_answer_fails_this_model() -> None:
    found = judge(PONG, Seen(None, "hf://acme/pong cannot be reached"), NOW)
    assert found.failed and not found.run_id and str(found) == "pong: hf://acme/pong cannot be reached"


STAYS = "was delivered before; somebody put another release there since, and it stays."
BY_REFRESH = f"deliver_model/{run_id(PONG, A, 1)}"


def tries(*states: Any) -> Any:
    """The first tries for commit B."""
    known = {run_id(PONG, B, number): state for number, state in enumerate(states, 1)}
    return lambda identity: known.get(identity, Try(None))


@pytest.mark.parametrize(
    ("seen", "asked", "number", "words"),
    [
        (Seen(B), False, 1, "delivering it."),
        (Seen(B, live=source_of(PONG, A)), False, 1, "delivering it."),
        (Seen(B, tries=tries(Try("running"))), False, 0, "is delivering it."),
        (Seen(B, tries=tries(Try("success", NOW))), False, 0, STAYS),
        # The branch went on to A, which a refresh delivered, and came back.
        (Seen(B, live=source_of(PONG, A), live_by=BY_REFRESH, tries=tries(Try("success", NOW))), False, 2, "try 2."),
        (Seen(B, live=source_of(PONG, A), live_by=BY_REFRESH, tries=tries(Try("success", NOW), Try("failed", NOW))),
         False, 0, "try 2 failed; the next is due at 2026-11-24 03:00 UTC."),
        (Seen(B, live=source_of(PONG, A), live_by=BY_REFRESH, rejected="ttft", tries=tries(Try("success", NOW))),
         False, 0, "was rejected (ttft); change its entry, or ask for it by name."),
        # A person put A there, by a delivery or by going back.
        (Seen(B, live=source_of(PONG, A), live_by="deliver_model/manual__x", tries=tries(Try("success", NOW))),
         False, 0, STAYS),
        (Seen(B, live=source_of(PONG, A), live_by="ann@desk", tries=tries(Try("success", NOW))), False, 0, STAYS),
        (Seen(B, live=source_of(PONG, A), live_by="ann@desk", tries=tries(Try("success", NOW))), True, 2, "try 2."),
        # A refresh of another commit only found A on the cluster, where a person had put it.
        (Seen(B, live=source_of(PONG, A), live_by=BY_REFRESH.replace("a" * 12, "c" * 12),
              tries=tries(Try("success", NOW))), False, 0, STAYS),
        (Seen(B, live="hf://other/model@" + A, live_by=BY_REFRESH, tries=tries(Try("success", NOW))), False, 0, STAYS),
        (Seen(B, live=source_of(PONG, A), live_by=BY_REFRESH.replace("pong", "ping"), tries=tries(Try("success", NOW))),
         False, 0, STAYS),
        (Seen(B, rejected="ttft: 9 s, at most 2", tries=tries(Try("failed", NOW - DAY))), False, 0,
         "was rejected (ttft: 9 s, at most 2); change its entry, or ask for it by name."),
        (Seen(B, rejected="ttft", tries=tries(Try("failed", NOW - DAY))), True, 2, "try 2."),
        # Airflow forgot the run, the ledger did not.
        (Seen(B, rejected="ttft"), False, 0, "was rejected (ttft); change its entry, or ask for it by name."),
        (Seen(B, tries=tries(Try("failed", NOW - DAY))), False, 2, "delivering it, try 2."),
        (Seen(B, tries=tries(Try("failed", NOW - 3 * DAY), Try("failed", NOW - DAY))), False, 0,
         "try 2 failed; the next is due at 2026-11-23 03:00 UTC."),
        (Seen(B, tries=tries(Try("failed", NOW), Try("failed", NOW))), True, 3, "try 3."),
        (Seen(B, tries=tries(*[Try("failed", NOW - 8 * DAY)] * 9)), False, 10, "try 10."),
    ],
)  # fmt: skip
def test_what_is_new_is_delivered_once(seen: Seen, asked: bool, number: int, words: str) -> None:
    found = judge(PONG, seen, NOW, asked=asked)
    assert found.sentence.endswith(words), found.sentence
    assert found.run_id == (run_id(PONG, B, number) if number else "")


def test_a_changed_entry_is_another_try() -> None:
    seen = Seen(B, tries=tries(Try("failed", NOW)))
    changed = PONG.model_copy(update={"serving": PONG.serving.model_copy(update={"gpus": 2})})
    assert not judge(PONG, seen, NOW).run_id
    assert judge(changed, seen, NOW).run_id == run_id(changed, B, 1) != run_id(PONG, B, 1)
    assert is_try_of(run_id(PONG, B, 12), PONG, B)
    assert not any(is_try_of(run_id(PONG, B, 1), *other) for other in ((changed, B), (PONG, A)))
    assert not is_try_of("manual__2026-11-22", PONG, B)
    longer = PONG.model_copy(update={"idle_after": "1h"})
    assert run_id(longer, B, 1) == run_id(PONG, B, 1), "its windows are no part of a delivery"


# ---- days with a hub, a ledger and runs --------------------------------------------------------------------------


@dataclass
class Days:
    """A stand-in of hub, Airflow and ledger, day after day."""

    monkeypatch: pytest.MonkeyPatch
    catalog: Path
    tip: str = A
    now: datetime = NOW
    runs: dict[str, Any] = field(default_factory=dict)
    xcoms: dict[Any, Any] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    failed: dict[str, list[str]] = field(default_factory=dict)  # the failed tasks of each delivery
    seconds: Iterator[int] = field(default_factory=count)  # no two events of the ledger at the same moment
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(
            MemoryShelf(), Target("models", "pong"), lambda: NOW + timedelta(seconds=next(self.seconds))
        )

    def refresh(self) -> list[str]:
        """Run the tasks of one day; returns the ids of the runs that it starts."""
        source = "hf://acme/pong@main"
        found = {"commit": self.tip, "problem": "" if self.tip else "cannot be reached"}
        self.xcoms["look", "tips"] = {source: found}
        ti = SimpleNamespace(
            xcom_push=lambda key, value: self.xcoms.update({("judge", key): value}),
            xcom_pull=lambda task_ids, key="return_value", dag_id="", run_id="": self.xcoms.get(
                (dag_id, run_id, task_ids, key) if dag_id else (task_ids, key)
            ),
            get_dr_count=lambda dag_id, run_ids, states=None: int(run_ids[0] in self.runs),
            get_task_states=lambda dag_id, run_ids: {
                run_ids[0]: self.states
                if dag_id == "refresh_models"
                else dict.fromkeys(self.failed.get(run_ids[0], []), "failed")
            },
        )
        context = {"ti": ti, "params": {"models": self.models}, "run_id": "scheduled__x",
                   "dag": SimpleNamespace(dag_id="refresh_models")}  # fmt: skip
        days = self

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]  # noqa: ARG003
                return days.now

        self.monkeypatch.setattr(windows_refresh, "get_current_context", lambda: context)
        self.monkeypatch.setattr(windows_refresh, "release_ledger", lambda *_: self.ledger)
        self.monkeypatch.setattr(windows_refresh, "_run", lambda identity: self.runs[identity])
        self.monkeypatch.setattr(windows_refresh, "datetime", Clock)
        started = windows_refresh.judge_models(self.catalog)
        for one in started:
            assert one["conf"]["revision"] == self.tip
            self.runs[one["trigger_run_id"]] = SimpleNamespace(state="running", end_date=None)
        return [one["trigger_run_id"] for one in started]

    def ends(
        self,
        identity: str,
        state: str,
        *,
        rejected: str = "",
        live: bool = False,
        exit_code: int | None = 4,
        task: str = "wait_until_ready",
    ) -> None:
        """A delivery ends, a day before the next look."""
        self.runs[identity] = SimpleNamespace(state=state, end_date=self.now)
        if state == "failed":
            self.failed[identity] = [task, "remove_volume", "report"]
            if exit_code is not None:
                failure = {"exit_code": exit_code, "message": rejected or "No."}
                self.xcoms["deliver_model", identity, task.partition("_2")[0], "failure"] = (
                    [{"exit_code": 75, "message": "The hub broke off."}, failure] if task.endswith("_2") else failure
                )
        by = f"deliver_model/{identity}"
        release = Release(identity.split("__")[2], "s3://x/", source_of(PONG, self.tip), "pong", "rt", {})
        if live or rejected:
            self.ledger.register(release, Event(State.CANDIDATE, by))
        if live:
            now_live = self.ledger.live()
            self.ledger.promote(release.release, now_live.release if now_live else None, Event(State.LIVE, by))
        if rejected:
            self.ledger.reject(release.release, Event(State.REJECTED, by, cause=rejected))

    def next_day(self) -> None:
        self.now += DAY


@pytest.fixture
def days(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Days:
    file = tmp_path / "models.yaml"
    file.write_text("models:\n  - {name: pong, source: hf://acme/pong, refresh: daily, serving: {gpus: 1}}\n")
    return Days(monkeypatch, file)


def test_a_branch_that_moves_then_fails_then_moves_again(days: Days) -> None:
    (first,) = days.refresh()
    assert first == run_id(PONG, A, 1)
    assert days.refresh() == [], "it is being delivered"
    days.ends(first, "success", live=True)
    days.next_day()
    assert days.refresh() == [], "nothing moved"

    days.tip = B
    (bad,) = days.refresh()
    days.ends(bad, "failed", rejected="chat: it cannot chat")
    for _ in range(20):
        days.next_day()
        assert days.refresh() == [], "a gate rejected it"
    days.models = ["pong"]
    assert days.refresh() == [run_id(PONG, B, 2)], "somebody asked"
    days.models = []
    days.ends(run_id(PONG, B, 2), "failed", rejected="chat: it cannot chat")

    days.tip = "c" * 40
    (third,) = days.refresh()
    days.ends(third, "failed", exit_code=75, task="upload_to_s3")  # the hub broke off
    started = []
    for day in range(1, 9):
        days.next_day()
        for identity in days.refresh():
            started.append(day)
            days.ends(identity, "failed", exit_code=75, task="upload_to_s3")
    assert started == [1, 3, 7], "after one, two and four days"


def test_a_branch_that_moves_back_is_followed(days: Days) -> None:
    for commit, number in ((A, 1), (B, 1), (A, 2), (B, 2), (A, 3)):
        days.tip = commit
        assert days.refresh() == [run_id(PONG, commit, number)]
        days.ends(run_id(PONG, commit, number), "success", live=True)
        days.next_day()
        assert days.refresh() == [], "nothing moved"


def test_what_a_person_put_there_stays_though_the_branch_moves_back(days: Days) -> None:
    for commit in (A, B):
        days.tip = commit
        days.ends(*days.refresh(), "success", live=True)
        days.next_day()
    # A person goes back to A, while the branch stays.
    days.ledger.promote("a" * 12, "b" * 12, Event(State.LIVE, "ann@desk"))
    assert days.refresh() == []
    # The branch goes on to what is new, which is delivered; then it moves back to what the person took away.
    days.tip = "c" * 40
    days.ends(*days.refresh(), "success", live=True)
    days.tip = B
    assert days.refresh() == [run_id(PONG, B, 2)]
    days.ends(run_id(PONG, B, 2), "success", live=True)
    # A person delivers once more what is live: now it is their choice.
    days.ledger.register(days.ledger.read("b" * 12), Event(State.CANDIDATE, "deliver_model/manual__x"))
    days.tip = A
    assert days.refresh() == []


def test_what_was_rolled_back_for_a_passing_cause_is_tried_again(days: Days) -> None:
    (first,) = days.refresh()
    days.ends(first, "failed", rejected="The cluster does not answer.", exit_code=75)
    days.next_day()
    (second,) = days.refresh()
    assert second == run_id(PONG, A, 2), "the ledger calls it rejected, and no gate did"
    days.ends(second, "failed", rejected="Task wait_until_ready was ended without a word.", exit_code=None)
    days.now += 2 * DAY
    (third,) = days.refresh()
    days.ends(third, "failed", rejected="chat: it cannot chat")
    days.now += 8 * DAY
    assert days.refresh() == []
    days.runs.clear()
    days.now += 300 * DAY
    assert days.refresh() == [], "Airflow has forgotten the runs, and the ledger has not"


@pytest.mark.parametrize(
    ("task", "exit_code"), [("smoke_test", 4), ("upload_to_s3", 3), ("resolve", 2), ("download_2", 3)]
)
def test_what_failed_for_good_before_it_was_deployed_is_not_tried_again(days: Days, task: str, exit_code: int) -> None:
    days.ends(*days.refresh(), "failed", exit_code=exit_code, task=task)  # the ledger knows nothing of it
    for _ in range(20):
        days.next_day()
        assert days.refresh() == []
    days.models = ["pong"]
    assert days.refresh() == [run_id(PONG, A, 2)], "somebody asked"
    # What they asked for did not come about, for a passing cause: it says nothing else of the commit.
    days.ends(run_id(PONG, A, 2), "failed", exit_code=75, task=task)
    days.models = []
    days.now += 8 * DAY
    assert days.refresh() == []


@pytest.mark.parametrize("task", ["upload_to_s3", "smoke_test"])
@pytest.mark.parametrize("exit_code", [75, None])
def test_what_failed_for_a_passing_cause_before_it_was_deployed_is_tried_again(
    days: Days, task: str, exit_code: int | None
) -> None:
    (first,) = days.refresh()
    days.ends(first, "failed", exit_code=exit_code, task=task)
    # What tidies up after the model's own failure, or tells of it, says nothing of the model.
    days.xcoms["deliver_model", first, "remove_volume", "failure"] = {"exit_code": 2, "message": "No."}
    days.next_day()
    assert days.refresh() == [run_id(PONG, A, 2)]


@pytest.mark.parametrize("task", ["deploy", "wait_until_ready", "promote"])
def test_what_met_another_run_at_the_model_is_tried_again(days: Days, task: str) -> None:
    """Ended with 2, and nothing was rejected: its lock went to a person's delivery while Airflow was away."""
    (first,) = days.refresh()
    days.ends(first, "failed", exit_code=2, task=task)
    days.next_day()
    assert days.refresh() == [run_id(PONG, A, 2)]


def by_hand(days: Days, commit: str, release: str, *, live: bool) -> None:
    """A person delivers a commit, in another runtime, and it is rejected too, or becomes live."""
    made = Release(release, "s3://x/", source_of(PONG, commit), "pong", "rt-2", {})
    days.ledger.register(made, Event(State.CANDIDATE, "deliver_model/manual__x"))
    if live:
        now_live = days.ledger.live()
        over = now_live.release if now_live else None
        days.ledger.promote(release, over, Event(State.LIVE, "deliver_model/manual__x"))
    else:
        days.ledger.reject(release, Event(State.REJECTED, "deliver_model/manual__x", cause="chat"))


@pytest.mark.parametrize("live", [False, True], ids=["rejected too", "live and replaced"])
def test_a_rejection_stands_though_a_person_delivered_the_commit_since(days: Days, live: bool) -> None:
    days.tip = B
    days.ends(*days.refresh(), "failed", rejected="chat: it cannot chat")
    by_hand(days, B, "d" * 12, live=live)
    if live:
        by_hand(days, "e" * 40, "e" * 12, live=True)
    days.next_day()
    assert days.refresh() == []
    days.runs.clear()
    assert days.refresh() == [], "nor when Airflow has forgotten the runs"


def test_what_was_rejected_and_then_went_live_by_a_try_is_followed_when_the_branch_comes_back(days: Days) -> None:
    days.tip = B
    days.ends(*days.refresh(), "failed", rejected="chat: it cannot chat")
    days.models = ["pong"]
    days.next_day()
    days.ends(*days.refresh(), "success", live=True)
    days.models, days.tip = [], A
    days.ends(*days.refresh(), "success", live=True)
    days.tip = B
    assert days.refresh() == [run_id(PONG, B, 3)]


def test_a_rejection_counts_for_the_entry_that_was_tried(days: Days) -> None:
    (first,) = days.refresh()
    days.ends(first, "failed", rejected="ttft: 9 s, at most 2")
    days.next_day()
    assert days.refresh() == []
    days.catalog.write_text(days.catalog.read_text().replace("{gpus: 1}", "{gpus: 1}, validation: {max_ttft: 10}"))
    (other,) = days.refresh()
    assert other.endswith("__1") and other != first
    days.ends(other, "failed", exit_code=75)  # the hub broke off; what is in the ledger is of the entry before
    days.next_day()
    assert [one[-3:] for one in days.refresh()] == ["__2"]


def test_what_could_not_be_looked_at_fails_the_run_at_its_end(days: Days) -> None:
    days.tip = ""
    assert days.refresh() == []
    with pytest.raises(AirflowFailException, match="pong: cannot be reached"):
        windows_refresh.say_what_failed(days.catalog)
    days.tip = A
    days.refresh()
    windows_refresh.say_what_failed(days.catalog)
    days.states["look"] = "failed"
    with pytest.raises(AirflowFailException, match="look failed; look at its log"):
        windows_refresh.say_what_failed(days.catalog)
    days.states.clear()
    days.catalog.write_text(days.catalog.read_text() + "  - {name: x}\n")
    with pytest.raises(AirflowFailException, match=r"models.yaml:3: source: this field is required; add it\."):
        windows_refresh.say_what_failed(days.catalog)


def test_a_ledger_that_is_away_fails_only_its_model(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Ledger) -> None:
        raise TemporaryError("The object store cannot be reached")

    monkeypatch.setattr(Ledger, "live", away)
    assert days.refresh() == []
    assert days.xcoms["judge", "failed"] == ["pong: The object store cannot be reached"]


def test_a_name_that_is_not_tracked_is_refused(days: Days) -> None:
    days.models = ["pogn"]
    with pytest.raises(AirflowFailException, match=r'"pogn" is no model .*; did you mean "pong"'):
        days.refresh()


def test_no_pod_is_started_to_ask_for_nothing(days: Days) -> None:
    assert windows_refresh.tracked_sources(days.catalog) == ["hf://acme/pong@main"]

    def context(*sources: str) -> Any:
        return {"task": SimpleNamespace(arguments=["tips", *sources, "--result", "/x"])}

    windows_refresh.skip_without_sources(context("hf://acme/pong@main"))
    with pytest.raises(AirflowSkipException, match="no model with `refresh: daily`"):
        windows_refresh.skip_without_sources(context())


def test_a_verdict_is_a_value() -> None:
    assert replace(judge(PONG, Seen(A), NOW), name="x").name == "x"
