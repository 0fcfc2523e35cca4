"""Blobs on their way into a registry that cuts, forgets, refuses and limits: nothing wrong, nothing twice."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.retry import LostError
from airfreight.stores.oci.blob_upload import MIB, BlobUpload
from airfreight.stores.oci.reference import OciImage
from airfreight.stores.oci.registry import Repository
from airfreight.stores.oci.whole_body import PIECE, Bytes
from tests.standins.registry import Fault, Registry

BYTES = os.urandom(3 * MIB + 12_345)
DIGEST = f"sha256:{hashlib.sha256(BYTES).hexdigest()}"
PART = MIB


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


@pytest.fixture
def repository(registry: Registry, tmp_path: Path) -> Repository:
    return Repository(OciImage(registry.host, "acme/pong"), RegistrySettings(str(tmp_path / "none")))


def parts(upload: BlobUpload, start: int = 0, size: int = PART) -> Iterator[tuple[bytes, int]]:
    for at in range(start, len(BYTES), size):
        yield BYTES[at : at + size], at


def send(upload: BlobUpload, start: int = 0, size: int = PART) -> None:
    for part, at in parts(upload, start, size):
        upload.append(part, at)
    upload.finish(DIGEST)


class TestChunks:
    def test_each_append_is_one_chunk(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        assert (upload.offset, upload.size, upload.least_chunk, upload.resumable) == (0, len(BYTES), 1, True)
        send(upload)
        assert registry.blobs[DIGEST] == BYTES
        patches = [request for request in registry.requests if request.method == "PATCH"]
        assert [request.headers["Content-Range"] for request in patches] == [
            "0-1048575", "1048576-2097151", "2097152-3145727", "3145728-3158072",
        ]  # fmt: skip
        assert {request.headers["Content-Length"] for request in patches[:3]} == {"1048576"}

    def test_several_buffers_are_one_chunk(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        room = bytearray(BYTES[10 : 3 * MIB])
        upload.append([BYTES[:10], b"", memoryview(room), BYTES[3 * MIB :]], 0)
        upload.finish(DIGEST)
        assert registry.blobs[DIGEST] == BYTES
        assert registry.counted("PATCH") == 1

    @pytest.mark.parametrize("size", [0, 1])
    def test_smallest_blobs(self, registry: Registry, repository: Repository, size: int) -> None:
        upload = repository.begin_upload(size)
        if size:
            upload.append(b"x", 0)
        digest = f"sha256:{hashlib.sha256(b'x' * size).hexdigest()}"
        upload.finish(digest)
        assert registry.blobs[digest] == b"x" * size

    def test_more_than_announced_is_a_mistake_of_ours(self, repository: Repository) -> None:
        upload = repository.begin_upload(10)
        with pytest.raises(ValueError, match="11 bytes are more than the 10 that were announced"):
            upload.append(b"x" * 11, 0)
        with pytest.raises(ValueError, match="0 of 10 bytes were appended"):
            upload.finish(DIGEST)

    def test_it_tells_how_large_chunks_must_be(self, registry: Registry, repository: Repository) -> None:
        registry.least_chunk = MIB
        upload = repository.begin_upload(len(BYTES))
        assert upload.least_chunk == MIB
        send(upload)
        assert registry.blobs[DIGEST] == BYTES

    @pytest.mark.parametrize("location", ["http://127.0.0.1:1", "https://127.0.0.1", None])
    def test_locations_behind_a_proxy(self, registry: Registry, repository: Repository, location: str | None) -> None:
        """One that names another scheme or port of the same host is the proxy's doing; paths alone are common."""
        registry.location_host = location
        send(repository.begin_upload(len(BYTES)))
        assert registry.blobs[DIGEST] == BYTES


class TestBrokenConnections:
    @pytest.mark.parametrize("after", [0, 100_000, PART])
    def test_a_chunk_that_broke_goes_on_where_it_stopped(
        self, registry: Registry, repository: Repository, after: int
    ) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        registry.faults.append(Fault("cut", "PATCH", after=after))
        with pytest.raises(TemporaryError) as caught:
            upload.append(BYTES[PART : 2 * PART], PART)
        assert not isinstance(caught.value, LostError)
        assert caught.value.message.startswith(f"The connection to the registry {registry.host} broke (")
        upload.append(BYTES[PART : 2 * PART], PART)
        send(upload, 2 * PART)
        assert registry.blobs[DIGEST] == BYTES
        assert registry.received() == len(BYTES), "no byte was taken twice"

    def test_a_chunk_that_arrived_unnoticed_is_not_sent_again(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        registry.faults.append(Fault("mute", "PATCH"))
        with pytest.raises(TemporaryError):
            upload.append(BYTES[:PART], 0)
        send(upload)
        assert registry.blobs[DIGEST] == BYTES
        assert registry.received() == len(BYTES)

    def test_an_end_that_came_unnoticed(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES, 0)
        registry.faults.append(Fault("mute", "PUT"))
        with pytest.raises(TemporaryError):
            upload.finish(DIGEST)
        upload.finish(DIGEST)
        upload.finish(DIGEST)
        assert registry.counted("PUT") == 1
        upload.cancel()
        assert registry.blobs[DIGEST] == BYTES

    def test_an_end_that_did_not_come(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES, 0)
        registry.faults.append(Fault("status", "PUT", status=504))
        with pytest.raises(TemporaryError):
            upload.finish(DIGEST)
        upload.finish(DIGEST)
        assert registry.blobs[DIGEST] == BYTES

    def test_an_older_registry_forgets_what_broke(self, registry: Registry, repository: Repository) -> None:
        """distribution 2.8 cancels an upload that has another size than its location says."""
        registry.generation = 2
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        registry.faults.append(Fault("cut", "PATCH", after=100_000))
        with pytest.raises(TemporaryError):
            upload.append(BYTES[PART : 2 * PART], PART)
        with pytest.raises(LostError) as caught:
            upload.append(BYTES[PART : 2 * PART], PART)
        assert caught.value.message == (
            f"The registry {registry.host} lost an upload to acme/pong (it no longer knows an upload that was begun): "
            "this layer is sent again from its beginning."
        )

    def test_an_older_registry_keeps_what_did_not(self, registry: Registry, repository: Repository) -> None:
        registry.generation = 2
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        send(repository.resume_upload(upload.location, len(BYTES)), PART)
        assert registry.blobs[DIGEST] == BYTES


class TestResuming:
    def test_on_another_machine(self, registry: Registry, repository: Repository, tmp_path: Path) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        location = upload.location
        upload.release()
        other = Repository(repository.image, RegistrySettings(str(tmp_path / "none")))
        upload = other.resume_upload(location, len(BYTES))
        assert upload.offset == PART
        send(upload, PART)
        assert registry.blobs[DIGEST] == BYTES

    def test_from_an_old_location_of_a_registry_that_is_further(
        self, registry: Registry, repository: Repository
    ) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        location = upload.location
        upload.append(BYTES[PART : PART + 500], PART)
        upload = repository.resume_upload(location, len(BYTES))
        assert upload.offset == PART + 500
        send(upload, PART)
        assert registry.blobs[DIGEST] == BYTES
        assert registry.received() == len(BYTES)

    def test_of_what_is_gone(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        registry.uploads.clear()
        with pytest.raises(LostError, match="it no longer knows an upload that was begun"):
            repository.resume_upload(upload.location, len(BYTES))

    def test_where_the_registry_has_less_than_was_sent(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        with pytest.raises(LostError, match=r"it has 0 bytes of a layer where 1048576 were sent"):
            upload.append(BYTES[PART : 2 * PART], PART)

    def test_where_the_registry_does_not_tell(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        registry.faults.append(Fault("status", "GET", "uploads", status=204))
        with pytest.raises(LostError, match="it does not tell how much of a layer it has"):
            upload.sync()

    def test_a_lost_upload(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        registry.faults.append(Fault("lose", "PATCH"))
        with pytest.raises(LostError):
            upload.append(BYTES[PART : 2 * PART], PART)
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES, 0)
        registry.faults.append(Fault("lose", "PUT"))
        with pytest.raises(LostError):
            upload.finish(DIGEST)

    def test_cancelling(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        upload.cancel()
        assert not registry.uploads
        upload.cancel()
        registry.faults.append(Fault("mute", "DELETE"))
        repository.begin_upload(1).cancel()


class TestStrangeAnswers:
    def test_an_end_where_the_registry_has_less(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES, 0)
        registry.faults.append(Fault("status", "PUT", status=504))
        with pytest.raises(TemporaryError):
            upload.finish(DIGEST)
        (kept,) = registry.uploads.values()
        del kept.data[PART:]
        with pytest.raises(LostError, match=f"it has {PART} of {len(BYTES)} bytes of a layer"):
            upload.finish(DIGEST)

    def test_a_beginning_without_a_place(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "POST", status=202))
        with pytest.raises(LostError, match="it begins an upload without saying where"):
            repository.begin_upload(1)

    @pytest.mark.parametrize("reached", [1, 5 * MIB])
    def test_a_chunk_of_which_another_number_is_there(
        self, registry: Registry, repository: Repository, reached: int
    ) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        registry.faults.append(Fault("status", "PATCH", status=202, headers={"Range": f"0-{reached - 1}"}))
        with pytest.raises(LostError, match=f"bytes of a layer where {2 * PART} were sent"):
            upload.append(BYTES[PART : 2 * PART], PART)

    def test_a_body_that_is_refused_whole(self, registry: Registry, repository: Repository) -> None:
        registry.faults.append(Fault("status", "PATCH", status=400, body=b"no"))
        with pytest.raises(RequestError, match=r"refused to push to acme/pong \(400: no\)"):
            repository.begin_upload(len(BYTES)).append(BYTES, 0)
        assert repository.begin_upload(1).resumable, "that says nothing of chunks"

    def test_a_chunk_that_is_refused_because_more_is_there(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        (kept,) = registry.uploads.values()
        kept.data += BYTES[PART : PART + 1000]
        upload.append(BYTES[PART : 2 * PART], PART)
        assert upload.resumable
        send(upload, 2 * PART)
        assert registry.blobs[DIGEST] == BYTES


class TestWrongBytes:
    def test_what_changed_on_the_way_is_never_visible(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        registry.faults.append(Fault("flip", "PATCH"))
        upload.append(BYTES, 0)
        with pytest.raises(IntegrityError) as caught:
            upload.finish(DIGEST)
        assert caught.value.message.startswith(
            f"The registry {registry.host} computed another digest when asked to push to acme/pong; nothing was "
        )
        assert DIGEST not in registry.blobs


class TestLimits:
    def test_a_registry_that_limits_bodies(self, registry: Registry, repository: Repository) -> None:
        registry.body_limit = MIB + 1
        send(repository.begin_upload(len(BYTES)), size=len(BYTES))
        assert registry.blobs[DIGEST] == BYTES
        refused = registry.counted("PATCH")
        send(repository.begin_upload(len(BYTES)), size=len(BYTES))
        assert all(request.status != 413 for request in registry.requests[refused + 4 :]), "it is remembered"

    def test_a_registry_that_takes_nothing(self, registry: Registry, repository: Repository) -> None:
        registry.body_limit = 1000
        with pytest.raises(RequestError) as caught:
            send(repository.begin_upload(len(BYTES)))
        assert caught.value.message == (
            f"The registry {registry.host}, or a proxy before it, takes no body as large as this one to push to "
            "acme/pong (413): have its limit raised, for example client_max_body_size 0 in nginx."
        )

    def test_a_proxy_that_cuts_instead_of_saying_so(self, registry: Registry, repository: Repository) -> None:
        registry.cut_above = MIB
        upload = repository.begin_upload(len(BYTES))
        for _ in range(3):
            try:
                upload.append(BYTES, 0)
            except LostError:
                raise
            except TemporaryError:
                continue
            break
        upload.finish(DIGEST)
        assert registry.blobs[DIGEST] == BYTES

    def test_a_cut_of_what_went_through_before_changes_nothing(
        self, registry: Registry, repository: Repository
    ) -> None:
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[: 2 * PART], 0)
        registry.faults.append(Fault("cut", "PATCH", after=10))
        with pytest.raises(TemporaryError):
            upload.append(BYTES[2 * PART : 3 * PART], 2 * PART)
        upload.append(BYTES[2 * PART :], 2 * PART)
        assert registry.counted("PATCH") == 3


class TestWhole:
    """Where chunks are refused, the same appends become one body."""

    @pytest.fixture(autouse=True)
    def refuses_chunks(self, registry: Registry) -> None:
        registry.chunks = False

    def test_it_is_found_out_and_remembered(self, registry: Registry, repository: Repository) -> None:
        upload = repository.begin_upload(len(BYTES))
        send(upload)
        assert not upload.resumable
        assert registry.blobs[DIGEST] == BYTES
        assert registry.counted("PATCH") == 2
        assert not registry.uploads
        send(repository.begin_upload(len(BYTES)))
        assert registry.counted("PATCH") == 3

    def test_the_answer_may_take_as_long_as_that_to_a_finished_blob(
        self, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A registry moves what it got before it answers; one that says nothing for longer than that is given up."""
        timeout = httpx2.Timeout(0.3)  # what stands for the 60 s of other requests
        settings = RegistrySettings(str(tmp_path / "none"))
        repository = Repository(OciImage(registry.host, "acme/pong"), settings, timeout)
        send(repository.begin_upload(len(BYTES)))  # and now it is known that this registry takes no chunks
        data = BYTES[:1000]
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        registry.faults.append(Fault("stall", "PATCH", seconds=1.0))
        upload = repository.begin_upload(len(data))
        upload.append(data, 0)
        upload.finish(digest)
        assert registry.blobs[digest] == data
        monkeypatch.setattr("airfreight.stores.oci.blob_upload.FINISH_TIMEOUT", timeout)
        registry.faults.append(Fault("stall", "PATCH", seconds=1.0))
        upload = repository.begin_upload(len(data))
        upload.append(data, 0)
        with pytest.raises(LostError, match="said nothing for 0 s"):
            upload.finish(digest)

    def test_what_breaks_it_loses_all(self, registry: Registry, repository: Repository) -> None:
        send(repository.begin_upload(len(BYTES)))
        upload = repository.begin_upload(len(BYTES))
        registry.faults.append(Fault("cut", "PATCH", after=100_000))
        with pytest.raises(LostError):
            for part, at in parts(upload):
                upload.append(part, at)
            upload.finish(DIGEST)
        with pytest.raises(LostError, match="it takes a layer only whole, and the connection broke"):
            upload.append(BYTES[:PART], 0)
        with pytest.raises(LostError):
            repository.resume_upload(upload.location, len(BYTES))
        send(repository.begin_upload(len(BYTES)))

    def test_a_second_chunk_that_is_refused(self, registry: Registry, repository: Repository) -> None:
        registry.chunks = True
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        registry.chunks = False
        with pytest.raises(LostError, match="it takes a layer only whole"):
            upload.append(BYTES[PART : 2 * PART], PART)
        send(repository.begin_upload(len(BYTES)))
        assert registry.blobs[DIGEST] == BYTES

    def test_another_upload_that_was_under_way_in_chunks(self, registry: Registry, repository: Repository) -> None:
        registry.chunks = True
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        registry.chunks = False
        send(repository.begin_upload(len(BYTES)))
        with pytest.raises(LostError, match="it takes a layer only whole"):
            upload.append(BYTES[PART:], PART)

    def test_a_registry_that_asks_for_the_body_once_more(self, registry: Registry, repository: Repository) -> None:
        send(repository.begin_upload(len(BYTES)))
        upload = repository.begin_upload(len(BYTES))
        location = {"Location": "/v2/elsewhere"}
        registry.faults.append(Fault("status", "PATCH", status=307, headers=location))
        with pytest.raises(LostError, match="asks for a layer once more that it takes only whole: it is sent again"):
            for part, at in parts(upload):
                upload.append(part, at)
            upload.finish(DIGEST)

    def test_an_answer_that_does_not_come(self, registry: Registry, repository: Repository) -> None:
        send(repository.begin_upload(len(BYTES)))
        upload = repository.begin_upload(len(BYTES))
        for part, at in parts(upload):
            upload.append(part, at)
        registry.faults.append(Fault("status", "PUT", status=500))
        with pytest.raises(TemporaryError):
            upload.finish(DIGEST)
        upload = repository.begin_upload(len(BYTES))
        registry.faults.append(Fault("mute", "PATCH"))
        with pytest.raises(
            LostError
        ):  # at the end, when all was handed over: repeating the end alone would help nobody
            for part, at in parts(upload):
                upload.append(part, at)
            upload.finish(DIGEST)

    def test_a_refusal_in_the_midst(self, registry: Registry, repository: Repository) -> None:
        send(repository.begin_upload(len(BYTES)))
        upload = repository.begin_upload(len(BYTES))
        registry.body_limit = 1000
        with pytest.raises((RequestError, LostError)):
            for part, at in parts(upload):
                upload.append(part, at)
            upload.finish(DIGEST)
        upload.release()

    def test_stopping_leaves_no_thread(self, repository: Repository) -> None:
        send(repository.begin_upload(len(BYTES)))
        before = threading.active_count()
        upload = repository.begin_upload(len(BYTES))
        upload.append(BYTES[:PART], 0)
        assert any(thread.name == "airfreight-upload" for thread in threading.enumerate())
        upload.cancel()
        assert not any(thread.name == "airfreight-upload" for thread in threading.enumerate())
        assert threading.active_count() <= before + 1


def test_parts_of_several_buffers() -> None:
    whole = Bytes([b"abc", bytearray(b""), memoryview(b"defgh"), b"i"])
    assert len(whole) == 9
    for start in range(10):
        for end in range(start, 10):
            assert b"".join(whole.part(start, end).pieces()) == b"abcdefghi"[start:end]
    assert [len(piece) for piece in Bytes([bytes(2 * PIECE + 5)]).pieces()] == [PIECE, PIECE, 5]
