"""A directory of which each state is known, written by one mount and read by others.

usage: generations.py publish FOLDER TIMES
       generations.py follow FOLDER TIMES SECONDS LAG

publish  until SIGTERM: a directory of files that all have its number, made beside its name, renamed to it and synced; then the oldest goes, so that
         the newest ones are there without a gap. TIMES has a line for each that an fsync has answered for: its number, and when.
follow   for so long: the names that one request lists have no gap and are neither too many nor too few (a listing to its end is several requests, and may be of
         several states); the newest directory has all its files, each whole and of its number; no number is
         smaller than one before; and what an fsync answered for LAG seconds before a look is seen in it. Exit code 1 if not.
"""

import ctypes
import os
import shutil
import signal
import sys
import time

FILES = 8
# As many names fit into one answer of 4 KiB.
KEPT = 20
PAUSE_SECONDS = 0.3


def content(number, index):
    return f"{number:012}".encode() * (200 * index + 1)


def listed(folder):
    """Names of a directory that one request answers, which is what one call of getdents64 is."""
    call = ctypes.CDLL(None, use_errno=True).getdents64
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = ctypes.create_string_buffer(1 << 16)
        length = call(file, entries, ctypes.c_size_t(len(entries)))
        if length < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
    finally:
        os.close(file)
    names, at, entries = [], 0, entries.raw[:length]
    while at < length:
        # struct linux_dirent64: inode and cookie of 8 bytes, length of the entry, type, name.
        end = at + int.from_bytes(entries[at + 16 : at + 18], sys.byteorder)
        names.append(entries[at + 19 : end].split(b"\0")[0].decode())
        at = end
    return names


def publish(folder, times):
    end = []
    signal.signal(signal.SIGTERM, lambda *_: end.append(True))
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    number = 0
    with open(times, "a", buffering=1) as record:
        while not end:
            number += 1
            made = os.path.join(folder, "new")
            os.mkdir(made)
            for index in range(FILES):
                with open(os.path.join(made, str(index)), "wb") as file:
                    file.write(content(number, index))
            os.rename(made, os.path.join(folder, f"{number:08}"))
            os.fsync(root)
            record.write(f"{number} {time.time()}\n")
            if number > KEPT:
                # Out of sight first: a listing shows it or does not.
                gone = os.path.join(folder, "old")
                os.rename(os.path.join(folder, f"{number - KEPT:08}"), gone)
                shutil.rmtree(gone)
            time.sleep(PAUSE_SECONDS)
    print(f"{number} published")
    return 0


def published(times, before):
    """The newest number that was there at a time."""
    newest = 0
    for line in open(times):
        words = line.split()
        if len(words) == 2 and line.endswith("\n") and float(words[1]) <= before:
            newest = int(words[0])
    return newest


def follow(folder, times, seconds, lag):
    end, last, looks, worst = time.time() + float(seconds), 0, 0, 0.0
    seen = set()
    while time.time() < end:
        begun = time.time()
        names = sorted(int(name) for name in listed(folder) if name.isdigit())
        if not names:
            return f"nothing is listed; {last} was the newest"
        newest = names[-1]
        if names != list(range(names[0], newest + 1)):
            return f"a listing has a gap: {names}"
        # Between two renames there is one more.
        if newest > KEPT and len(names) not in (KEPT, KEPT + 1):
            return f"{len(names)} names are no state: {names}"
        for index in range(FILES):
            path = os.path.join(folder, f"{newest:08}", str(index))
            with open(path, "rb") as file:
                found = file.read()
            if found != content(newest, index):
                return f"{path}: {len(found)} bytes from {found[:12]} to {found[-12:]}"
        if newest < last:
            return f"{newest} after {last}"
        if newest < published(times, begun - float(lag)):
            return f"{newest} is the newest, and {published(times, begun - float(lag))} was there {lag} seconds before"
        for line in open(times):
            number, when = line.split() if len(line.split()) == 2 and line.endswith("\n") else (0, 0)
            if int(number) == newest + 1:
                worst = max(worst, begun - float(when))
        last, looks = newest, looks + 1
        seen.add(newest)
        time.sleep(0.05)
    if len(seen) < 3:
        return f"{len(seen)} states in {looks} looks show nothing"
    print(f"{looks} looks at {len(seen)} states, {worst:.1f} s behind at most")
    return 0


WHAT = {"publish": publish, "follow": follow}
if len(sys.argv) < 4 or sys.argv[1] not in WHAT:
    sys.exit(__doc__)
sys.exit(WHAT[sys.argv[1]](*sys.argv[2:]))
