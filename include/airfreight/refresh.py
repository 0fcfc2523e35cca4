"""Has a branch moved, and is what is new on it to be delivered now? Pure; the hub and the ledger were asked before.

    the branch is where the live release is      nothing: no byte moves, nothing is written
    it moved                                     deliver_model once, through every gate, at that commit
    it was rejected in such a run, by a gate     not again, until somebody asks for this model, or its entry changes
        or by whichever task failed for good
    the last try failed for a passing cause      again, after 1, 2, 4, … days, under the next number
    a run for it is under way                    nothing
    it was live before, and moved back           again, unless a person put there what is live now: that was meant

A try is a run of `deliver_model` under an id that tells what it tries, so that nothing is tried twice by accident:

    refresh__pong__3b1f9d2c4a5e__9c01d2__2       model, commit, its entry in the catalog, number of the try
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from airfreight.catalog import CatalogModel
from airfreight.observation import one_line

BACK_OFF = timedelta(days=1)
LONGEST_BACK_OFF = timedelta(days=8)
MOST_TRIES = 50
_PREFIX = "refresh"
# What of an entry is no part of a delivery.
_NOT_DELIVERED = frozenset({"name", "source", "revision", "hours", "idle_after", "warmup", "refresh"})
# Blocks of an entry whose fields a delivery has among all the others.
_BLOCKS = ("serving", "validation")


@dataclass(frozen=True)
class Try:
    """One run for a commit.

    Args:
        state: of the run in Airflow's words; None: there is none.
        ended: when it ended, or None.
        refused: why it failed for good (exit codes 2, 3 and 4); "" when it did not, or for a passing cause.
    """

    state: str | None
    ended: datetime | None = None
    refused: str = ""


@dataclass(frozen=True)
class Seen:
    """What is known of a model before it is judged.

    Args:
        tip: the commit its branch is at; None when the hub did not say, then `problem` says why.
        live: source of the live release, at its commit; None when nothing is live.
        live_by: run that delivered or put back the live release last, in the ledger's words.
        rejected: why a gate rejected this commit as the entry is now; None when none did.
        tries: a try by its run id.
    """

    tip: str | None
    problem: str = ""
    live: str | None = None
    live_by: str = ""
    rejected: str | None = None
    tries: Callable[[str], Try] = field(default=lambda _: Try(None))


@dataclass(frozen=True)
class Verdict:
    """What is to be done about one model: `run_id` and `conf` of a run of `deliver_model`, or nothing.

    Args:
        failed: the model could not be looked at; the sentence says why.
    """

    name: str
    sentence: str
    run_id: str = ""
    conf: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


def tracked(models: list[CatalogModel]) -> list[CatalogModel]:
    """Return the models whose branch is looked at; one at a commit cannot move."""
    return [model for model in models if model.refresh == "daily" and not _is_commit(model.revision)]


def judge(model: CatalogModel, seen: Seen, now: datetime, *, asked: bool = False) -> Verdict:
    """Say what is to be done about a model.

    Args:
        asked: a person named this model: what was rejected, or failed a moment ago, is tried again.
    """
    if seen.tip is None:
        return Verdict(model.name, seen.problem or "the hub did not say where its branch is.", failed=True)
    if seen.live == source_of(model, seen.tip):
        return Verdict(model.name, f"{model.revision} is at {seen.tip[:12]}, which is live; nothing to do.")
    number, last, refused = 0, Try(None), ""
    while number < MOST_TRIES and (one := seen.tries(run_id(model, seen.tip, number + 1))).state is not None:
        number, last = number + 1, one
        # What was refused stays so when a later try, that somebody asked for, ended for a passing cause.
        refused = "" if one.state == "success" else one.refused or refused
    where = f"{model.revision} moved to {seen.tip[:12]}"
    if last.state in ("queued", "running"):
        return Verdict(model.name, f"{where}, and {run_id(model, seen.tip, number)} is delivering it.")
    # Airflow forgets runs after a while, the ledger does not: a rejection counts whether or not its run is there.
    rejected = refused or seen.rejected
    refusal = "" if asked else _refusal(model, replace(seen, rejected=rejected), number, last, now)
    if refusal:
        return Verdict(model.name, f"{where}, and {refusal}")
    if number == MOST_TRIES:
        return Verdict(model.name, f"{where}, and was tried {number} times; deliver it by hand.")
    return Verdict(
        model.name,
        f"{where}; delivering it{f', try {number + 1}' if number else ''}.",
        run_id(model, seen.tip, number + 1),
        conf(model, seen.tip),
    )


def run_id(model: CatalogModel, commit: str, number: int) -> str:
    """Return the id of a try."""
    return f"{_PREFIX}__{model.name}__{commit[:12]}__{entry_digest(model)}__{number}"


def is_try_of(run: str, model: CatalogModel, commit: str) -> bool:
    """Whether a run is a try of this model at this commit with its entry as it is now."""
    return run.rpartition("__")[0] == run_id(model, commit, 1).rpartition("__")[0]


def entry_digest(model: CatalogModel) -> str:
    """Return 6 hex digits that change with what of an entry reaches a delivery."""
    text = json.dumps(conf(model, ""), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def conf(model: CatalogModel, commit: str) -> dict[str, Any]:
    """Return the conf of a delivery of a model at a commit: what its entry says, less what every request has anyway."""
    said = model.model_dump(mode="json", exclude_defaults=True)
    others = {key: value for key, value in said.items() if key not in _NOT_DELIVERED and key not in _BLOCKS}
    fields = {key: value for block in _BLOCKS for key, value in said.get(block, {}).items() if value is not None}
    return {"model": model.hub_model.repo_id, "revision": commit, "name": model.name, **others, **fields}


def _refusal(model: CatalogModel, seen: Seen, number: int, last: Try, now: datetime) -> str:
    """Why what is new is left alone for now; "" when it is not."""
    if last.state == "success" and not _follows_branch(model, seen):
        # It was live, and somebody put another release there since: that was meant.
        return "was delivered before; somebody put another release there since, and it stays."
    if seen.rejected is not None:
        return f"was rejected ({one_line(seen.rejected, 200).rstrip('.')}); change its entry, or ask for it by name."
    if number and last.state != "success" and last.ended is not None:
        due = last.ended + min(BACK_OFF * 2 ** (number - 1), LONGEST_BACK_OFF)
        # An hour early: a daily schedule comes a little before the day is over as often as after it.
        if now < due - timedelta(hours=1):
            return f"try {number} failed; the next is due at {due:%Y-%m-%d %H:%M} UTC."
    return ""


def _follows_branch(model: CatalogModel, seen: Seen) -> bool:
    """Whether what is live was put there by a refresh, so by the branch itself: nobody chose it by hand.

    The commit in the run's id has to be the live one: what such a run only found on the cluster, and wrote into the
    ledger, a person had put there.
    """
    commit = (seen.live or "").rpartition("@")[2]
    known = seen.live is not None and seen.live == source_of(model, commit)
    return known and seen.live_by.rpartition("/")[2].startswith(f"{_PREFIX}__{model.name}__{commit[:12]}__")


def source_of(model: CatalogModel, commit: str) -> str:
    """Return the source of a model at a commit, as releases and rejections record it."""
    return f"hf://{model.hub_model.repo_id}@{commit}"


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and not revision.strip("0123456789abcdef")
