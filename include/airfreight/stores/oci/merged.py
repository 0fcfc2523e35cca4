"""What a container would see of an image's layers; pure, but for the layers that it asks for their members.

A later layer hides files of earlier ones, and takes them out by whiteouts (`.wh.name`, `.wh..wh..opq`:
opencontainers/image-spec, layer.md). A hard link is the file that lay at its target when its layer was laid down,
wherever that was. Symbolic links to files of the same directory are followed; others are named as what cannot be read.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from airfreight.stores.oci.layer_reader import LayerReader
from airfreight.stores.oci.tar_scan import Kind, Member

TOP = "models"  # KServe's modelcar and oci+native both serve this directory of an image
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
LINKS_LIMIT = 40  # as Linux has it


@dataclass(frozen=True)
class Found:
    """A thing in an image, and the layer it lies in."""

    member: Member
    layer: LayerReader


def lay(tree: dict[str, Found], layer: LayerReader) -> None:
    """Lay one layer over those below it; raises as `LayerReader.members`."""
    members = layer.members()
    for member in members:
        directory, _, name = member.path.rpartition("/")
        if name == OPAQUE:
            _remove(tree, directory, itself=False)
        elif name.startswith(WHITEOUT):
            _remove(tree, posixpath.join(directory, name.removeprefix(WHITEOUT)))
    directories = _directories(tree)
    for member in members:
        if member.path.rpartition("/")[2].startswith(WHITEOUT) or not member.path:
            continue
        linked = tree.get(_inside(member.target)) if member.kind is Kind.HARDLINK else None
        if member.kind is not Kind.DIRECTORY and member.path in directories:
            _remove(tree, member.path)
        # A hard link is the file that its target is now; what later layers put there is none of its business.
        if linked is None or linked.member.kind is Kind.DIRECTORY:
            linked = Found(member, layer)
        tree[member.path] = linked


def _remove(tree: dict[str, Found], path: str, itself: bool = True) -> None:
    below = f"{path}/" if path else ""
    for other in [other for other in tree if other.startswith(below) or (itself and other == path)]:
        del tree[other]


def _directories(tree: Mapping[str, Found]) -> set[str]:
    """Return all directories, also those that only the paths in them tell of."""
    found = {path for path, thing in tree.items() if thing.member.kind is Kind.DIRECTORY}
    for path in tree:
        directory = posixpath.dirname(path)
        while directory and directory not in found:
            found.add(directory)
            directory = posixpath.dirname(directory)
    return found


def target_of(tree: Mapping[str, Found], path: str) -> tuple[Found | None, str]:
    """Return the file that a path leads to; else None, and why, to follow the path in a sentence."""
    for _ in range(LINKS_LIMIT):
        thing = tree.get(path)
        if thing is None:
            return None, "" if _ == 0 else "is a link to nothing"
        kind = thing.member.kind
        if kind is Kind.FILE:
            return thing, ""
        if kind is Kind.HARDLINK:  # else it would be what it links to, see `_apply`
            return None, "is a link to nothing"
        if kind is Kind.SYMLINK:
            path = _inside(posixpath.join("/", posixpath.dirname(path), thing.member.target))
        else:
            return None, "is a link to a directory" if kind is Kind.DIRECTORY else "is no regular file"
        if not path.startswith(f"{TOP}/"):
            return None, f"is a link that leads out of /{TOP}"
    return None, "is a link to itself"


def _inside(path: str) -> str:
    return posixpath.normpath(posixpath.join("/", path)).lstrip("/")
