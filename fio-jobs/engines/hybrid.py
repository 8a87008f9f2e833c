"""Hot data beside cold on every contender, and what the hybrid is to reach: `hybrid.py DIR [CONTENDER...]`; engines.sh has the help."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path

from contender import Contender, every
from figures import amplification, ratio, shown
from hot import HotPrograms
from run import machine, measure, program
from store import Failed, Store, call

SCHEMA = "kvfs.hybrid/1"
# Steps that only make the data.
PREPARING = ("fill", "archive", "tables", "clone")


def hot_figures(report):
    """What a report since a mark says of reads, of what is hot, and of who waited for what."""
    hybrid, probes = report.get("hybrid") or {}, report.get("probes") or {}
    causes = ((report.get("stalls") or {}).get("by_cause") or {}).items()
    return {
        "asked": probes.get("mean"),
        "hot_share": hybrid.get("hot_share"),
        "hot_read_share": hybrid.get("hot_read_share"),
        "hot": {name: hybrid.get(name) for name in ("hot_bytes", "cold_bytes", "threshold", "demoted_bytes", "promoted_bytes")} if hybrid else None,
        "stalls_by_cause": {name: cause["waited_ns"] / 1e9 for name, cause in causes if cause["waited_ns"]},
    }


def run(kvfs, contender, number, directory, sources):
    """All steps of one contender on a new store."""
    store = Store(kvfs, contender, directory / "work", sources["size_bytes"], sources["memory_bytes"])
    try:
        report = store.report()
        programs = HotPrograms(store.mount, sources["size_bytes"], directory, sources["step_seconds"], sources["move_seconds"])
        config = (store.mount / ".stats.d/config").read_text().replace(str(directory), "DIR")
        steps = []
        for name, step, is_cold in programs.all():
            said = {}

            def remembered(step=step, said=said):
                said.update(step())
                return said

            measured = measure(store, name, remembered, is_cold)
            steps.append({**said, **measured, **hot_figures(store.report(name.replace(" ", "-")))})
            rate = f", {said['ops'] / said['ops_seconds']:9.0f} a second" if "ops_seconds" in said else ""
            print(f"  {name:14} {measured['seconds']:6.1f} s, settled after {measured['settled_seconds']:6.1f} s{rate}", flush=True)
        store.stop()
        call(kvfs, "check", store.directory)
    finally:
        store.remove()
    return {
        "schema": SCHEMA,
        "contender": contender.name,
        "run": number,
        "versions": {"kvfs": call(kvfs, "--version").strip(), "report": report.get("version")},
        "machine": machine(directory),
        "size_bytes": sources["size_bytes"],
        "memory_bytes": sources["memory_bytes"],
        "step_seconds": sources["step_seconds"],
        "move_seconds": sources["move_seconds"],
        "config": config,
        "steps": steps,
    }


class Figures:
    """What the runs of one contender say of one step: medians."""

    def __init__(self, steps):
        self.steps = steps

    def median(self, of):
        """The median of what `of` says of a step; None where it says nothing."""
        values = [value for value in map(of, self.steps) if value is not None]
        return statistics.median(values) if values else None

    @property
    def rate(self):
        return self.median(lambda step: step["ops"] and step["ops"] / step.get("ops_seconds", step["seconds"]))

    @property
    def sustained(self):
        """Operations a second with the time to settle: what else the step did, such as a check at its end, is in no rate."""
        settling = lambda step: step["settled_seconds"] - step["seconds"]
        return self.median(lambda step: step["ops"] and step["ops"] / (step.get("ops_seconds", step["seconds"]) + settling(step)))

    @property
    def written(self):
        """Bytes written for a byte of the program: at door 3, or by the kernel's count of the daemon for engines that pass no meter."""
        def of(step):
            door, process, app = step["door"]["write_bytes"], step["process"]["write_bytes"], step["app"]["write"]
            return amplification(process if door is None else door, app)
        return self.median(of)

    @property
    def device(self):
        return self.median(lambda step: amplification(step["device"]["write_bytes"], step["app"]["write"]))

    @property
    def space(self):
        return self.median(lambda step: ratio(step["space"]["disk_bytes"], step["space"]["apparent_bytes"]))

    def causes(self):
        """Seconds of waits by cause, of the first run."""
        causes = sorted(self.steps[0]["stalls_by_cause"].items(), key=lambda cause: -cause[1])
        return ", ".join(f"{name} {seconds:.2f}" for name, seconds in causes if seconds >= 0.005) or "none"


def better(figures_of, name, of, best):
    """The better one of the first LSM-tree and the first B-tree, by what `of` says of a step; None if one is missing."""
    values = []
    for engine in ("lsm", "btree"):
        contender = next((it for it in figures_of if it.split(":")[0] == engine), None)
        value = contender and name in figures_of[contender] and of(figures_of[contender][name])
        if not value:
            return None
        values.append(value)
    return best(values)


def table(name, figures_of):
    """One step, a row each contender."""
    titles = ["a second", "sustained", "÷ better of LSM-tree and B-tree", "p99 read ms", "p99 write ms", "W", "W device", "space", "asked",
              "hot reads", "hot bytes", "stalled s, by cause"]
    lines = [f"### {name}", "", "| | " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1) + "---|"]
    rival = better(figures_of, name, lambda it: it.sustained, max)
    for contender, steps in figures_of.items():
        if name not in steps:
            continue
        it = steps[name]
        milliseconds = [it.median(lambda step, key=key: step.get(key)) for key in ("p99_read_us", "p99_us")]
        digits = 0 if (it.rate or 0) >= 100 else 1
        cells = [shown(it.rate, digits), shown(it.sustained, digits), shown(ratio(it.sustained, rival)),
                 *(shown(None if value is None else value / 1000) for value in milliseconds), shown(it.written), shown(it.device), shown(it.space),
                 *(shown(it.median(lambda step, key=key: step[key])) for key in ("asked", "hot_read_share", "hot_share")), it.causes()]
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def recoveries(figures_of):
    """When the rate was back after other blocks became the hot ones."""
    lines = ["| | before, a second | second by second afterwards, in hundredths of that | back after |", "|---|---:|---|---:|"]
    for contender, steps in figures_of.items():
        if "moving" in steps:
            step = steps["moving"].steps[0]
            percents = " ".join(f"{100 * rate / step['rate_before']:.0f}" for rate in step["rates_after"])
            back = step["recovery_seconds"]
            said = f"not within {len(step['rates_after'])} s" if back is None else f"{back} s"
            lines.append(f"| {contender} | {step['rate_before']:,.0f} | {percents} | {said} |")
    return "\n".join(lines) + "\n"


def goals(figures_of):
    """What each hybrid is to reach, and by how much it does not."""
    lines = ["| | step | figure | hybrid | better of LSM-tree and B-tree | reached | goal | |", "|---|---|---|---:|---:|---:|---|---|"]

    def line(contender, step, figure, mine, other, reached, goal, is_least):
        missed = None if reached is None else (goal - reached if is_least else reached - goal)
        verdict = "not measured" if missed is None else "reached" if missed <= 0 else f"missed by {missed:.2f} ({100 * missed / goal:.0f} %)"
        lines.append(f"| {contender} | {step} | {figure} | {shown(mine)} | {shown(other)} | {shown(reached)} | {'≥' if is_least else '≤'} {goal} | {verdict} |")

    for contender, steps in figures_of.items():
        if contender.split(":")[0] != "hybrid":
            continue
        for step, goal in (("zipf", 1.6), ("uniform", 0.97)):
            mine, other = steps[step].sustained, better(figures_of, step, lambda it: it.sustained, max)
            line(contender, step, "sustained a second", mine, other, ratio(mine, other), goal, True)
        mine, other = steps["zipf"].written, better(figures_of, "zipf", lambda it: it.written, min)
        line(contender, "zipf", "W", mine, other, ratio(mine, other), 0.7, False)
        asked = lambda it: it.median(lambda step: step["asked"])
        mine, tree = asked(steps["zipf"]), next((asked(it["zipf"]) for name, it in figures_of.items() if name.split(":")[0] == "btree"), None)
        line(contender, "zipf", "asked, beyond the B-tree's", mine, tree, None if None in (mine, tree) else mine - tree, 0.5, False)
        back, watched = (steps["moving"].median(of) for of in (lambda step: step["recovery_seconds"], lambda step: len(step["rates_after"])))
        line(contender, "moving", "seconds until 90 %", back, None, back, 60, False)
        if back is None:
            lines[-1] = lines[-1].replace("not measured", f"not within the {watched:.0f} s that were watched")
    return "\n".join(lines) + "\n"


def page(results):
    """All tables of the results, as Markdown."""
    figures_of = {}
    for contender in dict.fromkeys(result["contender"] for result in results):
        runs = [result for result in results if result["contender"] == contender]
        names = [step["step"] for step in runs[0]["steps"] if step["step"] not in PREPARING]
        figures_of[contender] = {name: Figures([step for it in runs for step in it["steps"] if step["step"] == name]) for name in names}
    first = results[0]
    head = (f"{first['size_bytes'] >> 20} MiB in blocks of 4 KiB, {first['size_bytes'] >> 21} MiB of archive and {first['size_bytes'] >> 22} MiB of cold table "
            f"beside them; {first['memory_bytes'] >> 20} MiB of memory for each engine; {first['step_seconds']} s a step.\n")
    names = list(next(iter(figures_of.values())))
    tables = [table(name, figures_of) for name in names]
    return "\n".join([head, "### goals", "", goals(figures_of), *tables, "### second by second", "", recoveries(figures_of)])


def sized_alike(path, sources):
    """Refuses a result that is there already and was measured with other sizes or times."""
    result = json.loads(path.read_text())
    for name in ("size_bytes", "step_seconds", "move_seconds"):
        if result[name] != sources[name]:
            raise Failed(f"{path} was measured with {name} {result[name]}, not {sources[name]}: give another directory, or remove {path.parent}")


def main():
    # Whoever ends it finds nothing mounted afterwards.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    directory = Path(sys.argv[1]).resolve()
    directory_of_results = directory / "hybrid"
    directory_of_results.mkdir(parents=True, exist_ok=True)
    kvfs = program()
    names, options = every(kvfs)
    size_bytes = int(os.environ.get("SIZE", 256)) << 20
    engines = {name.split(":")[0] for name in names}
    usual = ["lsm", "lsm:tiered", "btree", "btree:cow", "btree:cow-extent", f"hybrid:hot={size_bytes >> 24}M",
             f"hybrid:tiered:hot={size_bytes >> 24}M", "rocksdb"]
    chosen = sys.argv[2:] or [name for name in usual if name.split(":")[0] in engines]
    sources = {"size_bytes": size_bytes, "memory_bytes": size_bytes // 4, "step_seconds": int(os.environ.get("STEP", 6)),
               "move_seconds": int(os.environ.get("MOVE", 20))}
    turns = [(number, name) for number in range(1, int(os.environ.get("RUNS", 1)) + 1) for name in chosen]
    begun, paths, failed, measured = time.monotonic(), [], 0, 0
    for turn, (number, name) in enumerate(turns):
        contender = Contender(name, options)
        path = directory_of_results / f"{contender.file_name}-{number}.json"
        paths.append(path)
        if path.exists():
            sized_alike(path, sources)
            continue
        left = f", about {(time.monotonic() - begun) / measured * (len(turns) - turn):.0f} s left" if measured else ""
        print(f"[{turn + 1}/{len(turns)}] {name}, run {number}{left}", flush=True)
        shutil.rmtree(directory / "work", ignore_errors=True)
        try:
            result = run(kvfs, contender, number, directory, sources)
        except (Failed, OSError, subprocess.SubprocessError, StopIteration):
            traceback.print_exc()
            failed += 1
            continue
        measured += 1
        path.write_text(json.dumps(result, indent=1) + "\n")
    results = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not results:
        raise Failed("nothing was measured")
    text = page(results)
    (directory / "hybrid.md").write_text(text)
    (directory / "hybrid.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
    print(f"\n{text}\nwritten: {directory}/hybrid.md {directory}/hybrid.json, in {time.monotonic() - begun:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"engines.sh: {failure}")
