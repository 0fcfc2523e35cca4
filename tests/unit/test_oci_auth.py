"""Who asks: logins of a docker config file, challenges, tokens, and whom they are never shown."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import RequestError, TemporaryError
from airfreight.retry import LostError, ThrottledError
from airfreight.stores.oci.answers import Answer
from airfreight.stores.oci.auth import Authorizer, Challenge
from airfreight.stores.oci.logins import Login, Logins
from airfreight.stores.oci.oci_errors import Asked
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Repository
from tests.standins.registry import Fault, Registry

SECRET, NEXT = "s3cret-pass", "n3w-pass"
BYTES = bytes(300_000)
DIGEST = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"


@pytest.fixture
def login_file(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def write(login_file: Path, value: Mapping[str, Any]) -> None:
    login_file.write_text(json.dumps(value))


def encoded(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


def image(registry: Registry, name: str = "acme/pong") -> OciImage:
    return OciImage(registry.host, name)


def repository(registry: Registry, login_file: Path) -> Repository:
    return Repository(image(registry), RegistrySettings(str(login_file)))


def sentence(kind: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".")
    assert ". " not in message, "one sentence"
    assert SECRET not in message
    return message


class TestFile:
    def test_none_is_no_login(self, login_file: Path) -> None:
        assert Logins.read(str(login_file)) == Logins()
        assert Logins.read(str(login_file / "config.json")) == Logins()

    @pytest.mark.parametrize(
        "name", ["r.example:5000", "https://r.example:5000", "http://r.example:5000/", "R.EXAMPLE:5000/v2/"]
    )
    def test_names_of_a_registry(self, login_file: Path, name: str) -> None:
        write(login_file, {"auths": {name: {"auth": encoded("me", "a:b")}}})
        assert Logins.read(str(login_file)).of(OciImage("r.example:5000", "x/y")) == Login("me", "a:b")

    @pytest.mark.parametrize("name", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"])
    def test_names_of_docker_hub(self, login_file: Path, name: str) -> None:
        write(login_file, {"auths": {name: {"username": "me", "password": "pw"}}})
        assert Logins.read(str(login_file)).of(OciImage("docker.io", "acme/pong")) == Login("me", "pw")

    def test_the_longest_name_counts(self, login_file: Path) -> None:
        entries = {name: {"username": name, "password": "pw"} for name in ("r.example", "r.example/a", "r.example/a/b")}
        write(login_file, {"auths": entries})
        logins = Logins.read(str(login_file))
        found = {name: logins.of(OciImage("r.example", name)) for name in ("a/b/c", "a/b", "a/bc", "x")}
        assert {name: login and login.username for name, login in found.items()} == {
            "a/b/c": "r.example/a/b", "a/b": "r.example/a/b", "a/bc": "r.example/a", "x": "r.example",
        }  # fmt: skip
        assert logins.of(OciImage("other.example", "a")) is None

    def test_empty_entries_are_those_of_a_credential_store(self, login_file: Path) -> None:
        write(login_file, {"auths": {"r.example": {}}, "credsStore": "desktop", "credHelpers": {"e.example": "ecr"}})
        logins = Logins.read(str(login_file))
        assert logins.of(OciImage("r.example", "a")) is None
        assert logins.helper_of(OciImage("r.example", "a")) == "desktop"
        assert logins.helper_of(OciImage("e.example", "a")) == "ecr"

    @pytest.mark.parametrize(
        "data",
        [b"not json", b"[]", b'{"auths": [1]}', b'{"auths": {"r": 7}}', b'{"auths": {"r": {"auth": "!!"}}}',
         b'{"auths": {"r": {"auth": "bWU="}}}', b"\xff"],
    )  # fmt: skip
    def test_something_else(self, login_file: Path, data: bytes) -> None:
        login_file.write_bytes(data)
        assert sentence(RequestError, lambda: Logins.read(str(login_file))) == (
            f"{login_file} is no docker config file: write it by `docker login`, or as JSON with the logins in `auths`."
        )

    def test_one_that_cannot_be_read(self, login_file: Path) -> None:
        login_file.mkdir()
        message = sentence(RequestError, lambda: Logins.read(str(login_file)))
        assert message == (
            f"The docker config file {login_file} cannot be read (Is a directory): make it readable for this user, or "
            "name another directory in DOCKER_CONFIG."
        )

    def test_secrets_are_never_shown(self) -> None:
        assert SECRET not in repr(Login("me", SECRET, SECRET, SECRET))
        assert SECRET not in repr(Logins({"r": Login("me", SECRET)}))


def answer(*values: str) -> Answer:
    return Answer(401, httpx2.Headers([("WWW-Authenticate", value) for value in values]), b"", "http://r/v2/")


class TestChallenges:
    def test_bearer(self) -> None:
        found = Challenge.of(answer('Bearer realm="https://a/t",service="r, \\"x\\"",scope="repository:a:pull,push"'))
        assert found == Challenge(
            "bearer", {"realm": "https://a/t", "service": 'r, "x"', "scope": "repository:a:pull,push"}
        )

    def test_bearer_before_basic_wherever_they_stand(self) -> None:
        for values in (
            ['Basic realm="x", Bearer realm="https://a/t"'],
            ['Basic realm="x"', "bearer realm=https://a/t"],
        ):
            found = Challenge.of(answer(*values))
            assert found is not None
            assert (found.scheme, found.parameters["realm"]) == ("bearer", "https://a/t")

    def test_basic(self) -> None:
        assert Challenge.of(answer('Basic realm="Registry Realm"')) == Challenge("basic", {"realm": "Registry Realm"})

    @pytest.mark.parametrize("values", [(), ("Negotiate",), ('Bearer service="r"',)])
    def test_none_that_can_be_met(self, values: tuple[str, ...]) -> None:
        assert Challenge.of(answer(*values)) is None


class TestBasic:
    @pytest.fixture
    def registry(self) -> Iterator[Registry]:
        with Registry(
            auth="basic", accounts={"me": SECRET, "reader": SECRET}, denied=frozenset({"reader"})
        ) as registry:
            yield registry

    def test_a_login_goes_with_every_request(self, registry: Registry, login_file: Path) -> None:
        write(login_file, {"auths": {registry.host: {"auth": encoded("me", SECRET)}}})
        assert repository(registry, login_file).put_blob(BYTES) == DIGEST
        assert [request.status for request in registry.requests] == [401, 404, 202, 201], "one 401, at the greeting"

    def test_none(self, registry: Registry, login_file: Path) -> None:
        message = sentence(RequestError, lambda: repository(registry, login_file).begin_upload(1))
        assert message == (
            f"The registry {registry.host} wants a login to push to acme/pong, and {login_file} has none for it: log "
            f"in (`docker login {registry.host}`), in pods name a dockerconfigjson Secret in `registry_secret`."
        )

    def test_a_wrong_one(self, registry: Registry, login_file: Path) -> None:
        write(login_file, {"auths": {registry.host: {"auth": encoded("me", SECRET + "x")}}})
        message = sentence(RequestError, lambda: repository(registry, login_file).resolve("v1"))
        assert message == (
            f"The registry {registry.host} refused the login 'me' of {login_file} to pull from acme/pong: put a valid "
            f"one there (`docker login {registry.host}`), in pods into the Secret that `registry_secret` names."
        )

    def test_one_that_may_not(self, registry: Registry, login_file: Path) -> None:
        write(login_file, {"auths": {registry.host: {"auth": encoded("reader", SECRET)}}})
        found = repository(registry, login_file)
        assert found.describe("v1") is None
        message = sentence(RequestError, lambda: found.begin_upload(1))
        assert message == (
            f"The registry {registry.host} does not let the login 'reader' of {login_file} push to acme/pong: give "
            "that account the right there, or put another login into the file."
        )

    def test_a_refusal_that_asks_for_nothing(self, registry: Registry, login_file: Path) -> None:
        write(login_file, {"auths": {registry.host: {"auth": encoded("me", SECRET)}}})
        found = repository(registry, login_file)
        found.ping()
        registry.auth = None
        registry.faults.append(Fault("status", "POST", status=401))
        assert "refused the login 'me'" in sentence(RequestError, lambda: found.begin_upload(1))
        assert registry.counted("POST") == 1

    def test_one_that_a_program_keeps(self, registry: Registry, login_file: Path) -> None:
        write(login_file, {"auths": {registry.host: {}}, "credsStore": "desktop"})
        message = sentence(RequestError, lambda: repository(registry, login_file).begin_upload(1))
        assert message == (
            f"The registry {registry.host} wants a login to push to acme/pong, and {login_file} leaves it to "
            "docker-credential-desktop, which Airfreight does not run: write the login itself into `auths` of that "
            "file."
        )


class TestTokens:
    @pytest.fixture
    def registry(self) -> Iterator[Registry]:
        accounts = {"me": SECRET}
        with Registry(auth="token", accounts=accounts, denied=frozenset({""})) as registry:
            yield registry

    @pytest.fixture
    def logged_in(self, registry: Registry, login_file: Path) -> Repository:
        write(login_file, {"auths": {registry.host: {"auth": encoded("me", SECRET)}}})
        return repository(registry, login_file)

    def test_one_token_serves_many_requests(self, registry: Registry, logged_in: Repository) -> None:
        for number in range(5):
            logged_in.put_blob(b"%d" % number)
        assert [issued["scope"] for issued in registry.issued] == [
            "repository:acme/pong:pull", "repository:acme/pong:pull,push",
        ]  # fmt: skip
        assert {issued["account"] for issued in registry.issued} == {"me"}
        assert registry.counted("GET", "/v2/$") == 1
        assert sum(request.status == 401 for request in registry.requests) == 1

    def test_anybody_may_read(self, registry: Registry, login_file: Path) -> None:
        registry.put_blob("acme/pong", BYTES)
        found = repository(registry, login_file)
        assert found.blob_size(DIGEST) == len(BYTES)
        message = sentence(RequestError, lambda: found.begin_upload(1))
        assert f"wants a login to push to acme/pong, and {login_file} has none for it" in message

    def test_a_wrong_login(self, registry: Registry, login_file: Path) -> None:
        write(login_file, {"auths": {registry.host: {"auth": encoded("me", "wrong")}}})
        message = sentence(RequestError, lambda: repository(registry, login_file).blob_size(DIGEST))
        assert f"refused the login 'me' of {login_file} to pull from acme/pong" in message

    def test_an_identity_token(self, registry: Registry, login_file: Path) -> None:
        write(login_file, {"auths": {registry.host: {"identitytoken": "identity-of-me"}}})
        assert repository(registry, login_file).put_blob(BYTES) == DIGEST
        assert {issued["form"] for issued in registry.issued} == {"refresh_token"}

    def test_a_registry_token(self, registry: Registry, login_file: Path) -> None:
        scopes = frozenset({"repository:acme/pong:pull", "repository:acme/pong:push"})
        registry.tokens["ready-made"] = (float("inf"), scopes, -1)
        write(login_file, {"auths": {registry.host: {"registrytoken": "ready-made"}}})
        found = repository(registry, login_file)
        assert found.put_blob(BYTES) == DIGEST
        assert not registry.issued
        registry.tokens.clear()
        message = sentence(RequestError, lambda: found.begin_upload(1))
        assert f"refused the token of {login_file} to push to acme/pong" in message

    def test_a_token_that_ends_half_way_through_an_upload(self, registry: Registry, logged_in: Repository) -> None:
        upload = logged_in.begin_upload(len(BYTES))
        upload.append(BYTES[:100_000], 0)
        registry.tokens.clear()
        upload.append(BYTES[100_000:200_000], 100_000)
        registry.tokens.clear()
        upload.append(BYTES[200_000:], 200_000)
        registry.tokens.clear()
        upload.finish(DIGEST)
        assert registry.blobs[DIGEST] == BYTES
        assert len(registry.issued) == 4

    def test_a_refusal_of_a_large_body(self, registry: Registry, logged_in: Repository) -> None:
        """Registries answer 401 without reading it, and close: the answer may get lost with the connection."""
        data = bytes(12 * 1024 * 1024)
        upload = logged_in.begin_upload(len(data))
        registry.tokens.clear()
        for _ in range(3):
            try:
                upload.append(data, 0)
            except TemporaryError:
                continue
            break
        upload.finish(f"sha256:{hashlib.sha256(data).hexdigest()}")
        assert registry.received() == len(data)

    def test_a_mount_with_a_token_that_ended(self, registry: Registry, logged_in: Repository) -> None:
        registry.put_blob("acme/other", BYTES)
        logged_in.mount("sha256:" + "0" * 64, "acme/other")
        registry.tokens.clear()
        assert logged_in.mount(DIGEST, "acme/other")

    def test_tokens_for_a_single_request(self, registry: Registry, logged_in: Repository) -> None:
        registry.token_uses = 1
        assert logged_in.put_blob(BYTES) == DIGEST

    def test_a_refusal_that_a_new_token_does_not_heal_ends(self, registry: Registry, logged_in: Repository) -> None:
        registry.faults.append(Fault("status", "POST", "uploads", status=401, times=9))
        message = sentence(RequestError, lambda: logged_in.begin_upload(1))
        assert "refused the login 'me'" in message
        assert registry.counted("POST", "uploads") == 2

    def test_a_whole_body_starts_with_a_fresh_token(self, registry: Registry, logged_in: Repository) -> None:
        registry.chunks = False
        for _ in range(2):
            upload = logged_in.begin_upload(len(BYTES))
            upload.append(BYTES[:100_000], 0)
            upload.append(BYTES[100_000:], 100_000)
            upload.finish(DIGEST)
            registry.blobs.clear()
            registry.links.clear()
        assert registry.counted("PATCH") == 3

    def test_mounts_ask_for_both_repositories(self, registry: Registry, logged_in: Repository) -> None:
        registry.put_blob("acme/other", BYTES)
        assert logged_in.mount(DIGEST, "acme/other")
        assert registry.issued[-1]["scope"] == "repository:acme/pong:pull,push repository:acme/other:pull"

    def test_a_login_is_not_sent_in_the_clear(self, registry: Registry, logged_in: Repository) -> None:
        registry.realm = "http://tokens.example/token"
        message = sentence(RequestError, lambda: logged_in.blob_size(DIGEST))
        assert message.startswith(f"The registry {registry.host} sends logins to http://tokens.example/token, which is")

    @pytest.mark.parametrize(
        ("fault", "kind", "says"),
        [
            (
                Fault("status", status=429, headers={"Retry-After": "9"}),
                ThrottledError,
                "answers 429: try again later.",
            ),
            (Fault("status", status=500), TemporaryError, "answers 500: try again later."),
            (Fault("status", status=404), RequestError, "answers 404 to a request for a token: check the registry's"),
            (Fault("status", status=200, body=b"{}"), RequestError, "answers without a token: check the registry's"),
            (Fault("status", status=200, body=b'{"token":"a\\nb"}'), RequestError, "answers without a token"),
            (Fault("status", status=200, body=b"<html>"), RequestError, "answers without a token"),
            (Fault("mute"), TemporaryError, "The connection to the token server 127.0.0.1:"),
        ],
        ids=lambda value: f"{value.kind}{value.status}" if isinstance(value, Fault) else "",
    )
    def test_a_token_server_that_is_not_well(
        self, registry: Registry, logged_in: Repository, fault: Fault, kind: type[Exception], says: str
    ) -> None:
        fault.match = "/token"
        registry.faults.append(fault)
        assert says in sentence(kind, lambda: logged_in.blob_size(DIGEST))


def rotated(registry: Registry, login_file: Path, name: str = "me") -> None:
    """The password ends, and whoever keeps the file wrote the next one into it."""
    registry.accounts = {name: NEXT}
    registry.tokens.clear()
    write(login_file, {"auths": {registry.host: {"auth": encoded(name, NEXT)}}})


class TestRotation:
    """Passwords that end during a long copy (Amazon ECR: 12 hours), renewed in the file by somebody else."""

    @pytest.fixture(params=["basic", "token"])
    def registry(self, request: pytest.FixtureRequest) -> Iterator[Registry]:
        with Registry(auth=request.param, accounts={"me": SECRET}) as registry:
            yield registry

    @pytest.fixture
    def logged_in(self, registry: Registry, login_file: Path) -> Repository:
        write(login_file, {"auths": {registry.host: {"auth": encoded("me", SECRET)}}})
        return repository(registry, login_file)

    @pytest.mark.parametrize("name", ["me", "robot$7"])
    def test_an_upload_goes_on(self, registry: Registry, logged_in: Repository, login_file: Path, name: str) -> None:
        upload = logged_in.begin_upload(len(BYTES))
        upload.append(BYTES[:100_000], 0)
        rotated(registry, login_file, name)
        upload.append(BYTES[100_000:], 100_000)
        upload.finish(DIGEST)
        assert registry.blobs[DIGEST] == BYTES
        assert registry.received() == len(BYTES), "nothing was sent twice"
        registry.accounts, registry.auth = {}, "basic"
        assert f"refused the login '{name}' of {login_file}" in sentence(RequestError, logged_in.tags)

    def test_a_layer_that_goes_whole_begins_again(
        self, registry: Registry, logged_in: Repository, login_file: Path
    ) -> None:
        registry.chunks = False
        logged_in._wire.shared.takes_chunks = False
        upload = logged_in.begin_upload(len(BYTES))
        rotated(registry, login_file)
        with pytest.raises(LostError):
            upload.append(BYTES, 0)
            upload.finish(DIGEST)
        upload = logged_in.begin_upload(len(BYTES))
        upload.append(BYTES, 0)
        upload.finish(DIGEST)
        assert registry.blobs[DIGEST] == BYTES

    def test_a_403_is_looked_up_too(self, registry: Registry, logged_in: Repository, login_file: Path) -> None:
        """Amazon ECR: 403, DENIED, "Your authorization token has expired. Reauthenticate and try again."."""
        upload = logged_in.begin_upload(len(BYTES))
        registry.faults.append(Fault("status", "PATCH", status=403))
        rotated(registry, login_file)
        upload.append(BYTES, 0)
        upload.finish(DIGEST)
        assert registry.counted("PATCH") >= 2

    def test_many_at_once(self, registry: Registry, logged_in: Repository, login_file: Path) -> None:
        logged_in.put_blob(BYTES)
        rotated(registry, login_file)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: logged_in.blob_size(DIGEST), range(32))) == {len(BYTES)}

    def test_the_same_login_is_refused_at_once(
        self, registry: Registry, logged_in: Repository, login_file: Path
    ) -> None:
        logged_in.put_blob(BYTES)
        registry.faults.append(Fault("status", "POST", status=403, times=9))
        message = sentence(RequestError, lambda: logged_in.begin_upload(1))
        assert f"does not let the login 'me' of {login_file} push to acme/pong" in message
        assert registry.faults[0].times == 8

    def test_another_that_is_refused_too(self, registry: Registry, logged_in: Repository, login_file: Path) -> None:
        logged_in.put_blob(BYTES)
        rotated(registry, login_file)
        registry.accounts = {}
        message = sentence(RequestError, lambda: logged_in.blob_size(DIGEST))
        assert f"refused the login 'me' of {login_file} to pull from acme/pong" in message

    @pytest.mark.parametrize("data", [b"", b'{"auths": {}}', None])
    def test_a_file_that_holds_none_at_that_moment(
        self, registry: Registry, logged_in: Repository, login_file: Path, data: bytes | None
    ) -> None:
        logged_in.put_blob(BYTES)
        registry.accounts = {"me": NEXT}
        registry.tokens.clear()
        if data is None:
            login_file.unlink()
        else:
            login_file.write_bytes(data)
        message = sentence(RequestError, lambda: logged_in.blob_size(DIGEST))
        assert f"refused the login 'me' of {login_file} to pull from acme/pong" in message

    def test_a_login_that_came_later(self, registry: Registry, login_file: Path) -> None:
        found = repository(registry, login_file)
        registry.denied = frozenset({""})
        write(login_file, {"auths": {registry.host: {"auth": encoded("me", SECRET)}}})
        assert found.put_blob(BYTES) == DIGEST

    def test_tokens_of_other_kinds(self, login_file: Path) -> None:
        with Registry(auth="token", accounts={"me": SECRET, "you": SECRET}) as registry:
            scopes = frozenset({"repository:acme/pong:pull", "repository:acme/pong:push"})
            registry.tokens["first"] = (float("inf"), scopes, -1)
            write(login_file, {"auths": {registry.host: {"registrytoken": "first"}}})
            found = repository(registry, login_file)
            found.put_blob(b"1")
            registry.tokens = {"second": (float("inf"), scopes, -1)}
            write(login_file, {"auths": {registry.host: {"registrytoken": "second"}}})
            found.put_blob(b"2")
            registry.tokens.clear()
            write(login_file, {"auths": {registry.host: {"identitytoken": "identity-of-you"}}})
            found.put_blob(b"3")
            assert {issued["account"] for issued in registry.issued} == {"you"}


class TestTimes:
    """When a token is renewed, by a clock of ours."""

    def test_before_its_end(self) -> None:
        now = 1000.0
        lives: Iterator[Mapping[str, object]] = iter([{"expires_in": 300}, {}, {"expires_in": 20}, {"expires_in": 20}])
        asked: list[str] = []

        def serve(request: httpx2.Request) -> httpx2.Response:
            asked.append(request.url.params["scope"])
            return httpx2.Response(200, json={"access_token": f"t{len(asked)}", **next(lives)})

        with httpx2.Client(transport=httpx2.MockTransport(serve)) as client:
            facts = Asked("r.example", "acme/pong", False, "/none")
            authorizer = Authorizer(client, facts, None, clock=lambda: now)
            scopes = ("repository:acme/pong:pull",)
            assert authorizer.headers(scopes, "pull") == {}, "before the registry asked for one"
            authorizer.challenged(answer('Bearer realm="https://tokens.example/token?x=1"'), scopes, None)
            seen = []
            for moment in (1000, 1269, 1270, 1300, 1310, 1323, 1324):
                now = float(moment)
                seen.append(authorizer.headers(scopes, "pull")["Authorization"])
        # 300 s: 30 s before the end; 60 s where nothing is said: at 40; 20 s: at two thirds
        assert seen == [f"Bearer t{number}" for number in (1, 1, 2, 2, 3, 3, 4)]
