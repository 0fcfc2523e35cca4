"""Whether a model may be published at all, judged before any weight byte moves. Pure.

Three things are judged: the list of files (`Manifest`), what the source says about them (`Facts`), and what fits the
place they go to (`Limits`); `Rules` say what this site and this request want. Everything that is wrong is found at once
(`refusals`); `check_publishable` raises the first of it. Paths that climb or collide never get this far: a `Manifest`
cannot hold them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from airfreight.errors import RequestError
from airfreight.manifest import Manifest, ManifestFile

WEIGHT_SUFFIXES = (".safetensors", ".gguf")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
CODE_SUFFIXES = (".py", ".pyc", ".so")
# Formats that run code of their author's choosing when a model server loads them: pickles, and code itself.
UNSAFE_SUFFIXES = (*PICKLE_SUFFIXES, *CODE_SUFFIXES)
# Pickles that a trainer leaves beside the weights (transformers.Trainer, DeepSpeed). No model server loads them.
LEFTOVERS = (
    "training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "scaler.pt",
    "rng_state.pth", "rng_state_*.pth", "random_states_*.pkl", "*_optim_states.pt",
)  # fmt: skip
UNKNOWN_LICENCE = "unknown"
REASON_LENGTH = 500  # characters
SHOWN = 3
TIB = 1024**4
# Bytes of one layer that registries take, by their hosts: their own pages on quotas (Amazon ECR, ECR Public, Huawei
# SWR), and for Quay its default chunk of 5 MB times the 10,000 parts of S3 behind it. Of others no limit is published.
LAYER_LIMITS = (
    ("*.dkr.ecr.*.amazonaws.com", 52_000 * 1024**2),
    ("*.dkr.ecr.*.amazonaws.com.cn", 52_000 * 1024**2),
    ("public.ecr.aws", 10_000 * 1000**2),
    ("swr.*.myhuaweicloud.com", 10 * 1000**3),
    ("quay.io", 50 * 1000**3),
)


@dataclass(frozen=True)
class Rules:
    """What this site and this request want. Build it from what people wrote with `Rules.of`.

    Attributes:
        licence_deny: licences that are refused, as the hub writes them, in small letters; `*` is a wildcard
            (`cc-by-nc-*`) and `unknown` is a model that names none.
        allow_unsafe: why files that can run code are taken all the same; empty: they are refused.
    """

    licence_deny: tuple[str, ...] = ()
    allow_unsafe: str = ""

    @classmethod
    def of(cls, licence_deny: Iterable[str] = (), allow_unsafe: str | None = None) -> Self:
        """Read what people wrote: licences may be separated by commas, white space around words does not count.

        Raises:
            RequestError: the reason is too short to be one, too long, or holds control characters.
        """
        words = [word.strip().lower() for item in licence_deny for word in item.split(",")]
        return cls(tuple(dict.fromkeys(word for word in words if word)), _reason(allow_unsafe or ""))


@dataclass(frozen=True)
class Facts:
    """What a source says about a model beside its files.

    Attributes:
        licences: its licence, in small letters, and the name of one that is called "other"; empty where the source
            knows none. None: this source says nothing of licences, as a bucket.
    """

    licences: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Limits:
    """What a place can hold; None: no limit is known.

    Attributes:
        kind: the place in a sentence.
        file_bytes: of one file.
        path_bytes: of a path, what lies before it included, in UTF-8.
        name_bytes: of one part of a path, in UTF-8.
        before: what lies before each path.
        free_bytes: what the place has room for: a volume, or a bucket with a quota.
        layer_bytes: of one layer of an image.
    """

    kind: str
    file_bytes: int | None = None
    path_bytes: int | None = None
    name_bytes: int | None = None
    before: str = ""
    free_bytes: int | None = None
    layer_bytes: int | None = None

    @classmethod
    def of_s3(cls, prefix: str, free_bytes: int | None = None) -> Self:
        """Return those of S3: a file of 5 TiB, which is also what 10,000 parts hold, and a key of 1,024 bytes.

        Source: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html and object-keys.html.
        """
        return cls("the bucket", file_bytes=5 * TIB, path_bytes=1024, before=prefix, free_bytes=free_bytes)

    @classmethod
    def of_directory(cls, directory: str, free_bytes: int | None = None) -> Self:
        """Return those of a Linux file system: NAME_MAX and PATH_MAX, less room for the name of an unfinished file.

        Source: linux/limits.h.
        """
        return cls("the volume", path_bytes=4000, name_bytes=200, before=directory, free_bytes=free_bytes)

    @classmethod
    def of_registry(cls, registry: str) -> Self:
        """Return those of a registry, as far as one is published, and of the file system a node unpacks images on."""
        host = registry.partition(":")[0]
        sizes = [size for pattern, size in LAYER_LIMITS if fnmatch.fnmatchcase(host, pattern)]
        return cls(
            f"the registry {registry}",
            path_bytes=4000,
            name_bytes=255,
            before="models/",
            layer_bytes=sizes[0] if sizes else None,
        )


NO_RULES = Rules()
NO_FACTS = Facts()


def check_publishable(
    manifest: Manifest,
    rules: Rules = NO_RULES,
    facts: Facts = NO_FACTS,
    limits: Limits | None = None,
    needed_bytes: int | None = None,
) -> None:
    """Refuse a model that is unsafe to load, denied by its licence, too large, or that has nothing to load.

    Raises:
        RequestError: the first of `refusals`; how many more there are is said.
    """
    found = refusals(manifest, rules, facts, limits, needed_bytes)
    if found:
        raise RequestError(first_of(found))


def first_of(found: Sequence[str]) -> str:
    """Return the first refusal, and how many more there are."""
    more = f" ({len(found) - 1} more: `airfreight resolve` lists all)" if len(found) > 1 else ""
    return found[0].removesuffix(".") + more + "."


def refusals(
    manifest: Manifest,
    rules: Rules = NO_RULES,
    facts: Facts = NO_FACTS,
    limits: Limits | None = None,
    needed_bytes: int | None = None,
) -> tuple[str, ...]:
    """Return every reason not to publish a model, one sentence each, most important first.

    Args:
        needed_bytes: what the place must still take; None: all bytes of the manifest.
    """
    unsafe = unsafe_refusal(manifest.source, unsafe_files(manifest), rules)
    found = [*([unsafe] if unsafe else ()), *_weights(manifest, rules), *_licence(manifest, rules, facts)]
    if limits is not None:
        found += _sizes(manifest, limits, manifest.size if needed_bytes is None else needed_bytes)
    return tuple(found)


def unsafe_files(manifest: Manifest) -> tuple[str, ...]:
    """Return the paths of the files that can run code when a model server loads them."""
    return unsafe_paths(file.path for file in manifest.files)


def unsafe_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of some paths whose files can run code when a model server loads them."""
    return tuple(path for path in paths if path.lower().endswith(UNSAFE_SUFFIXES))


def unsafe_refusal(source: str, unsafe: Sequence[str], rules: Rules) -> str:
    """Return why files that can run code are not taken; empty where there are none, or a reason was given."""
    if not unsafe or rules.allow_unsafe:
        return ""
    if all(_is_leftover(path) for path in unsafe):
        # Said clearly, for nobody is in danger here: but a pickle is a pickle, and it has no use beside a server.
        return (
            f"{source} holds {_listed(unsafe)}, pickled leftovers of a training that no model server loads: "
            f"leave them out with ignore_patterns ({', '.join(_patterns(unsafe))}), or give allow_unsafe with a reason."
        )
    return (
        f"{source} holds files that can run code when loaded ({_listed(unsafe)}): choose a revision with "
        f"safetensors weights and no code, leave them out with ignore_patterns ({', '.join(_patterns(unsafe))}), or "
        "give allow_unsafe with a reason."
    )


def _weights(manifest: Manifest, rules: Rules) -> Iterator[str]:
    suffixes = (*WEIGHT_SUFFIXES, *(PICKLE_SUFFIXES if rules.allow_unsafe else ()))
    found = [file for file in manifest.files if file.path.lower().endswith(suffixes) and not _is_leftover(file.path)]
    if any(file.size for file in found):
        return
    remedy = "check the patterns" if manifest.narrowed else "check the name and the revision"
    yield (
        f"{manifest.source} holds no weight file ({' or '.join(WEIGHT_SUFFIXES)}): "
        f"{remedy}, or publish the weights there first."
    )


def _licence(manifest: Manifest, rules: Rules, facts: Facts) -> Iterator[str]:
    if facts.licences is None:
        return
    licences = facts.licences or (UNKNOWN_LICENCE,)
    for pattern in rules.licence_deny:
        for licence in licences:
            if fnmatch.fnmatchcase(licence.lower(), pattern):
                named = "names no licence" if not facts.licences else f"has the licence {licence}"
                yield (
                    f"{manifest.source} {named}, which this site denies (licence_deny: {pattern}): "
                    "choose another model, or have licence_deny in section [airfreight] changed."
                )
                return


def _sizes(manifest: Manifest, limits: Limits, needed_bytes: int) -> Iterator[str]:
    for file in manifest.files:
        reason = _too_large(file, limits)
        if reason:
            yield f"{manifest.source}: {file.path} {reason}."
    yield from _layers(manifest, limits)
    if limits.free_bytes is not None and needed_bytes > limits.free_bytes:
        yield (
            f"{manifest.source} needs {human_size(needed_bytes)} more and {limits.kind} has room for "
            f"{human_size(limits.free_bytes)}: make it larger, or take fewer files with allow_patterns."
        )


def _layers(manifest: Manifest, limits: Limits) -> Iterator[str]:
    if limits.layer_bytes is None:
        return
    from airfreight.stores.oci.layers import plan  # late: it needs the kinds of files from here

    for layer in plan(manifest.files):
        if layer.size > limits.layer_bytes:
            yield (
                f"{manifest.source}: {layer.title} would make a layer of {human_size(layer.size)} and {limits.kind} "
                f"takes {human_size(limits.layer_bytes)}: choose a model in smaller shards, or another destination."
            )


def _too_large(file: ManifestFile, limits: Limits) -> str | None:
    if limits.file_bytes is not None and file.size > limits.file_bytes:
        return (
            f"has {human_size(file.size)} and a file in {limits.kind} may have {human_size(limits.file_bytes)}: choose "
            "a model in smaller shards"
        )
    path = len((limits.before + file.path).encode())
    if limits.path_bytes is not None and path > limits.path_bytes:
        return (
            f"would have a path of {path} bytes and {limits.kind} takes {limits.path_bytes}: choose a shorter "
            "destination, or leave the file out with ignore_patterns"
        )
    longest = max(len(part.encode()) for part in file.path.split("/"))
    if limits.name_bytes is not None and longest > limits.name_bytes:
        return (
            f"has a name of {longest} bytes and {limits.kind} takes {limits.name_bytes}: leave the file out with "
            "ignore_patterns"
        )
    return None


def _reason(text: str) -> str:
    reason = text.strip()
    if not reason:
        return ""
    if not reason.isprintable() or len(reason) > REASON_LENGTH:
        raise RequestError(f"allow_unsafe takes a reason of one line and at most {REASON_LENGTH} characters.")
    if len(reason) < 8 or " " not in reason:
        raise RequestError(
            f"allow_unsafe is {reason!r}, which is no reason: write in a few words why these files are trusted, "
            "for whoever reads the report later."
        )
    return reason


def _is_leftover(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in LEFTOVERS)


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(paths[:SHOWN]) + more


def _patterns(paths: Sequence[str]) -> list[str]:
    """Return ignore patterns that leave these files out, case and all: one for each ending."""
    return sorted({path.rpartition("/")[2] if _is_leftover(path) else f"*.{path.rpartition('.')[2]}" for path in paths})


def human_size(count: int) -> str:
    """Write a number of bytes as a person would: `12 B`, `8.0 MiB`, `1.5 TiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
