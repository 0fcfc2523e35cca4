"""Where a ledger lies: a bucket, or a directory for tests and for sites without one."""

from __future__ import annotations

import os

from airfreight.checkpoint import Shelf
from airfreight.environment import S3Settings
from airfreight.errors import RequestError
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Target
from airfreight.source import DirectoryRoot, Root, S3Root, parse_any_destination
from airfreight.windows import Current, WindowLog, folder

VARIABLE = "AIRFREIGHT_LEDGER"


def open_ledger(root: str | None, target: Target) -> Ledger:
    """Return the ledger of a target. Nothing is asked of the store yet.

    Args:
        root: of the ledger, such as `s3://llm-models/`; None takes it from AIRFREIGHT_LEDGER.
    Raises:
        RequestError: none is named, it is no address, or the environment's settings for it are wrong.
    """
    return Ledger(_shelf(_root(root), target.folder), target)


def window_now(root: str | None, target: Target) -> Current:
    """Return the note about the serving window of a target, which lies beside its ledger; arguments, errors as above.

    Whether the run it names goes on, only Airflow knows.
    """
    return WindowLog(_shelf(_root(root), folder(target.namespace, target.name))).current()


def _root(root: str | None) -> Root:
    named = root or os.environ.get(VARIABLE, "").strip()
    if not named:
        raise RequestError(
            f"No release ledger is named: give --ledger s3://bucket/root/, or set {VARIABLE} to the store's root."
        )
    return parse_any_destination(named)


def _shelf(root: Root, folder: str) -> Shelf:
    if isinstance(root, S3Root):
        from airfreight.stores.s3 import connect
        from airfreight.stores.s3_errors import Place
        from airfreight.stores.s3_shelf import S3Shelf

        settings = S3Settings.from_environment()
        place = Place(root, settings)
        with place.translated():
            client = connect(settings)
        return S3Shelf(client, place, root.prefix + folder)
    if not isinstance(root, DirectoryRoot):
        raise RequestError(f"A release ledger cannot lie in a registry ({root}): give s3://bucket/root/.")
    from airfreight.stores.directory_leases import DirectoryShelf

    return DirectoryShelf(root, folder)
