"""The tasks that end a delivery: the egress gate, what makes a release live, and what puts back the one before.

    deploy ─▶ wait_until_ready ─▶ validate ─▶ prove_egress ─▶ promote ─▶ report
       └──────────────┴──────────────┴─────────────┴─────────────┴─ one failed ─▶ roll_back

`promote` and `roll_back` never run both. A run that is rolled back is red: `report` does not run then, and the sentence
of the task that failed is the run's; the report of such a run is written beside the rejected release by `roll_back`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from airfreight.errors import RequestError
from airfreight.gates import startup_gate
from airfreight_airflow import failures
from airfreight_airflow.operators import AirfreightPodOperator
from airfreight_airflow.reports import decoded, in_order
from airfreight_airflow.settings import read_settings
from airfreight_airflow.windows_assets import PROMOTIONS, announce

if TYPE_CHECKING:
    from airflow.sdk import Context

DEPLOY, READY, VALIDATE = "deploy", "wait_until_ready", "validate"
PROVE, PROMOTE = "prove_egress", "promote"
GATED = (DEPLOY, READY, VALIDATE, PROVE, PROMOTE)
"""Tasks after whose failure what was live is put back."""
_NOT_BEGUN = ("upstream_failed", "skipped")


class AnnouncingOperator(AirfreightPodOperator):
    """Run a command that makes a release live; then tell it, as an event on the model's asset (`windows_assets.py`).

    Delivering again what is live already is no event.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(outlets=[PROMOTIONS], **kwargs)

    def execute(self, context: Context) -> Any:
        """Run the pod, leave its result, tell it."""
        result: dict[str, Any] = super().execute(context)
        if extra := promotion(result):
            announce(context, str(result["name"]), extra)
        return result


class PromoteOperator(AnnouncingOperator):
    """Run `airfreight promote`; refuse where the run's gates have not passed.

    Airflow's rule "none failed", which the skipped egress gate needs, also lets it begin where `validate` was skipped:
    in a run that was ended and of which a later task was cleared alone.
    """

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render as always, after a look at the gates."""
        with self._ending(context):
            states = _states(context["ti"])
            wanted = (VALIDATE, PROVE) if read_settings().walled else (VALIDATE,)
            for task_id in wanted:
                if (state := str(states.get(task_id))) != "success":
                    raise RequestError(
                        f"{task_id} of this run is {state}, so its gates have not passed and its release is not made "
                        "live: clear deploy and what follows it."
                    )
        super().render_template_fields(context, jinja_env)


class ProveEgressOperator(AirfreightPodOperator):
    """Run `airfreight egress`; without a pod of its own where the site does not want it.

    Such a run has skipped it already; a person who clears `deploy` and what follows it clears that too.
    """

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render as always, or skip."""
        with self._ending(context):
            walled = read_settings().walled
        if not walled:
            raise AirflowSkipException("This site does not want the egress gate: `egress` of its settings is off.")
        super().render_template_fields(context, jinja_env)


class RollBackOperator(AirfreightPodOperator):
    """Run `airfreight roll-back`; without a pod of its own where the run never came as far as to deploy.

    Airflow's rule "one failed" also counts tasks that never ran because something before them failed.
    """

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render as always, or skip: fields of a request that was refused cannot even be rendered."""
        if str(_states(context["ti"]).get(DEPLOY)) in _NOT_BEGUN:
            raise AirflowSkipException("This run deployed nothing, so there is nothing to put back.")
        super().render_template_fields(context, jinja_env)


class GateMacros:
    """Given to a DAG as `user_defined_macros={"gates": GateMacros}`: what its tasks tell the ledger."""

    @staticmethod
    def trigger(dag_run: Any) -> str:
        """Who started the run, as JSON."""
        kind = getattr(dag_run, "run_type", None)
        trigger = {
            "run_id": dag_run.run_id,
            "run_type": str(getattr(kind, "value", kind) or ""),
            "user": str(getattr(dag_run, "triggering_user_name", None) or ""),
        }
        return json.dumps({"trigger": trigger}, sort_keys=True)

    @staticmethod
    def ready(ti: Any) -> str:
        """What the wait for the release saw of its pod, as JSON."""
        return json.dumps(decoded(ti.xcom_pull(task_ids=READY)), sort_keys=True)

    @staticmethod
    def judged(ti: Any) -> str:
        """The gates as far as they were judged, what was measured and how long each step took, as JSON."""
        states = _states(ti)
        said, proven = _left(ti, states, VALIDATE), _left(ti, states, PROVE)
        gates = [*(said.get("gates") or ()), *([proven["gate"]] if proven else ())]
        if str(states.get(READY)) == "failed":
            gates = [startup_gate(GateMacros.cause(ti)).result()]
        measured = {key: said.get(key) for key in ("ttft_s", "tokens_per_s")}
        evidence = {
            "gates": gates,
            "measured": measured,
            "seconds": in_order(ti.get_task_breadcrumbs(ti.dag_id, ti.run_id)),
        }
        return json.dumps(evidence, sort_keys=True, ensure_ascii=False)

    @staticmethod
    def cause(ti: Any) -> str:
        """The sentence of the task that failed."""
        states = _states(ti)
        task_id = next((one for one in GATED if str(states.get(one)) == "failed"), "")
        if not task_id:
            return ""
        failure: Mapping[str, Any] = ti.xcom_pull(task_ids=task_id, key=failures.FAILURE_KEY) or {}
        return str(failure.get("message") or f"Task {task_id} was ended without a word; look at its log.")


def promotion(result: Mapping[str, Any]) -> dict[str, str | None]:
    """What the asset's event says of a promotion; nothing when what is live was live before.

    Args:
        result: of `airfreight promote`, or of `airfreight roll-back --to`.
    """
    if result["release"] == result.get("over"):
        return {}
    artifact = str(result["artifact"])
    digest = result.get("manifest_sha256") or artifact.partition("@")[2]
    commit = str(result["source"]).partition("@")[2]
    return {"commit": commit, "digest": digest, "release": result["release"], "artifact": artifact}


def _states(ti: Any) -> Mapping[str, Any]:
    found = ti.get_task_states(dag_id=ti.dag_id, task_ids=list(GATED), run_ids=[ti.run_id])
    states: Mapping[str, Any] = found.get(ti.run_id, {})
    return states


def _left(ti: Any, states: Mapping[str, Any], task_id: str) -> Mapping[str, Any]:
    """The result of a task, also of one whose gate failed; of one that never ran Airflow would log that it has none."""
    state, found = str(states.get(task_id)), None
    if state == "success":
        found = ti.xcom_pull(task_ids=task_id)
    elif state == "failed":
        found = (ti.xcom_pull(task_ids=task_id, key=failures.FAILURE_KEY) or {}).get("result")
    left: Mapping[str, Any] = found or {}
    return left
