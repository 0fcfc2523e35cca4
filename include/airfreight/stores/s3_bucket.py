"""The objects of one version of a model in a bucket, and those of the other versions: what is there, by its content."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airfreight.errors import RequestError
from airfreight.manifest import MANIFEST_NAME, RESERVED_DIRECTORY, Manifest, ManifestFile
from airfreight.stores.s3_errors import NOT_FOUND, Place, code_of

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CHECKSUM: Final = "CRC64NVME"
CONNECTIONS = 16
VERSIONS_LIMIT = 100  # of one model, that are looked at for files to copy

Identity = tuple[str, str, int]


def identity(file: ManifestFile) -> Identity:
    """Return what two files of the same content have in common."""
    return (file.digest_name, file.digest, file.size)


def metadata(file: ManifestFile) -> dict[str, str]:
    """Return the identity of a file's content as object metadata: `sha256` or `git-blob-id`."""
    return {file.digest_name.replace("_", "-"): file.digest}


@dataclass(frozen=True)
class Bucket:
    """Where the objects of one artifact go. All methods raise as `Place.translated` says."""

    client: S3Client
    place: Place
    prefix: str

    def address(self, file: ManifestFile) -> Any:
        """Return bucket and key of a file, as keyword arguments."""
        return {"Bucket": self.place.root.bucket, "Key": self.prefix + file.path}

    def etag_of(self, file: ManifestFile, key: str | None = None) -> str | None:
        """Return the ETag of the object that holds exactly this file, by size and recorded digest, or None."""
        address = self.address(file) if key is None else {**self.address(file), "Key": key}
        with self.place.translated():
            try:
                answer = self.client.head_object(**address)
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return None
                raise
        good = answer["ContentLength"] == file.size and metadata(file).items() <= answer["Metadata"].items()
        return answer["ETag"] if good else None

    def manifest_at(self, prefix: str) -> bytes | None:
        """Return what airfreight.json below a prefix holds, None where there is none. One GET."""
        with self.place.translated():
            try:
                answer = self.client.get_object(Bucket=self.place.root.bucket, Key=prefix + MANIFEST_NAME)
                return answer["Body"].read()
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return None
                raise

    def other_versions(self) -> Iterator[tuple[Identity, str]]:
        """Yield the content and the key of each file of all other sealed versions of this model."""
        parent = self.prefix[: self.prefix.rstrip("/").rfind("/") + 1]
        with self.place.translated():
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.place.root.bucket,
                Prefix=parent,
                Delimiter="/",
                PaginationConfig={"MaxItems": VERSIONS_LIMIT},
            )
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
        others = [prefix for prefix in found if prefix not in {self.prefix, f"{parent}{RESERVED_DIRECTORY}/"}]
        with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
            manifests = list(pool.map(self.manifest_at, others))
        for prefix, data in zip(others, manifests, strict=True):
            try:
                files = Manifest.from_json(data).files if data is not None else ()
            except (ValueError, RequestError):
                continue  # not a version of ours, or of a later airfreight: nothing to take from there
            for file in files:
                yield identity(file), prefix + file.path

    def uploads(self, key: str) -> list[str]:
        """Return the ids of all unfinished uploads of exactly this key.

        The exact key is the prefix asked for: MinIO finds none by directory (seen with 2025 releases).
        """
        with self.place.translated():
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.place.root.bucket, Prefix=key
            )
            found = [entry for page in pages for entry in page.get("Uploads", [])]
        return [entry["UploadId"] for entry in found if entry["Key"] == key]

    def abort_others(self, key: str, kept: str = "") -> None:
        """Abort all uploads of exactly this key but one; only for whoever holds its lease."""
        for upload_id in self.uploads(key):
            if upload_id != kept:
                self._abort({"Bucket": self.place.root.bucket, "Key": key}, upload_id)

    def _abort(self, address: Any, upload_id: str) -> None:
        """Abort one upload; it may be gone already."""
        with self.place.translated():
            try:
                self.client.abort_multipart_upload(**address, UploadId=upload_id)
            except ClientError as error:
                if code_of(error) != "NoSuchUpload":
                    raise
