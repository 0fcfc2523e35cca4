"""Which files of a model are wanted: wildcards, as huggingface_hub understands them.

    allow_patterns: ["*.safetensors", "*.json"]     only these; none means all
    ignore_patterns: ["original/", "*.bin"]         and of those, not these

`*` also matches `/`, case counts, and a pattern that ends in `/` means all below it. The matching itself is
`huggingface_hub.utils.filter_repo_objects`, so what `hf download --include --exclude` would take is what is taken here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from airfreight.errors import RequestError
from airfreight.manifest import Manifest

PATTERNS_LIMIT = 100
PATTERN_LENGTH = 300  # characters


@dataclass(frozen=True)
class Patterns:
    """What to take and what to leave out; both empty: everything.

    Attributes:
        allow: a file must match one of these, where there are any.
        ignore: a file must match none of these.
    """

    allow: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(cls, allow: Iterable[str] = (), ignore: Iterable[str] = ()) -> Self:
        """Read patterns as people write them: an item may hold several lines, empty ones do not count.

        Raises:
            RequestError: too many or too long, a control character, or a pattern that no path can match.
        """
        return cls(_read("allow_patterns", allow), _read("ignore_patterns", ignore))

    def narrow(self, manifest: Manifest) -> Manifest:
        """Return the manifest of the files that are wanted; the same manifest, when that is all of them.

        Raises:
            RequestError: no file is left.
        """
        if not self.allow and not self.ignore:
            return manifest
        # Late: the catalog is read where DAG files are parsed.
        from huggingface_hub.utils._paths import filter_repo_objects

        files = tuple(
            filter_repo_objects(
                manifest.files,
                allow_patterns=list(self.allow) or None,
                ignore_patterns=list(self.ignore) or None,
                key=lambda file: file.path,
            )
        )
        if not files:
            shown = ", ".join(file.path for file in manifest.files[:3])
            raise RequestError(
                f"{manifest.source}: allow_patterns and ignore_patterns leave no file (there are, among others, "
                f"{shown}): correct the patterns."
            )
        if len(files) == len(manifest.files):
            return manifest
        return Manifest.of(manifest.source, manifest.repo_id, manifest.commit, files, narrowed=True)


def _read(name: str, items: Iterable[str]) -> tuple[str, ...]:
    lines = [line.strip() for item in items for line in item.splitlines()]
    patterns = tuple(dict.fromkeys(line for line in lines if line))
    if len(patterns) > PATTERNS_LIMIT:
        raise RequestError(f"{name} has {len(patterns)} patterns: write at most {PATTERNS_LIMIT}.")
    for pattern in patterns:
        if len(pattern) > PATTERN_LENGTH:
            raise RequestError(f"{name}: {pattern[:20]!r}… is too long: write at most {PATTERN_LENGTH} characters.")
        if not pattern.isprintable():
            raise RequestError(f"{name}: {pattern!r} holds a character that cannot be printed: take it out.")
        if pattern.startswith("/") or ".." in pattern.split("/"):
            raise RequestError(
                f"{name}: {pattern!r} can match no file: paths are relative to the repository, as in original/*.pth."
            )
    return patterns
