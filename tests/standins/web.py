"""The listener of the stand-ins that are written on Python's own HTTP server."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class Listener(ThreadingHTTPServer):
    """Its threads outlive a test that hangs up on them; what they find then is no part of the next test's output."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Let a client that went away pass in silence; print the traceback of anything else."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)
