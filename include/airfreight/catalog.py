"""The catalog: the models a site delivers, as one YAML file that people edit and review.

    models:
      - name: pong                  # of the InferenceService
        source: hf://acme/pong      # where it comes from
        revision: main              # a branch, a tag or a commit
        destination: s3             # how it is published: s3, oci or both
        builder: stream             # who makes the image: stream or buildah
        delivery: oci+native        # how its pod gets it: s3, oci or oci+native; absent: what the cluster can do best
        allow_patterns: ["*.json", "*.safetensors"]    # only these files; absent: all
        ignore_patterns: [original/]                   # and of those, not these
        serving:                    # the fields of the trigger form's "Serving" section
          gpus: 1
          memory: 24Gi

Every problem is reported with the file and the line it is on, and all of them at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from airfreight.errors import RequestError
from airfreight.patterns import Patterns
from airfreight.rendering import check_name
from airfreight.serving import Serving, problem_sentence
from airfreight.shipped import shipped
from airfreight.source import DEFAULT_REVISION, HubModel, parse_source

CATALOG = shipped("models.yaml")


class CatalogModel(BaseModel):
    """One model of the catalog."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Name of the InferenceService.", examples=["pong"])
    source: str = Field(description="Where the model comes from.", examples=["hf://acme/pong"])
    revision: str = Field(default=DEFAULT_REVISION, description="A branch, a tag or a commit of the source.")
    destination: Literal["s3", "oci", "both"] = Field(
        default="s3", description="How the model is published: in a bucket, as an image, or both."
    )
    builder: Literal["stream", "buildah"] = Field(default="stream", description="Who makes the image.")
    delivery: Literal["s3", "oci", "oci+native"] | None = Field(
        default=None, description="How its pod gets the model; absent: what the cluster can do best."
    )
    allow_patterns: list[str] = Field(
        default_factory=list, description="Wildcards of the files to take; none: all.", examples=[["*.safetensors"]]
    )
    ignore_patterns: list[str] = Field(
        default_factory=list, description="Wildcards of files to leave out.", examples=[["original/"]]
    )
    serving: Serving = Field(default_factory=Serving, description="How the model is served.")

    @field_validator("name")
    @classmethod
    def _name_fits(cls, value: str) -> str:
        try:
            check_name(value)
        except RequestError as error:
            raise ValueError(error.message) from None
        return value

    @field_validator("source")
    @classmethod
    def _source_parses(cls, value: str) -> str:
        if "@" in value:
            raise ValueError("The revision has a field of its own; write it there.")
        try:
            parse_source(value)
        except RequestError as error:
            raise ValueError(error.message) from None
        return value

    @field_validator("allow_patterns", "ignore_patterns")
    @classmethod
    def _patterns_parse(cls, value: list[str]) -> list[str]:
        try:
            return list(Patterns.of(value).allow)
        except RequestError as error:
            raise ValueError(error.message.partition(": ")[2]) from None

    @model_validator(mode="after")
    def _revision_parses(self) -> CatalogModel:
        try:
            parse_source(f"{self.source}@{self.revision}")
        except RequestError as error:
            raise ValueError(error.message) from None
        return self

    @model_validator(mode="after")
    def _published_as_it_is_delivered(self) -> CatalogModel:
        if self.builder == "buildah" and self.destination == "s3":
            raise ValueError("builder: buildah makes an image, and destination is s3; write oci or both there.")
        if self.delivery in ("oci", "oci+native") and self.destination == "s3":
            raise ValueError(
                f"delivery: {self.delivery} needs an image, and destination is s3; write oci or both there."
            )
        if self.delivery == "s3" and self.destination == "oci":
            raise ValueError("delivery: s3 needs the bucket, and destination is oci; write s3 or both there.")
        return self

    @property
    def hub_model(self) -> HubModel:
        """The source with its revision."""
        return parse_source(f"{self.source}@{self.revision}")

    @property
    def patterns(self) -> Patterns:
        """Which files of it are wanted."""
        return Patterns.of(self.allow_patterns, self.ignore_patterns)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, and what to change. `line` counts from 1."""

    file: str
    line: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.sentence}"


class CatalogError(RequestError):
    """The catalog is wrong. `problems` has all of them; the message has the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")
        self.problems = list(problems)


def load(path: Path) -> list[CatalogModel]:
    """Read a catalog file.

    Raises:
        CatalogError: anything in it is wrong.
        RequestError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"The catalog {path} cannot be read ({error.strerror}); name another with --file.") from None
    except UnicodeDecodeError:
        raise RequestError(f"The catalog {path} is no UTF-8; save it as that.") from None
    return parse(text, str(path))


def parse(text: str, file: str) -> list[CatalogModel]:
    """Read a catalog from text. `file` is its name for the reports.

    Raises:
        CatalogError: anything in it is wrong.
    """
    node, problems = _compose(text, file)
    if problems:
        raise CatalogError(problems)
    entries = _entries(node, file)
    models: list[CatalogModel] = []
    lines: dict[str, int] = {}
    for entry in entries:
        try:
            model = CatalogModel.model_validate(_plain(entry))
        except ValidationError as error:
            problems += [_problem(entry, one, file) for one in error.errors(include_url=False)]
            continue
        line = _line(_at(entry, ("name",)))
        if model.name in lines:
            sentence = f"name: {model.name} is on line {lines[model.name]} already; give this model another name."
            problems.append(Problem(file, line, sentence))
        lines.setdefault(model.name, line)
        models.append(model)
    if problems:
        raise CatalogError(problems)
    return models


def _compose(text: str, file: str) -> tuple[yaml.Node | None, list[Problem]]:
    """Parse YAML into nodes, which know their lines; keys written twice are problems (YAML would keep the last)."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return None, [Problem(file, line, f"This is no YAML: {error.problem or error.context}; correct it.")]
    except yaml.YAMLError as error:
        return None, [Problem(file, 1, f"This is no YAML: {' '.join(str(error).split())}; correct it.")]
    return node, list(_repeated_keys(node, file))


def _repeated_keys(node: yaml.Node | None, file: str) -> list[Problem]:
    problems: list[Problem] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                problems.append(Problem(file, _line(key), f"{key.value} is written twice here; keep one."))
            seen.add(str(key.value))
            problems += _repeated_keys(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            problems += _repeated_keys(value, file)
    return problems


def _entries(node: yaml.Node | None, file: str) -> list[yaml.Node]:
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise CatalogError([Problem(file, _line(node), "A catalog begins with models: and a list of models.")])
    problems = [
        Problem(file, _line(key), f"{key.value}: there is no such field; a catalog has models.")
        for key, _ in node.value
        if key.value != "models"
    ]
    if problems:
        raise CatalogError(problems)
    models = _at(node, ("models",))
    if isinstance(models, yaml.SequenceNode):
        return list(models.value)
    if isinstance(models, yaml.ScalarNode) and models.value in ("", "null", "~"):
        return []
    raise CatalogError([Problem(file, _line(models), "models: this is no list; begin each model with a dash.")])


def _problem(entry: yaml.Node, error: Any, file: str) -> Problem:
    known = list(Serving.model_fields) if "serving" in error["loc"] else list(CatalogModel.model_fields)
    return Problem(file, _line(_at(entry, error["loc"])), problem_sentence(error, known))


def _at(node: yaml.Node, path: Sequence[str | int]) -> yaml.Node:
    """Follow a path into the nodes as far as it goes."""
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == part), None)
            if found is None:
                return node
            node = found
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return node
    return node


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _plain(node: yaml.Node) -> Any:
    # `construct_document` is what `yaml.safe_load` does with a composed node.
    return yaml.SafeLoader("").construct_document(node)
