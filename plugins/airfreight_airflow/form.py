"""The trigger form of `deliver_model`. The REST body takes the same names, because both come from here.

Four essentials stand open; the rest lies in sections, which Airflow shows folded. Airflow makes a form from JSON
schema, with words of its own beside it (`section`, `description_md`, `values_display`); the "Serving" section is the
schema of `Serving`, so a field that is added there appears in the form, in the REST body and in the catalog at once.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from airfreight.prechecks import REASON_LENGTH
from airfreight.serving import Serving


def deliver_params(*, model: str) -> dict[str, Param]:
    """The params of `deliver_model`.

    Args:
        model: what `model` holds when the form opens.
    """
    return {**_essentials(model), **serving_params(), **_validation(), **_source()}


def serving_params(section: str = "Serving") -> dict[str, Param]:
    """One param per field of `Serving`, all of them optional: an emptied field means its default."""
    properties: dict[str, dict[str, Any]] = Serving.model_json_schema()["properties"]
    return {name: _param(dict(schema), section) for name, schema in properties.items()}


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
        "name": Param(
            "",
            type=["null", "string"],
            title="Service name",
            description="Name of the InferenceService. Empty: derived from the model, e.g. acme-pong.",
        ),
        "namespace": Param(
            "",
            type=["null", "string"],
            title="Namespace",
            description="Where the model is served. Empty: the site's default.",
            examples=["models"],
        ),
    }


def _validation() -> dict[str, Param]:
    return {
        "question": Param(
            "ping",
            type=["null", "string"],
            section="Validation",
            maxLength=2000,
            title="Question",
            description="Asked through the service once it is ready; the answer stands in the report.",
        ),
    }


def _source() -> dict[str, Param]:
    return {
        "hub_secret": Param(
            "",
            type=["null", "string"],
            section="Source",
            title="Secret with the hub token",
            description="Name of a Secret (key: token) in the workers' namespace, for gated models. Empty: the site's. "
            "Never a token itself.",
        ),
        "allow_patterns": _lines(
            "Take only",
            "One pattern per line, e.g. *.safetensors; * also matches a slash, folder/ means all below it. Empty: all.",
        ),
        "ignore_patterns": _lines(
            "Leave out",
            "One pattern per line, e.g. original/ or training_args.bin; weighs more than the field above.",
        ),
        "allow_unsafe": Param(
            "",
            type=["null", "string"],
            section="Source",
            maxLength=REASON_LENGTH,
            title="Take files that can run code, because",
            description="Pickles (.bin, .pt) and code of the repository are refused unless a reason stands here; it is "
            "recorded in the result.",
        ),
        "dry_run": Param(
            False,
            type=["null", "boolean"],
            section="Source",
            title="Dry run",
            description="Stop after `resolve`: its log has the plan, that is files, bytes to move, bytes reused, "
            "and what would be refused.",
        ),
    }


def _lines(title: str, description: str) -> Param:
    items = {"type": "string"}
    return Param([], type=["null", "array"], items=items, section="Source", title=title, description=description)


def _param(schema: dict[str, Any], section: str) -> Param:
    default = schema.pop("default", None)
    schema.pop("$ref", None)
    # pydantic writes an optional field as anyOf, which Airflow's form shows as a JSON editor.
    for branch in schema.pop("anyOf", []):
        if branch.get("type") != "null":
            schema.update(branch)
    if schema["type"] != "string":
        # Examples turn a list into a fixed choice and do nothing for a number; only a text box proposes them.
        examples = schema.pop("examples", None)
        if schema["type"] == "array":
            default = default or []
            if examples:
                schema["description"] = f"{schema['description']} Example: {' '.join(examples[0])}"
    schema["type"] = ["null", schema["type"]]
    return Param(default, description=schema.pop("description", None), section=section, **schema)
