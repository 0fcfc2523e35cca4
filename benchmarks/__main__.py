"""`python -m benchmarks`: measure, print the tables, and record them when the run was a full one."""

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
from benchmarks.bucket import open_bucket
from benchmarks.measure import CommandFailedError
from benchmarks.peers import PEERS
from benchmarks.rounds import Bench, Floor, Measurement, WrongResultError
from benchmarks.servers import hub, store
from benchmarks.tables import Report, report_text
from devcluster.config import REPOSITORY
from devcluster.shell import DevClusterError

RESULTS = REPOSITORY / "benchmarks" / "results"
RECORDED_GIB = 0.25
"""Smaller runs say whether the benchmark works, and nothing about speed: they are printed and not recorded."""


def say(line: str) -> None:
    """Print one line now."""
    print(line, flush=True)


def main() -> int:
    """Run it. Returns 0, or 1 with one sentence when something is missing or a peer failed."""
    parser = argparse.ArgumentParser(prog="make bench", description="Airfreight beside what people use today.")
    parser.add_argument("--gib", type=float, default=1.0, help="GiB of each file (%(default)s)")
    parser.add_argument("--four-gib", type=float, help="GiB of each file of the model of four (as --gib)")
    parser.add_argument("--runs", type=int, default=5, help="rounds; medians are shown (%(default)s)")
    parser.add_argument("--case-runs", type=int, help="rounds that measure more than the first copy (as many)")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no round later than this (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="a directory on a disk with 20 GiB free for a file of 1 GiB")
    parser.add_argument("--source", type=Path, help="another place for the hub's 6 GiB, such as /dev/shm")
    options = parser.parse_args()
    try:
        report = run(options)
    except (CommandFailedError, WrongResultError, DevClusterError, FileNotFoundError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    say("\n" + report_text(report))
    if min(options.gib, options.four_gib or options.gib) < RECORDED_GIB:
        say(f"\nNothing was recorded: below {RECORDED_GIB} GiB a file the start of the programs is what is measured.")
        return 0
    results = RESULTS / f"{report.date}.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(asdict(report), indent=1, sort_keys=True) + "\n")
    page.renew(report, results.name)
    subprocess.run([str(environment.python()), "-m", "benchmarks.plot", str(results)], cwd=REPOSITORY, check=True)
    say(f"\nRecorded in {results.relative_to(REPOSITORY)}, docs/benchmarks.md and docs/benchmarks.svg.")
    return 0


def run(options: argparse.Namespace) -> Report:
    """Measure everything in a directory that is removed afterwards."""
    environment.aws()
    environment.rclone()
    versions = environment.versions()
    say(" · ".join(f"{name} {version}" for name, version in versions.items()))
    load = os.getloadavg()
    four_gib = options.four_gib or options.gib
    with (
        tempfile.TemporaryDirectory(prefix="airfreight-bench-", dir=options.scratch) as name,
        tempfile.TemporaryDirectory(prefix="airfreight-bench-", dir=options.source or options.scratch) as offered,
    ):
        work = Path(name)
        make = [sys.executable, "-m", "benchmarks.models", offered, str(options.gib), str(four_gib)]
        subprocess.run(make, cwd=REPOSITORY, check=True)
        published = models.load(Path(offered) / "models.json")
        with (
            hub(Path(offered), work / "hub.log") as source,
            store(work / "minio", work / "minio.log") as target,
            open_bucket(Path(sys.executable), target.environment) as bucket,
        ):
            bench = Bench(source, target, bucket, work, say, options.minutes)
            found = list(bench.rounds(published, options.runs, options.case_runs or options.runs))
    measured = [entry for entry in found if isinstance(entry, Measurement)]
    return Report(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        gib={"large": options.gib, "four": four_gib, "many": models.MANY_BYTES / models.GIB},
        runs=len({entry.round for entry in measured}),
        case_runs=len({entry.round for entry in measured if entry.case != "first"}),
        sizes={model.name: model.size for model in published},
        files={model.name: len(model.blobs) for model in published},
        peers={peer.key: peer.title for peer in PEERS},
        verifies={peer.key: peer.verifies for peer in PEERS},
        versions=versions,
        machine=environment.machine(),
        load_before=load[0],
        load_after=os.getloadavg()[0],
        sha256_bytes_per_s=[entry.sha256_bytes_per_s for entry in found if isinstance(entry, Floor)],
        measurements=[asdict(entry) for entry in measured],
    )


if __name__ == "__main__":
    sys.exit(main())
