"""The release ledger in a real bucket: conditional writes, one lock for all, and what is in the objects."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from airfreight.checkpoint import Stored
from airfreight.errors import AirfreightError, RequestError
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Event, Found, Release, State, Target
from airfreight.ledger_store import open_ledger
from airfreight.retry import HeldError
from tests.integration.conftest import Minio

pytestmark = pytest.mark.integration

A, B = "a" * 12, "b" * 12
TARGET = Target("models", "pong")


@pytest.fixture
def root(minio: Minio, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", minio.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio.secret_key)
    return f"s3://{bucket}/site/"


def release(name: str) -> Release:
    return Release(
        release=name,
        artifact=f"s3://llm-models/acme/pong/{name}/",
        source=f"hf://acme/pong@{name}",
        served_name="acme/pong",
        runtime="airfreight-vllm-cpu-000000000000",
        inference_service={"kind": "InferenceService", "metadata": {"name": "pong"}},
    )


def made_live(book: Ledger, name: str, over: str | None = None) -> None:
    book.register(release(name), Event(State.CANDIDATE, "run"))
    book.promote(name, over, Event(State.LIVE, "run"))


def objects(minio: Minio, root: str) -> dict[str, Any]:
    bucket = root.split("/")[2]
    client = minio.client()
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {one["Key"]: json.loads(client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()) for one in listed}


def test_what_lies_in_the_bucket(minio: Minio, root: str) -> None:
    book = open_ledger(root, TARGET)
    book.take("run")
    book.note("run", A, Found(existed=True, stopped=True))
    made_live(book, A)
    found = objects(minio, root)
    folder = "site/.airfreight/releases/models/pong/"
    assert sorted(found) == [f"{folder}{name}" for name in (f"{A}.json", f"{A}.state.json", "live.json", "lock.json")]
    assert found[f"{folder}live.json"]["release"] == A
    assert found[f"{folder}{A}.json"]["inference_service"]["kind"] == "InferenceService"
    assert [event["state"] for event in found[f"{folder}{A}.state.json"]["history"]] == ["candidate", "live"]
    assert found[f"{folder}lock.json"]["found"] == {"existed": True, "left": [], "live": None, "stopped": True}
    assert open_ledger(root, TARGET).read(A) == release(A)


@pytest.mark.parametrize("writers", [8])
def test_of_many_runs_that_want_a_target_at_once_one_gets_it(root: str, writers: int) -> None:
    start, got, refused = threading.Barrier(writers), [], []

    def take(run: str) -> None:
        book = open_ledger(root, TARGET)
        start.wait()
        try:
            book.take(run)
            got.append(run)
        except HeldError as error:
            refused.append(error.message)

    _all_at_once([threading.Thread(target=take, args=(f"run-{number}",)) for number in range(writers)])
    assert len(got) == 1 and len(refused) == writers - 1
    assert all(f"Another run ({got[0]}) is changing pong" in sentence for sentence in refused)
    assert open_ledger(root, TARGET).holder() == got[0]


def test_of_two_candidates_promoted_at_once_one_is_live(root: str) -> None:
    book = open_ledger(root, TARGET)
    for name in (A, B):
        book.register(release(name), Event(State.CANDIDATE, "run"))
    start, won, lost = threading.Barrier(2), [], []

    def promote(name: str) -> None:
        own = open_ledger(root, TARGET)
        start.wait()
        try:
            won.append(own.promote(name, None, Event(State.LIVE, "run")).release)
        except RequestError as error:
            lost.append(error.message)

    _all_at_once([threading.Thread(target=promote, args=(name,)) for name in (A, B)])
    live = book.live()
    assert live is not None and won == [live.release] and len(lost) == 1
    assert f"has release {live.release} live now, and had (none)" in lost[0]


def test_a_write_whose_answer_was_lost_counts_once(root: str) -> None:
    book = open_ledger(root, TARGET)
    shelf: Any = book._shelf
    write, lost = shelf.write, []

    def write_and_lose(name: str, data: bytes, tag: str | None) -> str:
        made = write(name, data, tag)
        if name == "lock.json" and not lost:
            lost.append(name)
            return str(write(name, data, tag))  # as a retry below us would: refused, for it is there
        return str(made)

    shelf.write = write_and_lose
    book.take("run")
    assert lost and book.holder() == "run"


def test_the_age_of_a_lock_is_the_stores(root: str) -> None:
    book = open_ledger(root, TARGET)
    book.take("run")
    there: Stored | None = book._shelf.read("lock.json")
    assert there is not None and 0 <= there.age < 30


def test_the_same_in_a_directory(tmp_path: Path) -> None:
    root = f"file://{tmp_path}/"
    book = open_ledger(root, TARGET)
    book.take("run")
    made_live(book, A)
    made_live(book, B, over=A)
    again = open_ledger(root, TARGET)
    assert {entry.release: entry.state for entry in again.entries()} == {A: State.SUPERSEDED, B: State.LIVE}
    with pytest.raises(HeldError):
        again.take("other")


def test_without_a_root_or_a_bucket_it_says_so(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFREIGHT_LEDGER", raising=False)
    with pytest.raises(RequestError, match="No release ledger is named: give --ledger s3://bucket/root/"):
        open_ledger(None, TARGET)
    monkeypatch.setenv("AIRFREIGHT_LEDGER", "s3://no-such-bucket-here/")
    with pytest.raises(AirfreightError, match="Bucket no-such-bucket-here does not exist"):
        open_ledger(None, TARGET).live()


def _all_at_once(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
