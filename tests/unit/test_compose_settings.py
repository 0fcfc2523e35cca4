"""docker-compose.yaml gives Airflow every setting that it reads, and as a fresh site has it."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from airfreight_airflow.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
PREFIX = "AIRFLOW__AIRFREIGHT__"
CONNECTIONS = {"cluster_conn_id", "store_conn_id"}
"""Names of connections, which the file itself defines under their default names."""


def settings_of(service: str) -> dict[str, str]:
    environment: dict[str, str] = COMPOSE["services"][service]["environment"]
    return {key: value for key, value in environment.items() if key.startswith(PREFIX)}


@pytest.mark.parametrize("service", ["airflow-scheduler", "airflow-triggerer", "airflow-dag-processor"])
def test_every_setting_can_be_set(service: str) -> None:
    wanted = {field.name for field in fields(Settings)} - CONNECTIONS
    assert {key.removeprefix(PREFIX).lower() for key in settings_of(service)} == wanted


def test_what_is_not_in_the_env_file_is_as_without_the_compose_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = read_settings()
    must = {"image", "store_endpoint"}  # `${NAME:?sentence}`: without them nothing starts
    for key, value in settings_of("airflow-scheduler").items():
        default = re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)\}", lambda found: found[1] or "", value)
        monkeypatch.setenv(key, default)
    given = read_settings()
    names = {field.name for field in fields(Settings)} - must
    assert {name: getattr(given, name) for name in names} == {name: getattr(fresh, name) for name in names}
