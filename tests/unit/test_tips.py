"""`airfreight tips`: where branches are, with one call for each, against the stand-in hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from airfreight.cli import main
from devcluster.hub.faults import Fault
from devcluster.hub.repository import Library
from devcluster.hub.server import HubServer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    Library(tmp_path).publish("acme/pong", {"model.safetensors": b"x"}, title="One")
    with HubServer(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def tips(tmp_path: Path, *sources: str) -> dict[str, dict[str, str]]:
    assert main(["tips", *sources, "--result", str(tmp_path / "r.json")]) == 0
    found: dict[str, dict[str, str]] = json.loads((tmp_path / "r.json").read_text())["tips"]
    return found


def test_a_branch_that_moves(hub: HubServer, tmp_path: Path) -> None:
    first = tips(tmp_path, "hf://acme/pong@main")["hf://acme/pong@main"]
    second = Library(tmp_path).publish("acme/pong", {"model.safetensors": b"y"}, title="Two")
    assert tips(tmp_path, "hf://acme/pong@main")["hf://acme/pong@main"] == {"commit": second, "problem": ""}
    assert len(first["commit"]) == 40 and first["commit"] != second


def test_one_that_cannot_be_looked_at_keeps_no_other_from_its_answer(hub: HubServer, tmp_path: Path) -> None:
    found = tips(
        tmp_path, "hf://acme/nowhere@main", "hf://acme/pong@gone", "hf://acme/pong@main", "hf://acme/pong@main"
    )
    assert "does not exist" in found["hf://acme/nowhere@main"]["problem"]
    assert "has no revision 'gone'" in found["hf://acme/pong@gone"]["problem"]
    assert found["hf://acme/pong@main"]["commit"] and len(found) == 3


def test_a_hub_that_is_down_is_said_for_each(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("airfreight.stores.hub_tip.CALLS", 1)
    assert "cannot be reached" in tips(tmp_path, "hf://acme/pong@main")["hf://acme/pong@main"]["problem"]


def test_one_call_and_one_more_when_it_fails_for_a_moment(hub: HubServer, tmp_path: Path) -> None:
    tips(tmp_path, "hf://acme/pong@main")
    assert len(hub.stats.requests) == 1
    hub.faults.add(Fault("status", times=5, status=503))
    assert "answers 503" in tips(tmp_path, "hf://acme/pong@main")["hf://acme/pong@main"]["problem"]
    assert len(hub.stats.requests) == 3, "two calls at most"
