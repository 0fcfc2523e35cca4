"""House rules over all DAGs: they import anywhere, and a person can find, trigger and repair them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG

from airfreight.cli import build_app
from airfreight.gate_wishes import GateWishes
from airfreight.serving import Serving
from airfreight_airflow.form import deliver_params
from airfreight_airflow.operators import AirfreightPodOperator, spelled, switched
from airfreight_airflow.promoting import GATED
from airfreight_airflow.route import OPTIONAL, Route

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
MOST_ESSENTIALS = 4


@pytest.fixture(scope="module")
def bag() -> DagBag:
    with warnings.catch_warnings():
        # Airflow 3.3 compiles .airflowignore with the old name of pathspec's class.
        warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
        return DagBag(str(DAGS))


def test_every_file_gives_its_dag(bag: DagBag) -> None:
    assert bag.import_errors == {}
    # One file makes a DAG for each model of the catalog, which is inert as shipped: test_serve_dags.py looks at those.
    of_their_own = {file.stem for file in DAGS.glob("*.py")} - {"serve_models"}
    assert set(bag.dags) == of_their_own, "one DAG per file, of the file's name"
    assert "deliver_model" in bag.dags


def test_dag_files_import_without_network_cluster_or_configuration(tmp_path: Path) -> None:
    """In a fresh process: no setting, no connection, no home, warnings are errors, and every socket refuses."""
    for file in DAGS.glob("*.py"):
        program = (
            "import socket, runpy, sys\n"
            "def refuse(*args, **kwargs): raise AssertionError('a DAG file opened a socket')\n"
            "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
            f"runpy.run_path({str(file)!r})\n"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "PYTHONPATH": f"{ROOT / 'include'}:{ROOT / 'plugins'}",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{file.name}: {done.stderr[-2000:]}"
        assert "Warning" not in done.stderr, done.stderr


def test_every_dag_can_be_found_and_repaired(bag: DagBag) -> None:
    for dag_id, dag in bag.dags.items():
        assert "airfreight" in dag.tags, f"{dag_id}: tags"
        assert dag.description, f"{dag_id}: description"
        assert dag.catchup is False, f"{dag_id}: catchup"
        assert dag.dagrun_timeout is not None, f"{dag_id}: dagrun_timeout"
        assert dag.max_active_runs <= 16, f"{dag_id}: max_active_runs"
        documentation = dag.doc_md or ""
        assert "On call" in documentation, f"{dag_id}: doc_md tells a person on call what to do"
        for task in dag.tasks:
            assert f"`{task.task_id}`" in documentation, f"{dag_id}: doc_md says what {task.task_id} does"


def test_every_task_has_owner_retries_and_time_limits(bag: DagBag) -> None:
    for dag_id, dag in bag.dags.items():
        for task in dag.tasks:
            where = f"{dag_id}.{task.task_id}"
            assert task.owner == "airfreight", f"{where}: owner"
            assert task.retries == 2, f"{where}: retries"
            assert task.retry_exponential_backoff == 2.0, f"{where}: retry_exponential_backoff"
            assert timedelta(0) < task.retry_delay <= timedelta(minutes=1), f"{where}: retry_delay"
            assert task.max_retry_delay, f"{where}: max_retry_delay"
            assert task.execution_timeout, f"{where}: execution_timeout"


def test_pods_are_started_by_the_house_operator_alone(bag: DagBag) -> None:
    for dag_id, dag in bag.dags.items():
        for task in dag.tasks:
            if isinstance(task, KubernetesPodOperator):
                assert isinstance(task, AirfreightPodOperator), f"{dag_id}.{task.task_id}"


def test_manual_dags_start_unpaused_and_scheduled_ones_paused(bag: DagBag) -> None:
    for dag_id, dag in bag.dags.items():
        assert dag.is_paused_upon_creation is (dag.schedule is not None), f"{dag_id}: is_paused_upon_creation"


def test_the_form_opens_with_few_fields_and_valid_defaults(bag: DagBag) -> None:
    for dag_id, dag in bag.dags.items():
        essentials = [name for name in dag.params if "section" not in dag.params.get_param(name).schema]
        assert len(essentials) <= MOST_ESSENTIALS, f"{dag_id}: {essentials}"
        dag.params.validate()
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.description, f"{dag_id}.{name}: description"
            assert param.schema.get("title"), f"{dag_id}.{name}: title"
            assert "anyOf" not in param.schema, f"{dag_id}.{name}: the form shows anyOf as a JSON editor"


def test_no_param_asks_for_a_secret_itself(bag: DagBag) -> None:
    for dag in bag.dags.values():
        for name in dag.params:
            assert not re.search("(token|password|key)(_|$)", name), name


@pytest.fixture(scope="module")
def deliver(bag: DagBag) -> DAG:
    dag: DAG = bag.dags["deliver_model"]
    return dag


def pods_of(dag: DAG) -> dict[str, Any]:
    """The operators that start pods, by task id; of a mapped task what its instances are made with."""
    found = {}
    for task in dag.tasks:
        if isinstance(task, AirfreightPodOperator):
            flags = [*task.flags, *task.switches]
            found[task.task_id] = {
                "role": task.role,
                "arguments": task.arguments,
                "volume": task.volume,
                "flags": flags,
            }
        elif task.is_mapped and task.operator_class is AirfreightPodOperator:
            found[task.task_id] = {"volume": "", **task.partial_kwargs}
    return found


def test_deliver_model_has_the_tasks_of_all_ways(deliver: DAG) -> None:
    assert set(deliver.task_ids) == {"resolve", *OPTIONAL}


def test_the_plain_way_is_seven_tasks_in_a_row(deliver: DAG) -> None:
    """What is not skipped of a request to S3: each waits for the one before it and for skipped tasks alone."""
    plain = tuple(task_id for task_id in ("resolve", *Route().tasks()) if task_id != "roll_back")
    assert plain == ("resolve", "upload_to_s3", "deploy", "wait_until_ready", "validate", "promote", "report")
    for before, task_id in pairwise(plain):
        assert before in deliver.get_task(task_id).upstream_task_ids
    skipped_before = deliver.get_task("upload_to_s3").upstream_task_ids - {"resolve"}
    assert skipped_before <= set(Route().skipped())


def test_a_task_after_tasks_that_may_be_skipped_runs_all_the_same(deliver: DAG) -> None:
    for task in deliver.tasks:
        always = {"resolve", "report", *Route().tasks()} | {"create_volume", "split", "download"}
        if task.upstream_task_ids - always and task.task_id not in ("remove_volume", "seal_volume", "roll_back"):
            assert task.trigger_rule == "none_failed", task.task_id


def test_the_volume_is_made_by_a_setup_and_removed_by_its_teardown(deliver: DAG) -> None:
    setup, teardown = deliver.get_task("create_volume"), deliver.get_task("remove_volume")
    assert setup.is_setup
    assert teardown.is_teardown
    assert teardown.on_failure_fail_dagrun, "a volume that stays costs money, so the run says so"
    between = {"download", "seal_volume", "upload_from_volume", "build_from_volume", "build_with_buildah"}
    downstream, upstream = setup.get_flat_relative_ids(), teardown.get_flat_relative_ids(upstream=True)
    assert downstream & upstream == between, "Airflow skips all of these when the setup is skipped"
    mounting = {task_id for task_id, pod in pods_of(deliver).items() if pod["volume"]}
    assert mounting == between, "no other task may need the volume"


def test_only_the_tasks_that_need_rights_have_them(deliver: DAG) -> None:
    accounts: dict[str, set[str]] = {}
    for task_id, pod in pods_of(deliver).items():
        accounts.setdefault(pod["role"].service_account, set()).add(task_id)
    assert accounts == {
        "airfreight-publisher": {
            *("resolve", "download", "seal_volume", "upload_from_volume", "build_from_volume"),
            *("upload_slices", "upload_to_s3", "build_slices", "build_modelcar"),
        },
        "airfreight-builder": {"build_with_buildah"},
        "airfreight-deployer": {"render", "smoke_test", "deploy", "prove_egress", "promote", "roll_back"},
        "airfreight-validator": {"validate"},
    }
    with_the_store = {
        task_id for task_id, pod in pods_of(deliver).items() if pod["role"].kubernetes and pod["role"].store
    }
    assert with_the_store == {"deploy", "promote", "roll_back"}, "the ledger lies there"


SITE = {
    "STORE": "s3://weights/llm",
    "RUNTIME": "airfreight-vllm-cpu-1a2b3c4d5e6f",
    "REGISTRY": "oci://registry.example/models",
    "MODELCAR_BASE": f"registry.example/base@sha256:{'5' * 64}",
    "BUILDER_IMAGE": "registry.example/builder:1",
}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SITE.items():
        monkeypatch.setenv(f"AIRFLOW__AIRFREIGHT__{name}", value)


def rendered(dag: DAG, task_id: str, params: dict[str, Any], **results: dict[str, Any]) -> list[str]:
    """A task's command for a request, with what earlier tasks left."""
    task: Any = dag.get_task(task_id)
    found = {"resolve": RESOLVED, **results}

    def xcom_pull(task_ids: str, key: str = "return_value", default: Any = None, **_: Any) -> Any:
        result = found.get(task_ids, {})
        return (result or default) if key == "return_value" else result.get(key, default)

    states = {one: "failed" if "failure" in found.get(one, {}) else "success" for one in GATED}
    ti = SimpleNamespace(
        xcom_pull=xcom_pull,
        task_id=task_id,
        dag_id=dag.dag_id,
        run_id="manual__1",
        get_task_states=lambda **_: {"manual__1": states},
        get_task_breadcrumbs=lambda *_: [{"task_id": "deploy", "duration": 4.0, "state": "success"}],
    )
    run = SimpleNamespace(dag_id=dag.dag_id, run_id="manual__1", run_type="manual", triggering_user_name="ann")
    given = {name: None for name in dag.params} | {"model": "acme/pong", **params}
    context: Any = {"params": given, "dag": dag, "dag_run": run, "ti": ti, "task_instance": ti}
    task = task.unmap({"share": "1/2"}) if task.is_mapped else task.prepare_for_execution()
    task.render_template_fields(context, dag.get_template_env())
    return [*spelled(task.arguments, task.repeated), *task.flags, *switched(task.switches)]


RESOLVED = {
    "source": "hf://acme/pong@41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50",
    "repo_id": "acme/pong",
    "version": "41ab6c1b1c1f",
    "manifest_sha256": "71" * 32,
    "size_bytes": 33_554_432,
    "largest_bytes": 33_000_000,
}
IMAGE = f"oci://registry.example/models/acme/pong@sha256:{'9' * 64}"


@pytest.mark.usefixtures("site")
def test_resolve_plans_each_destination(deliver: DAG) -> None:
    request = {"revision": "v1", "allow_patterns": ["*.json", "*.safetensors"]}
    assert rendered(deliver, "resolve", request)[:4] == ["resolve", "hf://acme/pong@v1", "--store", "s3://weights/llm/"]
    assert "--base" not in rendered(deliver, "resolve", request), "a bucket has no base"
    both = rendered(deliver, "resolve", {**request, "destination": "both", "dry_run": True})
    assert both[2:6] == ["--store", "s3://weights/llm/", "--store", "oci://registry.example/models/"]
    assert both[6:10] == ["--base", SITE["MODELCAR_BASE"], "--allow", "*.json\n*.safetensors"]
    assert "--ignore" not in both
    assert "--allow-unsafe" not in both


@pytest.mark.usefixtures("site")
def test_what_is_copied_from_where(deliver: DAG) -> None:
    hub, staged = RESOLVED["source"], "file:///staging/acme/pong/41ab6c1b1c1f/"
    s3, registry, base = "s3://weights/llm/", "oci://registry.example/models/", ["--base", SITE["MODELCAR_BASE"]]
    end = ["--result", "/airflow/xcom/return.json"]
    share = ["--slice", "1/2", *end]
    both = {"destination": "both"}
    staging = {**both, "staging": "volume"}
    buildah = {"destination": "oci", "builder": "buildah"}
    assert rendered(deliver, "upload_to_s3", {}) == ["copy", hub, s3, *end]
    assert rendered(deliver, "upload_to_s3", {"pods": 2}) == ["seal", hub, s3, *end]
    assert rendered(deliver, "upload_slices", {"pods": 2}) == ["copy", hub, s3, *share]
    assert rendered(deliver, "build_modelcar", both) == ["copy", hub, registry, *base, *end]
    assert rendered(deliver, "build_modelcar", staging) == ["seal", hub, registry, *base, *end]
    assert rendered(deliver, "download", staging) == ["copy", hub, "file:///staging/", *share]
    assert rendered(deliver, "upload_from_volume", staging) == ["copy", staged, s3, *share]
    assert rendered(deliver, "build_from_volume", staging) == ["copy", staged, registry, *base, *share]
    assert rendered(deliver, "build_with_buildah", buildah) == [
        *("build", staged, registry),
        *base,
        *end,
    ]


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("task_id", ["smoke_test", "deploy", "render"])
def test_what_is_served_is_what_was_published(deliver: DAG, task_id: str) -> None:
    s3 = "s3://weights/llm/acme/pong/41ab6c1b1c1f/"
    both = rendered(
        deliver,
        task_id,
        {"destination": "both", "delivery": "oci+native"},
        upload_to_s3={"artifact": s3},
        build_modelcar={"artifact": IMAGE},
    )
    assert [both[at + 1] for at, word in enumerate(both) if word == "--artifact"] == [s3, IMAGE]
    assert both[both.index("--delivery") + 1] == "oci+native"
    assert both[both.index("--size-bytes") + 1] == "33554432"
    assert "--pull-secret" not in both
    request = {"destination": "oci", "builder": "buildah"}
    buildah = rendered(deliver, task_id, request, build_with_buildah={"artifact": IMAGE})
    assert [buildah[at + 1] for at, word in enumerate(buildah) if word == "--artifact"] == [IMAGE]
    assert buildah[buildah.index("--delivery") + 1] == "auto"


DEPLOYED = {
    "name": "acme-pong",
    "namespace": "models",
    "release": "9f2c41ab6c1b",
    "url": "http://acme-pong-predictor.models.svc.cluster.local",
    "served_name": "acme/pong",
}
TARGET = ["--name", "acme-pong", "--namespace", "models"]
LEDGER = ["--ledger", "s3://weights/llm/", "--run", "deliver_model/manual__1"]


def value_of(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_whatever_fails_after_the_deploy_is_rolled_back_and_nothing_else_is(deliver: DAG) -> None:
    roll_back = deliver.get_task("roll_back")
    assert roll_back.upstream_task_ids == {"deploy", "wait_until_ready", "validate", "prove_egress", "promote"}
    assert roll_back.trigger_rule == "one_failed"
    assert roll_back.downstream_task_ids == set()
    assert "promote" in deliver.get_task("report").upstream_task_ids, "so a run that was rolled back is red"


@pytest.mark.usefixtures("site")
def test_deploy_registers_and_applies_in_one_pod(deliver: DAG) -> None:
    plain = rendered(deliver, "deploy", {}, upload_to_s3={"artifact": "s3://weights/llm/acme/pong/41ab6c1b1c1f/"})
    assert plain[:5] == ["register", *TARGET]
    assert value_of(plain, "--ledger") == "s3://weights/llm/"
    assert value_of(plain, "--run") == "deliver_model/manual__1"
    assert value_of(plain, "--if-busy") == "wait"
    assert json.loads(value_of(plain, "--evidence")) == {
        "trigger": {"run_id": "manual__1", "run_type": "manual", "user": "ann"}
    }
    assert plain[-1] == "--stage"
    asked = rendered(deliver, "deploy", {"if_busy": "refuse", "take_over": True})
    assert value_of(asked, "--if-busy") == "refuse"
    assert asked[-2:] == ["--stage", "--take-over"]
    assert rendered(deliver, "smoke_test", {"take_over": True})[-1] == "--take-over"


@pytest.mark.usefixtures("site")
def test_validate_asks_for_what_the_request_wants(deliver: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = rendered(deliver, "validate", {}, deploy=DEPLOYED, wait_until_ready={"gpus": 0, "node": "n1"})
    assert plain == [
        *("validate", "--url", DEPLOYED["url"], "--served-name", "acme/pong", "--question", "ping"),
        *("--ready", '{"gpus": 0, "node": "n1"}', "--result", "/airflow/xcom/return.json"),
    ]
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__CA_BUNDLE_CONFIGMAP", "corporate-cas")
    request = {
        "max_ttft": 2, "min_tokens_per_s": 20.5, "prompts": ["who are you? => from A"], "gpus": 1,
        "gateway_url": "https://10.1.2.3/", "gateway_host": "pong.example.com",
    }  # fmt: skip
    asked = rendered(deliver, "validate", request, deploy=DEPLOYED)
    assert (value_of(asked, "--max-ttft"), value_of(asked, "--min-tokens-per-s")) == ("2", "20.5")
    assert json.loads(value_of(asked, "--prompts")) == [{"prompt": "who are you?", "expect": "from A"}]
    assert value_of(asked, "--gpus") == "1"
    assert value_of(asked, "--gateway-url") == "https://10.1.2.3"
    assert value_of(asked, "--gateway-host") == "pong.example.com"
    assert value_of(asked, "--ca-file") == "/etc/airfreight/ca/ca.crt"


WALLS = {
    "EGRESS": "required",
    "RESOLVER": "10.96.0.53",
    "RESOLVER_NAMESPACE": "airfreight",
    "STORE_ENDPOINT": "http://minio.minio.svc.cluster.local:9000",
    "IMAGE": f"registry.example/airfreight@sha256:{'7' * 64}",
}
WALLS_SAID = [
    *("--store-url", WALLS["STORE_ENDPOINT"], "--store-port", "9001"),
    *("--resolver-namespace", "airfreight", "--resolver", "10.96.0.53"),
]


@pytest.mark.usefixtures("site")
def test_the_egress_gate_comes_after_load_and_chat_and_before_a_release_is_live(deliver: DAG) -> None:
    gate = deliver.get_task("prove_egress")
    assert gate.upstream_task_ids == {"deploy", "validate"}, "of deploy it takes the artifact and the release"
    assert gate.downstream_task_ids == {"promote", "roll_back"}
    assert gate.trigger_rule == "all_success", "of a model that cannot chat nothing is proven"
    # Skipped it is well, failed it is not.
    assert {"validate", "prove_egress"} <= deliver.get_task("promote").upstream_task_ids
    assert deliver.get_task("promote").trigger_rule == "none_failed"


@pytest.mark.usefixtures("site")
def test_models_come_under_the_policy_that_the_gate_looks_for(deliver: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = "s3://weights/llm/acme/pong/41ab6c1b1c1f/"
    for name, value in {**WALLS, "STORE_PORT": "9001"}.items():
        monkeypatch.setenv(f"AIRFLOW__AIRFREIGHT__{name}", value)
    deploy = rendered(deliver, "deploy", {}, upload_to_s3={"artifact": artifact})
    at = deploy.index("--store-url")
    assert deploy[at : at + 8] == WALLS_SAID
    assert deploy[-2:] == ["--stage", "--egress"]
    deployed = {**DEPLOYED, "artifact": artifact}
    proof = rendered(deliver, "prove_egress", {}, deploy=deployed)
    assert proof == [
        *("egress", *TARGET, "--artifact", artifact, "--release", "9f2c41ab6c1b", "--image", WALLS["IMAGE"]),
        *WALLS_SAID,
        *("--result", "/airflow/xcom/return.json", "--required"),
    ]
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__EGRESS", "shown")
    assert "--required" not in rendered(deliver, "prove_egress", {}, deploy=deployed)
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__EGRESS", "off")
    plain = rendered(deliver, "deploy", {}, upload_to_s3={"artifact": artifact})
    assert not {"--egress", "--store-url", "--store-port", "--resolver", "--resolver-namespace"} & set(plain)


@pytest.mark.usefixtures("site")
def test_promote_keeps_what_the_gates_found(deliver: DAG) -> None:
    gate, walls = {"name": "chat", "verdict": "passed"}, {"name": "egress", "verdict": "not proven"}
    validated = {"gates": [gate], "ttft_s": 0.1, "tokens_per_s": 40.0, "answer": "pong from A"}
    proven = {"gate": walls, "lookups": []}
    words = rendered(deliver, "promote", {}, deploy=DEPLOYED, validate=validated, prove_egress=proven)
    assert words[:11] == ["promote", *TARGET, *LEDGER, "--release", "9f2c41ab6c1b"]
    assert json.loads(value_of(words, "--evidence")) == {
        "gates": [gate, walls], "measured": {"ttft_s": 0.1, "tokens_per_s": 40.0}, "seconds": {"deploy": 4.0},
    }  # fmt: skip


@pytest.mark.usefixtures("site")
def test_roll_back_is_told_the_cause(deliver: DAG) -> None:
    failure = {"failure": {"message": "acme/pong cannot chat."}}
    words = rendered(deliver, "roll_back", {"keep_failed": True}, deploy=DEPLOYED, validate=failure)
    assert words[:11] == ["roll-back", *TARGET, *LEDGER, "--cause", "acme/pong cannot chat."]
    assert words[-1] == "--keep"
    assert "--keep" not in rendered(deliver, "roll_back", {}, deploy=DEPLOYED, validate=failure)


@pytest.mark.usefixtures("site")
def test_a_buckets_model_becomes_an_image_on_the_sites_base_and_an_image_keeps_its_own(bag: DagBag) -> None:
    dag = bag.dags["mirror_model"]
    request = {"source": "s3://weights/llm/acme/pong/41ab6c1b1c1f/", "destination": ""}
    assert rendered(dag, "mirror", request, resolve={"origin": request["source"]}) == [
        *("copy", request["source"], "oci://registry.example/models/", "--base", SITE["MODELCAR_BASE"]),
        *("--result", "/airflow/xcom/return.json"),
    ]
    tag = "oci://registry.example/models/acme/pong:v1"
    request = {"source": tag, "destination": "oci://internal:5000/models/"}
    assert rendered(dag, "resolve", request)[:4] == ["resolve", tag, "--store", "oci://internal:5000/models/"]
    found = {**RESOLVED, "origin": IMAGE}  # what the tag stood for then; `source` is where the model came from at first
    mirror = rendered(dag, "mirror", request, resolve=found)
    assert mirror[:4] == ["copy", IMAGE, "oci://internal:5000/models/", "--result"]
    assert rendered(dag, "verify", request, mirror={"artifact": IMAGE})[:2] == ["verify", IMAGE]
    assert dag.get_task("mirror").upstream_task_ids == {"resolve"}


@pytest.mark.usefixtures("site")
def test_a_runtime_is_built_from_a_configmap_from_the_site_or_from_what_is_shipped(bag: DagBag) -> None:
    dag = bag.dags["build_runtime"]
    end = ["--result", "/airflow/xcom/return.json"]
    shipped = {"template": "vllm-gpu", "base_args": ["BASE=registry.example/vllm@sha256:1", "EXTRA=1"]}
    assert rendered(dag, "build_image", shipped) == [
        *("runtime", "build", "oci://registry.example/models/runtimes/vllm-gpu"),
        *("--base-arg", "BASE=registry.example/vllm@sha256:1", "--base-arg", "EXTRA=1"),
        *end,
    ]
    given = {"template": "vllm-cpu", "image": "oci://registry.example/vllm:1", "containerfile": "our-vllm"}
    assert rendered(dag, "build_image", given) == [
        *("runtime", "build", "oci://registry.example/vllm:1"),
        *("--containerfile", "/context/Containerfile", "--context", "/context"),
        *end,
    ]
    site = rendered(dag, "build_image", {"template": "vllm-cpu", "context": "/opt/site/vllm/"})
    assert site[3:7] == ["--containerfile", "/opt/site/vllm/Containerfile", "--context", "/opt/site/vllm"]
    image = f"registry.example/vllm@sha256:{'9' * 64}"
    pin = rendered(dag, "pin_runtime", {**shipped, "set": ["max-model-len=8192"]}, build_image={"image": image})
    assert pin[:9] == [
        *("runtime", "pin", image, "--template", "vllm-gpu", "--namespace", "models"),
        *("--set", "max-model-len=8192"),
    ]
    assert pin[-2:] == ["--apply", "--offline"]


def test_what_the_dags_say_the_commands_understand(bag: DagBag) -> None:
    """Each option is one of the command it is given to."""
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    for dag_id, dag in bag.dags.items():
        for task_id, pod in pods_of(dag).items():
            words = [str(word) for word in (*pod["arguments"], *pod.get("flags", ()))]
            for first in ("copy", "seal") if "copy_or_seal" in words[0] else (words[0],):
                command = commands[first]
                if hasattr(command, "commands"):
                    command = command.commands[words[1]]
                known = {option for parameter in command.params for option in parameter.opts}
                given = {word for word in words if word.startswith("--")} - {"--slice"}
                assert given <= known, f"{dag_id}.{task_id}: {first}"
                if dag.get_task(task_id).is_mapped:
                    assert "--slice" in known


def test_every_copy_takes_the_files_that_resolve_looked_at(deliver: DAG) -> None:
    pods = pods_of(deliver)
    looked_at = [str(word) for word in pods["resolve"]["arguments"]]
    at = looked_at.index("--allow")
    files = " ".join(looked_at[at : at + 6])
    assert "--ignore" in files
    assert "--allow-unsafe" in files
    for task_id, pod in pods.items():
        if pod["role"].hub:
            assert files in " ".join(map(str, pod["arguments"])), task_id


def test_the_form_has_every_field_of_the_serving_schema() -> None:
    params = deliver_params(model="acme/pong")
    serving = {name for name, param in params.items() if param.schema.get("section") == "Serving"}
    assert serving == {*Serving.model_fields, "delivery", "if_busy", "keep_failed", "take_over"}
    assert params["gpus"].schema["maximum"] == 64
    assert params["gpus"].schema["type"] == ["null", "integer"]
    assert params["env"].value == []
    assert "examples" not in params["env"].schema, "Airflow would make a fixed choice of it"


def test_the_form_has_every_field_of_what_gates_are_asked() -> None:
    params = deliver_params(model="acme/pong")
    asked = [name for name, param in params.items() if param.schema.get("section") == "Validation"]
    assert asked == list(GateWishes.model_fields)
    assert {name: params[name].value for name in asked} == GateWishes().model_dump()
    assert params["question"].schema["maxLength"] == 2000
    assert params["max_ttft"].schema["type"] == ["null", "number"]
    assert params["max_ttft"].schema["exclusiveMinimum"] == 0
    assert params["prompts"].schema["items"] == {"type": "string"}
    assert params["gateway_url"].schema["type"] == ["null", "string"]


def test_an_emptied_field_is_accepted() -> None:
    params = deliver_params(model="acme/pong")
    for name, param in params.items():
        if name != "model":
            assert param.resolve(None) is None, name


def test_a_dag_file_is_wiring() -> None:
    """No logic: nothing is defined, branched or looped over in a DAG file."""
    import ast

    for file in DAGS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.FunctionDef | ast.If | ast.For | ast.While | ast.Try), (
                f"{file.name}: {node}"
            )
