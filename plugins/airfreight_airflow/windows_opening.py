"""The task that opens a window: it waits until it is time, takes the window and begins its record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk.exceptions import AirflowSkipException

from airfreight.errors import RequestError, TemporaryError
from airfreight.fights import fight_over
from airfreight.hours import Window, current
from airfreight.observation import KubernetesObject, is_stopped
from airfreight.rendering import service_url
from airfreight.warmup import expected, lead
from airfreight.watching import served_name_in
from airfreight.window_rules import Due, due
from airfreight.windows import (
    RUNNING,
    STOPPED,
    TAKEN_OVER,
    Closing,
    Current,
    Opening,
    Record,
    moment,
    text_of,
    window_id,
)
from airfreight_airflow.windows_keeper import STORE_RETRY, Keeper
from airfreight_airflow.windows_runs import ADOPTED, OPEN, STOP_NOW
from airfreight_airflow.windows_sensors import WindowSensor, ending

if TYPE_CHECKING:
    from airflow.sdk import Context

WAKE_OUTAGE, OUTAGE = timedelta(hours=1), timedelta(days=1)
"""How long a cluster or store that does not answer is waited for; for hours it is until they close. Nobody waits longer
than an hour for a model to wake; one that is up already, as after a delivery, nobody else would stop.
"""
LAG = timedelta(seconds=5)
"""How soon a window is asked for again while the one before it is being closed."""
DELIVERY_LAG = timedelta(seconds=15)


class OpenWindowSensor(WindowSensor):
    """Wait until the window is to be opened, take it, and begin its record. Skips the run when there is nothing to do.

    Returns:
        The window: action, window, name, namespace, url, served_name, because, requested, opens, until, expected_s,
        eta, found, fight. `eta` is when it will probably answer, from recorded cold starts; "" when none is known.
        `fight` says who took away the stop of the window before, "" when nobody did. Of a stop: action, because, asked,
        and `seen`, the window that was open then.
    """

    def execute(self, context: Context) -> Any:
        """Open it, or defer until it is time."""
        return self.go_on(context)

    def go_on(self, context: Context, event: Any = None, answered: str = "") -> Any:  # noqa: ARG002  (Airflow's)
        """Back from a wait: everything is looked at again.

        Args:
            answered: when cluster and store answered last (RFC 3339); "": not in this try.
        """
        with ending(context):
            try:
                return self._begin(context)
            except TemporaryError as error:
                self._outlast(context, error, answered)
                raise

    def _begin(self, context: Context) -> dict[str, Any]:
        action = _action(context)
        if self.served.broken and action == OPEN:
            raise RequestError(self.served.broken)
        keeper, now = self.keeper(context), datetime.now(tz=UTC)
        service = self._service(keeper)
        if action != OPEN:
            self._refuse_tried(keeper, action)
            keeper.log.forget(keeper.is_alive)
            kept = keeper.log.current()
            stop = {"action": action, "because": Closing.ASKED, "asked": text_of(now),
                    "seen": {"window": kept.window, "opens": kept.opens}}  # fmt: skip
            return self._left(context, keeper, service, stop)
        because = _because(context)
        if because is Opening.DELIVERY and is_stopped(service):
            raise AirflowSkipException(f"{self.served.name} was left stopped by its delivery; nothing to watch.")
        if because is Opening.FOUND:
            self._refuse_found(keeper, service)
        cold_starts = keeper.log.cold_starts()
        hours = self._hours(context, keeper, because, cold_starts, now)
        by_hours = because is Opening.HOURS
        by_hand = because in (Opening.WAKE, Opening.FOUND)
        asked = Current(
            window_id(hours.opens if hours and by_hours else now, because),
            keeper.run_id,
            opens=text_of(hours.opens) if hours else "",
            until=text_of(hours.closes) if hours else "",
            touched=text_of(now) if by_hand else "",
        )
        kept = keeper.log.take(asked, keeper.is_alive)
        if kept.run != keeper.run_id:
            if kept.closing:
                self._wait_until(now + LAG, f"window {kept.window} is being closed; opening after that")
            raise AirflowSkipException(
                f"{self.served.name} is open already: run {kept.run} keeps window {kept.window}."
            )
        # Asked once the window is ours: the delivery then leaves the model up, which this run would only start again.
        if delivery := keeper.trying():
            self._wait_until(now + DELIVERY_LAG, f"{delivery} is delivering to it; opening after that")
        requested, fight = text_of(now), fight_over(keeper.log.last(kept.window), service)
        record = keeper.log.begin(
            Record(
                window=kept.window,
                name=self.served.name,
                namespace=keeper.namespace,
                because=because,
                run=keeper.run_id,
                requested=requested,
                found=STOPPED if is_stopped(service) else RUNNING,
                closes=kept.until,
                sentence=fight,
            )
        )
        if fight:
            self.log.warning("%s The window goes on to its end, and its run fails then.", fight)
        if record.run != keeper.run_id:  # of a run that died: the window goes on under this one
            record = keeper.log.update(record.window, run=keeper.run_id, found=TAKEN_OVER)
        expected_s = expected(cold_starts) if cold_starts and is_stopped(service) else None
        eta = text_of(now + timedelta(seconds=expected_s)) if expected_s is not None else ""
        self.log.info("Window %s of %s: %s, found %s.", record.window, record.name, because, record.found)
        return self._left(
            context,
            keeper,
            service,
            {"action": OPEN, "because": because, "window": record.window, "requested": record.requested,
             "opens": kept.opens, "until": kept.until, "expected_s": expected_s, "eta": eta, "found": record.found,
             "fight": fight},
        )  # fmt: skip

    def _service(self, keeper: Keeper) -> KubernetesObject:
        service = keeper.observe().inference_service
        if service is None:
            raise RequestError(
                f"There is no InferenceService {self.served.name} in namespace {keeper.namespace}: deliver the model "
                "first (airfreight deliver)."
            )
        return service

    def _refuse_found(self, keeper: Keeper, service: KubernetesObject) -> None:
        """A model that was found running is taken from nobody, and not started when it was stopped since."""
        kept = keeper.log.current()
        if is_stopped(service):
            why = "it was stopped meanwhile"
        elif kept.run not in ("", keeper.run_id) and keeper.is_alive(kept.run):
            why = f"run {kept.run} keeps window {kept.window}"  # and would take a note of this one for a wake
        elif delivery := keeper.trying():
            why = f"{delivery} is delivering to it"
        else:
            return
        raise AirflowSkipException(f"Nobody need watch over {self.served.name}: {why}.")

    def _refuse_tried(self, keeper: Keeper, action: str) -> None:
        if action == STOP_NOW and (run := keeper.trying()):
            raise RequestError(
                f"{run} is trying a release on {self.served.name}, and a stop would cut off its gates: wait for its "
                "end, or mark its running task as failed, so that it rolls back, and stop the model then."
            )

    def _hours(
        self, context: Context, keeper: Keeper, because: Opening, cold_starts: list[float], now: datetime
    ) -> Window | None:
        """The window of the hours that this run keeps open, or None where they want nothing; waits until it starts."""
        if because is not Opening.HOURS:
            return current(self.served.hours, now) if self.served.hours else None
        fired = context["dag_run"].run_after
        wanted = due(self.served.hours, self.served.longest, lead(self.served.warmup, cold_starts), now, fired)
        if wanted is None:
            raise AirflowSkipException(f"{self.served.name} is not to be opened now: its window is over.")
        self._refuse_ended(keeper, wanted)
        if wanted.starts > now:
            self._wait_until(wanted.starts, f"opening at {wanted.window.opens:%Y-%m-%d %H:%M:%S} UTC")
        return wanted.window

    def _refuse_ended(self, keeper: Keeper, wanted: Due) -> None:
        record = keeper.log.read(window_id(wanted.window.opens, Opening.HOURS))
        if record is not None and record.is_over:
            raise AirflowSkipException(
                f"Window {record.window} of {self.served.name} was open and has ended ({record.closed_because}); "
                f"airfreight wake {self.served.name} opens another."
            )

    def _left(
        self, context: Context, keeper: Keeper, service: KubernetesObject, result: dict[str, Any]
    ) -> dict[str, Any]:
        """The result; what other tasks take from it by its name is an XCom of its own."""
        url = service_url(self.served.name, keeper.namespace)
        named = {"namespace": keeper.namespace, "url": url, "served_name": served_name_in(service)}
        for key, value in named.items():
            context["ti"].xcom_push(key=key, value=value)
        return {"name": self.served.name, **named, **result}

    def _outlast(self, context: Context, error: TemporaryError, answered: str) -> None:
        """Wait for a cluster or store that does not answer, as long as the window is of use to anybody.

        A stop is not waited for: what a person wanted then may be wrong by the time it is done.
        """
        now, run = datetime.now(tz=UTC), context["dag_run"]
        because = _because(context)
        if _action(context) != OPEN:
            return
        if because is Opening.HOURS:
            wanted = due(self.served.hours, self.served.longest, self.served.longest, now, run.run_after)
            until = wanted.window.closes if wanted else now
        else:
            patience = WAKE_OUTAGE if because is Opening.WAKE else OUTAGE
            until = (moment(answered) if answered else run.run_after) + patience
        if now < until:
            self._wait_until(now + STORE_RETRY, error.message.rstrip("."), answered)

    def _wait_until(self, time: datetime, why: str, answered: str | None = None) -> None:
        self.log.info("%s: %s; waiting until %s UTC.", self.served.name, why, f"{time:%Y-%m-%d %H:%M:%S}")
        last = text_of(datetime.now(tz=UTC)) if answered is None else answered
        self.defer(trigger=DateTimeTrigger(moment=time), method_name="go_on", kwargs={"answered": last})


def _action(context: Context) -> str:
    return str(context["params"].get("action") or OPEN)


def _because(context: Context) -> Opening:
    if str(context["run_id"]).startswith(ADOPTED):
        return Opening.FOUND
    run_type = context["dag_run"].run_type
    kind = str(getattr(run_type, "value", run_type))
    return {"scheduled": Opening.HOURS, "asset_triggered": Opening.DELIVERY}.get(kind, Opening.WAKE)
