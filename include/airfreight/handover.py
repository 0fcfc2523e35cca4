"""From one release of a model to the next, and back: carries out on cluster and ledger what `promotion` decides.

One run goes through these, each in a pod of its own, under the run's lock (`ledger`):

    register    take the lock, look at the target, ask the cluster for a dry run, write the candidate
    stage       apply the candidate as it is registered; a stopped model is started for its gates
    promote     make the candidate live; a model that was stopped is stopped again
    roll_back   put back what was live and wait until it answers; the candidate is rejected, with its cause

Each may be repeated: what is done already is found done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from airfreight.errors import AirfreightError, GateError, RequestError, TemporaryError
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Event, Found, Lock, Release, State, inherit
from airfreight.observation import is_stopped
from airfreight.promotion import (
    Cost,
    Plan,
    adopted,
    after_failure,
    carries,
    down_since,
    exposure,
    foreign_fields,
    outage_of_change,
    to_release,
)
from airfreight.release_report import as_markdown, build, changes_since, names
from airfreight.served_model import ServedModel
from airfreight.timings import pod_of, ready_facts, ready_since


@dataclass(frozen=True)
class Done:
    """What a step did: one sentence for the log, and the command's JSON result."""

    story: str
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Handover:
    """One run at one model.

    Attributes:
        run: the run's own name, the same for each of its steps and their retries.
    """

    model: ServedModel
    ledger: Ledger
    run: str

    # ---- register ------------------------------------------------------------------------------------------------

    def register(
        self, candidate: Release, former: Lock, evidence: Mapping[str, Any], *, take_over: bool = False
    ) -> Done:
        """Write a candidate into the ledger, after the cluster said that it would take it. The lock is ours already.

        Args:
            candidate: its `serving_runtime` is read from the cluster here.
            former: the lock as it was before we took it.
            evidence: what triggered the run; kept in the release's history.
            take_over: what was edited by hand may be overwritten.
        Raises:
            RequestError: the cluster refuses it, or somebody edited the InferenceService by hand. The lock is let go.
        """
        try:
            self.model.cluster.apply(candidate.inference_service, dry_run=True, take_over=take_over)
            service = self.model.service()
            self._settle_dead_run(former)
            live = self._known_live(service, candidate)
            found = inherit(former, _found(service, live))
            candidate = replace(candidate, serving_runtime=self.model.runtime(candidate.runtime))
            self.ledger.note(self.run, candidate.release, found)
            entry = self.ledger.register(candidate, Event(State.CANDIDATE, self.run, evidence=evidence))
        except AirfreightError as error:
            if not isinstance(error, TemporaryError):
                self.ledger.let_go(self.run)
            raise
        foreign = {} if service is None else foreign_fields(service)
        target = self.ledger.target
        result = {
            "release": candidate.release, "state": str(entry.state), "over": found.live, "existed": found.existed,
            "was_stopped": found.stopped, "foreign": foreign, "name": target.name, "namespace": target.namespace,
        }  # fmt: skip
        return Done(self._registered(candidate.release, entry.state, found, foreign), result)

    def _settle_dead_run(self, former: Lock) -> None:
        """Reject the candidate of a run that was killed before it came to an end."""
        if former.run and former.run != self.run and former.candidate:
            cause = f"Its run ({former.run}) ended before its gates did."
            self.ledger.reject(former.candidate, Event(State.REJECTED, self.run, cause=cause))

    def _known_live(self, service: Mapping[str, Any] | None, candidate: Release) -> str | None:
        """Return what is live; what is served and the ledger does not know becomes known first."""
        live = self.ledger.live()
        carried = carries(service)
        known = self.ledger.entry(carried) is not None if carried else live is not None
        if service is None or known:
            return live.release if live else None
        runtime = ((service.get("spec") or {}).get("predictor") or {}).get("model", {}).get("runtime") or ""
        found = candidate if carried == candidate.release else adopted(service, None)
        found = replace(found, serving_runtime=self.model.runtime(runtime))
        note = Event(State.CANDIDATE, self.run, cause="Found on the cluster, where the ledger did not know it.")
        self.ledger.register(found, note)
        self.ledger.promote(found.release, live.release if live else None, note)
        return found.release

    def _registered(self, release: str, state: State, found: Found, foreign: Mapping[str, list[str]]) -> str:
        if state is State.LIVE:
            what = "is live already: nothing restarts, and its gates are asked again"
        else:
            what = f"is a candidate over {found.live}" if found.live else "is the first one"
        asleep = " The model is stopped; it is started for its gates and stopped again." if found.stopped else ""
        edits = "; ".join(f"{manager} set {', '.join(paths)}" for manager, paths in foreign.items())
        kept = f" Not ours, and kept: {edits}." if edits else ""
        return f"Release {release} of {self.ledger.target} {what}.{asleep}{kept}"

    # ---- stage ---------------------------------------------------------------------------------------------------

    def stage(self, release: str, *, take_over: bool = False) -> Done:
        """Apply a registered candidate. Does not wait for it.

        Raises:
            RequestError: this run did not register it, the cluster refuses it, or somebody edited it by hand meanwhile.
        """
        lock = self.ledger.held_by(self.run)
        if lock.candidate != release:
            raise RequestError(
                f"The run {self.run} registered {lock.candidate or 'nothing'}, not {release}; register it first."
            )
        candidate = self.ledger.read(release)
        changed = self.model.put(candidate, take_over=take_over)
        service = self.model.service()
        woken = service is not None and is_stopped(service)
        if woken:
            # After the apply, so that what was there before does not start for a moment.
            self.model.resume()
        what = "applied" if changed else "there already, nothing changed"
        result = {
            "release": release, "name": self.ledger.target.name, "namespace": self.ledger.target.namespace,
            "runtime": candidate.runtime, "changed": changed, "woken": woken, "served_name": candidate.served_name,
        }  # fmt: skip
        started = " It was stopped, and is started for its gates." if woken else ""
        return Done(f"Release {release} of {self.ledger.target}: {what}.{started}", result)

    # ---- promote -------------------------------------------------------------------------------------------------

    def promote(self, release: str, evidence: Mapping[str, Any]) -> Done:
        """Make a candidate live whose gates have passed, and let the lock go.

        Raises:
            RequestError: the cluster serves something else by now, the lock was lost, or another run was faster.
        """
        found = self.ledger.held_by(self.run).found or Found()
        service = self.model.service()
        if service is None or carries(service) != release:
            raise RequestError(
                f"{self.ledger.target} carries release {carries(service) or '(none)'}, not {release}, which is not "
                "made live therefore; look at who changed it, and deliver the model again."
            )
        pods = self.model.pods()
        replaced = found.existed and found.live not in (None, release) and not found.stopped
        ready = ready_since(pod_of(pods, release) or {})
        cost = Cost(outage_s=outage_of_change(service, self.model.deployment(), ready) if replaced else 0.0)
        facts = ready_facts(pods, release)
        evidence = {**evidence, **facts, "cost": asdict(cost)}
        before = self.ledger.entry(found.live) if found.live else None
        changes = changes_since(evidence, before)
        evidence["changes"] = [change.result() for change in changes]
        live = self.ledger.promote(release, found.live, Event(State.LIVE, self.run, evidence=evidence))
        self._report(release, live.previous)
        if found.stopped:
            self.model.stop()
            self.model.wait_until_gone()
        self.ledger.let_go(self.run)
        previous = f", {live.previous} before it" if live.previous else ""
        after = "It was stopped, and is so again." if found.stopped else f"Nobody answered for {cost.outage_s:.0f} s."
        worse = [f"{change.name} by {change.worse:.0%}" for change in changes if change.regressed]
        slower = f" Worse than {found.live}: {', '.join(worse)}." if worse else ""
        result = {
            "release": release, "state": str(State.LIVE), "previous": live.previous, "stopped": found.stopped,
            "outage_s": round(cost.outage_s, 1), "changes": evidence["changes"], **facts,
            "over": found.live, **_identity(self.ledger.read(release)),
        }  # fmt: skip
        return Done(f"Release {release} of {self.ledger.target} is live{previous}. {after}{slower}", result)

    # ---- roll back -----------------------------------------------------------------------------------------------

    def roll_back(self, cause: str, evidence: Mapping[str, Any], *, keep: bool, timeout_s: float) -> Done:
        """Undo what this run did to the target, reject its candidate, and let the lock go.

        A run that holds no lock did nothing, so there is nothing to undo.

        Args:
            cause: why; one sentence, kept with the release.
            keep: a first delivery that failed is kept, stopped, rather than removed.
            timeout_s: for what is put back to answer again.
        Raises:
            RequestError: somebody edited the InferenceService by hand, or put another release there.
            GateError: what is put back does not answer either. In both cases the candidate is rejected all the same.
        """
        lock = self.ledger.held_by(self.run) if self.ledger.is_held_by(self.run) else Lock()
        if lock.candidate is None or lock.found is None:
            self.ledger.let_go(self.run)
            return Done("This run changed nothing, so there is nothing to put back.", {"done": "nothing"})
        rejected = Event(State.REJECTED, self.run, cause=cause, evidence=evidence)
        try:
            service = self.model.service()
            plan = after_failure(lock.candidate, lock.found, carries(service), exists=service is not None, keep=keep)
            cost = self._carry_out(plan, lock.candidate, service, timeout_s)
        except (RequestError, GateError) as error:
            self.ledger.reject(lock.candidate, replace(rejected, evidence={**evidence, "roll_back": error.message}))
            self._report(lock.candidate, lock.found.live)
            self.ledger.let_go(self.run)
            raise
        self.ledger.reject(lock.candidate, replace(rejected, evidence={**evidence, "cost": asdict(cost)}))
        self._report(lock.candidate, lock.found.live)
        self.ledger.let_go(self.run)
        done = "restored" if plan.restore else "removed" if plan.remove else "stopped" if plan.stop else "nothing"
        result = {
            "done": done, "rejected": plan.reject, "restored": plan.restore, "stopped": plan.stop, "cause": cause,
            **{key: round(value, 1) for key, value in asdict(cost).items()},
        }  # fmt: skip
        return Done(self._rolled_back(plan, lock.candidate, cost), result)

    def put_back(self, release: str, former: Lock, cause: str, *, timeout_s: float) -> Done:
        """Make an earlier release live again, because a person asked for it. The lock is ours already.

        A running model is waited for; of a stopped one only the object changes.

        Raises:
            RequestError: there is no such release, it was never live, or the cluster refuses it. Nothing was changed.
            GateError: it does not answer; what was live before is put back.
        """
        try:
            service = self.model.service()
            wanted = self._once_live(release)
            self.model.cluster.apply(wanted.inference_service, dry_run=True)
            over = self._known_live(service, wanted)
            found = inherit(former, _found(service, over))
            self.ledger.note(self.run, release, found)
        except (RequestError, GateError):
            self.ledger.let_go(self.run)
            raise
        try:
            cost = self._carry_out(to_release(release, stopped=found.stopped), over or "", service, timeout_s)
        except GateError as error:
            undone = self.roll_back(error.message, {}, keep=True, timeout_s=timeout_s)
            raise GateError(f"{error.message} {undone.story}") from None
        evidence = {"cost": asdict(cost), "trigger": {"kind": "roll back"}}
        self.ledger.promote(release, over, Event(State.LIVE, self.run, cause=cause, evidence=evidence))
        self.ledger.let_go(self.run)
        state = "is stopped, as it was" if found.stopped else f"answers; nobody did for {cost.outage_s:.0f} s"
        result = {
            "done": "restored", "release": release, "restored": release, "over": over, "stopped": found.stopped,
            "cause": cause, "outage_s": round(cost.outage_s, 1), **_identity(wanted),
        }  # fmt: skip
        return Done(f"{self.ledger.target} is back on release {release}, which {state}.", result)

    def _once_live(self, release: str) -> Release:
        entry = self.ledger.entry(release)
        wanted = self.ledger.read(release)
        if entry is None or entry.state not in (State.SUPERSEDED, State.LIVE):
            state = entry.state if entry else "not registered"
            raise RequestError(
                f"Release {release} of {self.ledger.target} is {state} and was never live; deliver it, so that it "
                "passes its gates."
            )
        return wanted

    def _carry_out(self, plan: Plan, candidate: str, service: Mapping[str, Any] | None, timeout_s: float) -> Cost:
        """Do what the plan says, and tell what it cost."""
        began, pods, deployment = self.model.clock.now(), self.model.pods(), self.model.deployment()
        exposed = exposure(pods, candidate, began)
        awake = plan.wait and not (service and is_stopped(service))
        down = down_since(service, deployment) if awake else None
        ready = ready_since(pod_of(pods, candidate) or {})
        outage = outage_of_change(service or {}, deployment, ready) if awake else 0.0
        if plan.stop:
            self.model.stop()
        if plan.remove and service is not None:
            self.model.remove(service, self.ledger.read(candidate))
        release = self.ledger.read(plan.restore) if plan.restore else None
        if release is not None:
            self.model.put(release)
        if plan.stop:
            self.model.wait_until_gone()
        if plan.wait and release is not None:
            self.model.resume()
            back = self.model.wait_until_it_answers(release, timeout_s, down)
            exposed = max(exposed, back.exposed_s)
            outage += max(0.0, (back.answered - back.down).total_seconds()) if awake and back.down else 0.0
        return Cost(exposed_s=exposed, outage_s=outage)

    def _report(self, release: str, previous: str | None) -> None:
        """Write the report of the release's last event beside it."""
        entry = self.ledger.entry(release)
        if entry is None or not entry.history:
            return
        report = build(self.ledger.read(release), entry.history[-1], previous)
        data, page = names(release, self.run)
        self.ledger.write_report(data, json.dumps(report, sort_keys=True, ensure_ascii=False, indent=1) + "\n")
        self.ledger.write_report(page, as_markdown(report))

    def _rolled_back(self, plan: Plan, candidate: str, cost: Cost) -> str:
        target = self.ledger.target
        if plan.restore:
            how = "is stopped, as it was" if plan.stop else "answers"
            return f"{target} is back on release {plan.restore}, which {how}: {cost.story()}."
        if plan.remove:
            return f"{target} is removed: release {candidate} was the first one, and failed."
        if plan.stop:
            return f"{target} is stopped, and kept to be looked at."
        return f"Release {candidate} of {target} was live before, so there is nothing to put back."


def _found(service: Mapping[str, Any] | None, live: str | None) -> Found:
    """Return what is there to be put back. A first delivery that failed and was kept is nothing of the kind."""
    if service is None or live is None:
        return Found(live=live)
    return Found(existed=True, stopped=is_stopped(service), live=live)


def _identity(release: Release) -> dict[str, Any]:
    """What whoever hears of a release that became live wants to know of it."""
    return {
        "name": release.inference_service["metadata"]["name"],
        "source": release.source,
        "artifact": release.artifact,
        "manifest_sha256": release.manifest_sha256,
    }
