"""One repository of a registry: what is asked, what is understood, and what each refusal says."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.retry import Patience, ThrottledError
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, Descriptor, Document, Repository
from tests.standins.registry import Fault, Registry

BYTES = bytes(range(256)) * 1000
DIGEST = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"
MISSING = "sha256:" + "0" * 64
EMPTY = Document(OCI_INDEX, b'{"schemaVersion":2,"manifests":[]}')
QUICK = httpx2.Timeout(0.5)


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(str(tmp_path / "config.json"))


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def repository(registry: Registry, settings: RegistrySettings) -> Repository:
    return Repository(OciImage(registry.host, "acme/pong"), settings)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "1", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


@pytest.fixture
def not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airfreight.stores.oci.wire.is_loopback", lambda _: False)
    monkeypatch.setattr("airfreight.stores.oci.oci_errors.is_loopback", lambda _: False)


def sentence(kind: type[Exception], call: Callable[[], Any]) -> str:
    """Return the one sentence of an error of exactly this kind."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert ". " not in message, "one sentence"
    return message


class TestBlobs:
    def test_size(self, registry: Registry, repository: Repository) -> None:
        registry.put_blob("acme/pong", BYTES)
        assert repository.blob_size(DIGEST) == len(BYTES)
        assert repository.blob_size(MISSING) is None
        assert repository.beside(OciImage(registry.host, "acme/ping")).blob_size(DIGEST) is None

    @pytest.mark.parametrize("ranges", [True, False])
    @pytest.mark.parametrize(("offset", "end"), [(0, None), (5, None), (0, 7), (1000, 250_001), (len(BYTES), None)])
    def test_read_from_and_to_any_byte(
        self, registry: Registry, repository: Repository, ranges: bool, offset: int, end: int | None
    ) -> None:
        registry.ranges = ranges
        registry.put_blob("acme/pong", BYTES)
        assert b"".join(repository.open_blob(DIGEST, len(BYTES), offset, end)) == BYTES[offset:end]

    def test_a_blob_that_ends_early(self, registry: Registry, repository: Repository) -> None:
        registry.put_blob("acme/pong", BYTES)
        registry.faults.append(Fault("break", "GET", "blobs", after=1000))
        message = sentence(TemporaryError, lambda: list(repository.open_blob(DIGEST, len(BYTES))))
        assert message.startswith(f"The connection to the registry {registry.host} broke (")

    def test_a_blob_of_another_size(self, registry: Registry, repository: Repository) -> None:
        registry.put_blob("acme/pong", BYTES)
        message = sentence(IntegrityError, lambda: list(repository.open_blob(DIGEST, 100)))
        assert f"has {len(BYTES)} bytes where its image says 100; nothing was published" in message
        message = sentence(IntegrityError, lambda: list(repository.open_blob(DIGEST, 10**9, 10**8)))
        assert "has fewer bytes where its image says 1000000000" in message

    @pytest.mark.parametrize(
        ("status", "headers", "says"),
        [
            (200, {"Content-Encoding": "gzip"}, "127.0.0.1 compresses although asked not to: take out the proxy that"),
            (206, {"Content-Range": "bytes 500-599/*"}, f"Bytes 0 to 500 of {DIGEST} of the registry 127.0.0.1:"),
            (206, {"Content-Range": "bytes 0-99/*"}, "ended after 100 of 256000 bytes: try again."),
        ],
    )
    def test_answers_that_are_not_what_was_asked(
        self, registry: Registry, repository: Repository, status: int, headers: dict[str, str], says: str
    ) -> None:
        registry.faults.append(Fault("status", "GET", "blobs", status=status, headers=headers, body=bytes(100)))
        assert says in sentence(TemporaryError, lambda: list(repository.open_blob(DIGEST, len(BYTES))))

    def test_a_size_that_is_not_told(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "HEAD", "blobs", status=200, headers={"Transfer-Encoding": "chunked"}))
        message = sentence(TemporaryError, lambda: repository.blob_size(DIGEST))
        assert f"does not tell the size of {DIGEST}: try again, or have it updated" in message

    def test_a_small_blob_whose_upload_was_lost(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("lose", "PUT"))
        assert sentence(TemporaryError, lambda: repository.put_blob(BYTES)) == (
            f"The registry {registry.host} lost an upload to acme/pong (it no longer knows an upload that was begun): "
            "this layer is sent again from its beginning."
        )
        assert Patience(base=0.001).call(lambda: repository.put_blob(BYTES)) == DIGEST, "and so it is"
        registry.faults.append(Fault("lose", "PUT"))
        other = Patience(base=0.001).call(lambda: repository.put_blob(BYTES[1:]))
        assert registry.blobs[other] == BYTES[1:]

    def test_a_blob_that_is_not_there(self, registry: Registry, repository: Repository) -> None:
        for call in (lambda: list(repository.open_blob(MISSING, 1)), lambda: repository.read_blob(MISSING)):
            assert sentence(RequestError, call) == (
                f"The registry {registry.host} has no blob {MISSING} in acme/pong: the image is incomplete there; "
                "push it again, or name another one."
            )

    def test_small_blobs_are_verified(self, registry: Registry, repository: Repository) -> None:
        assert repository.put_blob(BYTES) == DIGEST
        assert registry.counted("PUT") == 1
        assert repository.put_blob(BYTES) == DIGEST
        assert registry.counted("PUT") == 1, "what is there is not sent again"
        assert repository.read_blob(DIGEST) == BYTES
        assert "answers more than 10 bytes" in sentence(RequestError, lambda: repository.read_blob(DIGEST, 10))
        registry.faults.append(Fault("twist", "GET", "blobs"))
        message = sentence(IntegrityError, lambda: repository.read_blob(DIGEST))
        assert f"serves sha256:{hashlib.sha256(bytes([1]) + BYTES[1:]).hexdigest()} for {DIGEST}" in message

    def test_mounting(self, registry: Registry, repository: Repository) -> None:
        registry.put_blob("acme/other", BYTES)
        assert repository.mount(DIGEST, "acme/other")
        assert repository.blob_size(DIGEST) == len(BYTES)
        assert not repository.mount(MISSING, "acme/other")
        assert not registry.uploads, "the upload that was begun instead is dropped"
        registry.mounts = False
        assert not repository.mount(DIGEST, "acme/other")

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_redirects_are_followed_without_the_login(self, registry: Registry, tmp_path: Path, host: str) -> None:
        """Also to an object store on another port of the same host."""
        with Registry(auth="basic", accounts={"me": "pw"}, blob_host=f"http://{host}:{registry.port}") as front:
            registry.put_blob("acme/pong", BYTES)
            front.put_blob("acme/pong", BYTES)
            (tmp_path / "config.json").write_text(
                json.dumps({"auths": {front.host: {"username": "me", "password": "pw"}}})
            )
            repository = Repository(OciImage(front.host, "acme/pong"), RegistrySettings(str(tmp_path / "config.json")))
            assert b"".join(repository.open_blob(DIGEST, len(BYTES), 3)) == BYTES[3:]
            (request,) = [request for request in registry.requests if request.method == "GET"]
            assert "Authorization" not in request.headers
            assert request.headers["Range"] == f"bytes=3-{len(BYTES) - 1}"

    def test_redirects_that_never_end(self, registry: Registry, repository: Repository) -> None:
        registry.put_blob("acme/pong", BYTES)
        registry.blob_host = registry.url
        message = sentence(TemporaryError, lambda: list(repository.open_blob(DIGEST, len(BYTES))))
        assert "redirects in circles when asked to pull from acme/pong" in message

    def test_an_address_that_ran_out(self, registry: Registry, repository: Repository) -> None:
        registry.put_blob("acme/pong", BYTES)
        with Registry(auth="basic") as storage:
            registry.blob_host = f"http://localhost:{storage.port}"
            message = sentence(TemporaryError, lambda: list(repository.open_blob(DIGEST, len(BYTES))))
        assert message == "localhost no longer accepts the registry's signed address: try again."


class TestConnections:
    def test_they_are_shared_and_ended(self, registry: Registry, repository: Repository) -> None:
        beside = repository.beside(OciImage(registry.host, "acme/ping", tag="v1"))
        assert beside.image == OciImage(registry.host, "acme/ping")
        with pytest.raises(ValueError, match=r"other\.example is not 127\.0\.0\.1"):
            repository.beside(OciImage("other.example", "acme/ping"))
        repository.ping()
        repository.close()
        with pytest.raises(RuntimeError, match="closed"):
            beside.ping()

    def test_an_origin_that_may_not_be_read(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "POST", status=403))
        assert not repository.mount(DIGEST, "secret/model")


class TestDocuments:
    def test_put_and_read(self, registry: Registry, repository: Repository) -> None:
        assert repository.describe("v1") is None
        assert repository.put_document(EMPTY, "v1") == EMPTY.digest
        described = Descriptor(OCI_INDEX, EMPTY.digest, len(EMPTY.data))
        assert repository.describe("v1") == repository.describe(EMPTY.digest) == described
        assert repository.document("v1") == repository.document(EMPTY.digest) == EMPTY
        assert repository.document("v1").is_index
        assert repository.resolve("v1") == EMPTY.digest

    def test_a_registry_that_names_no_digest(self, registry: Registry, repository: Repository) -> None:
        registry.tells_digest = False
        assert repository.put_document(EMPTY, "v1") == EMPTY.digest
        assert repository.describe("v1") == Descriptor(OCI_INDEX, EMPTY.digest, len(EMPTY.data))
        assert registry.counted("GET", "manifests") == 1

    def test_a_kind_that_stands_inside_alone(self, registry: Registry, repository: Repository) -> None:
        data = json.dumps({"mediaType": DOCKER_INDEX, "manifests": []}).encode()
        digest = registry.put_manifest("acme/pong", "application/json; charset=utf-8", data)
        assert repository.document(digest) == Document(DOCKER_INDEX, data)

    def test_a_kind_that_is_no_image(self, registry: Registry, repository: Repository) -> None:
        registry.put_manifest("acme/pong", "application/vnd.docker.distribution.manifest.v1+prettyjws", b"{}", "old")
        message = sentence(RequestError, lambda: repository.document("old"))
        assert message.startswith(f"{registry.host}/acme/pong:old is of the kind application/vnd.docker")
        assert "which is no image: name an image manifest or index of OCI or Docker" in message

    @pytest.mark.parametrize(("reference", "word"), [("v1", "tag"), (MISSING, "digest")])
    def test_what_does_not_exist(self, registry: Registry, repository: Repository, reference: str, word: str) -> None:
        name = f"{registry.host}/acme/pong{'@' if word == 'digest' else ':'}{reference}"
        for call in (repository.resolve, repository.document):
            assert sentence(RequestError, lambda call=call: call(reference)) == (  # type: ignore[misc]
                f"{name} does not exist: check the repository and the {word}, or push the image first."
            )

    def test_a_document_with_another_digest(self, registry: Registry, repository: Repository) -> None:
        registry.put_manifest("acme/pong", OCI_INDEX, EMPTY.data)
        registry.faults.append(Fault("twist", "GET", "manifests"))
        message = sentence(IntegrityError, lambda: repository.document(EMPTY.digest))
        assert f"for {EMPTY.digest} of acme/pong; nothing was published" in message

    def test_a_document_that_is_too_large(self, registry: Registry, repository: Repository) -> None:
        registry.put_manifest("acme/pong", OCI_INDEX, b" " * (4 * 1024 * 1024 + 1), "v1")
        message = sentence(RequestError, lambda: repository.document("v1"))
        assert "answers more than 4194304 bytes for an image in acme/pong" in message

    def test_a_registry_that_rewrites(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "PUT", status=201, headers={"Docker-Content-Digest": MISSING}, times=1))
        message = sentence(IntegrityError, lambda: repository.put_document(EMPTY))
        assert f"stored {MISSING} in acme/pong where {EMPTY.digest} was sent" in message

    def test_a_layer_that_is_missing_heals(self, registry: Registry, repository: Repository) -> None:
        document = Document(OCI_MANIFEST, json.dumps({"layers": [{"digest": MISSING}]}).encode())
        message = sentence(TemporaryError, lambda: repository.put_document(document))
        assert "misses a layer that it had, when asked to push to acme/pong: run again, then it is sent" in message

    def test_tags_that_cannot_be_moved(self, registry: Registry, repository: Repository) -> None:
        body = b'{"errors":[{"code":"TAG_INVALID","message":"tag v1 is immutable"}]}'
        registry.faults.append(Fault("status", "PUT", status=400, body=body))
        message = sentence(RequestError, lambda: repository.put_document(EMPTY, "v1"))
        assert "does not let what is there be replaced (TAG_INVALID tag v1 is immutable): publish under" in message


class TestTags:
    def test_all_pages(self, registry: Registry, repository: Repository) -> None:
        registry.page = 2
        for tag in ("a", "b", "c", "d", "e"):
            repository.put_document(EMPTY, tag)
        assert repository.tags() == ["a", "b", "c", "d", "e"]
        assert registry.counted("GET", "tags/list") == 3

    def test_of_no_repository(self, repository: Repository) -> None:
        assert repository.tags() == []

    def test_that_are_none(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "GET", "tags", status=200, body=b"[]"))
        assert "is no list of tags: try again" in sentence(TemporaryError, repository.tags)

    def test_without_an_end(self, registry: Registry, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airfreight.stores.oci.registry.PAGES_LIMIT", 10)
        link = {"Link": '</v2/acme/pong/tags/list?last=x>; rel="next"'}
        registry.faults.append(
            Fault("status", "GET", "tags", status=200, body=b'{"tags":[]}', headers=link, times=2000)
        )
        assert "has no end to its list of tags" in sentence(RequestError, repository.tags)


class TestRefusals:
    """One sentence for each, as a person reads it in a log."""

    @pytest.mark.parametrize(
        ("fault", "kind", "says"),
        [
            (Fault("status", status=429), TemporaryError, "answers 429, too many requests: try again later."),
            (Fault("status", status=502, body=b"<h1>Bad Gateway</h1>"), TemporaryError, "answers 502 (Bad Gateway)"),
            (Fault("status", status=500, body=b'{"errors":[{"code":"UNKNOWN","message":"m","detail":{"Err":28}}]}'),
             RequestError, "has no room left to push to acme/pong (UNKNOWN m"),
            (Fault("status", status=403, body=b'{"errors":[{"code":"DENIED","message":"project quota exceeded"}]}'),
             RequestError, "has no room left to push to acme/pong (DENIED project quota exceeded): delete"),
            (Fault("status", status=507), RequestError, "has no room left to push to acme/pong (no reason given)"),
            (Fault("status", status=404, body=b'{"errors":[{"code":"NAME_UNKNOWN"}]}'), RequestError,
             "answers 404 when asked to push to acme/pong: check the name, or create that repository or its project"),
            (Fault("status", status=413), RequestError, "no body as large as this one to push to acme/pong (413)"),
            (Fault("status", status=418, body=b"a teapot"), RequestError,
             "refused to push to acme/pong (418: a teapot): check the name and the registry's rules."),
            (Fault("mute"), TemporaryError, "broke ("),
        ],
        ids=lambda value: value.status if isinstance(value, Fault) else "",
    )  # fmt: skip
    def test_of_an_upload(
        self, registry: Registry, repository: Repository, fault: Fault, kind: type[Exception], says: str
    ) -> None:
        fault.method, fault.match, fault.times = "POST", "uploads", 1
        registry.faults.append(fault)
        message = sentence(kind, lambda: repository.begin_upload(10))
        assert says in message
        assert registry.host in message

    @pytest.mark.parametrize("value", ["7", "Fri, 01 Jan 2100 00:00:00 GMT"])
    def test_retry_after_is_kept(self, registry: Registry, repository: Repository, value: str) -> None:
        registry.faults.append(Fault("status", "POST", status=503, headers={"Retry-After": value}))
        with pytest.raises(ThrottledError) as caught:
            repository.begin_upload(10)
        assert caught.value.retry_after == 7 or caught.value.retry_after > 10**8

    def test_retry_after_that_says_nothing(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "POST", status=503, headers={"Retry-After": "soon"}))
        with pytest.raises(TemporaryError) as caught:
            repository.begin_upload(10)
        assert not isinstance(caught.value, ThrottledError)

    def test_silence(self, registry: Registry, settings: RegistrySettings) -> None:
        repository = Repository(OciImage(registry.host, "acme/pong"), settings, QUICK)
        repository.ping()
        registry.faults.append(Fault("stall", "POST", seconds=5))
        message = sentence(TemporaryError, lambda: repository.begin_upload(10))
        assert message.startswith(f"The registry {registry.host} said nothing for 0 s (ReadTimeout)")

    def test_nobody_there(self, settings: RegistrySettings) -> None:
        with Registry() as gone:
            image = OciImage(gone.host, "acme/pong")
        message = sentence(TemporaryError, Repository(image, settings).ping)
        assert message.startswith(f"The registry {image.registry} cannot be reached (")
        assert message.endswith("check the address and the network, or try again later.")

    def test_a_name_that_does_not_exist(self, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object, **__: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        message = sentence(TemporaryError, Repository(OciImage("no-such-registry.invalid", "pong"), settings).ping)
        assert message.startswith("The registry no-such-registry.invalid cannot be reached (")

    def test_something_that_is_no_registry(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "GET", "/v2/$", status=404, body=b"<html>"))
        assert sentence(RequestError, lambda: repository.resolve("v1")) == (
            f"{registry.host} answers, but not as a registry does (404 to /v2/): check host and port."
        )

    def test_a_registry_that_is_not_well(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "GET", "/v2/$", status=503))
        assert "answers 503 (no reason given): it is not well now" in sentence(TemporaryError, repository.ping)
        repository.ping()


class TestTls:
    def test_plain_http_where_tls_was_tried(
        self, registry: Registry, repository: Repository, settings: RegistrySettings, not_loopback: None
    ) -> None:
        message = sentence(RequestError, Repository(repository.image, settings).ping)
        assert message.startswith(f"The registry {registry.host} does not speak TLS: give --plain-http if nobody can")

    def test_plain_http_by_setting(
        self, registry: Registry, repository: Repository, settings: RegistrySettings, not_loopback: None
    ) -> None:
        Repository(repository.image, RegistrySettings(settings.login_file, frozenset({registry.host}))).ping()

    def test_tls_where_plain_http_was_tried(
        self, registry: Registry, settings: RegistrySettings, not_loopback: None
    ) -> None:
        nginx = b"<center>The plain HTTP request was sent to HTTPS port</center>"
        registry.faults.append(Fault("status", "GET", "/v2/$", status=400, body=nginx))
        plain = RegistrySettings(settings.login_file, frozenset({registry.host}))
        message = sentence(RequestError, Repository(OciImage(registry.host, "acme/pong"), plain).ping)
        assert message == (
            f"The registry {registry.host} speaks TLS: leave out --plain-http, and take it out of "
            "AIRFREIGHT_PLAIN_HTTP and `plain_http_registries`."
        )

    def test_tls_where_go_says_so(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(
            Fault("status", "GET", "/v2/$", status=400, body=b"Client sent an HTTP request to an HTTPS server.\n")
        )
        assert sentence(RequestError, repository.ping) == (
            f"The registry {registry.host} speaks TLS, and loopback addresses are spoken plain http with: give it by "
            "the host name that its certificate has."
        )

    def test_a_certificate_that_nobody_vouches_for(
        self, context: ssl.SSLContext, settings: RegistrySettings, not_loopback: None
    ) -> None:
        with Registry(context=context) as registry:
            message = sentence(RequestError, Repository(OciImage(registry.host, "acme/pong"), settings).ping)
        assert message.startswith(f"The certificate of the registry {registry.host} cannot be verified: put the CA")

    def test_a_private_authority(
        self,
        context: ssl.SSLContext,
        settings: RegistrySettings,
        not_loopback: None,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        (certificate,) = tmp_path_factory.getbasetemp().glob("tls0/cert.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with Registry(context=context) as registry:
            Repository(OciImage(registry.host, "acme/pong"), settings).ping()


class TestProxies:
    def test_this_machine_is_reached_directly(
        self, registry: Registry, repository: Repository, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        Repository(repository.image, settings).ping()

    def test_so_it_is_by_its_other_address(
        self, registry: Registry, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", registry.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        message = sentence(TemporaryError, Repository(OciImage("[::1]:9", "acme/pong"), settings).ping)
        assert message.startswith("The registry [::1]:9 cannot be reached (")
        assert registry.requests == [], "the proxy was not asked"

    def test_a_proxy_that_is_not_there(self, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        plain = RegistrySettings(settings.login_file, frozenset({"registry.example:5000"}))
        message = sentence(TemporaryError, Repository(OciImage("registry.example:5000", "pong"), plain).ping)
        assert message.startswith("The registry registry.example:5000 cannot be reached (")


def test_the_settings_of_the_environment(tmp_path: Path) -> None:
    read = RegistrySettings.from_environment
    assert read([], {"HOME": "/home/me"}).login_file == "/home/me/.docker/config.json"
    found = read(["R.example"], {"DOCKER_CONFIG": "/logins", "AIRFREIGHT_PLAIN_HTTP": " 10.0.0.5:5000 ,, Two.example"})
    assert found.login_file == "/logins/config.json"
    assert found.plain_http == {"r.example", "10.0.0.5:5000", "two.example"}
    with pytest.raises(RequestError, match="AIRFREIGHT_PLAIN_HTTP names 'http://r', which is no registry: give hosts"):
        read([], {"AIRFREIGHT_PLAIN_HTTP": "http://r"})
