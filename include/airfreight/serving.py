"""How a model is served: one schema for the trigger form, the REST body and the catalog's `serving:` block.

    runtime: airfreight-vllm-cpu-1a2b3c4d5e6f   # a ServingRuntime in the target namespace; absent: the site's default
    gpus: 1
    cpu: "4"
    memory: 24Gi
    server_args: ["--max-model-len=8192"]
    env: ["VLLM_LOGGING_LEVEL=DEBUG"]
    node_selector: ["nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3"]
    tolerations: ["nvidia.com/gpu=present:NoSchedule"]

Everything is a scalar or a list of lines, because that is what a form can show; `rendering.py` turns the lines into
Kubernetes objects. This module is imported while DAG files are parsed: it needs pydantic and nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from airfreight.errors import RequestError

# apimachinery resource.Quantity; exponents such as 1e3 exist there and are left out here, nobody writes them.
_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)(?P<suffix>m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
_SUFFIXES = {
    "m": Decimal("0.001"), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
Block = TypeVar("Block", bound=BaseModel)
TAINT_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

_REFUSED_ENV = {
    # KServe's admission refuses it (pkg/validation/env_policy.go, DefaultBlockedEnvVars).
    "PYTHONPATH": "KServe refuses it; install what the server needs into the runtime's image",
    "STORAGE_URI": "Airfreight sets the storage URI from the artifact",
    "MODEL_INIT_MODE": "KServe sets it from the artifact",
    "HF_HUB_OFFLINE": "a served model never reaches for the hub",
    "TRANSFORMERS_OFFLINE": "a served model never reaches for the hub",
}
_SECRET_NAME = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|CREDENTIALS?|API_KEY|ACCESS_KEY|SECRET_KEY)(_ID)?$", re.I)
_REFUSED_ARGS = {
    "--model": "the runtime points it at /mnt/models",
    "--served-model-name": "Airfreight sets it from the served name",
    "--host": "the runtime listens where KServe expects it",
    "--port": "the runtime listens where KServe expects it",
    "--api-key": "a secret does not belong into an InferenceService",
    # vLLM puts the file's lines among the arguments, where nobody looks at them.
    "--config": "arguments from a file cannot be checked; write them here",
}
# Arguments that make vLLM run a Python file or class of somebody's choosing: vllm serve, 0.32. They also come as a part
# of another one (--structured-outputs-config.reasoning_parser_plugin=..., or JSON), so they are looked for everywhere.
_CODE_ARGS = (
    "trust-remote-code", "tool-parser-plugin", "reasoning-parser-plugin", "io-processor-plugin", "logits-processors",
    "middleware", "worker-cls", "worker-extension-cls", "scheduler-cls", "model-class-overrides", "module-path",
    "log-config-file", "logging-config", "custom-class",
)  # fmt: skip
_CODE_ENV = frozenset(
    {"LD_PRELOAD", "LD_AUDIT", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP", "VLLM_LOGGING_CONFIG_PATH",
     "VLLM_ALLOW_INSECURE_SERIALIZATION"}
)  # fmt: skip
# What pydantic says of these speaks of Python's types; the keys are its own words for them.
_TEXT, _LIST = "is no text; put it in quotes.", "is no list; write it in brackets, or each value on a line of its own."
_WHOLE, _NUMBER = "is no whole number; write one like 1, without quotes.", "is no number; write one like 2.5."
_WANTED = {
    "string_type": _TEXT, "string_unicode": _TEXT,
    "list_type": _LIST, "tuple_type": _LIST,
    "int_type": _WHOLE, "int_parsing": _WHOLE, "int_from_float": _WHOLE, "int_parsing_size": _WHOLE,
    "float_type": _NUMBER, "float_parsing": _NUMBER, "finite_number": _NUMBER,
}  # fmt: skip
_SHOWN = 80  # characters of a value in a sentence
# Arguments that are a beginning of one above, and are meant.
_WHOLE_ARGS = frozenset({"--reasoning-parser"})


@dataclass(frozen=True)
class Toleration:
    """One line of `tolerations`; `value` is None when any value of the taint is tolerated."""

    key: str
    value: str | None
    effect: str


def quantity(text: str) -> Decimal:
    """Return a Kubernetes quantity as a number: cores for `cpu`, bytes for `memory`.

    Raises:
        ValueError: it is no quantity, or not above zero; the message is one sentence.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no Kubernetes quantity; write it like "2", "500m" or "6Gi".')
    value = Decimal(match["number"]) * _SUFFIXES.get(match["suffix"] or "", Decimal(1))
    if value <= 0:
        raise ValueError(f'"{text}" is nothing; ask for more than zero.')
    return value


def is_object_name(text: str) -> bool:
    """Whether Kubernetes takes this as the name of a ServingRuntime or a Secret."""
    return _OBJECT_NAME.fullmatch(text) is not None


def parse_env(line: str) -> tuple[str, str]:
    """Split "NAME=value" into name and value; the value may be empty and may hold "=".

    Raises:
        ValueError: no "=", a name no shell would take, or a name that is not the user's to set; one sentence.
    """
    name, separator, value = line.partition("=")
    if not separator or not _ENV_NAME.fullmatch(name):
        raise ValueError(f'"{name or line}" is no environment variable; write it as NAME=value.')
    if name in _REFUSED_ENV:
        raise ValueError(f"{name} may not be set: {_REFUSED_ENV[name]}.")
    if name in _CODE_ENV:
        raise ValueError(f"{name} may not be set: it can load code into the server; build it into the runtime's image.")
    if _SECRET_NAME.search(name):
        raise ValueError(f"{name} looks like a secret, and everybody may read an InferenceService; leave it out.")
    _check_no_template(line)
    return name, value


def parse_node_selector(line: str) -> tuple[str, str]:
    """Split "key=value" into a node label and its value.

    Raises:
        ValueError: it is no node label; one sentence.
    """
    key, separator, value = line.partition("=")
    if not separator or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
        raise ValueError(f'"{line}" is no node label; write it as key=value, like kubernetes.io/arch=amd64.')
    return key, value


def parse_toleration(line: str) -> Toleration:
    """Read one toleration in the notation of `kubectl taint`: "key=value:Effect", or "key:Effect" for any value.

    Raises:
        ValueError: it is no taint, or its effect does not exist; one sentence.
    """
    taint, separator, effect = line.rpartition(":")
    key, equals, value = taint.partition("=")
    if not separator or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
        raise ValueError(f'"{line}" is no taint; write it as key=value:NoSchedule.')
    if effect not in TAINT_EFFECTS:
        raise ValueError(f'"{line}" has the effect "{effect}"; Kubernetes knows {", ".join(TAINT_EFFECTS)}.')
    return Toleration(key, value if equals else None, effect)


def check_server_arg(line: str) -> str:
    """Return one argument of the model server unless it is one that Airfreight or the runtime sets.

    Raises:
        ValueError: the argument is empty or not the user's to set; one sentence.
    """
    if not line:
        raise ValueError("A server argument is empty; remove the line.")
    # vLLM takes --served_model_name as well (FlexibleArgumentParser).
    flag = line.partition("=")[0].replace("_", "-")
    if flag in _REFUSED_ARGS:
        raise ValueError(f"{flag} may not be set: {_REFUSED_ARGS[flag]}.")
    if code := _code_arg(line, flag):
        raise ValueError(
            f"--{code} may not be set: it runs code that came with the model, or from elsewhere, in the server; choose "
            "a model the server knows by itself, or build the code into the runtime's image."
        )
    _check_no_template(line)
    return line


def _code_arg(line: str, flag: str) -> str | None:
    """Return the argument with which this line would load code, or None. argparse takes a beginning for the whole."""
    text = line.replace("_", "-")
    for name in _CODE_ARGS:
        begun = len(flag) > 4 and f"--{name}".startswith(flag) and flag not in _WHOLE_ARGS
        if begun or (text.startswith(("-", "{")) and name in text):
            return name
    return None


def _check_no_template(line: str) -> None:
    # KServe runs the whole container through Go's text/template (ReplacePlaceholders), a chat template in it too.
    if "{{" in line:
        raise ValueError(f'"{line}" holds "{{{{", which KServe would read as its own template; put it into a file.')


class Serving(BaseModel):
    """How one model is served. Build it from user input with `parse_serving`, which answers with one sentence."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    runtime: str | None = Field(
        default=None,
        title="Serving runtime",
        description="Name of an Airfreight ServingRuntime in the target namespace. Empty: the site's default.",
        examples=["airfreight-vllm-gpu-0a1b2c3d4e5f"],
    )
    gpus: int = Field(
        default=0,
        ge=0,
        le=64,
        title="GPUs",
        description="Whole NVIDIA GPUs for the model server's pod. 0 serves on the CPU.",
        examples=[0, 1],
    )
    cpu: str = Field(
        default="2",
        title="CPU limit",
        description="Cores the model server may use, as a Kubernetes quantity.",
        examples=["2", "500m"],
    )
    memory: str = Field(
        default="6Gi",
        title="Memory limit",
        description="Main memory the model server may use, as a Kubernetes quantity.",
        examples=["6Gi", "64Gi"],
    )
    server_args: list[str] = Field(
        default_factory=list,
        title="Model server arguments",
        description="One argument per line, added after the runtime's own.",
        examples=[["--max-model-len=8192", "--gpu-memory-utilization=0.92"]],
    )
    env: list[str] = Field(
        default_factory=list,
        title="Environment",
        description="One NAME=value per line. No secrets: the values are readable in the cluster.",
        examples=[["VLLM_LOGGING_LEVEL=DEBUG"]],
    )
    node_selector: list[str] = Field(
        default_factory=list,
        title="Node selector",
        description="One key=value per line: labels the node must have.",
        examples=[["nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3"]],
    )
    tolerations: list[str] = Field(
        default_factory=list,
        title="Tolerations",
        description="One taint per line, as kubectl writes it: key=value:NoSchedule, or key:NoSchedule for any value.",
        examples=[["nvidia.com/gpu=present:NoSchedule"]],
    )

    @field_validator("runtime", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        # A form sends an empty text box as "".
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("runtime")
    @classmethod
    def _runtime_is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not is_object_name(value):
            raise ValueError(f'"{value}" is no name of a ServingRuntime; write small letters, digits and "-".')
        return value

    @field_validator("cpu", "memory")
    @classmethod
    def _is_quantity(cls, value: str) -> str:
        quantity(value)
        return value

    @field_validator("memory")
    @classmethod
    def _is_enough_memory(cls, value: str) -> str:
        if quantity(value) < 2**20:
            raise ValueError(f'"{value}" is less than one MiB of memory; did you mean "{value.rstrip("m")}Gi"?')
        return value

    @field_validator("server_args")
    @classmethod
    def _args_are_ours_to_pass(cls, value: list[str]) -> list[str]:
        return [check_server_arg(line) for line in value]

    @field_validator("env")
    @classmethod
    def _env_parses(cls, value: list[str]) -> list[str]:
        return _unique(value, lambda line: parse_env(line)[0])

    @field_validator("node_selector")
    @classmethod
    def _node_selector_parses(cls, value: list[str]) -> list[str]:
        return _unique(value, lambda line: parse_node_selector(line)[0])

    @field_validator("tolerations")
    @classmethod
    def _tolerations_parse(cls, value: list[str]) -> list[str]:
        for line in value:
            parse_toleration(line)
        return value


def parse_serving(values: Mapping[str, Any]) -> Serving:
    """Build a `Serving` from what a person wrote.

    Raises:
        RequestError: a field is unknown (the nearest right name is given) or its value is wrong. One sentence, the
            first problem only: "serving: " then the field, then what is wrong and what to write.
    """
    return parse_block("serving", Serving, values)


def parse_block(name: str, model: type[Block], values: Mapping[str, Any]) -> Block:
    """Build a block of the form, the REST body and the catalog from what a person wrote.

    Args:
        name: of the block, with which the sentence begins.
    Raises:
        RequestError: as for `parse_serving`.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestError(f"{name}: {problem_sentence(first, list(model.model_fields))}") from None


def problem_sentence(problem: ErrorDetails, known: list[str]) -> str:
    """Say one problem that pydantic found in one sentence that starts with the field's name.

    Args:
        known: the names a key may have, for "did you mean".
    """
    field = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
    start = f"{field}: " if field else ""
    if problem["type"] == "extra_forbidden":
        return f"{start}there is no such field{nearest(field.rpartition('.')[2], known)}"
    if problem["type"] == "missing":
        return f"{start}this field is required; add it."
    if problem["type"] == "value_error":
        return f"{start}{problem['ctx']['error']}"
    if problem["type"] == "string_too_long":
        return f"{start}this is longer than {problem['ctx']['max_length']} characters; shorten it."
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{start}this is no block of fields; write each as a name, a colon and a value."
    if problem["input"] is None:
        return f"{start}this is empty; write a value, or leave the field out."
    if words := _WANTED.get(problem["type"]):
        return f"{start}{_shown(problem['input'])} {words}"
    message = problem["msg"].removeprefix("Input ").rstrip(".")
    return f"{start}{_shown(problem['input'])} {message}."


def nearest(word: str, known: list[str]) -> str:
    """Return the end of a sentence: `; did you mean "x"?` when a known word is close, else the list of known words."""
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; there are {', '.join(known)}." if known else "."


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # of a number of thousands of digits Python makes no text
        return "this"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _unique(lines: list[str], key: Callable[[str], str]) -> list[str]:
    seen: set[str] = set()
    for line in lines:
        name = key(line)
        if name in seen:
            raise ValueError(f"{name} is set twice; keep one line.")
        seen.add(name)
    return lines
