"""docs/benchmarks.svg: seconds of each peer beside the machine's floor. Runs in the benchmark's own environment.

python -m benchmarks.plot benchmarks/results/DATE.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

from benchmarks.tables import MEMORY, US, Report, named

matplotlib.use("svg")
from matplotlib import pyplot

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.svg"
PEER, LIMIT = "#9aa5b1", "#c2410c"
OF = {US: "#1f6f54", MEMORY: "#d8dde3"}


def draw(report: Report, output: Path) -> None:
    """Draw one panel for each model: medians as bars, least to most as a line on them."""
    # Without these two an SVG differs each time it is drawn.
    matplotlib.rcParams["svg.hashsalt"] = "airfreight"
    matplotlib.rcParams["font.size"] = 9
    width = 4 + 3.5 * len(report.sizes)
    figure, panels = pyplot.subplots(1, len(report.sizes), figsize=(width, 3.4), sharey=True, layout="constrained")
    for panel, model in zip(panels, report.sizes, strict=True):
        titles = list(report.peers.values())[::-1]
        walls = [list(report.values(model, "first", peer, "wall_s").values()) for peer in report.peers][::-1]
        middle = [statistics.median(wall) for wall in walls]
        both = list(zip(middle, walls, strict=True))
        spread = [[m - min(w) for m, w in both], [max(w) - m for m, w in both]]
        colours = [OF.get(peer, PEER) for peer in report.peers][::-1]
        panel.barh(titles, middle, xerr=spread, color=colours, ecolor="#374151", capsize=2)
        floor = statistics.median(report.values(model, "first", US, "floor_s").values())
        panel.axvline(floor, color=LIMIT, linestyle="--", linewidth=1, label="machine's floor: sha256 and sockets")
        panel.set_title(f"{named(report, model)}, first time")
        panel.set_xlabel("seconds, less is better")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", frameon=False, fontsize=8)
    figure.savefig(output, metadata={"Date": None})


def main() -> int:
    """Draw the result file named."""
    draw(Report(**json.loads(Path(sys.argv[1]).read_text())), OUTPUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
