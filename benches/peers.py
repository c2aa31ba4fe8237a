#!/usr/bin/env python3
"""Runs treering and the backup programs that are installed on the same data, one after the other, and prints a table.

    cargo build --release
    python3 benches/peers.py --treering target/release/treering --tree /usr/share --releases DIR --runs 3

Workloads (choose with --only):
    tree      a copy of --tree: first backup, the same again, restore
    image     a sparse 2 GiB disk image, half full of files of --image-from: first backup, then 1 % of its 4 KiB blocks changed
    shift     a tar of --tree, at most 184 MB, then 100 kB put in front of it
    million   a million JSON files of 1 KiB in a thousand directories: first backup, the same again, restore
    history   a tree of 2,000 files (64 MiB), 200 backups of it, a few files changed before each; then the second and the last restored
    releases  the directories in --releases, in order of name, each copied over the one before; then the first and the last restored

Every figure is of whole processes: wall seconds, CPU seconds (user and system), peak memory of the process, and how much the
repository grew. Of several runs the median of the wall time counts. Files are read once before a run, so caches are warm for all. Programs
that are not in PATH are left out and named. Python's standard library only; everything is made in and removed from a temporary directory.
"""

import argparse
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE = 4096
# An age identity for repositories that are thrown away.
KEY = "AGE-SECRET-KEY-1LGQRPD6M4F2QTSWHRF055H90ME5LAQ0433DE7RQZA9WY732AR27QVTPK67"
MIB = 1 << 20


class Peer:
    """One program: how to make a repository, save a directory, and restore the snapshot of that number from the end."""

    def __init__(self, name, program, init, save, restore):
        self.name, self.program = name, program
        self.init, self.save, self.restore = init, save, restore


def ours(name, program, *init):
    """treering, with these options of `init`."""
    return Peer(
        name, program,
        lambda repo: [program, "-q", "-r", repo, "init", *init],
        lambda repo, data, n: [program, "-q", "-r", repo, "backup", data],
        lambda repo, out, back, data: [program, "-q", "-r", repo, "restore", f"latest~{back}", "--target", out],
    )


def peers(treering, isal):
    quiet_restic = ["restic", "-q", "-r"]
    return [
        ours("treering", treering),
        ours("treering zstd", treering, "--compression", "zstd"),
        ours("treering zstd:1", treering, "--compression", "zstd:1"),
        ours("treering isal", isal),
        Peer(
            "treering encrypted", treering,
            lambda repo: ["sh", "-c", f"echo {KEY} > {repo}.key && {treering} -q -r {repo} init --encrypt --identity {repo}.key"],
            lambda repo, data, n: [treering, "-q", "-r", repo, "backup", data],
            lambda repo, out, back, data: [treering, "-q", "-r", repo, "--identity", f"{repo}.key", "restore", f"latest~{back}", "--target", out],
        ),
        Peer(
            "restic", "restic",
            lambda repo: quiet_restic + [repo, "init"],
            lambda repo, data, n: quiet_restic + [repo, "backup", data],
            lambda repo, out, back, data: quiet_restic + [repo, "restore", "latest", "--target", out] if back == 0 else None,
        ),
        Peer(
            "borg lz4", "borg",
            lambda repo: ["borg", "init", "-e", "none", repo],
            lambda repo, data, n: ["borg", "create", "-C", "lz4", f"{repo}::{n:04}", data],
            lambda repo, out, back, data: None,
        ),
        Peer(
            "bup", "bup",
            lambda repo: ["bup", "-d", repo, "init"],
            lambda repo, data, n: ["sh", "-c", f"bup -d {repo} index {data} && bup -d {repo} save -n x {data}"],
            lambda repo, out, back, data: None,
        ),
        Peer(
            "duplicity", "duplicity",
            lambda repo: ["mkdir", "-p", repo],
            lambda repo, data, n: ["duplicity", "--no-encryption", "--archive-dir", f"{repo}-cache", data, f"file://{repo}"],
            lambda repo, out, back, data: None,
        ),
        Peer(
            "conserve", "conserve",
            lambda repo: ["conserve", "init", repo],
            lambda repo, data, n: ["conserve", "backup", "--no-progress", repo, data],
            lambda repo, out, back, data: ["conserve", "restore", "--no-progress", repo, out] if back == 0 else None,
        ),
        Peer(
            "rustic", "rustic",
            lambda repo: ["rustic", "-r", repo, "--password", "benchmark", "--log-level", "warn", "init"],
            lambda repo, data, n: ["rustic", "-r", repo, "--password", "benchmark", "--log-level", "warn", "--no-progress", "backup", data],
            lambda repo, out, back, data: ["rustic", "-r", repo, "--password", "benchmark", "--log-level", "warn", "--no-progress", "restore", "latest", out] if back == 0 else None,
        ),
        Peer(
            "rdiff-backup", "rdiff-backup",
            lambda repo: ["mkdir", "-p", repo],
            lambda repo, data, n: ["rdiff-backup", data, repo],
            lambda repo, out, back, data: None,
        ),
        Peer(
            "cp -a", "cp",
            lambda repo: ["mkdir", "-p", repo],
            lambda repo, data, n: None,
            lambda repo, out, back, data: ["cp", "-a", data, out] if back == 0 else None,
        ),
    ]


# Runs its arguments as a command and prints what that took. A process of its own, since the peak memory that the system tells of a
# child is at least that of the parent, and this script reads whole files.
LAUNCHER = """
import os, subprocess, sys, time
begin = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
print(process.returncode, time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
"""


def measure(command, env):
    """Wall seconds, CPU seconds and peak memory in MiB of a command that must succeed."""
    done = subprocess.run([sys.executable, "-S", "-c", LAUNCHER, *command], env=env, capture_output=True, text=True)
    code, *figures = done.stdout.split()
    # Borg says 1 for a warning.
    if code != "0" and not (code == "1" and command[0] == "borg"):
        sys.exit(f"{' '.join(command)} failed with {code}: {done.stderr[-500:]}")
    return tuple(map(float, figures))


def size_of(path):
    """Bytes of all files below a directory."""
    files = (os.path.join(root, name) for root, _, names in os.walk(path) for name in names)
    return sum(os.lstat(file).st_size for file in files)


def warm(path):
    for root, _, names in os.walk(path):
        for name in names:
            file = os.path.join(root, name)
            if os.path.isfile(file) and not os.path.islink(file):
                with open(file, "rb") as opened:
                    while opened.read(MIB):
                        pass


class Bench:
    def __init__(self, work, runs, env):
        self.work, self.runs, self.env = work, runs, env
        self.rows = []

    def path(self, name):
        return str(self.work / name)

    def row(self, workload, peer, figures, growth=None):
        wall = statistics.median(figure[0] for figure in figures)
        cpu = statistics.median(figure[1] for figure in figures)
        memory = max(figure[2] for figure in figures)
        grown = "" if growth is None else f"{growth / MIB:.1f}"
        self.rows.append((workload, peer.name, f"{wall:.2f}", f"{cpu:.2f}", f"{memory:.0f}", grown))
        print("  ".join(self.rows[-1]), file=sys.stderr, flush=True)

    def clear(self, *names):
        for name in names:
            shutil.rmtree(self.path(name), ignore_errors=True)

    def series(self, peer, labels, states, restores):
        """Saves the states of a directory one after the other, `runs` times in fresh repositories; then restores."""
        if peer.save("", "", 0) is None:
            return self.restores_only(peer, labels, states, restores)
        figures = {label: [] for label in labels}
        growth = {}
        for _ in range(self.runs):
            self.clear("repo", "repo-cache")
            measure(peer.init(self.path("repo")), self.env)
            for number, (label, state) in enumerate(zip(labels, states)):
                data = state()
                warm(data)
                before = size_of(self.path("repo"))
                figures[label].append(measure(peer.save(self.path("repo"), data, number), self.env))
                growth[label] = size_of(self.path("repo")) - before
        for label in dict.fromkeys(labels):
            self.row(label, peer, figures[label], growth[label])
        self.restores_only(peer, labels, states, restores)

    def restores_only(self, peer, labels, states, restores):
        for label, back in restores:
            command = peer.restore(self.path("repo"), self.path("out"), back, states[-1]())
            if command is None:
                continue
            figures = []
            for _ in range(self.runs):
                self.clear("out")
                # Some file systems make new files slowly for some seconds after many were removed.
                time.sleep(6)
                figures.append(measure(command, self.env))
            self.row(label, peer, figures)
        self.clear("out")


def tree(bench, options, every):
    copy = bench.path("tree")
    subprocess.run(["cp", "-a", options.tree, copy], check=True)
    # What is as young as a backup is read again by the next one.
    time.sleep(1)
    for peer in every:
        state = lambda: copy
        bench.series(peer, ["tree: first", "tree: unchanged"], [state, state], [("tree: restore", 0)])
    bench.clear("tree")


def million(bench, options, every):
    rng = random.Random(5)
    sensors = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 11))) for _ in range(4000)]

    def record():
        day = f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
        time = f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
        value = f"{rng.randrange(100)}.{rng.randrange(100)}"
        return f'  {{"time": "{day}T{time}Z", "sensor": "{rng.choice(sensors)}", "value": {value}, "state": "ok"}},'

    data = bench.path("million")
    for number in range(options.files):
        directory = f"{data}/{number // 1000:04}"
        if number % 1000 == 0:
            os.makedirs(directory)
        text = "\n".join([f'{{"id": {number}, "records": [', *(record() for _ in range(14))])
        with open(f"{directory}/{number % 1000:03}.json", "w") as file:
            file.write(text[:1024])
    os.sync()
    for peer in every:
        state = lambda: data
        bench.series(peer, ["million: first", "million: unchanged"], [state, state], [("million: restore", 0)])
    bench.clear("million")


def history(bench, options, every):
    data = bench.path("history")

    def start():
        bench.clear("history")
        rng = random.Random(9)
        for number in range(2000):
            os.makedirs(f"{data}/{number // 50}", exist_ok=True)
            Path(f"{data}/{number // 50}/{number}.bin").write_bytes(rng.randbytes(rng.randrange(1, 64 * 1024)))

    def change(step):
        rng = random.Random(step)
        for number in rng.sample(range(2000), 20):
            path = Path(f"{data}/{number // 50}/{number}.bin")
            content = bytearray(path.read_bytes())
            at = rng.randrange(len(content))
            content[at : at + 100] = rng.randbytes(100)
            path.write_bytes(content)

    for peer in every:
        if peer.save("", "", 0) is None:
            continue
        bench.clear("repo", "repo-cache")
        measure(peer.init(bench.path("repo")), bench.env)
        start()
        figures = []
        for step in range(200):
            change(step)
            figures.append(measure(peer.save(bench.path("repo"), data, step), bench.env))
        total = (sum(f[0] for f in figures), sum(f[1] for f in figures), max(f[2] for f in figures))
        bench.row("history: 200 backups", peer, [total], size_of(bench.path("repo")))
        bench.restores_only(peer, [], [lambda: data], [("history: restore the last", 0), ("history: restore the second", 198)])
    bench.clear("history")


def make_image(path, source, rng):
    """A sparse image of 2 GiB with at most 1055 MiB of data in runs."""
    size, left = 2 << 30, 1055 * MIB
    files = [os.path.join(root, name) for root, _, names in os.walk(source) for name in names]
    files = sorted(file for file in files if os.path.isfile(file) and not os.path.islink(file))
    rng.shuffle(files)
    with open(path, "wb") as image:
        at = 0
        for file in files:
            data = Path(file).read_bytes()
            data += bytes(-len(data) % PAGE)
            if len(data) > min(left, size - at):
                continue
            image.seek(at)
            image.write(data)
            left -= len(data)
            at += len(data)
            if rng.random() < 0.01:
                at += rng.randrange(1, 1536) * PAGE
        image.truncate(size)


def image(bench, options, every):
    rng = random.Random(7)
    os.mkdir(bench.path("image"))
    make_image(bench.path("image/disk.img"), options.image_from, rng)
    for peer in every:
        fresh = bench.path("fresh")
        subprocess.run(["cp", "-a", "--sparse=always", bench.path("image"), fresh], check=True)

        def change():
            seeded = random.Random(11)
            with open(os.path.join(fresh, "disk.img"), "r+b") as disk:
                blocks = (2 << 30) // PAGE
                for block in seeded.sample(range(blocks), blocks // 100):
                    disk.seek(block * PAGE)
                    disk.write(seeded.randbytes(PAGE))
            os.sync()
            return fresh

        runs, bench.runs = bench.runs, 1
        bench.series(peer, ["image: first", "image: 1 % changed"], [lambda: fresh, change], [])
        bench.runs = runs
        bench.clear("fresh")
    bench.clear("image")


def shift(bench, options, every):
    os.mkdir(bench.path("shift"))
    file = bench.path("shift/data.tar")
    with open(file, "wb") as out:
        tar = subprocess.Popen(["tar", "cf", "-", "-C", options.tree, "."], stdout=subprocess.PIPE)
        out.write(tar.stdout.read(184_000_000))
        tar.kill()
        tar.wait()
    plain = Path(file).read_bytes()

    def state(prefix):
        def make():
            Path(file).write_bytes(prefix + plain)
            return bench.path("shift")
        return make

    for peer in every:
        states = [state(b""), state(random.Random(3).randbytes(100_000))]
        bench.series(peer, ["shift: first", "shift: 100 kB in front"], states, [])
    bench.clear("shift")


def releases(bench, options, every):
    every_release = sorted(path for path in Path(options.releases).iterdir() if path.is_dir())
    current = bench.path("release")

    def state(release):
        def make():
            bench.clear("release")
            subprocess.run(["cp", "-a", str(release), current], check=True)
            return current
        return make

    for peer in every:
        states = [state(release) for release in every_release]
        if peer.save("", "", 0) is None:
            continue
        bench.clear("repo", "repo-cache")
        measure(peer.init(bench.path("repo")), bench.env)
        figures = []
        for number, make in enumerate(states):
            data = make()
            warm(data)
            figures.append(measure(peer.save(bench.path("repo"), data, number), bench.env))
        total = (sum(f[0] for f in figures), sum(f[1] for f in figures), max(f[2] for f in figures))
        bench.row(f"{len(states)} releases", peer, [total], size_of(bench.path("repo")))
        bench.restores_only(peer, [], states, [("release: last", 0), ("release: first", len(states) - 1)])
    bench.clear("release")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--treering", default="target/release/treering")
    parser.add_argument("--isal", help="treering with the feature isal")
    parser.add_argument("--tree", default="/usr/share", help="what the tree is a copy of")
    parser.add_argument("--image-from", default="/usr/lib", help="whose files fill the image")
    parser.add_argument("--releases", help="a directory with a directory for each release")
    parser.add_argument("--files", type=int, default=1_000_000, help="how many files the million are")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", action="append", choices=["tree", "image", "shift", "million", "history", "releases"])
    parser.add_argument("--peer", action="append", help="only these, by name")
    parser.add_argument("--work", help="where to work; a temporary directory without")
    options = parser.parse_args()
    treering = os.path.abspath(options.treering)
    every = [peer for peer in peers(treering, os.path.abspath(options.isal or "-")) if not options.peer or peer.name in options.peer]
    missing = [peer.name for peer in every if not shutil.which(peer.program)]
    every = [peer for peer in every if peer.name not in missing]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    workloads = {"tree": tree, "image": image, "shift": shift, "million": million, "history": history, "releases": releases}
    chosen = options.only or [name for name in workloads if name != "releases" or options.releases]
    with tempfile.TemporaryDirectory(dir=options.work, prefix="treering-peers-") as work:
        work = Path(work)
        (work / "home").mkdir()
        env = dict(os.environ, HOME=str(work / "home"), RESTIC_PASSWORD="benchmark", BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")
        bench = Bench(work, options.runs, env)
        for name in chosen:
            workloads[name](bench, options, every)
    print("| workload | program | wall s | CPU s | memory MiB | grown MiB |")
    print("|---|---|---|---|---|---|")
    for row in bench.rows:
        print("| " + " | ".join(row) + " |")
    own = resource.getrusage(resource.RUSAGE_SELF)
    print(f"\nsystem: {os.cpu_count()} processors; this script took {own.ru_utime + own.ru_stime:.0f} s of CPU itself", file=sys.stderr)


if __name__ == "__main__":
    main()
