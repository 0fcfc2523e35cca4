"""Reading through Xet: the real hf_xet against a content store in a directory (its own `local://` scheme)."""

from __future__ import annotations

import builtins
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import hf_xet
import httpx2
import pytest

from airfreight.environment import HubSettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.retry import Patience
from airfreight.source import HubModel
from airfreight.stores.hub import HubSource
from airfreight.stores.xet import CHUNK
from airfreight.transfer import copy
from tests.unit.memory_store import MemoryStore
from tests.unit.test_hub_source import COMMIT, send, serving

WEIGHTS = random.Random(7).randbytes(9 * 1024 * 1024 + 13)
ALL_THROUGH_XET = 0
FAR_IN_THE_FUTURE = "4102444800"


@dataclass
class XetHub:
    """A hub with one file, in Xet; `asked` has every request as (path, token given)."""

    cas: str
    xet_hash: str
    asked: list[tuple[str, bool]]
    url: str = ""
    speaks_xet: bool = True
    plain_http: bool = True

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.asked.append((path, "Authorization" in handler.headers))
        if "/xet-read-token/" in path:
            told = {"X_Xet_Cas_Url": self.cas, "X_Xet_Access_Token": "t", "X_Xet_Token_Expiration": FAR_IN_THE_FUTURE}
            return send(handler, b"{}", **(told if self.speaks_xet else {}))
        if "/tree/" in path:
            entry = {
                "type": "file", "path": "model.safetensors", "size": len(WEIGHTS), "oid": "0" * 40,
                "lfs": {"oid": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)}, "xetHash": self.xet_hash,
            }  # fmt: skip
            return send(handler, json.dumps([entry]).encode())
        if path.startswith("/api/"):
            return send(handler, f'{{"id":"acme/pong","sha":"{COMMIT}"}}'.encode())
        return send(handler, WEIGHTS) if self.plain_http else send(handler, b"too large", 403)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A content store that holds the weights, and their Xet hash.

    Another process fills it: hf_xet's threads would outlive the test and disturb the next one.
    """
    directory = tmp_path_factory.mktemp("cas")
    script = (
        "import sys, hf_xet\n"
        "with hf_xet.XetSession().new_upload_commit(endpoint=f'local://{sys.argv[1]}') as commit:\n"
        "    handle = commit.start_upload_bytes(sys.stdin.buffer.read(), name='w')\n"
        "print(handle.result().xet_info.hash)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, directory], input=WEIGHTS, capture_output=True, check=True)
    return directory, done.stdout.decode().strip()


@pytest.fixture
def hub(stored: tuple[Path, str]) -> Iterator[XetHub]:
    standin = XetHub(f"local://{stored[0]}", stored[1], [])
    with serving(standin.answer) as url:
        standin.url = url
        yield standin


def source(hub: XetHub, above: int = ALL_THROUGH_XET) -> HubSource:
    return HubSource(HubModel("acme/pong"), HubSettings(hub.url, "hf_token", above), httpx2.Timeout(5))


def fetched(hub: XetHub) -> list[str]:
    return [path for path, _ in hub.asked if "/resolve/" in path]


def test_a_file_in_xet_comes_over_plain_http_where_it_is_not_too_large(hub: XetHub) -> None:
    reader = source(hub, above=len(WEIGHTS))
    assert b"".join(reader.open(reader.manifest().files[0])) == WEIGHTS
    assert not [path for path, _ in hub.asked if "xet-read-token" in path]


@pytest.mark.parametrize("offset", [0, 1, CHUNK, len(WEIGHTS) - 1, len(WEIGHTS)])
def test_a_file_that_is_too_large_comes_through_xet_from_any_offset(hub: XetHub, offset: int) -> None:
    hub.plain_http = False
    reader = source(hub, above=len(WEIGHTS) - 1)
    chunks = list(reader.open(reader.manifest().files[0], offset))
    assert b"".join(chunks) == WEIGHTS[offset:]
    assert max(map(len, chunks), default=0) <= CHUNK
    assert fetched(hub) == []


def test_it_is_verified_like_any_other(hub: XetHub, stored: tuple[Path, str], tmp_path: Path) -> None:
    """hf_xet passes on a byte that was changed in the content store; the engine does not."""
    damaged = tmp_path / "cas"
    subprocess.run(["cp", "-r", stored[0], damaged], check=True)
    block = max((path for path in damaged.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(block.read_bytes())
    content[len(content) // 2] ^= 1
    block.chmod(0o644)
    block.write_bytes(content)
    hub.cas = f"local://{damaged}"
    store = MemoryStore(part_size=1024 * 1024)
    with pytest.raises(IntegrityError, match=r"model\.safetensors has sha256 [0-9a-f]{64}, the manifest says"):
        copy(source(hub), store, patience=Patience(attempts=1))
    assert store.objects == {}
    assert store.manifest is None


def test_a_copy_through_xet_is_whole(hub: XetHub) -> None:
    store = MemoryStore(part_size=1024 * 1024)
    copy(source(hub), store)
    assert store.objects["model.safetensors"][0] == WEIGHTS


def test_streams_take_turns_and_share_one_session(hub: XetHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream and each session has buffers of its own: two at a time would be twice the memory."""
    made: list[object] = []
    real = hf_xet.XetSession

    def counted(*arguments: object) -> object:
        made.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(hf_xet, "XetSession", counted)
    reader = source(hub)
    file = reader.manifest().files[0]
    first = reader.open(file)
    next(first)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(lambda: b"".join(reader.open(file))) for _ in range(3)]
        assert wait(others, timeout=0.5).done == set()
        first.close()
        assert [other.result(timeout=30) == WEIGHTS for other in others] == [True, True, True]
    assert len(made) == 1


def test_the_caller_may_stop_early_and_read_again(hub: XetHub) -> None:
    reader = source(hub)
    file = reader.manifest().files[0]
    stream = reader.open(file)
    assert WEIGHTS.startswith(next(stream))
    stream.close()
    assert b"".join(reader.open(file)) == WEIGHTS


def test_a_hub_that_does_not_speak_xet_is_named(hub: XetHub) -> None:
    hub.speaks_xet = False
    reader = source(hub)
    with pytest.raises(RequestError, match=r"has model\.safetensors in Xet and does not say where .*: set HF_ENDPOINT"):
        b"".join(reader.open(reader.manifest().files[0]))


@pytest.mark.parametrize("cas", ["local://{}/empty", "http://127.0.0.1:9"])
def test_a_content_store_that_is_down_or_lacks_the_file_is_temporary(hub: XetHub, tmp_path: Path, cas: str) -> None:
    """hf_xet may also end its stream without an error."""
    hub.cas = cas.format(tmp_path)
    reader = source(hub)
    with pytest.raises(TemporaryError, match=r"(ended|Reading) model\.safetensors .*try again later\."):
        b"".join(reader.open(reader.manifest().files[0]))


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        ("XetAuthenticationError", RequestError, "refused the hub's token for model.safetensors (no): check"),
        ("XetObjectNotFoundError", RequestError, "does not have model.safetensors (no): choose another revision"),
        ("RuntimeError", TemporaryError, "Reading model.safetensors of hf://acme/pong through Xet broke (no): check"),
        ("ConnectionError", TemporaryError, "through Xet broke (no): check the network to the Xet store"),
    ],
)
def test_what_hf_xet_raises_becomes_one_sentence(
    hub: XetHub, monkeypatch: pytest.MonkeyPatch, error: str, kind: type[Exception], sentence: str
) -> None:
    raised = getattr(hf_xet, error, None) or getattr(builtins, error)

    class Broken:
        def __init__(self, *_: object) -> None:
            raise raised("no")

    monkeypatch.setattr(hf_xet, "XetSession", Broken)
    reader = source(hub)
    with pytest.raises(kind) as caught:
        b"".join(reader.open(reader.manifest().files[0]))
    assert sentence in str(caught.value)
