"""The end of a delivery: what is told of a promotion, what a rollback is told, and when there is none."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airfreight_airflow.gating import RELEASER
from airfreight_airflow.operators import DEPLOYER, AirfreightPodOperator
from airfreight_airflow.promoting import (
    AnnouncingOperator,
    GateMacros,
    PromoteOperator,
    ProveEgressOperator,
    RollBackOperator,
    promotion,
)
from airfreight_airflow.windows_assets import PROMOTIONS, model_asset

PROMOTED = {
    "name": "pong", "release": "9f2c41ab6c1b", "over": "0a1b2c3d4e5f", "source": "hf://acme/pong@41ab",
    "artifact": "s3://llm-models/acme/pong/41ab/", "manifest_sha256": "71d0",
}  # fmt: skip


class Ti:
    """A task instance of a run whose tasks ended so, and left that."""

    dag_id, run_id = "deliver_model", "manual__1"

    def __init__(self, states: dict[str, str], left: dict[tuple[str, str], Any] | None = None) -> None:
        self.states, self.left = states, left or {}

    def get_task_states(self, *, dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, Any]:
        assert (dag_id, run_ids) == (self.dag_id, [self.run_id])
        return {self.run_id: {one: state for one, state in self.states.items() if one in task_ids}}

    def get_task_breadcrumbs(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return [{"task_id": one, "duration": 1.25, "state": state} for one, state in self.states.items()]

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.left.get((task_ids, key))


def test_a_promotion_is_told_with_commit_and_digest() -> None:
    assert promotion(PROMOTED) == {
        "commit": "41ab", "digest": "71d0", "release": "9f2c41ab6c1b", "artifact": PROMOTED["artifact"],
    }  # fmt: skip
    image = {**PROMOTED, "manifest_sha256": None, "artifact": "oci://r/pong@sha256:99"}
    assert promotion(image)["digest"] == "sha256:99"
    assert promotion({**PROMOTED, "over": None})["release"] == "9f2c41ab6c1b", "the first one is news too"


def test_what_was_live_before_is_no_news() -> None:
    assert promotion({**PROMOTED, "over": PROMOTED["release"]}) == {}


@pytest.mark.parametrize(("over", "told"), [("0a1b2c3d4e5f", 1), (PROMOTED["release"], 0)])
def test_the_models_asset_has_an_event_when_its_release_is_another(
    over: str, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {**PROMOTED, "over": over}
    monkeypatch.setattr(AirfreightPodOperator, "execute", lambda *_: result)
    events: list[Any] = []
    outlet = SimpleNamespace(add=lambda asset, extra: events.append((asset, extra)))
    task = AnnouncingOperator(task_id="promote", role=RELEASER, arguments=["promote"])
    assert task.outlets == [PROMOTIONS]
    context: Any = {"outlet_events": {PROMOTIONS: outlet}}
    assert task.execute(context) == result
    assert events == [(model_asset("pong"), promotion(result))] * told


@pytest.mark.parametrize("state", ["upstream_failed", "skipped"])
def test_a_run_that_deployed_nothing_has_nothing_to_put_back(state: str) -> None:
    task = RollBackOperator(task_id="roll_back", role=RELEASER, arguments=["roll-back", "{{ fails() }}"])
    context: Any = {"ti": Ti({"deploy": state})}
    with pytest.raises(AirflowSkipException, match="This run deployed nothing, so there is nothing to put back"):
        task.render_template_fields(context)


@pytest.mark.parametrize("state", ["failed", "success", None])
def test_else_it_runs(state: str | None) -> None:
    """Also where nobody knows: `airfreight roll-back` itself finds out whether there is something to do."""
    task = RollBackOperator(task_id="roll_back", role=RELEASER, arguments=["roll-back", "{{ ti.run_id }}"])
    context: Any = {"ti": Ti({"deploy": state} if state else {})}
    task.render_template_fields(context)
    assert task.arguments[:2] == ["roll-back", "manual__1"]


def test_the_cause_is_the_sentence_of_the_task_that_failed() -> None:
    states = {"deploy": "success", "wait_until_ready": "failed", "validate": "upstream_failed"}
    failure = {"message": "The image cannot be pulled.", "exit_code": 2}
    assert GateMacros.cause(Ti(states, {("wait_until_ready", "failure"): failure})) == "The image cannot be pulled."
    assert GateMacros.cause(Ti(states)) == "Task wait_until_ready was ended without a word; look at its log."
    assert GateMacros.cause(Ti({"deploy": "success"})) == ""


def test_what_the_wait_saw_is_passed_on_whoever_left_it() -> None:
    for left in ({"gpus": 1}, '{"gpus": 1}'):
        assert json.loads(GateMacros.ready(Ti({}, {("wait_until_ready", "return_value"): left}))) == {"gpus": 1}


CHAT = {"name": "chat", "verdict": "passed"}
EGRESS = {"name": "egress", "verdict": "passed"}
VALIDATED = {"gates": [CHAT], "ttft_s": 0.1, "tokens_per_s": 40.0, "answer": "pong from A"}
MEASURED = {"ttft_s": 0.1, "tokens_per_s": 40.0}


class Asked(Ti):
    """As its base; a task that left nothing may not be asked, for Airflow would log an error."""

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self.left[task_ids, key]


@pytest.mark.parametrize(("state", "gates"), [("success", [CHAT, EGRESS]), ("skipped", [CHAT])])
def test_the_gates_of_both_tasks_are_kept_with_the_release(state: str, gates: list[dict[str, str]]) -> None:
    left: dict[tuple[str, str], Any] = {("validate", "return_value"): VALIDATED}
    if state == "success":
        left["prove_egress", "return_value"] = {"gate": EGRESS, "lookups": ["minio.minio.svc.cluster.local"]}
    found = json.loads(GateMacros.judged(Asked({"validate": "success", "prove_egress": state}, left)))
    assert (found["gates"], found["measured"]) == (gates, MEASURED)


def test_the_gate_that_failed_is_kept_with_those_that_passed() -> None:
    failed = {**EGRESS, "verdict": "failed"}
    left: dict[tuple[str, str], Any] = {
        ("validate", "return_value"): VALIDATED,
        ("prove_egress", "failure"): {"message": "It asked for huggingface.co.", "result": {"gate": failed}},
    }
    ti = Asked({"deploy": "success", "validate": "success", "prove_egress": "failed"}, left)
    assert json.loads(GateMacros.judged(ti))["gates"] == [CHAT, failed]
    assert GateMacros.cause(ti) == "It asked for huggingface.co."


@pytest.mark.parametrize(
    ("failure", "gates"),
    [({"message": "x", "result": {"gates": [CHAT]}}, [CHAT]), ({"message": "the pod is gone"}, []), (None, [])],
    ids=["judged", "not judged", "without a word"],
)
def test_of_a_validation_that_failed_the_gates_it_judged_are_kept(failure: Any, gates: list[dict[str, str]]) -> None:
    ti = Asked({"validate": "failed", "prove_egress": "upstream_failed"}, {("validate", "failure"): failure})
    assert json.loads(GateMacros.judged(ti))["gates"] == gates


def test_a_release_that_did_not_come_up_failed_its_first_gate() -> None:
    ti = Ti({"wait_until_ready": "failed"}, {("wait_until_ready", "failure"): {"message": "no node has the GPUs."}})
    (gate,) = json.loads(GateMacros.judged(ti))["gates"]
    assert (gate["name"], gate["verdict"], gate["sentence"]) == ("startup", "failed", "no node has the GPUs.")


def test_the_egress_gate_starts_no_pod_where_the_site_does_not_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task = ProveEgressOperator(task_id="prove_egress", role=DEPLOYER, arguments=["egress", "{{ ti.run_id }}"])
    context: Any = {"ti": Ti({})}
    with pytest.raises(AirflowSkipException, match="does not want the egress gate: `egress` of its settings is off"):
        task.render_template_fields(context)
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__EGRESS", "shown")
    task.render_template_fields(context)
    assert task.arguments[:2] == ["egress", "manual__1"]


@pytest.mark.parametrize(
    ("states", "walled", "said"),
    [
        ({"validate": "skipped", "prove_egress": "skipped"}, "off", "validate of this run is skipped"),
        ({}, "off", "validate of this run is None"),
        ({"validate": "success", "prove_egress": "skipped"}, "shown", "prove_egress of this run is skipped"),
        ({"validate": "success", "prove_egress": "skipped"}, "off", ""),
        ({"validate": "success", "prove_egress": "success"}, "shown", ""),
    ],
)
def test_nothing_is_live_whose_gates_did_not_pass(
    states: dict[str, str], walled: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__EGRESS", walled)
    task = PromoteOperator(task_id="promote", role=RELEASER, arguments=["promote", "{{ ti.run_id }}"])
    ti: Any = Ti(states)
    ti.task_id, ti.xcom_push = "promote", lambda **_: None
    context: Any = {"ti": ti, "run_id": "manual__1"}
    if not said:
        task.render_template_fields(context)
        assert task.arguments[1] == "manual__1"
        return
    with pytest.raises(
        AirflowFailException, match=f"{said}, so its gates have not passed .* clear deploy and what fol"
    ):
        task.render_template_fields(context)


def test_the_steps_of_a_failed_run_are_kept() -> None:
    states = {"deploy": "success", "validate": "failed", "render": "skipped"}
    assert json.loads(GateMacros.judged(Ti(states))) == {
        "gates": [], "measured": {"ttft_s": None, "tokens_per_s": None}, "seconds": {"deploy": 1.2, "validate": 1.2},
    }  # fmt: skip
