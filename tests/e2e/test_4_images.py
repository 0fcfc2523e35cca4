"""Images: published from a volume by several pods, served in both ways KServe has, mirrored, built by buildah."""

from __future__ import annotations

from typing import Any

import pytest

from airfreight.airflow_api import RunSummary
from devcluster import images
from tests.e2e.conftest import Delivery
from tests.e2e.test_1_refusals import assert_one_sentence, failure

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

NAME = "pong-image"


@pytest.fixture(scope="module")
def published(delivery: Delivery, bucket: str) -> RunSummary:
    """acme/pong on a volume by two pods, from there into bucket and registry by two each; nothing is served."""
    # A place of its own: what another test published there would be found, and not sent again.
    delivery.start_airflow(AIRFLOW__AIRFREIGHT__STORE=f"s3://{bucket}/images/")
    return delivery.deliver(model="acme/pong", name=NAME, destination="both", staging="volume", pods=2, deploy=False)


def states(summary: RunSummary) -> dict[str, str | None]:
    return {row.task_id: row.state for row in summary.tasks}


def image_of(summary: RunSummary) -> str:
    return str(summary.results["build_modelcar"]["artifact"])


def test_a_volume_carries_the_model_to_both_and_is_gone(published: RunSummary, delivery: Delivery) -> None:
    assert published.state == "success", published.failure
    artifacts = published.results["report"]["artifacts"]
    assert artifacts == [published.results["upload_to_s3"]["artifact"], image_of(published)]
    assert image_of(published).startswith(f"{delivery.registry}acme/pong@sha256:")
    prefix = artifacts[0].removeprefix(f"s3://{delivery.bucket}/")
    assert f"{prefix}airfreight.json" in delivery.keys(prefix)
    by_task = states(published)
    pods = {task for task in by_task if task.startswith(("download[", "upload_from_volume[", "build_from_volume["))}
    assert len(pods) == 6
    moved = {task: int(published.results[task]["moved_bytes"]) for task in pods}
    for task in ("download", "upload_from_volume", "build_from_volume"):
        shares = [moved[f"{task}[{index}]"] for index in range(2)]
        assert all(share > 1_000_000 for share in shares), f"{task}: both pods carried their share"
    assert by_task["remove_volume"] == "success"
    assert delivery.claims("airfreight") == []


def test_without_deploying_the_service_is_rendered_and_not_made(published: RunSummary, delivery: Delivery) -> None:
    rendered = published.results["render"]["object"]
    uri = rendered["spec"]["predictor"]["model"]["storageUri"]
    assert uri.split("://")[1] == image_of(published).split("://")[1], "an image by its digest, never by a tag"
    names = [item["metadata"]["name"] for item in delivery.get("inferenceservices")["items"]]
    assert NAME not in names
    by_task = states(published)
    assert {by_task[task] for task in ("smoke_test", "deploy", "wait_until_ready", "validate")} == {"skipped"}


@pytest.mark.parametrize("delivery_mode", ["oci+native", "oci"])
def test_an_image_is_served(published: RunSummary, delivery: Delivery, delivery_mode: str) -> None:
    """No weight byte is sent again; the smoke test shows the pod before there is one."""
    summary = delivery.deliver(model="acme/pong", name=NAME, destination="oci", delivery=delivery_mode, cpu="1")
    assert summary.state == "success", summary.failure
    assert image_of(summary) == image_of(published), "streamed from the hub or from a volume: the same digest"
    assert summary.results["build_modelcar"]["moved_bytes"] == 0
    checks = summary.results["smoke_test"]["checks"]
    assert checks
    assert all(check["ok"] for check in checks), checks
    assert summary.results["deploy"]["delivery"] == delivery_mode
    assert summary.results["prove_egress"]["gate"]["verdict"] == "passed"
    service = delivery.get("inferenceservice", NAME)
    uri = service["spec"]["predictor"]["model"]["storageUri"]
    assert uri == image_of(published).replace("oci://", f"{delivery_mode}://")
    assert delivery.chat(NAME, "acme/pong") == "pong from A"


def test_the_same_again_restarts_nothing(published: RunSummary, delivery: Delivery) -> None:
    again = delivery.deliver(model="acme/pong", name=NAME, destination="oci", delivery="oci", cpu="1")
    assert again.state == "success", again.failure
    assert again.results["deploy"]["changed"] is False
    delivery.kubectl("delete", "inferenceservice", "-n", delivery.namespace, NAME)


def test_a_mirror_keeps_the_digest_of_any_image(published: RunSummary, delivery: Delivery) -> None:
    destination = f"{delivery.registry}mirrored/"
    base = f"oci://{images.public_reference(delivery.cluster, 'modelcar-base')}"
    runs = [
        (source, delivery.start("mirror_model", source=source, destination=destination))
        for source in (image_of(published), base)
    ]
    for source, run_id in runs:
        summary = delivery.finish(run_id, "mirror_model")
        assert summary.state == "success", summary.failure
        copy = summary.results["mirror"]["artifact"]
        assert copy.startswith(destination)
        assert copy.partition("@")[2] == source.partition("@")[2]
        assert summary.results["verify"]["good"] is True
    assert summary.results["mirror"]["files"] is None, "a base is no model"


def test_a_bucket_and_a_registry_mirror_each_other(published: RunSummary, delivery: Delivery) -> None:
    bucket = published.results["upload_to_s3"]["artifact"]
    to_registry = delivery.start("mirror_model", source=bucket, destination=f"{delivery.registry}from-bucket/")
    to_bucket = delivery.start(
        "mirror_model", source=image_of(published), destination=f"s3://{delivery.bucket}/from-registry/"
    )
    for run_id in (to_registry, to_bucket):
        summary = delivery.finish(run_id, "mirror_model")
        assert summary.state == "success", summary.failure
        assert summary.results["mirror"]["manifest_sha256"] == published.results["resolve"]["manifest_sha256"]
        assert summary.results["verify"]["good"] is True
    assert any(key.endswith("/airfreight.json") for key in delivery.keys("from-registry/acme/pong/"))


def test_buildah_builds_from_a_volume_of_its_own_namespace(delivery: Delivery, bucket: str) -> None:
    summary = delivery.deliver(
        model="acme/pong", revision="next", name=NAME, destination="oci", builder="buildah", deploy=False
    )
    assert summary.state == "success", summary.failure
    artifact = summary.results["build_with_buildah"]["artifact"]
    assert artifact.startswith(f"{delivery.registry}acme/pong@sha256:")
    assert summary.results["create_volume"]["namespace"] == "airfreight-build"
    assert delivery.claims("airfreight-build") == []
    verified = delivery.run("mirror_model", source=artifact, destination=f"{delivery.registry}from-buildah/")
    assert verified.state == "success", verified.failure
    assert verified.results["verify"]["good"] is True


def test_a_runtime_is_built_and_pinned(delivery: Delivery) -> None:
    """Of a small base: what is shown is the way from a Containerfile to the name of a runtime."""
    base = images.public_reference(delivery.cluster, "modelcar-base")
    containerfile = "ARG BASE\nFROM ${BASE}\nCOPY note.txt /note.txt\n"
    name = f"containerfile-{delivery.namespace}"
    delivery.kubectl(
        "create", "configmap", name, "-n", "airfreight-build",
        f"--from-literal=Containerfile={containerfile}", "--from-literal=note.txt=built by a test",
    )  # fmt: skip
    try:
        summary = delivery.run(
            "build_runtime", containerfile=name, template="vllm-cpu", namespace=delivery.namespace,
            base_args=[f"BASE={base}"], set=["VLLM_LOGGING_LEVEL=DEBUG"],
        )  # fmt: skip
    finally:
        delivery.kubectl("delete", "configmap", name, "-n", "airfreight-build")
    assert summary.state == "success", summary.failure
    pinned = summary.results["pin_runtime"]
    runtime = delivery.get("servingruntime", pinned["name"])
    [server] = runtime["spec"]["containers"]
    assert server["image"] == summary.results["build_image"]["image"] == pinned["image"]
    assert "@sha256:" in server["image"]


CONTRADICTIONS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "buildah into a bucket": ({"builder": "buildah", "destination": "s3"}, ["builder", "buildah", "destination"]),
    "an image that is not made": ({"destination": "s3", "delivery": "oci"}, ["delivery", "destination", "s3"]),
    "files that are not there": ({"destination": "oci", "delivery": "s3"}, ["delivery", "destination", "oci"]),
}


def test_fields_that_do_not_go_together_are_refused_at_once(delivery: Delivery, bucket: str) -> None:
    runs = {name: delivery.trigger(model="acme/pong", **conf) for name, (conf, _) in CONTRADICTIONS.items()}
    for name, run_id in runs.items():
        task, message, code = failure(delivery.finish(run_id))
        assert (task, code) == ("resolve", 2)
        assert_one_sentence(message)
        for word in CONTRADICTIONS[name][1]:
            assert word in message, message
