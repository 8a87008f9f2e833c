#!/usr/bin/env bash
# What grows with a store on an object store: prints the tables of docs/distributed.md, "What grows". No store is needed: the constants are
# measured (the chapter says how), merges are simulated by the rule of the engine's scheduler, prices are those of a public price list.
#
#   fio-jobs/object-store-growth.sh [--table MIB] [--change BYTES]
#
#   --table   MiB of a table as a memtable leaves it (64)
#   --change  bytes of each change in the second table (4096)
set -euo pipefail
exec python3 - "$@" <<'PYTHON'
import argparse

arguments = argparse.ArgumentParser(prog="object-store-growth.sh")
arguments.add_argument("--table", type=int, default=64)
arguments.add_argument("--change", type=int, default=4096)
given = arguments.parse_args()

TABLE = given.table << 20
# Bytes of the manifest for each table, of one without, and bytes of inode and name of a file.
MANIFEST_TABLE, MANIFEST_EMPTY, FILE = 170, 480, 150
# Manifests written for each memtable that becomes a table: its flush, and its share of a merge or a move.
MANIFESTS_A_TABLE = 1.25
# Synced changes a second that 64 clients made of one process, whose server had the other core.
PROCESSOR = 8000
# Bytes of log for a byte of changes.
LOG = 1.05
# Dollars: a PUT or LIST, a GET or HEAD, a GB and month.
PUT, GET, GB_MONTH = 0.005 / 1000, 0.0004 / 1000, 0.023
# Bytes of a part of a table's upload, and of a log object where nothing is synced before.
PART, LOG_OBJECT = 8 << 20, 8 << 20


def merges(tables):
    """Bytes merged for each byte that comes, and sorted runs, after so many tables in no order (keys all over). The scheduler merges four
    to eight new tables to a run, and four to eight neighbouring runs of which none is four times as large as the smallest."""
    fresh, runs, merged = 0, [], 0
    for _ in range(tables):
        fresh += 1
        if fresh == 4:
            runs.insert(0, fresh)
            merged += fresh
            fresh = 0
        found = True
        while found:
            found = False
            for first in range(len(runs)):
                last, smallest = first, runs[first]
                while last < len(runs) and runs[last] < 4 * smallest:
                    smallest = min(smallest, runs[last])
                    last += 1
                last = min(last, first + 8)
                if last - first >= 4:
                    merged += sum(runs[first:last])
                    runs[first:last] = [sum(runs[first:last])]
                    found = True
                    break
    return merged / tables, len(runs) + fresh


def size(number):
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


print(f"What there is (tables of {given.table} MiB as they come, of 256 MiB once they are merged):\n")
row("store", "tables, as they came", "manifest", "tables, merged", "manifest", "manifests for a byte, as they came", "storage a month")
row(*["---"] * 7)
for name, held in [("1 GB", 1e9), ("100 GB", 1e11), ("1 TB", 1e12), ("10 TB", 1e13), ("100 TB", 1e14), ("1 PB", 1e15), ("names of 1e9 files", 1e9 * FILE)]:
    came, large = held / TABLE, held / (256 << 20)
    manifest = MANIFEST_EMPTY + came * MANIFEST_TABLE
    row(name, f"{came:,.0f}", size(manifest), f"{large:,.0f}", size(MANIFEST_EMPTY + large * MANIFEST_TABLE), f"{MANIFESTS_A_TABLE * manifest / TABLE:.2g}", f"${held / 1e9 * GB_MONTH:,.2f}")

print("\nWhat a byte costs that is put at a random place, and what a million changes cost:\n")
row("store", "merged", "all bytes up", "sorted runs", f"a million changes of {given.change} B, synced one by one", "by sixteen at once", "never before 8 MiB")
row(*["---"] * 7)
ratio = None
for name, held in [("1 GB", 1e9), ("10 GB", 1e10), ("100 GB", 1e11), ("1 TB", 1e12), ("10 TB", 1e13)]:
    again, runs = merges(max(1, int(held / TABLE)))
    up = LOG + 1 + again
    million = 1e6 * given.change
    tables = million * (1 + again) / PART * PUT + million * again / (2 << 20) * GET
    row(name, f"{again:.2f}", f"{up:.2f}", runs, f"${1e6 * PUT + tables:.2f}", f"${1e6 / 16 * PUT + tables:.2f}", f"${million * LOG / LOG_OBJECT * PUT + tables:.4f}")

print("\nWhere one writer ends: synced changes a second, by the time of one PUT:\n")
row("a PUT takes", "rounds a second", "one client", "16 clients", "256 clients", "an hour of it")
row(*["---"] * 6)
for milliseconds in (1.3, 5, 25, 100):
    rounds = 1000 / milliseconds
    # Six of ten that wait ride with the next round, the others come too late for it: 8 clients made 0.21 PUTs a change.
    many = [min(PROCESSOR, rounds * clients * 0.6) for clients in (16, 256)]
    row(f"{milliseconds} ms", f"{rounds:.0f}", f"{rounds:.0f}", *(f"{rate:,.0f}" for rate in many), f"${rounds * 3600 * PUT:.2f}")
PYTHON
