"""Addresses: where a model comes from and where it goes. Parsing only; nothing here touches a network or a disk.

source        hf://acme/pong@main    acme/pong@main    acme/pong          (revision `main` when none is given)
              s3://llm-models/acme/pong/41ab6c1b1c1f/                     (a prefix that holds one model)
              file:///data/acme/pong/                                     (a directory that holds one model)
              oci://registry.example/models/acme/pong:41ab6c1b1c1f        (an image that holds one model)
destination   s3://llm-models/       s3://llm-models/team-a/              (the root; each model lies below it)
              file:///models/        oci://registry.example/models/       (its slash at the end)
              oci://registry.example/models/acme/pong                     (exactly this repository, and perhaps tag)
artifact      s3://llm-models/acme/pong/41ab6c1b1c1f/                     (always with its slash: KServe matches by
              file:///models/acme/pong/41ab6c1b1c1f/                      prefix, and `v1` would also fetch `v10`)
              oci://registry.example/models/acme/pong@sha256:<64 hex>

Those of registries are read by `airfreight.stores.oci.reference`. The path of a file:// address is taken as it is
written: nothing is percent-decoded, `~` and `$` mean themselves.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from airfreight.errors import RequestError
from airfreight.manifest import MANIFEST_NAME, Manifest
from airfreight.stores.oci.reference import SCHEME as OCI
from airfreight.stores.oci.reference import OciImage, OciRoot, parse_oci

DEFAULT_REVISION = "main"
# huggingface_hub utils/_validators.py (2.4): at most 96 characters, no `--` or `..`, no `-` or `.` at an end, no `.git`
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REPO_ID_LIMIT = 96
REVISION_LIMIT = 256
KEY_PART = re.compile(r"[A-Za-z0-9!_.*'()=@+-]+")
IMAGE_FORM = "oci://registry/repository@sha256:…"
SOURCE_FORMS = f"hf://owner/name@revision, s3://bucket/prefix/, file:///directory/ or {IMAGE_FORM}"
DESTINATION_FORMS = "s3://bucket/root/, file:///directory/ or oci://registry/path/"
ARTIFACT_FORMS = f"s3://bucket/prefix/, file:///directory/ or {IMAGE_FORM}"


@dataclass(frozen=True)
class HubModel:
    """A model on the hub, as asked for: the revision may be a branch or tag that moves."""

    repo_id: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        return f"hf://{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class S3Root:
    """A store's root in a bucket, or one place in it. `prefix` is empty or ends in `/`."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def below(self, manifest: Manifest) -> S3Root:
        """Return the place of one version of one model: `{root}{repo id}/{version}/`."""
        return S3Root(self.bucket, f"{self.prefix}{manifest.repo_id}/{manifest.version}/")


@dataclass(frozen=True)
class DirectoryRoot:
    """A store's root on a file system, or one place in it. `path` is absolute and ends in `/`."""

    path: str

    def __str__(self) -> str:
        return f"file://{self.path}"

    @property
    def directory(self) -> Path:
        """The same for the file system."""
        return Path(self.path)

    def below(self, manifest: Manifest) -> DirectoryRoot:
        """Return the place of one version of one model: `{root}{repo id}/{version}/`."""
        return DirectoryRoot(f"{self.path}{manifest.repo_id}/{manifest.version}/")


Place = S3Root | DirectoryRoot | OciImage
Origin = HubModel | Place
Root = S3Root | DirectoryRoot | OciRoot | OciImage


def parse_source(text: str) -> HubModel:
    """Read a model of the hub as people write it: what the trigger form and the catalog take.

    Raises:
        RequestError: another scheme, or a malformed repository id or revision.
    """
    name, rest = _split(text)
    if name in {"s3", "file", OCI}:
        raise RequestError(
            f"The source {text!r} is an {name}:// address, which is not available yet: "
            "give a model of the hub as hf://owner/name@revision."
        )
    if name not in {"", "hf"}:
        raise RequestError(f"The source {text!r} has an unknown scheme: give it as hf://owner/name@revision.")
    return _hub_model(text, rest)


def parse_any_source(text: str) -> Origin:
    """Read whatever a copy can come from: a model of the hub, a prefix in a bucket, a directory, an image.

    Raises:
        RequestError: another scheme, or a malformed address.
    """
    name, rest = _split(text)
    if name in {"", "hf"}:
        return _hub_model(text, rest)
    return _place(f"The source {text!r}", name, rest, SOURCE_FORMS)


def parse_destination(text: str) -> S3Root:
    """Read a store root in a bucket as people write it: what models are served from. A missing last slash is added.

    Raises:
        RequestError: another scheme, or a malformed bucket name or prefix.
    """
    name, rest = _split(text)
    subject = f"The destination {text!r}"
    if name in {"file", OCI}:
        raise RequestError(f"{subject} is an {name}:// address, where a bucket is wanted: give s3://bucket/root/.")
    if name != "s3":
        raise RequestError(f"{subject} is not understood: give the root of a store as s3://bucket/root/.")
    return _bucket_root(subject, rest)


def parse_any_destination(text: str) -> Root:
    """Read a store root, in a bucket or on a file system, where a missing slash at its end is added; or a root in a
    registry, which has that slash, or one repository there, which has none.

    Raises:
        RequestError: another scheme, a malformed address, or a digest, which is known only when the image is there.
    """
    name, rest = _split(text)
    subject = f"The destination {text!r}"
    if name != OCI:
        return _place(subject, name, rest, DESTINATION_FORMS)
    place = parse_oci(subject, rest)
    if isinstance(place, OciImage) and place.digest is not None:
        raise RequestError(f"{subject} names a digest, which only what is there can have: give a tag, or none.")
    return place


def parse_artifact(text: str) -> Place:
    """Read the address of one delivered version; a missing slash at its end is added, but to that of an image.

    Raises:
        RequestError: another scheme, or a malformed address.
    """
    name, rest = _split(text)
    return _place(f"The location {text!r}", name, rest, ARTIFACT_FORMS)


def repo_id_of(root: Place) -> str:
    """Name a model that nobody named: the last two parts of its address, as `owner/name`.

    A model without airfreight.json has no name of its own, and every artifact needs one.

    Raises:
        RequestError: there are no two parts, or they hold characters that no name has.
    """
    text = _path_of(root)
    repo_id = "/".join([part for part in text.split("/") if part][-2:])
    if not _is_repo_id(repo_id):
        raise RequestError(
            f"{root} has no {MANIFEST_NAME}, so the model is named after the last two parts of its address, and "
            f"{repo_id!r} is no name: put it below owner/name, with letters, digits, '-', '_' and '.' only."
        )
    return repo_id


def _path_of(root: Place) -> str:
    if isinstance(root, S3Root):
        return f"{root.bucket}/{root.prefix}"
    return root.repository if isinstance(root, OciImage) else root.path


def _split(text: str) -> tuple[str, str]:
    """Return the scheme in small letters, empty without one, and what follows it."""
    rest = text.strip()
    scheme = _SCHEME.match(rest)
    return (scheme.group(1).lower(), rest[scheme.end() :]) if scheme else ("", rest)


def _place(subject: str, name: str, rest: str, forms: str) -> Place:
    if name == "s3":
        return _bucket_root(subject, rest)
    if name == "file":
        return _directory_root(subject, rest)
    if name == OCI:
        return _image(subject, rest)
    if name == "hf":
        raise RequestError(f"{subject} is a model of the hub, which is only read from: give {forms}.")
    raise RequestError(f"{subject} is not understood: give {forms}.")


def _image(subject: str, rest: str) -> OciImage:
    place = parse_oci(subject, rest)
    if isinstance(place, OciRoot) or place.reference is None:
        raise RequestError(f"{subject} names no image: add its tag or its digest, as in {IMAGE_FORM}.")
    return place


def _bucket_root(subject: str, rest: str) -> S3Root:
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise RequestError(
            f"{subject} has no valid bucket name: 3 to 63 small letters, digits, dots and hyphens, "
            "as in s3://llm-models/."
        )
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    if any(part in {".", ".."} or not KEY_PART.fullmatch(part) for part in parts):
        raise RequestError(
            f"{subject} has a prefix that is not safe: use letters, digits, dots, hyphens and "
            "underscores between single slashes."
        )
    return S3Root(bucket, "".join(f"{part}/" for part in parts))


def _directory_root(subject: str, rest: str) -> DirectoryRoot:
    if not rest.startswith("/"):
        raise RequestError(
            f"{subject} names no absolute directory of this machine: write three slashes, as in file:///models/."
        )
    parts = rest.strip("/").split("/")
    if parts == [""]:
        raise RequestError(f"{subject} is the root of the file system: name a directory, as in file:///models/.")
    unprintable = any(unicodedata.category(character) in {"Cc", "Cs"} for character in rest)
    if unprintable or any(part in {"", ".", ".."} for part in parts):
        raise RequestError(
            f"{subject} is not a plain path: write it without '.', '..', doubled slashes and control characters."
        )
    return DirectoryRoot("/" + "".join(f"{part}/" for part in parts))


def _hub_model(text: str, rest: str) -> HubModel:
    repo_id, at, revision = rest.partition("@")
    if not _is_repo_id(repo_id):
        raise RequestError(
            f"The source {text!r} is malformed: give owner/name or hf://owner/name@revision, with letters, digits, "
            "'-', '_' and '.' only, as in acme/pong."
        )
    if at:
        _check_revision(text, revision)
    return HubModel(repo_id, revision or DEFAULT_REVISION)


def _is_repo_id(repo_id: str) -> bool:
    parts = repo_id.split("/")
    fits = len(parts) == 2 and len(repo_id) <= REPO_ID_LIMIT and all(_PART.fullmatch(part) for part in parts)
    return fits and not ("--" in repo_id or ".." in repo_id or repo_id.endswith(".git"))


def _check_revision(text: str, revision: str) -> None:
    # What git refuses in a reference name (git help check-ref-format), as far as it could confuse a URL.
    bad = any(character.isspace() or not character.isprintable() or character in "?#%~^:*[\\" for character in revision)
    if not revision or len(revision) > REVISION_LIMIT or bad or ".." in revision or revision[0] in "-/":
        raise RequestError(
            f"The source {text!r} has a malformed revision after '@': give a branch, a tag or a commit, "
            "as in acme/pong@main."
        )
