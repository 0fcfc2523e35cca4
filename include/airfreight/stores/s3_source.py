"""A prefix of a bucket as a source: one model, delivered by Airfreight or put there by anybody.

    GET  airfreight.json                     its identity, where Airfreight put it there
    LIST prefix                              otherwise: every object is read once, see `airfreight.reading`
    GET  prefix/path   Range: bytes=1000-    the bytes

Objects whose names end in `/` and that hold nothing are the folders of web consoles, not files. What the store says of
an object's checksum is not relied upon: whoever reads compares with the manifest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from botocore.exceptions import ClientError, FlexibleChecksumError
from urllib3.exceptions import HTTPError

from airfreight.environment import S3Settings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.reading import Entry, is_reserved
from airfreight.source import S3Root
from airfreight.stores.s3 import MIB, connect
from airfreight.stores.s3_errors import NOT_FOUND, Place, code_of

CHUNK = MIB


class S3Folder:
    """The objects below one prefix (a `Folder`).

    Args:
        place: bucket and prefix; the prefix ends in `/`, or is empty for a whole bucket.
        settings: endpoint and credentials.
    """

    def __init__(self, place: S3Root, settings: S3Settings) -> None:
        self._place = Place(place, settings)
        with self._place.translated():
            self._client = connect(settings)

    @property
    def root(self) -> S3Root:
        """`s3://bucket/prefix/`, with its slash."""
        return self._place.root

    def recorded(self) -> Manifest | None:
        """See `Folder.recorded`. One GET."""
        with self._translated():
            try:
                answer = self._client.get_object(Bucket=self.root.bucket, Key=self.root.prefix + MANIFEST_NAME)
                data = answer["Body"].read()
            except ClientError as error:
                if code_of(error) in NOT_FOUND:
                    return None
                raise
        try:
            return Manifest.from_json(data)
        except ValueError as error:
            raise RequestError(
                f"{self.root}{MANIFEST_NAME} is not a manifest of airfreight ({error}): "
                "take it out, or give another address."
            ) from error

    def listing(self) -> Mapping[str, Entry]:
        """See `Folder.listing`. One LIST per 1,000 objects."""
        with self._translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.root.bucket, Prefix=self.root.prefix
            )
            sizes = {
                entry["Key"].removeprefix(self.root.prefix): entry["Size"]
                for page in pages
                for entry in page.get("Contents", [])
            }
        return {
            path: Entry(size)
            for path, size in sizes.items()
            if not is_reserved(path) and (size or (path and not path.endswith("/")))
        }

    def read(self, path: str, size: int, offset: int = 0) -> Generator[bytes, None, None]:
        """See `Folder.read`. One GET; where bytes are left, a broken one says so by itself."""
        if offset >= size > 0:
            return  # S3 answers 416 to a range that begins at the end
        address: Any = {"Bucket": self.root.bucket, "Key": self.root.prefix + path}
        if offset:
            address["Range"] = f"bytes={offset}-"
        with self._translated():
            try:
                answer = self._client.get_object(**address)
            except ClientError as error:
                raise self._gone(path, size, error) from error
            with closing(answer["Body"]) as body:
                self._check_size(path, size, _total(answer))
                while chunk := body.read(CHUNK):
                    yield chunk

    def _gone(self, path: str, size: int, error: ClientError) -> Exception:
        """Turn what says that the object is not the one that was listed into a sentence; pass anything else."""
        if code_of(error) in NOT_FOUND:
            return RequestError(f"{self.root}{path} is gone: put it back, or start again with what is there now.")
        if code_of(error) in {"InvalidRange", "416"}:
            return self._wrong_size(path, size, "fewer")
        return error

    def _check_size(self, path: str, size: int, found: int) -> None:
        if found != size:
            raise self._wrong_size(path, size, str(found))

    def _wrong_size(self, path: str, size: int, found: str) -> IntegrityError:
        return IntegrityError(
            f"{self.root}{path} has {found} bytes where {size} were expected; nothing was published: the source is "
            "damaged, or somebody changes it; repair it and start again."
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with self._place.translated():
            try:
                yield
            except FlexibleChecksumError as error:
                raise TemporaryError(
                    f"What {self._place.settings.where} sent for {self.root} did not match its own checksum: "
                    "try again, or check the network and the store's disks."
                ) from error
            except HTTPError as error:  # urllib3's own, which botocore lets through while a body is read
                raise TemporaryError(
                    f"The connection to {self._place.settings.where} broke ({type(error).__name__}): try again later."
                ) from error


def _total(answer: Any) -> int:
    """Return the size of the whole object. "bytes 100-999/1000" (RFC 9110, 14.4), or a length without a range."""
    whole = str(answer.get("ContentRange", "")).rpartition("/")[2]
    return int(whole) if whole.isdigit() else int(answer["ContentLength"])
