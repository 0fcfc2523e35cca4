"""The standard environment variables of the command line, read once at its edge into frozen settings.

Nothing below this file reads the environment. Variables: HF_ENDPOINT, HF_TOKEN, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_DEFAULT_REGION. Proxies (HTTPS_PROXY, NO_PROXY) are
read by the HTTP libraries themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from airfreight.errors import RequestError

PUBLIC_HUB = "https://huggingface.co"
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class HubSettings:
    """Where the hub is and who asks.

    Attributes:
        endpoint: URL without a slash at its end.
        token: access token, or None; never shown by repr.
    """

    endpoint: str = PUBLIC_HUB
    token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read HF_ENDPOINT and HF_TOKEN; an empty variable counts as unset.

        Raises:
            RequestError: HF_ENDPOINT is no http(s) URL, or the token holds characters no HTTP header can carry.
        """
        values = os.environ if environment is None else environment
        token = values.get("HF_TOKEN", "").strip() or None
        if token is not None and not (token.isascii() and token.isprintable()):
            raise RequestError(
                "The hub token (HF_TOKEN) holds characters that no token has: "
                "copy it again into Secret airfreight-hub, key token."
            )
        return cls(_url("HF_ENDPOINT", values.get("HF_ENDPOINT", ""), PUBLIC_HUB), token)


@dataclass(frozen=True)
class S3Settings:
    """Where the object store is and who writes to it.

    Attributes:
        endpoint_url: URL of an S3-compatible store, addressed by path; None means AWS itself.
        access_key, secret_key, session_token: None leaves finding credentials to boto3 (instance role, profile).
        region: signing region.
    """

    endpoint_url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = DEFAULT_REGION

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the AWS_* variables named above; an empty variable counts as unset.

        Raises:
            RequestError: the endpoint is no http(s) URL.
        """
        values = os.environ if environment is None else environment
        name = "AWS_ENDPOINT_URL_S3" if values.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
        return cls(
            endpoint_url=_url(name, values.get(name, ""), "") or None,
            access_key=values.get("AWS_ACCESS_KEY_ID") or None,
            secret_key=values.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=values.get("AWS_SESSION_TOKEN") or None,
            region=values.get("AWS_DEFAULT_REGION") or values.get("AWS_REGION") or DEFAULT_REGION,
        )

    @property
    def where(self) -> str:
        """The store's name in a sentence."""
        return self.endpoint_url or f"AWS S3 ({self.region})"


def _url(name: str, value: str, default: str) -> str:
    value = value.strip().rstrip("/")
    if not value:
        return default
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if parts.username is not None or parts.password is not None:
        # The URL is named in every error sentence, so it must be fit to be printed.
        raise RequestError(f"{name} holds a user name or password: keep credentials in the Secrets, not in the URL.")
    if not usable:
        raise RequestError(f"{name} is {value!r}, which is no URL: set it to something like http://minio.minio:9000.")
    return value
