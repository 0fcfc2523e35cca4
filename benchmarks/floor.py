"""The machine's own limit for carrying bytes verified: one sha256 pass between two sockets, and nothing else.

    server --sendfile--> loopback --> [ recv, sha256, send ] --> loopback --> sink

No HTTP, no S3, no disk, no second checksum; the server and the sink are processes of their own, as hub and store are,
and the sink looks at nothing. One stream for each core, or for each file where there are fewer. Prints its seconds,
without imports.

    python -m benchmarks.floor FILE...    -> {"wall_s": 0.9, "sha256_bytes_per_s": 1.5e9}
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BUFFER_BYTES = 1 << 20
HASHED_BYTES = 1 << 28


def serve(listener: socket.socket) -> None:
    """Answer each connection's first line, a path, with the file; for ever."""

    def answer(connection: socket.socket) -> None:
        with connection, Path(connection.recv(4096).decode().strip()).open("rb") as file:
            connection.sendfile(file)

    _accept(listener, answer)


def swallow(listener: socket.socket) -> None:
    """Read every connection to its end; for ever."""

    def read(connection: socket.socket) -> None:
        buffer = bytearray(BUFFER_BYTES)
        with connection:
            while connection.recv_into(buffer):
                pass
            connection.sendall(b".")  # everything arrived

    _accept(listener, read)


def carry(path: str, source: tuple[str, int], sink: tuple[str, int]) -> str:
    """Carry one file from one address to the other and return its sha256."""
    digest, buffer = hashlib.sha256(), bytearray(BUFFER_BYTES)
    with socket.create_connection(source) as incoming, socket.create_connection(sink) as outgoing:
        incoming.sendall(path.encode() + b"\n")
        while count := incoming.recv_into(buffer):
            block = memoryview(buffer)[:count]
            digest.update(block)
            outgoing.sendall(block)
        outgoing.shutdown(socket.SHUT_WR)
        outgoing.recv(1)
    return digest.hexdigest()


def sha256_rate() -> float:
    """Bytes per second of one core."""
    block = bytes(BUFFER_BYTES)
    digest, began = hashlib.sha256(), time.monotonic()
    for _ in range(HASHED_BYTES // BUFFER_BYTES):
        digest.update(block)
    return HASHED_BYTES / (time.monotonic() - began)


def main() -> int:
    """Carry the files named and print what it took."""
    files = sys.argv[1:]
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=work, args=(listener,), daemon=True)
        for work, listener in zip((serve, swallow), listeners, strict=True)
    ]
    for process in others:
        process.start()
    source, sink = (listener.getsockname() for listener in listeners)
    began = time.monotonic()
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:
        list(pool.map(lambda path: carry(path, source, sink), files))
    wall_s = time.monotonic() - began
    for process in others:
        process.terminate()
    print(json.dumps({"wall_s": wall_s, "sha256_bytes_per_s": sha256_rate()}))
    return 0


def _accept(listener: socket.socket, work: Callable[[socket.socket], None]) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=work, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
