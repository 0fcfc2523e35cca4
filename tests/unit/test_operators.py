"""The house operator against a stand-in of the Kubernetes API; nothing of Airflow's operator is patched."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    DownstreamTasksSkipped,
)
from structlog.testing import capture_logs

from airfreight_airflow.macros import RequestMacros
from airfreight_airflow.operators import (
    BUILDER,
    DEPLOYER,
    DOWNLOADER,
    IMAGE_BUILDER,
    PUBLISHER,
    READ,
    VALIDATOR,
    WRITE,
    AirfreightPodOperator,
    Role,
    spelled,
    switched,
)
from airfreight_airflow.resolving import ResolveOperator
from tests.unit.fake_kube import FakeKube, fake_kube

# kubernetes' WSClient.close() closes its socket only if the server did not speak of closing first, and leaves it to the
# collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

PARAMS = {"model": "acme/pong", "gpus": 0, "hub_secret": ""}


class TaskInstance(SimpleNamespace):
    """As much of a task instance as an operator touches."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


class StateStore(dict[str, Any]):
    """Airflow's task state store."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKube]:
    with fake_kube() as cluster:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFREIGHT_CLUSTER", cluster.connection())
        monkeypatch.setenv("AIRFLOW__AIRFREIGHT__IMAGE", "registry:5000/airfreight-worker:test")
        yield cluster


@pytest.fixture(scope="module", autouse=True)
def no_socket_outlives_this_module() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def make_operator(role: Role = PUBLISHER, **kwargs: Any) -> AirfreightPodOperator:
    with DAG("deliver_model", schedule=None, params=PARAMS, user_defined_macros={"airfreight": RequestMacros}):
        return AirfreightPodOperator(
            task_id="upload_to_s3", role=role, arguments=["copy", "hf://acme/pong@main", "s3://llm-models/"], **kwargs
        )


def make_context(
    operator: AirfreightPodOperator, conf: dict[str, Any] | None = None, params: dict[str, Any] | None = None
) -> Any:
    ti = TaskInstance(dag_id="deliver_model", task_id="upload_to_s3", map_index=-1, try_number=1, xcoms={})
    return {
        "ti": ti,
        "run_id": "manual__2026-11-22T16:11:00+00:00",
        "dag": operator.dag,
        "dag_run": SimpleNamespace(conf=conf or {}),
        "params": {**PARAMS, **(conf or {}), **(params or {})},
        "task_state_store": StateStore(),
    }


def run(operator: AirfreightPodOperator, conf: dict[str, Any] | None = None) -> tuple[Any, TaskInstance]:
    context = make_context(operator, conf)
    return operator.execute(context), context["ti"]


def fail(
    operator: AirfreightPodOperator, conf: dict[str, Any] | None = None
) -> tuple[AirflowException, dict[str, Any]]:
    context = make_context(operator, conf)
    with pytest.raises(AirflowException) as caught:
        operator.execute(context)
    return caught.value, context["ti"].xcoms["failure"]


def env_of(pod: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in pod["spec"]["containers"][0]["env"]}


def test_a_pod_that_ends_well_gives_its_result(kube: FakeKube) -> None:
    kube.result = {"artifact": "s3://llm-models/acme/pong/41ab/", "moved_bytes": 7}

    result, _ = run(make_operator())

    assert result == kube.result
    assert kube.pods == {}, "the pod is deleted, its log is in Airflow"


def test_the_pods_log_is_the_tasks_log(kube: FakeKube) -> None:
    with capture_logs() as logs:
        run(make_operator())
    assert "copying model.safetensors" in [entry["event"].strip() for entry in logs]


def test_a_result_longer_than_one_small_frame_arrives_whole(kube: FakeKube) -> None:
    kube.result = {"answer": "pong " * 2000}
    result, _ = run(make_operator())
    assert result == kube.result


@pytest.mark.parametrize("code", [2, 3, 4])
def test_exit_codes_that_cannot_heal_are_never_retried(kube: FakeKube, code: int) -> None:
    kube.exit_code, kube.message = code, "hf://acme/pnog@main does not exist: look at the name.\n"

    error, failure = fail(make_operator())

    assert isinstance(error, AirflowFailException)
    assert str(error) == "hf://acme/pnog@main does not exist: look at the name."
    assert failure["exit_code"] == code
    assert failure["message"] == str(error)
    assert kube.pods == {}


@pytest.mark.parametrize("code", [75, 1, 143])
def test_other_exit_codes_are_retried(kube: FakeKube, code: int) -> None:
    kube.exit_code, kube.message = code, "The hub answered 503: try again."

    error, failure = fail(make_operator())

    assert not isinstance(error, AirflowFailException)
    assert str(error) == "The hub answered 503: try again."
    assert failure["exit_code"] == 75


def test_of_a_log_that_stands_in_for_the_message_only_the_last_line_is_shown(kube: FakeKube) -> None:
    kube.exit_code, kube.message = 1, 'Traceback\n  File "x"\nairfreight: Unexpected KeyError: x\n'
    error, _ = fail(make_operator())
    assert str(error) == "Unexpected KeyError: x"


def test_a_pod_killed_for_its_memory_says_so(kube: FakeKube) -> None:
    kube.exit_code, kube.reason = 137, "OOMKilled"
    error, _ = fail(make_operator())
    assert "more memory than its limit" in str(error)
    assert not isinstance(error, AirflowFailException)


def test_a_failed_pod_is_not_asked_for_a_result(kube: FakeKube) -> None:
    kube.exit_code, kube.message = 2, "no"
    fail(make_operator())
    assert not [call for call in kube.calls if call.endswith("/exec")]


def test_success_without_a_result_is_an_error(kube: FakeKube) -> None:
    kube.result = None
    error, _ = fail(make_operator())
    assert "wrote no result" in str(error)


def test_an_unknown_key_is_refused_before_any_pod(kube: FakeKube) -> None:
    error, failure = fail(make_operator(), {"gpu": 1})

    assert isinstance(error, AirflowFailException)
    assert str(error).startswith('unknown key "gpu" in conf: did you mean "gpus"?')
    assert failure["exit_code"] == 2
    assert kube.calls == []


def test_no_image_is_refused_before_any_pod(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__AIRFREIGHT__IMAGE")
    error, _ = fail(make_operator())
    assert "AIRFLOW__AIRFREIGHT__IMAGE" in str(error)
    assert kube.created == []


def test_a_request_that_cannot_be_rendered_fails_with_its_sentence(kube: FakeKube) -> None:
    operator = make_operator()
    operator.arguments = ["resolve", "{{ airfreight.source(params) }}"]
    context = make_context(operator, {"model": "not a model"})

    with pytest.raises(AirflowFailException, match="is malformed: give owner/name"):
        operator.render_template_fields(context)

    assert context["ti"].xcoms["failure"]["exit_code"] == 2


def test_what_a_command_measured_that_failed_a_gate_goes_with_its_sentence(kube: FakeKube) -> None:
    gates = [{"name": "ttft", "verdict": "failed"}]
    kube.exit_code, kube.message, kube.result = 4, "It took 3 s.", {"gates": gates}
    error, failure = fail(make_operator())
    assert isinstance(error, AirflowFailException) and str(error) == "It took 3 s."
    assert failure == {"exit_code": 4, "kind": "GateError", "message": "It took 3 s.", "result": {"gates": gates}}


@pytest.mark.parametrize(("code", "result"), [(2, {"gates": []}), (4, None)], ids=["no gate", "nothing written"])
def test_else_the_sentence_stands_alone(kube: FakeKube, code: int, result: dict[str, Any] | None) -> None:
    kube.exit_code, kube.message, kube.result = code, "No.", result
    _, failure = fail(make_operator())
    assert "result" not in failure and failure["message"] == "No."


def test_the_pod_is_restricted(kube: FakeKube) -> None:
    run(make_operator())
    spec = kube.created[0]["spec"]

    assert spec["securityContext"] == {
        "fsGroup": 1000,
        "runAsGroup": 1000,
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in spec["containers"]:
        assert container["image"] == "registry:5000/airfreight-worker:test", container["name"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }, container["name"]
        for kind in ("requests", "limits"):
            assert set(container["resources"][kind]) == {"cpu", "memory"}, container["name"]
    assert [container["name"] for container in spec["containers"]] == ["base", "airflow-xcom-sidecar"]
    assert {"name": "tmp", "mountPath": "/tmp"} in spec["containers"][0]["volumeMounts"]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] > 0


@pytest.mark.parametrize("role", [PUBLISHER, DEPLOYER, VALIDATOR])
def test_the_sites_cas_reach_every_pod(kube: FakeKube, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__CA_BUNDLE_CONFIGMAP", "corporate-cas")
    run(make_operator(role))
    spec = kube.created[0]["spec"]
    volume = next(volume for volume in spec["volumes"] if "configMap" in volume)
    assert volume["configMap"] == {"name": "corporate-cas", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    mount = {"name": volume["name"], "mountPath": "/etc/airfreight/ca", "readOnly": True}
    assert mount in spec["containers"][0]["volumeMounts"]
    env = env_of(kube.created[0])
    for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        assert env[name] == "/etc/airfreight/ca/ca.crt"


def test_without_cas_of_its_own_a_site_trusts_the_public_ones(kube: FakeKube) -> None:
    run(make_operator())
    assert not [volume for volume in kube.created[0]["spec"]["volumes"] if "configMap" in volume]
    assert not {"SSL_CERT_FILE", "AWS_CA_BUNDLE"} & env_of(kube.created[0]).keys()


def test_every_try_of_a_copy_holds_leases_under_one_name(kube: FakeKube) -> None:
    for _ in range(2):
        run(make_operator(PUBLISHER))
    owners = {env_of(pod)["AIRFREIGHT_OWNER"] for pod in kube.created}
    assert owners == {"deliver_model/manual__2026-11-22T16:11:00+00:00/upload_to_s3/-1"}
    run(make_operator(VALIDATOR))
    assert "AIRFREIGHT_OWNER" not in env_of(kube.created[-1])


def test_denied_licences_reach_who_publishes(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__LICENCE_DENY", "cc-by-nc-*,unknown")
    for role in (PUBLISHER, VALIDATOR):
        run(make_operator(role))
    told = [env_of(pod).get("AIRFREIGHT_LICENCE_DENY") for pod in kube.created]
    assert told == ["cc-by-nc-*,unknown", None]


def test_the_command_is_ours_and_its_result_is_asked_for(kube: FakeKube) -> None:
    run(make_operator())
    base = kube.created[0]["spec"]["containers"][0]
    assert base["command"] == ["airfreight"]
    assert base["args"] == ["copy", "hf://acme/pong@main", "s3://llm-models/", "--result", "/airflow/xcom/return.json"]
    assert base["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert env_of(kube.created[0])["AIRFREIGHT_TERMINATION_LOG"] == "/dev/termination-log"


def test_labels_are_valid_whatever_the_run_is_called(kube: FakeKube) -> None:
    run(make_operator())
    labels = kube.created[0]["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "airfreight"
    for value in labels.values():
        assert len(value) <= 63
        assert ":" not in value
        assert "+" not in value


@pytest.mark.parametrize(
    ("role", "account", "token"),
    [
        (PUBLISHER, "airfreight-publisher", False),
        (DEPLOYER, "airfreight-deployer", True),
        (VALIDATOR, "airfreight-validator", False),
    ],
    ids=["publisher", "deployer", "validator"],
)
def test_only_the_deployer_has_a_token(kube: FakeKube, role: Role, account: str, token: bool) -> None:
    run(make_operator(role))
    spec = kube.created[0]["spec"]
    assert spec["serviceAccountName"] == account
    assert spec["automountServiceAccountToken"] is token


def test_a_publisher_gets_secrets_by_reference_only(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__STORE_ENDPOINT", "http://minio.minio.svc:9000")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__HUB_ENDPOINT", "http://hub.hub.svc")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__HTTPS_PROXY", "http://10.0.0.1:3128")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__NO_PROXY", ".svc, 10.0.0.0/8")
    run(make_operator(PUBLISHER))
    env = env_of(kube.created[0])

    assert env["AWS_ENDPOINT_URL"] == "http://minio.minio.svc:9000"
    assert env["HF_ENDPOINT"] == "http://hub.hub.svc"
    assert env["HTTPS_PROXY"] == "http://10.0.0.1:3128"
    assert env["NO_PROXY"] == ".svc,10.0.0.0/8,minio.minio.svc"
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert env[key] == {"secretKeyRef": {"name": "airfreight-store", "key": key, "optional": False}}
    assert env["HF_TOKEN"] == {"secretKeyRef": {"name": "airfreight-hub", "key": "token", "optional": True}}


@pytest.mark.parametrize("role", [DEPLOYER, VALIDATOR], ids=["deployer", "validator"])
def test_nobody_else_gets_secrets_or_the_proxy(kube: FakeKube, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__HTTPS_PROXY", "http://10.0.0.1:3128")
    run(make_operator(role))
    assert set(env_of(kube.created[0])) == {"AIRFREIGHT_TERMINATION_LOG", "PYTHONUNBUFFERED", "HOME", "HF_HOME"}


def test_a_hub_secret_named_by_the_request_must_exist(kube: FakeKube) -> None:
    operator = make_operator()
    operator.execute(make_context(operator, {"hub_secret": "team-a-hub"}))
    reference = env_of(kube.created[0])["HF_TOKEN"]["secretKeyRef"]
    assert reference == {"name": "team-a-hub", "key": "token", "optional": False}


def test_a_missing_secret_ends_the_wait_at_once(kube: FakeKube) -> None:
    message = 'secret "airfreight-store" not found'
    kube.base_state = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}

    error, _ = fail(make_operator())

    assert isinstance(error, AirflowFailException)
    assert message in str(error)
    assert kube.pods == {}


def test_an_image_that_cannot_be_pulled_names_the_setting(kube: FakeKube) -> None:
    kube.base_state = {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}
    error, _ = fail(make_operator())
    assert isinstance(error, AirflowFailException)
    assert "manifest unknown" in str(error)
    assert "`image` in section [airfreight]" in str(error)


def test_a_pod_without_a_node_says_what_the_scheduler_said(kube: FakeKube) -> None:
    kube.conditions = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu"}
    ]
    operator = make_operator()
    operator.schedule_timeout_seconds = 0

    error, _ = fail(operator)

    assert not isinstance(error, AirflowFailException)
    assert "Insufficient cpu" in str(error)
    assert kube.pods == {}


def test_a_lost_pod_is_retried(kube: FakeKube) -> None:
    kube.lose_pods = True
    error, _ = fail(make_operator())
    assert not isinstance(error, AirflowFailException)
    assert "The pod is gone" in str(error)


def test_a_cluster_that_forbids_pods_names_the_roles(kube: FakeKube) -> None:
    kube.refuse_create = (403, 'pods is forbidden: User "x" cannot create resource "pods"')
    error, _ = fail(make_operator())
    assert isinstance(error, AirflowFailException)
    assert "include/kubernetes" in str(error)
    assert "cannot create resource" in str(error)


def test_a_missing_namespace_is_named(kube: FakeKube) -> None:
    kube.refuse_create = (404, 'namespaces "airfreight" not found')
    error, _ = fail(make_operator())
    assert isinstance(error, AirflowFailException)
    assert "has no namespace airfreight for our pods" in str(error)


def test_a_missing_connection_is_named(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__CLUSTER_CONN_ID", "nowhere")
    error, _ = fail(make_operator())
    assert isinstance(error, AirflowFailException)
    assert "connection nowhere" in str(error)
    assert "of type kubernetes" in str(error)


def test_a_task_out_of_time_deletes_its_pod_and_is_retried(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_time(self: object, pod: object) -> None:
        raise AirflowTaskTimeout("Timeout")

    monkeypatch.setattr(AirfreightPodOperator, "await_pod_completion", out_of_time)
    kube.base_state = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    error, failure = fail(make_operator())
    assert str(error) == "upload_to_s3 took longer than 0:15:00 and was stopped."
    assert failure["exit_code"] == 75
    assert kube.pods == {}


def test_a_pod_the_cluster_evicted_is_retried_with_its_reason(kube: FakeKube) -> None:
    kube.pod_status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    error, _ = fail(make_operator())
    assert not isinstance(error, AirflowFailException)
    assert "ended the pod of upload_to_s3 (Evicted: The node was low on resource: memory.)" in str(error)


def test_a_token_pasted_for_a_secrets_name_is_refused_and_not_repeated(kube: FakeKube) -> None:
    error, _ = fail(make_operator(), {"hub_secret": "hf_AbCdEf"})
    assert isinstance(error, AirflowFailException)
    assert "is no name of a Secret" in str(error)
    assert "hf_AbCdEf" not in str(error)
    assert kube.created == []


def test_marking_a_task_as_failed_deletes_its_pod(kube: FakeKube) -> None:
    operator = make_operator()
    context = make_context(operator)
    operator.settle(_settings(), "")
    operator.pod = operator.get_or_create_pod(operator.build_pod_request_obj(context), context)
    assert len(kube.pods) == 1

    operator.on_kill()

    assert kube.pods == {}


def test_a_retry_finds_the_pod_of_a_worker_that_died(kube: FakeKube) -> None:
    operator, context = make_operator(), make_context(make_operator())
    operator.settle(_settings(), "")
    operator.get_or_create_pod(operator.build_pod_request_obj(context), context)

    second = make_operator()
    result = second.execute(context)

    assert result == {"ok": True}
    assert len(kube.created) == 1, "no second pod"


def volumes_of(pod: dict[str, Any]) -> dict[str, Any]:
    return {volume.pop("name"): volume for volume in [dict(volume) for volume in pod["spec"]["volumes"]]}


def mounts_of(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["mountPath"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}


STAGED = {"staging": "volume"}


@pytest.mark.parametrize(("use", "read_only"), [(WRITE, None), (READ, True)])
def test_the_runs_volume_is_mounted(kube: FakeKube, use: str, read_only: bool | None) -> None:
    operator = make_operator(volume=use)
    operator.execute(make_context(operator, params=STAGED))
    [pod] = kube.created
    claim = volumes_of(pod)["staging"]["persistentVolumeClaim"]["claimName"]
    assert claim.startswith("airfreight-")
    assert (mounts_of(pod)["/staging"].get("readOnly") or None) == read_only
    assert pod["metadata"]["labels"]["airfreight.dev/volume"] == claim
    assert pod["metadata"]["namespace"] == "airfreight"


def test_a_volume_of_one_node_keeps_the_pods_of_a_run_together(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = make_operator(volume=READ)
    operator.execute(make_context(operator, params=STAGED))
    [term] = kube.created[0]["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    label = {"airfreight.dev/volume": kube.created[0]["metadata"]["labels"]["airfreight.dev/volume"]}
    assert term["labelSelector"]["matchLabels"] == label
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__VOLUME_ACCESS", "ReadWriteMany")
    operator = make_operator(volume=READ)
    operator.execute(make_context(operator, params=STAGED))
    assert not kube.created[1]["spec"].get("affinity")


def test_a_run_without_a_volume_mounts_none(kube: FakeKube) -> None:
    run(make_operator(volume=READ))
    assert "/staging" not in mounts_of(kube.created[0])
    assert "airfreight.dev/volume" not in kube.created[0]["metadata"]["labels"]


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A site that can build, and a request that makes it."""
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__BUILDER_IMAGE", "registry:5000/airfreight-builder:test")
    return {"builder": "buildah", "destination": "oci"}


def test_buildah_runs_as_root_of_its_own_with_ten_capabilities_and_no_privilege(
    kube: FakeKube, builder: dict[str, str]
) -> None:
    operator = make_operator(BUILDER, volume=READ)
    operator.execute(make_context(operator, params=builder))
    [pod] = kube.created
    spec = pod["spec"]
    base, sidecar = spec["containers"]
    assert pod["metadata"]["namespace"] == "airfreight-build"
    assert spec["serviceAccountName"] == "airfreight-builder"
    assert spec["automountServiceAccountToken"] is False
    assert base["image"] == "registry:5000/airfreight-builder:test"
    assert sidecar["image"] == "registry:5000/airfreight-worker:test"
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["seccompProfile"]) == (
        0,
        {"type": "RuntimeDefault"},
    )
    assert base["securityContext"]["allowPrivilegeEscalation"] is False
    assert base["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert set(base["securityContext"]["capabilities"]["add"]) == {
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID"),
        *("SETUID", "SETPCAP", "SETFCAP", "SYS_CHROOT", "MKNOD"),
    }
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    # What buildah writes lies on the run's volume, and the model on it is only read.
    assert mounts_of(pod)["/build"] == {"name": "staging", "mountPath": "/build", "subPath": ".build"}
    assert mounts_of(pod)["/staging"]["readOnly"] is True
    assert env_of(pod)["TMPDIR"] == "/build"
    assert not {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY"} & env_of(pod).keys()


def test_what_fills_the_volume_for_buildah_runs_beside_it(kube: FakeKube, builder: dict[str, str]) -> None:
    operator = make_operator(PUBLISHER, volume=WRITE)
    operator.execute(make_context(operator, params=builder))
    [pod] = kube.created
    assert pod["metadata"]["namespace"] == "airfreight-build"
    assert pod["spec"]["serviceAccountName"] == "airfreight-publisher"
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["image"] == "registry:5000/airfreight-worker:test"


def test_what_only_downloads_gets_the_hubs_token_and_no_key_of_the_store(kube: FakeKube) -> None:
    operator = make_operator(DOWNLOADER, volume=WRITE)
    operator.execute(make_context(operator, params=STAGED))
    env = env_of(kube.created[0])
    assert "HF_TOKEN" in env
    assert "AIRFREIGHT_OWNER" in env
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AIRFREIGHT_LEDGER", "DOCKER_CONFIG"} & env.keys()


def test_commands_of_a_containerfile_may_make_a_user_namespace(kube: FakeKube, builder: dict[str, str]) -> None:
    run(make_operator(IMAGE_BUILDER))
    assert "seccompProfile" not in kube.created[0]["spec"]["securityContext"]


def test_without_a_run_volume_buildah_writes_to_the_node(kube: FakeKube, builder: dict[str, str]) -> None:
    operator = make_operator(IMAGE_BUILDER, context_configmap="our-vllm")
    operator.execute(make_context(operator))
    [pod] = kube.created
    assert volumes_of(pod)["build"] == {"emptyDir": {}}
    assert volumes_of(pod)["context"] == {"configMap": {"name": "our-vllm"}}
    assert mounts_of(pod)["/context"]["readOnly"] is True


def test_a_site_without_a_builder_image_cannot_build(kube: FakeKube) -> None:
    error, _ = fail(make_operator(BUILDER))
    assert isinstance(error, AirflowFailException)
    assert "No builder image is configured" in str(error)
    assert kube.created == []


@pytest.mark.parametrize("role", [PUBLISHER, BUILDER, DEPLOYER, VALIDATOR], ids=lambda role: role.service_account)
def test_the_registrys_login_reaches_who_talks_to_it(
    kube: FakeKube, monkeypatch: pytest.MonkeyPatch, builder: dict[str, str], role: Role
) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__REGISTRY_SECRET", "registry-login")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__PLAIN_HTTP_REGISTRIES", "registry:5000")
    run(make_operator(role))
    [pod] = kube.created
    env = env_of(pod)
    if role in (PUBLISHER, BUILDER):
        assert env["DOCKER_CONFIG"] == "/etc/airfreight/registry"
        assert volumes_of(pod)["registry-login"] == {
            "secret": {
                "secretName": "registry-login",
                "items": [{"key": ".dockerconfigjson", "path": "config.json"}],
            }
        }
        assert mounts_of(pod)["/etc/airfreight/registry"]["readOnly"] is True
    else:
        assert "DOCKER_CONFIG" not in env
        assert "registry-login" not in volumes_of(pod)
    assert env.get("AIRFREIGHT_PLAIN_HTTP") == (None if role is VALIDATOR else "registry:5000")
    assert env.get("AIRFREIGHT_LEDGER") == ("s3://llm-models/" if role is PUBLISHER else None)


def test_neither_store_nor_registry_is_behind_the_hubs_proxy(kube: FakeKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__HTTPS_PROXY", "http://10.0.0.1:3128")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__REGISTRY", "oci://registry.internal:5000/models/")
    run(make_operator(PUBLISHER))
    assert env_of(kube.created[0])["NO_PROXY"] == "registry.internal:5000"


def test_options_without_a_value_are_left_out_and_lines_repeat_an_option() -> None:
    words = [
        "resolve",
        "hf://a/b",
        "--store",
        "s3://a/\noci://b/",
        "--base",
        "",
        "--allow",
        "*.json\n*.txt",
        "--x",
        None,
    ]
    assert spelled(words, ["--store"]) == [
        *("resolve", "hf://a/b", "--store", "s3://a/", "--store", "oci://b/"),
        *("--allow", "*.json\n*.txt"),
    ]


def test_what_a_person_wrote_is_no_option() -> None:
    assert spelled(["validate", "--question", "--help"]) == ["validate", "--question=--help"]


def test_a_share_becomes_a_slice_and_flags_come_last(kube: FakeKube) -> None:
    run(make_operator(share="2/8", flags=["--offline"]))
    run(make_operator())
    first, second = (pod["spec"]["containers"][0]["args"] for pod in kube.created)
    assert first[-5:] == ["--slice", "2/8", "--result", "/airflow/xcom/return.json", "--offline"]
    assert "--slice" not in second


def make_resolve(**kwargs: Any) -> ResolveOperator:
    tasks = ("upload_to_s3", "build_modelcar", "report")
    with DAG("deliver_model", schedule=None, params=PARAMS):
        resolve = ResolveOperator(task_id="resolve", role=PUBLISHER, arguments=["resolve", "hf://acme/pong"], **kwargs)
        for task_id in tasks:
            resolve >> EmptyOperator(task_id=task_id)
    return resolve


def skipped_by(operator: ResolveOperator, kube: FakeKube, **params: Any) -> tuple[list[str], TaskInstance]:
    kube.result = {"source": "hf://acme/pong@41ab", "size_bytes": 7}
    context = make_context(operator, params=params)
    with pytest.raises(DownstreamTasksSkipped) as caught:
        operator.execute(context)
    return list(caught.value.tasks), context["ti"]


def test_resolve_skips_what_the_request_does_not_need_and_leaves_its_result(kube: FakeKube) -> None:
    skipped, ti = skipped_by(make_resolve(off_the_way=lambda params: ["build_modelcar"]), kube)
    assert skipped == ["build_modelcar"]
    assert ti.xcoms["source"] == "hf://acme/pong@41ab"
    assert ti.xcoms["size_bytes"] == 7
    assert ti.xcoms["return_value"] == kube.result
    assert make_resolve().inherits_from_skipmixin, "cleared tasks are skipped again"


def test_after_a_dry_run_everything_is_skipped(kube: FakeKube) -> None:
    with capture_logs() as logs:
        skipped, _ = skipped_by(make_resolve(), kube, dry_run=True)
    assert skipped == ["upload_to_s3", "build_modelcar", "report"]
    assert any("dry run: nothing was moved, and the plan is above" in entry["event"] for entry in logs)


def test_a_dag_with_one_way_skips_nothing(kube: FakeKube) -> None:
    operator = make_resolve()
    assert operator.execute(make_context(operator)) == kube.result


def test_a_resolve_that_fails_skips_nothing(kube: FakeKube) -> None:
    kube.exit_code, kube.message = 2, "no such model"
    operator = make_resolve(off_the_way=lambda params: ["build_modelcar"])
    with pytest.raises(AirflowFailException, match="no such model"):
        operator.execute(make_context(operator))


def test_the_house_defaults() -> None:
    operator = make_operator(execution_timeout=timedelta(hours=1))
    assert operator.deferrable is False
    assert operator.durable is True
    assert operator.log_pod_spec_on_failure is False
    assert operator.multiple_outputs is True
    assert operator.on_finish_action.value == "delete_pod"
    assert operator.startup_check_interval_seconds == 1


def test_nothing_of_the_site_is_known_when_the_dag_is_parsed() -> None:
    operator = make_operator()
    assert operator.image is None
    assert operator.namespace is None
    assert "secret" not in json.dumps([str(operator.env_vars), str(operator.arguments)]).lower()


def _settings() -> Any:
    from airfreight_airflow.settings import read_settings

    return read_settings()


@pytest.mark.parametrize(
    ("value", "given"),
    [("True", ["--keep"]), ("yes", ["--keep"]), ("", []), ("False", []), ("None", []), (" ", [])],
)
def test_a_switch_is_given_when_its_field_is_on(value: str, given: list[str]) -> None:
    """A field that was rendered is text."""
    assert switched({"--keep": value}) == given
