"""Fields of the form of `deliver_model`: what a release must show before it is live, and how its target is treated."""

from __future__ import annotations

from airflow.sdk import Param

from airfreight_airflow.form_fields import choice, lines
from airfreight_airflow.gate_requests import IF_BUSY

_VALIDATION, _SERVING = "Validation", "Serving"


def gate_params() -> dict[str, Param]:
    """Section "Validation": what the model is asked, and what its answers must be like."""
    return {
        "question": _text(
            "Question", "Asked through the service once it is ready; the answer stands in the report.", "ping", 2000
        ),
        "max_ttft": _number("Time to first token, s", "At most; the best of three tries counts. Empty: any."),
        "min_tokens_per_s": _number("Tokens per second", "At least, after the first one. Empty: any."),
        "prompts": lines(
            "Expected answers",
            "One per line: a question => a regular expression that is found in its answer, as 2+2? => 4",
            section=_VALIDATION,
        ),
        "gateway_url": _text(
            "Gateway", "The way users come, asked too, as https://10.1.2.3. Empty: only the service is asked."
        ),
        "gateway_host": _text("Host at the gateway", "Host header, and name in the gateway's certificate."),
    }


def target_params() -> dict[str, Param]:
    """Section "Serving": what to do about a target that is busy, was edited, or whose first release fails."""
    return {
        "if_busy": choice(
            "While another run is at this model",
            "wait: for its end. refuse: fail at once, with its name.",
            IF_BUSY,
            "wait",
            section=_SERVING,
        ),
        "keep_failed": _switch(
            "Keep a first release that failed",
            "On: its InferenceService is kept, stopped, to be looked at. Off: it is removed. What was live before is "
            "put back in any case.",
        ),
        "take_over": _switch(
            "Overwrite manual edits",
            "On: fields of the InferenceService that somebody edited by hand become what this request says. Off: such "
            "a conflict is refused with the editor's name.",
        ),
    }


def _text(title: str, description: str, default: str = "", length: int = 300) -> Param:
    return Param(
        default,
        type=["null", "string"],
        maxLength=length,
        section=_VALIDATION,
        title=title,
        description=description,
    )


def _number(title: str, description: str) -> Param:
    return Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        section=_VALIDATION,
        title=title,
        description=description,
    )


def _switch(title: str, description: str) -> Param:
    return Param(False, type=["null", "boolean"], section=_SERVING, title=title, description=description)
