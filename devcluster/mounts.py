"""What is mounted below a directory, and its end: a directory is removed only when nothing is mounted in it.

A killed debootstrap leaves /proc and /sys mounted where it worked, a killed buildah or containerd its overlays;
removing files through such a mount would reach into the machine.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from devcluster.shell import DevClusterError, succeeds


def below(directory: Path, mountinfo: str) -> list[Path]:
    """The mount points at and below a directory, deepest first. Pure.

    Args:
        mountinfo: the text of /proc/self/mountinfo; the fifth field is the mount point, with blanks as \\040 (proc(5)).
    """
    points = [_plain(line.split()[4]) for line in mountinfo.splitlines()]
    return sorted((p for p in points if p.is_relative_to(directory)), key=lambda p: len(p.parts), reverse=True)


def _plain(point: str) -> Path:
    return Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point))


def unmount_below(directory: Path) -> None:
    """Unmount whatever is mounted at and below a directory.

    Raises:
        DevClusterError: something stays mounted; nothing may be removed there.
    """
    directory = directory.resolve()
    for point in _mounted(directory):
        succeeds(["umount", "--lazy", point])  # one that went with another is not missed
    if left := _mounted(directory):
        raise DevClusterError(f"{left[0]} cannot be unmounted: unmount it by hand, then run this again.")


def _mounted(directory: Path) -> list[Path]:
    return below(directory, Path("/proc/self/mountinfo").read_text())


def remove_tree(directory: Path) -> None:
    """Remove a directory and all that is in it, but nothing that is mounted there; its absence is fine."""
    unmount_below(directory)
    if directory.exists():
        shutil.rmtree(directory)
