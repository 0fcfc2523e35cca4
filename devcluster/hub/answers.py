"""The JSON the hub answers with, as pure functions of a repository; no HTTP here.

Field names and their spelling (`siblings[].lfs.sha256` in model info, `lfs.oid` in a tree) are those that
`huggingface_hub` 2.4.0 parses: `ModelInfo`, `RepoFile`, `RepoFolder`, `GitRefs` and `GitCommitInfo` in its
`hf_api.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from .git_objects import File, tree_ids
from .repository import Commit, Repository

ReadText = Callable[[File], str]
"""Reads a small text file of a repository."""


class BadCursorError(ValueError):
    """A page was asked for with a cursor this server did not give out."""


def model_info(
    repository: Repository, sha: str, *, blobs: bool, expand: Iterable[str], read: ReadText
) -> dict[str, Any]:
    """Return model info at a commit, as `GET /api/models/{id}[/revision/{rev}]` gives it.

    Args:
        blobs: also sizes and ids of the files (`files_metadata=True` of the client).
        expand: when not empty, only these properties and the ids.
    """
    commit = repository.commits[sha]
    card = _front_matter(read(commit.files["README.md"])) if "README.md" in commit.files else {}
    config = json.loads(read(commit.files["config.json"])) if "config.json" in commit.files else {}
    tags = [f"license:{card['license']}"] if "license" in card else []
    info: dict[str, Any] = {
        "_id": sha[:24],
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0],
        "sha": sha,
        "createdAt": _date(min(c.timestamp for c in repository.commits.values())),
        "lastModified": _date(commit.timestamp),
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [*card.get("tags", []), *tags],
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "config": {key: config[key] for key in ("architectures", "model_type") if key in config},
        "cardData": card,
        "siblings": [
            {"rfilename": path, **(_sibling_blob(file) if blobs else {})} for path, file in sorted(commit.files.items())
        ],
        "spaces": [],
        "usedStorage": sum(file.size for file in commit.files.values()),
    }
    wanted = set(expand)
    if wanted:
        return {key: value for key, value in info.items() if key in wanted or key in ("_id", "id", "modelId")}
    return info


def tree_entries(commit: Commit, directory: str, *, recursive: bool, expand: bool, sha: str) -> list[dict[str, Any]]:
    """Return the entries below a directory ("" is the root), sorted by path; files have `type` file, else directory.

    Raises:
        KeyError: there is no such directory.
    """
    ids = tree_ids(commit.files)
    if directory not in ids:
        raise KeyError(directory)
    inside = directory + "/" if directory else ""
    entries: list[dict[str, Any]] = [
        {"type": "directory", "oid": oid, "size": 0, "path": path} for path, oid in ids.items() if path
    ]
    entries += [tree_entry(path, file) for path, file in commit.files.items()]
    entries = [
        entry
        for entry in entries
        if entry["path"].startswith(inside) and (recursive or "/" not in entry["path"][len(inside) :])
    ]
    if expand:
        last = {"id": sha, "title": commit.title, "date": _date(commit.timestamp)}
        entries = [{**entry, "lastCommit": last} for entry in entries]
    return sorted(entries, key=lambda entry: str(entry["path"]))


def tree_entry(path: str, file: File) -> dict[str, Any]:
    """Return one file as a tree and `paths-info` show it."""
    entry: dict[str, Any] = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


def paths_info(commit: Commit, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Return the entries of some paths; unknown ones are left out, as the hub does."""
    ids = tree_ids(commit.files)
    return [
        tree_entry(path, commit.files[path])
        if path in commit.files
        else {"type": "directory", "oid": ids[path], "size": 0, "path": path}
        for path in paths
        if path in commit.files or (path and path in ids)
    ]


def page(entries: list[dict[str, Any]], cursor: str | None, limit: int) -> tuple[list[dict[str, Any]], str | None]:
    """Cut one page out of sorted entries. Returns it and the cursor of the next page, None at the end.

    A cursor names the last path shown, so pages stay right whatever was asked before.

    Raises:
        BadCursorError: the cursor is not one of ours.
    """
    after = ""
    if cursor is not None:
        try:
            after = base64.urlsafe_b64decode(cursor.encode()).decode()
        except (binascii.Error, ValueError) as error:
            raise BadCursorError(cursor) from error
    rest = [entry for entry in entries if entry["path"] > after]
    shown = rest[:limit]
    more = len(rest) > len(shown)
    return shown, base64.urlsafe_b64encode(shown[-1]["path"].encode()).decode() if more else None


def refs(repository: Repository) -> dict[str, Any]:
    """Return branches and tags."""

    def listed(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": sha} for n, sha in sorted(names.items())]

    return {
        "branches": listed("heads", repository.branches),
        "tags": listed("tags", repository.tags),
        "converts": [],
        "pullRequests": [],
    }


def commits(repository: Repository, sha: str) -> list[dict[str, Any]]:
    """Return the history that ends in a commit, youngest first."""
    author = repository.id.partition("/")[0]
    return [
        {
            "id": commit,
            "title": repository.commits[commit].title,
            "message": "",
            "authors": [{"user": author}],
            "date": _date(repository.commits[commit].timestamp),
        }
        for commit in repository.history(sha)
    ]


def _sibling_blob(file: File) -> dict[str, Any]:
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return {"size": file.size, "blobId": file.blob_id, **({"lfs": lfs} if file.lfs else {})}


def _date(timestamp: int) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _front_matter(text: str) -> dict[str, Any]:
    """Return the model card's metadata: the YAML between the two `---` lines.

    Only flat `key: value` lines and lists of `- item` are read: what our own cards hold, without a YAML library.
    """
    lines = text.splitlines()
    if not lines or lines[0] != "---" or "---" not in lines[1:]:
        return {}
    card: dict[str, Any] = {}
    key = ""
    for line in lines[1 : lines.index("---", 1)]:
        if line.startswith("- ") and key:
            card[key] = [*(card[key] or []), line[2:].strip()]
        elif ":" in line:
            key, _, value = (part.strip() for part in line.partition(":"))
            card[key] = value or None
    return card
