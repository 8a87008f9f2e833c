"""Makes docs/engines.md, docs/engines.json and the plots of results: `page.py DIR`."""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import jsonschema
import matplotlib

from figures import amplification, ratio, shown

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "kvfs"
from matplotlib import pyplot  # noqa: E402 (the backend comes first)

TOP = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- made by fio-jobs/engines.sh page: begin -->", "<!-- made by fio-jobs/engines.sh page: end -->"


def load(directory):
    """All results that are there, each checked, by contender."""
    schema = json.loads((Path(__file__).parent / "schema.json").read_text())
    by_contender = defaultdict(list)
    for path in sorted((directory / "results").glob("*.json")):
        result = json.loads(path.read_text())
        try:
            jsonschema.validate(result, schema)
        except jsonschema.ValidationError as error:
            sys.exit(f"engines.sh: {path}: {error.message} at {'/'.join(map(str, error.path))}")
        by_contender[result["contender"]].append(result)
    # The rails first.
    rails = [name for name in ("plain", "mem") if name in by_contender]
    by_contender = {name: by_contender[name] for name in [*rails, *(it for it in by_contender if it not in rails)]}
    if not by_contender:
        sys.exit(f"engines.sh: {directory}/results is empty; engines.sh run {directory} fills it")
    return by_contender


class Figures:
    """What the runs of one contender say of a step: the median of each figure, and how far the runs lie apart."""

    def __init__(self, steps, written, read):
        self.values = defaultdict(list)
        for step in steps:
            door, process, device = step["door"], step["process"], step["device"]
            for name, value in {
                "seconds": step["seconds"],
                "settled": step["settled_seconds"],
                "p99": step["p99_us"],
                "write": amplification(door["write_bytes"], written),
                "kernel": amplification(process["write_bytes"], written),
                "device": amplification(device["write_bytes"], written),
                "device_bytes": device["write_bytes"],
                "read": amplification(device["read_bytes"], read),
                "space": ratio(step["space"]["disk_bytes"], step["space"]["apparent_bytes"]),
                "stalls": step["stalls"]["seconds"],
                "flushes": device["flushes"],
                "memory": step["memory_bytes"],
            }.items():
                if value is not None:
                    self.values[name].append(value)

    def median(self, name):
        return statistics.median(self.values[name]) if self.values[name] else None

    def spread(self, name):
        """Half of the distance between the runs, in hundredths of the median."""
        values, middle = self.values[name], self.median(name)
        return (max(values) - min(values)) / 2 / middle * 100 if len(values) > 1 and middle else None


COLUMNS = [
    ("seconds", "s", 1, 1), ("settled", "settled s", 1, 1), ("p99", "p99 ms", 2, 1e-3), ("write", "W door", 2, 1),
    ("kernel", "W kernel", 2, 1), ("device", "W device", 2, 1), ("device_bytes", "MiB device", 0, 2**-20), ("read", "R device", 2, 1), ("space", "space", 2, 1),
    ("stalls", "stalled s", 1, 1), ("flushes", "flushes", 0, 1), ("memory", "MiB", 0, 2**-20),
]


def table(step, figures):
    """One step, a row each contender."""
    lines = [f"### {step}", "", "| | " + " | ".join(title for _, title, _, _ in COLUMNS) + " | ± s |",
             "|---|" + "---:|" * (len(COLUMNS) + 1)]
    for contender, of in figures.items():
        cells = []
        for name, _, digits, factor in COLUMNS:
            value = of.median(name)
            cells.append(shown(None if value is None else value * factor, digits))
        spread = of.spread("seconds")
        lines.append(f"| {contender} | " + " | ".join(cells) + f" | {'-' if spread is None else f'{spread:.0f} %'} |")
    return "\n".join(lines) + "\n"


def overview(title, name, digits, factor, figures_of):
    """One figure of everything: a row each contender, a column each step that has it."""
    steps = [step for step, figures in figures_of.items() if any(of.median(name) is not None for of in figures.values())]
    lines = [f"### {title}", "", "| | " + " | ".join(steps) + " |", "|---|" + "---:|" * len(steps)]
    for contender in next(iter(figures_of.values())):
        values = [figures_of[step][contender].median(name) for step in steps]
        cells = [shown(None if value is None else value * factor, digits) for value in values]
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def promises(results):
    """What each promises and how the kills went."""
    lines = ["| | a crash leaves a prefix of the history | survives kill -9 | kills |", "|---|---|---|---|"]
    for contender, runs in results.items():
        promise, rounds = runs[0]["promise"] or {}, next((run["kills"] for run in runs if run["kills"]), None)
        word = {True: "yes", False: "no", None: "-"}
        held = "-" if rounds is None else f"{rounds['rounds']}: {'held' if rounds['passed'] else 'BROKEN'}"
        lines.append(f"| {contender} | {word[promise.get('prefix')]} | {word[promise.get('survives_kill')]} | {held} |")
    return "\n".join(lines) + "\n"


def plot(path, title, name, figures_of):
    """A bar each contender, a row each step that has the figure."""
    steps = [step for step, figures in figures_of.items() if any(of.median(name) is not None for of in figures.values())]
    fig, axes = pyplot.subplots(len(steps), 1, figsize=(9, 0.5 + 2.6 * len(steps)), squeeze=False, layout="constrained")
    fig.suptitle(title)
    for axis, step in zip(axes[:, 0], steps):
        known = {contender: of.median(name) for contender, of in figures_of[step].items() if of.median(name) is not None}
        bars = axis.barh(list(known), list(known.values()))
        axis.bar_label(bars, fmt="%.3g", padding=2)
        axis.invert_yaxis()
        axis.set_title(step, loc="left", fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, metadata={"Date": None})
    pyplot.close(fig)


def main():
    results = load(Path(sys.argv[1]))
    # The same programs write and read the same everywhere; where no door counts (plain), the first contender that counted says it.
    asked = {}
    for runs in results.values():
        for step in runs[0]["steps"]:
            app = step["app"]
            if app["write"] is not None:
                asked.setdefault(step["step"], (app["write"], app["read"]))
    names = [step["step"] for step in next(iter(results.values()))[0]["steps"]]
    figures_of = {
        name: {
            contender: Figures([step for run in runs for step in run["steps"] if step["step"] == name], *asked.get(name, (None, None)))
            for contender, runs in results.items()
        }
        for name in names
    }
    first = next(iter(results.values()))[0]
    runs = {len(of) for of in results.values()}
    host = first["machine"]
    head = (
        f"{first['versions']['kvfs']}. {first['size_bytes'] >> 20} MiB of data, {first['memory_bytes'] >> 20} MiB of memory for each engine; "
        f"medians of {' to '.join(str(count) for count in sorted(runs))} run(s). {host['cores']} cores of {host['processor']}, "
        f"Linux {host['kernel']}, images on {host['filesystem']}.\n"
    )
    docs = TOP / "docs"
    plots = {"settled": "Seconds until settled", "device": "Bytes that the device wrote for a byte of the program"}
    for name, title in plots.items():
        plot(docs / f"engines-{name}.svg", title, name, figures_of)
    drawn = "\n".join(f"![{title}](engines-{name}.svg)" for name, title in plots.items())
    overviews = [
        overview("Settled, in seconds", "settled", 1, 1, figures_of),
        overview("99th percentile, in milliseconds", "p99", 2, 1e-3, figures_of),
        overview("Bytes that the device wrote for a byte of the program", "device", 2, 1, figures_of),
        overview("Space for a byte of files", "space", 2, 1, figures_of),
    ]
    made = "\n".join([head, promises(results), *overviews, *(table(name, figures_of[name]) for name in names), drawn, ""])
    page = docs / "engines.md"
    text = page.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"engines.sh: {page} has lost the lines between which the tables stand")
    page.write_text(text[: text.index(BEGIN) + len(BEGIN)] + "\n\n" + made + "\n" + text[text.index(END) :])
    flat = [run for runs in results.values() for run in runs]
    (docs / "engines.json").write_text(json.dumps(flat, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
