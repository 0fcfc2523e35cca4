"""Fixtures that put tests/standins/buildah.py in the place of buildah; a test module imports what it uses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from airfreight import buildah

FAKE = Path(__file__).parents[1] / "standins" / "buildah.py"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in on PATH, and the file where it writes what it was told."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "buildah").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{FAKE}" "$@"\n')
    (programs / "buildah").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_BUILDAH_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(buildah, "TICK", 0.05)
    return tmp_path / "log"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """An empty working directory."""
    place = tmp_path / "work"
    place.mkdir()
    return place


def told(log: Path) -> list[list[str]]:
    """The calls, without what stands before the command."""
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    return [call[8:] if call[0] == "--root" else call for call in calls]
