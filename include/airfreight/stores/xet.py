"""Reading through Xet: for files that are too large for the hub's plain HTTP.

    GET /api/models/{id}/xet-read-token/{commit}     address of the content store, a token for it, and when that ends

Then hf_xet streams the file out of the content store, from any byte offset. It does not check what it puts together
(1.8: a byte that was changed in the store comes through), so this stream is compared with the manifest like any other;
and where the store lacks the file or is out of reach its stream ends as if the file did, so bytes are counted here.
Memory: hf_xet's own buffers, which it would size by the machine's memory (gigabytes), are held down to `BUFFERS`, and
one file is read at a time: then the whole process stays near 400 MiB, whatever the file's size (1.8, measured; a block
of the content store has 64 MiB and lies there twice), and below 640 where a busy machine takes the blocks late. Two
files at once take 510 MiB where one takes 400, and are no faster on two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import get_session
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils._xet import parse_xet_connection_info_from_headers

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.manifest import ManifestFile
from airfreight.stores.hub_errors import Asked

if TYPE_CHECKING:
    from hf_xet import XetDownloadStream, XetSession  # type: ignore[import-untyped]  # it ships no types

MIB = 1024 * 1024
CHUNK = 8 * MIB
# Names and units are hf_xet's (1.8, XetConfig).
BUFFERS = {
    "reconstruction.download_buffer_size": 64 * MIB,
    "reconstruction.download_buffer_perfile_size": 64 * MIB,
    "reconstruction.download_buffer_limit": 64 * MIB,
    "reconstruction.min_prefetch_buffer": 64 * MIB,
    "client.ac_initial_download_concurrency": 1,
    "client.ac_max_download_concurrency": 4,
}
# Trying again is decided by the engine; here only what a single lost connection needs.
PATIENCE = {"client.retry_max_attempts": 2, "client.retry_base_delay": "200ms", "client.read_timeout": "60s"}


# By default hf_xet reports on transfers to the content store.
SILENCE = {"telemetry.enabled": False}


class XetReader:
    """Reads files of one commit through Xet. May be used by several threads.

    Args:
        asked: model and hub, for sentences.
        headers: of requests to the hub, its token included; they go nowhere else.
        commit: 40 hex digits.
        timeout: of requests to the hub.
    """

    def __init__(self, asked: Asked, headers: Mapping[str, str], commit: str, timeout: httpx2.Timeout) -> None:
        self._asked = asked
        self._headers = dict(headers)
        self._url = f"{asked.settings.endpoint}/api/models/{asked.model.repo_id}/xet-read-token/{commit}"
        self._timeout = timeout
        self._one_at_a_time = threading.Lock()
        self._made: XetSession | None = None

    def read(self, xet_hash: str, file: ManifestFile, offset: int) -> Generator[bytes, None, None]:
        """Yield the bytes of one file from `offset`, in chunks of at most 8 MiB.

        Raises:
            RequestError: the hub gives no access to Xet, or the content store does not know the file.
            TemporaryError: the content store cannot be reached, or broke off.
        """
        if offset >= file.size:
            return
        with (
            self._one_at_a_time,
            self._translated(file),
            closing(_Closing(self._stream(xet_hash, file, offset))) as stream,
        ):
            seen = offset
            for block in stream:  # up to 64 MiB each
                seen += len(block)
                view = memoryview(block)
                for start in range(0, len(view), CHUNK):
                    yield bytes(view[start : start + CHUNK])
            if seen < file.size:
                raise TemporaryError(
                    f"The Xet store of {self._asked.name} ended {file.path} after {seen} of {file.size} bytes: "
                    "try again later."
                )

    def _stream(self, xet_hash: str, file: ManifestFile, offset: int) -> XetDownloadStream:
        from hf_xet import XetFileInfo

        with self._asked.translated():
            answer = get_session().get(self._url, headers=self._headers, timeout=self._timeout)
            hf_raise_for_status(answer)
        store = parse_xet_connection_info_from_headers(answer.headers)
        if store is None:
            raise RequestError(
                f"The hub {self._asked.settings.endpoint} has {file.path} in Xet and does not say where "
                f"({self._url} lacks X-Xet-* headers): set HF_ENDPOINT to a hub or mirror that speaks Xet."
            )
        group = self._session().new_download_stream_group(
            endpoint=store.endpoint,
            token=store.access_token,
            token_expiry_unix_secs=store.expiration_unix_epoch,
            token_refresh_url=self._url,
            token_refresh_headers=self._headers,
        )
        return group.download_stream(XetFileInfo(xet_hash, file.size), start=offset)

    def _session(self) -> XetSession:
        """Return the one session, which has threads and buffers of its own. Called by one thread at a time."""
        from hf_xet import XetConfig, XetSession

        if self._made is None:
            self._made = XetSession(XetConfig().with_config({**BUFFERS, **PATIENCE, **SILENCE}))
        return self._made

    @contextmanager
    def _translated(self, file: ManifestFile) -> Iterator[None]:
        from hf_xet import XetAuthenticationError, XetObjectNotFoundError

        try:
            yield
        except AirfreightError:
            raise
        except XetAuthenticationError as error:
            raise RequestError(
                f"The Xet store of {self._asked.name} refused the hub's token for {file.path} ({_short(error)}): check "
                "the rights of the token in Secret airfreight-hub, key token."
            ) from error
        except XetObjectNotFoundError as error:
            raise RequestError(
                f"The Xet store of {self._asked.name} does not have {file.path} ({_short(error)}): choose another "
                "revision, or check HF_ENDPOINT."
            ) from error
        except (OSError, RuntimeError, ValueError) as error:
            raise TemporaryError(
                f"Reading {file.path} of {self._asked.name} through Xet broke ({_short(error)}): check the network to "
                "the Xet store, or try again later."
            ) from error


class _Closing:
    """A stream that is cancelled when it is closed before its end."""

    def __init__(self, stream: XetDownloadStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        self._stream.cancel()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
