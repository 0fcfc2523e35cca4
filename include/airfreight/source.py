"""Addresses: where a model comes from and where it goes. Parsing only; nothing here touches a network.

source        hf://acme/pong@main    acme/pong@main    acme/pong          (revision `main` when none is given)
destination   s3://llm-models/       s3://llm-models/team-a/              (the root; each model lies below it)
artifact      s3://llm-models/acme/pong/41ab6c1b1c1f/                     (always with its slash: KServe matches by
                                                                          prefix, and `v1` would also fetch `v10`)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from airfreight.errors import RequestError
from airfreight.manifest import Manifest

DEFAULT_REVISION = "main"
LATER_SOURCES = ("s3", "oci", "file")
LATER_DESTINATIONS = ("oci", "file")
# huggingface_hub utils/_validators.py (2.4): at most 96 characters, no `--` or `..`, no `-` or `.` at an end, no `.git`
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REPO_ID_LIMIT = 96
REVISION_LIMIT = 256
KEY_PART = re.compile(r"[A-Za-z0-9!_.*'()=@+-]+")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub, as asked for: the revision may be a branch or tag that moves."""

    repo_id: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        return f"hf://{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class S3Root:
    """A store's root in a bucket. `prefix` is empty or ends in `/`."""

    bucket: str
    prefix: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def below(self, manifest: Manifest) -> S3Root:
        """Return the place of one version of one model: `{root}{repo id}/{version}/`."""
        return S3Root(self.bucket, f"{self.prefix}{manifest.repo_id}/{manifest.version}/")


def parse_source(text: str) -> HubModel:
    """Read a source as people write it.

    Raises:
        RequestError: another scheme, or a malformed repository id or revision.
    """
    rest = text.strip()
    scheme = _SCHEME.match(rest)
    if scheme:
        name = scheme.group(1).lower()
        if name in LATER_SOURCES:
            raise RequestError(
                f"The source {text!r} is an {name}:// address, which is not available yet: "
                "give a model of the hub as hf://owner/name@revision."
            )
        if name != "hf":
            raise RequestError(f"The source {text!r} has an unknown scheme: give it as hf://owner/name@revision.")
        rest = rest[scheme.end() :]
    repo_id, at, revision = rest.partition("@")
    _check_repo_id(text, repo_id)
    if at:
        _check_revision(text, revision)
    return HubModel(repo_id, revision or DEFAULT_REVISION)


def parse_destination(text: str) -> S3Root:
    """Read a store root as people write it; a missing slash at its end is added.

    Raises:
        RequestError: another scheme, or a malformed bucket name or prefix.
    """
    rest = text.strip()
    scheme = _SCHEME.match(rest)
    name = scheme.group(1).lower() if scheme else ""
    if name in LATER_DESTINATIONS:
        raise RequestError(
            f"The destination {text!r} is an {name}:// address, which is not available yet: give s3://bucket/root/."
        )
    if scheme is None or name != "s3":
        raise RequestError(
            f"The destination {text!r} is not understood: give the root of a store as s3://bucket/root/."
        )
    bucket, _, prefix = rest[scheme.end() :].partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise RequestError(
            f"The destination {text!r} has no valid bucket name: 3 to 63 small letters, digits, dots and hyphens, "
            "as in s3://llm-models/."
        )
    parts = prefix.rstrip("/").split("/") if prefix.rstrip("/") else []
    if any(part in {".", ".."} or not KEY_PART.fullmatch(part) for part in parts):
        raise RequestError(
            f"The destination {text!r} has a prefix that is not safe: use letters, digits, dots, hyphens and "
            "underscores between single slashes."
        )
    return S3Root(bucket, "".join(f"{part}/" for part in parts))


def _check_repo_id(text: str, repo_id: str) -> None:
    parts = repo_id.split("/")
    fits = len(parts) == 2 and len(repo_id) <= REPO_ID_LIMIT and all(_PART.fullmatch(part) for part in parts)
    if not fits or "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise RequestError(
            f"The source {text!r} is malformed: give owner/name or hf://owner/name@revision, with letters, digits, "
            "'-', '_' and '.' only, as in acme/pong."
        )


def _check_revision(text: str, revision: str) -> None:
    # What git refuses in a reference name (git help check-ref-format), as far as it could confuse a URL.
    bad = any(character.isspace() or not character.isprintable() or character in "?#%~^:*[\\" for character in revision)
    if not revision or len(revision) > REVISION_LIMIT or bad or ".." in revision or revision[0] in "-/":
        raise RequestError(
            f"The source {text!r} has a malformed revision after '@': give a branch, a tag or a commit, "
            "as in acme/pong@main."
        )
