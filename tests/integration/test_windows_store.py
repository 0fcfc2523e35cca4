"""The record of windows in a real bucket: conditional writes, a herd for one window, and the report."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airfreight.cli import main
from airfreight.windows import Current, Record, text_of
from airfreight.windows_store import open_log, recorded_models
from tests.integration.conftest import Minio

pytestmark = pytest.mark.integration

START = datetime(2026, 10, 1, 8, tzinfo=UTC)


@pytest.fixture
def root(minio: Minio, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", minio.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
    return f"s3://{bucket}/site/"


def record(name: str = "pong", run: str = "r") -> Record:
    times = {"first_token": text_of(START + timedelta(hours=1)), "stopped": text_of(START + timedelta(hours=5))}
    return Record("20261001T080000Z-hours", name, "models", "hours", run, text_of(START), **times)


def test_of_a_herd_one_run_keeps_the_window_and_all_notes_are_kept(root: str) -> None:
    def take(number: int) -> Current:
        asked = Current(f"w{number}", f"run{number}", touched=f"2026-10-01T08:00:{number:02d}.000Z")
        return open_log(root, "models", "pong").take(asked, lambda run: True)

    with ThreadPoolExecutor(6) as herd:
        seen = list(herd.map(take, range(6)))
    keeper = open_log(root, "models", "pong").current()
    assert {one.run for one in seen} == {keeper.run}
    assert keeper.touched == "2026-10-01T08:00:05.000Z"


def test_a_window_of_the_hours_begins_once_whoever_is_faster(root: str) -> None:
    with ThreadPoolExecutor(6) as herd:
        begun = list(
            herd.map(lambda number: open_log(root, "models", "pong").begin(record(run=f"r{number}")), range(6))
        )
    assert len({one.run for one in begun}) == 1
    log = open_log(root, "models", "pong")
    log.update("20261001T080000Z-hours", closed_because="idle")
    assert log.records() == [Record(**{**vars_of(begun[0]), "closed_because": "idle"})]


def vars_of(one: Record) -> dict[str, str]:
    return {key: value for key, value in json.loads(one.to_json()).items() if key != "format"}


def test_the_report_finds_every_model_of_a_namespace(root: str, tmp_path: Path) -> None:
    for name in ("pong", "ping"):
        open_log(root, "models", name).begin(record(name))
    assert recorded_models(root, "models") == ["ping", "pong"] and recorded_models(root, "others") == []
    assert main(["report", "--store", root, "--month", "2026-10", "--result", str(tmp_path / "r")]) == 0
    months = json.loads((tmp_path / "r").read_text())["months"]
    assert [(one["name"], one["paid"], one["serving"]) for one in months] == [("ping", 5.0, 4.0), ("pong", 5.0, 4.0)]
