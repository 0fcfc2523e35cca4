"""`airfreight report`: what it refuses, and what it says where nothing is recorded."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from airfreight import windows_store
from airfreight.cli import main
from airfreight.environment import S3Settings
from airfreight.errors import RequestError
from airfreight.source import S3Root
from airfreight.stores.s3_errors import Place
from airfreight.window_sums import check_month
from airfreight.windows import Record, WindowLog, text_of
from tests.unit.memory_store import MemoryShelf

STORE = "s3://llm-models/ for namespace models"


@pytest.fixture
def shelves(monkeypatch: pytest.MonkeyPatch) -> dict[str, MemoryShelf]:
    """Two models with a window each in October 2026; the folders of a store by their models."""
    found: dict[str, MemoryShelf] = {}
    for name in ("ping", "pong"):
        found[name] = MemoryShelf()
        start = text_of(datetime(2026, 10, 1, 8, tzinfo=UTC))
        stopped = text_of(datetime(2026, 10, 1, 13, tzinfo=UTC))
        record = Record("20261001T080000Z-hours", name, "models", "hours", "r", start, stopped=stopped)
        WindowLog(found[name]).begin(record)
    monkeypatch.setattr(windows_store, "_shelf", lambda root, below: found[below.strip("/").rpartition("/")[2]])
    monkeypatch.setattr(windows_store, "recorded_models", lambda root, namespace: sorted(found))
    return found


@pytest.mark.parametrize("month", ["2026-13", "2026-00", "2026-1", "2026", "26-10", "2026-10-01", "10/2026", "٢٠٢٦-10"])
def test_a_month_that_is_none_is_refused(
    shelves: dict[str, MemoryShelf], month: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--month", month]) == 2
    said = capsys.readouterr()
    assert f'--month is "{month}", which is no month; write year and month, like 2026-11.' in said.err and not said.out


def test_an_empty_month_is_all_of_them(shelves: dict[str, MemoryShelf], capsys: pytest.CaptureFixture[str]) -> None:
    check_month("")
    assert main(["report"]) == 0
    assert {"2026-10", "2026-11"} <= {line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]}


def test_a_month_is_one_month(shelves: dict[str, MemoryShelf], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--month", "2026-10", "--model", "pong", "--model", "pong"]) == 0
    rows = [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["pong", "2026-10", "1", "5.0"]], "named twice it is summed once"


def test_a_month_without_a_record_is_said(
    shelves: dict[str, MemoryShelf], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["report", "--month", "2025-12", "--result", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out.startswith("Nothing is recorded of 2025-12; the records go from 2026-10 to ")
    assert json.loads((tmp_path / "r").read_text()) == {"months": []}


@pytest.mark.parametrize(
    ("model", "end"), [("pogn", '; did you mean "pong"?'), ("qwen", "; there are ping, pong."), ("", "; there are")]
)
def test_a_model_without_a_record_is_named(
    shelves: dict[str, MemoryShelf], model: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--model", "ping", "--model", model]) == 2
    said = capsys.readouterr()
    assert f'--model is "{model}", of which no window is recorded in {STORE}{end}' in said.err and not said.out


def test_a_store_without_records_is_named(shelves: dict[str, MemoryShelf], capsys: pytest.CaptureFixture[str]) -> None:
    shelves["pong"].objects.clear()
    sentence = f"There is no record of a window in {STORE}; look at --store."
    assert main(["report", "--model", "pong"]) == 2 and sentence in capsys.readouterr().err
    shelves.clear()
    assert main(["report", "--model", "pong"]) == 2 and sentence in capsys.readouterr().err


def test_a_person_is_told_of_their_own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "KUBERNETES_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert main(["report"]) == 2
    assert (
        "There are no credentials for bucket llm-models at http://127.0.0.1:9: put AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY into the environment of this command." in capsys.readouterr().err
    )
    place = Place(S3Root("llm-models"), S3Settings.from_environment())
    denied = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {}}}
    with pytest.raises(RequestError, match="give the user of AWS_ACCESS_KEY_ID the rights s3:"), place.translated():
        raise ClientError(denied, "ListObjectsV2")  # type: ignore[arg-type]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert main(["report"]) == 2
    assert "AWS_SECRET_ACCESS_KEY into Secret airfreight-store." in capsys.readouterr().err
