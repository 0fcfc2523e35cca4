"""An S3 bucket as a store: AWS, MinIO and what else speaks the protocol.

    s3://llm-models/acme/pong/41ab6c1b1c1f/config.json          x-amz-meta-git-blob-id: 8e8b…
    s3://llm-models/acme/pong/41ab6c1b1c1f/model.safetensors    x-amz-meta-sha256: 71d0…
    s3://llm-models/acme/pong/41ab6c1b1c1f/airfreight.json      the manifest, written last

A file of one part is one PutObject; a larger one is a multipart upload, which nobody sees before it is completed. The
digest in an object's metadata was compared by the engine before the object became visible, so an object that carries
the right one, at the right size, need not be sent again.

Payloads are not signed: over plain http boto3 would compute a sha256 of every byte more, ten times the cost of the
rest. The store checks CRC64NVME instead, of every part and of the whole object. That finds accidents; where the network
between pod and store has an adversary, use an https endpoint.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, cast

import boto3
from awscrt import checksums
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airfreight.environment import S3Settings
from airfreight.errors import RequestError
from airfreight.manifest import MANIFEST_NAME, Manifest, ManifestFile
from airfreight.source import S3Root
from airfreight.stores.s3_errors import Place, code_of, status_of
from airfreight.transfer import Upload, refuse_other

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MIB = 1024 * 1024
PART_SIZE = 32 * MIB
PARTS_LIMIT = 10_000  # docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html, as the next two
OBJECT_LIMIT = 5 * 1024 * 1024 * MIB
KEY_LIMIT = 1024  # bytes of UTF-8
STALE = timedelta(hours=24)  # an upload this old has no living copy behind it
CONNECTIONS = 16
NOT_FOUND = {"404", "NoSuchKey", "NotFound"}


def part_size(size: int, least: int = PART_SIZE) -> int:
    """Return the bytes of each part of a file of `size` bytes: `least`, or what keeps it within 10,000 parts.

    Whole MiB. Up to 312 GiB it is 32 MiB; at S3's limit of 5 TiB, 525 MiB, and so is then the memory per file.
    """
    needed = -(-size // PARTS_LIMIT)
    return max(least, -(-needed // MIB) * MIB)


def connect(settings: S3Settings) -> S3Client:
    """Return a boto3 client that does not retry by itself and never waits longer than a minute for a byte."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint_url,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        aws_session_token=settings.session_token,
        region_name=settings.region,
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={
                "addressing_style": "path" if settings.endpoint_url else "auto",
                "payload_signing_enabled": False,
            },
        ),
    )


class S3Store:
    """One version of one model in a bucket (a `Store`).

    Args:
        place: bucket and prefix of this version; the prefix ends in `/`.
        settings: endpoint and credentials.
        least_part: bytes of a part, where the file's size does not ask for more; S3 takes 5 MiB and up.
        now: the time, to tell dead uploads from living ones.
    """

    def __init__(
        self,
        place: S3Root,
        settings: S3Settings,
        least_part: int = PART_SIZE,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._least_part = least_part
        self._place = Place(place, settings)
        self._bucket, self._prefix = place.bucket, place.prefix
        self._now = now
        with self._place.translated():
            self._client = connect(settings)

    @property
    def artifact(self) -> str:
        """`s3://bucket/prefix/`, with its slash."""
        return str(self._place.root)

    def sealed(self) -> Manifest | None:
        """See `Store.sealed`. One GET."""
        with self._place.translated():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + MANIFEST_NAME)
                data = answer["Body"].read()
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return None
                raise
        try:
            return Manifest.from_json(data)
        except ValueError as error:
            raise RequestError(
                f"{self.artifact}{MANIFEST_NAME} is not a manifest of airfreight ({error}): "
                "remove it if nobody needs it, or give another destination."
            ) from error

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """See `Store.held`. One LIST per 1,000 objects, then a HEAD for each file that is there at its right size."""
        with self._place.translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            sizes = {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}
        there = [file for file in files if sizes.get(self._prefix + file.path) == file.size]
        with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
            good = list(pool.map(self._is_held, there))
        return frozenset(file.path for file, is_good in zip(there, good, strict=True) if is_good)

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        """See `Store.prepare`. An upload is begun and aborted: that needs the right to write and leaves nothing."""
        for file in files:
            key = self._prefix + file.path
            if len(key.encode()) > KEY_LIMIT:
                raise RequestError(f"{self.artifact}{file.path} is longer than S3's 1,024 bytes: give a shorter root.")
            if file.size > OBJECT_LIMIT:
                raise RequestError(f"{file.path} has {file.size} bytes, S3 takes 5 TiB at most: split the file.")
        probed = self._prefix + MANIFEST_NAME
        with self._place.translated():
            probe = self._client.create_multipart_upload(Bucket=self._bucket, Key=probed)
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=probed, UploadId=probe["UploadId"])
            self._abort_stale(probed)
            for file in files:
                if file.size > self._part_size(file):
                    self._abort_stale(self._prefix + file.path)

    def begin(self, file: ManifestFile) -> Upload:
        """See `Store.begin`."""
        if file.size <= self._part_size(file):
            return _Single(self, file, self._part_size(file))
        with self._place.translated():
            answer = self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=self._prefix + file.path,
                ChecksumAlgorithm="CRC64NVME",
                ChecksumType="FULL_OBJECT",
                Metadata=_metadata(file),
            )
        return _Multipart(self, file, answer["UploadId"])

    def seal(self, manifest: Manifest) -> str:
        """See `Store.seal`. The store itself refuses to overwrite (`If-None-Match: *`)."""
        with self._place.translated():
            try:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + MANIFEST_NAME,
                    Body=manifest.canonical,
                    ContentType="application/json",
                    ChecksumAlgorithm="CRC64NVME",
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if status_of(error) != 412:
                    raise
        # Also after a 200: read back what everybody will read from now on.
        refuse_other(self.artifact, self.sealed(), manifest)
        return self.artifact

    def _part_size(self, file: ManifestFile) -> int:
        return part_size(file.size, self._least_part)

    def _is_held(self, file: ManifestFile) -> bool:
        with self._place.translated():
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._prefix + file.path)
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return False
                raise
        return answer["ContentLength"] == file.size and _metadata(file).items() <= answer["Metadata"].items()

    def _abort_stale(self, key: str) -> None:
        """Abort uploads of exactly this key that are too old to have a living copy behind them.

        The exact key is the prefix asked for: MinIO finds none by directory (seen with 2025 releases).
        """
        answer: Any = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key)
        for upload in answer.get("Uploads", []):
            if upload["Key"] == key and self._now() - upload["Initiated"] > STALE:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload["UploadId"])


class _Readable(io.RawIOBase):
    """A part as a file, without a copy of it: botocore (1.44, `crt/auth.py`) copies a whole bytearray to sign it."""

    def __init__(self, part: bytearray) -> None:
        super().__init__()
        self._view = memoryview(part)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        count = max(0, min(len(target), len(self._view) - self._position))
        target[:count] = self._view[self._position : self._position + count]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position


@dataclass
class _Single:
    """A file of at most one part: kept in memory, written by one PutObject."""

    store: S3Store
    file: ManifestFile
    part_size: int
    _content: bytearray = field(default_factory=bytearray)

    def write(self, part: bytearray) -> None:
        self._content = part

    def commit(self) -> None:
        store = self.store
        with store._place.translated():
            store._client.put_object(
                Bucket=store._bucket,
                Key=store._prefix + self.file.path,
                Body=_body(self._content),
                ChecksumAlgorithm="CRC64NVME",
                Metadata=_metadata(self.file),
            )

    def abort(self) -> None:
        self._content = bytearray()


class _Multipart:
    """A file of several parts, each sent as it comes."""

    def __init__(self, store: S3Store, file: ManifestFile, upload_id: str) -> None:
        self.part_size = store._part_size(file)
        self._store = store
        self._file = file
        self._address: Any = {
            "Bucket": store._bucket,
            "Key": store._prefix + file.path,
            "UploadId": upload_id,
        }
        self._parts: list[CompletedPartTypeDef] = []
        self._crc = 0

    def write(self, part: bytearray) -> None:
        number = len(self._parts) + 1
        with self._store._place.translated():
            answer = self._store._client.upload_part(
                **self._address, PartNumber=number, Body=_body(part), ChecksumAlgorithm="CRC64NVME"
            )
        self._crc = checksums.crc64nvme(part, self._crc)
        self._parts.append(
            {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC64NVME": answer["ChecksumCRC64NVME"]}
        )

    def commit(self) -> None:
        whole = base64.b64encode(self._crc.to_bytes(8, "big")).decode()
        with self._store._place.translated():
            try:
                self._store._client.complete_multipart_upload(
                    **self._address,
                    MultipartUpload={"Parts": self._parts},
                    ChecksumType="FULL_OBJECT",
                    ChecksumCRC64NVME=whole,
                )
            except ClientError as error:
                # Completed before, and the answer was lost: then the object is there.
                if code_of(error) != "NoSuchUpload" or not self._store._is_held(self._file):
                    raise

    def abort(self) -> None:
        # Best effort: what stays is invisible, and the next copy of this file aborts it when it is old.
        with contextlib.suppress(ClientError, BotoCoreError):
            self._store._client.abort_multipart_upload(**self._address)


def _body(part: bytearray) -> IO[bytes]:
    return cast("IO[bytes]", _Readable(part))  # a file in all but the name its type stubs ask for


def _metadata(file: ManifestFile) -> dict[str, str]:
    """The identity of a file's content, as object metadata: `sha256` or `git-blob-id`."""
    return {file.digest_name.replace("_", "-"): file.digest}
