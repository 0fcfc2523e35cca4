"""The logins of a docker config file.

The file, as `docker login`, `podman login --authfile` and a Secret of type kubernetes.io/dockerconfigjson have it:

    {"auths": {"registry.example:5000": {"auth": "<base64 of user:password>"},
               "https://index.docker.io/v1/": {"username": "acme", "password": "…"},
               "quay.example/team-a": {"auth": "…"},
               "acr.example": {"identitytoken": "…"}},
     "credsStore": "desktop", "credHelpers": {"ecr.example": "ecr-login"}}

The longest entry that names the registry, or a path in it, counts. Programs (`credsStore`, `credHelpers`) are never
run: a pod has none, and an answer that differs by machine is none. Where one of them keeps the login, the sentence of
the refusal names it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from airfreight.errors import RequestError
from airfreight.stores.oci.reference import DOCKER_HUB, OciImage

FILE_LIMIT = 1024 * 1024  # bytes
_HUB_NAMES = {"docker.io", "index.docker.io", "registry-1.docker.io"}


@dataclass(frozen=True)
class Login:
    """One login: a name with a password, or a token of another kind. Its secrets are never shown by repr.

    Attributes:
        username: may be empty where there is a token.
        password: empty where there is a token.
        identity_token: for the realm, instead of a password (`identitytoken`).
        registry_token: for the registry itself, instead of one from the realm (`registrytoken`).
    """

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """Value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Logins:
    """What a docker config file holds.

    Attributes:
        logins: by registry, or registry and path; without scheme.
        helpers: programs that keep logins, by registry; `""` for all others.
    """

    logins: Mapping[str, Login] = field(default_factory=dict)
    helpers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> Self:
        """Read a docker config file; one that does not exist holds no logins.

        Raises:
            RequestError: it cannot be read, or is no docker config file. Nothing of its content is shown.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(FILE_LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as error:
            raise RequestError(
                f"The docker config file {path} cannot be read ({error.strerror}): make it readable for this user, or "
                "name another directory in DOCKER_CONFIG."
            ) from error
        try:
            return cls._parsed(json.loads(data))
        except (ValueError, AttributeError, TypeError) as error:
            raise RequestError(
                f"{path} is no docker config file: write it by `docker login`, or as JSON with the logins in `auths`."
            ) from error

    @classmethod
    def _parsed(cls, value: Mapping[str, Any]) -> Self:
        logins = {_key(name): login for name, entry in (value.get("auths") or {}).items() if (login := _login(entry))}
        helpers = {_key(name): str(helper) for name, helper in (value.get("credHelpers") or {}).items()}
        if value.get("credsStore"):
            helpers[""] = str(value["credsStore"])
        return cls(logins, helpers)

    def of(self, image: OciImage) -> Login | None:
        """Return the login for a repository, None where there is none in the file."""
        parts = f"{image.registry}/{image.repository}".split("/")
        names = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((self.logins[name] for name in names if name in self.logins), None)

    def helper_of(self, image: OciImage) -> str | None:
        """Return the program that keeps the login for a registry, None where there is none."""
        return self.helpers.get(image.registry) or self.helpers.get("")


def _key(name: str) -> str:
    """Bring an entry's name to the form of a registry: `https://index.docker.io/v1/` is `docker.io`."""
    text = name.partition("://")[2] or name
    host, _, path = text.strip("/").partition("/")
    host = host.lower()
    path = "" if path in {"v1", "v2"} else path
    host = DOCKER_HUB if host in _HUB_NAMES else host
    return f"{host}/{path}" if path else host


def _login(entry: Mapping[str, Any]) -> Login | None:
    """Read one entry of `auths`; None for the empty ones that a credential store leaves there."""
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        decoded = base64.b64decode(str(entry["auth"]), validate=True).decode()
        username, colon, password = decoded.partition(":")
        if not colon:
            raise ValueError("auth without a colon")
        password = password.rstrip("\0")  # docker pads it
    login = Login(username, password, str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or ""))
    return login if any((username, password, login.identity_token, login.registry_token)) else None
