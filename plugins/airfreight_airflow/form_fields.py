"""Kinds of fields of our trigger forms, so that each looks and behaves alike wherever it stands."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param
from pydantic import BaseModel


def choice(title: str, description: str, choices: tuple[str, ...], empty: str, section: str) -> Param:
    """One of several words, or none; `empty` says what none means."""
    # A field that is emptied arrives as null, so null is one of the choices; the form shows it as `empty`.
    return Param(
        None,
        type=["null", "string"],
        enum=[None, *choices],
        values_display={"null": empty},
        section=section,
        title=title,
        description=description,
    )


def optional_text(**schema: Any) -> Param:
    """A line of text that may be left empty; an emptied field arrives as null.

    Args:
        schema: title, description, section and what else a form knows of a text.
    """
    return Param("", type=["null", "string"], **schema)


def lines(title: str, description: str, section: str = "Source") -> Param:
    """A list, one item per line."""
    items = {"type": "string"}
    return Param([], type=["null", "array"], items=items, section=section, title=title, description=description)


def from_model(model: type[BaseModel], section: str) -> dict[str, Param]:
    """One field per field of a model, all of them optional: an emptied field means its default."""
    properties: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return {name: from_schema(dict(schema), section) for name, schema in properties.items()}


def from_schema(schema: dict[str, Any], section: str) -> Param:
    """A field made of a property of a JSON schema; it may be emptied."""
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
