"""Who may read what, and the hub's answers to those who may not.

The hub hides what one may not know of, and shows the listing of a gated model to everybody but its files to nobody who
was not admitted:

                          unknown repo   private, not yours   gated: info, tree   gated: files
    no token              401 RepoNotFound    401 RepoNotFound     200                 401 GatedRepo
    a token, no right     404 RepoNotFound    404 RepoNotFound     200                 403 GatedRepo
    a token with right    404 RepoNotFound    200                  200                 200
    a token nobody knows  401 "Invalid credentials in Authorization header", also for public models

Seen in public reports of huggingface_hub users: the sentences of the gated 401 and 403, "Invalid rev id: …", "Invalid
username or password.", the refusal of unknown tokens for public models (huggingface_hub pull request 2847). That the
401 for an unknown model carries `X-Error-Code: RepoNotFound` follows `hf_raise_for_status`, which otherwise guesses
from the URL, and only for https. Not checked against the hub: the sentence of the 400.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import NoReturn

from .repository import Repository

INVALID_CREDENTIALS = "Invalid credentials in Authorization header"


class HubError(Exception):
    """An answer that is not 200, as the hub words it: `X-Error-Code`, `X-Error-Message` and a JSON body."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Tokens:
    """Known tokens. Each maps to the names (shell wildcards) of the private and gated models it may read."""

    rights: Mapping[str, Sequence[str]]

    def authenticate(self, authorization: str | None) -> str | None:
        """Return the token of an Authorization header, None without one.

        Raises:
            HubError: 401, the token is not known.
        """
        if not authorization:
            return None
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or token.strip() not in self.rights:
            raise HubError(401, INVALID_CREDENTIALS)
        return token.strip()

    def may_read(self, token: str | None, repo_id: str) -> bool:
        """Say whether a token admits to the protected parts of a model."""
        return token is not None and any(fnmatch.fnmatchcase(repo_id, pattern) for pattern in self.rights[token])


def refuse_unknown(token: str | None) -> NoReturn:
    """Answer for a model that is not there, or is not to be known of.

    Raises:
        HubError: 401 for the anonymous, 404 otherwise.
    """
    if token is None:
        challenge = {"WWW-Authenticate": 'Bearer realm="Authentication required", charset="UTF-8"'}
        raise HubError(401, "Invalid username or password.", "RepoNotFound", challenge)
    raise HubError(404, "Repository not found", "RepoNotFound")


def check_visible(tokens: Tokens, token: str | None, repository: Repository) -> None:
    """Refuse a private model to whoever has no right.

    Raises:
        HubError: as for a model that does not exist.
    """
    if repository.private and not tokens.may_read(token, repository.id):
        refuse_unknown(token)


def check_files(tokens: Tokens, token: str | None, repository: Repository, site: str) -> None:
    """Refuse the files of a gated model to whoever was not admitted.

    Args:
        site: the server's URL, without a slash at the end, for the advice in the message.
    Raises:
        HubError: 401 for the anonymous, 403 otherwise, code GatedRepo.
    """
    if not repository.gated or tokens.may_read(token, repository.id):
        return
    restricted = f"Access to model {repository.id} is restricted"
    if token is None:
        sentence = f"{restricted}. You must have access to it and be authenticated to access it. Please log in."
        raise HubError(401, sentence, "GatedRepo")
    sentence = f"{restricted} and you are not in the authorized list. Visit {site}/{repository.id} to ask for access."
    raise HubError(403, sentence, "GatedRepo")
