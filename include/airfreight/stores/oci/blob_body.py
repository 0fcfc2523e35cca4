"""The body of an answer that is a blob, or a range of one."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2

from airfreight.errors import TemporaryError

CHUNK = 1024 * 1024  # bytes yielded at most


def extent(response: httpx2.Response, offset: int) -> tuple[int, int | None]:
    """Return the first byte of this answer and the size of the whole blob, None where the registry does not tell."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise TemporaryError(f"{response.url.host} compresses although asked not to: take out the proxy that does.")
    if response.status_code == httpx2.codes.PARTIAL_CONTENT:
        # "bytes 100-999/1000", or "bytes 100-999/*" (RFC 9110, 14.4)
        extent, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = extent.partition("-")[0]
        return int(start) if start.isdigit() else offset, int(whole) if whole.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() and response.status_code == httpx2.codes.OK else None


def window(name: str, response: httpx2.Response, position: int, offset: int, end: int) -> Iterator[bytes]:
    """Yield what lies between `offset` and `end` of a body that begins at `position`.

    Args:
        name: of the blob, and where it is, for a sentence.
    Raises:
        TemporaryError: bytes are missing.
    """
    if position > offset:
        raise TemporaryError(f"Bytes {offset} to {position} of {name} were left out: try again.")
    for chunk in response.iter_raw():
        piece = chunk[max(0, offset - position) : max(0, end - position)]
        position += len(chunk)
        for start in range(0, len(piece), CHUNK):
            yield piece[start : start + CHUNK]
        if position >= end:
            return
    if position < end:
        raise TemporaryError(f"The blob {name} ended after {position} of {end} bytes: try again.")
