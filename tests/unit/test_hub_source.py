"""The hub as a source: against the stand-in hub, and against servers that misbehave as real ones do."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from airfreight.environment import HubSettings
from airfreight.errors import AirfreightError, IntegrityError, RequestError, TemporaryError
from airfreight.manifest import ManifestFile
from airfreight.patterns import Patterns
from airfreight.prechecks import Facts
from airfreight.retry import ThrottledError
from airfreight.source import HubModel
from airfreight.stores.hub import HubSource
from airfreight.stores.hub_errors import Asked, retry_after
from devcluster.hub.faults import Fault
from devcluster.hub.repository import Library
from devcluster.hub.server import DEMO_TOKEN, OUTSIDER_TOKEN, HubServer
from tests.standins.web import Listener

WEIGHTS = bytes(range(256)) * 1000
CARDS = {
    "free": b"---\nlicense: Apache-2.0\n---\n",
    "named": b"---\nlicense: other\nlicense_name: llama3\n---\n",
    "silent": b"# A model\n",
}
CONTENTS = {"model.safetensors": WEIGHTS, "config.json": b"{}", "nested/größe 模#?.json": b"[1]", "empty.txt": b""}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    library = Library(root)
    library.publish("acme/pong", CONTENTS, title="Add the model", tag="v1.0")
    library.publish("acme/pong-gated", CONTENTS, title="Add the model", gated="manual")
    library.publish("acme/pong-private", CONTENTS, title="Add the model", private=True)
    library.publish("acme/void", {}, title="Nothing")
    for licence, card in CARDS.items():
        library.publish(f"acme/{licence}", {**CONTENTS, "README.md": card}, title="Add the model")
    library.publish("acme/climber", {"a\\..\\b.safetensors": b"x"}, title="A bad path")
    return root


@pytest.fixture
def hub(library: Path) -> Iterator[HubServer]:
    with HubServer(library, page_size=1) as server:
        yield server


def source(url: str, repo_id: str = "acme/pong", revision: str = "main", token: str | None = None) -> HubSource:
    return HubSource(HubModel(repo_id, revision), HubSettings(url, token), httpx2.Timeout(5))


def weights(of: HubSource) -> ManifestFile:
    return next(file for file in of.manifest().files if file.path == "model.safetensors")


def test_manifest_is_that_of_the_commit(hub: HubServer) -> None:
    manifest = source(hub.url).manifest()
    assert manifest.source == f"hf://acme/pong@{manifest.commit}"
    assert [file.path for file in manifest.files] == sorted(CONTENTS)
    assert weights(source(hub.url)).sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert {file.digest_name for file in manifest.files if file.path.endswith(".json")} == {"git_blob_id"}


def test_branch_tag_and_commit_give_one_manifest(hub: HubServer) -> None:
    commit = source(hub.url).manifest().commit
    assert source(hub.url, revision="v1.0").manifest() == source(hub.url, revision=commit).manifest()


def test_a_branch_that_moves_under_way_changes_nothing(tmp_path: Path) -> None:
    library = Library(tmp_path)
    first = library.publish("acme/pong", CONTENTS, title="One")
    with HubServer(tmp_path) as server:
        moving = source(server.url)
        assert moving.manifest().commit == first
        library.publish("acme/pong", {**CONTENTS, "model.safetensors": b"new"}, title="Two")
        assert b"".join(moving.open(weights(moving))) == WEIGHTS
        assert moving.manifest().commit == first


def test_every_file_is_read_whole_and_from_any_offset(hub: HubServer) -> None:
    reader = source(hub.url)
    for file in reader.manifest().files:
        content = CONTENTS[file.path]
        for offset in {0, 1, file.size // 2, max(0, file.size - 1)} & set(range(max(1, file.size))):
            assert b"".join(reader.open(file, offset)) == content[offset:]


def test_chunks_are_bounded(hub: HubServer) -> None:
    reader = source(hub.url)
    assert max(map(len, reader.open(weights(reader)))) <= 8 * 1024 * 1024


def test_the_token_stays_with_the_hub(hub: HubServer) -> None:
    reader = source(hub.url, "acme/pong-gated", token=DEMO_TOKEN)
    assert b"".join(reader.open(weights(reader))) == WEIGHTS
    told = [(request.path.split("/")[1] == "_cdn", request.token) for request in hub.stats.requests]
    assert set(told) == {(False, True), (True, False)}


@pytest.mark.parametrize(
    ("repo_id", "revision", "token", "sentence"),
    [
        ("acme/pong-gated", "main", None, "hf://acme/pong-gated is gated and no token was given: put a token of an "
         "account with access into Secret airfreight-hub, key token."),
        ("acme/pong-gated", "main", OUTSIDER_TOKEN, "hf://acme/pong-gated is gated and the account of the token has no "
         "access: ask for it at {url}/acme/pong-gated, or put a token of an account with access into Secret "
         "airfreight-hub, key token."),
        ("acme/pong", "main", "hf_unknown", "The hub {url} refused the token: put a valid one into Secret "
         "airfreight-hub, key token."),
        ("acme/pong-private", "main", None, "hf://acme/pong-private does not exist at {url}, or it is private and no "
         "token was given: check the name, or put a token of an account with access into Secret airfreight-hub, key "
         "token."),
        ("acme/pong-private", "main", OUTSIDER_TOKEN, "hf://acme/pong-private does not exist at {url}, or the account "
         "of the token may not see it: check the name, or put a token of an account with access into Secret "
         "airfreight-hub, key token."),
        ("acme/pong", "nope", None, "hf://acme/pong has no revision 'nope': give a branch, a tag or a commit that "
         "exists there, for example main."),
    ],
)  # fmt: skip
def test_a_wrong_request_names_cause_and_remedy(
    hub: HubServer, repo_id: str, revision: str, token: str | None, sentence: str
) -> None:
    with pytest.raises(RequestError) as caught:
        source(hub.url, repo_id, revision, token).manifest()
    assert caught.value.message == sentence.format(url=hub.url)


def test_access_is_asked_for_the_weights_before_they_are_needed(hub: HubServer) -> None:
    """A hub may show a gated model's README and .gitattributes to everybody."""
    source(hub.url).manifest()
    heads = [request.path for request in hub.stats.requests if request.method == "HEAD"]
    assert [path.rpartition("/")[2] for path in heads] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("model", "licences"), [("free", ("apache-2.0",)), ("named", ("other", "llama3")), ("silent", ())]
)
def test_the_licence_is_that_of_the_card(hub: HubServer, model: str, licences: tuple[str, ...]) -> None:
    assert source(hub.url, f"acme/{model}").facts() == Facts(licences)


def test_only_the_files_that_are_wanted_are_listed(hub: HubServer) -> None:
    patterns = Patterns.of(["*.safetensors", "config.json"])
    reader = HubSource(HubModel("acme/pong"), HubSettings(hub.url), httpx2.Timeout(5), patterns)
    manifest = reader.manifest()
    assert [file.path for file in manifest.files] == ["config.json", "model.safetensors"]
    assert manifest.commit == source(hub.url).manifest().commit
    assert manifest.version == manifest.sha256[:12]
    assert b"".join(reader.open(weights(reader))) == WEIGHTS


def test_a_gated_model_with_a_token_is_read(hub: HubServer) -> None:
    assert len(source(hub.url, "acme/pong-gated", token=DEMO_TOKEN).manifest().files) == len(CONTENTS)


def test_no_token_of_the_environment_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", DEMO_TOKEN)
    with pytest.raises(RequestError, match="is gated and no token was given"):
        source(hub.url, "acme/pong-gated").manifest()


def test_an_empty_repository_is_named(hub: HubServer) -> None:
    with pytest.raises(RequestError, match=r"hf://acme/void@[0-9a-f]{40} is empty: publish the weights there first"):
        source(hub.url, "acme/void").manifest()


def test_an_unsafe_path_is_refused(hub: HubServer) -> None:
    with pytest.raises(RequestError, match="holds a backslash: rename the file"):
        source(hub.url, "acme/climber").manifest()


def test_429_tells_how_long_to_wait(hub: HubServer) -> None:
    hub.faults.add(Fault("status", match="/api/*", status=429, retry_after_s=17))
    with pytest.raises(ThrottledError, match="answers 429, too many requests") as caught:
        source(hub.url).manifest()
    assert caught.value.retry_after == 17


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_an_ill_hub_is_temporary(hub: HubServer, status: int) -> None:
    """Also in the listing, where huggingface_hub itself would wait and retry."""
    hub.faults.add(Fault("status", match="*/tree/*", status=status))
    with pytest.raises(TemporaryError, match=f"The hub {hub.url} answers {status}: it is not well now"):
        source(hub.url).manifest()


def test_a_hub_that_is_down_is_temporary() -> None:
    with pytest.raises(TemporaryError, match=r"The hub http://127\.0\.0\.1:9 cannot be reached \(127\.0\.0\.1:9: "):
        source("http://127.0.0.1:9").manifest()


def test_a_cut_stream_is_temporary_and_its_bytes_count(hub: HubServer) -> None:
    hub.faults.add(Fault("cut", match="*model.safetensors", after_bytes=100_000))
    reader, got = source(hub.url), bytearray()
    with pytest.raises(TemporaryError, match=r"broke|cannot be reached"):
        for chunk in reader.open(weights(reader)):
            got += chunk
    assert 0 < len(got) <= 100_000
    assert WEIGHTS.startswith(got)


@pytest.mark.parametrize("by_bytes", [7, -7])
@pytest.mark.parametrize("offset", [0, 1000])
def test_a_hub_that_lies_about_length_is_found_out_before_a_byte_is_taken(
    hub: HubServer, by_bytes: int, offset: int
) -> None:
    hub.faults.add(Fault("length", match="*model.safetensors", by_bytes=by_bytes))
    reader = source(hub.url)
    with pytest.raises(IntegrityError) as caught:
        next(reader.open(weights(reader), offset))
    told, size = len(WEIGHTS) + by_bytes, len(WEIGHTS)
    assert f"the hub offers {told} bytes for model.safetensors, the manifest says {size}; " in caught.value.message
    assert caught.value.message.endswith("serves another file and must be repaired.")


def test_a_stalled_stream_is_temporary(hub: HubServer) -> None:
    hub.faults.add(Fault("stall", match="*model.safetensors", after_bytes=1000, seconds=60))
    reader = HubSource(HubModel("acme/pong"), HubSettings(hub.url), httpx2.Timeout(1))
    with pytest.raises(TemporaryError, match=r"said nothing for 1 s \(ReadTimeout\): check the network to it"):
        b"".join(reader.open(weights(reader)))


def test_the_caller_may_stop_early(hub: HubServer) -> None:
    reader = source(hub.url)
    stream = reader.open(weights(reader))
    next(stream)
    stream.close()
    assert b"".join(reader.open(weights(reader))) == WEIGHTS


# ---- servers that misbehave; each answers as the closure says ----

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]
COMMIT = "41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50"


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            return None

    with Listener(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def send(handler: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def misbehaving(on_file: Answer) -> Answer:
    """Answer model info and tree properly, and a file as told."""
    entry = f'{{"type":"file","path":"model.safetensors","size":10,"oid":"x","lfs":{{"oid":"{"0" * 64}","size":10}}}}'

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        if "/tree/" in handler.path:
            send(handler, f"[{entry}]".encode())
        elif handler.path.startswith("/api/"):
            send(handler, f'{{"id":"acme/pong","sha":"{COMMIT}"}}'.encode())
        else:
            on_file(handler)

    return answer


def read(on_file: Answer, offset: int = 0) -> bytes:
    with serving(misbehaving(on_file)) as url:
        reader = source(url)
        return b"".join(reader.open(reader.manifest().files[0], offset))


def test_a_server_without_range_answers_the_whole_file() -> None:
    assert read(lambda handler: send(handler, b"0123456789"), offset=4) == b"456789"


def test_a_range_that_starts_too_early_is_cut() -> None:
    def early(handler: http.server.BaseHTTPRequestHandler) -> None:
        send(handler, b"23456789", 206, Content_Range="bytes 2-9/10")

    assert read(early, offset=4) == b"456789"


def test_a_range_that_starts_too_late_is_temporary() -> None:
    with pytest.raises(TemporaryError, match="skipped from byte 4 to 6"):
        read(lambda handler: send(handler, b"6789", 206, Content_Range="bytes 6-9/10"), offset=4)


@pytest.mark.parametrize(("offset", "headers"), [(0, {}), (4, {"Content_Range": "bytes 4-10/11"})])
def test_another_length_than_listed_is_an_integrity_error(offset: int, headers: dict[str, str]) -> None:
    body, status = (b"0123456789a"[offset:], 206 if offset else 200)
    with pytest.raises(IntegrityError, match=r"the hub offers 11 bytes for model\.safetensors, the manifest says 10; "):
        read(lambda handler: send(handler, body, status, **headers), offset)


def test_a_body_without_length_that_ends_early_is_temporary() -> None:
    def short(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"01234")
        handler.close_connection = True

    with pytest.raises(TemporaryError, match=r"ended model\.safetensors after 5 of 10 bytes"):
        read(short)


def test_a_proxy_that_compresses_is_named() -> None:
    with pytest.raises(TemporaryError, match="compresses although asked not to"):
        read(lambda handler: send(handler, b"0123456789", Content_Encoding="gzip"))


def test_a_signed_address_that_ran_out_is_temporary() -> None:
    with serving(lambda handler: send(handler, b"expired", 403)) as cdn, pytest.raises(TemporaryError, match="signed"):
        read(lambda handler: send(handler, b"", 302, Location=f"{cdn}/blob?Expires=0"))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"id": "acme/pong"}', b'{"id": "acme/pong", "sha": "main"}'])
def test_another_server_than_a_hub_is_named(body: bytes) -> None:
    sentence = r"with something that is not the hub's format: check HF_ENDPOINT\."
    with serving(lambda handler: send(handler, body)) as url, pytest.raises(RequestError, match=sentence):
        source(url).manifest()


def test_pages_stay_with_the_endpoint() -> None:
    """A mirror that passes on the public hub's links must not make us take the token there."""
    asked: list[str] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        first = "cursor" not in handler.path
        if "/tree/" not in handler.path:
            return send(handler, f'{{"id":"acme/pong","sha":"{COMMIT}"}}'.encode())
        entry = f'[{{"type":"file","path":"{"a" if first else "b"}.json","size":1,"oid":"{"0" * 40}"}}]'
        link = {"Link": '<https://hub.invalid/api/models/acme/pong/tree/x?cursor=2>; rel="next"'} if first else {}
        return send(handler, entry.encode(), **link)

    with serving(answer) as url:
        assert [file.path for file in source(url).manifest().files] == ["a.json", "b.json"]
    assert asked[-1] == "/api/models/acme/pong/tree/x?cursor=2"


# ---- the mapping of errors ----


def every_subclass(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(every_subclass(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize("kind", sorted(every_subclass(httpx2.RequestError), key=lambda kind: kind.__name__))
def test_every_network_error_is_one_of_ours(kind: type[httpx2.RequestError]) -> None:
    asked = Asked(HubModel("acme/pong"), HubSettings("http://hub"))
    with pytest.raises(AirfreightError), asked.translated():
        raise kind("something", request=httpx2.Request("GET", "http://hub:81/x"))


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (httpx2.ConnectTimeout("x"), TemporaryError, "cannot be reached (http://hub: no answer in time): check HF_"),
        (httpx2.ProxyError("403 Forbidden"), RequestError, "The proxy refused to connect to http://hub (403 Forbidden"),
        (httpx2.ProxyError("502 Bad Gateway"), TemporaryError, "The proxy before http://hub failed (502 Bad Gateway)"),
        (
            httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] x"),
            RequestError,
            "that `ca_bundle_configmap` in section",
        ),
        (httpx2.TooManyRedirects("20"), RequestError, "in circles"),
        (OfflineModeIsEnabled("x"), RequestError, "switched off by HF_HUB_OFFLINE: unset it"),
    ],
)
def test_network_errors_name_the_remedy(error: Exception, kind: type[Exception], sentence: str) -> None:
    asked = Asked(HubModel("acme/pong"), HubSettings("http://hub"))
    with pytest.raises(kind) as caught, asked.translated():
        raise error
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"Retry-After": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=3;t=55'}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(httpx2.Headers(headers), datetime(2026, 11, 22, 12, tzinfo=UTC)) == seconds
