"""`python -m devcluster.hub --root DIR --port 8090`: serve what was published, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from .server import DEMO_TOKEN, DEMO_TOKENS, LINK_TTL_S, PAGE_SIZE, HubServer

DEFAULT_PORT = 8090


def main(arguments: list[str] | None = None) -> int:
    """Run the server in the foreground. Returns the exit code: 0 after a signal, 2 when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m devcluster.hub",
        description="A server with the Hugging Face hub's API, for places without internet.",
        epilog="example: python -m devcluster.hub.publish /srv/hub; python -m devcluster.hub --root /srv/hub",
    )
    parser.add_argument("--root", type=Path, required=True, help="what python -m devcluster.hub.publish wrote")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="TCP port (%(default)s)")
    parser.add_argument(
        "--cdn-port",
        type=int,
        help="serve LFS files on a port of their own, another origin as with the hub (default: the same port)",
    )
    parser.add_argument("--page-size", type=int, default=PAGE_SIZE, help="entries on a page of a tree (%(default)s)")
    parser.add_argument("--link-ttl", type=float, default=LINK_TTL_S, help="seconds a CDN link is good (%(default)s)")
    parser.add_argument("--admin", action="store_true", help="serve counters and faults at /_standin/, for tests")
    options = parser.parse_args(arguments)
    if not (options.root / "models").is_dir():
        print(f"hub: {options.root} holds no models; run: python -m devcluster.hub.publish {options.root}")
        return 2

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    token = os.environ.get("AIRFREIGHT_HUB_TOKEN") or DEMO_TOKEN
    hub = HubServer(
        options.root,
        host=options.host,
        port=options.port,
        cdn_port=options.cdn_port,
        tokens={**DEMO_TOKENS, token: ("*",)} if token == DEMO_TOKEN else {**_without_demo(), token: ("*",)},
        page_size=options.page_size,
        link_ttl_s=options.link_ttl,
        admin=options.admin,
        log=lambda line: print(line, flush=True),
    )
    with hub:
        print(f"hub: serving {options.root} on {options.host}:{hub.port}", flush=True)
        stopped.wait()
    print("hub: stopped", flush=True)
    return 0


def _without_demo() -> dict[str, tuple[str, ...]]:
    """Return the demo's tokens but the one with rights: a token of one's own replaces it."""
    return {token: tuple(rights) for token, rights in DEMO_TOKENS.items() if token != DEMO_TOKEN}


if __name__ == "__main__":
    sys.exit(main())
