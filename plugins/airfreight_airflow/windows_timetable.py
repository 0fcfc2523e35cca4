"""A timetable of openings: one run for each window of a model's hours, its warm-up before the opening.

Cron cannot say it: an opening at 03:30 less an hour of warm-up is 02:30 on most days, and another time, or none, on the
days when clocks change; nor does cron know holidays. The UI shows the next run, which is the next opening less the
longest warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pendulum
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable

from airfreight.hours import Hours, Window, current, next_window, summary


class OpeningsTimetable(Timetable):
    """Fires `lead` before each window of the hours opens, once.

    A window that is open when Airflow or its DAG comes back, and was not fired for, is fired for then; one that is over
    is not.

    Args:
        hours: the ranges.
        lead: the longest warm-up.
    """

    def __init__(self, hours: Sequence[Hours], lead: timedelta) -> None:
        self.hours = tuple(hours)
        self.lead = lead
        self.description = f"Opens {self.summary}; fires {int(lead.total_seconds() // 60)} min before"

    @property
    def summary(self) -> str:
        """The hours on one line, as the UI shows them."""
        return summary(self.hours)

    def serialize(self) -> dict[str, Any]:
        """As JSON, for the serialised DAG."""
        return {"hours": [one.model_dump(mode="json") for one in self.hours], "lead_s": self.lead.total_seconds()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> OpeningsTimetable:
        """Back from `serialize`."""
        return cls([Hours.model_validate(one) for one in data["hours"]], timedelta(seconds=data["lead_s"]))

    def infer_manual_data_interval(self, *, run_after: pendulum.DateTime) -> DataInterval:
        """A run by hand is about its own moment."""
        return DataInterval.exact(run_after)

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The first opening that was not fired for and whose window is not over."""
        fired = last_automated_data_interval.end if last_automated_data_interval is not None else None
        found = self.next_fire(datetime.now(tz=UTC), fired, restriction.earliest)
        if found is None or (restriction.latest is not None and found > restriction.latest):
            return None
        return DagRunInfo.exact(pendulum.instance(found))

    def next_fire(self, now: datetime, fired: datetime | None, earliest: datetime | None = None) -> datetime | None:
        """Return when to fire next; pure.

        Args:
            fired: the moment of the last run, or None.
            earliest: not before then.
        """
        window: Window | None = current(self.hours, now) or next_window(self.hours, now)
        while window is not None:
            fire = window.opens - self.lead
            if (fired is None or fire > fired) and (earliest is None or fire >= earliest):
                return fire
            window = next_window(self.hours, window.opens)
        return None
