"""`airfreight register | stage | promote | roll-back`: how a release becomes live on a target, or makes way again.

The steps of a run: `register` (lock, checks, ledger), `stage` (the candidate is applied; `register --stage` does both),
the gates, then `promote` or `roll-back`.
"""

from __future__ import annotations

import getpass
import json
import socket
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from airfreight.commands.common import ResultOption, write_result
from airfreight.commands.releases import LedgerOption, releases
from airfreight.commands.requesting import (
    ArtifactOption,
    DeliveryOption,
    ManifestOption,
    NameOption,
    NamespaceOption,
    PlainHttpOption,
    PullSecretOption,
    ServedNameOption,
    ServingOption,
    SizeOption,
    SourceOption,
    TakeOverOption,
    checked_plan,
    read_request,
)
from airfreight.errors import GateError, RequestError

if TYPE_CHECKING:
    from airfreight.deployment import Plan, Request
    from airfreight.egress import Site
    from airfreight.handover import Done, Handover
    from airfreight.ledger_rules import Lock, Release
    from airfreight.prepull import Pulled
    from airfreight.served_model import ServedModel

RunOption = Annotated[
    str, typer.Option(help="Name of the run, the same in each of its steps; empty: you, on this machine.")
]
BusyOption = Annotated[str, typer.Option(metavar="wait|refuse", help="What to do while another run is at this target.")]
WaitOption = Annotated[int, typer.Option(metavar="SECONDS", min=0, help="How long to wait for it, at most.")]
EvidenceOption = Annotated[
    str, typer.Option(metavar="JSON", help="Kept in the release's history: gate results, timings, what triggered it.")
]
TimeoutOption = Annotated[
    int, typer.Option(metavar="SECONDS", min=1, help="For what is put back to answer again, at most.")
]


def register_candidate(
    name: NameOption,
    namespace: NamespaceOption,
    artifact: ArtifactOption,
    source: SourceOption,
    served_name: ServedNameOption,
    serving: ServingOption,
    delivery: DeliveryOption = "auto",
    manifest_sha256: ManifestOption = None,
    size_bytes: SizeOption = 0,
    pull_secret: PullSecretOption = "",
    plain_http: PlainHttpOption = False,
    ledger: LedgerOption = None,
    run: RunOption = "",
    if_busy: BusyOption = "wait",
    wait: WaitOption = 3600,
    evidence: EvidenceOption = "",
    take_over: TakeOverOption = False,
    apply: Annotated[bool, typer.Option("--stage", help="Apply it too, as it is registered; see `stage`.")] = False,
    egress: Annotated[bool, typer.Option("--egress", help="Put its pods under a NetworkPolicy.")] = False,
    store_url: Annotated[str, typer.Option(help="With --egress: the S3 endpoint as pods see it; empty: AWS.")] = "",
    store_port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="With --egress: of the store's pods, if another one.")
    ] = 0,
    resolver_namespace: Annotated[str, typer.Option(help="With --egress: namespace of our resolver.")] = "",
    resolver: Annotated[str, typer.Option(help="With --egress: cluster IP of our resolver's Service.")] = "",
    result: ResultOption = None,
) -> None:
    """Write a release into the ledger as a candidate, and take the target's lock for this run.

    All that `deploy` checks is checked first, and nodes pull the images they lack. Without --stage nothing is served
    yet.

    Example: airfreight register --name pong --namespace models --artifact s3://llm-models/acme/pong/3b1f9d2c4a5e/
    --source hf://acme/pong@3b1f9d2c --served-name pong --serving '{"runtime": "airfreight-vllm-cpu-1a2b3c4d5e6f"}'
    --ledger s3://llm-models/
    """
    from airfreight.deployment import make_plan
    from airfreight.egress import Site

    request = read_request(
        name, namespace, artifact, source, served_name, serving, delivery, manifest_sha256, size_bytes, pull_secret
    )
    site = Site(store_url, resolver_namespace, store_port or None, resolver) if egress else None
    make_plan(request, site=site)  # a wrong resolver is refused before anything is asked
    kept = _evidence(evidence)
    handover = _handover(name, namespace, ledger, run)
    former = _lock(handover, if_busy, wait)
    try:
        plan, pulled = rehearsed_plan(handover.model, request, plain_http, site, take_over)
    except (RequestError, GateError):
        handover.refuse(former)
        raise
    done = handover.register(as_release(plan), former, kept, take_over=take_over)
    typer.echo(done.story)
    told = {**done.result, **plan.result(), "prepulled": [one.result() for one in pulled]}
    if apply:
        staged = handover.stage(plan.release, take_over=take_over)
        typer.echo(staged.story)
        told.update(staged.result)
    write_result(result, told)


def stage(
    name: NameOption,
    namespace: NamespaceOption,
    release: Annotated[str, typer.Option(help="The candidate, as register returned it.")],
    ledger: LedgerOption = None,
    run: RunOption = "",
    take_over: TakeOverOption = False,
    result: ResultOption = None,
) -> None:
    """Apply a registered candidate, as it is registered; a stopped model is started for its gates. Does not wait.

    Example: airfreight stage --name pong --namespace models --release 9f2c41ab6c1b --ledger s3://llm-models/
    """
    from airfreight.rendering import service_url

    done = _handover(name, namespace, ledger, run).stage(release, take_over=take_over)
    typer.echo(done.story)
    write_result(result, {**done.result, "url": service_url(name, namespace)})


def promote(
    name: NameOption,
    namespace: NamespaceOption,
    release: Annotated[str, typer.Option(help="The candidate, as register returned it.")],
    ledger: LedgerOption = None,
    run: RunOption = "",
    evidence: EvidenceOption = "",
    result: ResultOption = None,
) -> None:
    """Make a candidate live whose gates have passed, and let the target's lock go.

    Example: airfreight promote --name pong --namespace models --release 9f2c41ab6c1b --ledger s3://llm-models/
    """
    kept = _evidence(evidence)
    _tell(_handover(name, namespace, ledger, run).promote(release, kept), result)


def roll_back(
    name: NameOption,
    namespace: NamespaceOption,
    to: Annotated[
        str, typer.Option(metavar="RELEASE", help="An earlier release, or `previous`; empty: undo the run.")
    ] = "",
    cause: Annotated[str, typer.Option(help="Why; one sentence, kept in the ledger.")] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Keep a first delivery that failed, stopped.")] = False,
    in_run: Annotated[
        bool, typer.Option("--in-run", help="As a task of that run, whose end is the end of it.")
    ] = False,
    ledger: LedgerOption = None,
    run: RunOption = "",
    if_busy: BusyOption = "wait",
    wait: WaitOption = 3600,
    timeout: TimeoutOption = 4500,
    evidence: EvidenceOption = "",
    result: ResultOption = None,
) -> None:
    """Put back what was live, with its runtime, and wait until it answers; a stopped model stays stopped.

    Without --to it undoes what this run registered, and rejects it.

    Example: airfreight roll-back --name pong --namespace models --to previous --cause "answers in Latin"
    """
    kept = _evidence(evidence)
    handover = _handover(name, namespace, ledger, run)
    if not to:
        why = cause or "A gate failed; see the failed task of its run."
        _tell(handover.roll_back(why, kept, keep=keep, timeout_s=timeout, in_run=in_run), result)
        return
    release = _earlier(handover) if to == "previous" else to
    handover.ledger.read(release)
    former = _lock(handover, if_busy, wait)
    why = cause or f"{handover.run} asked for it."
    _tell(handover.put_back(release, former, why, timeout_s=timeout), result)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("register")(register_candidate)
    for command in (stage, promote, roll_back, releases):
        app.command()(command)


def rehearsed_plan(
    model: ServedModel, request: Request, plain_http: bool, site: Site | None, take_over: bool
) -> tuple[Plan, list[Pulled]]:
    """Check everything that can be checked before the live pod is touched, and have nodes pull what they lack.

    Returns:
        What would be applied, and the images that were pulled for it.
    Raises:
        RequestError: something is missing, the cluster refuses it, or an image cannot be pulled, or may not be able to
            while the model runs.
        GateError: KServe would make another pod than it should.
        TemporaryError: cluster or registry do not answer.
    """
    from airfreight.deployment import wrong_sentence
    from airfreight.pulling import check_proof, pull_ahead
    from airfreight.smoke import table

    plan, rehearsal, nodes = checked_plan(model.cluster, request, plain_http, take_over, site)
    if rehearsal.wrong:
        typer.echo(table(rehearsal.checks))
        raise GateError(wrong_sentence(plan, rehearsal))
    if not rehearsal.starts_a_pod:
        return plan, []  # no pod starts, so none needs an image
    pulled = pull_ahead(model.cluster, rehearsal.pod, request.name, nodes, typer.echo, model.clock)
    check_proof(model.cluster, plan, rehearsal, nodes, pulled)
    return plan, pulled


def as_release(plan: Plan) -> Release:
    """Return what the ledger keeps of a plan."""
    from airfreight.ledger_rules import Release

    request = plan.request
    return Release(
        release=plan.release,
        artifact=plan.choice.artifact,
        source=request.source,
        served_name=request.served_name,
        runtime=request.runtime,
        inference_service=plan.object,
        manifest_sha256=request.manifest_sha256,
        network_policy=plan.network_policy,
        delivery=str(plan.choice.mode),
    )


def _handover(name: str, namespace: str, ledger: str | None, run: str) -> Handover:
    from airfreight.cluster import Cluster
    from airfreight.handover import Handover
    from airfreight.ledger_rules import Target
    from airfreight.ledger_store import open_ledger, window_now
    from airfreight.rendering import check_name, check_namespace
    from airfreight.served_model import ServedModel

    check_name(name)
    check_namespace(namespace)
    target = Target(namespace, name)
    book = open_ledger(ledger, target)
    model = ServedModel(Cluster.connect(), target, say=typer.echo)
    run = run or f"{getpass.getuser()}@{socket.gethostname()}"
    return Handover(model, book, run, window=lambda: window_now(ledger, target))


def _lock(handover: Handover, if_busy: str, wait_s: int) -> Lock:
    from airfreight.ledger import wait_for_lock
    from airfreight.retry import Patience

    if if_busy not in ("wait", "refuse"):
        raise RequestError(f"--if-busy is {if_busy!r}; write wait or refuse.")
    patience = Patience(deadline=time.monotonic() + wait_s, on_retry=lambda error: typer.echo(error.message))
    return wait_for_lock(handover.ledger, handover.run, patience, wait=if_busy == "wait")


def _earlier(handover: Handover) -> str:
    from airfreight.ledger_rules import earlier

    found = earlier(handover.ledger.entries())
    if found is None:
        raise RequestError(
            f"{handover.ledger.target} has no earlier release; name one with --to, or deliver another one."
        )
    return found


def _evidence(text: str) -> dict[str, Any]:
    try:
        value: Any = json.loads(text or "{}")
    except ValueError as error:
        raise RequestError(f"--evidence is no JSON ({error}); write one object.") from None
    if not isinstance(value, dict):
        raise RequestError("--evidence is no JSON object; write it like '{\"gates\": []}'.")
    return value


def _tell(done: Done, result: ResultOption) -> None:
    typer.echo(done.story)
    write_result(result, done.result)
