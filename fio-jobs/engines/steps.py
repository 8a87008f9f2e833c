"""What real programs do to a store, step by step: each returns what the program itself measured."""

import json
import os
import random
import shutil
import sqlite3
import time

from store import Failed, call

# Random transactions of SQLite, and rows of its table.
TRANSACTIONS = 2000
ROWS = 40_000
ROW_BYTES = 200
# Appends of a log, each synced.
APPENDS = 2000
APPEND_BYTES = 300


class Programs:
    """The programs, on a mount, with data of `size_bytes` and the source tree and repository to copy from."""

    def __init__(self, mount, size_bytes, tree, repository):
        self.mount, self.size_bytes, self.tree, self.repository = mount, size_bytes, tree, repository

    def fio(self, name, way, syncs=False, **options):
        """One fio job; operations and the 99th percentile of their latency in microseconds."""
        words = ["fio", f"--name={name}", "--ioengine=psync", "--randseed=7", "--refill_buffers", "--output-format=json"]
        words += [f"--{option}={value}" for option, value in options.items()]
        printed = call(*words, cwd=self.mount)
        job = json.loads(printed[printed.index("{") :])["jobs"][0]
        latency = job["sync"]["lat_ns"] if syncs else job[way]["clat_ns"]
        return {"ops": job[way]["total_ios"], "p99_us": latency["percentile"]["99.000000"] / 1000}

    def fill(self):
        """One file, front to back."""
        return self.fio("fill", "write", filename="data", rw="write", bs="1m", size=self.size_bytes, end_fsync=1)

    def overwrite(self):
        """As many bytes again, in random blocks of 4 KiB."""
        return self.fio("overwrite", "write", filename="data", rw="randwrite", bs="4k", size=self.size_bytes,
                        io_size=self.size_bytes, norandommap=1, end_fsync=1)

    def append(self):
        """A log: small appends, each synced."""
        return self.fio("append", "write", True, filename="log", rw="write", bs=APPEND_BYTES, size=APPENDS * APPEND_BYTES,
                        fdatasync=1)

    def read(self):
        """Random blocks of 4 KiB of the file, nothing of it cached."""
        return self.fio("read", "read", filename="data", rw="randread", bs="4k", size=self.size_bytes,
                        io_size=self.size_bytes // 16, norandommap=1)

    def rsync(self):
        """A source tree is copied."""
        return {"ops": self.synchronize()}

    def rsync_again(self):
        """The same once more: nothing has changed."""
        changed = self.synchronize()
        if changed:
            raise Failed(f"rsync copied {changed} files again")
        return {}

    def synchronize(self):
        printed = call("rsync", "-a", "--stats", f"{self.tree}/", f"{self.mount}/tree/")
        line = next(line for line in printed.splitlines() if "regular files transferred" in line)
        return int(line.split(":")[1].replace(",", ""))

    def git(self):
        """A repository is cloned and packed anew, and git finds it whole."""
        call("git", "clone", "--quiet", "--no-local", self.repository, self.mount / "clone")
        call("git", "-C", self.mount / "clone", "gc", "--quiet")
        call("git", "-C", self.mount / "clone", "fsck", "--full")
        return {}

    def sqlite_wal(self):
        """SQLite with a write-ahead log."""
        return self.sqlite("wal")

    def sqlite_delete(self):
        """SQLite with a rollback journal."""
        return self.sqlite("delete")

    def sqlite(self, mode):
        """Random single-row transactions, each durable, and then its own check."""
        database = sqlite3.connect(self.mount / f"{mode}.db", isolation_level=None)
        database.execute(f"pragma journal_mode={mode}")
        database.execute("pragma synchronous=full")
        database.execute("create table t (id integer primary key, value blob)")
        chance = random.Random(7)
        database.execute("begin")
        database.executemany("insert into t values (?, ?)", ((row, chance.randbytes(ROW_BYTES)) for row in range(ROWS)))
        database.execute("commit")
        times = []
        for _ in range(TRANSACTIONS):
            begun = time.perf_counter()
            change = (chance.randbytes(ROW_BYTES), chance.randrange(ROWS))
            database.execute("update t set value = ? where id = ?", change)
            times.append(time.perf_counter() - begun)
        answer = database.execute("pragma integrity_check").fetchone()[0]
        database.close()
        if answer != "ok":
            raise Failed(f"integrity_check: {answer}")
        return {"ops": TRANSACTIONS, "p99_us": sorted(times)[TRANSACTIONS * 99 // 100] * 1e6}

    def remove(self):
        """Tree and clone are deleted."""
        for name in ("tree", "clone"):
            shutil.rmtree(self.mount / name)
        return {}

    def all(self):
        """Every step in order: its name, the function, and whether it begins with nothing cached."""
        return [
            ("fill", self.fill, False),
            ("overwrite", self.overwrite, False),
            ("append", self.append, False),
            ("read", self.read, True),
            ("rsync", self.rsync, False),
            ("rsync again", self.rsync_again, True),
            ("git", self.git, False),
            ("sqlite wal", self.sqlite_wal, False),
            ("sqlite delete", self.sqlite_delete, False),
            ("rm", self.remove, False),
        ]


def make_tree(directory, top):
    """The sources of the dependencies that the lock file names: the same everywhere."""
    if not directory.is_dir():
        making = directory.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        call("cargo", "vendor", "--locked", "--manifest-path", top / "Cargo.toml", making)
        making.rename(directory)
    return directory


def make_repository(directory, tree):
    """A repository with the tree in ten commits."""
    if not directory.is_dir():
        making = directory.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        author = {"GIT_AUTHOR_NAME": "kvfs", "GIT_AUTHOR_EMAIL": "kvfs@example.org", "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z"}
        committer = {name.replace("AUTHOR", "COMMITTER"): value for name, value in author.items()}
        environment = {**os.environ, **author, **committer}
        call("git", "init", "--quiet", making)
        names = sorted(path.name for path in tree.iterdir())
        for part in range(10):
            for name in names[part::10]:
                source = tree / name
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, making / name)
            call("git", "-C", making, "add", "--all", "--force", env=environment)
            call("git", "-C", making, "commit", "--quiet", "-m", f"part {part}", env=environment)
        making.rename(directory)
    return directory
