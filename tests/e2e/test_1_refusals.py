"""What a user can get wrong, through the REST API.

The right task fails, the sentence says what to change, nothing half-done is visible. This file comes first: its first
test wants the store's bucket to be missing still.
"""

from __future__ import annotations

from typing import Any

import pytest

from airfreight.airflow_api import RunSummary
from devcluster import addons, tenant
from tests.e2e.conftest import Delivery

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    # name: what is sent, and what the sentence must hold
    "unknown key": ({"model": "acme/pong", "gpu": 2}, ["gpu", "gpus"]),
    "malformed repo id": ({"model": "acme//pong"}, ["acme//pong", "owner/name"]),
    "missing revision": ({"model": "acme/pong", "revision": "v9"}, ["acme/pong", "v9"]),
    "missing model": ({"model": "acme/absent"}, ["acme/absent"]),
    "gated without token": ({"model": "acme/pong-gated"}, ["gated", "token", "airfreight-hub"]),
    "empty repository": ({"model": "acme/empty"}, ["acme/empty", "no"]),
    "pickle": ({"model": "acme/pickle"}, ["pytorch_model.bin", "safetensors"]),
}


def failure(summary: RunSummary) -> tuple[str, str, int | None]:
    """Task, sentence and exit code of a run that failed."""
    assert summary.state == "failed", summary
    assert summary.failure is not None
    found = summary.failure
    return found["task_id"], found["message"], found["exit_code"]


def assert_one_sentence(message: str) -> None:
    assert message.strip() and "\n" not in message.strip()
    assert "Traceback" not in message
    assert len(message) < 700


def test_missing_bucket(delivery: Delivery) -> None:
    assert delivery.keys() == {}
    task, message, code = failure(delivery.deliver(model="acme/pong"))
    assert (task, code) == ("resolve", 2)
    assert_one_sentence(message)
    assert delivery.bucket in message
    assert "bucket" in message.lower()


@pytest.fixture(scope="module")
def refused(delivery: Delivery, bucket: str) -> dict[str, RunSummary]:
    """All wrong requests at once: they wait for the same few things."""
    runs = {name: delivery.trigger(**conf) for name, (conf, _) in WRONG.items()}
    return {name: delivery.finish(run_id) for name, run_id in runs.items()}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_request(delivery: Delivery, refused: dict[str, RunSummary], name: str) -> None:
    _, words = WRONG[name]
    task, message, code = failure(refused[name])
    assert (task, code) == ("resolve", 2)
    assert_one_sentence(message)
    for word in words:
        assert word in message, message
    assert delivery.keys() == {}
    by_task = {row.task_id: row for row in refused[name].tasks}
    assert by_task["resolve"].try_number == 1, "a wrong request is not tried again"


def test_unknown_key_starts_no_pod(refused: dict[str, RunSummary]) -> None:
    seconds = {row.task_id: row.seconds for row in refused["unknown key"].tasks}
    assert refused["unknown key"].results == {}
    assert seconds["resolve"] is not None


def test_wrong_store_credentials(delivery: Delivery, bucket: str) -> None:
    delivery.put_store_secret("not-the-password")
    try:
        task, message, code = failure(delivery.deliver(model="acme/pong"))
    finally:
        delivery.put_store_secret(addons.credentials(delivery.cluster)["store_password"])
    assert (task, code) == ("resolve", 2)
    assert_one_sentence(message)
    assert "airfreight-store" in message
    assert "not-the-password" not in message
    assert delivery.keys("acme/") == {}


def test_gated_with_token_and_a_namespace_without_rights(delivery: Delivery, bucket: str) -> None:
    """Two in one run: the token of a Secret opens the gated model, and without rights the deploy is refused."""
    summary = delivery.deliver(model="acme/pong-gated", hub_secret=tenant.TOKEN_SECRET, namespace=delivery.locked)
    copied = summary.results["upload_to_s3"]
    assert copied["moved_bytes"] == copied["size_bytes"] > 1_000_000
    prefix = copied["artifact"].removeprefix(f"s3://{delivery.bucket}/")
    assert f"{prefix}airfreight.json" in delivery.keys(prefix)
    task, message, code = failure(summary)
    assert (task, code) == ("deploy", 2)
    assert_one_sentence(message)
    assert delivery.locked in message
    assert "include/kubernetes" in message
    assert delivery.get("inferenceservices", namespace=delivery.locked)["items"] == []


def test_hub_down(delivery: Delivery, bucket: str) -> None:
    """A hub that does not answer is tried again, and then the sentence names it."""
    delivery.kubectl("scale", "deployment/hub", "-n", "hub", "--replicas=0")
    try:
        delivery.kubectl("wait", "--for=delete", "pod", "-n", "hub", "-l", "app=hub", "--timeout=300s")
        summary = delivery.deliver(model="acme/pong")
    finally:
        delivery.kubectl("scale", "deployment/hub", "-n", "hub", "--replicas=1")
        delivery.kubectl("rollout", "status", "-n", "hub", "deployment/hub", "--timeout=300s")
    task, message, code = failure(summary)
    assert (task, code) == ("resolve", 75)
    assert_one_sentence(message)
    assert delivery.cluster.hub_service_url in message
    assert {row.task_id: row for row in summary.tasks}["resolve"].try_number == 3
    assert delivery.keys("acme/pong/") == {}
