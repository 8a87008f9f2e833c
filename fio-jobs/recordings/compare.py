"""What size alone says of the designs, beside what the engines do: write amplification, the order of designs, and the time both take."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from mount import KVFS

DESIGNS = os.environ.get(
    "DESIGNS",
    "lsm,policy=leveled lsm,policy=leveled,level_multiplier=4 lsm,policy=tiered lsm,policy=tiered,tier_merge_min=8 lsm,policy=eager "
    "btree btree,page_size=16K btree,pages=cow btree,torn=doublewrite",
).split()
SAME = os.environ.get("SAME", "").split()
PACE = os.environ.get("PACE", "skip-idle")


def ask(*words):
    """A command's JSON, and the seconds that it took."""
    begun = time.monotonic()
    out = subprocess.run([KVFS, *map(str, words), "--json"], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out), time.monotonic() - begun


def tau(pairs):
    """Kendall's tau-b of two orders: 1 where they agree, -1 where each is the other reversed; values within 1 % are tied."""
    def order(one, other):
        return 0 if abs(one - other) <= 0.01 * max(one, other) else (1 if one > other else -1)

    agree = first = second = 0
    for index, (one, real_one) in enumerate(pairs):
        for other, real_other in pairs[:index]:
            ours, real = order(one, other), order(real_one, real_other)
            agree += ours * real
            first += ours != 0
            second += real != 0
    return agree / (first * second) ** 0.5 if first and second else 1.0


def main():
    place = pathlib.Path(sys.argv[1])
    names = sys.argv[2:] or sorted(path.stem for path in place.glob("*.rec"))
    engines = [word for design in DESIGNS for word in ("--engine", design)]
    lines, taus, off = [], [], []
    for name in names:
        recording = place / f"{name}.rec"
        by_text, said_seconds = {}, 0
        for text in DESIGNS:
            said, took = ask("advise", recording, "--engine", text, *SAME)
            said_seconds += took
            designs = said["designs"]
            by_text[text] = next((design for design in designs if not design["is_recorded"]), designs[0])
        real, real_seconds = ask("replay", recording, *engines, "--pace", PACE, "--dir", place / "replay.tmp")
        recorded = real["recorded"]
        print(f"\n{name}: recorded in {recorded['seconds']:.1f} s on {recorded['engine']}, write amplification {recorded['write_amplification']:.2f}; "
              f"advice on {len(DESIGNS)} designs {said_seconds:.1f} s, replay of them {real_seconds:.1f} s")
        print(f"  {'design':<38}{'model':>8}{'replay':>8}{'ratio':>7}{'space':>8}{'replay':>8}")
        pairs = []
        for text, engine in zip(DESIGNS, real["engines"]):
            design = by_text[text]
            model, found = design["write"], engine["write_amplification_settled"]
            pairs.append((model, found))
            off.append((abs(model / found - 1), name, text, model / found))
            # What advice says of reads is of gets and scans, a replay's of merges, too: those do not compare.
            number = lambda value: "-" if value is None else f"{value:.2f}"
            print(f"  {text:<38}{model:>8.2f}{found:>8.2f}{model / found:>7.2f}{number(design['space']):>8}{number(engine['space_amplification']):>8}", flush=True)
        taus.append((name, tau(pairs)))
        print(f"  Kendall's tau of the order by write amplification: {taus[-1][1]:.2f}")
    far = [entry for entry in off if entry[0] > 0.1]
    print(f"\n{len(off) - len(far)} of {len(off)} within 10 %, median {statistics.median(entry[0] for entry in off) * 100:.1f} % off; "
          f"tau {min(value for _, value in taus):.2f} to {max(value for _, value in taus):.2f}")
    for _, name, text, ratio in sorted(far, reverse=True):
        print(f"  further off: {name}, {text}: {ratio:.2f}")


main()
