"""The model server's image: its digest at a registry, and a new one made by buildah.

A runtime (`airfreight.runtime`) names its image by digest, and no digest gets there that nobody resolved: a tag is
asked for at its registry, a digest is looked for there. What is built stands on images by digest alone, with all its
times 0, so that the same Containerfile on the same base gives the same image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from airfreight.buildah import Buildah
from airfreight.environment import RegistrySettings
from airfreight.errors import IntegrityError, RequestError
from airfreight.retry import Patience
from airfreight.shipped import shipped
from airfreight.stores.oci.reference import OciImage, OciRoot, parse_image, parse_oci
from airfreight.stores.oci.registry import Repository

TAG_DIGITS = 12
# What is shipped, by the name that people give it; see include/images/runtime.
SHIPPED = {"gpu": "Dockerfile", "cpu": "Dockerfile.cpu"}
_NAMES = ("Containerfile", "Dockerfile")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_FROM = re.compile(r"FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_ARG = re.compile(r"ARG\s+(\w+)(?:=(\S+))?", re.IGNORECASE)
_RUN = re.compile(r"^[ \t]*(?:ONBUILD[ \t]+)?RUN[ \t]", re.IGNORECASE | re.MULTILINE)
# The options of an instruction, which end before its first other word: `from=` in a shell line is none of them.
_OPTIONS = re.compile(
    r"""(?:ONBUILD\s+)?(?:COPY|ADD|RUN)\s+((?:--(?:"[^"]*"|'[^']*'|[^\s"'])+(?:\s+|$))*)""", re.IGNORECASE
)
_OTHER_IMAGE = re.compile(r"""\bfrom=["']?([^\s,"']+)""", re.IGNORECASE)


def resolve(
    image: OciImage,
    settings: RegistrySettings,
    patience: Patience,
    *,
    offline: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Return an image as `registry/repository@sha256:…`, as its registry knows it now.

    Args:
        image: by tag or by digest; without either, `latest` is not meant but refused.
        offline: take a digest as it is; somebody else resolved it.
        say: told which digest a tag stands for.
    Raises:
        RequestError: it is not there, or there is no right to it; or a tag was given with `offline`.
        TemporaryError: the registry cannot be reached now.
    """
    if image.reference is None:
        raise RequestError(
            f"The image {image.name} has neither tag nor digest: say which one is meant, as in {image.name}:v1."
        )
    if offline:
        if image.digest is None:
            raise RequestError(
                f"The image {image.name} has no digest, and --offline asks no registry for it: give it with its "
                "digest, or leave --offline out."
            )
        return image.name
    repository = Repository(image, settings)
    digest = patience.call(lambda: repository.resolve(image.reference or ""))
    if image.digest is None:
        say(f"{image.name} is {digest} at {image.registry} now")
    return image.at(digest).name


@dataclass(frozen=True)
class Recipe:
    """What to build.

    Attributes:
        containerfile: its path.
        context: the directory its COPY lines read; None: an empty one.
        arguments: values of its ARG lines.
        bases: the images it stands on, each by digest.
        runs: whether there are RUN lines, which need a user namespace.
    """

    containerfile: Path
    context: Path | None
    arguments: Mapping[str, str]
    bases: tuple[OciImage, ...]
    runs: bool

    @classmethod
    def of(cls, containerfile: str | None, context: Path | None, arguments: Iterable[str]) -> Recipe:
        """Read what a person asked for.

        Args:
            containerfile: a path, or the name of one that is shipped: "gpu" or "cpu"; None: the context's own,
                and without a context "gpu".
            context: a directory.
            arguments: lines "NAME=value".
        Raises:
            RequestError: there is no such file or directory, a line is no argument, or a base is not pinned.
        """
        if context is not None and not context.is_dir():
            raise RequestError(f"The build context {context} is no directory: give one, or leave --context out.")
        path = _containerfile(containerfile, context)
        values = dict(_argument(line) for line in arguments)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"The Containerfile {path} cannot be read ({error}): give another one.") from None
        return cls(path, context, values, tuple(bases(text, values)), bool(_RUN.search(text)))


def bases(text: str, arguments: Mapping[str, str]) -> list[OciImage]:
    """Return the images that a Containerfile stands on, in its order. Pure.

    Args:
        text: of the Containerfile.
        arguments: values of its ARG lines.
    Raises:
        RequestError: one of them is not pinned by a digest, or an argument in it has no value.
    """
    # As buildah reads it: comments and empty lines do not end a line that goes on; nothing is put between its parts.
    text = re.sub(r"^[ \t]*(?:#.*)?\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\[ \t]*\n", "", text).splitlines()
    known: dict[str, str] = {}
    stages: set[str] = {"scratch"}
    found: list[OciImage] = []
    for line in (line.strip() for line in lines):
        if match := _ARG.match(line):
            known[match[1]] = arguments.get(match[1], (match[2] or "").strip("\"'"))
        elif match := _FROM.match(line):
            name = _filled(match[1], known)
            if name.lower() not in stages:
                found.append(_pinned(name))
            stages.add((match[2] or "").lower())
        elif match := _OPTIONS.match(line):
            names = [_filled(other[1], known) for other in _OTHER_IMAGE.finditer(match[1])]
            found += [_pinned(name) for name in names if not name.isdigit() and name.lower() not in stages]
    return found


def build(
    recipe: Recipe, place: OciImage, settings: RegistrySettings, buildah: Buildah, patience: Patience
) -> tuple[OciImage, str]:
    """Build an image and send it, and return it by digest, as its registry confirms it, and its tag.

    Args:
        place: where to; without a tag it gets 12 digits of the image's own id.
    Raises:
        RequestError: the build failed, a base is missing, there is no room or no right.
        IntegrityError: the registry holds another image than was sent.
        TemporaryError: a registry cannot be reached now.
    """
    context = recipe.context
    if context is None:
        context = buildah.work / "context"
        context.mkdir(exist_ok=True)
    # Not tried again here: buildah itself repeats what a registry failed at, and all else takes long.
    identity = buildah.build(recipe.containerfile, context, recipe.arguments, runs=recipe.runs)
    tag = place.tag or identity[:TAG_DIGITS]
    target = place.at(tag)
    digest = patience.call(lambda: buildah.push(identity, target.name))
    found = patience.call(lambda: Repository(target, settings).resolve(tag))
    if found != digest:
        raise IntegrityError(
            f"{target} is {found} at the registry, and {digest} was sent: somebody else pushes to this tag, or the "
            "registry changes images; end that and build again."
        )
    return target.at(digest), tag


def parse_place(text: str) -> OciImage:
    """Read where a built image goes.

    Raises:
        RequestError: it is no repository of a registry.
    """
    subject = f"The destination {text!r}"
    place = parse_oci(subject, text.strip().removeprefix("oci://"))
    if isinstance(place, OciRoot) or place.digest is not None:
        raise RequestError(f"{subject} is no repository: give oci://registry/repository, with a tag or without.")
    return place


def _containerfile(name: str | None, context: Path | None) -> Path:
    if name is None and context is not None:
        for candidate in _NAMES:
            if (context / candidate).is_file():
                return context / candidate
        raise RequestError(f"{context} holds no Containerfile: put one there, or name one with --containerfile.")
    name = name or "gpu"
    path = shipped(f"images/runtime/{SHIPPED[name]}") if name in SHIPPED else Path(name)
    if not path.is_file():
        raise RequestError(
            f"There is no Containerfile {name}: give the path of one, or {' or '.join(SHIPPED)} for a shipped one."
        )
    return path


def _argument(line: str) -> tuple[str, str]:
    name, separator, value = line.partition("=")
    if not separator or not _ARGUMENT.fullmatch(name):
        raise RequestError(f'"{line}" is no build argument: write --base-arg NAME=value.')
    return name, value


def _filled(name: str, known: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        argument = match[1] or match[2]
        if not known.get(argument):
            raise RequestError(
                f"The Containerfile stands on {name}, and {argument} has no value: add --base-arg "
                f"{argument}=registry/image@sha256:<64 hex digits>."
            )
        return known[argument]

    return _VARIABLE.sub(value, name)


def _pinned(name: str) -> OciImage:
    image = parse_image(f"The base {name!r}", name)
    if image.digest is None:
        raise RequestError(
            f"The base {name!r} is not pinned, and a tag is another image tomorrow: give it by digest, as "
            "`airfreight runtime pin` resolves it: registry/image@sha256:<64 hex digits>."
        )
    return image
