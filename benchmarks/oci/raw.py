"""The upload alone: files whose digests are known beforehand, sent whole, several at a time; no image, no hash.

    python -m benchmarks.oci.raw HOST REPOSITORY DIGEST=FILE...

POST, one PATCH with the whole file by sendfile(2), PUT: the least that a registry asks of anybody who brings new bytes.
"""

from __future__ import annotations

import http.client
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

AT_ONCE = 4


def upload(host: str, repository: str, digest: str, path: Path) -> None:
    """Send one file as a blob.

    Raises:
        RuntimeError: the registry answers otherwise than it should.
    """
    connection = http.client.HTTPConnection(host, timeout=300)
    location = _ask(connection, "POST", f"/v2/{repository}/blobs/uploads/", 202)
    connection.putrequest("PATCH", _path(location))
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(path.stat().st_size))
    connection.endheaders()
    with path.open("rb") as file:
        connection.sock.sendfile(file)
    location = _answered(connection, 202)
    joint = "&" if "?" in location else "?"
    _ask(connection, "PUT", f"{_path(location)}{joint}digest={digest}", 201)
    connection.close()


def _ask(connection: http.client.HTTPConnection, method: str, path: str, status: int) -> str:
    connection.request(method, path, headers={"Content-Length": "0"})
    return _answered(connection, status)


def _answered(connection: http.client.HTTPConnection, status: int) -> str:
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != status:
        raise RuntimeError(f"the registry answered {answer.status} where {status} was expected: {said[:200]!r}")
    return answer.headers["Location"]


def _path(location: str) -> str:
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def main() -> int:
    """Send all files."""
    host, repository, *files = sys.argv[1:]
    pairs = [file.split("=", 1) for file in files]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda pair: upload(host, repository, pair[0], Path(pair[1])), pairs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
