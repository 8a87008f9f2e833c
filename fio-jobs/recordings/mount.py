"""A mount of a new store for as long as a block runs."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess

TREE = pathlib.Path(__file__).resolve().parents[2]
KVFS = os.environ.get("KVFS", str(TREE / "target/release/kvfs"))


def kvfs(*words):
    """Runs a command of kvfs; its output."""
    return subprocess.run([KVFS, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout


def stats(mnt):
    """The report of a mount."""
    return json.loads((mnt / ".stats.d/json").read_text())


@contextlib.contextmanager
def mounted(place, options):
    """A new store below `place`, mounted; the mount point."""
    store, mnt = place / "store", place / "mnt"
    shutil.rmtree(store, ignore_errors=True)
    mnt.mkdir(parents=True, exist_ok=True)
    kvfs("mount", store, mnt, "-o", options)
    try:
        yield mnt
    finally:
        kvfs("umount", mnt)
        shutil.rmtree(store, ignore_errors=True)
