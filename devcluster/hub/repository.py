"""Model repositories on disk: what the stand-in hub publishes, and the only code that reads or writes it.

    ROOT/
      blobs/
        71/71d0…e2                 content of a file, named by its sha256 (64 hex); equal files are there once
      models/
        acme/pong.json             one repository: its settings, branches, tags and commits

    acme/pong.json:
      {
        "format": 1,
        "id": "acme/pong",
        "private": false,
        "gated": false,            or "auto" / "manual", the hub's words
        "branches": {"main": "9f2c…", "next": "41ab…"},
        "tags": {},
        "commits": {
          "9f2c…": {
            "parent": null,
            "title": "Add the model",
            "timestamp": 1767225600,
            "files": {
              "config.json": {"size": 579, "blob_id": "…40 hex…", "sha256": "…64 hex…", "lfs": false},
              …
            }
          }, …
        }
      }

Keys are sorted and files replaced whole (temporary name, then rename), so a server may read while someone publishes,
and the same publications on another machine give the same bytes. Commit ids are git's (see `git_objects`). Nothing is
ever deleted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from .git_objects import File, commit_id, describe, tree_ids

FORMAT = 1
FIRST_TIMESTAMP = 1_767_225_600
"""2026-01-01T00:00:00Z, in seconds: the first commit of a repository; each later one comes an hour after."""
SHORT_COMMIT_PATTERN = re.compile(r"[0-9a-f]{7,40}")
# The hub's rule in its own words: "Only regular characters and '-', '_', '.' are accepted. '--' and '..' are
# forbidden. '-' and '.' cannot start or end the name. The name cannot end with ".git". Max length is 96."
NAME_PATTERN = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
NAME_MAX = 96

Gated = Literal[False, "auto", "manual"]


@dataclass(frozen=True)
class Commit:
    """One commit. `timestamp` is in seconds since 1970, UTC; `files` maps a path to its description."""

    parent: str | None
    title: str
    timestamp: int
    files: Mapping[str, File]


@dataclass(frozen=True)
class Repository:
    """One model repository as its JSON file describes it. `branches` and `tags` map a name to a commit id."""

    id: str
    private: bool
    gated: Gated
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    commits: Mapping[str, Commit]

    def resolve(self, revision: str) -> str | None:
        """Return the commit (40 hex) of a branch, tag, commit or unambiguous commit prefix; None when there is none."""
        for names in (self.branches, self.tags):
            if revision in names:
                return names[revision]
        if SHORT_COMMIT_PATTERN.fullmatch(revision):
            found = [commit for commit in self.commits if commit.startswith(revision)]
            return found[0] if len(found) == 1 else None
        return None

    def history(self, commit: str) -> list[str]:
        """Return the commit and its ancestors, youngest first."""
        line: list[str] = []
        current: str | None = commit
        while current:
            line.append(current)
            current = self.commits[current].parent
        return line


class Library:
    """All repositories under one root directory. Holds no state: every read sees what was published last."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def find(self, repo_id: str) -> Repository | None:
        """Return a repository, or None when there is none of that name.

        Raises:
            ValueError: the name breaks the hub's rule, or the file is of another format.
        """
        check_repo_id(repo_id)
        try:
            data = json.loads(self._file(repo_id).read_text())
        except FileNotFoundError:
            return None
        if data.pop("format") != FORMAT:
            raise ValueError(f"{self._file(repo_id)} is not of format {FORMAT}; publish the repository again")
        commits = {
            sha: Commit(**{**commit, "files": {path: File(**file) for path, file in commit["files"].items()}})
            for sha, commit in data.pop("commits").items()
        }
        return Repository(**data, commits=commits)

    def blob(self, sha256: str) -> Path:
        """Return where the content with this sha256 (64 hex) lies."""
        return self.root / "blobs" / sha256[:2] / sha256

    def publish(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        title: str,
        branch: str = "main",
        start: str = "main",
        gated: Gated = False,
        private: bool = False,
        tag: str | None = None,
    ) -> str:
        """Add one commit that holds exactly `files`, and return its id (40 hex).

        Publishing what the branch already holds adds no commit, so the demo can be published again and again.

        Args:
            files: path -> whole content. Paths are relative, with "/" and without "..".
            branch: moved to the new commit; made from branch `start` when it does not exist.
            gated, private: the repository's settings from now on.
            tag: a name for the new commit, besides.
        Raises:
            ValueError: the repository's name or a path breaks the rules.
        """
        check_repo_id(repo_id)
        for path in files:
            if not path or any(part in ("", ".", "..") for part in path.split("/")):
                raise ValueError(f"{path!r} is no path inside a repository; use names separated by single slashes")
        found = self.find(repo_id) or Repository(repo_id, private, gated, {}, {}, {})
        described = {path: describe(path, content) for path, content in sorted(files.items())}
        parent = found.branches.get(branch) or found.branches.get(start)
        commits = dict(found.commits)
        if parent and commits[parent].files == described:
            sha = parent
        else:
            for path, content in files.items():
                _write_once(self.blob(described[path].sha256), content)
            timestamp = commits[parent].timestamp + 3600 if parent else FIRST_TIMESTAMP
            author = repo_id.partition("/")[0]
            sha = commit_id(
                tree=tree_ids(described)[""], parent=parent, author=author, timestamp=timestamp, title=title
            )
            commits[sha] = Commit(parent, title, timestamp, described)
        branches = {**found.branches, branch: sha}
        tags = {**found.tags, **({tag: sha} if tag else {})}
        self._store(replace(found, private=private, gated=gated, branches=branches, tags=tags, commits=commits))
        return sha

    def _store(self, repository: Repository) -> None:
        text = json.dumps({"format": FORMAT, **asdict(repository)}, indent=1, sort_keys=True) + "\n"
        _replace(self._file(repository.id), text.encode())

    def _file(self, repo_id: str) -> Path:
        return self.root / "models" / f"{repo_id}.json"


def check_repo_id(repo_id: str) -> None:
    """Refuse a name the hub would refuse: "name" or "owner/name" out of letters, digits, "-", "_" and ".".

    Raises:
        ValueError: with the rule.
    """
    parts = repo_id.split("/")
    valid = len(parts) <= 2 and all(NAME_PATTERN.fullmatch(part) for part in parts)
    if not valid or len(repo_id) > NAME_MAX or repo_id.endswith(".git"):
        raise ValueError(
            f"Invalid repo name: {repo_id!r}. Only regular characters and '-', '_', '.' are accepted. '--' and '..' "
            f"are forbidden. '-' and '.' cannot start or end the name. Max length is {NAME_MAX}."
        )


def _write_once(path: Path, content: bytes) -> None:
    if not path.exists():
        _replace(path, content)


def _replace(path: Path, content: bytes) -> None:
    """Write a file of mode 0644 under a temporary name, then rename: a reader sees old or new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o644)
    temporary.replace(path)
