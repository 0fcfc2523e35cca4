"""The volume of a run: its size and name, how it is made and removed, and what is said when it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airfreight_airflow import volumes
from airfreight_airflow.settings import read_settings
from airfreight_airflow.staging import CreateVolumeOperator, RemoveVolumeOperator
from tests.unit.fake_kube import FakeKube, fake_kube

RUN = "manual__2026-11-22T16:11:00+00:00"
GIB = 1024**3
PLACE = f"/api/v1/namespaces/airfreight/persistentvolumeclaims/{volumes.claim_name('deliver_model', RUN)}"


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKube]:
    with fake_kube() as cluster:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFREIGHT_CLUSTER", cluster.connection())
        yield cluster


def context(**params: Any) -> tuple[Any, dict[str, Any]]:
    xcoms: dict[str, Any] = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: xcoms.update({key: value}))
    dag = SimpleNamespace(dag_id="deliver_model")
    return {"ti": ti, "run_id": RUN, "dag": dag, "params": {"staging": "volume", **params}}, xcoms


def create(size: Any = 2 * GIB, largest: Any = GIB, **params: Any) -> dict[str, str]:
    with DAG("deliver_model", schedule=None):
        operator = CreateVolumeOperator(task_id="create_volume", size_bytes=size, largest_bytes=largest)
    return operator.execute(context(**params)[0])


def remove(**params: Any) -> dict[str, str]:
    with DAG("deliver_model", schedule=None):
        operator = RemoveVolumeOperator(task_id="remove_volume")
    return operator.execute(context(**params)[0])


def fail(**params: Any) -> tuple[AirflowException, dict[str, Any]]:
    with DAG("deliver_model", schedule=None):
        operator = CreateVolumeOperator(task_id="create_volume", size_bytes=GIB, largest_bytes=GIB)
    given, xcoms = context(**params)
    with pytest.raises(AirflowException) as caught:
        operator.execute(given)
    return caught.value, xcoms["failure"]


def test_a_volume_holds_the_model_and_what_a_file_system_keeps() -> None:
    assert volumes.volume_bytes(0, 0, "stream") == 256 * volumes.MIB
    assert volumes.volume_bytes(100 * GIB, 5 * GIB, "stream") == 110 * GIB + 256 * volumes.MIB
    # buildah writes three times the largest file beside it
    assert volumes.volume_bytes(100 * GIB, 5 * GIB, "buildah") == pytest.approx(126.75 * GIB, abs=volumes.MIB)


def test_a_runs_volume_has_a_name_of_its_own() -> None:
    name = volumes.claim_name("deliver_model", RUN)
    assert name == volumes.claim_name("deliver_model", RUN) != volumes.claim_name("deliver_model", RUN + "x")
    assert len(name) < 63


def test_the_volume_is_labelled_with_its_run_and_as_the_site_says(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__STORAGE_CLASS", "fast")
    result = create()
    [claim] = kube.made_claims
    assert result == {"volume": claim["metadata"]["name"], "namespace": "airfreight", "size": "2509Mi"}
    assert list(kube.claims) == [PLACE]
    labels = claim["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "airfreight"
    assert labels["airfreight.dev/run"].startswith("manual__2026-11-22")
    assert ":" not in labels["airfreight.dev/run"]
    assert claim["metadata"]["annotations"] == {"airfreight.dev/run": RUN}
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"] == {"storage": "2509Mi"}


def test_without_a_storage_class_the_clusters_default_is_taken(kube: FakeKube) -> None:
    create()
    assert "storageClassName" not in kube.made_claims[0]["spec"]


def test_for_buildah_it_lies_where_buildah_runs(kube: FakeKube) -> None:
    buildah = {"builder": "buildah", "destination": "oci"}
    assert create(**buildah)["namespace"] == "airfreight-build"
    assert remove(**buildah)["namespace"] == "airfreight-build"
    assert kube.claims == {}


def test_a_retry_takes_the_volume_of_the_try_before(kube: FakeKube) -> None:
    assert create() == create()
    assert len(kube.made_claims) == 1


def test_a_result_without_the_largest_file_is_taken_for_one_file(kube: FakeKube) -> None:
    assert create(GIB, None)["size"] == create(GIB, GIB)["size"]


def test_a_volume_that_is_being_removed_is_waited_for(kube: FakeKube) -> None:
    create()
    kube.claims[PLACE]["metadata"]["deletionTimestamp"] = "2026-11-22T16:12:00Z"
    error, failure = fail()
    assert not isinstance(error, AirflowFailException)
    assert failure["exit_code"] == 75
    assert "still being removed: a pod that mounts it has to end first" in str(error)


def test_a_volume_of_somebody_else_is_not_taken(kube: FakeKube) -> None:
    create()
    kube.claims[PLACE]["metadata"]["annotations"] = {}
    error, _ = fail()
    assert isinstance(error, AirflowFailException)
    assert "which is not this run's" in str(error)


def test_a_volume_that_became_too_small_is_named(kube: FakeKube) -> None:
    create(1, 1)
    error, _ = fail()
    assert "has 257 MiB and 1383 MiB are needed now: remove it, then clear create_volume." in str(error)


@pytest.mark.parametrize(
    ("code", "said", "sentence"),
    [
        (403, "exceeded quota: storage", "has no room for the volume of this run (exceeded quota: storage): raise its"),
        (403, 'cannot create resource "persistentvolumeclaims"', "apply the roles of include/kubernetes."),
        (404, 'namespaces "airfreight" not found', "look at namespace airfreight, at `storage_class`"),
        (422, "spec.accessModes: Unsupported value", "does not take the volume of this run (spec.accessModes"),
    ],
)
def test_a_volume_that_is_refused_is_not_tried_again(kube: FakeKube, code: int, said: str, sentence: str) -> None:
    kube.refuse_claim = (code, said)
    error, failure = fail()
    assert isinstance(error, AirflowFailException)
    assert sentence in str(error)
    assert "\n" not in str(error)
    assert failure["exit_code"] == 2


def test_a_cluster_that_hiccups_is_asked_again(kube: FakeKube) -> None:
    kube.refuse_claim = (500, "etcdserver: request timed out")
    error, _ = fail()
    assert not isinstance(error, AirflowFailException)
    assert "answered 500 (etcdserver: request timed out)" in str(error)


def test_a_missing_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__CLUSTER_CONN_ID", "nowhere")
    error, _ = fail()
    assert isinstance(error, AirflowFailException)
    assert "The cluster of connection nowhere cannot be reached" in str(error)


def test_the_volume_is_removed_and_once_is_enough(kube: FakeKube) -> None:
    made = create()
    assert remove()["volume"] == made["volume"]
    assert kube.claims == {}
    assert remove()["volume"] == made["volume"]


def test_what_a_claim_asks_for_is_read_in_bytes() -> None:
    claim = volumes.claim("deliver_model", RUN, 300 * volumes.MIB, read_settings())
    assert volumes.requested_bytes(claim) == 300 * volumes.MIB
    claim.spec.resources.requests = {}
    assert volumes.requested_bytes(claim) == 0
