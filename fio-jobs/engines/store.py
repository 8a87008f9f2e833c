"""A store of one contender: on an ext4 of its own on a loop device, mounted by a daemon with bounded memory, and its counts."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

SECTOR_BYTES = 512
SETTLE_SECONDS_MAX = 120
GROUPS = Path("/sys/fs/cgroup")


class Failed(Exception):
    """A command or a step that did not do what it should."""


def call(*words, **more):
    """Runs a command; what it printed. Its errors are part of the failure."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


class MemoryGroup:
    """A control group that bounds the memory of a daemon with its page cache. Both versions of the kernel's interface are known."""

    def __init__(self, name, limit_bytes):
        self.is_second = (GROUPS / "cgroup.controllers").exists()
        self.path = (GROUPS if self.is_second else GROUPS / "memory") / name
        if self.is_second:
            (GROUPS / "cgroup.subtree_control").write_text("+memory")
        self.path.mkdir(exist_ok=True)
        limit = "memory.max" if self.is_second else "memory.limit_in_bytes"
        (self.path / limit).write_text(str(limit_bytes))

    def enter(self):
        """Moves this process there; for a child, before it becomes another program."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        """Takes it away; nobody is in it any more."""
        for _ in range(50):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.1)


class Store:
    """The store, mounted at `mount`. `plain` is the ext4 itself."""

    def __init__(self, kvfs, contender, work, size_bytes, memory_bytes):
        self.kvfs, self.contender, self.work, self.memory_bytes = kvfs, contender, Path(work), memory_bytes
        self.image, self.below, self.mount = self.work / "image", self.work / "below", self.work / "mnt"
        self.directory = self.below / "store"
        self.device = None
        self.group = None
        self.log = self.work / "daemon.log"
        for directory in (self.below, self.mount):
            directory.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(24 * size_bytes)
        call("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.device = call("losetup", "--find", "--show", "--direct-io=on", self.image).strip()
        call("mount", self.device, self.below)
        self.directory.mkdir()
        if self.is_plain:
            call("mount", "--bind", self.directory, self.mount)
        else:
            # The engine's share, and as much again for the program and what the kernel caches of its files. What keeps everything in
            # memory is the rail at which engines cost nothing, and has no bound.
            if self.keeps:
                self.group = MemoryGroup("kvfs-engines", 2 * memory_bytes + (64 << 20))
            self.start()

    @property
    def is_plain(self):
        return self.contender.name == "plain"

    @property
    def keeps(self):
        return self.contender.engine != "mem"

    def start(self):
        """Mounts it."""
        options = self.contender.options(self.memory_bytes)
        words = [self.kvfs, "mount", self.directory, self.mount, "-o", options]
        with open(self.log, "ab") as log:
            done = subprocess.run([str(word) for word in words], stdout=log, stderr=log, preexec_fn=self.group and self.group.enter)
        if done.returncode != 0:
            raise Failed(f"mount -o {options}: {self.log.read_text()[-2000:]}")

    def stop(self):
        """Unmounts it and waits for the daemon."""
        if self.is_plain:
            return call("umount", self.mount)
        pid = self.report()["process"]["pid"]
        call(self.kvfs, "umount", self.mount, timeout=900)
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)

    def again(self):
        """Unmounts it, has the kernel forget what it cached, and mounts it; what keeps nothing stays mounted."""
        if not self.keeps:
            return
        self.stop()
        call("sync", "-f", self.below)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        if self.is_plain:
            call("mount", "--bind", self.directory, self.mount)
        else:
            self.start()

    def remove(self):
        """Takes everything away, in whatever state it is."""
        for path in (self.mount, self.below):
            if os.path.ismount(path):
                subprocess.run(["umount", path], check=False) if path == self.below or self.is_plain else subprocess.run(
                    [str(self.kvfs), "umount", str(path)], check=False)
        if self.device:
            subprocess.run(["losetup", "-d", self.device], check=False)
        if self.group:
            self.group.remove()
        shutil.rmtree(self.work, ignore_errors=True)

    def report(self, mark=None):
        """What `.stats` says, since a mark or since the mount; empty for `plain`."""
        if self.is_plain:
            return {}
        name = f"since/{mark}.json" if mark else "json"
        return json.loads((self.mount / ".stats.d" / name).read_text())

    def control(self, *words):
        """Gives the store a command."""
        if not self.is_plain:
            call(self.kvfs, "ctl", self.mount, *words, timeout=1200)

    def settle(self):
        """Waits until nothing is owed: nothing to merge, nothing dirty, everything synced. Returns whether that came in time."""
        begun = time.monotonic()
        self.control("flush", "wait")
        rested = 0
        while not self.is_plain and rested < 3:
            report = self.report()
            owed = (report["debt"]["pending_compaction_bytes"] or 0) + len(report["jobs"])
            rested = 0 if owed else rested + 1
            if time.monotonic() - begun > SETTLE_SECONDS_MAX:
                return False
            time.sleep(0.2)
        self.control("sync")
        call("sync", "-f", self.mount if self.is_plain else self.below)
        return True

    def device_counts(self):
        """Requests and bytes of the loop device, and the flushes that it was asked for, since it exists."""
        words = [int(word) for word in Path(f"/sys/block/{Path(self.device).name}/stat").read_text().split()]
        return {
            "reads": words[0],
            "read_bytes": words[2] * SECTOR_BYTES,
            "writes": words[4],
            "write_bytes": words[6] * SECTOR_BYTES,
            "flushes": words[15] if len(words) > 15 else None,
        }

    def disk_bytes(self):
        """Blocks that the store takes on its filesystem."""
        return int(call("du", "-s", "--block-size=1", self.directory).split()[0])

    def apparent_bytes(self, report):
        """Bytes of all files in it."""
        if self.is_plain:
            return sum(path.lstat().st_size for path in self.directory.rglob("*") if path.is_file())
        return report["space"]["apparent_bytes"]

    def memory(self):
        """Most memory of the daemon so far in bytes, without what the kernel caches for it."""
        if self.is_plain:
            return None
        status = Path(f"/proc/{self.report()['process']['pid']}/status").read_text()
        lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(lines[0][1]) << 10 if lines else None
