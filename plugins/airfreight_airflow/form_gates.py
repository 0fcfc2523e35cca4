"""Fields of the form of `deliver_model`: what a release must show before it is live, and how its target is treated.

The first are the schema of `GateWishes`, which the catalog's `validation:` block has too.
"""

from __future__ import annotations

from airflow.sdk import Param

from airfreight.gate_wishes import GateWishes
from airfreight_airflow.form_fields import choice, from_model
from airfreight_airflow.gate_requests import IF_BUSY

_SERVING = "Serving"


def gate_params() -> dict[str, Param]:
    """Section "Validation": what the model is asked, and what its answers must be like."""
    return from_model(GateWishes, "Validation")


def target_params() -> dict[str, Param]:
    """Section "Serving": what to do about a target that is busy, was edited, or whose first release fails."""
    return {
        "if_busy": choice(
            "While another run is at this model",
            "wait: for its end, at most an hour. refuse: fail at once, with its name.",
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


def _switch(title: str, description: str) -> Param:
    return Param(False, type=["null", "boolean"], section=_SERVING, title=title, description=description)
