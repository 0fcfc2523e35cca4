"""One file on its way into a bucket (an `Upload`): whole in one request, or in parts.

A multipart upload is invisible until it is completed and may be gone on with by anybody who knows its id. So its id,
and after each part what the store said of it, go into the file's checkpoint (`airfreight.checkpoint`) by a conditional
write. Whoever takes the checkpoint's lease over asks the store for the parts and goes on only if they are the same.

    lease ── CreateMultipartUpload ── id into the checkpoint ──┬─ UploadPart ── part into the checkpoint ─┐
                                                               └──────────────────────────────────────────┘
          ── CompleteMultipartUpload ── checkpoint removed

Killed between the first two, an upload is left whose id nobody knows. It is of a key whose lease is ours, so whoever
has the lease aborts every upload of that key but its own.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from awscrt import checksums
from botocore.exceptions import BotoCoreError, ClientError

from airfreight.checkpoint import Part
from airfreight.errors import AirfreightError
from airfreight.leases import Claim
from airfreight.manifest import ManifestFile
from airfreight.retry import LostError
from airfreight.stores.s3_body import body_of
from airfreight.stores.s3_bucket import CHECKSUM, Bucket, metadata
from airfreight.stores.s3_errors import NOT_FOUND, code_of, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PARALLEL = 3  # parts of one file at once


class Single:
    """A file of at most one part: kept in memory, written by one PutObject. Needs no lease: it is all or nothing, and
    of two runs that write it, both write the same.
    """

    offset = 0
    state = None
    parallel = 1

    def __init__(self, bucket: Bucket, file: ManifestFile, part_size: int) -> None:
        self.part_size = part_size
        self._bucket = bucket
        self._file = file
        self._content = b""

    def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:  # noqa: ARG002
        self._content = bytes(part)

    def commit(self) -> None:
        with self._bucket.place.translated():
            self._bucket.client.put_object(
                **self._bucket.address(self._file),
                Body=self._content,
                ChecksumAlgorithm=CHECKSUM,
                Metadata=metadata(self._file),
            )

    def release(self) -> None:
        self._content = b""

    def abort(self) -> None:
        self._content = b""


class Multipart:
    """A file of several parts, each sent as it comes, several at a time.

    The checkpoint tells of the parts up to the first that is not there yet: a hash can only go on from there. One write
    of it covers all that came meanwhile.
    """

    parallel = PARALLEL

    def __init__(self, bucket: Bucket, file: ManifestFile, claim: Claim, part_size: int, checksum: bool = True) -> None:
        self.part_size = part_size
        self.offset = 0
        self.state: str | None = None
        self._bucket = bucket
        self._file = file
        self._claim = claim
        self._checksum = checksum
        self._address = bucket.address(file)
        self._sent: dict[int, tuple[Part, str | None]] = {}  # by number, what the checkpoint does not tell yet
        self._recording = threading.Lock()
        try:
            if not self._go_on():
                self._start()
        except BaseException:
            self.release()
            raise

    def write(self, part: bytearray | memoryview, state: str | None, at: int) -> None:
        number = at // self.part_size + 1
        with self._bucket.place.translated(), self._intact():
            answer = self._bucket.client.upload_part(
                **self._upload, PartNumber=number, Body=body_of(part), ChecksumAlgorithm=CHECKSUM
            )
        self._sent[number] = (Part(answer["ETag"], len(part), answer["ChecksumCRC64NVME"]), state)
        self._record()

    def _record(self) -> None:
        """Tell the checkpoint of the parts that follow those it knows."""
        with self._recording:
            told, state = self._claim.checkpoint, None
            parts, crc, known = list(told.parts), int(told.checksum or "0", 16), len(told.parts)
            while len(parts) + 1 in self._sent:
                part, state = self._sent[len(parts) + 1]
                # The store compared it with the bytes; to hash them here once more would tell nothing new.
                crc = checksums.combine_crc64nvme(crc, _number(part.checksum), part.size)
                parts.append(part)
            if len(parts) > known:
                self._claim.record(parts=tuple(parts), checksum=f"{crc:016x}", state=state)
                for number in range(known + 1, len(parts) + 1):
                    del self._sent[number]

    def copy_from(self, key: str, etag: str) -> bool:
        """Take all parts from another object of the bucket, several at once; False if that is not, or no more, what the
        ETag names.
        """

        def take(start: int) -> Part | None:
            end = min(start + self.part_size, self._file.size)
            with self._bucket.place.translated():
                try:
                    answer = self._bucket.client.upload_part_copy(
                        **self._upload,
                        PartNumber=start // self.part_size + 1,
                        CopySource={"Bucket": self._address["Bucket"], "Key": key},
                        CopySourceIfMatch=etag,
                        CopySourceRange=f"bytes={start}-{end - 1}",
                    )
                except ClientError as error:
                    if status_of(error) != 412 and code_of(error) not in NOT_FOUND:
                        raise
                    return None
            return Part(answer["CopyPartResult"]["ETag"], end - start, "")

        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="airfreight-copy-part") as pool:
            taken = list(pool.map(take, range(0, self._file.size, self.part_size)))
        parts = tuple(part for part in taken if part is not None)
        if len(parts) < len(taken):
            return False
        self._claim.record(parts=parts)
        return True

    def commit(self) -> None:
        found = self._claim.checkpoint
        whole: Any = {}
        if self._checksum:
            crc = base64.b64encode(int(found.checksum, 16).to_bytes(8, "big")).decode()
            whole = {"ChecksumType": "FULL_OBJECT", "ChecksumCRC64NVME": crc}
        parts = [_completed(number, part) for number, part in enumerate(found.parts, 1)]
        with self._bucket.place.translated(), self._intact():
            try:
                self._bucket.client.complete_multipart_upload(**self._upload, MultipartUpload={"Parts": parts}, **whole)
            except ClientError as error:
                # Completed before, and the answer was lost: then the object is there.
                if code_of(error) != "NoSuchUpload" or self._bucket.etag_of(self._file) is None:
                    raise
        self._claim.done()

    def release(self) -> None:
        with contextlib.suppress(AirfreightError, ClientError, BotoCoreError):
            self._claim.release()

    def abort(self) -> None:
        with contextlib.suppress(AirfreightError, ClientError, BotoCoreError):
            self._claim.drop(lambda: self._bucket.abort_others(self._address["Key"]))

    @contextlib.contextmanager
    def _intact(self) -> Iterator[None]:
        """Notice where the upload is not, or no more, what we made it: aborted or changed by others."""
        try:
            yield
        except ClientError as error:
            if code_of(error) not in {"NoSuchUpload", "InvalidPart"}:
                raise
            with self._recording:
                self._claim.record()  # it may have been the run that took our lease; then that is the error
            raise LostError(
                f"Somebody interfered with the unfinished upload of {self._bucket.place.root}{self._file.path} "
                f"({code_of(error)}): nobody else may write there, run this again."
            ) from error

    @property
    def _upload(self) -> Any:
        return {**self._address, "UploadId": self._claim.checkpoint.upload_id}

    def _go_on(self) -> bool:
        """Adopt what the checkpoint tells of, if the store confirms it."""
        found = self._claim.checkpoint
        fits = found.upload_id and found.part_size == self.part_size and self._checksum
        if not fits or not self._confirmed(found.parts):
            return False
        self._bucket.abort_others(self._address["Key"], kept=found.upload_id)
        self.offset, self.state = found.offset, found.state
        return True

    def _confirmed(self, parts: tuple[Part, ...]) -> bool:
        """Whether the unfinished upload is there and begins with these parts; one more may have been sent after them,
        which is then sent again.
        """
        with self._bucket.place.translated():
            try:
                pages = self._bucket.client.get_paginator("list_parts").paginate(**self._upload)
                there = [(part["ETag"], part["Size"]) for page in pages for part in page.get("Parts", [])]
            except ClientError as error:
                if code_of(error) == "NoSuchUpload":
                    return False
                raise
        return there[: len(parts)] == [(part.etag, part.size) for part in parts]

    def _start(self) -> None:
        self._bucket.abort_others(self._address["Key"])
        # MinIO takes no part by UploadPartCopy into an upload that was begun with a checksum (seen with 2025 releases).
        kind: Any = {"ChecksumAlgorithm": CHECKSUM, "ChecksumType": "FULL_OBJECT"} if self._checksum else {}
        with self._bucket.place.translated():
            answer = self._bucket.client.create_multipart_upload(**self._address, Metadata=metadata(self._file), **kind)
        self._claim.record(upload_id=answer["UploadId"], part_size=self.part_size, parts=(), checksum="", state=None)


def _completed(number: int, part: Part) -> CompletedPartTypeDef:
    told: CompletedPartTypeDef = {"PartNumber": number, "ETag": part.etag}
    if part.checksum:
        told["ChecksumCRC64NVME"] = part.checksum
    return told


def _number(checksum: str) -> int:
    """Return a checksum as S3 writes it, base64 of 8 bytes, as a number."""
    return int.from_bytes(base64.b64decode(checksum), "big")
