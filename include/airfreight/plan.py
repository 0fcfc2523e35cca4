"""What a copy would do, said before it does it: files, bytes to move, bytes reused, disk, and what is refused. Pure.

hf://acme/pong@41ab6c1b1c1f6d3a4f3f2b0f7a3d9c5e8b7a6f50 as version 41ab6c1b1c1f
to s3://llm-models/acme/pong/41ab6c1b1c1f/
all           9 files   33.6 MiB
to move       2 files    8.0 MiB
copied there  0 files        0 B
there         7 files   25.6 MiB
local disk                   0 B
licence       apache-2.0
refused       nothing
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from airfreight.errors import RequestError
from airfreight.manifest import Manifest
from airfreight.prechecks import (
    NO_FACTS,
    NO_RULES,
    Facts,
    Limits,
    Rules,
    first_of,
    human_size,
    refusals,
    unsafe_files,
)


@dataclass(frozen=True)
class Plan:
    """What a copy would do. Bytes are those of whole files.

    Attributes:
        source: with its commit.
        version: of the manifest.
        artifact: where the copy goes; None: nowhere, only the source was looked at.
        files, size_bytes: of the manifest.
        move_files, move_bytes: what comes from the source.
        copied_files, copied_bytes: what the store copies inside itself from another version.
        reused_files, reused_bytes: what is at the artifact already.
        disk_bytes: what is written to a disk; 0 when the copy streams into a bucket.
        licences: see `Facts`.
        unsafe_files: files that can run code when a model server loads them.
        allow_unsafe: the reason why they are taken; empty: they are not.
        refusals: why the copy would not be made, one sentence each; empty: it would.
    """

    source: str
    version: str
    artifact: str | None
    files: int
    size_bytes: int
    move_files: int
    move_bytes: int
    copied_files: int
    copied_bytes: int
    reused_files: int
    reused_bytes: int
    disk_bytes: int
    licences: tuple[str, ...] | None
    unsafe_files: tuple[str, ...]
    allow_unsafe: str
    refusals: tuple[str, ...]

    def check(self) -> None:
        """Return if the copy would be made.

        Raises:
            RequestError: it would not; the first refusal, and how many more there are.
        """
        if self.refusals:
            raise RequestError(first_of(self.refusals))

    def table(self) -> str:
        """Return the plan for a person; lines without a newline at the end."""
        rows = [
            ("all", self.files, self.size_bytes),
            ("to move", self.move_files, self.move_bytes),
            ("copied there", self.copied_files, self.copied_bytes),
            ("there", self.reused_files, self.reused_bytes),
        ]
        wide = max(len(str(row[1])) for row in rows)
        lines = [f"{self.source} as version {self.version}"]
        lines += [f"to {self.artifact}"] if self.artifact else []
        lines += [
            f"{name:<12}  {files:>{wide}} {'file ' if files == 1 else 'files'} {human_size(size):>10}"
            for name, files, size in rows
        ]
        lines.append(f"{'local disk':<12}  {'':>{wide}}       {human_size(self.disk_bytes):>10}")
        if self.licences is not None:
            lines.append(f"{'licence':<12}  {', '.join(self.licences) or 'none named'}")
        if self.unsafe_files:
            taken = f'taken, because "{self.allow_unsafe}"' if self.allow_unsafe else "refused"
            lines.append(f"{'can run code':<12}  {', '.join(self.unsafe_files)} ({taken})")
        lines += [f"{'refused':<12}  {sentence}" for sentence in self.refusals or ("nothing",)]
        return "\n".join(lines)

    def result(self) -> dict[str, object]:
        """Return the fields of a command's result."""
        return {
            "move_files": self.move_files,
            "move_bytes": self.move_bytes,
            "copied_files": self.copied_files,
            "copied_bytes": self.copied_bytes,
            "reused_files": self.reused_files,
            "reused_bytes": self.reused_bytes,
            "disk_bytes": self.disk_bytes,
            "licences": None if self.licences is None else list(self.licences),
            "unsafe_files": list(self.unsafe_files),
            "allow_unsafe": self.allow_unsafe or None,
            "refusals": list(self.refusals),
        }


def make_plan(
    manifest: Manifest,
    *,
    artifact: str | None = None,
    held: Collection[str] = (),
    copied: Collection[str] = (),
    rules: Rules = NO_RULES,
    facts: Facts = NO_FACTS,
    limits: Limits | None = None,
    on_disk: bool = False,
) -> Plan:
    """Return what a copy of this manifest would do.

    Args:
        held: paths of the files that are at the artifact already, whole.
        copied: paths of the files that the store can copy from another version of its own.
        limits: of the place; None: they are not judged.
        on_disk: whether the place is a disk: then everything that is not there yet is written to it.
    """
    there = [file for file in manifest.files if file.path in held]
    inside = [file for file in manifest.files if file.path in copied and file.path not in held]
    gone = {file.path for file in (*there, *inside)}
    moved = [file for file in manifest.files if file.path not in gone]
    needed = sum(file.size for file in (*moved, *inside))
    return Plan(
        source=manifest.source,
        version=manifest.version,
        artifact=artifact,
        files=len(manifest.files),
        size_bytes=manifest.size,
        move_files=len(moved),
        move_bytes=sum(file.size for file in moved),
        copied_files=len(inside),
        copied_bytes=sum(file.size for file in inside),
        reused_files=len(there),
        reused_bytes=sum(file.size for file in there),
        disk_bytes=needed if on_disk else 0,
        licences=facts.licences,
        unsafe_files=unsafe_files(manifest),
        allow_unsafe=rules.allow_unsafe if unsafe_files(manifest) else "",
        refusals=refusals(manifest, rules, facts, limits, needed),
    )
