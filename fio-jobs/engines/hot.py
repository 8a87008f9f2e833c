"""Programs of which a part of the data is hot and the rest cold; each step returns what the programs themselves measured."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

from steps import Programs
from store import Failed, call

BLOCK_BYTES = 4096
# Few blocks take most. A seed of fio says in which order, not which blocks: the second one of these makes others the hot ones.
ZIPF, ZIPF_ELSEWHERE = "zipf:0.99", "zipf:0.99:0.37"
# Rows of the two tables of SQLite, and bytes of each: a hot table of about 3 MB.
HOT_ROWS, HOT_ROW_BYTES, COLD_ROW_BYTES = 16_000, 200, 1000
# Transactions of the hot table for each read of the cold one.
TRANSACTIONS_PER_COLD_READ = 50
# Files of the work tree, those that differ between its two branches, and those that each commit changes.
FILES, DIFFERENT_FILES, EDITED_FILES = 1500, 300, 10
# Seconds whose mean is held against the former rate, and the part of that at which it has recovered.
MEAN_SECONDS, RECOVERED_SHARE = 2, 0.9


def percentile_us(times, share=0.99):
    """A percentile of times in seconds, in microseconds."""
    return sorted(times)[min(int(len(times) * share), len(times) - 1)] * 1e6 if times else None


class HotPrograms(Programs):
    """The programs. Each step that is timed takes `step_seconds`; the hot blocks are looked after for up to `move_seconds` once they moved."""

    def __init__(self, mount, size_bytes, directory, step_seconds, move_seconds):
        super().__init__(mount, size_bytes, None, make_work_tree(directory / "work-tree"))
        self.archive = make_archive(directory / f"archive-{size_bytes >> 20}", size_bytes // 2)
        self.step_seconds, self.move_seconds = step_seconds, move_seconds
        self.seed = 7

    def copy_archive(self):
        """Files that nobody touches again."""
        shutil.copytree(self.archive, self.mount / "archive")
        return {}

    def blocks(self, seconds, distribution, more):
        """The words of a fio job: half reads, half overwrites of blocks of the file, past the kernel's cache; each in an order of its own."""
        self.seed += 1
        return ["fio", "--name=blocks", "--filename=data", f"--size={self.size_bytes}", "--ioengine=psync", "--direct=1", "--rw=randrw",
                "--rwmixread=50", f"--bs={BLOCK_BYTES}", "--norandommap", f"--random_distribution={distribution}", f"--randseed={self.seed}",
                "--refill_buffers", "--time_based", f"--runtime={seconds}", *more]

    def mixture(self, distribution):
        """One such job; operations, the time that they took, and the 99th percentiles."""
        printed = call(*self.blocks(self.step_seconds, distribution, ["--output-format=json"]), cwd=self.mount)
        job = json.loads(printed[printed.index("{") :])["jobs"][0]
        p99 = {way: job[way]["clat_ns"]["percentile"]["99.000000"] / 1000 for way in ("read", "write")}
        return {"ops": job["read"]["total_ios"] + job["write"]["total_ios"], "ops_seconds": job["job_runtime"] / 1000,
                "p99_us": p99["write"], "p99_read_us": p99["read"]}

    def zipf(self):
        """Few blocks take most."""
        return self.mixture(ZIPF)

    def uniform(self):
        """All blocks alike."""
        return self.mixture("random")

    def moving(self):
        """The same few blocks, then others: operations a second before, by second afterwards, and when they were nine tenths again."""
        before = self.by_second(self.step_seconds, ZIPF, lambda rates: False)
        rate = sum(before) / len(before)
        recovered = lambda rates: recovery(rates, rate) is not None
        after = self.by_second(self.move_seconds, ZIPF_ELSEWHERE, recovered)
        return {"ops": sum(before) + sum(after), "ops_seconds": len(before) + len(after), "rate_before": rate, "rates_after": after,
                "recovery_seconds": recovery(after, rate)}

    def by_second(self, seconds, distribution, is_enough):
        """Operations in each second of a job, until it ends or `is_enough` of them."""
        words = self.blocks(seconds, distribution, ["--status-interval=1", "--output-format=terse"])
        rates, seen, since = [], 0, time.monotonic()
        with subprocess.Popen(words, cwd=self.mount, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
            for line in job.stdout:
                fields = line.split(";")
                if len(fields) < 50:
                    continue
                # Kilobytes read and written so far.
                done, now = (int(fields[5]) + int(fields[46])) * 1024 // BLOCK_BYTES, time.monotonic()
                # What fio says at its end follows at once.
                if now - since > 0.5:
                    rates.append(round((done - seen) / (now - since)))
                    seen, since = done, now
                if is_enough(rates):
                    job.send_signal(signal.SIGINT)
                    break
            job.stdout.read()
        if not rates:
            raise Failed(f"{' '.join(words)}: it said nothing within {seconds} s; STEP is to be 2 or more")
        return rates

    @property
    def database(self):
        return self.mount / "tables.db"

    def make_tables(self):
        """A large table that is cold and a small one that is hot."""
        database = sqlite3.connect(self.database, isolation_level=None)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=normal")
        chance = random.Random(7)
        cold_rows = self.size_bytes // 4 // COLD_ROW_BYTES
        for name, rows, row_bytes in (("cold", cold_rows, COLD_ROW_BYTES), ("hot", HOT_ROWS, HOT_ROW_BYTES)):
            database.execute(f"create table {name} (id integer primary key, value blob)")
            database.execute("begin")
            database.executemany(f"insert into {name} values (?, ?)", ((row, chance.randbytes(row_bytes)) for row in range(rows)))
            database.execute("commit")
        database.close()
        return {}

    def sqlite_hot(self):
        """Updates and reads of single rows of the hot table, and now and then a read of the cold one."""
        database = sqlite3.connect(self.database, isolation_level=None)
        database.execute("pragma synchronous=normal")
        chance, times, reads = random.Random(11), [], []
        cold_rows = self.size_bytes // 4 // COLD_ROW_BYTES
        begun = time.monotonic()
        while time.monotonic() - begun < self.step_seconds:
            value, row = chance.randbytes(HOT_ROW_BYTES), chance.randrange(HOT_ROWS)
            since = time.perf_counter()
            database.execute("update hot set value = ? where id = ?", (value, row))
            written = time.perf_counter()
            database.execute("select value from hot where id = ?", (chance.randrange(HOT_ROWS),)).fetchone()
            times.append(written - since)
            reads.append(time.perf_counter() - written)
            if len(times) % TRANSACTIONS_PER_COLD_READ == 0:
                database.execute("select value from cold where id = ?", (chance.randrange(cold_rows),)).fetchone()
        seconds = time.monotonic() - begun
        answer = database.execute("pragma integrity_check(hot)").fetchone()[0]
        database.close()
        if answer != "ok":
            raise Failed(f"integrity_check: {answer}")
        return {"ops": len(times), "ops_seconds": seconds, "p99_us": percentile_us(times), "p99_read_us": percentile_us(reads)}

    def clone(self):
        """A work tree of its own."""
        call("git", "clone", "--quiet", "--no-local", self.repository, self.mount / "clone")
        call("git", "-C", self.mount / "clone", "branch", "--quiet", "other", "origin/other")
        return {}

    def git_use(self):
        """A work tree in use: the other branch and back, what has changed, a few edits, a commit. An operation is one command of git."""
        tree, times, chance, begun = self.mount / "clone", [], random.Random(13), time.monotonic()

        def git(*words):
            since = time.perf_counter()
            call("git", "-C", tree, *words, env={**os.environ, **IDENTITY})
            times.append(time.perf_counter() - since)

        while time.monotonic() - begun < self.step_seconds:
            for branch in ("other", "main"):
                git("checkout", "--quiet", branch)
                git("status", "--short")
            for _ in range(EDITED_FILES):
                with open(tree / file_name(chance.randrange(DIFFERENT_FILES, FILES)), "a") as file:
                    file.write(f"{chance.random()}\n")
            git("commit", "--quiet", "--all", "--message=edits")
        seconds = time.monotonic() - begun
        call("git", "-C", tree, "fsck", "--full")
        return {"ops": len(times), "ops_seconds": seconds, "p99_us": percentile_us(times)}

    def all(self):
        """Every step in order: its name, the function, and whether it begins with nothing cached. The first four make the data."""
        return [
            ("fill", self.fill, False),
            ("archive", self.copy_archive, False),
            ("tables", self.make_tables, False),
            ("clone", self.clone, False),
            ("zipf at first", self.zipf, True),
            ("zipf", self.zipf, False),
            ("moving", self.moving, False),
            ("uniform", self.uniform, False),
            ("sqlite hot", self.sqlite_hot, False),
            ("git in use", self.git_use, False),
        ]


def recovery(rates, before):
    """Seconds until the first [`MEAN_SECONDS`] whose mean is nine tenths of `before`; None if there were none such."""
    for second in range(len(rates) - MEAN_SECONDS + 1):
        if sum(rates[second : second + MEAN_SECONDS]) / MEAN_SECONDS >= RECOVERED_SHARE * before:
            return second
    return None


IDENTITY = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "kvfs"), ("EMAIL", "kvfs@example.org"), ("DATE", "2026-01-01T00:00:00Z"))}


def file_name(number):
    """Of a file of the work tree."""
    return f"part{number % 40:02}/file{number:04}.txt"


def make_work_tree(directory):
    """A repository of text files in two branches, the same everywhere."""
    if not directory.is_dir():
        making = directory.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        call("git", "init", "--quiet", "--initial-branch=main", making)
        chance = random.Random(5)

        def commit(numbers, message):
            for number in numbers:
                path = making / file_name(number)
                path.parent.mkdir(exist_ok=True)
                path.write_text("".join(f"{chance.getrandbits(96):x}\n" for _ in range(chance.randrange(20, 600))))
            call("git", "-C", making, "add", "--all")
            call("git", "-C", making, "commit", "--quiet", "--message", message, env={**os.environ, **IDENTITY})

        commit(range(FILES), "everything")
        call("git", "-C", making, "checkout", "--quiet", "-b", "other")
        commit(range(DIFFERENT_FILES), "some are different")
        call("git", "-C", making, "checkout", "--quiet", "main")
        making.rename(directory)
    return directory


def make_archive(directory, size_bytes):
    """Files of 1 to 128 KiB, `size_bytes` in all, the same everywhere."""
    if not directory.is_dir():
        making = Path(f"{directory}.making")
        shutil.rmtree(making, ignore_errors=True)
        chance, number, left = random.Random(3), 0, size_bytes
        while left > 0:
            file_bytes = min(left, chance.randrange(1 << 10, 128 << 10))
            path = making / f"{number % 50:02}" / f"{number:05}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(chance.randbytes(file_bytes))
            number, left = number + 1, left - file_bytes
        making.rename(directory)
    return directory
