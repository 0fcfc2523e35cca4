"""A person's request: the conf of a `deliver_model` run, as the form, the REST API and the command line send it.

    {"model": "acme/pong", "revision": "main", "name": "", "namespace": "",   essentials
     "destination": "both", "builder": "stream", "staging": "", "pods": 1, "deploy": true,     see `route.py`
     "gpus": 1, "memory": "24Gi", …,                                          the fields of `airfreight.serving.Serving`
     "question": "ping", "hub_secret": "",
     "allow_patterns": ["*.safetensors", "*.json"], "ignore_patterns": [], "allow_unsafe": "", "dry_run": false}

Pure functions without Airflow. Airflow takes conf keys it does not know without a word and then uses the defaults, so
`refuse_unknown_keys` runs before the first pod starts.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from airfreight.errors import RequestError
from airfreight.patterns import Patterns
from airfreight.prechecks import Rules
from airfreight.rendering import NAME_LIMIT
from airfreight.serving import Serving, is_object_name, parse_serving
from airfreight.source import DEFAULT_REVISION, HubModel, parse_any_destination, parse_any_source, parse_source

SERVICE_NAME_LENGTH = NAME_LIMIT
"""Longest name, in characters; that of the catalog and of the command, so what one takes the others take."""
DERIVED_LENGTH = 40
"""Longest name that is made of a model's: KServe's host name `<name>-predictor-<namespace>` may have 63 characters."""

_DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def refuse_unknown_keys(conf: Mapping[str, Any] | None, known: Iterable[str]) -> None:
    """Check that every key of a run's conf is one the DAG has.

    Raises:
        RequestError: a key is unknown; the sentence names the nearest right one, e.g.
            `unknown key "gpu" in conf: did you mean "gpus"? (keys: gpus, model, …)`.
    """
    names = sorted(known)
    unknown = [key for key in (conf or {}) if key not in names]
    if not unknown:
        return
    nearest = [match for key in unknown for match in difflib.get_close_matches(key, names, n=1)]
    noun = "key" if len(unknown) == 1 else "keys"
    hint = f"did you mean {_quoted(nearest)}?" if nearest else "remove it." if len(unknown) == 1 else "remove them."
    raise RequestError(f"unknown {noun} {_quoted(unknown)} in conf: {hint} (keys: {', '.join(names)})")


def source_of(params: Mapping[str, Any]) -> str:
    """The source in Airfreight's notation, e.g. `hf://acme/pong@main`.

    Raises:
        RequestError: `model` is missing or malformed, or it carries one revision and `revision` another.
    """
    return str(_model_of(params))


def service_name_of(params: Mapping[str, Any]) -> str:
    """The InferenceService's name: what the request says, else one derived from the model.

    Derived names hold the owner, so that two owners' models of one name do not replace each other:
    `Qwen/Qwen2.5-0.5B-Instruct` becomes `qwen-qwen2-5-0-5b-instruct`. A name that had to be cut ends in 6 hex of the
    whole.

    Raises:
        RequestError: the name given is no RFC 1035 label of at most `SERVICE_NAME_LENGTH` characters, or the model is
            malformed.
    """
    name = _text(params, "name")
    if name:
        return _dns_label(name, "name", "an InferenceService", SERVICE_NAME_LENGTH)
    repo_id = _model_of(params).repo_id
    label = re.sub(r"[^a-z0-9]+", "-", repo_id.lower()).strip("-")
    if not label[:1].isalpha():
        label = f"m-{label}".rstrip("-")
    if len(label) <= DERIVED_LENGTH:
        return label
    digest = hashlib.sha256(repo_id.encode()).hexdigest()[:6]
    return f"{label[: DERIVED_LENGTH - 7].rstrip('-')}-{digest}"


def namespace_of(params: Mapping[str, Any], default: str) -> str:
    """The namespace the model is served in.

    Raises:
        RequestError: it is no RFC 1123 label.
    """
    namespace = _text(params, "namespace") or default
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", namespace):
        raise RequestError(f'"{namespace}" is no namespace: write small letters, digits and "-", such as "models".')
    return namespace


def hub_secret_of(params: Mapping[str, Any]) -> str:
    """The Secret with the hub token that the request asks for; empty: the site's.

    Raises:
        RequestError: it is no name of a Secret; perhaps somebody pasted the token itself, so it is not repeated.
    """
    name = _text(params, "hub_secret")
    if name and not is_object_name(name):
        raise RequestError(
            '"hub_secret" is no name of a Secret: put the token into a Secret of the worker namespace, with buildah of '
            "the builder's too, key token, and give that Secret's name."
        )
    return name


def serving_of(params: Mapping[str, Any], default_runtime: str) -> str:
    """The request's serving block as JSON on one line, for `airfreight deploy --serving`.

    Empty fields take the schema's defaults: a form sends an emptied field as null.

    Raises:
        RequestError: a field has a wrong value, or neither the request nor the site names a runtime.
    """
    given = {key: params[key] for key in Serving.model_fields if params.get(key) not in (None, "", [])}
    serving = parse_serving(given)
    if serving.runtime is None:
        if not default_runtime:
            raise RequestError(
                "No serving runtime is named: give `runtime` in the request, or set `runtime` in section [airfreight] "
                "of Airflow's configuration to the ServingRuntime that `airfreight runtime pin` printed."
            )
        serving = serving.model_copy(update={"runtime": default_runtime})
    return json.dumps(serving.model_dump(), sort_keys=True)


def patterns_of(params: Mapping[str, Any]) -> Patterns:
    """Which files of the model are wanted.

    Raises:
        RequestError: a pattern is none.
    """
    return Patterns.of(params.get("allow_patterns") or (), params.get("ignore_patterns") or ())


def allow_unsafe_of(params: Mapping[str, Any]) -> str:
    """Why files that can run code are taken all the same; empty: they are refused.

    Raises:
        RequestError: what is given is no reason.
    """
    return Rules.of(allow_unsafe=_text(params, "allow_unsafe")).allow_unsafe


def check_request(params: Mapping[str, Any], default_namespace: str, default_runtime: str) -> None:
    """Check everything in a request that needs no server to be judged, so that it fails before a byte moves.

    Raises:
        RequestError: the first thing that is wrong.
    """
    source_of(params)
    patterns_of(params)
    allow_unsafe_of(params)
    hub_secret_of(params)
    service_name_of(params)
    namespace_of(params, default_namespace)
    serving_of(params, default_runtime)


def mirror_of(params: Mapping[str, Any], registry: str) -> tuple[str, str]:
    """Source and destination of a `mirror_model` run.

    Args:
        params: of the run.
        registry: the site's root for images, for requests that name no destination; may be empty.
    Raises:
        RequestError: one of them is missing, malformed, or no pair that is mirrored.
    """
    source, destination = _text(params, "source"), _text(params, "destination") or registry
    patterns_of(params)
    allow_unsafe_of(params)
    scheme = source.partition("://")[0].lower()
    if scheme not in ("oci", "s3"):
        raise RequestError(
            f'"source" is {source!r}: give an image, oci://registry/repository:tag, or a version in a bucket, '
            "s3://bucket/owner/name/version/; models of the hub are for deliver_model with deploy off."
        )
    if not destination:
        raise RequestError(
            '"destination" is empty and the site has no registry: give oci://registry/path/ or s3://bucket/root/, or '
            "set `registry` in section [airfreight]."
        )
    if scheme == "s3" and not destination.startswith("oci://"):
        raise RequestError(
            f'"destination" is {destination!r} and "source" lies in a bucket: give oci://registry/path/.'
        )
    return str(parse_any_source(source)), str(parse_any_destination(destination))


def runtime_image_of(params: Mapping[str, Any], registry: str) -> str:
    """Where `build_runtime` puts its image.

    Raises:
        RequestError: neither the request nor the site says where, or it is no repository.
    """
    image = _text(params, "image") or (f"{registry}runtimes/{_text(params, 'template')}" if registry else "")
    if not image:
        raise RequestError(
            '"image" is empty and the site has no registry: give oci://registry/repository, or set `registry` in '
            "section [airfreight]."
        )
    if not re.fullmatch(r"oci://[^/@\s]+(/[a-z0-9][a-z0-9._-]*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?", image):
        raise RequestError(
            f'"image" is {image!r}, which is no repository: write oci://registry/repository, with :tag if you like.'
        )
    return image


def containerfile_of(params: Mapping[str, Any]) -> str:
    """The ConfigMap with the Containerfile; empty: none.

    Raises:
        RequestError: it is no name of a ConfigMap, or a context is given too.
    """
    name = _text(params, "containerfile")
    if name and not is_object_name(name):
        raise RequestError(
            f'"containerfile" is {name[:80]!r}, which is no name of a ConfigMap: put the Containerfile into one of the '
            "builder's namespace, key Containerfile, and give that ConfigMap's name."
        )
    if name and context_of(params):
        raise RequestError('"containerfile" and "context" are both given: keep one of them.')
    return name


def context_of(params: Mapping[str, Any]) -> str:
    """The directory of the builder image that holds Containerfile and files; empty: none.

    Raises:
        RequestError: it is no absolute path.
    """
    path = _text(params, "context").rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", path):
        raise RequestError(f'"context" is {path!r}: give a directory of the builder image as /opt/site/runtime.')
    return path


def _model_of(params: Mapping[str, Any]) -> HubModel:
    text = _text(params, "model")
    if not text:
        raise RequestError('"model" is empty: give the hub\'s name of a model, such as "acme/pong".')
    asked = _text(params, "revision")
    if "@" not in text:
        return parse_source(f"{text}@{asked or DEFAULT_REVISION}")
    model = parse_source(text)
    if asked not in ("", DEFAULT_REVISION, model.revision):
        raise RequestError(
            f'"model" asks for revision "{model.revision}" and "revision" for "{asked}": give only one of them.'
        )
    return model


def _dns_label(text: str, key: str, what: str, length: int) -> str:
    if len(text) > length or not _DNS_LABEL.fullmatch(text):
        raise RequestError(
            f'"{text}" in "{key}" is no name for {what}: write at most {length} small letters, digits and "-", '
            "beginning with a letter."
        )
    return text


def _text(params: Mapping[str, Any], key: str) -> str:
    value = params.get(key)
    return "" if value is None else str(value).strip()


def _quoted(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)
