"""The work of juicefs.sh: rows of one matrix on three directories in turns, and what the object store counted for each.

usage: juicefs.py HOME ROUNDS; HOME has the directories plain, kvfs and juicefs. $METRICS is the address of the server's counters.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

HOME, ROUNDS = sys.argv[1], int(sys.argv[2])
SCALE = float(os.environ.get("SCALE", "1"))
LABELS = ["kvfs", "juicefs", "plain"]
BUCKETS = {"kvfs": "kvfs", "juicefs": "juicefs"}
# What a mount sends after the work, in seconds: kvfs syncs within one, and merges a little later.
SETTLE = 5
MIB = 1 << 20
FILES = max(20, int(1000 * SCALE))
SYNCS = max(10, int(200 * SCALE))
LARGE = max(8, int(256 * SCALE)) * MIB
LINE = re.compile(r'^(SeaweedFS_s3_\w+)\{([^}]*)\} (\S+)$')


def counted():
    """Requests by kind, and bytes in both directions, of each bucket."""
    found = {bucket: {"requests": {}, "up": 0.0, "down": 0.0} for bucket in BUCKETS.values()}
    with urllib.request.urlopen(os.environ["METRICS"], timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            match = LINE.match(line)
            if not match:
                continue
            name, labels, value = match[1], dict(re.findall(r'(\w+)="([^"]*)"', match[2])), float(match[3])
            of = found.get(labels.get("bucket"))
            if of is None:
                continue
            if name == "SeaweedFS_s3_request_total":
                kind = labels["type"]
                of["requests"][kind] = of["requests"].get(kind, 0) + value
            elif name == "SeaweedFS_s3_bucket_traffic_received_bytes_total":
                of["up"] += value
            elif name == "SeaweedFS_s3_bucket_traffic_sent_bytes_total":
                of["down"] += value
    return found


def settle(label):
    """Until what a row left to be sent is sent; nobody counts a plain directory."""
    os.sync()
    if label in BUCKETS:
        time.sleep(SETTLE)


def cold(label):
    """Mounts anew without what was cached, in memory or on disk; of a plain directory the kernel's caches are emptied."""
    os.sync()
    if label in BUCKETS:
        subprocess.run([os.path.join(HOME, f"remount-{label}")], check=True, timeout=180, capture_output=True)
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


class Work:
    """Rows on one directory; each returns the operations that it did."""

    def __init__(self, directory):
        self.names = os.path.join(directory, "names")
        self.file = os.path.join(directory, "large")
        self.directory = directory
        self.random = random.Random(7)
        self.noise = os.urandom(2 * MIB)

    def bytes(self, size):
        start = self.random.randrange(len(self.noise) - size)
        return self.noise[start : start + size]

    def path(self, number):
        return os.path.join(self.names, f"file-{number:06}")

    def create(self):
        os.mkdir(self.names)
        for number in range(FILES):
            os.close(os.open(self.path(number), os.O_CREAT | os.O_WRONLY))
        return FILES

    def stat(self):
        for number in range(FILES):
            os.stat(self.path(number))
        return FILES

    def list(self):
        return len(os.listdir(self.names))

    def rename(self):
        for number in range(FILES):
            os.rename(self.path(number), self.path(number) + ".new")
        return FILES

    def unlink(self):
        for number in range(FILES):
            os.unlink(self.path(number) + ".new")
        os.rmdir(self.names)
        return FILES

    def make(self):
        """Files as a mail server makes them: durable one by one."""
        for number in range(SYNCS):
            file = os.open(os.path.join(self.directory, f"log-made-{number}"), os.O_CREAT | os.O_WRONLY)
            os.write(file, self.bytes(4096))
            os.fsync(file)
            os.close(file)
        return SYNCS

    def append(self, name="log", count=SYNCS):
        file = os.open(os.path.join(self.directory, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for _ in range(count):
            os.write(file, self.bytes(4096))
            os.fsync(file)
        os.close(file)
        return count

    def append_8(self):
        each = max(5, SYNCS // 2)
        threads = [threading.Thread(target=self.append, args=(f"log-{number}", each)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return 8 * each

    def sequential_write(self):
        file = os.open(self.file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for _ in range(LARGE // MIB):
            os.write(file, self.bytes(MIB))
        os.fsync(file)
        os.close(file)
        return LARGE // MIB

    def sequential_read(self):
        file = os.open(self.file, os.O_RDONLY)
        count = 0
        while os.read(file, MIB):
            count += 1
        os.close(file)
        return count

    def overwrite(self):
        """Small overwrites all over a large file, synced every 64."""
        count = max(64, int(2048 * SCALE))
        file = os.open(self.file, os.O_WRONLY)
        for number in range(count):
            os.pwrite(file, self.bytes(4096), self.random.randrange(LARGE // 4096) * 4096)
            if number % 64 == 63:
                os.fsync(file)
        os.fsync(file)
        os.close(file)
        return count


ROWS = [
    ("create", "empty files made", "create", "files/s"),
    ("stat", "looked at", "stat", "files/s"),
    ("list", "listed", "list", "names/s"),
    ("rename", "renamed", "rename", "files/s"),
    ("unlink", "removed", "unlink", "files/s"),
    ("make", "file of 4 KiB made + fsync, 1 client", "make", "files/s"),
    ("append", "4 KiB appended + fsync, 1 client", "append", "syncs/s"),
    ("append_8", "4 KiB appended + fsync, 8 clients", "append_8", "syncs/s"),
    ("write", "1 MiB sequential write, fsync at the end", "sequential_write", "MiB/s"),
    ("read", "1 MiB sequential read, cold", "sequential_read", "MiB/s"),
    ("overwrite", "4 KiB random overwrites, fsync every 64", "overwrite", "writes/s"),
]
COLD = {"stat", "list", "read"}


def main():
    samples = {(row, label): [] for row, *_ in ROWS for label in LABELS}
    for round_number in range(ROUNDS):
        # The order rotates, so that drift of the machine falls on all alike.
        order = LABELS[round_number % 3 :] + LABELS[: round_number % 3]
        for label in order:
            work = Work(os.path.join(HOME, label))
            for row, _, method, _ in ROWS:
                if row in COLD:
                    cold(label)
                before = counted()
                began = time.monotonic()
                operations = getattr(work, method)()
                seconds = time.monotonic() - began
                settle(label)
                sample = {"rate": operations / seconds, "operations": operations}
                if label in BUCKETS:
                    old, new = before[BUCKETS[label]], counted()[BUCKETS[label]]
                    sample["requests"] = {kind: count - old["requests"].get(kind, 0) for kind, count in new["requests"].items()}
                    sample["up"], sample["down"] = new["up"] - old["up"], new["down"] - old["down"]
                samples[row, label].append(sample)
            for name in os.listdir(work.directory):
                if name.startswith(("log", "large")):
                    os.unlink(os.path.join(work.directory, name))
            settle(label)
    median = lambda row, label, of: statistics.median(of(sample) for sample in samples[row, label])
    print(f"{'':42} {'unit':9} {'kvfs':>9} {'juicefs':>9} {'plain':>9}  of juicefs | requests an operation: kvfs, juicefs | bytes up an operation: kvfs, juicefs")
    for row, text, _, unit in ROWS:
        kvfs, juicefs, plain = (median(row, label, lambda s: s["rate"]) for label in LABELS)
        requests = [median(row, label, lambda s: sum(s["requests"].values()) / s["operations"]) for label in BUCKETS]
        up = [median(row, label, lambda s: s["up"] / s["operations"]) for label in BUCKETS]
        print(
            f"{text:42} {unit:9} {kvfs:9.0f} {juicefs:9.0f} {plain:9.0f}  {kvfs / juicefs:8.2f} x | {requests[0]:8.3f} {requests[1]:8.3f} | {up[0]:10.0f} {up[1]:10.0f}"
        )
    if os.environ.get("JSON"):
        with open(os.environ["JSON"], "w") as file:
            json.dump({f"{row} {label}": found for (row, label), found in samples.items()}, file, indent=1)


if __name__ == "__main__":
    main()
