"""Names in a registry: parsing only; nothing here touches a network.

root            oci://registry.example:5000/models/            (its slash at the end: the model's own name follows)
image           oci://registry.example:5000/models/acme/pong   (a repository, its tag still to come)
                oci://registry.example:5000/models/acme/pong:41ab6c1b1c1f
                oci://registry.example:5000/models/acme/pong@sha256:<64 hex>      (an artifact: it never changes)

Grammar: distribution/reference, reference.go (v0.6): names are in small letters, 255 characters at most with the
registry; a tag is at most 128 of `[A-Za-z0-9_.-]` and begins with a letter, a digit or `_`. Unlike there, the registry
is never left out: `oci://acme/pong` would be a registry called `acme`, and is refused because it has neither dot nor
port and is not `localhost`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Self

from airfreight.errors import RequestError
from airfreight.manifest import Manifest

SCHEME = "oci"
DOCKER_HUB = "docker.io"
DOCKER_HUB_API = "registry-1.docker.io"
NAME_LIMIT = 255
FORM = "oci://registry/repository:tag or oci://registry/repository@sha256:<64 hex digits>"
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
)
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether a text is `sha256:` and 64 small hex digits, the one kind of digest that is used here."""
    return _DIGEST.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether a text can be a tag."""
    return _TAG.fullmatch(text) is not None


@dataclass(frozen=True)
class OciImage:
    """One repository of a registry, and in it an image by tag or digest, or none yet.

    Attributes:
        registry: host, with its port where one was given; small letters.
        repository: `models/acme/pong`.
        tag, digest: at most one of them; a digest as `sha256:<64 hex>`.
    """

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}://{self.name}"

    @property
    def name(self) -> str:
        """As container tools write it, without the scheme."""
        suffix = f"@{self.digest}" if self.digest else f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{suffix}"

    @property
    def reference(self) -> str | None:
        """The digest or the tag, as the registry's API wants it; None where neither was given."""
        return self.digest or self.tag

    def at(self, reference: str) -> Self:
        """Return the same repository with another tag or digest."""
        if is_digest(reference):
            return replace(self, tag=None, digest=reference)
        return replace(self, tag=reference, digest=None)


@dataclass(frozen=True)
class OciRoot:
    """Where the images of models lie in a registry: each in a repository named like the model, below `path`.

    Attributes:
        registry: host, with its port where one was given; small letters.
        path: empty or ends in `/`.
    """

    registry: str
    path: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}://{self.registry}/{self.path}"

    def below(self, manifest: Manifest) -> OciImage:
        """Return the place of one version of one model: `{root}{repo id}:{version}`.

        Raises:
            RequestError: the model's name cannot be a repository's, even in small letters.
        """
        return OciImage(self.registry, repository_of(self, manifest.repo_id), tag=manifest.version)


def repository_of(root: OciRoot, repo_id: str) -> str:
    """Return the repository of a model below a root: its name in small letters, as registries want it.

    What differs from `root.path + repo_id` was mapped, and whoever publishes says so.

    Raises:
        RequestError: the name holds what no repository may, or is too long.
    """
    repository = root.path + repo_id.lower()
    if not _is_repository(repository):
        raise RequestError(
            f"The model {repo_id} cannot be a repository of {root}: between letters and digits a registry allows one "
            "'.', one or two '_' or some '-'; give the repository in full, as in "
            f"{root}{'-'.join(re.findall('[a-z0-9]+', repo_id.lower())) or 'model'}:1 without a slash at its end."
        )
    _check_length(str(root), root.registry, repository)
    return repository


def parse_oci(subject: str, rest: str) -> OciRoot | OciImage:
    """Read what follows `oci://`.

    Args:
        subject: how the sentence of an error begins, as in "The destination 'oci://…'".
        rest: the address without its scheme; ends in `/` for a root.
    Raises:
        RequestError: it is malformed.
    """
    registry, slash, name = rest.partition("/")
    _check_registry(subject, registry)
    registry = registry.lower()
    if not name or name.endswith("/"):
        if not slash:
            raise RequestError(f"{subject} names a registry alone: add a repository, or a slash at its end for a root.")
        if name and not _is_repository(name[:-1]):
            raise RequestError(_bad_name(subject, name[:-1]))
        return OciRoot(registry, name)
    repository, at, digest = name.partition("@")
    repository, colon, tag = repository.partition(":")
    if at and not is_digest(digest):
        raise RequestError(f"{subject} has a malformed digest: give sha256: and 64 hex digits after '@', as in {FORM}.")
    if colon and not is_tag(tag):
        raise RequestError(
            f"{subject} has a malformed tag: give up to 128 letters, digits, '.', '_' and '-' after ':', as in {FORM}."
        )
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not _is_repository(repository):
        raise RequestError(_bad_name(subject, repository))
    _check_length(subject, registry, repository)
    # A tag beside a digest says nothing more: the digest alone decides (containers/image, docker/reference).
    return OciImage(registry, repository, None if at else tag or None, digest or None)


def parse_image(subject: str, text: str) -> OciImage:
    """Read an image as container tools write it, `registry/repository@sha256:…`, with or without `oci://`.

    Raises:
        RequestError: it is malformed, or a root.
    """
    place = parse_oci(subject, text.strip().removeprefix(f"{SCHEME}://").removeprefix("docker://"))
    if isinstance(place, OciRoot):
        raise RequestError(f"{subject} names a root and no image: give {FORM}.")
    return place


def is_loopback(registry: str) -> bool:
    """Whether a registry is this machine's own, so that plain http is used without a flag, as Docker does."""
    host = host_of(registry)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(registry: str) -> str:
    """Return a registry's host without its port, and without the brackets of an IPv6 address."""
    if registry.startswith("["):
        return registry[1:].partition("]")[0]
    return registry.partition(":")[0]


def _check_registry(subject: str, registry: str) -> None:
    if not registry:
        raise RequestError(f"{subject} names no registry: give {FORM}.")
    if "@" in registry:
        # Printed nowhere: what stands before '@' may be a password.
        raise RequestError(
            "The address of a registry holds a user name or password: keep logins in the docker config file, and give "
            f"{FORM}."
        )
    port = registry.rpartition(":")[2] if not registry.endswith("]") and ":" in registry else ""
    if not _HOST.fullmatch(registry) or (port and not 0 < int(port) < 65536):
        raise RequestError(
            f"{subject} has a malformed registry {registry!r}: give a host and perhaps a port, in {FORM}."
        )
    if not port and not registry.startswith("[") and "." not in registry and registry.lower() != "localhost":
        raise RequestError(
            f"{subject} has no registry: {registry!r} has neither a dot nor a port; put the registry's host before it, "
            f"as in oci://registry.example/{registry}/."
        )


def _is_repository(name: str) -> bool:
    return all(_PART.fullmatch(part) for part in name.split("/"))


def _bad_name(subject: str, name: str) -> str:
    if _is_repository(name.lower()):
        return f"{subject} has capitals in its repository, which registries refuse: write {name.lower()!r}."
    return (
        f"{subject} has a malformed repository {name!r}: use small letters and digits, with one '.', one or two '_' "
        "or some '-' between them, and single slashes."
    )


def _check_length(subject: str, registry: str, repository: str) -> None:
    if len(registry) + 1 + len(repository) > NAME_LIMIT:
        raise RequestError(
            f"{subject} leads to a name of {len(registry) + 1 + len(repository)} characters, and registries take "
            f"{NAME_LIMIT}: choose a shorter repository."
        )
