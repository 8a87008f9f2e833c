"""What a recording costs: the same work in turns with and without one."""

import os
import pathlib
import statistics
import subprocess
import sys
import time

from mount import kvfs, mounted, stats

SECONDS = float(os.environ.get("SECONDS_EACH", "1"))
ROUNDS = int(os.environ.get("ROUNDS", "20"))
ENGINE = os.environ.get("ENGINE", "mem")
FILE_MEGABYTES = 64


def ticks(pid):
    """Processor time of a process so far, in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def blocks(mnt, threads):
    """fio, half reads, half overwrites of 4 KiB, each request of which reaches the daemon, until it is killed."""
    return [
        subprocess.Popen(
            [
                "fio", "--name=a", f"--filename={mnt}/blocks", f"--size={FILE_MEGABYTES}M", "--rw=randrw", "--bs=4k", "--direct=1",
                "--time_based", "--runtime=3600", f"--numjobs={threads}", "--thread", "--fallocate=none", "--randrepeat=0",
            ],
            stdout=subprocess.DEVNULL,
        )
    ]


MAKER = """
import itertools, os, sys
os.makedirs(sys.argv[1])
for number in itertools.count():
    name = f"{sys.argv[1]}/{number % 500}"
    with open(name, "wb") as file:
        file.write(b"x" * 2000)
    if number % 2:
        os.unlink(name)
"""


def files(mnt, threads):
    """Files of 2000 bytes, made, half of them deleted, until they are killed."""
    return [subprocess.Popen([sys.executable, "-c", MAKER, f"{mnt}/{number}"]) for number in range(threads)]


def calls(mnt):
    """Calls answered so far."""
    return sum(row["count"] for row in stats(mnt)["ops"].values())


def turn(mnt, pid):
    """Calls a second and processor time of the daemon a call, in seconds, for a while."""
    before = (time.monotonic(), calls(mnt), ticks(pid))
    time.sleep(SECONDS)
    after = (time.monotonic(), calls(mnt), ticks(pid))
    count = after[1] - before[1]
    return count / (after[0] - before[0]), (after[2] - before[2]) / count


def main():
    place = pathlib.Path(sys.argv[1]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    recording = place / "overhead.rec"
    print(f"engine={ENGINE}, {ROUNDS} pairs of {SECONDS} s")
    print(f"{'work':<8}{'threads':>8}{'calls/s without':>17}{'with':>9}{'ratio':>7}  {'of pairs':<20}{'µs of the daemon a call':>25}{'with':>7}{'ratio':>7}{'missing':>9}")
    for name, work in [("blocks", blocks), ("files", files)]:
        for threads in (1, 4):
            with mounted(place, f"engine={ENGINE}") as mnt:
                pid = stats(mnt)["process"]["pid"]
                if work is blocks:
                    subprocess.run(["dd", "if=/dev/urandom", f"of={mnt}/blocks", "bs=1M", f"count={FILE_MEGABYTES}", "status=none"], check=True)
                workers = work(mnt, threads)
                try:
                    time.sleep(3)
                    found, missing = {False: [], True: []}, 0
                    for number in range(2 * ROUNDS):
                        # Without, with, with, without: so that a drift weighs on both alike.
                        is_on = number % 4 in (1, 2)
                        if is_on:
                            recording.unlink(missing_ok=True)
                            # Returns when the image is written.
                            kvfs("record", mnt, "on", recording)
                        time.sleep(0.1)
                        found[is_on].append(turn(mnt, pid))
                        if is_on:
                            kvfs("record", mnt, "off")
                            missing += stats(mnt)["recording"]["dropped"]
                finally:
                    for worker in workers:
                        worker.kill()
                        worker.wait()
                recording.unlink(missing_ok=True)
            middle = {(is_on, at): statistics.median(one[at] for one in found[is_on]) for is_on in found for at in (0, 1)}
            rates, costs = ([with_[at] / without[at] for with_, without in zip(found[True], found[False])] for at in (0, 1))
            quarters = statistics.quantiles(rates, n=4)
            print(
                f"{name:<8}{threads:>8}{middle[False, 0]:>17.0f}{middle[True, 0]:>9.0f}{statistics.median(rates):>7.3f}  "
                f"{'half in %.2f-%.2f' % (quarters[0], quarters[2]):<20}{middle[False, 1] * 1e6:>25.1f}{middle[True, 1] * 1e6:>7.1f}{statistics.median(costs):>7.3f}{missing:>9}",
                flush=True,
            )


main()
