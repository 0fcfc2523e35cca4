"""The standard environment variables of the command line, read once at its edge into frozen settings.

Nothing below this file reads the environment. Variables: HF_ENDPOINT, HF_TOKEN, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_DEFAULT_REGION, DOCKER_CONFIG, and some of our own:

    AIRFREIGHT_LICENCE_DENY    licences that are refused, with commas between them: cc-by-nc-*,unknown
    AIRFREIGHT_PLAIN_HTTP      registries that are spoken plain http with, with commas between them: 10.0.0.5:5000
    AIRFREIGHT_XET_ABOVE       bytes; larger files that the hub keeps in Xet are read through Xet (0: all of them)

Proxies (HTTPS_PROXY, NO_PROXY) and CAs (SSL_CERT_FILE for the hub, AWS_CA_BUNDLE for the store) are read by the HTTP
libraries themselves; that a bundle is one is checked here, for they end in a traceback where it is none.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from airfreight.errors import RequestError

PUBLIC_HUB = "https://huggingface.co"
DEFAULT_REGION = "us-east-1"
IN_POD, AT_SHELL = "Secret airfreight-store", "the environment of this command"
# Larger files are not to be had over plain HTTP (huggingface_hub 2.4, constants.MAX_HTTP_DOWNLOAD_SIZE).
XET_ABOVE = 50_000_000_000


def licence_deny(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Read AIRFREIGHT_LICENCE_DENY, for `airfreight.prechecks.Rules.of`."""
    values = os.environ if environment is None else environment
    return tuple(word.strip() for word in values.get("AIRFREIGHT_LICENCE_DENY", "").split(",") if word.strip())


@dataclass(frozen=True)
class HubSettings:
    """Where the hub is and who asks.

    Attributes:
        endpoint: URL without a slash at its end.
        token: access token, or None; never shown by repr.
        xet_above: bytes; larger files that the hub keeps in Xet are read through Xet, all others over plain HTTP.
    """

    endpoint: str = PUBLIC_HUB
    token: str | None = field(default=None, repr=False)
    xet_above: int = XET_ABOVE

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read HF_ENDPOINT and HF_TOKEN; an empty variable counts as unset.

        Raises:
            RequestError: HF_ENDPOINT is no http(s) URL, the token holds characters no HTTP header can carry,
                AIRFREIGHT_XET_ABOVE is no number, or SSL_CERT_FILE names no bundle of certificates.
        """
        values = os.environ if environment is None else environment
        token = values.get("HF_TOKEN", "").strip() or None
        if token is not None and not (token.isascii() and token.isprintable()):
            raise RequestError(
                "The hub token (HF_TOKEN) holds characters that no token has: "
                "copy it again into Secret airfreight-hub, key token."
            )
        above = values.get("AIRFREIGHT_XET_ABOVE", "").strip() or str(XET_ABOVE)
        if not (above.isascii() and above.isdigit()):
            raise RequestError(
                f"AIRFREIGHT_XET_ABOVE is {above!r}, which is no number of bytes: set it to {XET_ABOVE}."
            )
        _check_bundle("SSL_CERT_FILE", values.get("SSL_CERT_FILE", ""))
        return cls(_url("HF_ENDPOINT", values.get("HF_ENDPOINT", ""), PUBLIC_HUB), token, int(above))


@dataclass(frozen=True)
class S3Settings:
    """Where the object store is and who writes to it.

    Attributes:
        endpoint_url: URL of an S3-compatible store, addressed by path; None means AWS itself.
        access_key, secret_key, session_token: None leaves finding credentials to boto3 (instance role, profile).
        region: signing region.
        keys_in: where the one who runs this puts the keys; for sentences, and no part of what it is.
    """

    endpoint_url: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = DEFAULT_REGION
    keys_in: str = field(default=IN_POD, compare=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the AWS_* variables named above; an empty variable counts as unset.

        Raises:
            RequestError: the endpoint is no http(s) URL, or AWS_CA_BUNDLE names no bundle of certificates.
        """
        values = os.environ if environment is None else environment
        _check_bundle("AWS_CA_BUNDLE", values.get("AWS_CA_BUNDLE", ""))
        name = "AWS_ENDPOINT_URL_S3" if values.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
        return cls(
            endpoint_url=_url(name, values.get(name, ""), "") or None,
            access_key=values.get("AWS_ACCESS_KEY_ID") or None,
            secret_key=values.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=values.get("AWS_SESSION_TOKEN") or None,
            region=values.get("AWS_DEFAULT_REGION") or values.get("AWS_REGION") or DEFAULT_REGION,
            # Every pod has this variable, and its AWS_* from the Secret; at a shell a person set them, or did not.
            keys_in=IN_POD if values.get("KUBERNETES_SERVICE_HOST") else AT_SHELL,
        )

    @property
    def where(self) -> str:
        """The store's name in a sentence."""
        return self.endpoint_url or f"AWS S3 ({self.region})"


@dataclass(frozen=True)
class RegistrySettings:
    """How registries are reached and where their logins are.

    Attributes:
        login_file: path of a docker config file; it need not exist.
        plain_http: registries (`host` or `host:port`, small letters) that are spoken plain http with, beside loopback.
    """

    login_file: str
    plain_http: frozenset[str] = frozenset()

    @classmethod
    def from_environment(cls, plain_http: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> Self:
        """Read DOCKER_CONFIG (a directory; else `~/.docker`) and AIRFREIGHT_PLAIN_HTTP.

        Args:
            plain_http: further registries, as a flag of the command names them.
        Raises:
            RequestError: AIRFREIGHT_PLAIN_HTTP holds an address, or SSL_CERT_FILE names no bundle of certificates.
        """
        values = os.environ if environment is None else environment
        _check_bundle("SSL_CERT_FILE", values.get("SSL_CERT_FILE", ""))
        named = [word.strip().lower() for word in values.get("AIRFREIGHT_PLAIN_HTTP", "").split(",") if word.strip()]
        for word in named:
            if "/" in word:
                raise RequestError(
                    f"AIRFREIGHT_PLAIN_HTTP names {word!r}, which is no registry: give hosts, with their ports, and "
                    "commas between them, as in 10.0.0.5:5000."
                )
        home = values.get("HOME") or "~"
        directory = Path(values.get("DOCKER_CONFIG", "").strip() or f"{home}/.docker").expanduser()
        return cls(str(directory / "config.json"), frozenset({*named, *(registry.lower() for registry in plain_http)}))


def _check_bundle(name: str, path: str) -> None:
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or "it holds no certificate in PEM"
        raise RequestError(
            f"{name} names {path}, which is no bundle of CA certificates ({reason}): check key ca.crt of the ConfigMap "
            "that `ca_bundle_configmap` in section [airfreight] names."
        ) from error


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
