"""The S3 store without a server: part sizes, settings, and what refusals mean. The contract runs against MinIO."""

from __future__ import annotations

import io
import random
from typing import Any

import botocore.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airfreight.environment import S3Settings
from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.manifest import ManifestFile
from airfreight.retry import ThrottledError
from airfreight.source import S3Root
from airfreight.stores.s3 import (
    COPY_PART,
    COPY_WHOLE,
    MIB,
    OBJECT_LIMIT,
    PART_SIZE,
    PARTS_LIMIT,
    S3Store,
    connect,
    part_size,
)
from airfreight.stores.s3_body import BLOCK, Readable
from airfreight.stores.s3_errors import Place
from tests.unit.memory_store import describe

SETTINGS = S3Settings("http://127.0.0.1:9", "AKIDEXAMPLE", "wJalr-secret")
PLACE = Place(S3Root("llm-models", "acme/pong/41ab6c1b1c1f/"), SETTINGS)


@given(st.integers(0, OBJECT_LIMIT))
def test_parts_fit_s3(size: int) -> None:
    part = part_size(size)
    assert -(-size // part) <= PARTS_LIMIT
    assert 5 * MIB <= part <= 5 * 1024 * MIB
    assert part % MIB == 0


def test_parts_are_16_mib_for_all_but_giants() -> None:
    assert part_size(156 * 1024 * MIB) == PART_SIZE == 16 * MIB
    assert part_size(OBJECT_LIMIT) == 525 * MIB
    assert part_size(OBJECT_LIMIT, COPY_PART) == 525 * MIB
    assert part_size(2 * COPY_WHOLE, COPY_PART) == COPY_PART == 256 * MIB


def test_client_is_path_style_unsigned_and_does_not_retry() -> None:
    config: Any = connect(SETTINGS).meta.config
    assert config.s3 == {"addressing_style": "path", "payload_signing_enabled": False}
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (5, 60)
    assert connect(S3Settings()).meta.config.s3["addressing_style"] == "auto"


@given(st.binary(max_size=50), st.lists(st.integers(0, 20), max_size=5))
def test_a_part_reads_as_a_file_does(content: bytes, counts: list[int]) -> None:
    ours, theirs = Readable(bytearray(content)), io.BytesIO(content)
    for count in counts:
        assert ours.read(count) == theirs.read(count)
        assert ours.tell() == theirs.tell()
    assert ours.seek(-len(content), io.SEEK_END) == theirs.seek(-len(content), io.SEEK_END) == 0
    assert ours.read() == content
    assert ours.seek(len(content) + 5) == theirs.seek(len(content) + 5)
    assert ours.read(1) == b""


@given(size=st.integers(0, 3 * BLOCK + 1))
def test_a_part_goes_out_in_blocks_and_can_go_again(size: int) -> None:
    content = random.Random(size).randbytes(size)
    blocks = Readable(bytearray(content)).blocks()
    for _ in range(2):
        pieces = list(blocks)
        assert b"".join(pieces) == content
        assert {len(piece) for piece in pieces[:-1]} <= {BLOCK}
        blocks.seek(0)


def test_artifact_ends_in_a_slash() -> None:
    assert S3Store(PLACE.root, SETTINGS).artifact == "s3://llm-models/acme/pong/41ab6c1b1c1f/"


@pytest.mark.parametrize(
    ("place", "root", "prefix"),
    [
        ("acme/pong/41ab6c1b1c1f/", None, ".airfreight/uploads/"),
        ("team-a/acme/pong/41ab6c1b1c1f/", None, "team-a/.airfreight/uploads/"),
        ("team-a/pong/41ab6c1b1c1f/", "team-a/", "team-a/.airfreight/uploads/"),
    ],
)
def test_checkpoints_lie_beside_the_models_at_the_root(place: str, root: str | None, prefix: str) -> None:
    store = S3Store(S3Root("llm-models", place), SETTINGS, root=None if root is None else S3Root("llm-models", root))
    assert store._shelf.prefix.startswith(prefix)
    assert not store._shelf.prefix.startswith(place)


def test_what_s3_cannot_take_is_refused_before_any_request() -> None:
    store = S3Store(PLACE.root, SETTINGS)
    with pytest.raises(RequestError, match=r"is longer than S3's 1,024 bytes: give a shorter root\."):
        store.prepare([ManifestFile("ä" * 600, 1, sha256="0" * 64)])
    with pytest.raises(RequestError, match=r"S3 takes 5 TiB at most: split the file\."):
        store.prepare([ManifestFile("a", OBJECT_LIMIT + 1, sha256="0" * 64)])


def refused(code: str, status: int, operation: str = "PutObject", **headers: str) -> botocore.exceptions.ClientError:
    return botocore.exceptions.ClientError(
        {
            "Error": {"Code": code, "Message": "The server's\nwords"},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        },  # type: ignore[arg-type]
        operation,
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (refused("NoSuchBucket", 404), "Bucket llm-models does not exist at http://127.0.0.1:9: create it, or name "
         "another one in the destination."),
        (refused("InvalidAccessKeyId", 403), "http://127.0.0.1:9 refused the credentials for bucket llm-models "
         "(InvalidAccessKeyId): put a valid AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into Secret airfreight-store."),
        (refused("SignatureDoesNotMatch", 403), "(SignatureDoesNotMatch): put a valid AWS_ACCESS_KEY_ID"),
        (refused("ExpiredToken", 400), "(ExpiredToken): put a valid"),
        (refused("AccessDenied", 403), "http://127.0.0.1:9 denied PutObject in s3://llm-models/acme/pong/41ab6c1b1c1f/ "
         "(AccessDenied): give the user of Secret airfreight-store the rights s3:ListBucket, s3:GetObject, "),
        (refused("403", 403, "HeadObject"), "denied HeadObject in s3://llm-models/acme/pong/41ab6c1b1c1f/ (403)"),
        (refused("AuthorizationHeaderMalformed", 400), "is in another region (AuthorizationHeaderMalformed): set "
         "AWS_DEFAULT_REGION to it."),
        (refused("RequestTimeTooSkewed", 403), "The clock of this machine differs from that of http://127.0.0.1:9 by "
         "more than 15 minutes: set it right."),
        (refused("NotImplemented", 501), "refused PutObject in s3://llm-models/acme/pong/41ab6c1b1c1f/ "
         "(NotImplemented: The server's words): check endpoint and destination."),
        (refused("EntityTooLarge", 400), "(EntityTooLarge: The server's words)"),
        (botocore.exceptions.NoCredentialsError(), "There are no credentials for bucket llm-models at "
         "http://127.0.0.1:9: put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into Secret airfreight-store."),
        (botocore.exceptions.SSLError(endpoint_url="https://x", error="self-signed"), ": check http or https in the "
         "endpoint, and put a private CA into key ca.crt of the ConfigMap that `ca_bundle_configmap` in section "
         "[airfreight] names, or into the file of AWS_CA_BUNDLE."),
        (botocore.exceptions.ParamValidationError(report="Invalid bucket name"), "cannot be made (Parameter"),
    ],
)  # fmt: skip
def test_wrong_requests_name_cause_and_remedy(error: Exception, sentence: str) -> None:
    with pytest.raises(RequestError) as caught, PLACE.translated():
        raise error
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message
    assert "wJalr-secret" not in caught.value.message


@pytest.mark.parametrize(
    "error",
    [
        refused("SlowDown", 503),
        refused("InternalError", 500),
        refused("502", 502, "HeadObject"),
        refused("TooManyRequests", 429),
        refused("XAmzContentChecksumMismatch", 400),
        refused("BadDigest", 400),
        refused("ConditionalRequestConflict", 409),
    ],
)
def test_illnesses_are_temporary(error: botocore.exceptions.ClientError) -> None:
    sentence = r"The object store http://127\.0\.0\.1:9 answers \d+ \("
    with pytest.raises(TemporaryError, match=sentence) as caught, PLACE.translated():
        raise error
    assert not isinstance(caught.value, ThrottledError)


def test_retry_after_is_kept() -> None:
    with pytest.raises(ThrottledError) as caught, PLACE.translated():
        raise refused("SlowDown", 503, **{"retry-after": "12"})
    assert caught.value.retry_after == 12


def every_subclass(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(every_subclass(child) for child in kind.__subclasses__()))


NETWORK = every_subclass(botocore.exceptions.HTTPClientError) | every_subclass(botocore.exceptions.ConnectionError)


@pytest.mark.parametrize(
    "kind", sorted(every_subclass(botocore.exceptions.BotoCoreError), key=lambda kind: kind.__name__)
)
def test_every_botocore_error_is_one_of_ours(kind: type[Exception]) -> None:
    error = kind.__new__(kind, "something")
    with pytest.raises(AirfreightError) as caught, PLACE.translated():
        raise error
    if kind in NETWORK and not issubclass(kind, botocore.exceptions.SSLError):
        assert isinstance(caught.value, TemporaryError)


def test_a_store_that_is_down_is_temporary() -> None:
    store = S3Store(PLACE.root, SETTINGS)
    for call in (store.sealed, lambda: store.held(describe({"a": b"x"}).files), lambda: store.prepare([])):
        with pytest.raises(TemporaryError, match=r"The object store http://127\.0\.0\.1:9 cannot be reached"):
            call()
