"""An S3 bucket as a store: AWS, MinIO and what else speaks the protocol.

    s3://llm-models/acme/pong/41ab6c1b1c1f/config.json          x-amz-meta-git-blob-id: 8e8b…
    s3://llm-models/acme/pong/41ab6c1b1c1f/model.safetensors    x-amz-meta-sha256: 71d0…
    s3://llm-models/acme/pong/41ab6c1b1c1f/airfreight.json      the manifest, written last
    s3://llm-models/.airfreight/uploads/…                       checkpoints of files under way (`s3_uploads`)

A file of one part is one PutObject; a larger one is a multipart upload, which nobody sees before it is completed. The
digest in an object's metadata was compared by the engine before the object became visible, so an object that carries
the right one, at the right size, need not be sent again, and may be copied inside the bucket for the next version.

Payloads are not signed: over plain http boto3 would compute a sha256 of every byte more, ten times the cost of the
rest. The store checks CRC64NVME instead, of every part and of the whole object. That finds accidents; where the network
between pod and store has an adversary, use an https endpoint.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from airfreight.checkpoint import Checkpoint, folder, name, parse
from airfreight.environment import S3Settings
from airfreight.errors import RequestError, TemporaryError
from airfreight.leases import Leases, Tenure
from airfreight.manifest import MANIFEST_NAME, Manifest, ManifestFile
from airfreight.source import S3Root
from airfreight.stores.s3_body import in_blocks
from airfreight.stores.s3_bucket import CHECKSUM, CONNECTIONS, Bucket, Identity, identity, metadata
from airfreight.stores.s3_errors import NOT_FOUND, Place, code_of, status_of
from airfreight.stores.s3_shelf import S3Shelf
from airfreight.stores.s3_uploads import Multipart, Single
from airfreight.transfer import Upload, refuse_other

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MIB = 1024 * 1024
PART_SIZE = 16 * MIB  # two per file under way are in memory; three may be sent again after a kill
PARTS_LIMIT = 10_000  # docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html, as the next two
OBJECT_LIMIT = 5 * 1024 * 1024 * MIB
KEY_LIMIT = 1024  # bytes of UTF-8
COPY_WHOLE = 1024 * MIB  # one request of a copy inside the store, which must end within the time-out of a request
COPY_PART = 256 * MIB  # of a larger one; several go at once, which AWS does at several times the speed of one


def part_size(size: int, least: int = PART_SIZE) -> int:
    """Return the bytes of each part of a file of `size` bytes: `least`, or what keeps it within 10,000 parts.

    Whole MiB. Up to 156 GiB it is 16 MiB; at S3's limit of 5 TiB, 525 MiB, and twice that is then the memory per file.
    """
    needed = -(-size // PARTS_LIMIT)
    return max(least, -(-needed // MIB) * MIB)


def connect(settings: S3Settings) -> S3Client:
    """Return a boto3 client that does not retry by itself and never waits longer than a minute for a byte."""
    client = boto3.session.Session().client(
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
    client.meta.events.register("before-send.s3", in_blocks)
    return client


class S3Store:
    """One version of one model in a bucket (a `Store`).

    Args:
        place: bucket and prefix of this version; the prefix ends in `/`.
        settings: endpoint and credentials.
        least_part: bytes of a part, where the file's size does not ask for more; S3 takes 5 MiB and up.
        root: of the store, where checkpoints lie; by default what is left of `place` without owner, name and version.
        tenure: who holds leases here, and for how long.
    """

    def __init__(
        self,
        place: S3Root,
        settings: S3Settings,
        least_part: int | None = None,
        *,
        root: S3Root | None = None,
        tenure: Tenure | None = None,
    ) -> None:
        self._least_part = least_part or PART_SIZE
        self._place = Place(place, settings)
        self._container, self._prefix = place.bucket, place.prefix
        with self._place.translated():
            self._client = connect(settings)
        top = root.prefix if root is not None else "".join(f"{part}/" for part in place.prefix.split("/")[:-4])
        self._bucket = Bucket(self._client, self._place, place.prefix)
        self._shelf = S3Shelf(self._client, self._place, top + folder(str(place)))
        self._leases = Leases(str(place), self._shelf, tenure or Tenure())
        self._lock = threading.Lock()
        self._sealed: Manifest | None = None
        self._versions: dict[Identity, str] | None = None
        self._etags: dict[str, str] = {}  # by key, of files that other versions have

    @property
    def artifact(self) -> str:
        """`s3://bucket/prefix/`, with its slash."""
        return str(self._place.root)

    def sealed(self) -> Manifest | None:
        """See `Store.sealed`. One GET."""
        data = self._bucket.manifest_at(self._prefix)
        if data is None:
            return None
        try:
            self._sealed = Manifest.from_json(data)
            return self._sealed
        except ValueError as error:
            raise RequestError(
                f"{self.artifact}{MANIFEST_NAME} is not a manifest of airfreight ({error}): "
                "remove it if nobody needs it, or give another destination."
            ) from error

    def bundles(self, files: Sequence[ManifestFile]) -> list[tuple[ManifestFile, ...]]:
        """See `Store.bundles`: each file alone."""
        return [(file,) for file in files]

    def held(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """See `Store.held`. One LIST per 1,000 objects, then a HEAD for each file that is there at its right size; none
        for what was not written since the version was sealed, for then all of it was right.
        """
        with self._place.translated():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._container, Prefix=self._prefix)
            entries = {entry["Key"]: entry for page in pages for entry in page.get("Contents", [])}
        keys = {file: self._prefix + file.path for file in files}
        there = {file for file in files if keys[file] in entries and entries[keys[file]]["Size"] == file.size}
        seal = entries.get(self._prefix + MANIFEST_NAME)
        sealed = {} if self._sealed is None or seal is None else {file.path: file for file in self._sealed.files}
        sure = {
            file
            for file in there
            # Earlier than the seal, not as early: some stores tell whole seconds.
            if seal and sealed.get(file.path) == file and entries[keys[file]]["LastModified"] < seal["LastModified"]
        }
        asked = sorted(there - sure, key=lambda file: file.path)
        with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
            etags = list(pool.map(self._bucket.etag_of, asked))
        good = {file for file, etag in zip(asked, etags, strict=True) if etag is not None}
        return frozenset(file.path for file in sure | good)

    def elsewhere(self, files: Sequence[ManifestFile]) -> frozenset[str]:
        """See `Store.elsewhere`. Once a LIST and a GET of each other version's manifest; then a HEAD per file."""
        known = self._known_versions()
        there = [file for file in files if identity(file) in known]
        with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
            etags = list(pool.map(lambda file: self._bucket.etag_of(file, known[identity(file)]), there))
        self._etags = {known[identity(file)]: etag for file, etag in zip(there, etags, strict=True) if etag is not None}
        return frozenset(file.path for file, etag in zip(there, etags, strict=True) if etag is not None)

    def reuse(self, file: ManifestFile) -> bool:
        """See `Store.reuse`. One CopyObject; above 1 GiB, parts of a multipart upload, which needs the lease.

        The copied object's size and recorded digest are compared before, its ETag is the condition of the copy.
        """
        key = self._known_versions().get(identity(file))
        etag = self._etags.get(key) or self._bucket.etag_of(file, key) if key is not None else None
        if key is None or etag is None:
            return False
        if file.size <= COPY_WHOLE:
            return self._copy_object(file, key, etag)
        upload = Multipart(
            self._bucket, file, self._leases.claim(file), part_size(file.size, COPY_PART), checksum=False
        )
        try:
            if not upload.copy_from(key, etag):
                upload.abort()
                return False
            upload.commit()
        except BaseException:
            upload.release()
            raise
        return True

    def prepare(self, files: Sequence[ManifestFile]) -> None:
        """See `Store.prepare`. A part is offered to an upload that does not exist: whoever may not write is refused,
        whoever may is told so, and in neither case can anything be left behind.
        """
        for file in files:
            key = self._prefix + file.path
            if len(key.encode()) > KEY_LIMIT:
                raise RequestError(f"{self.artifact}{file.path} is longer than S3's 1,024 bytes: give a shorter root.")
            if file.size > OBJECT_LIMIT:
                raise RequestError(f"{file.path} has {file.size} bytes, S3 takes 5 TiB at most: split the file.")
        for key in (self._prefix + MANIFEST_NAME, self._shelf.prefix + MANIFEST_NAME):
            with self._place.translated():
                try:
                    self._client.upload_part(
                        Bucket=self._container, Key=key, UploadId=str(uuid.uuid4()), PartNumber=1, Body=b""
                    )
                except ClientError as error:
                    if code_of(error) not in {"NoSuchUpload", "InvalidArgument"}:
                        raise

    def begin(self, file: ManifestFile) -> Upload:
        """See `Store.begin`."""
        step = part_size(file.size, self._least_part)
        if file.size <= step:
            return Single(self._bucket, file, step)
        return Multipart(self._bucket, file, self._leases.claim(file), step)

    def seal(self, manifest: Manifest) -> str:
        """See `Store.seal`. The store itself refuses to overwrite (`If-None-Match: *`)."""
        with self._place.translated():
            try:
                self._client.put_object(
                    Bucket=self._container,
                    Key=self._prefix + MANIFEST_NAME,
                    Body=manifest.canonical,
                    ContentType="application/json",
                    ChecksumAlgorithm=CHECKSUM,
                    IfNoneMatch="*",
                )
            except ClientError as error:
                if status_of(error) != 412:
                    raise
        # Also after a 200: read back what everybody will read from now on.
        refuse_other(self.artifact, self.sealed(), manifest)
        return self.artifact

    def renew(self) -> None:
        """See `Store.renew`."""
        self._leases.renew()

    def tidy(self, files: Sequence[ManifestFile]) -> None:
        """See `Store.tidy`. One LIST, where nothing is left."""
        for claim in self._leases.leftovers(files):
            path = claim.checkpoint.path
            claim.drop(lambda path=path: self._bucket.abort_others(self._prefix + path))  # type: ignore[misc]
        known = {name(file): file for file in files}
        for label in self._shelf.names():
            there = self._shelf.read(label)
            if there is not None and label in known and self._is_over(known[label], parse(there)):
                self._shelf.remove(label, there.tag)

    def _is_over(self, file: ManifestFile, found: Checkpoint) -> bool:
        """Whether a lease is live that covers nothing more: its holder was killed, or is, between completing the upload
        and removing the checkpoint.
        """
        whole = self._bucket.etag_of(file) is not None
        return whole and bool(found.upload_id) and not self._bucket.uploads(self._prefix + file.path)

    def _known_versions(self) -> dict[Identity, str]:
        """Return the keys of the files of all other sealed versions of this model, by content; read once."""
        with self._lock:
            if self._versions is None:
                self._versions = dict(self._bucket.other_versions())
            return self._versions

    def _copy_object(self, file: ManifestFile, key: str, etag: str) -> bool:
        with self._place.translated():
            try:
                self._client.copy_object(
                    **self._bucket.address(file),
                    CopySource={"Bucket": self._container, "Key": key},
                    CopySourceIfMatch=etag,
                    ChecksumAlgorithm=CHECKSUM,
                    MetadataDirective="REPLACE",
                    Metadata=metadata(file),
                )
            except ClientError as error:
                if status_of(error) == 412 or code_of(error) in NOT_FOUND:
                    return False
                raise
        if self._bucket.etag_of(file) is None:
            raise TemporaryError(f"{self.artifact}{file.path} is not what was copied there: run this again.")
        return True
