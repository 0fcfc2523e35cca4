"""What becomes of a candidate: the plan for each case, what is adopted, what it cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.errors import RequestError
from airfreight.ledger_rules import Found
from airfreight.promotion import (
    Cost,
    Plan,
    adopted,
    after_failure,
    as_applied,
    down_since,
    exposure,
    foreign_fields,
    outage_of_change,
    to_release,
)

A, B, C = "a" * 12, "b" * 12, "c" * 12
NOW = datetime(2026, 11, 22, 19, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(
    ("found", "carried", "keep", "plan"),
    [
        (Found(True, False, A), B, False, Plan(restore=A, wait=True, reject=B)),
        (Found(True, True, A), B, False, Plan(stop=True, restore=A, reject=B)),
        (Found(True, False, A), A, False, Plan(restore=A, wait=True, reject=B)),
        (Found(True, False, A), None, False, Plan(restore=A, wait=True, reject=B)),
        (Found(False, False, None), B, False, Plan(remove=True, reject=B)),
        (Found(False, False, None), B, True, Plan(stop=True, reject=B)),
        (Found(False, False, A), B, False, Plan(remove=True, reject=B)),
        (Found(True, False, B), B, False, Plan()),
        (Found(True, True, B), B, False, Plan(stop=True)),
    ],
    ids=[
        "running",
        "stopped",
        "never staged",
        "no id",
        "first",
        "first, kept",
        "deleted before",
        "live again",
        "live, stopped",
    ],
)
def test_after_a_failure(found: Found, carried: str | None, keep: bool, plan: Plan) -> None:
    assert after_failure(B, found, carried, exists=True, keep=keep) == plan


def test_what_is_not_there_is_neither_stopped_nor_removed() -> None:
    assert after_failure(B, Found(), None, exists=False, keep=True) == Plan(reject=B)
    assert after_failure(B, Found(), None, exists=False, keep=False) == Plan(reject=B)


FOUND = st.builds(Found, existed=st.booleans(), stopped=st.booleans(), live=st.sampled_from([None, A, B]))


@given(FOUND, st.sampled_from([None, A, B, C]), st.booleans(), st.booleans())
def test_whatever_was_found(found: Found, carried: str | None, exists: bool, keep: bool) -> None:
    try:
        plan = after_failure(B, found, carried, exists=exists, keep=keep)
    except RequestError as error:
        assert exists and carried not in (None, B, found.live), error
        return
    assert not (plan.remove and plan.restore), "what is put back is not removed"
    assert not (plan.stop and plan.wait), "what is stopped is not waited for"
    assert not plan.remove or not found.existed, "what was there before is never removed"
    assert plan.restore != B and plan.reject != found.live, "a candidate is not put back, what is live not rejected"
    if exists and found.existed:
        assert plan.stop == found.stopped, "it ends as it was found"


def test_what_somebody_else_put_there_is_not_ours_to_replace() -> None:
    with pytest.raises(RequestError, match=f"carries release {C}, which this run did not put there, and nothing was"):
        after_failure(B, Found(True, False, A), C, exists=True, keep=False)


def test_on_request_a_stopped_model_stays_stopped() -> None:
    assert to_release(A, stopped=True) == Plan(stop=True, restore=A)
    assert to_release(A, stopped=False) == Plan(restore=A, wait=True)


# ---- objects -----------------------------------------------------------------------------------------------------


def service(**notes: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "pong", "namespace": "models", "uid": "1", "resourceVersion": "9", "generation": 3,
            "annotations": {"serving.kserve.io/stop": "true", "airfreight.dev/source": "hf://acme/pong@1", **notes},
            "managedFields": [{"manager": "airfreight", "time": ago(100)}],
        },
        "spec": {"predictor": {"model": {
            "runtime": "r", "storageUri": "s3://b/p/",
            "args": ["--served-model-name=one", "--served-model-name=acme/pong"],
        }}},
        "status": {"url": "http://x"},
    }  # fmt: skip


def test_an_object_is_kept_as_one_would_apply_it() -> None:
    kept = as_applied(service(**{"kubectl.kubernetes.io/last-applied-configuration": "{}"}))
    assert set(kept) == {"apiVersion", "kind", "metadata", "spec"}
    assert kept["metadata"] == {
        "name": "pong", "namespace": "models", "annotations": {"airfreight.dev/source": "hf://acme/pong@1"},
    }, "no power state, no server's fields"  # fmt: skip


def test_what_is_served_already_becomes_a_release() -> None:
    made = adopted(service(**{"airfreight.dev/release": A}), None)
    assert (made.release, made.artifact, made.source) == (A, "s3://b/p/", "hf://acme/pong@1")
    assert (made.served_name, made.runtime, made.adopted) == ("acme/pong", "r", True)


def test_without_an_id_it_gets_one_that_it_carries_when_it_is_put_back() -> None:
    made = adopted(service(), {"kind": "ServingRuntime", "metadata": {"name": "r", "uid": "2"}, "spec": {}})
    assert len(made.release) == 12 and made.release == adopted(service(), None).release
    assert made.inference_service["spec"]["predictor"]["annotations"] == {"airfreight.dev/release": made.release}
    assert made.serving_runtime == {"kind": "ServingRuntime", "metadata": {"name": "r", "annotations": {}}, "spec": {}}


def test_who_set_what() -> None:
    fields = {
        "f:metadata": {"f:annotations": {"f:x": {}}},
        "f:spec": {
            "f:predictor": {"f:tolerations": {}, "f:model": {"f:env": {'k:{"name":"A"}': {".": {}, "f:value": {}}}}}
        },
    }
    live = {"metadata": {"managedFields": [
        {"manager": "jane", "fieldsV1": fields},
        {"manager": "manager", "subresource": "status", "fieldsV1": {"f:spec": {"f:x": {}}}},
        {"manager": "airfreight", "fieldsV1": fields},
        {"manager": "kubectl-annotate", "fieldsV1": {"f:metadata": {}}},
    ]}}  # fmt: skip
    assert foreign_fields(live) == {
        "jane": ['.spec.predictor.model.env[{"name":"A"}].value', ".spec.predictor.tolerations"]
    }


# ---- what it cost ------------------------------------------------------------------------------------------------


def pod(release: str, ready_s: float | None) -> dict[str, Any]:
    conditions = [] if ready_s is None else [{"type": "Ready", "status": "True", "lastTransitionTime": ago(ready_s)}]
    return {"metadata": {"annotations": {"airfreight.dev/release": release}}, "status": {"conditions": conditions}}


def deployment(strategy: str, available: str, since: float) -> dict[str, Any]:
    condition = {"type": "Available", "status": available, "lastTransitionTime": ago(since)}
    return {"spec": {"strategy": {"type": strategy}}, "status": {"conditions": [condition]}}


def test_exposure_is_of_the_candidate_alone() -> None:
    assert exposure([pod(B, 30), pod(B, 12), pod(A, 500), pod(B, None)], B, NOW) == 30.0
    assert exposure([pod(B, None)], B, NOW) == 0.0


def test_a_replacement_is_an_outage_and_a_rolling_update_is_none() -> None:
    live = service()
    ready = NOW - timedelta(seconds=40)
    assert outage_of_change(live, deployment("Recreate", "True", 40), ready) == 60.0
    assert outage_of_change(live, deployment("RollingUpdate", "True", 40), ready) == 0.0
    assert outage_of_change(live, deployment("Recreate", "False", 90), None) == 0.0, "it was never over"
    assert outage_of_change(live, None, ready) == 0.0


def test_since_when_nobody_answers() -> None:
    assert down_since(service(), deployment("Recreate", "True", 5)) is None
    assert down_since(service(), deployment("Recreate", "False", 90)) == NOW - timedelta(seconds=100), (
        "from the change on"
    )
    assert down_since(service(), deployment("Recreate", "False", 300)) == NOW - timedelta(seconds=300)
    assert down_since(service(), None) == NOW - timedelta(seconds=100)
    assert down_since(None, None) is None


def test_the_story() -> None:
    assert Cost(12.4, 0).story() == "users reached the candidate for 12 s, and nobody for 0 s"
