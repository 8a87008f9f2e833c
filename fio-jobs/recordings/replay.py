"""The six recordings on the engine that was recorded, at each pace, and on other designs: the tables of docs/replay.md."""

import json
import pathlib
import subprocess
import sys

from mount import KVFS

WORKS = ["zipf", "sqlite", "git", "rsync", "cargo", "pgbench"]
PACES = ["skip-idle", "simulated", "recorded", "in-flight", "closed"]
DESIGNS = [
    "lsm", "lsm,policy=tiered", "lsm,policy=eager", "btree", "btree,page_size=4K", "btree,pages=cow", "hybrid,hot=4M",
]


def replay(file, pace, designs):
    words = [KVFS, "replay", str(file), "--json", "--pace", pace]
    for design in designs:
        words += ["--engine", design]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def number(value):
    return "-" if value is None else f"{value:.2f}" if value < 1000 else f"{value:.0f}"


def line(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def main(place):
    files = {work: place / f"{work}.rec" for work in WORKS if (place / f"{work}.rec").exists()}
    line("recording", "counted", *(f"`{pace}`" for pace in PACES), *(f"s, `{pace}`" for pace in PACES))
    line(*["---"] * (2 + 2 * len(PACES)))
    for work, file in files.items():
        reports = [replay(file, pace, ["lsm"]) for pace in PACES]
        again = [report["engines"][0] for report in reports]
        recorded = reports[0]["recorded"]
        line(
            work, number(recorded["write_amplification"]), *(number(one["write_amplification"]) for one in again),
            *(f"{one['seconds']:.1f}" for one in again),
        )
    print()
    line("write × / read × / space ×", *files)
    line(*["---"] * (1 + len(files)))
    reports = {work: replay(file, "simulated", DESIGNS) for work, file in files.items()}
    names = ["write_amplification_settled", "read_amplification", "space_amplification"]
    for at, design in enumerate(DESIGNS):
        cells = [" / ".join(number(report["engines"][at][name]) for name in names) for report in reports.values()]
        line(f"`{design}`", *cells)


main(pathlib.Path(sys.argv[1]))
