"""The `airfreight` command: the entry point of the pods and of people.

Every command raises; this file alone turns what was raised into one sentence on stderr (prefixed `airfreight: `), the
same sentence in the file named by AIRFREIGHT_TERMINATION_LOG, and an exit code:

    0    done                                75   try again (`TemporaryError`)
    2    the request is wrong, usage too     130  Ctrl-C; 143 SIGTERM: cleaned up, run it again
    3    the bytes are wrong                 1    a bug of ours: its type and message
    4    a gate failed

AIRFREIGHT_DEBUG=1 adds a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from airfreight import __version__
from airfreight.commands import (
    build,
    catalog,
    deploy,
    doctor,
    egress,
    people,
    refresh,
    release,
    runtime,
    serve,
    transfer,
    windows,
)
from airfreight.errors import AirfreightError

EXIT_BUG = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_TERMINATED = 143  # 128 + SIGTERM
SENTENCE_LIMIT = 3000  # characters; Kubernetes keeps 4096 bytes of a termination message


class Terminated(BaseException):
    """SIGTERM arrived. As with KeyboardInterrupt no `except Exception` swallows it; uploads are aborted on the way."""


def build_app() -> typer.Typer:
    """Return the command line with every command registered."""
    app = typer.Typer(
        name="airfreight",
        help="Carry model weights from where they are published to where they are served.",
        add_completion=False,
        rich_markup_mode=None,  # plain text: pods and CI logs have no terminal
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for part in (transfer, build, deploy, serve, release, egress, doctor, catalog, runtime, people, windows, refresh):
        part.register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises, apart from what ends the interpreter itself.

    Args:
        arguments: what follows `airfreight` on the command line; None takes it from the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        with _sigterm_raises():
            code = build_app()(args=words, prog_name="airfreight", standalone_mode=False)
    except AirfreightError as error:
        return _fail(error.message, error.exit_code)
    except typer.TyperException as error:
        return _fail(_usage_sentence(error, words), EXIT_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(_stopped("Ctrl-C"), EXIT_INTERRUPTED)
    except Terminated:
        return _fail(_stopped("SIGTERM"), EXIT_TERMINATED)
    except Exception as error:  # noqa: BLE001 - the last resort: even a bug of ours ends in one sentence
        return _fail(
            f"Unexpected {type(error).__name__}: {error or 'no message'}; this is a bug of airfreight: "
            "set AIRFREIGHT_DEBUG=1 to see where, and report it.",
            EXIT_BUG,
        )
    if code == EXIT_INTERRUPTED:  # typer turns KeyboardInterrupt into this return value
        return _fail(_stopped("Ctrl-C"), EXIT_INTERRUPTED)
    return code if isinstance(code, int) else 0


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"airfreight {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command line itself; all act in their callbacks."""


def _stopped(by: str) -> str:
    return f"Stopped by {by} before the work was done: nothing half-made is visible, run it again."


def _usage_sentence(error: typer.TyperException, words: Sequence[str]) -> str:
    context = getattr(error, "ctx", None)
    # Where an option lacks its value the parser knows no context; the first word is then the command, if there is one.
    command = context.command_path if context is not None else " ".join(["airfreight", *words[:1]])
    return f"{error.format_message().strip().rstrip('.')}: see `{command} --help`."


def _fail(sentence: str, code: int) -> int:
    if os.environ.get("AIRFREIGHT_DEBUG") == "1":
        traceback.print_exc()
    sentence = " ".join(sentence.split())[:SENTENCE_LIMIT]
    print(f"airfreight: {sentence}", file=sys.stderr, flush=True)
    log = os.environ.get("AIRFREIGHT_TERMINATION_LOG")
    if log:
        try:
            Path(log).write_text(sentence + "\n", encoding="utf-8")
        except OSError as error:
            print(f"airfreight: the termination log {log} cannot be written: {error.strerror}", file=sys.stderr)
    return code


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` once; a second one kills, as by default."""

    def handle(signum: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(signum, signal.SIG_DFL)
        raise Terminated

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
