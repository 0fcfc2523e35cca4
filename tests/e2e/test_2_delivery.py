"""The chain: hub to MinIO to KServe to an answer, by a real DAG run, a real cluster and a real vLLM.

The tests build on each other, as a person's deliveries do: first, the same again, the next version.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from airfreight.airflow_api import RunSummary
from devcluster import addons
from tests.e2e.conftest import Delivery
from tests.e2e.test_1_refusals import assert_one_sentence, failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME = "pong"


@pytest.fixture(scope="module")
def first(delivery: Delivery, bucket: str) -> RunSummary:
    """The first delivery of acme/pong, under a name of its own."""
    return delivery.deliver(model="acme/pong", name=NAME, cpu="1")


def pods(delivery: Delivery) -> list[dict[str, Any]]:
    found = delivery.get("pods", selector=f"serving.kserve.io/inferenceservice={NAME}")["items"]
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def test_the_run_succeeds_and_the_model_answers(first: RunSummary, delivery: Delivery) -> None:
    assert first.state == "success", first.failure
    assert first.results["validate"]["answer"] == "pong from A"
    assert first.results["validate"]["system_fingerprint"].startswith("vllm-")
    assert delivery.chat(NAME, "acme/pong") == "pong from A"


def test_the_store_holds_exactly_what_the_manifest_says(first: RunSummary, delivery: Delivery) -> None:
    artifact = first.results["upload_to_s3"]["artifact"]
    commit = first.results["resolve"]["commit"]
    assert artifact == f"s3://{delivery.bucket}/acme/pong/{commit[:12]}/"
    prefix = artifact.removeprefix(f"s3://{delivery.bucket}/")
    manifest = json.loads(delivery.read(f"{prefix}airfreight.json"))
    listed = {f"{prefix}{file['path']}": file["size"] for file in manifest["files"]}
    found = delivery.keys(prefix)
    assert {key: size for key, size in found.items() if not key.endswith("/airfreight.json")} == listed
    with_sha256 = [file for file in manifest["files"] if "sha256" in file]
    assert len(with_sha256) == 4, "the four shards carry their sha256"
    for file in with_sha256:
        assert hashlib.sha256(delivery.read(f"{prefix}{file['path']}")).hexdigest() == file["sha256"]


def test_what_is_served_is_pinned_and_has_no_token(first: RunSummary, delivery: Delivery) -> None:
    service = delivery.get("inferenceservice", NAME)
    model = service["spec"]["predictor"]["model"]
    assert model["storageUri"] == first.results["upload_to_s3"]["artifact"]
    assert service["spec"]["predictor"]["annotations"]["airfreight.dev/release"] == first.results["deploy"]["release"]
    [pod] = pods(delivery)
    server = next(c for c in pod["spec"]["containers"] if c["name"] == "kserve-container")
    assert "@sha256:" in server["image"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert server["securityContext"]["readOnlyRootFilesystem"] is True
    environment = {variable["name"]: variable.get("value") for variable in server["env"]}
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_the_report_lies_beside_the_store(first: RunSummary, delivery: Delivery) -> None:
    place = first.results["report"]["report"].removeprefix(f"s3://{delivery.bucket}/")
    report = json.loads(delivery.read(place))
    assert report["answer"] == "pong from A"
    assert report["source"] == first.results["resolve"]["source"]
    assert place.startswith(".airfreight/")


def test_the_same_again_moves_and_restarts_nothing(first: RunSummary, delivery: Delivery) -> None:
    before = {pod["metadata"]["uid"] for pod in pods(delivery)}
    again = delivery.deliver(model="acme/pong", name=NAME, cpu="1")
    assert again.state == "success", again.failure
    assert again.results["upload_to_s3"]["moved_bytes"] == 0
    assert again.results["deploy"]["changed"] is False
    assert again.results["deploy"]["release"] == first.results["deploy"]["release"]
    assert {pod["metadata"]["uid"] for pod in pods(delivery)} == before


def test_the_next_version_replaces_the_answer(first: RunSummary, delivery: Delivery) -> None:
    bumped = delivery.deliver(model="acme/pong", revision="next", name=NAME, cpu="1")
    assert bumped.state == "success", bumped.failure
    assert bumped.results["validate"]["answer"] == "pong from B"
    assert delivery.chat(NAME, "acme/pong") == "pong from B"
    assert bumped.results["resolve"]["commit"] != first.results["resolve"]["commit"]
    assert f"acme/pong/{first.results['resolve']['version']}/airfreight.json" in delivery.keys("acme/pong/"), (
        "the version before is still there"
    )


def test_a_model_that_loads_and_cannot_chat_fails_the_gate(delivery: Delivery, bucket: str) -> None:
    # Makes room for the next model server.
    delivery.kubectl("delete", "inferenceservice", "-n", delivery.namespace, NAME, "--ignore-not-found")
    task, message, code = failure(delivery.deliver(model="acme/cannot-chat", name="mute", cpu="1"))
    # The startup probe chats, so that no user reaches such a pod: as a rule the wait ends before `validate` begins.
    assert task in ("wait_until_ready", "validate")
    assert code == 4
    assert_one_sentence(message)
    assert "chat" in message
    names = [item["metadata"]["name"] for item in delivery.get("inferenceservices")["items"]]
    assert "mute" not in names, "a first release that failed is removed"


def test_no_secret_is_in_rendered_fields_logs_or_xcom(first: RunSummary, delivery: Delivery) -> None:
    """Airflow's home holds its database (rendered fields, XCom) and every task's log: no secret is in any."""
    secrets = {name: addons.credentials(delivery.cluster)[name].encode() for name in ("store_password", "hub_token")}
    searched = 0
    for path in delivery.home.rglob("*"):
        if path.is_file() and path.name not in ("environment.json", "passwords.json", "keys.json"):
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # Airflow is at work: a journal of its database, say
                continue
            searched += len(content)
            for name, value in secrets.items():
                assert value not in content, f"{name} is in {path}"
    assert searched > 100_000, "the database and the logs were there to be searched"
