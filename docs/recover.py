#!/usr/bin/env python3
"""Reads a treering repository without treering.

    recover.py REPOSITORY                            lists the snapshots
    recover.py REPOSITORY SNAPSHOT                   lists what a snapshot holds
    recover.py REPOSITORY SNAPSHOT TARGET            restores all of it into TARGET
    recover.py REPOSITORY SNAPSHOT TARGET PATH       restores what lies at and below PATH
    recover.py --identity FILE REPOSITORY ...        the same of an encrypted repository

REPOSITORY is the bare git repository, or any clone of it. SNAPSHOT is `latest` (of those that are not dated in the future,
if there are any), the beginning of an id or of a time key, as the list shows them. TARGET must be missing or empty. PATH is
as the listing of the snapshot shows it.

FILE holds an age identity, AGE-SECRET-KEY-1..., that opens one of the keys of the repository, or is what such a key
holds. From a passphrase it is made with the program `age`: `git -C REPOSITORY ls-tree -r HEAD keys/` names the keys, and
`git -C REPOSITORY show HEAD:keys/ID.age | age -d > FILE` opens one.

Needs Linux, Python 3.8 or later with nothing but its standard library, and the programs `git` and `rdiff` (and `zstd`,
for a repository that was made with that compression, and `age` for one that is encrypted). It writes nothing into the repository. Volumes are unpacked in a
temporary directory (TMPDIR says where) that is kept below about 4 GiB. What it reads is described in docs/format.md.

No file is put in place unless each of its segments has the SHA-256 that the index promises. What cannot be
restored is named on standard error, the rest is restored, and the exit status is 1.
"""

import collections
import datetime
import grp
import gzip
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zlib

FORMAT_VERSION = 1
MAX_DEPTH = 16
MAX_PAYLOAD = 16 << 20
MAX_UNPACKED = 4 << 30
ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
ENTRY_NAME = re.compile(r"(created|updated)/([0-9a-f]{64})")


class Damaged(Exception):
    """Something in the repository is missing or is not what it should be."""


# What it comes to when a record can be decoded and has another shape than it should.
MALFORMED = (Damaged, KeyError, IndexError, TypeError, AttributeError, ValueError, StopIteration)


def main(arguments):
    identity = None
    if arguments[:1] == ["--identity"] and len(arguments) > 1:
        identity, arguments = arguments[1], arguments[2:]
    if not 1 <= len(arguments) <= 4 or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    arguments = [os.fsencode(argument) for argument in arguments]
    with tempfile.TemporaryDirectory(prefix="recover-") as scratch:
        repository = Repository(arguments[0], scratch, identity)
        if len(arguments) == 1:
            for snapshot in repository.snapshots():
                print(snapshot.describe())
            return 0
        snapshot = repository.find(os.fsdecode(arguments[1]))
        entries = snapshot.entries()
        if len(arguments) == 2:
            for entry in entries:
                sys.stdout.buffer.write(entry.describe() + b"\n")
            return 0
        if len(arguments) == 4:
            entries = below(entries, arguments[3].strip(b"/"))
        restore = Restore(repository, snapshot.owners, arguments[2])
        restore.run(entries)
        print(f"{restore.done} restored, {restore.failed} failed", file=sys.stderr)
        return 1 if restore.failed else 0


def below(entries, top):
    """The entries at and below a path, with paths relative to it; a file keeps its name."""
    inside = [entry for entry in entries if not top or (entry.path + b"/").startswith(top + b"/")]
    if not inside:
        raise Damaged(f"nothing is at {show(top)}; list the snapshot to see its paths")
    if inside[0].kind != DIRECTORY:
        top = os.path.dirname(top)
    for entry in inside:
        entry.path = entry.path[len(top):].lstrip(b"/") if top else entry.path
    return inside


class Repository:
    """The tree at the tip of the branch of a git repository."""

    def __init__(self, path, scratch, identity=None):
        self.git = ["git", "-C", path, "-c", "safe.directory=*"]
        self.scratch = scratch
        listing = self.run_git("ls-tree", "-r", "-z", "HEAD")
        self.blobs, self.encrypted = {}, set()
        for line in listing.split(b"\0"):
            if line:
                about, name = line.split(b"\t", 1)
                name = plain_name(name.decode())
                self.blobs[name] = about.split()[2].decode()
                if line.endswith(b".age"):
                    self.encrypted.add(name)
        self.reader = subprocess.Popen(
            self.git + ["cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            config = read_cbor(self.read("config.cbor"))
        except MALFORMED as error:
            raise Damaged(f"this is no treering repository ({error})")
        if config["version"] > FORMAT_VERSION:
            raise Damaged(f"the repository has format {config['version']}; this program reads {FORMAT_VERSION}")
        self.identity = self.find_identity(identity) if config.get("encryption") else None
        self.volumes = {}
        self.unpacked = collections.OrderedDict()
        self.unpacked_bytes = 0
        self.places = None

    def run_git(self, *arguments):
        done = subprocess.run(self.git + list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise Damaged("git: " + done.stderr.decode(errors="replace").strip())
        return done.stdout

    def find_identity(self, given):
        """The file of the identity that opens all blobs: what one of the keys holds, or what was given."""
        if given is None:
            raise Damaged("the repository is encrypted: give --identity FILE (--help tells how to make one)")
        for path in sorted(path for path in self.blobs if path.startswith("keys/")):
            key = decrypt(given, self.read_stored(path))
            if key is not None:
                opened = os.path.join(self.scratch, "identity")
                with open(opened, "wb") as file:
                    file.write(key)
                return opened
        return given

    def read(self, path):
        """The content of the blob at a path of the tree."""
        path = plain_name(path)
        content = self.read_stored(path)
        if path not in self.encrypted:
            return content
        content = decrypt(self.identity, content)
        if content is None:
            raise Damaged(f"{path}.age is damaged, or the identity is not the right one")
        return content

    def read_stored(self, path):
        """The blob at a path of the tree; git checks its SHA-1."""
        if path not in self.blobs:
            raise Damaged(f"{path} is missing")
        self.reader.stdin.write(self.blobs[path].encode() + b"\n")
        self.reader.stdin.flush()
        header = self.reader.stdout.readline().split()
        if len(header) != 3 or header[1] != b"blob":
            raise Damaged(f"{path}: git cannot read the blob {self.blobs[path]}")
        content = self.reader.stdout.read(int(header[2]) + 1)
        if len(content) != int(header[2]) + 1:
            raise Damaged(f"{path}: git stopped in the middle of the blob {self.blobs[path]}")
        return content[:-1]

    def snapshots(self):
        """The snapshots that can be read, oldest first; names the others on standard error."""
        found = []
        for path in sorted(path for path in self.blobs if path.startswith("snapshots/")):
            try:
                found.append(Snapshot(self, path))
            except MALFORMED as error:
                complain(path, error)
        return found

    def find(self, name):
        snapshots = self.snapshots()
        if name == "latest" and snapshots:
            # One that a wrong clock has dated in the future would hide all that were made since.
            now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=10)
            present = [found for found in snapshots if found.key[:15] <= now.strftime("%Y%m%dT%H%M%S")]
            return (present or snapshots)[-1]
        matching = [found for found in snapshots if found.id.startswith(name) or found.key.startswith(name)]
        if len(matching) != 1:
            raise Damaged(f"{name} is {'no' if not matching else 'not only one'} snapshot; list them without a name")
        return matching[0]

    def segment(self, digest, depth=0):
        """The bytes of the segment of that SHA-256, checked."""
        if depth > MAX_DEPTH:
            raise Damaged(f"segment {digest} is a delta of itself")
        if self.places is None:
            self.find_segments()
        if digest not in self.places:
            raise Damaged(f"segment {digest} is in no volume")
        volume, bases = self.places[digest]
        directory = self.unpack(volume)
        if not bases:
            content = read_file(os.path.join(directory, "created-" + digest))
        else:
            base = b"".join(self.segment(base, depth + 1) for base in bases)
            # Reading the bases may have pushed the volume out.
            delta = read_file(os.path.join(self.unpack(volume), "updated-" + digest))
            content = self.patch(digest, base, delta)
        if hashlib.sha256(content).hexdigest() != digest:
            raise Damaged(f"segment {digest} has other bytes")
        return content

    def patch(self, digest, base, delta):
        names = {name: os.path.join(self.scratch, name) for name in ("base", "delta", "result")}
        for name, content in (("base", base), ("delta", delta)):
            with open(names[name], "wb") as file:
                file.write(content)
        if os.path.exists(names["result"]):
            os.remove(names["result"])
        command = ["rdiff", "patch", names["base"], names["delta"], names["result"]]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise Damaged(f"segment {digest}: rdiff: {done.stdout.decode(errors='replace').strip()}")
        return read_file(names["result"])

    def find_segments(self):
        """Reads the indexes of all volumes: where each segment is, and of which others it is a delta."""
        self.places = {}
        for path in sorted(path for path in self.blobs if path.startswith("archives/")):
            if not path.endswith(".idx"):
                continue
            volumes = [path[: -len(".idx")] + end for end in (".tar.gz", ".tar.zst", ".tar")]
            try:
                volume = next((volume for volume in volumes if volume in self.blobs), None)
                if volume is None:
                    raise Damaged("its volume is missing")
                self.read_volume_index(volume, read_cbor(self.read(path)))
            except MALFORMED as error:
                complain(path, error)

    def read_volume_index(self, volume, index):
        if index["version"] != 1:
            raise Damaged(f"version {index['version']} is not known")
        columns = read_cbor(gunzip(index["columns"]))
        digests, bases = split_digests(index["digests"]), iter(split_digests(index["bases"]))
        bases_of = {}
        entries, entry = Numbers(columns["delta_entries"]), -1
        for count in columns["delta_base_counts"]:
            entry += 1 + entries.unsigned()
            bases_of[entry] = [next(bases) for _ in range(count)]
        for entry, digest in enumerate(digests):
            self.places[digest] = (volume, bases_of.get(entry))

    def unpack(self, volume):
        """The directory that holds the entries of a volume."""
        if volume in self.unpacked:
            self.unpacked.move_to_end(volume)
            return self.unpacked[volume][0]
        directory = tempfile.mkdtemp(dir=self.scratch)
        packed = os.path.join(directory, "packed")
        with open(packed, "wb") as file:
            file.write(self.read(volume))
        size = 0
        try:
            with open_compressed(packed, volume) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = ENTRY_NAME.fullmatch(member.name)
                    if not name or not member.isreg() or member.size > MAX_PAYLOAD:
                        raise Damaged(f"{volume} holds {member.name!r}, which is no segment")
                    with open(os.path.join(directory, "-".join(name.groups())), "wb") as file:
                        shutil.copyfileobj(archive.extractfile(member), file)
                    size += member.size
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            # What came before the damage can be used, since every segment is checked.
            complain(volume, error)
        for name in (packed, packed + ".plain"):
            if os.path.exists(name):
                os.remove(name)
        self.unpacked[volume] = (directory, size)
        self.unpacked_bytes += size
        while self.unpacked_bytes > MAX_UNPACKED and len(self.unpacked) > 1:
            _, (oldest, freed) = self.unpacked.popitem(last=False)
            shutil.rmtree(oldest)
            self.unpacked_bytes -= freed
        return directory


def plain_name(path):
    """The path that the blob would have if it were not encrypted."""
    return path[: -len(".age")] if path.endswith(".age") else path


def decrypt(identity, content):
    """The content of an age file, or nothing."""
    done = subprocess.run(
        ["age", "--decrypt", "--identity", identity], input=content, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return done.stdout if done.returncode == 0 else None


class Snapshot:
    """A snapshot record."""

    def __init__(self, repository, path):
        self.repository = repository
        self.key = os.path.basename(path)[: -len(".cbor")]
        self.id = repository.blobs[path]
        self.record = read_cbor(repository.read(path))
        self.owners = self.record["owners"]

    def describe(self):
        time = datetime.datetime.strptime(self.key[:15], "%Y%m%dT%H%M%S").isoformat(" ")
        roots = " ".join(show(root) for root in self.record["roots"])
        unread = self.record.get("unreadable") or self.record.get("unread_attributes")
        partial = "  (partial)" if unread else ""
        return f"{self.id[:8]}  {time} UTC  {self.record['host']}  {roots}{partial}"

    def entries(self):
        pages, blobs = self.record["pages"], {}
        numbers = Numbers(pages["places"])
        entries, number, end = [], 0, 0
        while not numbers.at_end():
            number += numbers.signed()
            start = end + numbers.signed()
            end = start + numbers.unsigned()
            count = numbers.unsigned()
            path = pages["blobs"][number]
            if path not in blobs:
                blobs[path] = self.repository.read(path)
            page = read_page(read_cbor(gunzip(blobs[path][start:end])))
            if len(page) != count:
                raise Damaged(f"{path}: a page has not as many entries as it should")
            entries.extend(page)
        return entries


FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHAR_DEVICE, BLOCK_DEVICE = range(7)


TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


class Entry:
    """One name: `path`, `kind` and metadata; of a file `size`, `segments`, `holes` and `link`; of others `target` or
    `device`."""

    def describe(self):
        mode = stat.filemode(TYPES[self.kind] | self.mode)
        time = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=self.mtime // 10**9)
        size = self.size if self.kind == FILE else 0
        text = f"{mode} {self.uid:5} {self.gid:5} {size:12} {time.isoformat(' ')} ".encode()
        return text + (self.path or b".") + (b" -> " + self.target if self.kind == SYMLINK else b"")


def read_page(columns):
    """The entries of a page."""
    numbers = {name: Numbers(column) for name, column in columns.items() if isinstance(column, bytes)}
    holes, links, xattrs = (
        {item[0]: item[1:] for item in columns.get(name, [])} for name in ("holes", "links", "xattrs")
    )
    sums = collections.Counter()

    def unsigned(name):
        return numbers[name].unsigned()

    def difference(name):
        # Sums wrap as 64-bit integers do.
        sums[name] = (sums[name] + numbers[name].signed() + 2**63) % 2**64 - 2**63
        return sums[name]

    entries, path = [], b""
    for number, kind in enumerate(columns["kind"]):
        entry = Entry()
        path = path[: unsigned("shared")] + numbers["suffix"].take(unsigned("suffix_len"))
        check_path(path)
        entry.path, entry.kind = path, kind
        entry.mode = difference("mode") & 0o7777
        entry.uid, entry.gid = difference("uid"), difference("gid")
        entry.mtime = difference("mtime") * 10**9 + unsigned("mtime_ns")
        entry.xattrs = xattrs.get(number, [[]])[0]
        if kind == FILE:
            entry.size = unsigned("size")
            entry.holes = read_holes(holes[number][0]) if number in holes else []
            entry.link = tuple(links[number]) if number in links else None
            count = unsigned("segments")
            data = entry.size - sum(end - start for start, end in entry.holes)
            lens = [data] if count == 1 else [unsigned("lens") for _ in range(count)]
            if sum(lens) != data or any(end > entry.size for _, end in entry.holes):
                raise Damaged(f"the content of {show(path)} does not add up")
            entry.segments = [(numbers["digests"].take(32).hex(), length) for length in lens]
        elif kind == SYMLINK:
            entry.target = numbers["target"].take(unsigned("target_len"))
        elif kind in (CHAR_DEVICE, BLOCK_DEVICE):
            entry.device = unsigned("device")
        elif kind not in (DIRECTORY, FIFO, SOCKET):
            raise Damaged(f"{show(path)} is of unknown kind {kind}")
        entries.append(entry)
    return entries


def read_holes(column):
    numbers, holes, end = Numbers(column), [], 0
    while not numbers.at_end():
        start = end + numbers.unsigned()
        end = start + numbers.unsigned()
        holes.append((start, end))
    return holes


def check_path(path):
    if path and any(name in (b"", b".", b"..") for name in path.split(b"/")) or b"\0" in path:
        raise Damaged(f"the path {show(path)} is not allowed")


class Restore:
    """Brings entries into an empty directory. Nothing is ever written through a symbolic link: each directory on the
    way must be one that was made here."""

    def __init__(self, repository, owners, target):
        os.makedirs(target, exist_ok=True)
        if os.listdir(target):
            raise Damaged(f"{show(target)} is not empty")
        self.repository, self.target = repository, target
        self.made_directories = {b""}
        self.links = {}
        self.done = self.failed = 0
        self.users = local_ids(owners["users"], lambda name: pwd.getpwnam(name).pw_uid)
        self.groups = local_ids(owners["groups"], lambda name: grp.getgrnam(name).gr_gid)

    def run(self, entries):
        directories = []
        for entry in entries:
            self.attempt(entry, self.make)
            if entry.kind == DIRECTORY and entry.path in self.made_directories:
                directories.append(entry)
        # The deepest first, since what is done in a directory changes its time.
        for entry in reversed(directories):
            self.attempt(entry, lambda entry: self.set_metadata(entry, self.place(entry.path)))
            self.done -= 1

    def attempt(self, entry, action):
        try:
            action(entry)
            self.done += 1
        except (OSError,) + MALFORMED as error:
            self.failed += 1
            complain(show(entry.path), error)

    def place(self, path):
        return os.path.join(self.target, path) if path else self.target

    def make_directory(self, path, mode=0o755):
        if path not in self.made_directories:
            self.make_directory(os.path.dirname(path))
            os.mkdir(self.place(path), mode)
            self.made_directories.add(path)

    def make(self, entry):
        path = self.place(entry.path)
        if entry.kind == DIRECTORY:
            return self.make_directory(entry.path, 0o700)
        self.make_directory(os.path.dirname(entry.path))
        if entry.kind == SOCKET:
            return None
        if entry.kind == FILE and entry.link in self.links and entry.link is not None:
            return os.link(self.links[entry.link], path)
        if entry.kind == FILE:
            self.write(entry, path)
            self.links[entry.link] = path
        elif entry.kind == SYMLINK:
            os.symlink(entry.target, path)
        elif entry.kind == FIFO:
            os.mkfifo(path)
        else:
            kind = stat.S_IFCHR if entry.kind == CHAR_DEVICE else stat.S_IFBLK
            os.mknod(path, kind | 0o600, entry.device)
        return self.set_metadata(entry, path)

    def write(self, entry, path):
        temporary = path[: -len(os.path.basename(path))] + b".recover-tmp"
        try:
            with open(temporary, "wb") as file:
                holes, position = collections.deque(entry.holes), 0
                for digest, length in entry.segments:
                    content = self.repository.segment(digest)
                    if len(content) != length:
                        raise Damaged(f"segment {digest} has another length")
                    while content:
                        while holes and holes[0][0] == position:
                            position = holes.popleft()[1]
                        until = holes[0][0] if holes else entry.size
                        piece, content = content[: until - position], content[until - position:]
                        file.seek(position)
                        file.write(piece)
                        position += len(piece)
                file.truncate(entry.size)
            os.rename(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise

    def set_metadata(self, entry, path):
        if os.geteuid() == 0:
            os.lchown(path, self.users.get(entry.uid, entry.uid), self.groups.get(entry.gid, entry.gid))
        if entry.kind != SYMLINK:
            os.chmod(path, entry.mode)
        for name, value in entry.xattrs:
            if os.geteuid() == 0 or not name.startswith((b"security.", b"trusted.")):
                if name in ACLS:
                    value = self.renumbered(value)
                os.setxattr(path, name, value, follow_symlinks=False)
        os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)

    def renumbered(self, acl):
        """An ACL whose users and groups have the numbers that they have here."""
        result = acl[:4]
        for at in range(4, len(acl), 8):
            number = int.from_bytes(acl[at + 4 : at + 8], "little")
            local = {2: self.users, 8: self.groups}.get(acl[at], {}).get(number, number)
            result += acl[at : at + 4] + local.to_bytes(4, "little")
        return result


def local_ids(names, lookup):
    """The numbers that owners have here, for those whose names are known here."""
    known = {}
    for number, name in names.items():
        try:
            known[number] = lookup(name)
        except KeyError:
            pass
    return known


class Numbers:
    """Reads a column from its front."""

    def __init__(self, column):
        self.column, self.at = column, 0

    def at_end(self):
        return self.at == len(self.column)

    def take(self, length):
        taken = self.column[self.at: self.at + length]
        if len(taken) != length:
            raise Damaged("a column ends too early")
        self.at += length
        return taken

    def unsigned(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise Damaged("a number is too large")

    def signed(self):
        value = self.unsigned()
        return value >> 1 if value & 1 == 0 else -(value >> 1) - 1


def split_digests(column):
    return [column[at: at + 32].hex() for at in range(0, len(column), 32)]


def read_cbor(content):
    """The one CBOR value that `content` holds (RFC 8949): integers, bytes, text, arrays, maps, null, false, true."""
    value, end = read_cbor_item(content, 0, 0)
    if end != len(content):
        raise Damaged("bytes follow the end of the CBOR")
    return value


def read_cbor_item(content, at, nesting):
    try:
        major, small = content[at] >> 5, content[at] & 31
    except IndexError:
        raise Damaged("the CBOR ends too early")
    at += 1
    if nesting > 32 or small > 27 or major == 6:
        raise Damaged("the CBOR is not of the kind that treering writes")
    number = small
    if small > 23:
        width = 1 << (small - 24)
        number, at = int.from_bytes(content[at: at + width], "big"), at + width
    if major == 7:
        simple = {20: False, 21: True, 22: None}
        if number not in simple:
            raise Damaged("the CBOR is not of the kind that treering writes")
        return simple[number], at
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if number > len(content) - at:
        raise Damaged("the CBOR ends too early")
    if major == 2:
        return content[at: at + number], at + number
    if major == 3:
        return content[at: at + number].decode(errors="replace"), at + number
    items = []
    for _ in range(number * (2 if major == 5 else 1)):
        item, at = read_cbor_item(content, at, nesting + 1)
        items.append(item)
    return (dict(zip(items[::2], items[1::2])) if major == 5 else items), at


def gunzip(content):
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(f"gzip: {error}")


def open_compressed(packed, name):
    if name.endswith(".gz"):
        return gzip.open(packed)
    if name.endswith(".zst"):
        plain = packed + ".plain"
        done = subprocess.run(["zstd", "-dqf", packed, "-o", plain], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise Damaged(f"{name}: zstd: {done.stdout.decode(errors='replace').strip()}")
        return open(plain, "rb")
    return open(packed, "rb")


def read_file(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise Damaged(f"{os.path.basename(path)} is not in its volume")


def show(path):
    return repr(path)[1:]


def complain(what, error):
    print(f"{what}: {error}", file=sys.stderr)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError,) + MALFORMED as error:
        sys.exit(f"recover.py: {error}")
