"""The triggers of a window against a stand-in of the Kubernetes API: what they see, and what they refuse to believe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from structlog.testing import capture_logs

from airfreight_airflow.windows_events import Kind, WindowEvent
from airfreight_airflow.windows_triggers import ModelTrigger, ServingTrigger, StoppedTrigger, WatchTrigger
from tests.unit.serving_kube import DEPLOYMENT, METRICS, PODS, SERVICE, Model, after, page, serving_kube

COMMON: dict[str, Any] = {"name": "pong", "namespace": "models", "cluster_conn_id": "airfreight_cluster"}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    with serving_kube() as one:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFREIGHT_CLUSTER", one.kube.connection())
        yield one


def watch(closes_in: float | None = 600.0, idle_after_s: float | None = None, **more: Any) -> WatchTrigger:
    closes = None if closes_in is None else time.time() + closes_in
    return WatchTrigger(closes=closes, idle_after_s=idle_after_s, poll_s=0.02, **COMMON, **more)


def fire(trigger: ModelTrigger) -> WindowEvent:
    async def first() -> Any:
        return (await anext(trigger.run())).payload

    return WindowEvent.from_event(asyncio.run(asyncio.wait_for(first(), 30)))


def said(trigger: ModelTrigger) -> tuple[WindowEvent, list[str]]:
    with capture_logs() as logs:
        event = fire(trigger)
    return event, [entry["event"] % tuple(entry.get("positional_args", ())) for entry in logs]


def looks(trigger: WatchTrigger, count: int = 5) -> list[str]:
    """What it says at so many looks, none of which ends the window. Counted, not timed: a busy machine may be slow."""

    async def look() -> list[WindowEvent | str]:
        hook, found = AsyncKubernetesHook(conn_id=COMMON["cluster_conn_id"]), list[WindowEvent | str]()
        for _ in range(count):
            found.append(await trigger.look(hook))
            await asyncio.sleep(0.05)
        return found

    found = asyncio.run(asyncio.wait_for(look(), 60))
    assert not [one for one in found if isinstance(one, WindowEvent)], found
    return [one for one in found if isinstance(one, str)]


def test_serialize_makes_the_same_trigger_again() -> None:
    watching = watch(idle_after_s=30.0, idle_not_before=3.0, again_at=4.0, give_up_s=5.0)
    for one in (watching, ServingTrigger(deadline=9.0, **COMMON), StoppedTrigger(deadline=9.0, **COMMON)):
        path, arguments = one.serialize()
        assert path == f"airfreight_airflow.windows_triggers.{type(one).__name__}"
        again = type(one)(**arguments)
        assert again.serialize() == (path, arguments)


# ---- until it is over --------------------------------------------------------------------------------------------


def test_idle_ends_it_with_its_evidence(model: Model) -> None:
    event = fire(watch(idle_after_s=0.2))
    assert event.kind is Kind.IDLE
    assert event.evidence == {"uid-x/0": [5.0, 35.0, 45.0]}


def test_idleness_before_the_opening_ends_nothing_until_then(model: Model) -> None:
    watching = watch(idle_after_s=0.05, idle_not_before=time.time() + 3600.0)
    assert set(looks(watching)) == {"idle"}
    watching.idle_not_before = time.time()
    event = fire(watching)
    assert event.kind is Kind.IDLE and event.at >= watching.idle_not_before


def test_its_terms_are_asked_for_again_when_it_is_time(model: Model) -> None:
    again = time.time() + 0.3
    event = fire(watch(closes_in=None, again_at=again))
    assert event.kind is Kind.AGAIN and event.at >= again


def test_work_keeps_it_open_until_its_closing(model: Model) -> None:
    model.page = page(running=1)
    assert set(looks(watch(idle_after_s=0.05))) == {"busy: pong-predictor-x has 1 running, 0 waiting"}


def test_requests_between_two_looks_keep_it_open(model: Model) -> None:
    finished = [0]

    def answered() -> str:
        finished[0] += 1
        return page(finished=finished[0])

    model.page = answered
    lines = looks(watch(idle_after_s=0.02))
    assert lines[0] == "idle" and all(line.startswith("busy: ") for line in lines[1:]), lines


def test_what_it_sees_is_in_the_log(model: Model) -> None:
    asked = [0]

    def third_time_stopped() -> str:
        asked[0] += 1
        model.stopped = asked[0] > 2
        return page(running=1)

    model.page = third_time_stopped
    event, lines = said(watch())
    assert event.kind is Kind.STOPPED and lines == ["pong: busy: pong-predictor-x has 1 running, 0 waiting"]


def test_hours_alone_are_not_ended_by_idleness(model: Model) -> None:
    assert looks(watch())[-1] == "idle; its hours keep it open"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (503, "its metrics answer 503"),
        (403, "give this service account get on pods/proxy"),
        ("<html>502 Bad Gateway</html>", "its metrics are something else"),
        (page().replace("running{engine", "running{x").replace("} 0", "} NaN", 1), "is NaN"),
        (page(model="acme/ping"), "its metrics speak of the model acme/ping, not of pong"),
        ("", "its metrics have no vllm:num_requests_running"),
    ],
)
def test_what_cannot_be_seen_is_said_and_stops_nothing(model: Model, answer: Any, reason: str) -> None:
    model.page = answer
    lines = looks(watch(idle_after_s=0.05))
    assert all(line.startswith("cannot see, not stopping: ") and reason in line for line in lines), lines


def test_metrics_that_hang_stop_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airfreight_airflow.windows_looks.PAGE_S", 0.1)

    def hang() -> str:
        time.sleep(0.5)
        return page()

    model.page = hang
    lines = looks(watch(idle_after_s=0.05))
    assert all("no whole answer within 0 s" in line for line in lines), lines


def hang() -> int:
    time.sleep(0.5)
    return 500


def hang_up() -> int:
    raise ConnectionAbortedError


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (500, "the cluster answered 500 Internal Server Error"),
        (hang, "the cluster does not answer (TimeoutError)"),
        (hang_up, "the cluster does not answer (Server disconnected)"),
        ("<html>502 Bad Gateway</html>", "the cluster does not answer ("),
    ],
)
def test_a_cluster_that_is_away_stops_nothing(
    model: Model, monkeypatch: pytest.MonkeyPatch, answer: Any, reason: str
) -> None:
    if answer is hang:  # on a busy machine any other answer takes longer than that, too
        monkeypatch.setattr("airfreight_airflow.looks.OBJECTS_S", 0.2)
    model.kube.objects[PODS] = answer
    lines = looks(watch(idle_after_s=0.05))
    assert all(line.startswith(f"cannot see, not stopping: {reason}") for line in lines), lines


def test_rights_that_are_missing_stop_nothing(model: Model) -> None:
    model.kube.objects[SERVICE] = 403
    lines = looks(watch(idle_after_s=0.05))
    assert all("refuses to be read in namespace models (403" in line for line in lines), lines


def test_a_model_stopped_by_somebody_else_ends_it(model: Model) -> None:
    model.stopped, model.manager = True, "argocd-controller"
    event = fire(watch())
    assert (event.kind, event.sentence, event.ours) == (
        Kind.STOPPED, "pong was stopped by field manager argocd-controller.", False,
    )  # fmt: skip
    model.manager = "airfreight-power"
    assert fire(watch()).ours


def test_a_model_that_was_deleted_ends_it(model: Model) -> None:
    model.exists = False
    assert fire(watch()).kind is Kind.GONE


def test_a_model_that_never_became_ready_is_given_up(model: Model) -> None:
    model.ready = False
    assert fire(watch(give_up_s=0.2)).kind is Kind.NEVER_READY
    model.ready = True
    assert looks(watch(give_up_s=0.02))[-1] == "idle; its hours keep it open"


@pytest.mark.parametrize("first", ["the cluster is away", "it is not ready"])
def test_what_a_new_triggerer_cannot_see_at_once_is_not_given_up(model: Model, first: str) -> None:
    """Its window may be hours old, and somebody may use the model though its ping failed."""
    if first == "it is not ready":
        model.ready = False
    before = model.kube.objects[PODS]
    if first == "the cluster is away":
        model.kube.objects[PODS] = 500
    watching = watch(closes_in=2.5, give_up_s=1.0)

    async def first_look_then_ready() -> WindowEvent:
        hook = AsyncKubernetesHook(conn_id=COMMON["cluster_conn_id"])
        said = [await watching.look(hook)]
        model.ready, model.kube.objects[PODS] = True, before
        while not isinstance(said[-1], WindowEvent):
            await asyncio.sleep(0.1)
            said.append(await watching.look(hook))
        return said[-1]

    assert asyncio.run(asyncio.wait_for(first_look_then_ready(), 30)).kind is Kind.CLOSING


# ---- until it serves, until it is down ---------------------------------------------------------------------------


def test_it_serves_whichever_release_it_carries(model: Model) -> None:
    model.kube.objects[DEPLOYMENT] = after(2, 404, model.kube.objects[DEPLOYMENT]())
    assert fire(ServingTrigger(deadline=time.time() + 20, poll_s=0.02, **COMMON)).kind is Kind.SERVING


def test_a_fight_over_the_annotation_is_named(model: Model) -> None:
    model.stopped, model.manager = True, "argocd-controller"
    event = fire(ServingTrigger(deadline=time.time() + 20, **COMMON))
    assert (event.kind, event.exit_code) == (Kind.LOST, 2)
    assert "Airfreight started pong in namespace models, and field manager argocd-controller wrote" in event.sentence
    assert "docs/windows.md" in event.sentence
    model.stopped = False
    event = fire(StoppedTrigger(deadline=time.time() + 20, **COMMON))
    assert "Airfreight stopped pong in namespace models, and field manager argocd-controller wrote" in event.sentence


def test_a_model_that_does_not_come_up_in_time_says_what_was_seen(model: Model) -> None:
    model.ready = False
    event = fire(ServingTrigger(deadline=time.time() + 0.2, poll_s=0.02, **COMMON))
    assert event.exit_code == 4 and "last seen: pong: 0 of 1 pods of this release are up" in event.sentence


def test_down_means_that_no_pod_is_left(model: Model) -> None:
    model.stopped = True
    event = fire(StoppedTrigger(deadline=time.time() + 0.3, poll_s=0.02, **COMMON))
    assert (
        event.exit_code == 75 and "1 pods are still there: pong-predictor-x): its GPUs are still held" in event.sentence
    )
    model.pods = 0
    assert fire(StoppedTrigger(deadline=time.time() + 20, **COMMON)).kind is Kind.DOWN


def test_a_model_that_was_started_again_by_us_is_no_fight(model: Model) -> None:
    assert fire(StoppedTrigger(deadline=time.time() + 20, **COMMON)).sentence == "pong was started again meanwhile."


def test_the_page_is_asked_of_the_api_server_and_never_of_the_pod(model: Model) -> None:
    fire(watch(idle_after_s=0.1))
    asked = [call.replace("%3A", ":") for call in model.kube.calls]
    assert f"GET {METRICS}" in asked
