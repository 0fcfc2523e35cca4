"""What a finished run leaves behind for people: one report as JSON and as Markdown, beside the store and outside every
served prefix.

    s3://llm-models/.airfreight/reports/deliver_model/manual__2026-11-22T16:11:00+00:00.json   and   ….md

    {"artifact": "s3://llm-models/acme/pong/41ab6c1b1c1f/", "artifacts": ["s3://…", "oci://…@sha256:…"], "bytes":
     33554432, "commit": "41ab…", "files": 9, "format": 1, "manifest_sha256": "71d0…", "moved_bytes": 0, "source":
     "hf://acme/pong@41ab…", "name": "acme-pong", "namespace": "models", "release": "9f2c41ab6c1b", "delivery":
     "oci+native", "question": "ping", "answer": "pong from A", "system_fingerprint": "vllm-…", "url":
     "http://acme-pong-predictor…", "gates": […], "previous": "0a1b2c3d4e5f", "outage_s": 0.0,
     "changes": […], "run_id": "manual__…", "seconds": {"resolve": 6.1, "upload_to_s3": 8.0, …}}

XComs only point at things. What the report says of an artifact in S3 is read back from the store; an image is named by
the digest that the registry confirmed. A run that only publishes has neither answer nor address. A run whose release
failed has its report beside that release, in the ledger (`airfreight.release_report`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowNotFoundException

from airfreight.errors import AirfreightError, IntegrityError, RequestError, TemporaryError
from airfreight.manifest import MANIFEST_NAME, RESERVED_DIRECTORY, Manifest
from airfreight_airflow import failures
from airfreight_airflow.report_page import as_markdown
from airfreight_airflow.route import MAPPED, OPTIONAL, PUBLISHING, RESOLVE, Route
from airfreight_airflow.settings import Settings, read_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

FORMAT = 1
STEPS = (RESOLVE, *(task for task in OPTIONAL if task != "report"))
_OF_SERVING = ("render", "smoke_test", "deploy", "wait_until_ready", "validate", "prove_egress", "promote")
# What S3 says when asking again changes nothing.
_REFUSALS = frozenset(
    {"403", "404", "AccessDenied", "InvalidAccessKeyId", "NoSuchBucket", "NoSuchKey", "SignatureDoesNotMatch"}
)

log = logging.getLogger(__name__)

Results = Mapping[str, Any]


def write_report() -> dict[str, Any]:
    """The `report` task: read the artifact back, write the report, show it.

    Returns:
        `{"report": "s3://…json", "artifact": "s3://…/", "artifacts": [...]}`: pointers.
    """
    context = get_current_context()
    try:
        settings = read_settings()
        store = Store(settings)
        route = Route.of(context["params"], settings.destination, settings.volume_access, walled=settings.walled)
        report = {
            **compose(results_of(context["ti"], route)),
            "format": FORMAT,
            "run_id": context["run_id"],
            "seconds": _seconds(context),
        }
        for artifact in report["artifacts"]:
            if artifact.startswith("s3://"):
                check_read_back(store, artifact, report["manifest_sha256"])
        place = f"{settings.store}{RESERVED_DIRECTORY}/reports/{context['dag'].dag_id}/{context['run_id']}"
        text = as_markdown(report)
        store.write(f"{place}.json", json.dumps(report, sort_keys=True, ensure_ascii=False, indent=1) + "\n")
        store.write(f"{place}.md", text)
    except AirfreightError as error:
        failures.end_task(context, error)
    log.info("Report %s.md\n\n%s", place, text)
    return {"report": f"{place}.json", "artifact": report["artifact"], "artifacts": report["artifacts"]}


def results_of(ti: Any, route: Route) -> dict[str, list[Results]]:
    """What the tasks on a run's way left, by task; one result, or of a mapped task one per pod.

    Args:
        ti: the task instance that asks.
        route: skipped tasks are not asked, for Airflow logs an error for each result that is not there.
    """
    found: dict[str, list[Results]] = {}
    for task in (RESOLVE, *route.tasks()):
        if task in MAPPED:
            left = ti.xcom_pull(task_ids=task, map_indexes=range(len(route.shares()))) or []
            found[task] = [result for result in left if result]
        elif task in (RESOLVE, *PUBLISHING, *_OF_SERVING):
            found[task] = [decoded(ti.xcom_pull(task_ids=task))]
    return found


def compose(results: Mapping[str, Sequence[Results]]) -> dict[str, Any]:
    """What the report says of a run, from what its tasks left.

    Args:
        results: as `results_of` returns them.
    """
    copies = [result for task in PUBLISHING for result in results.get(task, ())]
    # What `download` put onto the volume was moved once more from there, and that is what counts.
    shares = [result for task in MAPPED if task != "download" for result in results.get(task, ())]
    return {**_of_source(results[RESOLVE][0], copies), **_of_copies(copies, shares), **_of_serving(results)}


class Store:
    """The S3 store as the worker sees it: small objects only, through the site's connection."""

    def __init__(self, settings: Settings) -> None:
        # Imported here: the DAG file imports this module, and boto3 would cost every parse a second.
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        self._conn_id = settings.store_conn_id
        self._hook = S3Hook(aws_conn_id=settings.store_conn_id)

    def read(self, url: str) -> bytes:
        """Read one small object.

        Raises:
            RequestError: the connection is missing or refused, or there is no such object.
            TemporaryError: the store does not answer.
        """
        bucket, key = self._hook.parse_s3_url(url)
        with self._answering(url):
            return bytes(self._hook.get_key(key, bucket).get()["Body"].read())

    def write(self, url: str, text: str) -> None:
        """Write one small object, over an older one.

        Raises:
            RequestError: the connection is missing or refused, or there is no such bucket.
            TemporaryError: the store does not answer.
        """
        bucket, key = self._hook.parse_s3_url(url)
        with self._answering(url):
            self._hook.load_string(text, key, bucket, replace=True)

    @contextmanager
    def _answering(self, url: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        through = f"{url} cannot be reached with connection {self._conn_id}"
        try:
            yield
        except (AirflowNotFoundException, NoCredentialsError):
            # Without the connection the provider falls back to the process's own credentials; it seldom has any.
            raise RequestError(f"{through} (no credentials): define it, of type aws.") from None
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _REFUSALS:
                raise RequestError(f"{through} ({code}): look at its keys, its endpoint and the bucket.") from error
            raise TemporaryError(f"{through} ({code or error}).") from error
        except BotoCoreError as error:
            raise TemporaryError(f"{through} ({error}).") from error


def in_order(breadcrumbs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds per finished step, in the order of the run; of a step in several pods those of the slowest."""
    found: dict[str, float] = {}
    for crumb in breadcrumbs:
        step = str(crumb["task_id"])
        if str(crumb.get("state")) != "skipped":
            found[step] = max(found.get(step, 0.0), float(crumb["duration"] or 0.0))
    return {step: round(found[step], 1) for step in STEPS if step in found}


def check_read_back(store: Store, artifact: str, manifest_sha256: str) -> None:
    """Check that the artifact in the store is the one that this run wrote.

    Raises:
        IntegrityError: it has another manifest, or none that can be read.
    """
    try:
        manifest = Manifest.from_json(store.read(artifact + MANIFEST_NAME))
    except ValueError as error:
        raise IntegrityError(f"{artifact}{MANIFEST_NAME} is no manifest ({error}): deliver the model again.") from error
    if manifest.sha256 != manifest_sha256:
        raise IntegrityError(
            f"{artifact}{MANIFEST_NAME} has sha256 {manifest.sha256}, this run wrote {manifest_sha256}: "
            "somebody replaced the artifact while it was delivered; deliver it again."
        )


def _of_source(resolved: Results, copies: Sequence[Results]) -> dict[str, Any]:
    # A copy lists the files again; the last word on them is its own.
    last: Results = {**resolved, **(copies[-1] if copies else {})}
    return {
        "source": resolved.get("source") or last.get("source"),
        "commit": last.get("commit"),
        "files": last["files"],
        "bytes": last["size_bytes"],
        "manifest_sha256": last["manifest_sha256"],
        "licences": resolved.get("licences"),
        # Why files that can run code were taken: whoever meets them later finds it here.
        "unsafe_files": last.get("unsafe_files") or [],
        "allow_unsafe": last.get("allow_unsafe"),
    }


def _of_copies(copies: Sequence[Results], shares: Sequence[Results]) -> dict[str, Any]:
    artifacts = [str(copied["artifact"]) for copied in copies]
    return {
        "artifact": artifacts[0],
        "artifacts": artifacts,
        "moved_bytes": sum(int(copied.get("moved_bytes") or 0) for copied in (*copies, *shares)),
        "copy_seconds": max(float(copied.get("seconds") or 0.0) for copied in (*copies, *shares)),
    }


def _of_serving(results: Mapping[str, Sequence[Results]]) -> dict[str, Any]:
    def of(task: str) -> Results:
        return next(iter(results.get(task, ())), {})

    rendered, smoke, deployed, ready, validated, proven, promoted = map(of, _OF_SERVING)
    facts = {**rendered, **deployed}
    return {
        "name": facts.get("name"),
        "namespace": facts.get("namespace"),
        "release": facts.get("release"),
        "delivery": facts.get("delivery") or smoke.get("delivery"),
        "changed": deployed.get("changed", False),
        "url": deployed.get("url"),
        "ready_seconds": ready.get("seconds"),
        "question": validated.get("question"),
        "answer": validated.get("answer"),
        "system_fingerprint": validated.get("system_fingerprint"),
        "tokens_per_s": validated.get("tokens_per_s"),
        "ttft_s": validated.get("ttft_s"),
        "gates": [*(validated.get("gates") or []), *([proven["gate"]] if proven else [])],
        "previous": promoted.get("previous"),
        "stopped": promoted.get("stopped", False),
        "outage_s": promoted.get("outage_s"),
        "changes": promoted.get("changes") or [],
    }


def decoded(result: Results | str | None) -> Results:
    """A task's result, whoever left it."""
    # That of the sensor is JSON text when its trigger ended the task: Airflow 3.3 serialises what a trigger leaves one
    # time more (`TaskInstance.xcom_push` in airflow/models/trigger.py).
    decoded: Results = json.loads(result) if isinstance(result, str) else result or {}
    return decoded


def _seconds(context: Context) -> dict[str, float]:
    task_instance: Any = context["ti"]
    return in_order(task_instance.get_task_breadcrumbs(task_instance.dag_id, task_instance.run_id))
