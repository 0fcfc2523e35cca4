"""`python -m benchmarks.oci`: measure images, print the tables, and record them when the run was a full one."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import environment, models, page
from benchmarks.__main__ import RECORDED_GIB, RESULTS, say
from benchmarks.floor import sha256_rate
from benchmarks.measure import CommandFailedError
from benchmarks.oci import tools
from benchmarks.oci.peers import PEERS
from benchmarks.oci.rounds import Bench
from benchmarks.oci.tables import MODEL, report_text
from benchmarks.rounds import WrongResultError
from benchmarks.servers import hub
from benchmarks.tables import Report
from devcluster.config import REPOSITORY
from devcluster.shell import DevClusterError

BEGIN = "<!-- measured: written by `make bench-oci` -->"
END = "<!-- end of what was measured of images -->"
UNUSED_GIB = 1 / 1024
"""The model of one large file that `benchmarks.models` also makes."""


def main() -> int:
    """Run it. Returns 0, or 1 with one sentence when something is missing or a peer failed."""
    parser = argparse.ArgumentParser(prog="make bench-oci", description="Images: Airfreight beside what people use.")
    parser.add_argument("--gib", type=float, default=0.5, help="GiB of each of the four files (%(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="rounds; medians are shown (%(default)s)")
    parser.add_argument("--case-runs", type=int, help="rounds that measure more than the first image (as many)")
    parser.add_argument("--minutes", type=float, default=90.0, help="begin no round later than this (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="a directory on a disk with 45 times --gib free")
    options = parser.parse_args()
    try:
        report = run(options)
    except (CommandFailedError, WrongResultError, DevClusterError, FileNotFoundError) as error:
        sys.stderr.write(f"bench-oci: {error}\n")
        return 1
    say("\n" + report_text(report))
    if options.gib < RECORDED_GIB:
        say(f"\nNothing was recorded: below {RECORDED_GIB} GiB a file the start of the programs is what is measured.")
        return 0
    results = RESULTS / f"{report.date}-oci.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(asdict(report), indent=1, sort_keys=True) + "\n")
    page.renew(report, results.name, text=report_text(report), marks=(BEGIN, END))
    say(f"\nRecorded in {results.relative_to(REPOSITORY)} and docs/benchmarks.md.")
    return 0


def run(options: argparse.Namespace) -> Report:
    """Measure everything in a directory that is removed afterwards."""
    for name in tools.MODULES:
        tools.built(name)
    versions = tools.versions()
    say(" · ".join(f"{name} {version}" for name, version in versions.items()))
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="airfreight-bench-oci-", dir=options.scratch) as name:
        work = Path(name)
        root = work / "material"
        _make("benchmarks.models", str(root), str(UNUSED_GIB), str(options.gib))
        model = next(model for model in models.load(root / "models.json") if model.name == MODEL)
        with hub(root, work / "hub.log") as source:
            _make("benchmarks.oci.material", str(root), source.url, MODEL)
            bench = Bench(source, root, work, say, options.minutes)
            found = list(bench.rounds(model, options.runs, options.case_runs or options.runs))
    return Report(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        gib={MODEL: options.gib},
        runs=len({entry.round for entry in found}),
        case_runs=len({entry.round for entry in found if entry.case != "first"}),
        sizes={MODEL: model.size},
        files={MODEL: len(model.blobs)},
        peers={peer.key: peer.title for peer in PEERS},
        verifies={peer.key: peer.mounts for peer in PEERS},
        versions=versions,
        machine=environment.machine(),
        load_before=load[0],
        load_after=os.getloadavg()[0],
        sha256_bytes_per_s=[sha256_rate()],
        measurements=[asdict(entry) for entry in found],
    )


def _make(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    sys.exit(main())
