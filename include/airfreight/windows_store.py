"""Where the records of windows lie, for people: a bucket, read with the AWS_* variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airfreight.environment import S3Settings
from airfreight.source import parse_destination
from airfreight.windows import DIRECTORY, WindowLog, folder

if TYPE_CHECKING:
    from airfreight.stores.s3_shelf import S3Shelf


def open_log(root: str, namespace: str, name: str) -> WindowLog:
    """Return the windows of a model. Nothing is asked of the store yet.

    Raises:
        RequestError: the root is no bucket, or the environment's settings for it are wrong.
    """
    return WindowLog(_shelf(root, folder(namespace, name)))


def recorded_models(root: str, namespace: str) -> list[str]:
    """Return the names of the models of a namespace that have a record, in order; raises as `open_log` does."""
    names = _shelf(root, f"{DIRECTORY}{namespace}/").names()
    return sorted({name.partition("/")[0] for name in names if "/" in name})


def _shelf(root: str, below: str) -> S3Shelf:
    from airfreight.stores.s3 import connect
    from airfreight.stores.s3_errors import Place
    from airfreight.stores.s3_shelf import S3Shelf

    bucket, settings = parse_destination(root), S3Settings.from_environment()
    place = Place(bucket, settings)
    with place.translated():
        client = connect(settings)
    return S3Shelf(client, place, bucket.prefix + below)
