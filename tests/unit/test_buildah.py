"""buildah from outside: what it is told, what its refusals become, and what is left on the disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from airfreight import buildah
from airfreight.buildah import Buildah, speaking_plain
from airfreight.buildah_errors import refusal
from airfreight.environment import RegistrySettings
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.stores.oci.reference import OciImage
from tests.unit.fake_buildah import log, told, work

__all__ = ["log", "work"]  # fixtures

BASE = f"registry.example/base@sha256:{'a' * 64}"


def test_a_layer_is_what_was_written_and_its_digest(log: Path, work: Path) -> None:
    def write(root: Path) -> None:
        (root / "models").mkdir()
        (root / "models" / "a.json").write_text("{}")

    blob = Buildah(work).layer("a.json", write)
    with tarfile.open(blob.path) as archive:
        assert archive.getnames() == ["models", "models/a.json"]
    assert blob.size == blob.path.stat().st_size
    assert blob.digest.removeprefix("sha256:") == blob.path.name
    start, mount, commit = told(log)
    assert (start, mount) == (["from", "scratch"], ["mount", "working-container"])
    # Times, compression and buildah's own label would each make another digest; a site's policy is not about our own.
    assert {"--rm", "--timestamp", "--disable-compression", "--identity-label=false", "--omit-history"} <= set(commit)
    assert json.loads(Path(commit[commit.index("--signature-policy") + 1]).read_text()) == {
        "default": [{"type": "insecureAcceptAnything"}]
    }


def test_the_next_layer_replaces_the_last_one(log: Path, work: Path) -> None:
    tool = Buildah(work)
    first = tool.layer("a", lambda root: (root / "a").write_text("a") and None)
    second = tool.layer("b", lambda root: (root / "b").write_text("b") and None)
    assert not first.path.exists()
    assert second.path.exists()


def test_a_base_is_fetched_under_the_policy_and_forgotten(
    log: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, login, system = tmp_path / "policy.json", tmp_path / "config.json", tmp_path / "registries.conf"
    system.write_text("# the system's\n")
    monkeypatch.setattr(buildah, "SYSTEM_REGISTRIES", system)
    policy.write_text("{}")
    login.write_text("{}")
    Buildah(work, str(login), ["registry.example:5000"]).judge(BASE, policy)
    pull, remove = told(log)
    assert pull == ["pull", "--policy", "always", "--quiet", "--authfile", str(login), "--signature-policy",
                    str(policy), f"docker://{BASE}"]  # fmt: skip
    assert remove == ["rmi", "--force", "ab" * 32]
    first = json.loads(log.read_text().splitlines()[0])
    registries = Path(first[first.index("--registries-conf") + 1]).read_text()
    assert registries == '# the system\'s\n\n[[registry]]\nlocation = "registry.example:5000"\ninsecure = true\n'


def test_a_login_file_that_is_not_there_is_not_named(log: Path, work: Path, tmp_path: Path) -> None:
    Buildah(work, str(tmp_path / "none.json")).judge(BASE)
    assert "--authfile" not in told(log)[0]


def test_a_policy_that_is_not_there(log: Path, work: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^There is no policy file .*nothing\.json: mount it into the pod"):
        Buildah(work).judge(BASE, tmp_path / "nothing.json")


# Last lines of the real buildah 1.28.2.
@pytest.mark.parametrize(
    ("said", "kind", "sentence"),
    [
        (
            f"Error: Source image rejected: Running image docker://{BASE} is rejected by policy.",
            RequestError,
            f"The policy rejects the base (Source image rejected: Running image docker://{BASE} is rejected by "
            "policy): give a base that the policy admits",
        ),
        (
            "Error: Source image rejected: A signature was required, but no signature exists",
            RequestError,
            "The policy rejects the base",
        ),
        (
            'Error: invalid policy in "policy.json": unexpected end of JSON input',
            RequestError,
            "The policy cannot be used for the base",
        ),
        (
            "Error: initializing source docker://r/x: reading manifest sha256:aa in r/x: manifest unknown: manifest "
            "unknown",
            RequestError,
            "There is no such image for the base",
        ),
        (
            "Error: initializing source docker://r/x: reading manifest v1 in r/x: unauthorized: authentication "
            "required",
            RequestError,
            "The registry refuses the base",
        ),
        (
            'Error: initializing source docker://r/x: pinging container registry r: Get "https://r/v2/": http: server '
            "gave HTTP response to HTTPS client",
            RequestError,
            "name its host and port in AIRFREIGHT_PLAIN_HTTP, or give --plain-http",
        ),
        (
            'Error: pinging container registry r: Get "https://r/v2/": x509: certificate signed by unknown authority',
            RequestError,
            "SSL_CERT_FILE",
        ),
        (
            'time="2026-11-22T19:28:50Z" level=warning msg="Failed, retrying in 2s"\n'
            'Error: pinging container registry 127.0.0.1:1: Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: '
            "connect: connection refused",
            TemporaryError,
            "cannot be reached now",
        ),
        (
            "Error: committing container: writing blob: write /build/x/oci-put-blob1: no space left on device",
            RequestError,
            "The disk at {work} is full, at the base: give the build pod a larger volume there",
        ),
        (
            'Error: committing container "c" to "oci:/build/x/layer": storing layer "0df0" to file: io: read/write on '
            "closed pipe",
            RequestError,
            "The disk at {work} is full",
        ),
        ("Error: chown /x: operation not permitted", RequestError, "give its container the capabilities that"),
        (
            'Error: building at STEP "RUN sh -c "exit 3"": exit status 3',
            RequestError,
            "correct the Containerfile or its arguments",
        ),
        ("Error: something nobody has seen", TemporaryError, "buildah failed at the base (something nobody has seen)"),
        ("", TemporaryError, "it said nothing and ended with status 125"),
    ],
)
def test_what_buildah_says_becomes_one_sentence(
    tmp_path: Path, said: str, kind: type[AirfreightError], sentence: str
) -> None:
    found = refusal("the base", 125, said, tmp_path / "work")
    assert type(found) is kind
    assert sentence.replace("{work}", str(tmp_path)) in found.message
    assert found.message.endswith(".")
    assert "\n" not in found.message


def test_a_failure_is_raised_as_that_sentence(log: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BUILDAH_FAIL", json.dumps({"pull": "warning: x\nError: manifest unknown"}))
    with pytest.raises(RequestError, match=rf"^There is no such image for the base {BASE} \(manifest unknown\)"):
        Buildah(work).judge(BASE)


def test_a_buildah_that_the_kernel_killed(tmp_path: Path) -> None:
    found = refusal("the layer of a", -signal.SIGKILL, "", tmp_path)
    assert isinstance(found, TemporaryError)
    assert "give the pod more memory" in found.message


def test_what_the_tick_raises_ends_buildah_at_once(log: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_BUILDAH_HANG", "pull")

    def stop() -> None:
        raise TemporaryError("The time for the whole copy is over.")

    with pytest.raises(TemporaryError, match="is over"):  # else only this test's own time limit ends it
        Buildah(work, tick=stop).judge(BASE)


@pytest.mark.parametrize(
    ("largest", "refused"),
    [(lambda free: free // 3 - 4096, False), (lambda free: free // 3 + 1024**3, True)],
    ids=["fits", "does not"],
)
def test_the_disk_must_hold_a_layer_three_times(
    log: Path, work: Path, largest: Callable[[int], int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(work)  # the disk of the machine is used by others meanwhile
    monkeypatch.setattr(os, "statvfs", lambda _: real)
    size = largest(real.f_bavail * real.f_frsize)
    if not refused:
        Buildah(work).check_room(size)
        return
    with pytest.raises(
        RequestError, match=r"buildah writes a layer 3 times and needs .* or publish with builder=strea"
    ):
        Buildah(work).check_room(size)


def test_the_working_directory_goes_with_the_build(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    dead = tmp_path / "airfreight-build-dead"
    (dead / "root").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), Buildah.working() as outer:
        assert not dead.exists()  # what a killed build left on a volume
        with Buildah.working() as inner:
            assert outer.work.exists()  # a neighbour's, which is alive
            assert inner.work != outer.work
        raise ZeroDivisionError
    assert not list(tmp_path.glob("airfreight-build-*"))


def test_a_place_that_cannot_be_written(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "none"))
    with (
        pytest.raises(RequestError, match=rf"{os.strerror(errno.ENOENT)}\): mount a volume for building, and name it"),
        Buildah.working(),
    ):
        pass


def test_without_buildah_or_without_root(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RequestError, match=r"this is user 1000: run it in a pod as include/kubernetes/builder"):
        buildah.check_usable()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RequestError, match=r"^There is no buildah here: run this in the builder image"):
        buildah.check_usable()


def test_which_registries_are_spoken_plain_http_with() -> None:
    settings = RegistrySettings("", frozenset({"10.0.0.5:5000"}))
    images = [OciImage("localhost:5000", "a"), OciImage("registry.example", "b"), None]
    assert speaking_plain(settings, *images) == {"10.0.0.5:5000", "localhost:5000"}
