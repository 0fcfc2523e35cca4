"""Checkpoints as small objects of a bucket (a `checkpoint.Shelf`).

Writes carry `If-None-Match: *` or `If-Match: <ETag>`, so of two runs that write at the same moment one is refused (AWS
since 2024, MinIO, Ceph). The age of an object is the store's own time, the `Date` of its answer, less the object's
`Last-Modified`; both have whole seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from airfreight.checkpoint import ChangedError, Stored
from airfreight.stores.s3_errors import NOT_FOUND, Place, code_of, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class S3Shelf:
    """The checkpoints of one artifact in a bucket.

    Args:
        client: of the bucket.
        place: for error sentences, and the bucket.
        prefix: of the checkpoints; ends in `/`.
    """

    def __init__(self, client: S3Client, place: Place, prefix: str) -> None:
        self._client = client
        self._place = place
        self._bucket = place.root.bucket
        self.prefix = prefix

    def read(self, name: str) -> Stored | None:
        """See `checkpoint.Shelf.read`. One GET."""
        with self._place.translated():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self.prefix + name)
                data = answer["Body"].read()
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return None
                raise
        age = (_date_of(answer) - answer["LastModified"]).total_seconds()
        return Stored(data, answer["ETag"], max(0.0, age))

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        """See `checkpoint.Shelf.write`. One PUT."""
        condition: Any = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with self._place.translated():
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket,
                    Key=self.prefix + name,
                    Body=data,
                    ContentType="application/json",
                    ChecksumAlgorithm="CRC64NVME",
                    **condition,
                )
            except ClientError as error:
                # If-Match where nothing is any more: 404 (AWS and MinIO alike).
                if status_of(error) == 412 or (tag is not None and code_of(error) in NOT_FOUND):
                    raise ChangedError from error
                raise
        return answer["ETag"]

    def remove(self, name: str, tag: str) -> None:
        """See `checkpoint.Shelf.remove`. MinIO ignores `If-Match` here, AWS heeds it (since 2025)."""
        with self._place.translated():
            try:
                self._client.delete_object(Bucket=self._bucket, Key=self.prefix + name, IfMatch=tag)
            except ClientError as error:
                if status_of(error) != 412 and code_of(error) not in NOT_FOUND:
                    raise

    def names(self) -> list[str]:
        """See `checkpoint.Shelf.names`. One LIST for each 1,000."""
        with self._place.translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self.prefix)
            return [entry["Key"].removeprefix(self.prefix) for page in pages for entry in page.get("Contents", [])]


def _date_of(answer: Any) -> datetime:
    """Return the store's time of an answer; where it tells none, ours."""
    header = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(header) if header else datetime.now(UTC)
