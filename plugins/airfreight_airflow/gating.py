"""What the DAGs share that make releases live: who their pods are, what a run is called, who is told of its end.

A site names a function in `notifier` of section [airfreight], as `module:function`. It is called at the end of every
run of these DAGs with one dictionary, by the dag processor, whose configuration must name it therefore; whatever it
raises is only logged there:

    {"dag_id": "deliver_model", "run_id": "manual__…", "state": "failed", "reason": "…", "conf": {"model": "acme/pong"}}
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from airfreight.errors import RequestError
from airfreight_airflow.operators import Role
from airfreight_airflow.settings import read_settings

log = logging.getLogger(__name__)

RELEASER = Role("airfreight-deployer", kubernetes=True, store=True)
"""The deployer with the store's keys: the ledger lies there."""


def run_name(dag_run: Any) -> str:
    """The run as the ledger knows it: the same for each of its tasks and their retries, and no other run's."""
    return f"{dag_run.dag_id}/{dag_run.run_id}"


def notice(context: Mapping[str, Any], state: str) -> dict[str, Any]:
    """What a notifier is told. It holds no secret: conf has names of Secrets alone."""
    run = context.get("dag_run")
    return {
        "dag_id": str(getattr(run, "dag_id", "") or context.get("dag_id", "")),
        "run_id": str(getattr(run, "run_id", "") or context.get("run_id", "")),
        "state": state,
        "reason": str(context.get("reason") or context.get("exception") or ""),
        "conf": dict(getattr(run, "conf", None) or {}),
    }


def announce_end(context: Mapping[str, Any]) -> None:
    """Callback of a DAG: its run succeeded."""
    _announce(notice(context, "success"))


def announce_failure(context: Mapping[str, Any]) -> None:
    """Callback of a DAG: its run failed, or its time was up."""
    _announce(notice(context, "failed"))


def notifier(path: str) -> Callable[[dict[str, Any]], object]:
    """The function that a site names.

    Raises:
        RequestError: there is no such function.
    """
    module, separator, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if separator and name else None
    except (ImportError, AttributeError, ValueError) as error:
        raise RequestError(_unusable(path, str(error))) from None
    if not callable(found):
        raise RequestError(_unusable(path, "it names no function"))
    function: Callable[[dict[str, Any]], object] = found
    return function


def _announce(told: dict[str, Any]) -> None:
    path = read_settings().notifier
    if not path:
        return
    try:
        notifier(path)(told)
    except RequestError as error:
        log.error("%s", error)
    except Exception:
        # The run is over, and its end does not depend on who could be told of it.
        log.exception("The notifier %s failed", path)


def _unusable(path: str, why: str) -> str:
    return (
        f"`notifier` in section [airfreight] of Airflow's configuration: {path!r} cannot be used ({why}): write it as "
        "module:function, and put the module where Airflow's plugins are."
    )
