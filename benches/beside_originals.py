"""Times gitblobts and gitkv at what `benches/timeline.rs` times treering at, and prints lines of a name and seconds.

Needs the two packages, and beside them the standard library alone. The argument is a directory that timeline.rs fills:
blobs.git is an empty bare repository, many.git one with many blobs at times 0, 1, 2 and so on in seconds, kv.git one with many keys.
"""

import pathlib
import statistics
import subprocess
import sys
import time

import gitblobts
import gitkv

ROUNDS = 5


def report(name, run, rounds=ROUNDS):
    seconds = []
    for number in range(rounds):
        start = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - start)
    print(name, statistics.median(seconds), sep="\t", flush=True)


def clone(path):
    target = path.with_suffix(".clone")
    subprocess.run(["git", "clone", "--quiet", path, target], check=True)
    return target


def main(directory):
    store = gitblobts.Store(clone(directory / "blobs.git"))
    store.addblob(b"the first push sets the branch up")

    report("add 1", lambda number: store.addblob(b"%04d" % number * 256, number))

    def add_many(_):
        store.addblobs([b"%04d" % blob * 256 for blob in range(500)], range(500))

    # Once, since each blob that is there makes it slower.
    report("add 500", add_many, rounds=1)

    many = gitblobts.Store(clone(directory / "many.git"))
    report("range", lambda number: [blob.blob for blob in many.getblobs(50_000 + number, 50_099 + number)])

    def put(number):
        with gitkv.open(str(directory / "kv.git"), f"005/{number:04}", "w") as file:
            file.write(f"new value {number}\n")

    report("kv put", put)


main(pathlib.Path(sys.argv[1]))
