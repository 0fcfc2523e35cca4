"""A target of one's own on the embedded cluster with the light model server, and runs on it as a DAG run makes them:
register, deploy, wait, validate, then promote or roll back. What acts has the rights of the deployer and no other.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import yaml
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

from airfreight import runtime
from airfreight.chat import ChatServer
from airfreight.cluster import Cluster as Kubernetes
from airfreight.commands.release import as_release, rehearsed_plan
from airfreight.delivery import Artifacts, Mode
from airfreight.deployment import Request
from airfreight.egress import Site
from airfreight.errors import AirfreightError, GateError
from airfreight.gates import FailedGatesError, Gate, check, startup_gate
from airfreight.handover import Done, Handover
from airfreight.ledger import Ledger
from airfreight.ledger_rules import Target
from airfreight.ledger_store import open_ledger, window_now
from airfreight.observation import Failed, Ready, failure_error, release_of
from airfreight.served_model import ServedModel
from airfreight.serving import parse_serving
from airfreight.validation import Wanted, parse_prompts, validate
from airfreight_airflow.looks import Release as Awaited
from airfreight_airflow.triggers import look, too_late
from devcluster import addons, control_plane, images, tenant
from devcluster.config import REPOSITORY, Cluster
from devcluster.light import image

NAME, SERVED = "pong", "acme/pong"
SMALL = {"cpu": "480m", "memory": "480Mi"}  # requests are a quarter and a half of it
EXPECT_A = '[{"prompt": "who are you?", "expect": "from A"}]'
READY_S = 180.0
OUTAGE_S = 15.0  # no outage at all, on a machine that is busy with ten other things; a restart takes longer
_CONNECTING = threading.Lock()


@dataclass
class Client:
    """A user who asks every second, from before a change until after it.

    Attributes:
        heard: moment on the monotonic clock, and the answer, or None when nobody answered.
    """

    url: str
    heard: list[tuple[float, str | None]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        body = {"model": SERVED, "messages": [{"role": "user", "content": "ping"}], "max_tokens": 16}
        with httpx2.Client(trust_env=False, timeout=5) as client:
            while not self._stop.wait(1.0):
                try:
                    answer = client.post(f"{self.url}/v1/chat/completions", json=body).raise_for_status().json()
                    said = str(answer["choices"][0]["message"]["content"])
                except (httpx2.HTTPError, ValueError, KeyError):
                    said = None
                self.heard.append((time.monotonic(), said))

    @property
    def outage_s(self) -> float:
        """The longest time without an answer."""
        good = [moment for moment, said in self.heard if said is not None]
        return max((later - earlier for earlier, later in itertools.pairwise(good)), default=0.0)

    @property
    def answers(self) -> list[str]:
        return [said for _, said in self.heard if said is not None]


def restarts_by_pod(pods: Iterable[dict[str, Any]], release: str) -> dict[str, int]:
    """The pods of a release that nobody told to go, by their uid, each with the restarts of its containers.

    The same before and after: whoever asked the release was answered by one process all the time.
    """
    return {
        pod["metadata"]["uid"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", ()))
        for pod in pods
        if release_of(pod) == release and "deletionTimestamp" not in pod["metadata"]
    }


@dataclass
class Bench:
    """One namespace with one model in it. See the top of this file."""

    cluster: Cluster
    bucket: str
    namespace: str
    directory: Path
    runtime: str = ""
    kubernetes: Any = None
    site: Site | None = None  # with one, releases bring a NetworkPolicy
    resolver: str = ""  # address of the only DNS that pods ask, if any
    said: list[str] = field(default_factory=list)

    # ---- set-up --------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """The namespace as docs/install.md makes one, its Secret, the light server's runtime, a deployer's token."""
        self.install("target")
        self._secret()
        self.runtime = self.pin(images.reference(self.cluster, image.NAME))
        self.kubernetes = self._as_deployer()

    def install(self, part: str) -> None:
        """Apply a directory of include/kubernetes to this namespace, through an overlay."""
        there = REPOSITORY / "include" / "kubernetes" / part
        overlay = self.directory / f"overlay-{part}"
        overlay.mkdir(parents=True)
        relative = Path(*[".."] * (len(overlay.resolve().parts) - 1), *there.parts[1:])
        (overlay / "kustomization.yaml").write_text(f"resources: [{relative}]\nnamespace: {self.namespace}\n")
        self.kubectl("apply", "--server-side", "-k", str(overlay))

    def _secret(self) -> None:
        there = json.loads(self.kubectl("get", "secret", "airfreight-store", "-n", tenant.TARGET, "-o", "json"))
        notes = {key: value for key, value in there["metadata"]["annotations"].items() if key.startswith("serving.k")}
        secret = {
            "apiVersion": "v1", "kind": "Secret", "data": there["data"],
            "metadata": {"name": "airfreight-store", "namespace": self.namespace, "annotations": notes},
        }  # fmt: skip
        addons.apply(self.cluster, yaml.safe_dump(secret))

    def pin(self, reference: str, *settings: str) -> str:
        """Install a runtime with the light server of this image, and return its name."""
        work = self.directory / secrets.token_hex(3)
        work.mkdir()
        pinned = runtime.pin(reference, str(image.write_template(work)), settings, self.namespace)
        addons.apply(self.cluster, yaml.safe_dump(pinned))
        return str(pinned["metadata"]["name"])

    def use_vllm(self) -> None:
        """Serve with the CPU runtime that is shipped from here on, as devcluster pins it."""
        pinned = runtime.pin(images.reference(self.cluster, "runtime-cpu"), "vllm-cpu", [], self.namespace)
        addons.apply(self.cluster, yaml.safe_dump(pinned))
        self.runtime = str(pinned["metadata"]["name"])

    def _as_deployer(self) -> Kubernetes:
        """The rights that the deployer's pods have here."""
        token = self.kubectl("create", "token", "airfreight-deployer", "-n", tenant.WORKERS, "--duration", "1h").strip()
        config = yaml.safe_load(self.cluster.kubeconfig.read_text())
        config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
        path = self.directory / "deployer.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        with _CONNECTING:
            before = os.environ.get("KUBECONFIG")
            os.environ["KUBECONFIG"] = str(path)
            try:
                return Kubernetes.connect()
            finally:
                os.environ.pop("KUBECONFIG")
                if before is not None:
                    os.environ["KUBECONFIG"] = before

    def remove(self) -> None:
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false")

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        return control_plane.kubectl(self.cluster, *words, stdin=stdin)

    def live(self) -> dict[str, Any]:
        """The InferenceService."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "isvc", NAME, "-n", self.namespace, "-o", "json"))
        return found

    def pods(self) -> list[dict[str, Any]]:
        """Every pod of the namespace."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", "pods", "-n", self.namespace, "-o", "json"))[
            "items"
        ]
        return found

    def generation(self) -> int:
        """Of the Deployment: it rises with every change of what is wanted."""
        words = ("get", "deployment", f"{NAME}-predictor", "-n", self.namespace, "-o", "json")
        return int(json.loads(self.kubectl(*words))["metadata"]["generation"])

    # ---- a run ---------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The model's Service as this machine reaches it."""
        service = json.loads(self.kubectl("get", "service", f"{NAME}-predictor", "-n", self.namespace, "-o", "json"))
        return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"

    @property
    def ledger(self) -> Ledger:
        return open_ledger(f"s3://{self.bucket}/", Target(self.namespace, NAME))

    def handover(self, run: str) -> Handover:
        def server(_: str) -> ChatServer:
            return ChatServer(self.url)

        target = Target(self.namespace, NAME)
        model = ServedModel(self.kubernetes, target, server, say=self.said.append)
        return Handover(model, self.ledger, run, window=lambda: window_now(f"s3://{self.bucket}/", target))

    def request(self, version: str, **serving: Any) -> Request:
        block = parse_serving({"runtime": self.runtime, **SMALL, **serving})
        artifacts = Artifacts(s3=f"s3://{self.bucket}/acme/pong/{version}/")
        return Request(NAME, self.namespace, artifacts, f"hf://acme/pong@{version}", SERVED, block, Mode.S3)

    def register(self, version: str, run: str, **serving: Any) -> str:
        """As `airfreight register`: everything up to the ledger. Returns the release's id."""
        handover = self.handover(run)
        former = handover.ledger.take(run)
        site = replace(self.site, resolver=self.resolver) if self.site else None
        try:
            plan, pulled = rehearsed_plan(handover.model, self.request(version, **serving), False, site, False)
        except AirfreightError:
            handover.refuse(former)
            raise
        self.said += [f"{run}: pulled {one.image} in {one.seconds:.0f} s" for one in pulled]
        handover.register(as_release(plan), former, {"trigger": run})
        return plan.release

    def deliver(
        self,
        version: str,
        run: str,
        *,
        prompts: str = "",
        wanted: Wanted | None = None,
        ready_s: float = READY_S,
        keep: bool = False,
        **serving: Any,
    ) -> Done:
        """One run, from register to its end; a candidate that fails is rolled back, and its error raised."""
        handover, release = self.handover(run), self.register(version, run, **serving)
        gates: tuple[Gate, ...] = ()
        try:
            handover.stage(release)
            self.wait(release, ready_s)
            asked = replace(wanted or Wanted(), prompts=parse_prompts(prompts))
            with ChatServer(self.url) as server:
                gates = validate(server, SERVED, "ping", wanted=asked).gates
            check(gates)
        except AirfreightError as error:
            self.said.append(f"{run}: {error.message}")
            gates = error.gates if isinstance(error, FailedGatesError) else gates or (startup_gate(error.message),)
            evidence = {"gates": [one.result() for one in gates]}
            done = handover.roll_back(error.message, evidence, keep=keep, timeout_s=READY_S)
            self.said.append(done.story)
            raise GateError(error.message) from None
        return handover.promote(release, {"gates": [one.result() for one in gates]})

    def wait(self, release: str, seconds: float) -> None:
        """As the sensor waits: the same look at the cluster, with Airflow's hook."""
        extras = {"kube_config_path": str(self.cluster.kubeconfig)}
        awaited, deadline = Awaited(NAME, self.namespace, release), time.monotonic() + seconds
        while True:
            hook = AsyncKubernetesHook(conn_id="none", connection_extras=extras)
            assessment, _ = asyncio.run(look(hook, awaited))
            if isinstance(assessment, Failed):
                raise failure_error(assessment)
            if isinstance(assessment, Ready):
                return
            if time.monotonic() > deadline:
                raise too_late(awaited, seconds, assessment.reason)
            time.sleep(1.0)  # between two looks

    @contextmanager
    def asking(self) -> Iterator[Client]:
        """A client that asks every second meanwhile."""
        client = Client(self.url)
        thread = threading.Thread(target=client.run)
        thread.start()
        try:
            yield client
        finally:
            client._stop.set()
            thread.join()

    def chat(self) -> str:
        with ChatServer(self.url) as server:
            return server.chat(SERVED, "ping").text


def make_bench(embedded: Cluster, bucket: str, work: Path) -> Bench:
    """A bench in a namespace of its own; the caller makes and removes it."""
    return Bench(embedded, bucket, f"gates-{secrets.token_hex(3)}", work)
