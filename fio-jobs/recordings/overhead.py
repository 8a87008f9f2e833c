"""What a recording costs: the same work in turns with and without one."""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from mount import kvfs, mounted, stats

SECONDS = int(os.environ.get("SECONDS_EACH", "1"))
ROUNDS = int(os.environ.get("ROUNDS", "20"))
ENGINE = os.environ.get("ENGINE", "mem")
FILE_MEGABYTES = 64


def ticks(pid):
    """Processor time of a process so far, in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def blocks(mnt, threads):
    """fio, half reads, half overwrites of 4 KiB, each request of which reaches the daemon; calls a second."""
    words = [
        "fio", "--name=a", f"--filename={mnt}/blocks", f"--size={FILE_MEGABYTES}M", "--rw=randrw", "--bs=4k", "--direct=1",
        "--time_based", f"--runtime={SECONDS}", f"--numjobs={threads}", "--group_reporting", "--output-format=json",
        "--fallocate=none", "--randrepeat=0",
    ]
    job = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)["jobs"][0]
    return job["read"]["iops"] + job["write"]["iops"]


MAKER = """
import os, sys, time
place, seconds = sys.argv[1], float(sys.argv[2])
os.makedirs(place)
made, end = 0, time.monotonic() + seconds
while time.monotonic() < end:
    with open(f"{place}/{made}", "wb") as file:
        file.write(b"x" * 2000)
    made += 1
print(made)
"""
turn = 0


def files(mnt, threads):
    """Files of 2000 bytes made; files a second."""
    global turn
    turn += 1
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKER, f"{mnt}/{turn}-{n}", str(SECONDS)], stdout=subprocess.PIPE, text=True)
        for n in range(threads)
    ]
    return sum(int(maker.communicate()[0]) for maker in makers) / SECONDS


def main():
    place = pathlib.Path(sys.argv[1]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    print(f"{'work':<8}{'threads':>8}{'calls/s without':>17}{'with':>9}{'ratio':>7}{'  (median of pairs)':<19}{'µs of the daemon a call, without':>34}{'with':>7}{'missing':>9}")
    for name, work in [("blocks", blocks), ("files", files)]:
        for threads in (1, 4):
            with mounted(place, f"engine={ENGINE}") as mnt:
                pid = stats(mnt)["process"]["pid"]
                if work is blocks:
                    subprocess.run(["dd", "if=/dev/urandom", f"of={mnt}/blocks", "bs=1M", f"count={FILE_MEGABYTES}", "status=none"], check=True)
                work(mnt, threads)
                rates, costs, missing = {False: [], True: []}, {False: [], True: []}, 0
                for number in range(2 * ROUNDS):
                    # Without, with, with, without: so that a drift weighs on both alike.
                    is_on = number % 4 in (1, 2)
                    recording = place / "overhead.rec"
                    if is_on:
                        recording.unlink(missing_ok=True)
                        kvfs("record", mnt, "on", recording)
                    time.sleep(0.3)
                    before = ticks(pid)
                    rate = work(mnt, threads)
                    costs[is_on].append((ticks(pid) - before) / (rate * SECONDS) * 1e6)
                    rates[is_on].append(rate)
                    if is_on:
                        kvfs("record", mnt, "off")
                        missing += stats(mnt)["recording"]["dropped"]
                        recording.unlink()
                pairs = [with_ / without for with_, without in zip(rates[True], rates[False])]
                middle = {is_on: statistics.median(rates[is_on]) for is_on in rates}
                cost = {is_on: statistics.median(costs[is_on]) for is_on in costs}
                print(
                    f"{name:<8}{threads:>8}{middle[False]:>17.0f}{middle[True]:>9.0f}{statistics.median(pairs):>7.3f}"
                    f"{'  from %.2f to %.2f' % (min(pairs), max(pairs)):<19}{cost[False]:>34.1f}{cost[True]:>7.1f}{missing:>9}",
                    flush=True,
                )


main()
