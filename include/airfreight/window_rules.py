"""What becomes of a window: how long it stays open, and whether its end is one; pure.

Several things may want one model at once: its hours, a person who woke it, a delivery that tries a release. There is
one window at a time, kept by one run. Who comes later leaves a note in `current.json` (`airfreight.windows.Current`),
and the run that keeps the window heeds the notes when it would end:

    hours without idle_after      open until they close, however idle
    hours with idle_after         open until they close or it was idle for so long, whichever is first; the time before
                                  the opening, in which it is warmed up, is no idle time
    woken by hand                 open until it was idle for idle_after, or for half an hour where there is none; inside
                                  of hours without idle_after not before these close
    woken inside of a window      the idle clock begins again; at the closing it stays open until it is idle. That goes
                                  for this closing alone, and for a person's wake alone: a delivery that goes live in a
                                  window changes nothing
    hours were made longer        open until they close now; likewise where they have opened again since the closing
                                  that was noted, while Airflow was away or its DAG paused
    a delivery is at work         nothing is stopped before the delivery has ended
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from airfreight.hours import Hours, Window, current, next_window
from airfreight.windows import Closing, Current, moment

WAKE_IDLE = timedelta(minutes=30)
"""How long a woken model without `idle_after` may be idle."""
GIVE_UP = timedelta(minutes=10)
"""A model that did not become ready in its time gets so much more before it is stopped; so does who wakes it again."""
DELIVERY_POLL = timedelta(seconds=30)
"""How soon a window that is over is looked at again while a delivery is at work."""
NOTED = timedelta(minutes=5)
"""How long after an opening the run of the hours has left its note."""


@dataclass(frozen=True)
class Terms:
    """When a window ends: at `closes`, or after `idle_after` without work; None where that does not end it.

    Attributes:
        not_before: no idleness ends it earlier; None: as soon as it was idle for so long.
        again: when its terms are to be asked for again; None: these hold.
    """

    closes: datetime | None
    idle_after: timedelta | None
    not_before: datetime | None = None
    again: datetime | None = None


@dataclass(frozen=True)
class Stop:
    """The window is over."""

    because: Closing


@dataclass(frozen=True)
class GoOn:
    """The window goes on, for this reason, under these terms."""

    reason: str
    terms: Terms


def terms(kept: Current, idle_after: timedelta | None, now: datetime) -> Terms:
    """Return the terms of a window as things stand; one whose closing was missed closes at once."""
    closes = moment(kept.until) if kept.until else None
    if closes is not None and closes <= now and kept.touched:
        closes = None  # woken in it: from its closing on it stays until it is idle
    if idle_after is None and closes is None:
        idle_after = WAKE_IDLE
    not_before = moment(kept.opens) + idle_after if kept.opens and idle_after else None
    return Terms(closes, idle_after, not_before if not_before and not_before > now else None)


def until_others(under: Terms, hours: Sequence[Hours], now: datetime) -> Terms:
    """Return terms that are asked for again once the next hours have opened, where no closing ends the window before.

    Who watches the model does not see the note of these, and one that is never idle would outlast their closing too.
    """
    following = next_window(hours, now - NOTED) if hours else None
    if under.closes is not None or under.again is not None or following is None:
        return under
    return replace(under, again=following.opens + NOTED)


def longer(kept: Current, hours: Sequence[Hours], now: datetime) -> Window | None:
    """Return the window of the hours as they are now, if it is open and closes later than what was noted, or None."""
    wanted = current(hours, now)
    return wanted if wanted is not None and (not kept.until or wanted.closes > moment(kept.until)) else None


def end(
    because: Closing, kept: Current, idle_after: timedelta | None, now: datetime, delivery: str | None = None
) -> Stop | GoOn:
    """Say whether a window that would end now ends.

    Args:
        because: `IDLE`, `CLOSING` or `NEVER_READY`.
        kept: what is in `current.json` now, with what is `longer` noted.
        idle_after: of the model.
        delivery: the run that holds the model's release ledger, or None.
    """
    following = terms(kept, idle_after, now)
    if delivery is not None:
        # Its requests are work too, so the idle clock begins again; a closing is looked at again soon.
        again = Terms(now + DELIVERY_POLL, None) if because is Closing.CLOSING else following
        return GoOn(f"{delivery} is delivering to it", again)
    if because is Closing.NEVER_READY:
        woken = kept.touched and now - moment(kept.touched) < GIVE_UP
        return GoOn("somebody woke it meanwhile", following) if woken else Stop(because)
    if because is Closing.IDLE and following.closes is not None and following.idle_after is None:
        return GoOn("its hours want it open", following)
    if because is Closing.IDLE and following.not_before is not None:
        return GoOn("its hours have only just begun", following)
    if because is Closing.IDLE and kept.touched and now - moment(kept.touched) < (idle_after or WAKE_IDLE):
        return GoOn("somebody woke it meanwhile", following)
    if because is Closing.CLOSING and kept.touched and following.closes is None:
        # However long ago: who woke it may work with it still.
        return GoOn("somebody woke it in its window, so it stays until it is idle", following)
    if because is Closing.CLOSING and following.closes is not None and following.closes > now:
        return GoOn("its hours want it open", following)
    return Stop(because)


@dataclass(frozen=True)
class Due:
    """A window of the hours that is to be opened: it is, or its start is at `starts` at the latest."""

    window: Window
    starts: datetime


def due(
    hours: Sequence[Hours], longest: timedelta, lead: timedelta, now: datetime, fired: datetime | None = None
) -> Due | None:
    """Return the window a scheduled run is to open, or None: it came when there is nothing to open.

    Args:
        longest: how long before an opening the schedule fires.
        lead: how long before it this model is started.
        fired: the moment the run was scheduled for. It names its window, also while the one before it is open; where
            the hours were changed since, it names none, and the run opens what there is.
    """
    if fired is not None:
        meant = next_window(hours, fired + longest - timedelta(seconds=1))
        if meant is not None and meant.opens == fired + longest:
            return Due(meant, max(now, meant.opens - min(lead, longest))) if meant.closes > now else None
    open_now = current(hours, now)
    if open_now is not None:
        return Due(open_now, now)
    following = next_window(hours, now)
    # A minute: a run is never created before its time, but clocks of machines differ.
    if following is None or following.opens - now > longest + timedelta(minutes=1):
        return None
    return Due(following, max(now, following.opens - min(lead, longest)))
