"""README.md and docs/*.md name only what exists: paths, targets, commands, options, settings, rights and sentences.

The pages are read as text, the code as syntax trees and YAML: nothing of Airflow is imported, nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from airfreight.cli import build_app

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in (ROOT / "README.md", *DOCS.glob("*.md")) if page.exists())
FOLDERS = ("dags", "plugins", "include", "devcluster", "docs", "tests", "benchmarks", ".ci")
FILE_NAME = re.compile(r"\.env\.example|[\w-]+\.(?:md|py|yaml|toml|txt|in)")
HOLE = "…"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def test_the_four_pages_are_there() -> None:
    assert {"architecture.md", "install.md", "operations.md", "security.md"} <= {page.name for page in PAGES}


# ---- links, paths, targets, commands -----------------------------------------------------------------------------


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            lost.append(link)
    assert not lost


@each_page
def test_paths_of_the_repository_exist(page: Path) -> None:
    assert not [path for path in _paths(page) if not _exists(path)]


@each_page
def test_make_targets_exist(page: Path) -> None:
    if not (ROOT / "Makefile").exists():
        pytest.skip("there is no Makefile")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {found for line in _code(page) for found in re.findall(r"^make ([a-z][a-z0-9-]*)", line)}
    assert named <= targets


@each_page
def test_airfreight_commands_and_options_exist(page: Path) -> None:
    wrong = []
    for words in _airfreight_lines(page):
        path, known = _command(words)
        if path is None:
            wrong.append(f"airfreight {' '.join(words)}")
            continue
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        wrong += [f"airfreight {path} {option}" for option in sorted(options - known)]
    assert not wrong


@each_page
def test_nothing_of_the_writers_machine_is_in_a_page(page: Path) -> None:
    assert not re.findall(r"(?<![\w.])/(?:root|work|home)/", page.read_text())


# ---- settings ----------------------------------------------------------------------------------------------------


def test_install_lists_the_settings_that_are_read_with_their_defaults() -> None:
    rows = _table(DOCS / "install.md", "key", "default")
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows}
    assert documented == _settings_read()


def test_the_commands_variables_stand_on_the_first_page() -> None:
    read = set(
        re.findall(r'"((?:AIRFREIGHT|HF|DOCKER)_[A-Z_]+)"', (ROOT / "include/airfreight/environment.py").read_text())
    )
    assert {"HF_TOKEN", "DOCKER_CONFIG", "AIRFREIGHT_XET_ABOVE"} <= read
    text = (ROOT / "README.md").read_text()
    assert not [name for name in read | {"AIRFREIGHT_LEDGER", "AIRFREIGHT_DEBUG"} if name not in text]


def test_every_section_of_the_form_is_in_the_first_run() -> None:
    tree = ast.parse((ROOT / "plugins/airfreight_airflow/form.py").read_text())
    makers = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in ("_source", "_patterns")]
    dicts = [node for maker in makers for node in ast.walk(maker) if isinstance(node, ast.Dict)]
    fields = {key.value for node in dicts for key in node.keys if isinstance(key, ast.Constant)}
    assert len(fields) == 5
    paragraph = next(line for line in (DOCS / "install.md").read_text().splitlines() if 'under "Source"' in line)
    assert fields <= set(re.findall(r"`([a-z_]+)`", paragraph))


# ---- floor plan --------------------------------------------------------------------------------------------------


def test_the_floor_plan_has_every_file_of_dags_plugins_and_library() -> None:
    planned = set()
    for line in (DOCS / "architecture.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        # A bare file name is a neighbour of the path that the row begins with.
        names = [span for span in re.findall(r"`([^`]+)`", line) if span.endswith(".py")]
        planned |= {name if "/" in name else str(Path(names[0]).parent / name) for name in names}
    folders = ("dags", "plugins", "include/airfreight")
    files = {file.relative_to(ROOT).as_posix() for folder in folders for file in (ROOT / folder).rglob("*.py")}
    assert not sorted(file for file in files - planned if not file.endswith("__init__.py"))


# ---- rights ------------------------------------------------------------------------------------------------------


def test_the_table_of_rights_is_what_the_manifests_grant() -> None:
    documented = set()
    for account, place, group, resources, verbs in _table(DOCS / "operations.md", "service account", "namespace"):
        for resource in resources.replace("`", "").split():
            documented |= {(account.strip("`"), place, group, resource, verb) for verb in verbs.split()}
    assert documented == set(_granted())


def test_the_page_on_safety_names_the_verbs_on_policies() -> None:
    verbs = sorted(verb for *_, group, resource, verb in _granted() if resource == "networkpolicies" and group)
    said = re.search(r"NetworkPolicies \(([a-z, ]+)\)", (DOCS / "security.md").read_text())
    assert said and sorted(said[1].split(", ")) == verbs


def test_an_airflow_inside_the_cluster_is_bound_wherever_airflow_has_a_role() -> None:
    bindings = [item["metadata"] for item in _objects() if item["kind"] == "RoleBinding"]
    bound = {metadata["namespace"] for metadata in bindings if metadata["name"] == "airfreight-airflow"}
    text = (DOCS / "install.md").read_text()
    assert set(re.findall(r"--namespace (\S+) create rolebinding airflow --role=airfreight-airflow", text)) == bound


def test_every_account_that_runs_the_worker_image_is_given_its_login() -> None:
    accounts = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in _objects()
                if item["kind"] == "ServiceAccount"}  # fmt: skip
    text = (DOCS / "install.md").read_text()
    loop = re.search(r"for account in ([a-z -]+); do", text)
    assert loop
    # Airflow's own account runs no pod of ours.
    workers = {name for place, name in accounts if place == "airfreight"} - {"airfreight-airflow"}
    assert set(loop[1].split()) == workers
    builders = re.search(r"For buildah do the same in `airfreight-build`, for `([a-z-]+)` and `([a-z-]+)`", text)
    assert builders and set(builders.groups()) == {name for place, name in accounts if place == "airfreight-build"}


@each_page
def test_an_overlay_beside_include_finds_its_resources(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        if "kind: Kustomization" not in block:
            continue
        for resource in yaml.safe_load(block)["resources"]:
            assert (ROOT / "an-overlay" / resource).resolve().is_dir(), resource
            assert "Beside `include`," in (DOCS / "install.md").read_text()


def test_accounts_said_to_have_no_token_have_none() -> None:
    accounts = {item["metadata"]["name"]: item for item in _objects() if item["kind"] == "ServiceAccount"}
    without = {name for name, item in accounts.items() if item.get("automountServiceAccountToken") is False}
    assert without == {"airfreight-publisher", "airfreight-builder", "airfreight-validator", "airfreight-model"}
    lines = (DOCS / "operations.md").read_text().splitlines()
    sentence = next(line for line in lines if "no role and no token" in line)
    assert without == set(re.findall(r"`(airfreight-[a-z]+)`", sentence))


def test_pod_security_levels_are_as_said() -> None:
    label = "pod-security.kubernetes.io/enforce"
    namespaces = [item["metadata"] for item in _objects() if item["kind"] == "Namespace"]
    levels = {namespace["name"]: namespace["labels"][label] for namespace in namespaces}
    assert levels == {"airfreight": "restricted", "airfreight-build": "baseline", "models": "baseline"}
    text = (DOCS / "security.md").read_text()
    assert "Worker namespace: `restricted`" in text
    assert "Builder namespace: `baseline`" in text
    assert "Target namespace: `baseline`" in text


# ---- sentences, words, refusals ----------------------------------------------------------------------------------


def test_failure_sentences_are_quoted_as_the_code_says_them() -> None:
    said = _sentences()
    rows = _table(DOCS / "operations.md", "sentence", "exit code")
    assert len(rows) > 30
    wrong = [row[0] for row in rows if not any(row[0].strip("`") in sentence for sentence in said)]
    assert not wrong


def test_refused_files_are_all_named() -> None:
    from airfreight.prechecks import UNSAFE_SUFFIXES, WEIGHT_SUFFIXES

    text = (DOCS / "security.md").read_text()
    assert not [suffix for suffix in (*UNSAFE_SUFFIXES, *WEIGHT_SUFFIXES) if f"`{suffix}`" not in text]


def test_exit_codes_are_those_of_the_errors() -> None:
    from airfreight import errors

    rows = _table(DOCS / "architecture.md", "exit code", "error")
    documented = {row[1].strip("`"): int(row[0]) for row in rows if row[1]}
    kinds = (errors.RequestError, errors.IntegrityError, errors.GateError, errors.TemporaryError)
    assert documented == {kind.__name__: kind.exit_code for kind in kinds}


# ---- reading the pages -------------------------------------------------------------------------------------------


def _prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _code(page: Path) -> Iterator[str]:
    """Every inline code span, and every line of every code block with its continuations joined."""
    text = page.read_text()
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ")
    yield from re.findall(r"`([^`\n]+)`", _prose(page))


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of headings: lower case, punctuation gone, blanks as dashes."""
    headings = re.findall(r"^#+ (.+)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _paths(page: Path) -> set[str]:
    text = page.read_text()
    folders = "|".join(re.escape(folder) for folder in FOLDERS)
    below = re.findall(rf"(?<![\w/.:<>-])(?:\.\./)?((?:{folders})/[\w./*-]*)", text)
    files = [span for span in re.findall(r"`([^`\n]+)`", _prose(page)) if FILE_NAME.fullmatch(span)]
    # A bare file name beside a path in the same page means a neighbour of that path.
    return {path.rstrip(".") for path in below} | {name for name in files if not _is_neighbour(name, below)}


def _is_neighbour(name: str, paths: list[str]) -> bool:
    return any((ROOT / path).parent.joinpath(name).exists() for path in paths) or name in {
        "kustomization.yaml",
        "airfreight.json",
    }


def _exists(path: str) -> bool:
    return any(ROOT.glob(path)) if "*" in path else (ROOT / path).exists()


def _table(page: Path, *first: str) -> list[list[str]]:
    """The rows of the table whose heading begins with these words."""
    rows: list[list[str]] = []
    inside = False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if tuple(cells[: len(first)]) == first:
            inside = True
        elif inside and not cells:
            break
        elif inside and not set(line) <= set("|- :"):
            rows.append(cells)
    assert rows, f"{page.name} has no table that begins with {first}"
    return rows


def _airfreight_lines(page: Path) -> Iterator[list[str]]:
    """The words after `airfreight` wherever a line of code calls it with something."""
    for line in _code(page):
        found = re.match(r"(?:\S*bin/)?airfreight (?!\W*$)(.+)", line)
        if found:
            words = found[1].split()
            yield [word for word in words if word not in {HOLE, "SOURCE", "DESTINATION", "RUN_ID"}]


def _command(words: list[str]) -> tuple[str | None, set[str]]:
    """The command that these words name, and its options; None when there is no such command."""
    command = get_command(build_app())
    path: list[str] = []
    for word in words:
        children = getattr(command, "commands", None)
        if children is None or word.startswith("-"):
            break
        if word not in children:
            return None, set()
        command = children[word]
        path.append(word)
    known = {option for parameter in command.params for option in parameter.opts}
    return " ".join(path), known | {"--help"}


# ---- reading the code --------------------------------------------------------------------------------------------


def _settings_read() -> dict[str, str]:
    """Every key that settings.py reads, and its default."""
    tree = ast.parse((ROOT / "plugins/airfreight_airflow/settings.py").read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_read":
            key, *default = [ast.literal_eval(argument) for argument in node.args]
            found[key] = default[0] if default else ""
    return found


def _objects() -> Iterator[dict[str, Any]]:
    for file in sorted((ROOT / "include/kubernetes").rglob("*.yaml")):
        for item in yaml.safe_load_all(file.read_text()):
            if item and "kind" in item and "runtimes" not in file.parts:
                yield item


def _granted() -> Iterator[tuple[str, str, str, str, str]]:
    """Each right as (service account, where, group, resource, verb); where is a kind of namespace, or the cluster."""
    places = {"airfreight": "worker", "airfreight-build": "builder", "models": "target", "kserve": "kserve"}
    roles = {}
    for item in _objects():
        if item["kind"] in ("Role", "ClusterRole"):
            roles[item["metadata"].get("namespace"), item["metadata"]["name"]] = item["rules"]
    for binding in (item for item in _objects() if item["kind"] in ("RoleBinding", "ClusterRoleBinding")):
        namespace = binding["metadata"].get("namespace")
        for subject, rule in product(binding["subjects"], roles[namespace, binding["roleRef"]["name"]]):
            for group, resource, verb in product(rule["apiGroups"], rule["resources"], rule["verbs"]):
                yield subject["name"], places.get(namespace, "cluster"), group or "core", resource, verb


def _sentences() -> list[str]:
    """Every text in the code, each value in it replaced by one `…`: some errors are put together from such parts."""
    files = [*(ROOT / "include/airfreight").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    return [text for file in files for node in ast.walk(ast.parse(file.read_text())) if (text := _text(node))]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return ""
