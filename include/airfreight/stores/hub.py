"""The Hugging Face hub as a source, or any server that speaks its API.

Requests, in order:

    GET  /api/models/{id}/revision/{revision}                the commit, once; from here on only the commit is used
    GET  /api/models/{id}/tree/{commit}?recursive=true       files with size and digest, in pages by `Link`
    HEAD /{id}/resolve/{commit}/{path}                       of the largest file: may this token read weights at all?
    GET  /{id}/resolve/{commit}/{path}                       the bytes, with `Range` when it goes on; redirects followed

Files that the hub keeps in Xet come over plain HTTP like all others, because that needs the least memory; only those
too large for it (`HubSettings.xet_above`) are read by `airfreight.stores.xet`.

The listing is read here rather than by `HfApi.list_repo_tree`, because that has no time-out and retries by itself
(2.4), and trying again is decided in one place only. The client is huggingface_hub's, so proxies, CAs and its error
codes behave alike; it drops the token when a redirect leads to another host.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx2
from huggingface_hub import HfApi, ModelInfo, get_session
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils._xet import is_valid_xet_hash

from airfreight import __version__
from airfreight.environment import HubSettings
from airfreight.errors import IntegrityError, RequestError, TemporaryError
from airfreight.manifest import Manifest, ManifestFile
from airfreight.patterns import Patterns
from airfreight.prechecks import Facts
from airfreight.source import HubModel
from airfreight.stores.hub_errors import READ_TIMEOUT, Asked
from airfreight.stores.xet import XetReader

CONNECT_TIMEOUT = 10.0  # seconds
TIMEOUT = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)
PAGES_LIMIT = 1000  # of up to 1,000 files each; a server that pages for ever is refused
NO_HEAD = {httpx2.codes.METHOD_NOT_ALLOWED, httpx2.codes.NOT_IMPLEMENTED}
ALL_FILES = Patterns()


class HubSource:
    """One model of a hub, at the commit its revision named when it was first asked (a `Source`).

    Args:
        model: repository and revision.
        settings: endpoint and token.
        timeout: of each request; the read part is the longest time without a byte.
        patterns: which of its files are wanted.
    """

    def __init__(
        self,
        model: HubModel,
        settings: HubSettings,
        timeout: httpx2.Timeout = TIMEOUT,
        patterns: Patterns = ALL_FILES,
    ) -> None:
        self._model = model
        self._patterns = patterns
        self._settings = settings
        self._timeout = timeout
        self._asked = Asked(model, settings, timeout.read or READ_TIMEOUT)
        # `False`: never a token from the environment or a login file of whoever runs this.
        self._headers = build_hf_headers(
            token=settings.token or False, library_name="airfreight", library_version=__version__
        )
        self._manifest: Manifest | None = None
        self._facts = Facts()
        self._xet_hashes: dict[str, str] = {}
        self._xet: XetReader | None = None

    def manifest(self) -> Manifest:
        """Resolve the revision to a commit, list its files and check that they may be read.

        Raises:
            RequestError: no such model, revision or right; no files, or none that is wanted; a path that is not safe.
            TemporaryError: the hub cannot be reached, or is not well.
        """
        if self._manifest is None:
            with self._asked.translated():
                self._manifest = self._resolve()
        return self._manifest

    def facts(self) -> Facts:
        """Return what the hub says about the model at this commit: its licence.

        Raises:
            RequestError, TemporaryError: as `manifest`.
        """
        self.manifest()
        return self._facts

    @property
    def server(self) -> str:
        """See `Source.server`."""
        return "the hub, or a mirror or proxy before it,"

    def open(self, file: ManifestFile, offset: int = 0) -> Generator[bytes, None, None]:
        """Yield the bytes of one file from `offset`, in chunks as the network brings them (64 KiB at most; 8 MiB
        through Xet).

        Raises:
            RequestError: access was withdrawn, or the file is gone.
            IntegrityError: the hub offers another size than its listing.
            TemporaryError: no byte for 60 s, a broken connection, 429 or 5xx.
        Source: RFC 9110, 14.2: a server may ignore Range and answer 200 with all; the first `offset` bytes are then
        dropped here.
        """
        manifest = self.manifest()
        xet_hash = self._xet_hashes.get(file.path)
        if xet_hash is not None and self._xet is not None and file.size > self._settings.xet_above:
            with closing(self._xet.read(xet_hash, file, offset)) as chunks:
                yield from chunks
            return
        headers = {**self._headers, "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        url = self._file_url(str(manifest.commit), file.path)
        with (
            self._asked.translated(),
            get_session().stream("GET", url, headers=headers, timeout=self._timeout) as response,
        ):
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            yield from _body(manifest.source, file, offset, response)

    def _resolve(self) -> Manifest:
        api = HfApi(endpoint=self._settings.endpoint, token=self._settings.token or False)
        info = api.model_info(self._model.repo_id, revision=self._model.revision, timeout=READ_TIMEOUT)
        commit = str(info.sha)
        source = f"hf://{self._model.repo_id}@{commit}"
        entries = [entry for entry in self._tree(commit) if entry["type"] == "file"]
        if not entries:
            raise RequestError(
                f"{source} is empty: publish the weights there first, or check the name and the revision."
            )
        files = [_file(entry) for entry in entries]
        manifest = self._patterns.narrow(Manifest.of(source, self._model.repo_id, commit, files))
        hashes = {entry["path"]: str(entry.get("xetHash")) for entry in entries}
        self._xet_hashes = {path: text for path, text in hashes.items() if is_valid_xet_hash(text)}
        self._xet = XetReader(self._asked, self._headers, commit, self._timeout)
        self._facts = Facts(_licences(info))
        self._check_access(manifest)
        return manifest

    def _check_access(self, manifest: Manifest) -> None:
        """Ask for a file's head: the listing of a gated model is open to all, its weights are not."""
        largest = max(manifest.files, key=lambda file: (file.size, file.path))
        url = self._file_url(str(manifest.commit), largest.path)
        answer = get_session().head(url, headers=self._headers, timeout=self._timeout, follow_redirects=False)
        if answer.status_code not in NO_HEAD:  # a mirror that knows GET alone will tell when the file is read
            hf_raise_for_status(answer)

    def _tree(self, commit: str) -> Iterator[dict[str, Any]]:
        url = f"{self._settings.endpoint}/api/models/{self._model.repo_id}/tree/{commit}?recursive=true&expand=false"
        for _ in range(PAGES_LIMIT):
            answer = get_session().get(url, headers=self._headers, timeout=self._timeout)
            hf_raise_for_status(answer)
            yield from answer.json()
            following = answer.links.get("next", {}).get("url")
            if following is None:
                return
            # A mirror may pass on the public hub's address; the token belongs to the endpoint we were given.
            parts = urlsplit(urljoin(url, following))
            url = f"{self._settings.endpoint}/{_below(parts.path, self._settings.endpoint)}?{parts.query}"
        raise RequestError(f"{self._asked.name} has no end to its list of files: check HF_ENDPOINT.")

    def _file_url(self, commit: str, path: str) -> str:
        return f"{self._settings.endpoint}/{self._model.repo_id}/resolve/{commit}/{quote(path)}"


def _below(path: str, endpoint: str) -> str:
    """Return a path relative to the endpoint, which may itself have a path."""
    return path.removeprefix(urlsplit(endpoint).path).lstrip("/")


def _file(entry: dict[str, Any]) -> ManifestFile:
    """Read one entry of a tree listing: LFS and Xet files tell their sha256, small ones their git blob id."""
    lfs = entry.get("lfs")
    if lfs:
        return ManifestFile(path=entry["path"], size=lfs["size"], sha256=lfs["oid"])
    return ManifestFile(path=entry["path"], size=entry["size"], git_blob_id=entry["oid"])


def _licences(info: ModelInfo) -> tuple[str, ...]:
    """Return the licence of the model's card, and the name of one that is called "other"."""
    card = info.card_data
    named = [*_words(card.get("license")), *_words(card.get("license_name"))] if card else []
    tagged = [tag.partition(":")[2] for tag in info.tags or [] if tag.startswith("license:")]
    return tuple(dict.fromkeys(word.strip().lower() for word in [*named, *tagged] if word.strip()))


def _words(value: object) -> Iterable[str]:
    # The hub's own rule is one text; cards with a list are there all the same.
    return [str(item) for item in value] if isinstance(value, list) else [value] if isinstance(value, str) else []


def _body(source: str, file: ManifestFile, offset: int, response: httpx2.Response) -> Iterator[bytes]:
    """Yield what follows `offset`, after checking that the answer is about the size the manifest says."""
    start, total = _extent(response, offset)
    if total is not None and total != file.size:
        raise IntegrityError(
            f"{source}: the hub offers {total} bytes for {file.path}, the manifest says {file.size}; nothing was "
            "published: the hub, or a mirror or proxy before it, serves another file and must be repaired."
        )
    if start > offset:
        raise TemporaryError(f"The hub skipped from byte {offset} to {start} of {file.path}: try again.")
    skip = offset - start
    seen = start
    for chunk in response.iter_raw():
        seen += len(chunk)
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        yield chunk[skip:] if skip else chunk
        skip = 0
    if seen < file.size:
        raise TemporaryError(f"The hub ended {file.path} after {seen} of {file.size} bytes: try again.")


def _extent(response: httpx2.Response, offset: int) -> tuple[int, int | None]:
    """Return the first byte of this answer and the size of the whole file, None where the server does not tell."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise TemporaryError(f"{response.url.host} compresses although asked not to: take out the proxy that does.")
    if response.status_code == httpx2.codes.PARTIAL_CONTENT:
        # "bytes 100-999/1000", or "bytes 100-999/*" (RFC 9110, 14.4)
        extent, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = extent.partition("-")[0]
        return int(start) if start.isdigit() else offset, int(whole) if whole.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
