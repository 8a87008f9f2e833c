"""Six recordings: real programs on generated data, each on a new store."""

import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile

from mount import kvfs, mounted

OPTIONS = os.environ.get("OPTIONS", "memory=8M")
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def run(*words, **more):
    subprocess.run([str(word) for word in words], check=True, **{**QUIET, **more})


def text(noise, length):
    """Text that compresses about as sources do."""
    words = ["let", "value", "return", "self", "match", "error", "result", "for", "index", "bytes", "Some", "None", "if", "else"]
    made = []
    size = 0
    while size < length:
        word = noise.choice(words) if noise.random() < 0.7 else f"{noise.getrandbits(32):x}"
        made.append(word + ("\n" if noise.random() < 0.15 else " "))
        size += len(made[-1])
    return "".join(made)[:length]


def tree(place, noise, files):
    """Directories of generated sources, some kilobytes each."""
    for number in range(files):
        path = place / f"part{number % 23}" / f"module{number % 7}" / f"file{number}.rs"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(noise, int(noise.paretovariate(1.2) * 1500) % 60_000 + 200))


def zipf(mnt, noise):
    """Overwrites and reads of 4 KiB blocks, some far more often than others, with an fsync now and then."""
    run(
        "fio", "--name=zipf", f"--filename={mnt}/blocks", "--size=48M", "--rw=randrw", "--rwmixread=40", "--bs=4k", "--direct=1",
        "--random_distribution=zipf:1.1", "--number_ios=60000", "--io_size=240M", "--fsync=128", "--randrepeat=1",
        "--buffer_compress_percentage=50", "--refill_buffers",
    )


def sqlite(mnt, noise):
    """Small transactions, first with a rollback journal, then with a log."""
    for mode, rows in [("delete", 1500), ("wal", 6000)]:
        base = sqlite3.connect(mnt / f"{mode}.db", isolation_level=None)
        base.execute(f"pragma journal_mode={mode}")
        base.execute("create table entry (id integer primary key, name text, body blob)")
        base.execute("create index by_name on entry (name)")
        for row in range(rows):
            base.execute("begin")
            base.execute("insert into entry (name, body) values (?, ?)", (f"{noise.getrandbits(40):x}", noise.randbytes(300)))
            if row > 10:
                base.execute("update entry set body = ? where id = ?", (noise.randbytes(300), 1 + int(row * noise.random() ** 3)))
            base.execute("commit")
        base.close()


def git(mnt, noise):
    """Commits, a repack and a clone."""
    place = mnt / "project"
    place.mkdir()
    settings = ["-c", "user.name=A", "-c", "user.email=a@localhost", "-c", "gc.auto=0", "-c", "init.defaultBranch=main"]
    command = ["git", *settings, "-C", place]
    run(*command, "init")
    tree(place, noise, 1200)
    for number in range(25):
        for _ in range(30):
            path = place / f"part{noise.randrange(23)}" / f"module{noise.randrange(7)}" / f"new{noise.randrange(400)}.rs"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(noise, 2000))
        run(*command, "add", "-A")
        run(*command, "commit", "-m", f"change {number}")
    run(*command, "gc")
    run("git", *settings, "clone", "--no-hardlinks", place, mnt / "clone")


def rsync(mnt, noise):
    """A tree is copied, then copied again with a tenth of it changed, twice."""
    with tempfile.TemporaryDirectory() as home:
        source = pathlib.Path(home)
        tree(source, noise, 4000)
        for _ in range(3):
            run("rsync", "-a", "--delete", f"{source}/", f"{mnt}/copy/")
            for path in sorted(source.rglob("*.rs")):
                chance = noise.random()
                if chance < 0.02:
                    path.unlink()
                elif chance < 0.1:
                    path.write_text(text(noise, 4000))


def cargo(mnt, noise):
    """A program of generated modules is built, changed and built again."""
    place = mnt / "program"
    (place / "src").mkdir(parents=True)
    (place / "Cargo.toml").write_text('[package]\nname = "program"\nversion = "0.1.0"\nedition = "2021"\n')

    def module(number, salt):
        functions = "".join(
            f"pub fn f{index}(x: u64) -> String {{ let mut text = format!(\"{{x}}-{salt}-{index}\"); for n in 0..x {{ text.push_str(&n.to_string()); }} text }}\n"
            for index in range(40)
        )
        (place / "src" / f"m{number}.rs").write_text(functions)

    for number in range(12):
        module(number, 0)
    mods = "".join(f"mod m{number};\n" for number in range(12))
    calls = "".join(f"    println!(\"{{}}\", m{number}::f{index}(3));\n" for number in range(12) for index in range(40))
    (place / "src/main.rs").write_text(f"{mods}fn main() {{\n{calls}}}\n")
    environment = {**os.environ, "CARGO_TARGET_DIR": str(place / "target")}
    for turn in range(4):
        run("cargo", "build", "--offline", "--manifest-path", place / "Cargo.toml", env=environment)
        module(noise.randrange(12), turn + 1)


def pgbench(mnt, noise):
    """PostgreSQL under its own benchmark, two clients."""
    programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        raise FileNotFoundError("PostgreSQL is not installed (apt-get install postgresql)")
    data = mnt / "data"
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    home = pathlib.Path(tempfile.mkdtemp())
    shutil.chown(home, "postgres", "postgres")

    def as_postgres(*words):
        run("runuser", "-u", "postgres", "--", *words, cwd=home)

    try:
        as_postgres(programs[-1] / "initdb", "-D", data, "--no-locale", "-E", "UTF8")
        server = f"-c listen_addresses= -c unix_socket_directories={home} -c max_wal_size=64MB -c checkpoint_timeout=30s"
        as_postgres(programs[-1] / "pg_ctl", "-D", data, "-w", "-l", home / "log", "-o", server, "start")
        try:
            as_postgres(programs[-1] / "pgbench", "-h", home, "-i", "-s", "3", "postgres")
            as_postgres(programs[-1] / "pgbench", "-h", home, "-c", "2", "-j", "2", "-t", "3000", "--random-seed=1", "postgres")
        finally:
            as_postgres(programs[-1] / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop")
    finally:
        shutil.rmtree(home)


WORKS = {work.__name__: work for work in (zipf, sqlite, git, rsync, cargo, pgbench)}


def main():
    place = pathlib.Path(sys.argv[1]).resolve()
    wanted = sys.argv[2:] or list(WORKS)
    place.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        recording = place / f"{name}.rec"
        recording.unlink(missing_ok=True)
        try:
            with mounted(place, f"engine=lsm,{OPTIONS},record={recording}") as mnt:
                WORKS[name](mnt, random.Random(7))
        except FileNotFoundError as error:
            print(f"{name}: left out: {error}")
            recording.unlink(missing_ok=True)
            continue
        found = json.loads(kvfs("recording", recording, "--json"))
        events, amplification = found["events"], found["write_amplification"]
        print(
            f"{name:<8} {found['bytes'] >> 10:>6} KiB  {events['last_ns'] / 1e9:>6.1f} s  {events['batches']:>7} batches {events['put_bytes'] >> 20:>5} MiB  "
            f"{events['gets']:>7} gets  {events['scans']:>6} scans  {events['syncs']:>6} syncs  missing {events['missing']}  write amplification {amplification:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
