"""docker-compose.yaml, read by docker-compose itself: no container is started."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
AIRFLOW = {"airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"}
RUNS_TASKS = {"airflow-scheduler", "airflow-triggerer"}
KNOWS_SETTINGS = {*RUNS_TASKS, "airflow-dag-processor"}
ONCE = {"airflow-init", "minio-bucket"}
SECRETS = (
    "POSTGRES_PASSWORD",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_SECRET_KEY",
    "AIRFLOW_ADMIN_PASSWORD",
    "MINIO_ROOT_USER",
    "MINIO_ROOT_PASSWORD",
    "FERNET_KEY",
)


def example() -> dict[str, str]:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def required() -> set[str]:
    return set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yaml").read_text()))


def filled() -> dict[str, str]:
    values = {name: value or f"the-{name.lower().replace('_', '-')}" for name, value in example().items()}
    return values | {"KUBECONFIG_FILE": "/etc/airfreight/kubeconfig", "AIRFREIGHT_RUNTIME": ""}


def compose(tmp_path: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = shutil.which("docker-compose")
    assert command, "docker-compose is not installed: apt-get install docker-compose"
    file = tmp_path / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return subprocess.run(
        [command, "--env-file", str(file), "--file", str(ROOT / "docker-compose.yaml"), "config"],
        cwd=tmp_path,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = compose(tmp_path_factory.mktemp("compose"), filled())
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = yaml.safe_load(done.stdout)
    return value


def services(parsed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = parsed["services"]
    return found


def test_every_component_of_airflow_is_a_service_of_its_own(parsed: dict[str, Any]) -> None:
    assert set(services(parsed)) == AIRFLOW | ONCE | {"postgres", "minio", "registry"}
    commands = {name: service["command"] for name, service in services(parsed).items() if name in AIRFLOW}
    assert commands == {
        "airflow-apiserver": ["api-server"],
        "airflow-scheduler": ["scheduler"],
        "airflow-dag-processor": ["dag-processor"],
        "airflow-triggerer": ["triggerer"],
    }
    executors = {services(parsed)[name]["environment"]["AIRFLOW__CORE__EXECUTOR"] for name in AIRFLOW}
    assert executors == {"LocalExecutor"}


def test_every_service_that_stays_has_a_health_check_and_the_rest_wait_for_it(parsed: dict[str, Any]) -> None:
    for name, service in services(parsed).items():
        assert ("healthcheck" in service) is (name not in ONCE), name
        if name in AIRFLOW:
            assert service["depends_on"] == {
                "airflow-init": {"condition": "service_completed_successfully"},
                "postgres": {"condition": "service_healthy"},
            }, name
    assert "/api/v2/monitor/health" in " ".join(services(parsed)["airflow-apiserver"]["healthcheck"]["test"])


def test_all_components_share_their_keys(parsed: dict[str, Any]) -> None:
    for option in ("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"):
        values = {services(parsed)[name]["environment"][option] for name in AIRFLOW}
        assert len(values) == 1, option


def test_this_repository_is_mounted_read_only(parsed: dict[str, Any]) -> None:
    for name in AIRFLOW:
        mounts = [volume.split(":") for volume in services(parsed)[name]["volumes"]]
        for folder in ("dags", "plugins", "include"):
            assert [str(ROOT / folder), f"/opt/airflow/{folder}", "ro"] in mounts, f"{name}: {folder}"
            assert (ROOT / folder).is_dir()
        assert services(parsed)[name]["environment"]["PYTHONPATH"] == "/opt/airflow/include"


def test_only_what_runs_tasks_sees_the_cluster_and_the_store(parsed: dict[str, Any]) -> None:
    for name, service in services(parsed).items():
        sees_cluster = any(":/opt/airflow/kubeconfig" in volume for volume in service.get("volumes", []))
        assert sees_cluster is (name in RUNS_TASKS), name
        assert ("AIRFLOW_CONN_AIRFREIGHT_STORE" in service.get("environment", {})) is (name in RUNS_TASKS), name


def test_the_settings_are_known_where_they_are_read(parsed: dict[str, Any]) -> None:
    for name, service in services(parsed).items():
        knows = any(key.startswith("AIRFLOW__AIRFREIGHT__") for key in service.get("environment", {}))
        assert knows is (name in KNOWS_SETTINGS), name
        assert ("AIRFREIGHT_CATALOG" in service.get("environment", {})) is (name in {*AIRFLOW, "airflow-init"}), name


def test_connections_are_json_of_the_right_type(parsed: dict[str, Any]) -> None:
    environment = services(parsed)["airflow-scheduler"]["environment"]
    cluster = yaml.safe_load(environment["AIRFLOW_CONN_AIRFREIGHT_CLUSTER"])
    store = yaml.safe_load(environment["AIRFLOW_CONN_AIRFREIGHT_STORE"])
    assert cluster["conn_type"] == "kubernetes"
    assert cluster["extra"] == {"kube_config_path": "/opt/airflow/kubeconfig", "namespace": "airfreight"}
    assert store["conn_type"] == "aws"
    assert store["password"] == "the-minio-root-password"
    assert store["extra"]["endpoint_url"] == "http://minio:9000"


def test_airflow_does_not_run_as_root(parsed: dict[str, Any]) -> None:
    for name in AIRFLOW:
        assert services(parsed)[name]["user"] == "50000:0", name


def test_every_image_is_a_variable_with_a_pinned_tag(parsed: dict[str, Any]) -> None:
    lines = re.findall(r"image: (.+)", (ROOT / "docker-compose.yaml").read_text())
    assert len(lines) >= 5
    for line in lines:
        assert re.fullmatch(r"\$\{\w+_IMAGE:-[\w./-]+:[\w.-]+\}", line), line
        assert ":latest" not in line


def test_no_secret_is_written_down() -> None:
    values = example()
    for name in SECRETS:
        assert values[name] == "", f"{name} has a value in .env.example"
        assert re.search(rf"\$\{{{name}:\?", (ROOT / "docker-compose.yaml").read_text()), f"{name} has a default"


def test_the_example_names_every_variable() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yaml").read_text()))
    assert used <= set(example()), used - set(example())
    assert set(example()) <= used, set(example()) - used


@pytest.mark.parametrize("name", sorted(required()))
def test_a_missing_variable_is_refused_with_its_sentence(tmp_path: Path, name: str) -> None:
    values = filled()
    del values[name]
    done = compose(tmp_path, values)
    assert done.returncode != 0
    assert f"set {name} in .env" in done.stderr
