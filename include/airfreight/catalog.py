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
        hub_secret: acme-hub        # a Secret (key: token) where the workers run, for gated models; absent: the site's
        serving:                    # the fields of the trigger form's "Serving" section
          gpus: 1
          memory: 24Gi
        validation:                 # the fields of its "Validation" section, see `airfreight.gate_wishes`
          max_ttft: 2
          prompts: ["2+2? => 4"]
        hours: {open: "08:00", close: "18:00", days: mon-fri, timezone: Europe/Berlin}    # see `airfreight.hours`
        idle_after: 30m             # stopped when nobody asked for so long; absent: not for that
        warmup: measured            # how long before an opening it is started; see `airfreight.warmup`
        refresh: daily              # look whether the branch moved, and deliver what is new; absent: never

Every problem is reported with the file and the line it is on, and all of them at once. `survey` lets what is right
through all the same: an entry that is wrong takes down only itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from airfreight.catalog_nodes import Fault, Tree, at, compose, faults, line_of, one_line, plain
from airfreight.durations import parse_duration
from airfreight.errors import RequestError
from airfreight.gate_wishes import GateWishes
from airfreight.hours import Hours, always_open
from airfreight.patterns import Patterns
from airfreight.rendering import check_name
from airfreight.serving import Serving, is_object_name, problem_sentence
from airfreight.shipped import shipped
from airfreight.source import DEFAULT_REVISION, HubModel, parse_source
from airfreight.warmup import MEASURED, check_warmup

CATALOG = Path(os.environ.get("AIRFREIGHT_CATALOG") or shipped("models.yaml"))
"""The site's catalog: the file that AIRFREIGHT_CATALOG names, or else the one in this repository."""


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
    hub_secret: str | None = Field(
        default=None, description="Secret with the hub token, for gated models; absent: the site's."
    )
    serving: Serving = Field(default_factory=Serving, description="How the model is served.")
    validation: GateWishes = Field(
        default_factory=GateWishes, description="What a new release must show before it is live."
    )
    hours: tuple[Hours, ...] = Field(default=(), description="When it is served; one range, or a list of ranges.")
    idle_after: str | None = Field(default=None, description="Stopped when nobody asked for so long.", examples=["30m"])
    warmup: str = Field(
        default=MEASURED, description='Time before an opening at which it is started, such as "10m"; or "measured".'
    )
    refresh: Literal["daily", "never"] = Field(
        default="never", description="Whether a branch is looked at, and what is new on it delivered."
    )

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

    @field_validator("hub_secret", mode="before")
    @classmethod
    def _hub_secret_is_a_name(cls, value: object) -> object:
        # Whatever it is, it is not repeated: perhaps somebody wrote the token itself here.
        if value is not None and not (isinstance(value, str) and is_object_name(value)):
            raise ValueError(
                "this is no name of a Secret; put the token into a Secret of the workers' namespace, and with "
                "buildah of the builder's, key token, and write that Secret's name."
            )
        return value

    @field_validator("hours", mode="before")
    @classmethod
    def _one_range_is_a_list(cls, value: object) -> object:
        if not (value is None or isinstance(value, dict | list | tuple)):
            raise ValueError(
                "these are no hours; write open, close and timezone: "
                '{open: "08:00", close: "18:00", timezone: Europe/Berlin}.'
            )
        return () if value is None else [value] if isinstance(value, dict) else value

    @field_validator("hours")
    @classmethod
    def _hours_close(cls, value: tuple[Hours, ...]) -> tuple[Hours, ...]:
        if always_open(value):
            raise ValueError("these hours never close; leave them out, or leave an hour of the week free.")
        return value

    @field_validator("idle_after", mode="before")  # before: a number needs the same sentence as a wrong text
    @classmethod
    def _idle_after_parses(cls, value: object) -> object:
        if value is not None and parse_duration(value) < timedelta(minutes=1):
            raise ValueError(f'"{value}" is less than a minute, in which nobody can look twice; write "1m" or more.')
        return value

    @field_validator("warmup", mode="before")
    @classmethod
    def _warmup_parses(cls, value: object) -> object:
        return value if value is None else check_warmup(str(value))

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

    @property
    def has_windows(self) -> bool:
        """Whether it is started and stopped by a DAG of its own."""
        return bool(self.hours or self.idle_after)


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


@dataclass(frozen=True)
class Broken:
    """An entry that is wrong: its name, "" where it has none to go by, its line, and all that is wrong with it."""

    name: str
    line: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Survey:
    """What a catalog holds: the models that are right, and the entries that are not."""

    models: tuple[CatalogModel, ...]
    broken: tuple[Broken, ...]


def load(path: Path) -> list[CatalogModel]:
    """Read a catalog file.

    Raises:
        CatalogError: anything in it is wrong.
        RequestError: the file cannot be read.
    """
    return parse(_read(path), str(path))


def survey_file(path: Path) -> Survey:
    """Read a catalog file; what is wrong in it is in the result. A file that cannot be read is one broken entry."""
    try:
        return survey(_read(path), str(path))
    except RequestError as error:
        return Survey((), (Broken("", 1, (Problem(str(path), 1, error.message),)),))


def parse(text: str, file: str) -> list[CatalogModel]:
    """Read a catalog from text. `file` is its name for the reports.

    Raises:
        CatalogError: anything in it is wrong.
    """
    found = survey(text, file)
    problems = [problem for broken in found.broken for problem in broken.problems]
    if problems:
        raise CatalogError(problems)
    return list(found.models)


def survey(text: str, file: str) -> Survey:
    """Read a catalog from text, entry by entry; never raises. `file` is its name for the reports."""
    try:
        tree, entries = _entries(text, file)
    except CatalogError as error:
        return Survey((), (Broken("", error.problems[0].line, tuple(error.problems)),))
    models: list[CatalogModel] = []
    broken: list[Broken] = []
    lines: dict[str, int] = {}
    # All of them first: making the value of one changes nodes that others share with it.
    faulty = [[Problem(file, one.line, one.sentence) for one in faults(entry, tree.odd)] for entry in entries]
    for entry, wrong in zip(entries, faulty, strict=True):
        line = line_of(at(entry, ("name",)))
        found = wrong or _model(entry, file)
        if isinstance(found, CatalogModel) and found.name in lines:
            sentence = f"name: {found.name} is on line {lines[found.name]} already; give this model another name."
            found = [Problem(file, line, sentence)]
        if isinstance(found, CatalogModel):
            lines[found.name] = line
            models.append(found)
        else:
            broken.append(Broken(_name(entry), line, tuple(found)))
    return Survey(tuple(models), tuple(broken))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"The catalog {path} cannot be read ({error.strerror}); name another with --file.") from None
    except UnicodeDecodeError:
        raise RequestError(f"The catalog {path} is no UTF-8; save it as that.") from None


def _model(entry: yaml.Node, file: str) -> CatalogModel | list[Problem]:
    try:
        return CatalogModel.model_validate(plain(entry))
    except ValidationError as error:
        return [_problem(entry, one, file) for one in error.errors(include_url=False)]
    except Exception as error:  # noqa: BLE001 - whatever YAML makes of !!int x and the like: the others are not to blame
        said = one_line(str(getattr(error, "problem", None) or error)) or type(error).__name__
        return [Problem(file, line_of(entry), f"This entry cannot be read ({said}); correct it.")]


def _name(entry: yaml.Node) -> str:
    """Return the name a broken entry goes by, if it has one that could be a model's."""
    node = at(entry, ("name",))
    name = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
    try:
        check_name(name)
    except RequestError:
        return ""
    return name


def _entries(text: str, file: str) -> tuple[Tree, list[yaml.Node]]:
    tree = compose(text)
    if isinstance(tree, Fault):
        raise CatalogError([Problem(file, tree.line, one_line(tree.sentence))])
    node = tree.root
    if node is None:
        return tree, []
    if not isinstance(node, yaml.MappingNode):
        raise CatalogError([Problem(file, line_of(node), "A catalog begins with models: and a list of models.")])
    problems = list(_top_problems([key for key, _ in node.value], file))
    if problems:
        raise CatalogError(problems)
    models = at(node, ("models",))
    if models in tree.odd:
        raise CatalogError([Problem(file, line_of(models), f"models: {tree.odd[models]}")])
    if isinstance(models, yaml.SequenceNode):
        return tree, list(models.value)
    if isinstance(models, yaml.ScalarNode) and models.value in ("", "null", "~"):
        return tree, []
    raise CatalogError([Problem(file, line_of(models), "models: this is no list; begin each model with a dash.")])


def _top_problems(keys: Sequence[yaml.Node], file: str) -> Iterator[Problem]:
    first = next((key for key in keys if key.value == "models"), None)
    for key in keys:
        if key.value != "models":
            name = f"{one_line(key.value, 60)}: " if isinstance(key, yaml.ScalarNode) else ""
            yield Problem(file, line_of(key), f"{name}there is no such field; a catalog has models.")
        elif key is not first:
            yield Problem(file, line_of(key), "models is written twice here; keep one.")


def _problem(entry: yaml.Node, error: Any, file: str) -> Problem:
    blocks: dict[str, type[BaseModel]] = {"serving": Serving, "validation": GateWishes, "hours": Hours}
    known = list(blocks.get(str(error["loc"][0]) if error["loc"] else "", CatalogModel).model_fields)
    return Problem(file, line_of(at(entry, error["loc"])), one_line(problem_sentence(error, known), 500))
