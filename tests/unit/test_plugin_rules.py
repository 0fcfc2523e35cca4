"""Rules over the plugin folder: what Airflow scans, who reads configuration, what the library may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow._shared.module_loading.file_discovery import find_path_from_directory

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
PACKAGE = PLUGINS / "airfreight_airflow"


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


# Airflow 3.3 compiles .airflowignore with the old name of pathspec's class.
@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_airflow_scans_nothing_but_the_plugin_file() -> None:
    """It would run every other file under its bare name, and `requests` is a module the whole process needs."""
    found = [Path(path).name for path in find_path_from_directory(str(PLUGINS), ".airflowignore", "glob")]
    scanned = [name for name in found if name.endswith(".py")]
    assert scanned == ["airfreight_plugin.py"]


def test_the_plugin_is_registered() -> None:
    import airfreight_plugin

    assert airfreight_plugin.AirfreightPlugin.name == "airfreight"


def test_only_settings_reads_airflows_configuration() -> None:
    readers = [file.name for file in PACKAGE.glob("*.py") if "airflow.sdk.conf" in set(imports_of(file))]
    assert readers == ["settings.py"]


def test_requests_are_pure() -> None:
    assert not [name for name in imports_of(PACKAGE / "requests.py") if name.startswith("airflow")]


def test_the_library_does_not_import_airflow() -> None:
    for file in sorted((ROOT / "include" / "airfreight").rglob("*.py")):
        wrong = [name for name in imports_of(file) if name.split(".")[0] in ("airflow", "airfreight_airflow")]
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_nothing_heavy_is_imported_where_dag_files_are_parsed() -> None:
    """What a DAG file imports is imported again by every parse; boto3 alone costs a second."""
    for file in [*PACKAGE.glob("*.py"), *(ROOT / "dags").glob("*.py")]:
        top = [
            node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom | ast.Import)
        ]
        heavy = [name for name in top if name.split(".")[0] in ("boto3", "botocore", "huggingface_hub")]
        heavy += [name for name in top if name.startswith("airflow.providers.amazon")]
        assert not heavy, f"{file.relative_to(ROOT)} imports {heavy} at its top"
