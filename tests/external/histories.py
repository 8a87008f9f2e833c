"""What clients did on a mount, what of it was acknowledged, and whether a mount still has that.

usage: histories.py write FOLDER RECORDS CLIENTS ERRNO...
       histories.py compare FOLDER RECORDS
       histories.py steps RECORDS

write    CLIENTS clients at once, each in a directory of its own below FOLDER: files written and synced, or renamed after that and the directory synced;
         appends to one file and overwrites of pages of another, each synced; removals, the directory synced. RECORDS/N has a line before each step of
         client N and one after it, when its last call has returned. SIGTERM ends them after the step that each is at. Where a call fails, its client ends;
         with any error that is not among ERRNO (as in EIO), or with none where some are named, the exit code is 1. SIGUSR1 says that power goes: what has not
         ended yet is not acknowledged, whatever its calls say, clients end, and "power goes" is printed when that is so.
compare  everything below FOLDER is what the records demand: of a step that was acknowledged all, of one that was begun last nothing, a part or all, and no
         file that nobody made. Exit code 1 if not.
steps    how many were acknowledged.
"""

import errno
import hashlib
import os
import random
import signal
import sys
import threading
import traceback

PAGE_BYTES = 4096
PAGES = 32
# Above it an append begins a new file.
LOG_BYTES = 200_000
# Above it files are removed before others are made.
FILES = 40


def pattern(seed, length):
    """Bytes that follow from the seed; those of a shorter length are the first of a longer one."""
    return hashlib.shake_128(seed.encode()).digest(length)


def write_all(file, content):
    """As programs do: a write may end early where the rest of it cannot be done, and the next one says why."""
    while content:
        content = content[os.write(file, content) :]


def page(number):
    return number.to_bytes(8, "little") * (PAGE_BYTES // 8)


class History:
    """What a client was promised."""

    def __init__(self, path):
        self.path = path
        self.steps = self.runs = self.number = 0
        # Of files, by name: the lengths that each may have, None for no file; of any content where it is "torn".
        self.files = {}
        # Of the files that are appended to, by name: bytes that are there at least, and at most.
        self.logs = {}
        # Of the pages: the number of the last step that was acknowledged, and of the last that was begun.
        self.pages = [(0, 0)] * PAGES
        self.is_open = False
        for line in open(path) if os.path.exists(path) else ():
            # Nothing is cut off: who writes it is never killed.
            self.note(line.split())

    def note(self, words):
        """A line of a record."""
        kind, words = words[0], words[1:]
        if kind == "run":
            self.runs += 1
            self.is_open = False
        elif kind == "done":
            assert self.is_open
            self.steps += 1
            self.is_open = False
            self.finish()
        else:
            assert not self.is_open
            self.number += 1
            self.is_open = True
            self.begin(kind, words)

    def begin(self, kind, words):
        name = words[0]
        if kind in ("made", "renamed"):
            length = int(words[1])
            self.files[name] = {None, length} if kind == "renamed" else {"torn"}
            self.finish = lambda: self.files.update({name: {length}})
        elif kind == "removed":
            if name in self.logs:
                del self.logs[name]
                self.files[name] = {"torn"}
            else:
                self.files[name] = self.files[name] | {None}
            self.finish = lambda: self.files.update({name: {None}})
        elif kind == "appended":
            length = int(words[1])
            least, most = self.logs.get(name, (0, 0))
            self.logs[name] = (least, max(length, most))
            self.finish = lambda: self.logs.update({name: (length, length)})
        elif kind == "page":
            index, number = int(name), self.number
            self.pages[index] = (self.pages[index][0], number)
            self.finish = lambda: self.pages.__setitem__(index, (number, number))
        else:
            raise ValueError(kind)

    def whole(self):
        """Files that are there for certain."""
        return [name for name, states in self.files.items() if len(states) == 1 and isinstance(next(iter(states)), int)]


class Client(threading.Thread):
    """One that does steps until it is told to end, or a call fails."""

    def __init__(self, folder, path, end, cut):
        super().__init__(daemon=True)
        self.history = History(path)
        self.folder = folder
        self.end = end
        self.cut = cut
        self.error = None
        self.random = random.Random(self.history.number)
        self.acknowledged = 0

    def run(self):
        self.record = open(self.history.path, "a", buffering=1)
        self.note("run")
        try:
            os.makedirs(self.folder, exist_ok=True)
            # What is below the mount point is not for it.
            self.root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(self.root)
            while not self.end.is_set():
                self.step()
                if self.cut.is_set():
                    return
                self.note("done")
                self.acknowledged += 1
        except OSError as error:
            self.error = error

    def note(self, *words):
        line = " ".join(str(word) for word in words)
        self.record.write(line + "\n")
        self.history.note(line.split())

    def open(self, name, flags):
        return os.open(name, flags, 0o600, dir_fd=self.root)

    def put(self, name, content):
        file = self.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            write_all(file, content)
            os.fsync(file)
        finally:
            os.close(file)

    def step(self):
        whole, chance = self.history.whole(), self.random.random()
        name = f"file-{self.history.number + 1}"
        length = 1 + self.random.randrange(200_000 if self.random.random() < 0.05 else 8_000)
        if len(whole) > FILES or (chance < 0.1 and whole):
            victim = self.random.choice(whole)
            self.note("removed", victim)
            os.unlink(victim, dir_fd=self.root)
            os.fsync(self.root)
        elif chance < 0.35:
            self.note("made", name, length)
            self.put(name, pattern(name, length))
        elif chance < 0.6:
            self.note("renamed", name, length)
            self.put("new", pattern(name, length))
            os.rename("new", name, src_dir_fd=self.root, dst_dir_fd=self.root)
            os.fsync(self.root)
        elif chance < 0.8:
            self.append()
        else:
            index = self.random.randrange(PAGES)
            self.note("page", index)
            file = self.open("pages", os.O_WRONLY | os.O_CREAT)
            try:
                os.lseek(file, index * PAGE_BYTES, os.SEEK_SET)
                write_all(file, page(self.history.number))
                os.fdatasync(file)
            finally:
                os.close(file)

    def append(self):
        logs = [name for name, (least, _) in self.history.logs.items() if least < LOG_BYTES]
        old = [name for name in self.history.logs if name not in logs]
        if old:
            self.note("removed", old[0])
            os.unlink(old[0], dir_fd=self.root)
            os.fsync(self.root)
            return
        name = logs[0] if logs else f"log-{self.history.number + 1}"
        # What was not acknowledged is of the pattern, too.
        after = self.history.logs.get(name, (0, 0))[1] + 1 + self.random.randrange(6_000)
        self.note("appended", name, after)
        file = self.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            write_all(file, pattern(name, after)[size:])
            os.fsync(file)
        finally:
            os.close(file)


def write(folder, records, clients, *expected):
    os.makedirs(records, exist_ok=True)
    end, cut = threading.Event(), threading.Event()

    def power_goes(*_):
        cut.set()
        print("power goes", flush=True)

    signal.signal(signal.SIGUSR1, power_goes)
    signal.signal(signal.SIGTERM, lambda *_: end.set())
    signal.signal(signal.SIGINT, lambda *_: end.set())
    clients = [
        Client(os.path.join(folder, f"client-{number}"), os.path.join(records, str(number)), end, cut)
        for number in range(int(clients))
    ]
    for client in clients:
        client.start()
    for client in clients:
        # A wait without a limit would keep the signal out.
        while client.is_alive():
            client.join(0.1)
    bad = False
    for number, client in enumerate(clients):
        said = errno.errorcode.get(client.error.errno, client.error.errno) if client.error else None
        at = traceback.extract_tb(client.error.__traceback__)[-1].line if client.error else ""
        print(f"client {number}: {client.acknowledged} steps{f', then {client.error} in {at}' if client.error else ''}")
        if not cut.is_set():
            bad |= said is None if expected else said is not None
            bad |= said is not None and said not in expected
    return 1 if bad else 0


def faults_of(history, folder):
    """What is not as it must be, in words, and how many files were looked at."""
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    read = lambda name: open(os.path.join(folder, name), "rb").read()
    for name, states in history.files.items():
        there_is = name in there
        there.discard(name)
        if "torn" in states:
            continue
        content = read(name) if there_is else None
        if content is None:
            right = None in states
        else:
            right = any(length is not None and content == pattern(name, length) for length in states)
        if not right:
            yield f"{name}: may be {states}, is {'missing' if content is None else len(content)}"
    for name, (least, most) in history.logs.items():
        content = read(name) if name in there else b""
        if not least <= len(content) <= most or content != pattern(name, len(content)):
            yield f"{name}: {least} to {most} bytes of its pattern, and there are {len(content)}"
        there.discard(name)
    pages = read("pages") if "pages" in there else b""
    for index, (least, most) in enumerate(history.pages):
        content = pages[index * PAGE_BYTES : (index + 1) * PAGE_BYTES].ljust(PAGE_BYTES, b"\0")
        number = int.from_bytes(content[:8], "little")
        if not least <= number <= most or content != page(number):
            yield f"page {index}: step {least} to {most}, and there is {number}"
    # The one that is renamed, and pages.
    for name in there - {"new", "pages"}:
        yield f"{name}: nobody made it"


def compare(folder, records):
    faults = steps = files = 0
    numbers = sorted(os.listdir(records), key=int)
    for number in numbers:
        history = History(os.path.join(records, number))
        steps += history.steps
        files += len(history.whole()) + len(history.logs)
        for fault in faults_of(history, os.path.join(folder, f"client-{number}")):
            faults += 1
            print(f"client-{number}/{fault}")
    print(f"{steps} steps acknowledged, {files} files compared, {faults} faults")
    return 1 if faults or not numbers else 0


def steps(records):
    print(sum(open(os.path.join(records, number)).read().split("\n").count("done") for number in os.listdir(records)) if os.path.isdir(records) else 0)
    return 0


WHAT = {"write": write, "compare": compare, "steps": steps}
if len(sys.argv) < 3 or sys.argv[1] not in WHAT:
    sys.exit(__doc__)
sys.exit(WHAT[sys.argv[1]](*sys.argv[2:]))
