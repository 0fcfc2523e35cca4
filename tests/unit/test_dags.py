"""House rules over all DAGs: they import anywhere, and a person can find, trigger and repair them."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException

from airfreight.cli import build_app
from airfreight.serving import Serving
from airfreight_airflow.form import deliver_params
from airfreight_airflow.operators import AirfreightPodOperator

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
    assert set(bag.dags) == {file.stem for file in DAGS.glob("*.py")}, "one DAG per file, of the file's name"
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
            assert not any(word in name for word in ("token", "password", "key")), name


@pytest.fixture(scope="module")
def deliver(bag: DagBag) -> DAG:
    dag: DAG = bag.dags["deliver_model"]
    return dag


def test_deliver_model_has_its_six_tasks_in_a_row(deliver: DAG) -> None:
    assert [task.task_id for task in deliver.topological_sort()] == [
        "resolve",
        "upload_to_s3",
        "deploy",
        "wait_until_ready",
        "validate",
        "report",
    ]
    assert deliver.get_task("upload_to_s3").upstream_task_ids == {"resolve"}
    assert "upload_to_s3" in deliver.get_task("deploy").upstream_task_ids
    assert "wait_until_ready" in deliver.get_task("validate").upstream_task_ids
    assert "validate" in deliver.get_task("report").upstream_task_ids


def test_only_the_tasks_that_need_rights_have_them(deliver: DAG) -> None:
    accounts = {
        task.task_id: task.role.service_account for task in deliver.tasks if isinstance(task, AirfreightPodOperator)
    }
    assert accounts == {
        "resolve": "airfreight-publisher",
        "upload_to_s3": "airfreight-publisher",
        "deploy": "airfreight-deployer",
        "validate": "airfreight-validator",
    }


def test_commands_are_rendered_from_the_request_and_the_site(deliver: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__STORE", "s3://weights/llm")
    monkeypatch.setenv("AIRFLOW__AIRFREIGHT__RUNTIME", "airfreight-vllm-cpu-1a2b3c4d5e6f")
    resolve = deliver.get_task("resolve").prepare_for_execution()
    params = {"model": "acme/pong", "revision": "v1", "allow_patterns": ["*.json", "*.safetensors"]}
    context: Any = {"params": params, "dag": deliver}

    resolve.render_template_fields(context, deliver.get_template_env())

    assert resolve.arguments[:4] == ["resolve", "hf://acme/pong@v1", "--store", "s3://weights/llm/"]
    assert resolve.arguments[4:10] == ["--allow", "*.json\n*.safetensors", "--ignore", "", "--allow-unsafe", ""]


def test_what_the_dag_says_the_commands_understand(deliver: DAG) -> None:
    """Each option is one of the command it is given to, and each of them takes what is rendered into it."""
    commands = typer.main.get_command(build_app()).commands  # type: ignore[attr-defined]
    for task in deliver.tasks:
        if isinstance(task, AirfreightPodOperator):
            command = commands[task.arguments[0]]
            known = {option for parameter in command.params for option in parameter.opts}
            given = {str(word) for word in task.arguments if str(word).startswith("--")}
            assert given <= known, task.task_id


def test_the_copy_takes_the_files_that_resolve_looked_at(deliver: DAG) -> None:
    resolve, copy = (deliver.get_task(name).arguments for name in ("resolve", "upload_to_s3"))
    assert resolve[resolve.index("--allow") : -2] == copy[copy.index("--allow") : -2]


def test_a_dry_run_ends_before_the_copy(deliver: DAG) -> None:
    hook = deliver.get_task("upload_to_s3")._pre_execute_hook
    assert hook is not None
    hook({"params": {"dry_run": False}})
    hook({"params": {"dry_run": None}})
    with pytest.raises(
        AirflowSkipException, match=r"dry run: nothing was moved, and the plan is in the log of resolve"
    ):
        hook({"params": {"dry_run": True}})
    rules = {task.task_id: task.trigger_rule for task in deliver.tasks}
    assert set(rules.values()) == {"all_success"}, "or a task would run although the copy was skipped"


def test_the_form_has_every_field_of_the_serving_schema() -> None:
    params = deliver_params(model="acme/pong")
    serving = {name for name, param in params.items() if param.schema.get("section") == "Serving"}
    assert serving == set(Serving.model_fields)
    assert params["gpus"].schema["maximum"] == 64
    assert params["gpus"].schema["type"] == ["null", "integer"]
    assert params["env"].value == []
    assert "examples" not in params["env"].schema, "Airflow would make a fixed choice of it"


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
