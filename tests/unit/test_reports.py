"""The report of a run: what it says, what it reads back, and how it fails."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airfreight.manifest import Manifest, ManifestFile
from airfreight_airflow import reports

COMMIT = "41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50"
ARTIFACT = "s3://llm-models/acme/pong/41ab6c1b1c1f/"
MANIFEST = Manifest.of(
    f"hf://acme/pong@{COMMIT}", "acme/pong", COMMIT, [ManifestFile("model.safetensors", 33_554_432, sha256="71" * 32)]
)
RESOLVED = {
    "source": MANIFEST.source,
    "commit": COMMIT,
    "files": 1,
    "size_bytes": 33_554_432,
    "manifest_sha256": MANIFEST.sha256,
    "licences": None,
}
UPLOADED = {
    **{key: value for key, value in RESOLVED.items() if key != "licences"},
    "artifact": ARTIFACT,
    "moved_bytes": 33_554_432,
    "seconds": 3.2,
}
IMAGE = f"oci://registry.example/models/acme/pong@sha256:{'9' * 64}"
DEPLOYED = {
    "name": "acme-pong",
    "namespace": "models",
    "release": "9f2c41ab6c1b",
    "changed": True,
    "url": "http://acme-pong-predictor.models.svc.cluster.local",
}
GATE = {"name": "ttft", "verdict": "passed", "wanted": "<= 2 s", "found": "0.1 s", "sentence": ""}
VALIDATED = {"question": "ping", "answer": "pong | from\nA", "system_fingerprint": "vllm-1", "gates": [GATE]}
SLOWER = {"name": "load_s", "now": 61.0, "before": 48.0, "worse": 0.271, "regressed": True}
PROMOTED = {"previous": "0a1b2c3d4e5f", "stopped": False, "outage_s": 3.4, "changes": [SLOWER]}


class MemoryStore:
    """The store, in memory; what is written is kept."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def read(self, url: str) -> bytes:
        return self.objects[url]

    def write(self, url: str, text: str) -> None:
        self.objects[url] = text.encode()


@pytest.fixture
def xcoms() -> dict[str, Any]:
    return {}


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch, xcoms: dict[str, Any]) -> dict[str, bytes]:
    kept = {f"{ARTIFACT}airfreight.json": MANIFEST.canonical}
    crumbs = [
        {"task_id": "validate", "duration": 4.04, "state": "success"},
        {"task_id": "resolve", "duration": 6.12, "state": "success"},
        {"task_id": "something_else", "duration": 1.0, "state": "success"},
        {"task_id": "upload_slices", "duration": 2.0, "state": "success"},
        {"task_id": "upload_slices", "duration": 3.0, "state": "success"},
        {"task_id": "build_modelcar", "duration": 0.0, "state": "skipped"},
    ]
    left: dict[str, Any] = {}

    def xcom_pull(task_ids: str, map_indexes: Any = None) -> Any:
        assert task_ids in left, f"{task_ids} is not on this run's way: Airflow would log an error"
        return left[task_ids]

    ti = SimpleNamespace(
        left=left,
        xcom_pull=xcom_pull,
        dag_id="deliver_model",
        run_id="manual__1",
        get_task_breadcrumbs=lambda dag_id, run_id: crumbs,
        xcom_push=lambda key, value: xcoms.update({key: value}),
    )
    context = {"ti": ti, "run_id": "manual__1", "dag": SimpleNamespace(dag_id="deliver_model"), "params": {}}
    monkeypatch.setattr(reports, "get_current_context", lambda: context)
    monkeypatch.setattr(reports, "Store", lambda settings: MemoryStore(kept))
    return kept


def test_why_files_that_can_run_code_were_taken_is_kept(objects: dict[str, bytes]) -> None:
    unsafe = {"licences": ["other", "llama3"], "unsafe_files": ["a.bin"], "allow_unsafe": "our own | reviewed"}
    url = write({**UPLOADED, **unsafe}, resolve={**RESOLVED, **unsafe})["report"]
    report = json.loads(objects[url])
    assert {key: report[key] for key in unsafe} == unsafe
    page = objects[url.removesuffix("json") + "md"].decode()
    assert "| can run code | a.bin: our own \\| reviewed |" in page
    assert "| licence | other, llama3 |" in page


def test_without_such_files_nothing_is_said_of_them(objects: dict[str, bytes]) -> None:
    url = write()["report"]
    report = json.loads(objects[url])
    assert (report["unsafe_files"], report["allow_unsafe"]) == ([], None)
    assert "can run code" not in objects[url.removesuffix("json") + "md"].decode()


def write(uploaded: dict[str, Any] = UPLOADED, *, params: dict[str, Any] | None = None, **left: Any) -> dict[str, Any]:
    """Run the task for a request, with what the tasks on its way left."""
    context = reports.get_current_context()
    context["params"].update(params or {})
    deployed = {"deploy": DEPLOYED, "wait_until_ready": {"seconds": 20.0}, "validate": VALIDATED, "promote": PROMOTED}
    context["ti"].left.update({"resolve": RESOLVED, "upload_to_s3": uploaded, **deployed, **left})
    return reports.write_report()


def test_the_report_lies_beside_the_store_and_outside_every_served_prefix(objects: dict[str, bytes]) -> None:
    place = "s3://llm-models/.airfreight/reports/deliver_model/manual__1"
    assert write() == {"report": f"{place}.json", "artifact": ARTIFACT, "artifacts": [ARTIFACT]}
    assert {f"{place}.json", f"{place}.md"} <= set(objects)


def report_of(objects: dict[str, bytes]) -> tuple[dict[str, Any], str]:
    place = "s3://llm-models/.airfreight/reports/deliver_model/manual__1"
    return json.loads(objects[f"{place}.json"]), objects[f"{place}.md"].decode()


def test_both_artifacts_of_a_run_are_named_and_what_several_pods_moved_is_added_up(objects: dict[str, bytes]) -> None:
    sealed = {key: value for key, value in UPLOADED.items() if key not in ("moved_bytes", "seconds")}
    shares = [{"moved_bytes": 30_000_000, "seconds": 2.0}, {"moved_bytes": 3_554_432, "seconds": 4.0}]
    written = write(
        sealed,
        params={"destination": "both", "pods": 2},
        upload_slices=shares,
        build_slices=[None, {"moved_bytes": 7, "seconds": 1.0}],
        build_modelcar={**sealed, "artifact": IMAGE},
        smoke_test={"delivery": "oci"},
    )
    assert written["artifacts"] == [ARTIFACT, IMAGE]
    report, page = report_of(objects)
    assert (report["moved_bytes"], report["copy_seconds"], report["delivery"]) == (33_554_439, 4.0, "oci")
    assert f"| artifact | {IMAGE} |" in page
    assert "release 9f2c41ab6c1b, delivery oci |" in page
    assert report["seconds"]["upload_slices"] == 3.0, "of several pods the slowest"
    assert "build_modelcar" not in report["seconds"]


def test_what_was_staged_counts_once(objects: dict[str, bytes]) -> None:
    moved = [{"moved_bytes": 33_554_432, "seconds": 3.0}]
    write({**UPLOADED, "moved_bytes": 0}, params={"staging": "volume"}, download=moved, upload_from_volume=moved)
    assert report_of(objects)[0]["moved_bytes"] == 33_554_432


def test_an_image_alone_is_not_looked_for_in_the_bucket(objects: dict[str, bytes]) -> None:
    del objects[f"{ARTIFACT}airfreight.json"]
    image = {**UPLOADED, "artifact": IMAGE}
    assert write(params={"destination": "oci"}, build_modelcar=image, smoke_test={})["artifact"] == IMAGE
    assert report_of(objects)[0]["commit"] == COMMIT


def test_a_run_that_only_publishes_says_so(objects: dict[str, bytes]) -> None:
    rendered = {"name": "acme-pong", "namespace": "models", "release": "9f2c", "delivery": "s3", "url": "http://x"}
    write(params={"deploy": False}, render=rendered)
    report, page = report_of(objects)
    assert (report["answer"], report["url"], report["release"]) == (None, None, "9f2c")
    assert "| not deployed | rendered as acme-pong in namespace models, release 9f2c, delivery s3 |" in page
    assert "answer" not in page


def test_gates_and_what_came_before_are_told(objects: dict[str, bytes]) -> None:
    write()
    report, page = report_of(objects)
    assert (report["gates"], report["previous"], report["outage_s"]) == ([GATE], "0a1b2c3d4e5f", 3.4)
    assert "| gate ttft | passed: wanted <= 2 s, found 0.1 s |" in page
    assert "| before it | release 0a1b2c3d4e5f; nobody answered for 3 s |" in page
    assert "| worse by 27% | load_s: 61, before 48 |" in page
    assert "stopped again" not in page


def test_the_egress_gate_stands_with_the_others(objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__EGRESS", "shown")
    gate = {
        "name": "egress", "verdict": "not proven", "wanted": "nothing but the store",
        "found": "2 lookups, the policy does not bite", "sentence": "…",
    }  # fmt: skip
    write(prove_egress={"gate": gate, "lookups": []})
    report, page = report_of(objects)
    assert report["gates"] == [GATE, gate]
    assert (
        "| gate egress | not proven: wanted nothing but the store, found 2 lookups, the policy does not bite |" in page
    )


def test_a_first_release_of_a_model_that_stays_stopped(objects: dict[str, bytes]) -> None:
    write(promote={"previous": None, "stopped": True, "outage_s": 0.0, "changes": []})
    page = report_of(objects)[1]
    assert f"| address | {DEPLOYED['url']}, stopped again after its gates |" in page
    assert "before it" not in page


def test_what_it_says_of_the_artifact_is_read_back(objects: dict[str, bytes]) -> None:
    write()
    text = objects["s3://llm-models/.airfreight/reports/deliver_model/manual__1.json"].decode()
    for fact in (COMMIT, '"bytes": 33554432', '"files": 1', '"release": "9f2c41ab6c1b"', '"ready_seconds": 20.0'):
        assert fact in text
    assert text.index('"resolve": 6.1') < text.index('"validate": 4.0')
    assert "something_else" not in text


@pytest.mark.parametrize("ready", [{"seconds": 20.0}, '{"seconds": 20.0}'], ids=["from the worker", "from the trigger"])
def test_the_sensors_result_may_come_from_worker_or_trigger(objects: dict[str, bytes], ready: Any) -> None:
    write(wait_until_ready=ready)
    report = json.loads(objects["s3://llm-models/.airfreight/reports/deliver_model/manual__1.json"])
    assert report["ready_seconds"] == 20.0


def test_an_answer_cannot_break_the_table(objects: dict[str, bytes]) -> None:
    write()
    text = objects["s3://llm-models/.airfreight/reports/deliver_model/manual__1.md"].decode()
    assert "| answer | pong \\| from A |" in text
    assert "| resolve | 6.1 |" in text


def test_another_manifest_than_this_runs_is_an_error(objects: dict[str, bytes], xcoms: dict[str, Any]) -> None:
    with pytest.raises(AirflowFailException, match="somebody replaced the artifact"):
        write({**UPLOADED, "manifest_sha256": "00" * 32})
    assert xcoms["failure"]["exit_code"] == 3


def test_a_broken_manifest_is_an_error(objects: dict[str, bytes]) -> None:
    objects[f"{ARTIFACT}airfreight.json"] = b"{}"
    with pytest.raises(AirflowFailException, match="is no manifest"):
        write()


class TestStore:
    """The worker's way to S3, with a client that refuses."""

    def make(self, monkeypatch: pytest.MonkeyPatch, endpoint: str = "http://127.0.0.1:1") -> Any:
        from airfreight_airflow.settings import read_settings

        connection = (
            f'{{"conn_type": "aws", "login": "a", "password": "b", "extra": {{"endpoint_url": "{endpoint}", '
            '"region_name": "us-east-1", "config_kwargs": {"retries": {"total_max_attempts": 1}}}}'
        )
        monkeypatch.setenv("AIRFLOW_CONN_AIRFREIGHT_STORE", connection)
        return reports.Store(read_settings())

    def test_a_store_that_is_down_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from airfreight.errors import TemporaryError

        with pytest.raises(TemporaryError, match="cannot be reached with connection airfreight_store"):
            self.make(monkeypatch).read("s3://llm-models/x")

    def test_a_refusal_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from botocore.exceptions import ClientError

        from airfreight.errors import RequestError

        store = self.make(monkeypatch)

        def refuse(*args: object, **kwargs: object) -> None:
            raise ClientError({"Error": {"Code": "InvalidAccessKeyId"}}, "PutObject")

        monkeypatch.setattr(store._hook, "load_string", refuse)
        with pytest.raises(RequestError, match=r"\(InvalidAccessKeyId\): look at its keys"):
            store.write("s3://llm-models/x", "")

    def test_a_missing_connection_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from airfreight.errors import RequestError

        monkeypatch.setenv("AIRFLOW__AIRFREIGHT__STORE_CONN_ID", "nowhere")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(RequestError, match=r"connection nowhere \(no credentials\): define it, of type aws"):
            self.make(monkeypatch).read("s3://llm-models/x")


def test_errors_that_may_heal_leave_the_task_to_be_retried(
    objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, xcoms: dict[str, Any]
) -> None:
    from airfreight.errors import TemporaryError

    def down(self: object, url: str) -> bytes:
        raise TemporaryError("the store does not answer.")

    monkeypatch.setattr(MemoryStore, "read", down)
    with pytest.raises(AirflowException) as caught:
        write()
    assert not isinstance(caught.value, AirflowFailException)
    assert xcoms["failure"]["exit_code"] == 75
