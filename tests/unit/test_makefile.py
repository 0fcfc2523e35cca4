"""The Makefile: its help is complete, its targets are commands and no files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Makefile").read_text()
DOCUMENTED = re.findall(r"^([a-z0-9-]+):.*## (.+)$", TEXT, re.MULTILINE)


def make(*words: str) -> str:
    """What make prints, without running anything but `help`."""
    done = subprocess.run(
        ["make", "--no-print-directory", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def phony() -> set[str]:
    """The targets that are declared to be no files."""
    return {
        name for words in re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)", TEXT, re.MULTILINE) for name in words.split()
    } - {"\\"}


def test_every_target_is_documented_and_phony() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):(?!=)", TEXT, re.MULTILINE))
    assert {name for name, _ in DOCUMENTED} == targets
    assert phony() == targets


def test_help_prints_every_target_with_its_words_and_is_what_make_alone_does() -> None:
    printed = make("help")
    for name, words in DOCUMENTED:
        assert re.search(rf"^  {re.escape(name)} +{re.escape(words)}$", printed, re.MULTILINE), name
    assert make() == printed
    for chapter in ("Use", "Test", "Embedded cluster", "Upkeep"):
        assert f"\n{chapter}\n" in printed


def test_demo_sets_up_and_passes_its_settings_on() -> None:
    plan = make("-n", "demo", "MODEL=owner/some model", "CLUSTER=current")
    setup, demo = plan.strip().splitlines()
    assert setup.endswith("-m devcluster.environment")
    assert demo == ".venv/bin/python -m devcluster.demo --model 'owner/some model' --cluster 'current'"


def test_demo_without_settings_delivers_the_stand_in() -> None:
    assert "--model 'acme/pong' --cluster 'embedded'" in make("-n", "demo")


def test_every_module_that_make_runs_exists() -> None:
    for module in re.findall(r"-m ((?:devcluster|tests)[a-z.]*)", TEXT):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
