"""The benchmark's hand in the store, between measurements: what lies there, and away with it.

A process of its own, for boto3 is larger than the measuring process may be (see `measure`). It reads one JSON line and
answers with one, after a first line that says the bucket is there:

    {"list": "7/"}                        -> {"objects": {"7/acme/…/config.json": 62}}
    {"empty": "7/", "keys": ["7/…", …]}   -> {"objects": {}}; unfinished uploads of these keys are gone too
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.servers import BUCKET


class Bucket:
    """The measuring process's side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin and process.stdout  # noqa: S101 - made by `open_bucket` with both
        self._requests, self._answers = process.stdin, process.stdout

    def wait_until_made(self) -> None:
        """Return when the bucket is there."""
        self._answers.readline()

    def close(self) -> None:
        """End the other process."""
        self._requests.close()

    def objects(self, prefix: str) -> dict[str, int]:
        """Key -> size in bytes of what is visible below a prefix."""
        return self._ask({"list": prefix})

    def empty(self, prefix: str, keys: list[str]) -> None:
        """Delete everything below a prefix, and unfinished uploads of these keys."""
        self._ask({"empty": prefix, "keys": keys})

    def _ask(self, request: dict[str, Any]) -> dict[str, int]:
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        answer: dict[str, dict[str, int]] = json.loads(self._answers.readline())
        return answer["objects"]


@contextmanager
def open_bucket(python: Path, environment: dict[str, str]) -> Iterator[Bucket]:
    """Make the bucket and start the process; `environment` is the store's."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [str(python), "-m", "benchmarks.bucket"]
    with subprocess.Popen(command, env={**os.environ, **environment}, **pipes) as process:
        bucket = Bucket(process)
        try:
            bucket.wait_until_made()
            yield bucket
        finally:
            bucket.close()


def main() -> int:
    """Answer until the input ends."""
    import boto3

    client: Any = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "empty" in request:
            _empty(client, request["empty"], request["keys"])
        prefix = request.get("list") or request.get("empty")
        print(json.dumps({"objects": dict(_objects(client, prefix))}), flush=True)
    return 0


def _objects(client: Any, prefix: str) -> Iterator[tuple[str, int]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        for entry in page.get("Contents", []):
            yield entry["Key"], entry["Size"]


def _empty(client: Any, prefix: str, keys: list[str]) -> None:
    for key, _ in list(_objects(client, prefix)):
        client.delete_object(Bucket=BUCKET, Key=key)
    for key in keys:  # one by one: MinIO lists unfinished uploads by their exact key alone
        for upload in client.list_multipart_uploads(Bucket=BUCKET, Prefix=key).get("Uploads", []):
            client.abort_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload["UploadId"])


if __name__ == "__main__":
    sys.exit(main())
