"""From one release of a model to the next, and back: carries out on cluster and ledger what `promotion` decides.

One run goes through these, each in a pod of its own, under the run's lock (`ledger`):

    register    take the lock, look at the target, ask the cluster for a dry run, write the candidate
    stage       apply the candidate as it is registered; a stopped model is started for its gates
    promote     make the candidate live; a model that was stopped is stopped again
    roll_back   put back what was live and wait until it answers; the candidate is rejected, with its cause

Each may be repeated: what is done already is found done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from airfreight.errors import AirfreightError, RequestError, TemporaryError
from airfreight.ledger_rules import Event, Found, Lock, Release, State
from airfreight.observation import is_stopped
from airfreight.promotion import Cost, carries, foreign_fields, outage_of_change
from airfreight.release_report import changes_since
from airfreight.timings import pod_of, ready_facts, ready_since
from airfreight.undoing import Done, Undoing, identity

__all__ = ["Done", "Handover"]


@dataclass(frozen=True)
class Handover(Undoing):
    """One run at one model: what it does, and (see `Undoing`) how it undoes it."""

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
            RequestError: the cluster refuses it, or somebody edited the InferenceService by hand. The lock is let go,
                unless something of a dead run is still to be undone (`refuse`).
        """
        try:
            self.settle(former)
            self.model.cluster.apply(candidate.inference_service, dry_run=True, take_over=take_over)
            service = self.model.service()
            live = self._known_live(service, candidate)
            candidate = replace(candidate, serving_runtime=self.model.runtime(candidate.runtime))
            found, service = self._note(candidate.release, live, former)
            entry = self.ledger.register(candidate, Event(State.CANDIDATE, self.run, evidence=evidence))
        except AirfreightError as error:
            if not isinstance(error, TemporaryError):
                self.refuse(former)
            raise
        foreign = {} if service is None else foreign_fields(service)
        target = self.ledger.target
        result = {
            "release": candidate.release, "state": str(entry.state), "over": found.live, "existed": found.existed,
            "was_stopped": found.stopped, "foreign": foreign, "name": target.name, "namespace": target.namespace,
        }  # fmt: skip
        return Done(self._registered(candidate.release, entry.state, found, foreign), result)

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
        candidate, service = self.ledger.read(release), self.model.service()
        live = lock.found.live if lock.found else None
        changed = self.model.put(candidate, take_over=take_over, over=self._walled(carries(service), live))
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

        A try that died after it had done so is found done.

        Raises:
            RequestError: the cluster serves something else by now, the lock was lost, or another run was faster.
        """
        if not self.ledger.is_held_by(self.run) and (done := self._promoted(release)) is not None:
            return done
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
        asleep = self._sleeps(found)
        if asleep:
            self.model.stop()
            self.model.wait_until_gone()
        self.ledger.let_go(self.run)
        previous = f", {live.previous} before it" if live.previous else ""
        after = f"Nobody answered for {cost.outage_s:.0f} s."
        if found.stopped:
            after = "It was stopped, and is so again." if asleep else "It was stopped; a window was opened since."
        worse = [f"{change.name} by {change.worse:.0%}" for change in changes if change.regressed]
        slower = f" Worse than {found.live}: {', '.join(worse)}." if worse else ""
        result = {
            "release": release, "state": str(State.LIVE), "previous": live.previous, "stopped": asleep,
            "outage_s": round(cost.outage_s, 1), "changes": evidence["changes"], **facts,
            "over": found.live, **identity(self.ledger.read(release)),
        }  # fmt: skip
        return Done(f"Release {release} of {self.ledger.target} is live{previous}. {after}{slower}", result)

    def _promoted(self, release: str) -> Done | None:
        """Return what an earlier try of this very run did, which had let the lock go; None when there was none."""
        live, entry = self.ledger.live(), self.ledger.entry(release)
        ours = [
            event for event in (entry.history if entry else ()) if (event.state, event.run) == (State.LIVE, self.run)
        ]
        if live is None or live.release != release or not ours:
            return None
        evidence, service = ours[-1].evidence, self.model.service()
        stopped = service is not None and is_stopped(service)
        result = {
            "release": release, "state": str(State.LIVE), "previous": live.previous, "stopped": stopped,
            "outage_s": round(float((evidence.get("cost") or {}).get("outage_s") or 0.0), 1),
            "changes": evidence.get("changes") or [],
            **{key: evidence.get(key) for key in ("gpus", "node", "timings")},
            # What was live before was another release only where it was this run that moved the pointer.
            "over": live.previous if live.run == self.run else release, **identity(self.ledger.read(release)),
        }  # fmt: skip
        return Done(
            f"Release {release} of {self.ledger.target} is live: an earlier try of this step made it so.", result
        )
