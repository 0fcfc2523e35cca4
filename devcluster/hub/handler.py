"""What each path of the stand-in hub means.

    GET       /healthz
    GET       /api/whoami-v2
    GET       /api/models/{id}[/revision/{rev}]            ?blobs=true  ?expand=…
    GET       /api/models/{id}/tree/{rev}[/{directory}]    ?recursive=true&expand=false&limit=&cursor=     pages by Link
    GET       /api/models/{id}/refs   /commits/{rev}   /auth-check
    POST      /api/models/{id}/paths-info/{rev}            form: paths, expand
    GET HEAD  /{id}/resolve/{rev}/{path}                   307 to resolve-cache for small files, 302 to the CDN for LFS
    GET HEAD  /api/resolve-cache/models/{id}/{commit}/{path}
    GET HEAD  /_cdn/{id}/{commit}/{path}?Expires=&Signature=
    GET       /_standin/stats   /_standin/faults           only with the admin flag
    POST      /_standin/faults  /_standin/reset            only with the admin flag

The two redirects are the hub's own (seen in public traces of 2025 and 2026): a small file moves to a path on the same
host, a large one to another host, with a link that carries its own permission and expires. As on the hub, size, commit
and sha256 of a large file are in the headers of the *redirect*; the CDN has an ETag of its own that is no sha256 of
anything.
"""

from __future__ import annotations

import json
import socket
from http import HTTPStatus
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from . import answers
from .access import HubError, check_files, check_visible, refuse_unknown
from .faults import Fault
from .git_objects import File
from .repository import Repository
from .streaming import CutError, Span, UnsatisfiableRangeError, parse_range, send_span, stretched
from .wire import Wire

TEXT_MAX_BYTES = 1 << 20
ACTIONS = ("revision", "tree", "refs", "commits", "auth-check", "paths-info")
NOT_FOUND = "Sorry, we can't find the page you are looking for."


class Handler(Wire):
    """Answers the requests of one connection."""

    def route(self, parts: list[str]) -> None:
        """Find the method for a path."""
        if parts == ["healthz"]:
            return self._send_json({"status": "ok"})
        if parts[0] == "_standin" and self.hub.admin and not self.server.is_cdn:
            return self._standin(parts[1:])
        fault = self.hub.faults.take_status(self._path)
        if fault:
            self._fail(fault)
        if parts[0] == "_cdn" and self.server.is_cdn == self.hub.has_cdn and len(parts) > 4:
            return self._cdn(parts[1:])
        if self.server.is_cdn:
            raise HubError(404, NOT_FOUND)
        self._token = self.hub.tokens.authenticate(self.headers.get("Authorization"))
        if parts[0] == "api":
            return self._api(parts[1:])
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise HubError(404, NOT_FOUND)

    # ---- the API ----

    def _api(self, parts: list[str]) -> None:
        if parts == ["whoami-v2"]:
            return self._whoami()
        if parts[0] == "resolve-cache" and parts[1:2] == ["models"] and len(parts) > 5:
            return self._resolve_cache("/".join(parts[2:4]), parts[4], "/".join(parts[5:]))
        if parts[0] in ("datasets", "spaces"):
            refuse_unknown(self._token)  # this hub has models only
        if parts[0] != "models" or len(parts) < 2:
            raise HubError(404, NOT_FOUND)
        # "owner/name"; a name alone (as gpt2 once was) is followed by an action or by nothing
        size = 1 if len(parts) == 2 or parts[2] in ACTIONS else 2
        repository = self._repository("/".join(parts[1 : 1 + size]))
        return self._model(repository, parts[1 + size :])

    def _model(self, repository: Repository, parts: list[str]) -> None:
        action, revision = [*parts, "", ""][:2]
        if action in ("", "revision"):
            sha = self._commit(repository, revision or "main")
            return self._send_json(
                answers.model_info(
                    repository,
                    sha,
                    blobs=self._flag("blobs"),
                    expand=self._query.get("expand", []),
                    read=self._read_text,
                )
            )
        if action == "tree":
            return self._tree(repository, revision, "/".join(parts[2:]))
        if action == "refs":
            return self._send_json(answers.refs(repository))
        if action == "commits":
            return self._send_json(answers.commits(repository, self._commit(repository, revision)))
        if action == "auth-check":
            check_files(self.hub.tokens, self._token, repository, self._site())
            return self._send_json({})
        if action == "paths-info" and self.command == "POST":
            form = parse_qs(self._body.decode(errors="replace"))
            commit = repository.commits[self._commit(repository, revision)]
            return self._send_json(answers.paths_info(commit, form.get("paths", [])))
        raise HubError(404, NOT_FOUND)

    def _tree(self, repository: Repository, revision: str, directory: str) -> None:
        sha = self._commit(repository, revision)
        limit = self._query.get("limit", [""])[0]
        size = min(int(limit), self.hub.page_size) if limit.isdigit() and int(limit) > 0 else self.hub.page_size
        cursor = self._query.get("cursor", [None])[0]
        try:
            entries = answers.tree_entries(
                repository.commits[sha],
                directory,
                recursive=self._flag("recursive"),
                expand=self._flag("expand"),
                sha=sha,
            )
            shown, following = answers.page(entries, cursor, size)
        except KeyError as error:
            raise HubError(404, f'{directory} does not exist on "{revision}"', "EntryNotFound") from error
        except answers.BadCursorError as error:
            raise HubError(400, "Invalid cursor") from error
        headers = {"X-Repo-Commit": sha}
        if following:
            query = {**{key: values[0] for key, values in self._query.items()}, "limit": size, "cursor": following}
            headers["Link"] = f'<{self._site()}{urlsplit(self.path).path}?{urlencode(query)}>; rel="next"'
        self._send_json(shown, headers)

    def _whoami(self) -> None:
        if self._token is None:
            raise HubError(401, "Invalid username or password.")
        self._send_json({"type": "user", "name": "standin", "auth": {"accessToken": {"role": "read"}}, "orgs": []})

    # ---- files ----

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository, sha, file = self._file(repo_id, revision, path)
        etag = file.sha256 if file.lfs else file.blob_id
        headers = {
            "X-Repo-Commit": sha,
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": f'"{etag}"',
            "Accept-Ranges": "bytes",
        }
        if file.lfs:
            location = self.hub.links.sign(f"/_cdn/{repository.id}/{sha}/{path}")
            if self.hub.has_cdn:
                host = urlsplit(self._site()).hostname or ""
                location = f"http://{f'[{host}]' if ':' in host else host}:{self.hub.cdn_port}{location}"
            return self._send(302, b"Found. Redirecting", {**headers, "Location": location}, "text/plain")
        query = urlencode({f"/{repo_id}/resolve/{revision}/{path}": "", "etag": f'"{etag}"'})
        location = f"/api/resolve-cache/models/{repository.id}/{sha}/{quote(path)}?{query}"
        headers |= {"ETag": f'"{etag}"', "Location": location}
        return self._send(307, b"Temporary Redirect. Redirecting", headers, "text/plain")

    def _resolve_cache(self, repo_id: str, revision: str, path: str) -> None:
        repository, sha, file = self._file(repo_id, revision, path)
        self._send_file(repository, path, file, {"X-Repo-Commit": sha, "ETag": f'"{file.blob_id}"'})

    def _cdn(self, parts: list[str]) -> None:
        if self.hub.has_cdn and "Authorization" in self.headers:
            # As S3 answers a signed link with a token: so a client that takes the hub's token to another host shows.
            raise HubError(400, "Only one auth mechanism allowed; a signed link needs no Authorization header")
        if not self.hub.links.valid(self._path, self._query):
            raise HubError(403, "This link is not valid, or no longer; ask the hub for a new one")
        repo_id, sha, path = "/".join(parts[:2]), parts[2], "/".join(parts[3:])
        repository = self._find(repo_id)
        if not repository or sha not in repository.commits or path not in repository.commits[sha].files:
            raise HubError(404, NOT_FOUND)
        file = repository.commits[sha].files[path]
        headers = {"ETag": f'"{file.sha256[::-1]}"'}
        if not self.hub.has_cdn:
            # On the same host the client follows the redirect and reads the metadata here.
            headers |= {
                "X-Repo-Commit": sha,
                "X-Linked-Size": str(file.size),
                "X-Linked-ETag": f'"{file.sha256}"',
            }
        self._send_file(repository, path, file, headers)

    def _file(self, repo_id: str, revision: str, path: str) -> tuple[Repository, str, File]:
        repository = self._repository(repo_id)
        check_files(self.hub.tokens, self._token, repository, self._site())
        sha = self._commit(repository, revision)
        file = repository.commits[sha].files.get(path)
        if not file:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": sha})
        return repository, sha, file

    def _send_file(self, repository: Repository, path: str, file: File, headers: dict[str, str]) -> None:
        try:
            span = parse_range(self.headers.get("Range"), file.size)
        except UnsatisfiableRangeError as error:
            raise HubError(
                416, "The requested range starts behind the end", None, {"Content-Range": f"bytes */{file.size}"}
            ) from error
        fault = self._fault_for(span) if self.command == "GET" else None
        size, span, padding = stretched(span, file.size, fault)
        headers = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(span.length + padding)}
        headers["Content-Type"] = "application/octet-stream" if file.lfs else "text/plain; charset=utf-8"
        if span.partial:
            headers["Content-Range"] = f"bytes {span.start}-{span.end + padding - 1}/{size}"
        if self.command == "HEAD":
            return self._send_head(206 if span.partial else 200, headers)
        name = f"{repository.id}/{path}"
        self.hub.stats.file_opened(name)
        try:
            self._send_head(206 if span.partial else 200, headers)
            send_span(
                self.connection,
                self.hub.library.blob(file.sha256),
                span,
                fault=fault,
                count=lambda sent: self.hub.stats.file_sent(name, sent),
                stopping=self.hub.stopping,
            )
            self.connection.sendall(bytes(padding))
        except CutError:
            self.connection.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            self.hub.stats.file_closed()
        return None

    def _fault_for(self, span: Span) -> Fault | None:
        return self.hub.faults.take_for_body(self._path, span.start, span.end)

    # ---- for tests ----

    def _standin(self, parts: list[str]) -> None:
        asked = (self.command, *parts)
        if asked == ("GET", "stats"):
            return self._send_json(self.hub.stats.to_json())
        if asked == ("POST", "faults"):
            try:
                data = json.loads(self._body)
                faults = [Fault.from_json(item) for item in (data if isinstance(data, list) else [data])]
            except ValueError as error:
                raise HubError(400, f"No fault was set: {error}") from error
            for fault in faults:
                self.hub.faults.add(fault)
        elif asked == ("POST", "reset"):
            self.hub.faults.clear()
            self.hub.stats.reset()
        elif asked != ("GET", "faults"):
            raise HubError(404, NOT_FOUND)
        return self._send_json({"faults": self.hub.faults.pending()})

    def _fail(self, fault: Fault) -> None:
        headers = {}
        if fault.retry_after_s is not None:
            headers["Retry-After"] = str(fault.retry_after_s)
            if fault.status == HTTPStatus.TOO_MANY_REQUESTS:
                headers["RateLimit"] = f'"resolvers";r=0;t={fault.retry_after_s}'
        raise HubError(fault.status, HTTPStatus(fault.status).phrase, None, headers)

    # ---- small parts ----

    def _find(self, repo_id: str) -> Repository | None:
        try:
            return self.hub.library.find(repo_id)
        except ValueError as error:
            raise HubError(400, str(error)) from error

    def _repository(self, repo_id: str) -> Repository:
        repository = self._find(repo_id)
        if not repository:
            refuse_unknown(self._token)
        check_visible(self.hub.tokens, self._token, repository)
        return repository

    def _commit(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(revision)
        if not sha:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def _read_text(self, file: File) -> str:
        with self.hub.library.blob(file.sha256).open("rb") as blob:
            return blob.read(TEXT_MAX_BYTES).decode(errors="replace")
