"""What a finished run leaves behind for people: one report as JSON and as Markdown, beside the store and outside every
served prefix.

    s3://llm-models/.airfreight/reports/deliver_model/manual__2026-11-22T16:11:00+00:00.json   and   ….md

    {"artifact": "s3://llm-models/acme/pong/41ab6c1b1c1f/", "bytes": 33554432, "commit": "41ab…", "files": 9, "format":
    1,
     "manifest_sha256": "71d0…", "moved_bytes": 0, "name": "acme-pong", "namespace": "models", "release":
     "9f2c41ab6c1b", "question": "ping", "answer": "pong from A", "system_fingerprint": "vllm-…", "url":
     "http://acme-pong-predictor…", "run_id": "manual__…", "source": "hf://acme/pong@41ab…", "seconds": {"resolve": 6.1,
     "upload_to_s3": 8.0, …}}

XComs only point at things. What the report says of the artifact is read back from the store.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowNotFoundException

from airfreight.errors import AirfreightError, IntegrityError, RequestError, TemporaryError
from airfreight.manifest import MANIFEST_NAME, RESERVED_DIRECTORY, Manifest
from airfreight_airflow import failures
from airfreight_airflow.settings import Settings, read_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

FORMAT = 1
STEPS = ("resolve", "upload_to_s3", "deploy", "wait_until_ready", "validate")
# What S3 says when asking again changes nothing.
_REFUSALS = frozenset(
    {"403", "404", "AccessDenied", "InvalidAccessKeyId", "NoSuchBucket", "NoSuchKey", "SignatureDoesNotMatch"}
)

log = logging.getLogger(__name__)

Results = Mapping[str, Any]


def write_report(uploaded: Results, deployed: Results, ready: Results | str, validated: Results) -> dict[str, str]:
    """The `report` task: read the artifact back, write the report, show it.

    Args:
        uploaded: result of `airfreight copy`.
        deployed: result of `airfreight deploy`.
        ready: result of the sensor; as JSON text when its trigger ended the task, because Airflow 3.3 serialises what a
            trigger leaves one time more (`TaskInstance.xcom_push` in airflow/models/trigger.py).
        validated: result of `airfreight validate`.
    Returns:
        `{"report": "s3://…json", "artifact": "s3://…/"}`: pointers.
    """
    context = get_current_context()
    try:
        settings = read_settings()
        store = Store(settings)
        report = {
            **_of_steps(uploaded, deployed, json.loads(ready) if isinstance(ready, str) else ready, validated),
            **_of_artifact(store, uploaded),
            "format": FORMAT,
            "run_id": context["run_id"],
            "seconds": _seconds(context),
        }
        place = f"{settings.store}{RESERVED_DIRECTORY}/reports/{context['dag'].dag_id}/{context['run_id']}"
        text = as_markdown(report)
        store.write(f"{place}.json", json.dumps(report, sort_keys=True, ensure_ascii=False, indent=1) + "\n")
        store.write(f"{place}.md", text)
    except AirfreightError as error:
        failures.end_task(context, error)
    log.info("Report %s.md\n\n%s", place, text)
    return {"report": f"{place}.json", "artifact": str(report["artifact"])}


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


def as_markdown(report: Results) -> str:
    """The report for a person; also what the task's log shows."""
    seconds: Mapping[str, float] = report["seconds"]
    lines = [
        f"# {report['source']}",
        "",
        "| | |",
        "|---|---|",
        f"| artifact | {report['artifact']} |",
        f"| size | {report['files']} files, {_megabytes(report['bytes'])}, moved {_megabytes(report['moved_bytes'])} |",
        f"| manifest | sha256 {report['manifest_sha256']} |",
        *_provenance(report),
        f"| served as | {report['name']} in namespace {report['namespace']}, release {report['release']} |",
        f"| address | {report['url']} |",
        f"| question | {_cell(report['question'])} |",
        f"| answer | {_cell(report['answer'])} |",
        f"| system_fingerprint | {_cell(report['system_fingerprint'])} |",
        "",
        "| step | seconds |",
        "|---|---:|",
        *(f"| {step} | {value:.1f} |" for step, value in seconds.items()),
        "",
    ]
    return "\n".join(lines)


def _provenance(report: Results) -> Iterator[str]:
    """Rows that are there only if there is something to say."""
    if report.get("licences"):
        yield f"| licence | {_cell(', '.join(report['licences']))} |"
    if report.get("allow_unsafe"):
        yield f"| can run code | {_cell(', '.join(report['unsafe_files']))}: {_cell(report['allow_unsafe'])} |"


def in_order(breadcrumbs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds per finished step, in the order of the run."""
    found = {str(crumb["task_id"]): float(crumb["duration"] or 0.0) for crumb in breadcrumbs}
    return {step: round(found[step], 1) for step in STEPS if step in found}


def _decoded(result: Results | str | None) -> Results:
    # Airflow 3.3 encodes the XComs of a TaskSuccessEvent twice (models/trigger.py hands them to the ORM's xcom_push,
    # whose XComModel.set makes JSON of what the column makes JSON of again), so the worker gets a string.
    decoded: Results = json.loads(result) if isinstance(result, str) else result or {}
    return decoded


def _of_steps(uploaded: Results, deployed: Results, ready: Results, validated: Results) -> dict[str, Any]:
    return {
        "licences": uploaded.get("licences"),
        # Why files that can run code were taken: whoever meets them later finds it here.
        "unsafe_files": uploaded.get("unsafe_files") or [],
        "allow_unsafe": uploaded.get("allow_unsafe"),
        "moved_bytes": uploaded["moved_bytes"],
        "copy_seconds": uploaded["seconds"],
        "name": deployed["name"],
        "namespace": deployed["namespace"],
        "release": deployed["release"],
        "changed": deployed["changed"],
        "url": deployed["url"],
        "ready_seconds": ready.get("seconds"),
        "question": validated["question"],
        "answer": validated["answer"],
        "system_fingerprint": validated["system_fingerprint"],
        "tokens_per_s": validated.get("tokens_per_s"),
        "ttft_s": validated.get("ttft_s"),
    }


def _of_artifact(store: Store, uploaded: Results) -> dict[str, Any]:
    artifact = str(uploaded["artifact"])
    try:
        manifest = Manifest.from_json(store.read(artifact + MANIFEST_NAME))
    except ValueError as error:
        raise IntegrityError(f"{artifact}{MANIFEST_NAME} is no manifest ({error}): deliver the model again.") from error
    if manifest.sha256 != uploaded["manifest_sha256"]:
        raise IntegrityError(
            f"{artifact}{MANIFEST_NAME} has sha256 {manifest.sha256}, this run wrote {uploaded['manifest_sha256']}: "
            "somebody replaced the artifact while it was delivered; deliver it again."
        )
    return {
        "artifact": artifact,
        "source": manifest.source,
        "commit": manifest.commit,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "manifest_sha256": manifest.sha256,
    }


def _seconds(context: Context) -> dict[str, float]:
    task_instance: Any = context["ti"]
    return in_order(task_instance.get_task_breadcrumbs(task_instance.dag_id, task_instance.run_id))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _cell(value: object) -> str:
    """A table cell: the model's answer may hold anything."""
    return " ".join(str(value if value is not None else "").split()).replace("|", "\\|")
