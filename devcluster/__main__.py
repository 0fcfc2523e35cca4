"""The command line of the embedded cluster; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace

from devcluster import (
    addons,
    airflow,
    binaries,
    control_plane,
    daemons,
    engine,
    images,
    kernel,
    leftovers,
    network,
    node,
    pki,
    preflight,
    recipes,
    scratch,
    state,
    tenant,
    toolchain,
)
from devcluster.config import Cluster
from devcluster.lock import lock
from devcluster.shell import DevClusterError, RunError, interrupt_on_signals
from devcluster.steps import Step, run_steps, say

STEPS = (
    Step("packages", "install Debian packages", toolchain.install_packages),
    Step("network", "make the cluster's network", network.create, ("packages",)),
    Step("registry", "start the registry", images.start_registry, ("network",)),
    Step("pki", "make keys and certificates", pki.create),
    Step("credentials", "make passwords", addons.make_credentials),
    # One after the other: each compiler run uses every core by itself.
    Step("kubernetes", "build Kubernetes, KServe and CoreDNS", binaries.build_kubernetes, ("packages",)),
    Step("containerd", "build containerd", binaries.build_containerd, ("kubernetes",)),
    Step("minio", "build MinIO", binaries.build_minio, ("containerd",)),
    Step("engine", "install vLLM for CPU", engine.make, ("packages",)),
    Step("base", "make the base image", recipes.build_base, ("registry",)),
    Step("worker", "build the worker image", recipes.build_worker, ("base",)),
    Step("builder", "build the builder image", recipes.build_builder, ("worker",)),
    Step("modelcar-base", "build the modelcars' base image", recipes.build_modelcar_base, ("registry",)),
    Step("hub-image", "build the hub image", recipes.build_hub, ("base",)),
    Step("runtime-image", "build the model server image", recipes.build_runtime, ("base", "engine")),
    Step(
        "initializer-image",
        "build the storage initializer image",
        recipes.build_storage_initializer,
        ("base", "kubernetes"),
    ),
    Step("small-images", "build the cluster's own images", recipes.build_small, ("registry", "minio")),
    Step("etcd", "start etcd", control_plane.start_etcd, ("kubernetes", "network", "pki")),
    Step("api-server", "start the API server", control_plane.start_api_server, ("etcd",)),
    Step("controllers", "start the controllers", control_plane.start_controllers, ("api-server",)),
    Step("runtime", "start containerd", node.start_containerd, ("containerd", "network")),
    Step("node", "start the node", node.start_node, ("api-server", "runtime", "small-images")),
    Step("dns", "install DNS and storage", addons.install_dns_and_storage, ("node", "controllers")),
    Step("store", "install MinIO", addons.install_minio, ("dns", "credentials")),
    Step("hub", "install the stand-in hub", addons.install_hub, ("dns", "hub-image", "credentials")),
    Step("kserve", "install KServe", addons.install_kserve, ("dns", "initializer-image")),
    Step(
        "tenant",
        "install Airfreight's own objects",
        tenant.install,
        ("kserve", "store", "worker", "builder", "modelcar-base", "runtime-image"),
    ),
)
NEEDED = ("kubelet", "kube-proxy", "kube-router", "volumes", *reversed(control_plane.NAMES), "containerd", "registry")
BESIDE = ("airflow", "proxy")  # run when `make demo` wants them


def up(cluster: Cluster) -> None:
    """Bring the cluster up, from whatever state the machine is in.

    Raises:
        DevClusterError: it cannot run here, or a step failed.
    """
    start = time.monotonic()
    reach_directly(cluster)
    machine = preflight.look(cluster)
    say(preflight.announcement(machine, cluster))
    reasons = preflight.refusals(machine, cluster)
    if reasons:
        raise DevClusterError("this machine cannot run the embedded cluster:\n  " + "\n  ".join(reasons))
    with lock():
        if _is_broken(cluster):
            say("  · a cluster from before cannot be gone on with: clearing it")
            _clear(cluster)
        state.claim(cluster)
        scratch.sweep(cluster)
        images.sweep(cluster)
        run_steps(cluster, STEPS)
    say(f"The cluster is up ({time.monotonic() - start:.0f} s).")


def reach_directly(cluster: Cluster) -> None:
    """Keep a proxy of the shell's, which downloads may need, out of the way to the cluster; children inherit it."""
    for name in ("NO_PROXY", "no_proxy"):
        given = os.environ.get(name, "")
        if cluster.no_proxy not in given:
            os.environ[name] = f"{given},{cluster.no_proxy}".lstrip(",")


def _is_broken(cluster: Cluster) -> bool:
    """Whether the machine was restarted, the network is gone or another subnet is wanted; then only a new one helps.

    A process that merely ended is started again by its step, on the state that is there.
    """
    if _in_use(cluster).subnet != cluster.subnet:
        return True
    if not (cluster.state / "etcd").exists():
        return False
    return not network.namespace_path(cluster).exists() or not daemons.same_boot(cluster)


def _in_use(cluster: Cluster) -> Cluster:
    """The cluster with the subnet that the one on this machine has, which may not be the one of today's settings."""
    found = () if "iproute2" in toolchain.missing_packages() else network.routes()
    return replace(cluster, subnet=network.subnet_in_use(found) or cluster.subnet)


def down(cluster: Cluster) -> None:
    """Stop the cluster and remove all of it but the caches; safe in any state."""
    airflow.stop_standalone(airflow.current_home(cluster))
    with lock():
        _clear(cluster)
    say("The cluster is down; the caches are kept (make clean removes them).")


def _clear(cluster: Cluster) -> None:
    present = _in_use(cluster)
    # Recorded ones may be more: tests start an Airflow of their own.
    daemons.stop(present, dict.fromkeys((*BESIDE, *NEEDED, *daemons.recorded(present))))
    beside = replace(present, state=cluster.cache / "current-airflow")  # of `make demo CLUSTER=current`
    daemons.stop(beside, daemons.recorded(beside))
    leftovers.remove(present)
    network.remove(present)
    kernel.put_back(present)
    state.remove(present)


def status(cluster: Cluster) -> bool:
    """Print what runs; True when all of the cluster does."""
    running = {name: daemons.pid_of(cluster, name) for name in (*BESIDE, *NEEDED)}
    for name, pid in running.items():
        sign = "✓" if pid else "·" if name in BESIDE else "✗"
        say(f"  {sign} {name:<24} {f'pid {pid}' if pid else 'not running'}")
    ready = control_plane.api_answers(cluster)
    say(f"  {'✓' if ready else '✗'} {'API server answers':<24} {cluster.api_url if ready else ''}")
    if ready:
        say(_objects(cluster))
    return ready and all(running[name] for name in NEEDED)


def _objects(cluster: Cluster) -> str:
    try:
        return control_plane.kubectl(cluster, "get", "pods,inferenceservices", "--all-namespaces")
    except RunError:  # KServe is not installed yet
        return control_plane.kubectl(cluster, "get", "pods", "--all-namespaces")


def logs(cluster: Cluster, name: str | None, lines: int) -> None:
    """Print the last lines of one process's log, or of every one."""
    for path in sorted(cluster.logs.glob("*.log")) if cluster.logs.exists() else ():
        if name in (None, path.stem):
            say(f"==> {path} <==\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:]))


def clean(cluster: Cluster) -> None:
    """Take the cluster down and forget the caches."""
    with lock():
        _clear(cluster)
        state.forget_cache(cluster)
    say(f"The cluster is down and the caches in {cluster.cache} are removed.")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    interrupt_on_signals()
    try:
        cluster = Cluster.from_environment()
        reach_directly(cluster)
        return _kubectl(cluster, words[1:]) if words[:1] == ["kubectl"] else _perform(cluster, _parse(words))
    except DevClusterError as error:
        sys.stderr.write(f"devcluster: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("devcluster: interrupted; run it again to go on, or `make down` to clear up\n")
        return 130
    except BrokenPipeError:  # `status | head`: who reads has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _kubectl(cluster: Cluster, words: list[str]) -> int:
    """Become kubectl, so that Ctrl-C and the terminal are its own."""
    program = cluster.bin / "kubectl"
    if not program.exists():
        raise DevClusterError("kubectl has not been built yet: run `make cluster-up`")
    os.execve(program, ["kubectl", *words], {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)})  # noqa: S606  (words, no shell)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="devcluster", description="The embedded cluster of Airfreight.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring it up; does only what is missing")
    commands.add_parser("down", help="stop it and remove all but the caches")
    commands.add_parser("status", help="what runs")
    commands.add_parser("preflight", help="what `up` would do here, and whether it can")
    commands.add_parser("clean", help="down, and remove the caches")
    commands.add_parser("kubectl", help="kubectl as the cluster's administrator")
    show = commands.add_parser("logs", help="the processes' logs")
    show.add_argument("name", nargs="?", help="one process, such as kubelet")
    show.add_argument("--lines", type=int, default=40)
    return parser.parse_args(words)


def _perform(cluster: Cluster, asked: argparse.Namespace) -> int:
    match asked.command:
        case "up":
            up(cluster)
        case "down":
            down(cluster)
        case "status":
            return 0 if status(cluster) else 1
        case "logs":
            logs(cluster, asked.name, asked.lines)
        case "clean":
            clean(cluster)
        case "preflight":
            machine = preflight.look(cluster)
            say(preflight.announcement(machine, cluster))
            reasons = preflight.refusals(machine, cluster)
            say("\n".join(f"  ✗ {reason}" for reason in reasons) or "  ✓ it can run here")
            return 1 if reasons else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
