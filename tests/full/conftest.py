"""What tests with the light model server share: a bucket with tiny models."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import addons, tenant
from devcluster.config import Cluster
from devcluster.hub.tiny_model import write_model
from devcluster.light import image


@pytest.fixture(scope="module")
def models(embedded: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket with tiny models by version; the light server's image is built when it is not there."""
    image.build(embedded)
    bucket, root = f"gates-{secrets.token_hex(3)}", tmp_path_factory.mktemp("models")
    write_model(root / "a", padding_mb=1)
    write_model(root / "b", padding_mb=1, answer="pong from B")
    write_model(root / "head16", padding_mb=1, head_dim=16)
    shutil.copytree(root / "a", root / "mute")
    _edit(root / "mute" / "tokenizer_config.json", lambda value: value.pop("chat_template"))
    shutil.copytree(root / "a", root / "broken")
    _edit(root / "broken" / "config.json", lambda value: value.update(num_hidden_layers=9))
    client = tenant.store_client(embedded)
    client.create_bucket(Bucket=bucket)
    for path in root.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"acme/pong/{path.relative_to(root).as_posix()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", embedded.store_url)
        patch.setenv("AWS_ACCESS_KEY_ID", addons.STORE_USER)
        patch.setenv("AWS_SECRET_ACCESS_KEY", addons.credentials(embedded)["store_password"])
        try:
            yield bucket
        finally:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for entry in page.get("Contents", []):
                    client.delete_object(Bucket=bucket, Key=entry["Key"])
            client.delete_bucket(Bucket=bucket)


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
