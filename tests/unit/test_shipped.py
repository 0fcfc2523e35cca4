"""Files beside the code: found in a checkout, and named for installation."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from airfreight import shipped

ROOT = Path(__file__).parents[2]


def test_a_checkout_has_its_own() -> None:
    assert shipped.shipped("models.yaml") == ROOT / "include" / "models.yaml"


def test_an_installed_package_has_them_in_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "_CHECKOUT", tmp_path)
    assert shipped.shipped("models.yaml") == Path(sys.prefix) / "share" / "airfreight" / "models.yaml"


def test_what_is_installed_is_what_is_looked_up() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    for place, patterns in named.items():
        for pattern in patterns:
            for file in ROOT.glob(pattern):
                relative = file.relative_to(ROOT / "include")
                assert Path(place) / file.name == Path("share/airfreight") / relative


def test_the_worker_image_gets_them() -> None:
    recipe = (ROOT / "include/images/worker/Dockerfile").read_text()
    for source in ("include/kubernetes/runtimes", "include/models.yaml"):
        assert f"COPY {source} " in recipe
