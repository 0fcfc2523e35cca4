"""`airfreight releases`: what is live on a target, what was, and why others are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.commands.requesting import NameOption, NamespaceOption
from airfreight.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airfreight.ledger_rules import Entry

LedgerOption = Annotated[
    str | None, typer.Option(metavar="ROOT", help="Root of the store, s3://bucket/root/; default: AIRFREIGHT_LEDGER.")
]


def releases(
    name: NameOption,
    namespace: NamespaceOption,
    ledger: LedgerOption = None,
    unlock: Annotated[str, typer.Option(metavar="RUN", help="Let go the lock of a run that is dead.")] = "",
    result: ResultOption = None,
) -> None:
    """List the releases of a target: what is live, what was, what was rejected and why.

    Example: airfreight releases --name pong --namespace models --ledger s3://llm-models/
    """
    from airfreight.ledger_rules import Target
    from airfreight.ledger_store import open_ledger
    from airfreight.rendering import check_name, check_namespace

    check_name(name)
    check_namespace(namespace)
    book = open_ledger(ledger, Target(namespace, name))
    if unlock and not book.unlock(unlock):
        raise RequestError(f"{book.target} is not locked by {unlock}, but by {book.holder() or 'nobody'}.")
    entries, holder = book.entries(), book.holder()
    typer.echo(_table(entries) if entries else f"{book.target} has no releases.")
    if holder:
        typer.echo(f"\nThe run {holder} is changing it.")
    write_result(result, {"releases": [_row(entry) for entry in entries], "locked_by": holder})


def _row(entry: Entry) -> dict[str, Any]:
    last = entry.history[-1] if entry.history else None
    return {
        "release": entry.release,
        "state": str(entry.state),
        "source": entry.source,
        "at": last.at if last else None,
        "run": entry.run,
        "cause": last.cause if last else "",
    }


def _table(entries: Sequence[Entry]) -> str:
    rows = [("release", "state", "since", "source", "cause")]
    rows += [
        (row["release"], row["state"], str(row["at"])[:19], row["source"], row["cause"]) for row in map(_row, entries)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]).rstrip()
        for row in rows
    )
