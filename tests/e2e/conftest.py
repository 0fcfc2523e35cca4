"""The whole product: an Airflow of the tests' own against the embedded cluster, its own store and namespace.

What is made here is removed at the end, also when tests fail: the namespace, the bucket, the Secrets, Airflow.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from airfreight.airflow_api import AirflowApi, RunSummary
from devcluster import addons, airflow, control_plane, daemons, images, tenant
from devcluster.config import REPOSITORY, Cluster
from tests.servers import free_port

DAG = "deliver_model"
DAEMON = "airflow-tests"
STORE_SECRET = "airfreight-store-e2e"
WORKER_NAMESPACES = ("airfreight", "airfreight-build")


@dataclass
class Delivery:
    """Airflow, the cluster and the store, as a test talks to them.

    Attributes:
        namespace: the target namespace, with Airfreight's rights in it.
        locked: a namespace in which Airfreight has no rights.
        registry: root for images of these tests alone; they stay in the registry until it is cleared.
        runs: the DAGs and ids of the runs the current test started, for its logs.
    """

    cluster: Cluster
    port: int
    home: Path
    bucket: str
    namespace: str
    locked: str
    registry: str
    runs: list[tuple[str, str]] = field(default_factory=list)

    def api(self) -> AirflowApi:
        password = addons.credentials(self.cluster)["airflow_password"]
        return AirflowApi(airflow.url(self.port), user=airflow.USER, password=password)

    def trigger(self, **conf: Any) -> str:
        """Start a delivery through REST and return its id."""
        return self.start(DAG, **{"namespace": self.namespace, **conf})

    def start(self, dag_id: str, **conf: Any) -> str:
        """Start a run of any DAG through REST and return its id."""
        with self.api() as api:
            run_id = api.trigger(dag_id, conf)
        self.runs.append((dag_id, run_id))
        return run_id

    def finish(self, run_id: str, dag_id: str = DAG) -> RunSummary:
        """Wait for a run's end and say what it did."""
        with self.api() as api:
            for _ in api.follow(dag_id, run_id):
                pass
            return api.run_summary(dag_id, run_id)

    def deliver(self, **conf: Any) -> RunSummary:
        return self.finish(self.trigger(**conf))

    def run(self, dag_id: str, **conf: Any) -> RunSummary:
        return self.finish(self.start(dag_id, **conf), dag_id)

    def claims(self, namespace: str) -> list[str]:
        """Volumes of runs in a namespace that are not being removed."""
        found = self.get("persistentvolumeclaims", namespace=namespace, selector="airfreight.dev/dag=deliver_model")
        return [item["metadata"]["name"] for item in found["items"] if "deletionTimestamp" not in item["metadata"]]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return control_plane.kubectl(self.cluster, *arguments, stdin=stdin)

    def get(self, kind: str, name: str = "", *, namespace: str | None = None, selector: str = "") -> Any:
        """One object, or the list of those that a selector finds, as JSON."""
        words = ["get", kind, *([name] if name else []), "-n", namespace or self.namespace, "-o", "json"]
        return json.loads(self.kubectl(*words, *(["-l", selector] if selector else [])))

    def store(self) -> Any:
        return tenant.store_client(self.cluster)

    def keys(self, prefix: str = "") -> dict[str, int]:
        """Keys below a prefix with their sizes; {} also when there is no bucket."""
        client = self.store()
        try:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}
        except client.exceptions.NoSuchBucket:
            return {}

    def read(self, key: str) -> bytes:
        return bytes(self.store().get_object(Bucket=self.bucket, Key=key)["Body"].read())

    def service_url(self, name: str) -> str:
        """The model's Service as this machine reaches it: the host has a route to the cluster's addresses."""
        service = self.get("service", f"{name}-predictor")
        return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"

    def chat(self, name: str, model: str, question: str = "ping") -> str:
        """Ask a live model by ourselves, beside what the run says it answered."""
        body = {"model": model, "messages": [{"role": "user", "content": question}]}
        with httpx2.Client(trust_env=False, timeout=60) as client:
            answer = client.post(f"{self.service_url(name)}/v1/chat/completions", json=body).raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    def environment(self, **extra: str) -> dict[str, str]:
        """What the tests' Airflow has beside the embedded cluster's own settings."""
        return {
            "AIRFLOW__AIRFREIGHT__STORE": f"s3://{self.bucket}/",
            "AIRFLOW__AIRFREIGHT__STORE_SECRET": STORE_SECRET,
            "AIRFLOW__AIRFREIGHT__TARGET_NAMESPACE": self.namespace,
            "AIRFLOW__AIRFREIGHT__REGISTRY": self.registry,
            **extra,
        }

    def start_airflow(self, **extra: str) -> None:
        airflow.start(self.cluster, self.environment(**extra), home=self.home, port=self.port, name=DAEMON)

    def make_bucket(self) -> None:
        self.store().create_bucket(Bucket=self.bucket)

    def put_store_secret(self, password: str) -> None:
        """The Secret that the publisher's pods of this Airflow use, also beside buildah."""
        keys = {"AWS_ACCESS_KEY_ID": addons.STORE_USER, "AWS_SECRET_ACCESS_KEY": password}
        secrets_ = [_secret(namespace, STORE_SECRET, keys) for namespace in WORKER_NAMESPACES]
        addons.apply(self.cluster, yaml.safe_dump_all(secrets_))


def _secret(
    namespace: str, name: str, data: Mapping[str, str], annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "annotations": dict(annotations or {})}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": dict(data)}


@pytest.fixture(scope="session")
def delivery(embedded: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    """Everything but the bucket, which the first test wants to be missing; see `bucket`."""
    mark = secrets.token_hex(3)
    registry = f"oci://{embedded.registry}/e2e-{mark}/"
    home, name = tmp_path_factory.mktemp("airflow"), f"e2e-{mark}"
    made = Delivery(embedded, free_port(), home, name, name, f"locked-{mark}", registry)
    try:
        _make_namespaces(made, tmp_path_factory.mktemp("overlay"))
        made.put_store_secret(addons.credentials(embedded)["store_password"])
        made.start_airflow()
        yield made
    finally:
        _remove(made)


def _make_namespaces(made: Delivery, overlay: Path) -> None:
    """The target namespace as docs/install.md makes another one: by an overlay, with the egress gate's rights."""
    manifests = REPOSITORY / "include" / "kubernetes"
    root = Path(*[".."] * (len(overlay.parts) - 1), *manifests.parts[1:])  # kustomize takes no absolute path
    resources = f"resources: [{root}/target, {root}/egress]\n"
    (overlay / "kustomization.yaml").write_text(f"{resources}namespace: {made.namespace}\n")
    made.kubectl("apply", "--server-side", "-k", str(overlay))
    made.kubectl("create", "namespace", made.locked)
    secret = made.get("secret", "airfreight-store", namespace=tenant.TARGET)
    prefix = "serving.kserve.io/"
    annotations = {key: value for key, value in secret["metadata"]["annotations"].items() if key.startswith(prefix)}
    keys = {"AWS_ACCESS_KEY_ID": addons.STORE_USER,
            "AWS_SECRET_ACCESS_KEY": addons.credentials(made.cluster)["store_password"]}  # fmt: skip
    addons.apply(made.cluster, yaml.safe_dump(_secret(made.namespace, "airfreight-store", keys, annotations)))
    from airfreight import runtime

    pinned = runtime.pin(images.reference(made.cluster, "runtime-cpu"), "vllm-cpu", [], made.namespace)
    addons.apply(made.cluster, yaml.safe_dump(pinned))


def _remove(made: Delivery) -> None:
    with contextlib.ExitStack() as stack:  # each of these, also when another fails
        stack.callback(_remove_bucket, made)
        for namespace in WORKER_NAMESPACES:
            stack.callback(made.kubectl, "delete", "secret", "-n", namespace, STORE_SECRET, "--ignore-not-found")
        names = (made.namespace, made.locked)
        stack.callback(made.kubectl, "delete", "namespace", *names, "--ignore-not-found", "--wait=false")
        stack.callback(daemons.stop, made.cluster, [DAEMON], grace_s=20)


def _remove_bucket(made: Delivery) -> None:
    client = made.store()
    keys = made.keys()
    for key in keys:
        client.delete_object(Bucket=made.bucket, Key=key)
    with contextlib.suppress(client.exceptions.NoSuchBucket):
        client.delete_bucket(Bucket=made.bucket)


@pytest.fixture(scope="session")
def bucket(delivery: Delivery) -> str:
    """The store's bucket, made when the first test that needs it runs."""
    delivery.make_bucket()
    return delivery.bucket


@pytest.fixture(autouse=True)
def _forget_runs(request: pytest.FixtureRequest) -> None:
    if "delivery" in request.fixturenames:
        request.getfixturevalue("delivery").runs.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what one would look at next: its runs, the pods, the events, the last task's log."""
    report = yield
    delivery = getattr(item, "funcargs", {}).get("delivery")
    if report.when == "call" and report.failed and isinstance(delivery, Delivery):
        for title, text in _evidence(delivery):
            report.sections.append((title, text))
    return report


def _evidence(delivery: Delivery) -> Iterator[tuple[str, str]]:
    for dag_id, run_id in delivery.runs:
        with contextlib.suppress(Exception), delivery.api() as api:
            summary = api.run_summary(dag_id, run_id)
            yield f"run {run_id} of {dag_id}", json.dumps(summary.to_json(), indent=1, default=str)
    for kind in ("pods", "inferenceservices", "persistentvolumeclaims", "events"):
        for namespace in (delivery.namespace, *WORKER_NAMESPACES):
            with contextlib.suppress(Exception):
                yield f"{kind} in {namespace}", delivery.kubectl("get", kind, "-n", namespace, "-o", "wide")
    logs = sorted(delivery.home.glob("logs/**/*.log"), key=lambda path: path.stat().st_mtime)[-1:]
    for path in logs:
        yield f"last task log {path}", "\n".join(path.read_text(errors="replace").splitlines()[-30:])
