#!/usr/bin/env bash
# RocksDB, universal compaction: the property rocksdb.compaction-pending stays 1 although nothing is compacted and nothing will be.
#
# Its documentation says that it is 1 while at least one compaction is pending, so a program that waits for a store to settle asks it. With
# universal compaction it says only that there are as many sorted runs as may start one. Where the rules find none among them, because each
# run is half as large as the one before it, it stays 1 until something else is written. rocksdb.num-running-compactions beside it is 0 all
# the time, and rocksdb.estimate-pending-compaction-bytes 0. Whoever waits for it waits without end.
#
# Seen with rocksdict 0.3.29 (wheels with RocksDB in it): "runs 3: pending 0; runs 4: pending 1; 10 s later: pending 1, running 0".
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install rocksdict==0.3.29

seen=$("$folder/venv/bin/python" - "$folder/db" <<'PYTHON'
import random
import sys
import time

from rocksdict import DBCompactionStyle, Options, Rdict

options = Options(raw_mode=True)
options.create_if_missing(True)
options.set_compaction_style(DBCompactionStyle.universal())
options.set_write_buffer_size(64 << 20)
db = Rdict(sys.argv[1], options)
chance = random.Random(7)


def ask(name):
    return db.property_int_value(f"rocksdb.{name}")


said = []
for runs, entries in enumerate((16_000, 8_000, 4_000, 2_000), start=1):
    for _ in range(entries):
        db[chance.randbytes(8)] = chance.randbytes(1000)
    db.flush()
    time.sleep(2)
    if runs >= 3:
        said.append(f"runs {ask('num-files-at-level0')}: pending {ask('compaction-pending')}")
time.sleep(10)
said.append(f"10 s later: pending {ask('compaction-pending')}, running {ask('num-running-compactions')}")
assert ask("estimate-pending-compaction-bytes") == 0
print("; ".join(said))
db.close()
PYTHON
)

echo "rocksdict 0.3.29: $seen"
[ "$seen" = "runs 3: pending 0; runs 4: pending 1; 10 s later: pending 1, running 0" ]
