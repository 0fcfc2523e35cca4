"""`make setup` where nothing is prepared: a bare PATH with Debian's Python, no Go, an empty home and an empty cache."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from devcluster import versions
from devcluster.config import REPOSITORY

pytestmark = pytest.mark.e2e

BARE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# How this machine reaches its package index: without these nothing could be installed at all.
PASSED_ON = ("SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
PASSED_ON_PREFIXES = ("PIP_", "UV_")

ASK_FOR_GO = """
import subprocess
from devcluster import toolchain
from devcluster.config import Cluster

go = toolchain.go(Cluster.from_environment())
print(go)
print(toolchain._go_version(str(go)))
print(subprocess.run([go, "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip())
"""


def passed_on(name: str) -> bool:
    """Whether the bare environment keeps a variable of this one."""
    return name.upper() in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tracked files, as a fresh clone has them."""
    target = tmp_path / "airfreight"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if (REPOSITORY / name).is_file():  # removed, and not committed yet
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target / name)
    return target


def run(command: list[str], copy: Path, environment: dict[str, str]) -> str:
    """Run a command in the copy with this environment and no other; its output, which a failure shows whole."""
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=570)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_setup_and_toolchain_on_a_bare_path(copy: Path, tmp_path: Path) -> None:
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if passed_on(name)}
    environment |= {"PATH": BARE_PATH, "HOME": str(home), "AIRFREIGHT_CACHE": str(cache)}

    said = run(["make", "setup"], copy, environment)
    assert "Python environment in .venv: made" in said
    assert "Python environment in .venv: present" in run(["make", "setup"], copy, environment)

    assert "resolve" in run([".venv/bin/airfreight", "--help"], copy, environment)

    go, version, root = run([".venv/bin/python", "-c", ASK_FOR_GO], copy, environment).splitlines()
    assert Path(go).is_relative_to(cache), "a Go of this machine was taken: the test's PATH is not bare"
    assert ast.literal_eval(version) >= versions.GO_MINIMUM
    assert Path(root).is_relative_to(cache), "this Go looks for its own library elsewhere"
