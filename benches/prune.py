#!/usr/bin/env python3
"""Times `forget --prune` of most snapshots of a history, beside restic on the same history.

Each program gets a repository of its own, into which the same states of the same directory are backed up
first: a large file in which some pages change each time, small files that come and go, and some that stay.
Then all snapshots but the newest ones are forgotten and pruned in one command, each program after the other,
while the space that its repository takes is sampled. What is left is checked by the program itself.

    cargo build --release
    python3 benches/prune.py --snapshots 1000 --keep 100 --mib 1024
"""

import argparse
import os
import random
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path


def run(command, **env):
    """Runs a command; seconds of wall clock and of processors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    subprocess.run(command, check=True, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def used(path):
    """Bytes that a directory takes on the disk; what goes meanwhile counts as gone."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def sampled(path, work):
    """Does work; what it returns, and by how much the directory grew beyond its beginning meanwhile."""
    begin = used(path)
    peak = begin
    done = threading.Event()

    def sample():
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, used(path))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        result = work()
    finally:
        done.set()
        thread.join()
    return result, peak - begin


def noise(rng, length):
    return rng.randbytes(length)


def change(source, rng, number, mib, share):
    """Makes the next state of the source."""
    large = source / "large"
    size = mib * share // 100 << 20
    if number == 0:
        with large.open("wb") as file:
            for _ in range(size >> 20):
                file.write(noise(rng, 1 << 20))
        return
    with large.open("r+b") as file:
        for _ in range(8):
            file.seek(rng.randrange(size >> 12) << 12)
            file.write(noise(rng, 4096))
    # What is new each time makes the rest of the history's bytes; half of it stays a while.
    (source / f"new{number}").write_bytes(noise(rng, (mib * (100 - share) // 100 << 20) // 1000))
    for gone in (number - 1, number - 50):
        if gone % 2 == (number - 1) % 2 and gone > 0:
            (source / f"new{gone}").unlink(missing_ok=True)


def make(work, arguments, treering, env):
    """Makes both repositories in a directory."""
    source = work / "source"
    source.mkdir(parents=True)
    ours, theirs = str(work / "treering"), str(work / "restic")
    run([treering, "-r", ours, "init"], **env)
    run(["restic", "-q", "-r", theirs, "init"], **env)
    rng = random.Random(1)
    for number in range(arguments.snapshots):
        change(source, rng, number, arguments.mib, arguments.share)
        run([treering, "-q", "-r", ours, "backup", str(source)], **env)
        run(["restic", "-q", "-r", theirs, "backup", str(source)], **env)
    shutil.rmtree(source)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treering", default="target/release/treering")
    parser.add_argument("--snapshots", type=int, default=1000)
    parser.add_argument("--keep", type=int, default=100)
    parser.add_argument("--mib", type=int, default=1024, help="bytes of the history, about")
    parser.add_argument("--share", type=int, default=50, help="percent of them in the large file")
    parser.add_argument("--history", type=Path, help="where the repositories are made, to be used again; a copy is pruned")
    arguments = parser.parse_args()
    treering = str(Path(arguments.treering).resolve())
    with tempfile.TemporaryDirectory(dir=arguments.history and arguments.history.absolute().parent) as work:
        work = Path(work)
        env = {"RESTIC_PASSWORD": "x", "HOME": str(work), "RESTIC_CACHE_DIR": str(work / "cache")}
        history = arguments.history or work / "history"
        if not history.exists():
            make(history, arguments, treering, {**env, "RESTIC_CACHE_DIR": str(history / "cache")})
        shutil.copytree(history / "cache", work / "cache")
        keep = ["--keep-last", str(arguments.keep), "--prune"]
        rows = [("treering", [treering, "-q", "-r"]), ("restic", ["restic", "-q", "-r"])]
        print("| program | wall s | CPU s | before MiB | after MiB | more space meanwhile, MiB |")
        print("|---|---|---|---|---|---|")
        for name, program in rows:
            path = str(work / name)
            shutil.copytree(history / name, path, symlinks=True)
            os.sync()
            before = used(path)
            (wall, cpu), more = sampled(path, lambda: run([*program, path, "forget", *keep], **env))
            run([*program, path, "check"], **env)
            mib = [round(size / (1 << 20), 1) for size in (before, used(path), more)]
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {mib[0]} | {mib[1]} | {mib[2]} |", flush=True)
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
