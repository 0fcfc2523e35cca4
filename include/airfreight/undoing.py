"""How a run undoes: what it did, what a dead run before it did, and what became live in the meantime.

    settle      the lock of a run that was killed is taken over: its candidate is rejected
    refuse      this run is refused before it did anything: the lock is let go, unless something is still to be undone
    roll_back   put back what was live and wait until it answers; the candidate is rejected, with its cause
    put_back    make an earlier release live again, because a person asks for it

A run that is killed (its time was up, somebody ended it) rolls nothing back itself. Its lock says what it found and
what it tried, whoever takes that lock inherits both, and so the next run at this model undoes it: by its own release,
or by its own `roll_back` where that is refused or fails. Until then what it left stays there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from airfreight.errors import GateError, RequestError
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
    outage_of_change,
    to_release,
)
from airfreight.release_report import as_markdown, build, names
from airfreight.served_model import ServedModel
from airfreight.timings import pod_of, ready_since
from airfreight.windows import Current

CLOSING_S = 1200.0  # a window takes no longer to be closed: requests end, then the last pod
CLOSING_POLL_S = 5.0


@dataclass(frozen=True)
class Done:
    """What a step did: one sentence for the log, and the command's JSON result."""

    story: str
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Undoing:
    """One run at one model, as far as it undoes.

    Attributes:
        run: the run's own name, the same for each of its steps and their retries.
        window: tells what is noted of a serving window of the model now.
    """

    model: ServedModel
    ledger: Ledger
    run: str
    window: Callable[[], Current]

    # ---- what was found ------------------------------------------------------------------------------------------

    def _sleeps(self, found: Found) -> bool:
        """Whether the model is to be stopped at the end: it was found so, and no window was opened since."""
        return found.stopped and not self.window().is_open

    def _note(self, release: str, live: str | None, former: Lock) -> tuple[Found, dict[str, Any] | None]:
        """Write into our lock what is found and what we try; returns what was found, and the InferenceService.

        While a window is being closed its run may stop the model at any moment, gates or not: that is waited for. Our
        note is written first and the window asked for then; who closes one does the same the other way round, so one of
        the two sees the other.
        """
        clock, said = self.model.clock, False
        deadline = clock.monotonic() + CLOSING_S
        while True:
            service = self.model.service()
            found = inherit(former, found_at(service, live), window=bool(former.run) and self.window().is_open)
            self.ledger.note(self.run, release, found)
            window = self.window()
            if not window.closing or clock.monotonic() > deadline:
                return found, service
            if not said:
                self.model.say(f"Window {window.window} of {self.ledger.target} is being closed: waiting for its end.")
                said = True
            clock.pause(CLOSING_POLL_S)

    def settle(self, former: Lock) -> None:
        """Reject the candidate of a run that was killed before it came to an end; the lock is ours already.

        Args:
            former: the lock as it was before we took it; an earlier try of ours may have taken it from the dead run.
        """
        entry = self.ledger.entry(former.candidate) if former.candidate else None
        if entry is not None and entry.state is State.CANDIDATE and entry.run != self.run:
            cause = f"Its run ({entry.run}) ended before its gates did."
            self.ledger.reject(entry.release, Event(State.REJECTED, self.run, cause=cause))
            self.model.say(f"The run {entry.run} died here: its candidate {entry.release} is rejected.")

    def refuse(self, former: Lock) -> None:
        """Let the lock go, because this run is refused before it did anything.

        What an earlier try of it or a dead run may have left on the cluster is still to be undone: then the lock stays
        ours, and `roll_back` does it.
        """
        self.settle(former)
        if not (former.run and former.candidate):
            self.ledger.let_go(self.run)
            return
        target = self.ledger.target
        self.model.say(
            f"What {former.run} tried here ({former.candidate}) is still to be undone: airfreight roll-back --name "
            f"{target.name} --namespace {target.namespace} --run {self.run} does it, as the run's own roll back."
        )

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

    # ---- roll back -----------------------------------------------------------------------------------------------

    def roll_back(
        self, cause: str, evidence: Mapping[str, Any], *, keep: bool, timeout_s: float, in_run: bool = False
    ) -> Done:
        """Undo what this run did to the target, reject its candidate, and let the lock go.

        A run that holds no lock did nothing, so there is nothing to undo.

        Args:
            cause: why; one sentence, kept with the release.
            keep: a first delivery that failed is kept, stopped, rather than removed.
            timeout_s: for what is put back to answer again.
            in_run: it is a step of the run itself, so that the end of the run is the end of it.
        Raises:
            RequestError: somebody edited the InferenceService by hand, or put another release there.
            GateError: what is put back does not answer either. In both cases the candidate is rejected all the same.
        """
        hold = self.ledger.held_by if in_run else self.ledger.undo
        lock = hold(self.run) if self.ledger.is_held_by(self.run) else Lock()
        if lock.candidate is None or lock.found is None:
            self.ledger.let_go(self.run)
            return Done("This run changed nothing, so there is nothing to put back.", {"done": "nothing"})
        found, live = replace(lock.found, stopped=self._sleeps(lock.found)), self.ledger.live()
        if live is not None and live.release == lock.candidate:
            # It was made live, and what came after that failed: its gates have passed.
            found = replace(found, live=lock.candidate)
        rejected = Event(State.REJECTED, self.run, cause=cause, evidence=evidence)
        try:
            service = self.model.service()
            carried = carries(service)
            if carried is not None and (carried in found.left or self._is_rejected(carried)):
                carried = lock.candidate  # what a dead run left there is nobody's to keep
            plan = after_failure(lock.candidate, found, carried, exists=service is not None, keep=keep)
            cost = self._carry_out(plan, lock.candidate, service, timeout_s)
        except (RequestError, GateError) as error:
            self._reject(lock.candidate, replace(rejected, evidence={**evidence, "roll_back": error.message}))
            self._report(lock.candidate, found.live)
            self.ledger.let_go(self.run)
            raise
        self._reject(lock.candidate, replace(rejected, evidence={**evidence, "cost": asdict(cost)}))
        self._report(lock.candidate, found.live)
        self.ledger.let_go(self.run)
        done = "restored" if plan.restore else "removed" if plan.remove else "stopped" if plan.stop else "nothing"
        result = {
            "done": done, "rejected": plan.reject, "restored": plan.restore, "stopped": plan.stop, "cause": cause,
            **{key: round(value, 1) for key, value in asdict(cost).items()},
        }  # fmt: skip
        return Done(self._rolled_back(plan, lock, cost), result)

    def put_back(self, release: str, former: Lock, cause: str, *, timeout_s: float) -> Done:
        """Make an earlier release live again, because a person asked for it. The lock is ours already.

        A running model is waited for; of a stopped one only the object changes. What a dead run left is undone by it.

        Args:
            former: the lock as it was before we took it.
        Raises:
            RequestError: there is no such release, it was never live, or the cluster refuses it. Nothing was changed.
            GateError: it does not answer. Then, and where the cluster refuses it half-way, what was live before is
                put back.
        """
        try:
            self.settle(former)
            service = self.model.service()
            wanted = self._once_live(release)
            self.model.cluster.apply(wanted.inference_service, dry_run=True)
            over = self._known_live(service, wanted)
            found, service = self._note(release, over, former)
            asleep = self._sleeps(found)
        except (RequestError, GateError):
            # No roll back follows this one: what is still to be undone is left to whoever comes next.
            self.ledger.unlock(self.run)
            raise
        try:
            cost = self._carry_out(to_release(release, stopped=asleep), over or "", service, timeout_s)
        except (RequestError, GateError) as error:
            undone = self.roll_back(error.message, {}, keep=True, timeout_s=timeout_s)
            raise type(error)(f"{error.message} {undone.story}") from None
        evidence = {"cost": asdict(cost), "trigger": {"kind": "roll back"}}
        self.ledger.promote(release, over, Event(State.LIVE, self.run, cause=cause, evidence=evidence))
        self.ledger.let_go(self.run)
        state = "is stopped, as it was" if asleep else f"answers; nobody did for {cost.outage_s:.0f} s"
        result = {
            "done": "restored", "release": release, "restored": release, "over": over, "stopped": asleep,
            "cause": cause, "outage_s": round(cost.outage_s, 1), **identity(wanted),
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
            self.model.put(release, over=self._walled(carries(service), candidate))
        elif service is None:  # what a first stage left that broke off before it made one
            self.model.unwall(self._walled(candidate))
        if plan.stop:
            self.model.wait_until_gone()
        if plan.wait and release is not None:
            self.model.resume()
            back = self.model.wait_until_it_answers(release, timeout_s, down)
            exposed = max(exposed, back.exposed_s)
            outage += max(0.0, (back.answered - back.down).total_seconds()) if awake and back.down else 0.0
        return Cost(exposed_s=exposed, outage_s=outage)

    def _walled(self, *releases: str | None) -> Release | None:
        """Return the first of these releases that came with a policy: a stage that broke off has left that alone."""
        known = (self.ledger.read(one) for one in releases if one and self.ledger.entry(one) is not None)
        return next((one for one in known if one.network_policy is not None), None)

    def _is_rejected(self, release: str) -> bool:
        entry = self.ledger.entry(release)
        return entry is not None and entry.state is State.REJECTED

    def _reject(self, release: str, event: Event) -> None:
        """Reject a candidate; one that `settle` rejected already keeps the cause that it has."""
        if not self._is_rejected(release):
            self.ledger.reject(release, event)

    def _report(self, release: str, previous: str | None) -> None:
        """Write the report of the release's last event beside it."""
        entry = self.ledger.entry(release)
        if entry is None or not entry.history:
            return
        report = build(self.ledger.read(release), entry.history[-1], previous)
        data, page = names(release, self.run)
        self.ledger.write_report(data, json.dumps(report, sort_keys=True, ensure_ascii=False, indent=1) + "\n")
        self.ledger.write_report(page, as_markdown(report))

    def _rolled_back(self, plan: Plan, lock: Lock, cost: Cost) -> str:
        target, candidate = self.ledger.target, lock.candidate
        if plan.reject is None:
            before = lock.found is not None and lock.found.live == candidate
            why = "was live before" if before else "has passed its gates and is live"
            asleep = " It is stopped, as it was." if plan.stop else ""
            return f"Release {candidate} of {target} {why}, so there is nothing to put back.{asleep}"
        if plan.restore:
            how = "is stopped, as it was" if plan.stop else "answers"
            return f"{target} is back on release {plan.restore}, which {how}: {cost.story()}."
        if plan.remove:
            return f"{target} is removed: release {candidate} was the first one, and failed."
        if plan.stop:
            return f"{target} is stopped, and kept to be looked at."
        return f"{target} is left as it was found: the ledger knows of nothing to put back."


def found_at(service: Mapping[str, Any] | None, live: str | None) -> Found:
    """Return what is there to be put back. A first delivery that failed and was kept is nothing of the kind."""
    if service is None or live is None:
        return Found(live=live)
    return Found(existed=True, stopped=is_stopped(service), live=live)


def identity(release: Release) -> dict[str, Any]:
    """What whoever hears of a release that became live wants to know of it."""
    return {
        "name": release.inference_service["metadata"]["name"],
        "source": release.source,
        "artifact": release.artifact,
        "manifest_sha256": release.manifest_sha256,
    }
