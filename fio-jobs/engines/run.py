"""Runs contenders: `run.py DIR [CONTENDER...]`; engines.sh has the help."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from contender import Contender, every
from steps import Programs, make_repository, make_tree
from store import Failed, Store, call

SCHEMA = "kvfs.engines/1"
TOP = Path(__file__).resolve().parents[2]


def program():
    """The binary to test."""
    if "KVFS" in os.environ:
        return Path(os.environ["KVFS"]).resolve()
    for name in ("engines/target/release/kvfs-engines", "target/release/kvfs"):
        if (TOP / name).exists():
            return TOP / name
    raise Failed("there is no program: cargo build --release, here or in engines/, or set KVFS")


def machine(directory):
    """Where it was measured."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "kernel": platform.release(),
        "processor": model[1] if model else None,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "filesystem": call("findmnt", "--noheadings", "--output", "FSTYPE", "--target", directory).strip(),
    }


def difference(after, before):
    """What was added, name by name; null where nobody counted."""
    return {name: None if value is None else value - before[name] for name, value in after.items()}


def measure(store, name, step, is_cold):
    """One step from a settled store to a settled store."""
    if is_cold:
        store.again()
    mark = name.replace(" ", "-")
    store.control("mark", mark)
    before = store.device_counts()
    begun = time.monotonic()
    measured = step()
    seconds = time.monotonic() - begun
    is_settled = store.settle()
    settled = time.monotonic() - begun
    report = store.report(mark)
    app, disk, process = (report.get(part) or {} for part in ("app", "disk", "process"))
    stalls = report.get("stalls") or {}
    return {
        "step": name,
        "seconds": seconds,
        "settled_seconds": settled,
        "is_settled": is_settled,
        "ops": measured.get("ops"),
        "p99_us": measured.get("p99_us"),
        "app": {way: app.get(f"{way}_bytes") for way in ("write", "read")},
        "door": {key: disk.get(key) for key in ("write_bytes", "read_bytes", "writes", "reads", "syncs")},
        "process": {key: process.get(key) for key in ("write_bytes", "read_bytes")},
        "device": difference(store.device_counts(), before),
        "stalls": {"count": sum(stalls.get(kind) or 0 for kind in ("slowdowns", "stops")) if stalls else None,
                   "seconds": stalls.get("seconds")},
        "space": {"disk_bytes": store.disk_bytes(), "apparent_bytes": store.apparent_bytes(report)},
        "memory_bytes": store.memory(),
    }


def kills(kvfs, contender, rounds):
    """The daemon is killed under writers, and what the engine promises is looked for. How that went."""
    if contender.name in ("plain", "mem") or rounds == 0:
        return None
    words = [TOP / "tests/external/kill.sh", "--engine", contender.engine, "--rounds", rounds]
    environment = {**os.environ, "KVFS_BIN": str(kvfs)}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=environment)
    return {"rounds": rounds, "passed": done.returncode == 0, "last_line": (done.stdout.strip().splitlines() or [""])[-1]}


def run(kvfs, contender, number, directory, sources):
    """All steps of one contender on a new store."""
    size, memory, rounds = sources["size_bytes"], sources["memory_bytes"], sources["rounds"]
    store = Store(kvfs, contender, directory / "work", size, memory)
    try:
        report = store.report()
        programs = Programs(store.mount, size, sources["tree"], sources["repository"])
        config = None if store.is_plain else (store.mount / ".stats.d/config").read_text()
        if config:
            # Where it was measured says nothing of how.
            config = config.replace(str(directory), "DIR")
        steps = []
        for name, step, is_cold in programs.all():
            steps.append(measure(store, name, step, is_cold))
            last = steps[-1]
            print(f"  {name:14} {last['seconds']:7.1f} s, settled after {last['settled_seconds']:7.1f} s", flush=True)
        store.stop()
        if not store.is_plain and store.keeps:
            call(kvfs, "check", store.directory)
    finally:
        store.remove()
    return {
        "schema": SCHEMA,
        "contender": contender.name,
        "run": number,
        "versions": {"kvfs": call(kvfs, "--version").strip(), "report": report.get("version")},
        "machine": machine(directory),
        "size_bytes": size,
        "memory_bytes": memory,
        "config": config,
        "promise": report.get("promise"),
        "kills": kills(kvfs, contender, rounds) if number == 1 else None,
        "steps": steps,
    }


def main():
    # Whoever ends it finds nothing mounted afterwards.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    directory = Path(sys.argv[1]).resolve()
    results = directory / "results"
    results.mkdir(parents=True, exist_ok=True)
    kvfs = program()
    names, options = every(kvfs)
    size_bytes = int(os.environ.get("SIZE", 512)) << 20
    tree = Path(os.environ["TREE"]) if "TREE" in os.environ else make_tree(directory / "tree", TOP)
    sources = {
        "size_bytes": size_bytes,
        "memory_bytes": size_bytes // 4,
        "rounds": int(os.environ.get("ROUNDS", 5)),
        "tree": tree,
        "repository": make_repository(directory / "repository", tree),
    }
    failed = 0
    for number in range(1, int(os.environ.get("RUNS", 3)) + 1):
        for name in sys.argv[2:] or names:
            contender = Contender(name, options)
            path = results / f"{contender.file_name}-{number}.json"
            if path.exists():
                continue
            print(f"{name}, run {number}", flush=True)
            shutil.rmtree(directory / "work", ignore_errors=True)
            try:
                result = run(kvfs, contender, number, directory, sources)
            except (Failed, OSError, subprocess.SubprocessError, StopIteration):
                traceback.print_exc()
                failed += 1
                continue
            path.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"engines.sh: {failure}")
