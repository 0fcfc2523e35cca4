"""The trigger forms of our DAGs. The REST bodies take the same names, because both come from here.

At most four essentials stand open; the rest lies in sections, which Airflow shows folded. Airflow makes a form from
JSON schema, with words of its own beside it (`section`, `description_md`, `values_display`); the "Serving" section is
the schema of `Serving`, the "Validation" section that of `GateWishes`, so a field that is added there appears in the
form, the REST body and the catalog at once.
"""

from __future__ import annotations

from airflow.sdk import Param

from airfreight.prechecks import REASON_LENGTH
from airfreight.rendering import NAME_LIMIT
from airfreight.serving import Serving
from airfreight_airflow.form_fields import choice, from_model, lines, optional_text
from airfreight_airflow.form_gates import gate_params, target_params
from airfreight_airflow.route import BUILDERS, DELIVERIES, DESTINATIONS, PODS_LIMIT, STAGINGS


def deliver_params(*, model: str) -> dict[str, Param]:
    """The params of `deliver_model`.

    Args:
        model: what `model` holds when the form opens.
    """
    serving = {**serving_params(), **_delivery(), **target_params()}
    return {**_essentials(model), **_publish(), **serving, **gate_params(), **_source()}


def mirror_params() -> dict[str, Param]:
    """The params of `mirror_model`."""
    return {
        "source": Param(
            "oci://registry.example/models/acme/pong:41ab6c1b1c1f",
            type="string",
            minLength=1,
            maxLength=500,
            title="Source",
            description="oci://registry/repository by tag or @sha256 digest, or s3://bucket/prefix/ of one version.",
        ),
        "destination": optional_text(
            maxLength=500,
            title="Destination",
            description="A root, oci://registry/path/ or s3://bucket/root/, or one repository, oci://registry/name. "
            "Empty: the site's registry.",
        ),
        **_patterns(),
        "allow_unsafe": _allow_unsafe(),
        "dry_run": _dry_run(),
    }


def runtime_params() -> dict[str, Param]:
    """The params of `build_runtime`."""
    return {
        "image": optional_text(
            maxLength=300,
            title="Image",
            description="Where the image goes, oci://registry/repository or with :tag. "
            "Empty: runtimes/<template> below the site's registry.",
        ),
        "template": Param(
            "vllm-cpu",
            type="string",
            enum=["vllm-cpu", "vllm-gpu"],
            title="Template",
            description="Template of the ServingRuntime that will name the image by its digest.",
        ),
        "namespace": optional_text(
            title="Namespace",
            description="Where the ServingRuntime is applied. Empty: the site's default.",
            examples=["models"],
        ),
        "containerfile": optional_text(
            title="ConfigMap with the Containerfile",
            description="Name of a ConfigMap (key: Containerfile, beside it the files it copies) in the builder's "
            "namespace. Empty: the context below.",
        ),
        "context": optional_text(
            title="Context in the builder image",
            description="A directory of the site's builder image with a Containerfile, instead of a ConfigMap. "
            "Empty: the shipped one for images of vLLM, which needs BASE below.",
            section="Build",
        ),
        "base_args": lines(
            "Build arguments",
            "One NAME=value per line, as BASE=registry.example/vllm@sha256:…; BASE is required with the shipped "
            "Containerfile.",
            section="Build",
        ),
        "set": lines(
            "Settings of the server",
            "One KEY=VALUE per line: an environment variable (VLLM_LOGGING_LEVEL=DEBUG) or argument "
            "(max-model-len=8192); each set of them gives another runtime.",
            section="Runtime",
        ),
    }


def roll_back_params() -> dict[str, Param]:
    """The params of `roll_back_model`."""
    return {
        "name": Param(
            "acme-pong",
            type="string",
            minLength=1,
            maxLength=NAME_LIMIT,
            title="Service name",
            description="Name of the InferenceService.",
        ),
        "namespace": optional_text(
            title="Namespace",
            description="Where the model is served. Empty: the site's default.",
        ),
        "release": Param(
            "previous",
            type="string",
            pattern="^(previous|[0-9a-f]{12})$",
            title="Release",
            description="Its 12 hex digits, or previous: the one that was live last before.",
            examples=["previous"],
        ),
        "reason": optional_text(
            maxLength=500,
            title="Reason",
            description="Kept in the ledger, for whoever looks at this model next.",
        ),
    }


def serving_params(section: str = "Serving") -> dict[str, Param]:
    """One param per field of `Serving`, all of them optional: an emptied field means its default."""
    return from_model(Serving, section)


def _essentials(model: str) -> dict[str, Param]:
    return {
        "model": Param(
            model,
            type="string",
            minLength=1,
            maxLength=200,
            title="Model",
            description='Name on the hub, "owner/name".',
            examples=[model, "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"],
        ),
        "revision": Param(
            "main",
            type=["null", "string"],
            maxLength=200,
            title="Revision",
            description="Branch, tag or commit. It is resolved to a commit before a byte moves. Empty: main.",
            examples=["main"],
        ),
        "name": optional_text(
            title="Service name",
            description=f"Name of the InferenceService: at most {NAME_LIMIT} small letters, digits and -. Empty: "
            "derived from the model, e.g. acme-pong.",
        ),
        "namespace": optional_text(
            title="Namespace",
            description="Where the model is served. Empty: the site's default.",
            examples=["models"],
        ),
    }


def _publish() -> dict[str, Param]:
    return {
        "destination": choice(
            "Destination",
            "Where the model is published: in the bucket (s3), as an image in the registry (oci), or in both.",
            DESTINATIONS,
            "the site's default",
            section="Publish",
        ),
        "builder": choice(
            "Builder of the image",
            "stream: the bytes go straight into the registry, without a disk. buildah: from a volume, by buildah, for "
            "sites whose policy asks for it; slower.",
            BUILDERS,
            "stream",
            section="Publish",
        ),
        "staging": choice(
            "Staging",
            "volume: the hub is read once onto a volume of the run's own, which is removed at its end; both "
            "destinations then read from there. none: the bytes never touch a disk.",
            STAGINGS,
            "none, or volume with buildah",
            section="Publish",
        ),
        "pods": Param(
            1,
            type=["null", "integer"],
            minimum=1,
            maximum=PODS_LIMIT,
            section="Publish",
            title="Pods",
            description="How many pods share the copying, each whole files. With a volume: only where it can be "
            "mounted on many nodes.",
        ),
        "deploy": Param(
            True,
            type=["null", "boolean"],
            section="Publish",
            title="Deploy",
            description="Off: the model is only published, and the task `render` prints the InferenceService for "
            "those who deploy it themselves.",
        ),
    }


def _delivery() -> dict[str, Param]:
    return {
        "delivery": choice(
            "Delivery",
            "How the pod gets the model: s3 (storage initializer), oci (sidecar with the image) or oci+native (image "
            "as a volume).",
            DELIVERIES,
            "the one the model has now, else the best the cluster can",
            section="Serving",
        )
    }


def _source() -> dict[str, Param]:
    return {
        "hub_secret": optional_text(
            section="Source",
            title="Secret with the hub token",
            description="Name of a Secret (key: token) in the worker namespace, with buildah in the builder's too, for "
            "gated models. Empty: the site's. Never a token itself.",
        ),
        **_patterns(),
        "allow_unsafe": _allow_unsafe(),
        "dry_run": _dry_run(),
    }


def _patterns() -> dict[str, Param]:
    return {
        "allow_patterns": lines(
            "Take only",
            "One pattern per line, e.g. *.safetensors; * also matches a slash, folder/ means all below it. Empty: all.",
        ),
        "ignore_patterns": lines(
            "Leave out",
            "One pattern per line, e.g. original/ or training_args.bin; weighs more than the field above.",
        ),
    }


def _allow_unsafe() -> Param:
    return optional_text(
        section="Source",
        maxLength=REASON_LENGTH,
        title="Take files that can run code, because",
        description="Pickles (.bin, .pt) and code of the repository are refused unless a reason stands here; it is "
        "recorded in the result.",
    )


def _dry_run() -> Param:
    return Param(
        False,
        type=["null", "boolean"],
        section="Source",
        title="Dry run",
        description="Stop after `resolve`: its log has the plan for each destination, that is files, bytes to move, "
        "bytes reused, and what would be refused.",
    )
