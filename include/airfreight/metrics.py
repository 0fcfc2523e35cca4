"""What a model server says of its own load: one page of text, read through the API server's pod proxy.

    GET /api/v1/namespaces/models/pods/pong-predictor-7d…:8080/proxy/metrics

    # HELP vllm:num_requests_running Number of requests in model execution batches.
    # TYPE vllm:num_requests_running gauge
    vllm:num_requests_running{engine="0",model_name="acme/pong"} 0.0

A page that is not exactly what it should be is refused with its reason, and then nobody stops anything: HTML of a
proxy, no number where one must be, NaN, a figure below zero, another model's figures.

**Another model server** is one class with the two members of `Adapter`, added to `ADAPTERS`; pods choose it with the
annotation `airfreight.dev/metrics` (`spec.annotations` of the ServingRuntime). What it must say:

- `running` and `waiting`: requests in the server now. A server that knows only one of them gives 0 for the other, but
  every request that it has accepted must be in one.
- `counters`: figures that grow with every request that ends, however it ends. They may fall only when the process is
  started anew. Without them a request between two looks would stay unseen, so at least one is needed.

A server that cannot say so has no idle rule: give its model `hours`, and leave `idle_after` out.

Source of the names: vLLM v0.32 `vllm/v1/metrics/loggers.py`; of the format: Prometheus text format 0.0.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

ADAPTER_ANNOTATION = "airfreight.dev/metrics"
PAGE_LIMIT = 4 * 1024 * 1024  # bytes; vLLM's page has about 100 KiB
DEFAULT_PORT = 8080

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+-?\d+)?[ \t]*"
)
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_SERVED_NAME = re.compile(r"--served[-_]model[-_]name=(\S+)")


class MetricsError(Exception):
    """The page does not say what it must. The message is a reason, for "cannot see: …"."""


@dataclass(frozen=True)
class Load:
    """What one server says. `counters` only grow while its process lives."""

    running: float
    waiting: float
    counters: tuple[float, ...]


class Adapter(Protocol):
    """How one kind of model server is read; see the top of this file."""

    @property
    def path(self) -> str:
        """Path of the page, such as "metrics"."""
        ...

    def read(self, page: str, model: str | None) -> Load:
        """Read a page.

        Args:
            model: under which name the server must speak of its model; None when that is not known.
        Raises:
            MetricsError: it does not say what it must.
        """
        ...


class Vllm:
    """vLLM, and servers that speak of themselves in its words."""

    path = "metrics"
    gauges = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    # Tokens too: a request that is not counted as ended has been worked on all the same.
    counters = ("vllm:request_success_total", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")

    def read(self, page: str, model: str | None) -> Load:
        """See `Adapter.read`. Figures of several engines of one server are added up."""
        sums = dict.fromkeys((*self.gauges, *self.counters), 0.0)
        seen: set[str] = set()
        for name, labels, value in samples(page):
            if name not in sums:
                continue
            of = labels.get("model_name")
            if model is not None and of != model:
                raise MetricsError(f"its metrics speak of the model {of or '(none)'}, not of {model}")
            sums[name] += figure(name, value)
            seen.add(name)
        for name in sums:
            if name not in seen:
                raise MetricsError(f"its metrics have no {name}")
        running, waiting = (sums[name] for name in self.gauges)
        return Load(running, waiting, tuple(sums[name] for name in self.counters))


ADAPTERS: Mapping[str, Adapter] = {"vllm": Vllm()}


def samples(page: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield name, labels and value of each sample of a page.

    Raises:
        MetricsError: a line is neither a comment nor a sample; then it is something else than metrics.
    """
    for line in page.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = _SAMPLE.fullmatch(line)
        if found is None:
            raise MetricsError(f"its metrics are something else: {' '.join(line.split())[:60]!r}")
        yield found["name"], dict(_LABEL.findall(found["labels"] or "")), found["value"]


def figure(name: str, text: str) -> float:
    """Read a figure that counts something.

    Raises:
        MetricsError: it is no number, or none that counts.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise MetricsError(f"its metrics say {name} is {text}")
    return value


# ---- where the page of a pod is ----------------------------------------------------------------------------------


def adapter_of(pod: Mapping[str, Any]) -> Adapter:
    """Return how a pod is read.

    Raises:
        MetricsError: its annotation names an adapter that does not exist.
    """
    name = (pod["metadata"].get("annotations") or {}).get(ADAPTER_ANNOTATION, "vllm")
    if name not in ADAPTERS:
        raise MetricsError(f"its annotation {ADAPTER_ANNOTATION} names {name}; there is {', '.join(ADAPTERS)}")
    return ADAPTERS[name]


def proxy_target(pod: Mapping[str, Any], server: str) -> str:
    """Return the pod as the API server's proxy names it, "name:port"; `server` is the model server's container."""
    containers = (pod.get("spec") or {}).get("containers") or []
    ports = next((one.get("ports") or [] for one in containers if one.get("name") == server), [])
    port = ports[0].get("containerPort", DEFAULT_PORT) if ports else DEFAULT_PORT
    return f"{pod['metadata']['name']}:{port}"


def proxy_path(pod: Mapping[str, Any], server: str) -> str:
    """Return the path of a pod's page at the API server."""
    namespace, target = quote(pod["metadata"]["namespace"], safe=""), quote(proxy_target(pod, server), safe=":")
    return f"/api/v1/namespaces/{namespace}/pods/{target}/proxy/{adapter_of(pod).path}"


def served_name_of(pod: Mapping[str, Any], server: str) -> str | None:
    """Return under which name a pod's server must speak of its model: its last --served-model-name; None without."""
    containers = (pod.get("spec") or {}).get("containers") or []
    words = next(
        ([*(one.get("command") or []), *(one.get("args") or [])] for one in containers if one.get("name") == server), []
    )
    names = [found[1] for word in words if (found := _SERVED_NAME.fullmatch(str(word)))]
    return names[-1] if names else None
