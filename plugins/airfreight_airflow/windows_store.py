"""The records of windows and the release ledger, as Airflow's worker reaches them: with the site's store connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from airfreight.errors import RequestError
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Target
from airfreight.source import S3Root, parse_destination
from airfreight.windows import WindowLog, folder
from airfreight_airflow.settings import Settings


def window_log(site: Settings, namespace: str, name: str) -> WindowLog:
    """Return the windows of a model. Nothing is asked of the store yet.

    Raises:
        RequestError: the store's connection is missing.
    """
    return WindowLog(_shelf(site, folder(namespace, name)))


def release_ledger(site: Settings, namespace: str, name: str) -> Ledger:
    """Return the releases of a model; likewise."""
    target = Target(namespace, name)
    return Ledger(_shelf(site, target.folder), target)


@contextmanager
def through(site: Settings) -> Iterator[None]:
    """Name the connection in what the store refuses: its own words are those of the pods, which have a Secret."""
    try:
        yield
    except RequestError as error:
        raise RequestError(
            f"{error.message.rstrip('.')}; here in Airflow that is connection {site.store_conn_id}."
        ) from error


def _shelf(site: Settings, below: str) -> Any:
    # Imported here: DAG files import this module, and boto3 would cost every parse a second.
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from airfreight.environment import S3Settings
    from airfreight.stores.s3_errors import Place
    from airfreight.stores.s3_shelf import S3Shelf

    try:
        Connection.get(site.store_conn_id)
    except AirflowNotFoundException:
        # The provider would fall back to the process's own credentials, which are somebody else's.
        raise RequestError(f"There is no connection {site.store_conn_id}: define it, of type aws.") from None
    client: Any = S3Hook(aws_conn_id=site.store_conn_id).get_conn()
    root = parse_destination(site.store)
    if not isinstance(root, S3Root):
        raise RequestError(f"The store {site.store} is no bucket, and windows are recorded in one.")
    place = Place(root, S3Settings(endpoint_url=str(client.meta.endpoint_url)))
    return S3Shelf(client, place, root.prefix + below)
