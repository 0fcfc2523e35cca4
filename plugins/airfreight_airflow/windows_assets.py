"""The asset of a model: an event on it says that another release became live, so that other DAGs can schedule on it.

    with DAG("evaluate_pong", schedule=[Asset(name="airfreight_pong", uri="airfreight://models/pong")]): ...

The event's extra: {"commit": "3b1f…", "digest": "71d0…", "release": "9f2c41ab6c1b", "artifact": "s3://…/"}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, AssetAlias

PROMOTIONS = AssetAlias("airfreight_promotions")
"""What the task that promotes has as its outlet: which model's asset it is, only the run knows."""


def model_asset(name: str) -> Asset:
    """The asset of a model; `name` is that of its InferenceService, and of its entry in the catalog."""
    return Asset(name=f"airfreight_{name}", uri=f"airfreight://models/{name}", group="airfreight")


def announce(context: Any, name: str, extra: Mapping[str, Any]) -> None:
    """Emit the event of a promotion, when the task that calls it succeeds.

    Args:
        context: Airflow's, of a task with `PROMOTIONS` among its outlets.
        extra: commit, digest, release, artifact.
    """
    context["outlet_events"][PROMOTIONS].add(model_asset(name), extra=dict(extra))
