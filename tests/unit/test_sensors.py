"""The readiness sensor and its trigger against a stand-in of the Kubernetes API."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent
from structlog.testing import capture_logs

from airfreight.errors import GateError, RequestError
from airfreight_airflow.sensors import ReleaseReadySensor
from airfreight_airflow.triggers import ReleaseEvent, ReleaseReadyTrigger
from tests.unit.fake_kube import FakeKube, fake_kube

SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/acme-pong"
DEPLOYMENT = "/apis/apps/v1/namespaces/models/deployments/acme-pong-predictor"
PODS = "/api/v1/namespaces/models/pods"
EVENTS = "/api/v1/namespaces/models/events"
RELEASE = "9f2c41ab6c1b"
MARKS = {"airfreight.dev/release": RELEASE}


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKube]:
    with fake_kube() as cluster:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFREIGHT_CLUSTER", cluster.connection())
        cluster.objects[SERVICE] = service()
        cluster.objects[DEPLOYMENT] = deployment()
        cluster.objects[PODS] = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}
        yield cluster


def service(ready: str = "True", release: str = RELEASE) -> dict[str, Any]:
    return {
        "kind": "InferenceService",
        "metadata": {"name": "acme-pong", "namespace": "models", "annotations": {"airfreight.dev/release": release}},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def deployment(available: int = 1) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": "acme-pong-predictor", "namespace": "models", "generation": 1},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"annotations": MARKS}, "spec": {"containers": [{"name": "kserve-container"}]}},
        },
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": available},
    }


def crashing_pod(restarts: int) -> dict[str, Any]:
    ended = {"exitCode": 1, "reason": "Error"}
    status = {"name": "kserve-container", "image": "i", "imageID": "", "ready": False, "restartCount": restarts}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    return {
        "metadata": {"name": "acme-pong-predictor-x", "namespace": "models", "annotations": MARKS},
        "spec": {"containers": [{"name": "kserve-container"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
            "containerStatuses": [{**status, "state": waiting, "lastState": {"terminated": ended}}],
        },
    }


def make_trigger(**changes: Any) -> ReleaseReadyTrigger:
    now = time.time()
    arguments: dict[str, Any] = {
        "name": "acme-pong",
        "namespace": "models",
        "release": RELEASE,
        "cluster_conn_id": "airfreight_cluster",
        "started": now,
        "deadline": now + 60,
        "poll_s": 0.01,
    }
    return ReleaseReadyTrigger(**(arguments | changes))


def make_sensor(**kwargs: Any) -> ReleaseReadySensor:
    with DAG("deliver_model", schedule=None):
        return ReleaseReadySensor(
            task_id="wait_until_ready",
            release_name="acme-pong",
            release_namespace="models",
            release=RELEASE,
            **kwargs,
        )


def make_context() -> Any:
    xcoms: dict[str, Any] = {}
    return {"ti": SimpleNamespace(xcoms=xcoms, xcom_push=lambda key, value: xcoms.update({key: value}))}


def fire(trigger: ReleaseReadyTrigger) -> TriggerEvent:
    async def first() -> TriggerEvent:
        return await anext(trigger.run())

    return asyncio.run(asyncio.wait_for(first(), timeout=60))


def failure_of(event: TriggerEvent) -> ReleaseEvent:
    return ReleaseEvent.from_event(json.loads(json.dumps(event.payload)))


def test_a_trigger_survives_its_serialisation() -> None:
    trigger = make_trigger(started=1.0, deadline=2.0)
    path, arguments = trigger.serialize()
    assert path == "airfreight_airflow.triggers.ReleaseReadyTrigger"
    assert arguments == {
        "name": "acme-pong",
        "namespace": "models",
        "release": RELEASE,
        "cluster_conn_id": "airfreight_cluster",
        "started": 1.0,
        "deadline": 2.0,
        "poll_s": 0.01,
    }
    assert ReleaseReadyTrigger(**json.loads(json.dumps(arguments))).serialize() == (path, arguments)


def test_an_event_survives_its_serialisation() -> None:
    event = ReleaseEvent.of(GateError("acme-pong: it crashed."))
    assert event == ReleaseEvent(4, "acme-pong: it crashed.")
    assert failure_of(event.to_event()) == event


def test_a_ready_release_ends_the_task_with_its_seconds(kube: FakeKube) -> None:
    event = fire(make_trigger(started=time.time() - 30))
    assert isinstance(event, TaskSuccessEvent)
    result: Any = (event.xcoms or {})["return_value"]
    assert result["name"] == "acme-pong"
    assert result["release"] == RELEASE
    assert result["seconds"] >= 30


def test_an_autoscaler_is_heard_while_a_pod_has_no_node(kube: FakeKube) -> None:
    lost = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    pod = {
        "metadata": {"name": "acme-pong-predictor-x", "namespace": "models", "uid": "u", "annotations": MARKS},
        "spec": {"containers": [{"name": "kserve-container"}]},
        "status": {"phase": "Pending", "conditions": [lost]},
    }
    kube.objects[DEPLOYMENT] = deployment(available=0)
    kube.objects[PODS] = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod]}
    failure = failure_of(fire(make_trigger()))
    assert failure.exit_code == 2 and "no node fits for its pod (0/1 nodes are available" in failure.message
    about = {"kind": "Pod", "name": "acme-pong-predictor-x", "namespace": "models", "uid": "u"}
    event = {"metadata": {"name": "e", "namespace": "models"}, "involvedObject": about, "reason": "TriggeredScaleUp"}
    kube.objects[EVENTS] = {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": [event]}
    failure = failure_of(fire(make_trigger(deadline=time.time())))
    assert failure.exit_code == 4 and "the cluster is adding a node for it; look at its pods" in failure.message


def test_what_is_waited_for_is_logged_once_per_change(kube: FakeKube) -> None:
    kube.objects[DEPLOYMENT] = 404

    async def watch() -> TriggerEvent:
        run = asyncio.create_task(anext(make_trigger().run()))  # type: ignore[arg-type]
        while kube.calls.count(f"GET {DEPLOYMENT}") < 4:
            await asyncio.sleep(0.01)
        kube.objects[DEPLOYMENT] = deployment()
        event: TriggerEvent = await run
        return event

    with capture_logs() as logs:
        event = asyncio.run(asyncio.wait_for(watch(), timeout=60))

    assert isinstance(event, TaskSuccessEvent)
    lines = [entry["event"] for entry in logs]
    assert len([line for line in lines if "has not made the Deployment yet" in line]) == 1
    assert "acme-pong is ready after" in lines[-1]


def test_a_crash_fails_early_with_the_servers_last_words(kube: FakeKube) -> None:
    kube.objects[DEPLOYMENT] = deployment(available=0)
    kube.objects[PODS]["items"] = [crashing_pod(restarts=3)]
    kube.pods["acme-pong-predictor-x"] = {"metadata": {"name": "acme-pong-predictor-x"}}
    kube.log = "loading\nValueError: head size 16 is not supported\n"

    lost = failure_of(fire(make_trigger()))

    assert lost.exit_code == 4
    assert "head size 16 is not supported" in lost.message


def test_a_deleted_service_fails_at_once(kube: FakeKube) -> None:
    kube.objects[SERVICE] = 404
    lost = failure_of(fire(make_trigger()))
    assert lost.exit_code == 2
    assert "gone" in lost.message


def test_time_that_is_up_names_what_was_seen_last(kube: FakeKube) -> None:
    kube.objects[SERVICE] = service(ready="False")
    now = time.time()
    lost = failure_of(fire(make_trigger(started=now - 1800, deadline=now)))
    assert lost.exit_code == 4
    assert lost.message.startswith("acme-pong was not ready within 30 min; last seen: acme-pong: the pods are up")


def test_a_cluster_that_forbids_reading_fails_at_once(kube: FakeKube) -> None:
    kube.objects[SERVICE] = 403
    lost = failure_of(fire(make_trigger()))
    assert lost.exit_code == 2
    assert "connection airfreight_cluster" in lost.message
    assert "include/kubernetes" in lost.message


def hang() -> int:
    time.sleep(0.5)
    return 500


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (500, "the cluster answered 500"),
        ("<html>502 Bad Gateway</html>", "the cluster does not answer ("),
        (hang, "the cluster does not answer (TimeoutError)"),
    ],
)
def test_a_cluster_that_does_not_answer_is_waited_for(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch, answer: Any, reason: str
) -> None:
    if answer is hang:
        monkeypatch.setattr("airfreight_airflow.looks.OBJECTS_S", 0.2)
    kube.objects[SERVICE if answer == 500 else PODS] = answer
    trigger = make_trigger(deadline=time.time() + 3600)

    async def watch() -> TriggerEvent:
        run = asyncio.create_task(anext(trigger.run()))  # type: ignore[arg-type]
        while kube.calls.count(f"GET {SERVICE}") < 3:
            await asyncio.sleep(0.01)
        trigger.deadline = 0.0
        event: TriggerEvent = await run
        return event

    lost = failure_of(asyncio.run(asyncio.wait_for(watch(), timeout=60)))
    assert lost.exit_code == 4 and reason in lost.message


def test_a_release_that_is_live_needs_no_trigger(kube: FakeKube) -> None:
    result = make_sensor().execute(make_context())
    facts = {"gpus": 0, "node": None, "timings": {}}
    assert result == {"name": "acme-pong", "namespace": "models", "release": RELEASE, "seconds": 0.0, **facts}


def test_the_sensor_defers_with_its_own_deadline(kube: FakeKube) -> None:
    kube.objects[DEPLOYMENT] = 404
    with pytest.raises(TaskDeferred) as deferred:
        make_sensor(ready_timeout=timedelta(minutes=10)).execute(make_context())
    trigger: Any = deferred.value.trigger
    assert trigger.deadline - trigger.started == pytest.approx(600)
    assert deferred.value.timeout == timedelta(minutes=12), "Airflow's own time-out comes later and is never seen"


def test_the_sensor_fails_at_once_on_what_cannot_heal(kube: FakeKube) -> None:
    kube.objects[SERVICE] = service(release="000000000000")
    context = make_context()
    with pytest.raises(AirflowFailException, match="another deploy replaced this one"):
        make_sensor().execute(context)
    assert context["ti"].xcoms["failure"]["exit_code"] == 2


def test_a_missing_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__CLUSTER_CONN_ID", "nowhere")
    with pytest.raises(AirflowFailException, match="There is no connection nowhere"):
        make_sensor().execute(make_context())


@pytest.mark.parametrize(("code", "final"), [(2, True), (4, True), (75, False)])
def test_the_triggers_verdict_decides_about_a_retry(code: int, final: bool) -> None:
    context = make_context()
    with pytest.raises(AirflowException, match="no such image") as caught:
        make_sensor().end_early(context, {"exit_code": code, "message": "no such image"})
    assert isinstance(caught.value, AirflowFailException) is final
    assert context["ti"].xcoms["failure"]["exit_code"] == code


def test_a_request_error_keeps_its_kind() -> None:
    assert ReleaseEvent.of(RequestError("x")).exit_code == 2
