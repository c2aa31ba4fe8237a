"""Runs a command and kills it, with all its children, before the operation on a file system that is asked for.

    kill_at.py NUMBER REPORT DIRECTORY -- COMMAND [ARGUMENT ...]

Operations are counted from 1 over all processes and threads, in the order in which the kernel meets them: whatever
makes, writes, renames, links, truncates or removes a file or directory below DIRECTORY. With 0 the command is only
watched. REPORT then gets a line an operation: its number, the system call and the path. The exit status is that of the command,
or 137 where it was killed.

Uses ptrace(2) of Linux by its own numbers: no other tool stops all threads of a process at exactly one call.
"""

import ctypes
import os
import platform
import signal
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

TRACEME, CONT_TO_SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
# System call stops that tell themselves from signals, all kinds of children, exec, and death with the tracer.
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100000
WALL = 0x40000000
ENTRY = 1
O_CREAT, O_TRUNC = os.O_CREAT, os.O_TRUNC
AT_FDCWD = -100

# name: (number on x86_64, number on aarch64 or None, where the file is: a descriptor and a path, by their positions)
CALLS = {
    "open": (2, None, (None, 0)), "creat": (85, None, (None, 0)), "openat": (257, 56, (0, 1)),
    "write": (1, 64, (0, None)), "pwrite64": (18, 68, (0, None)), "writev": (20, 66, (0, None)),
    "pwritev": (296, 70, (0, None)), "truncate": (76, 45, (None, 0)), "ftruncate": (77, 46, (0, None)),
    "rename": (82, None, (None, 1)), "renameat": (264, 38, (2, 3)), "renameat2": (316, 276, (2, 3)),
    "link": (86, None, (None, 1)), "linkat": (265, 37, (2, 3)), "symlink": (88, None, (None, 1)),
    "symlinkat": (266, 36, (1, 2)), "unlink": (87, None, (None, 0)), "unlinkat": (263, 35, (0, 1)),
    "mkdir": (83, None, (None, 0)), "mkdirat": (258, 34, (0, 1)), "rmdir": (84, None, (None, 0)),
    "copy_file_range": (326, 285, (2, None)),
}
COLUMN = {"x86_64": 0, "aarch64": 1}
FLAGS = {"open": 1, "openat": 2}


def ptrace(request, process, address=0, data=0):
    if libc.ptrace(request, process, address, data) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def text(process, address):
    """The path at an address of a process."""
    with open(f"/proc/{process}/mem", "rb", 0) as memory:
        memory.seek(address)
        found = b""
        # A page at a time: what follows the path may not be mapped.
        while b"\0" not in found and len(found) < 4096:
            found += memory.read(4096 - (address + len(found)) % 4096)
    return found.split(b"\0")[0]


def target(process, where, arguments):
    """The absolute path that a call is about; None for what has no name."""
    descriptor, path = where
    name = text(process, arguments[path]) if path is not None else b""
    if name.startswith(b"/"):
        return name
    number = ctypes.c_int(arguments[descriptor]).value if descriptor is not None else AT_FDCWD
    link = f"/proc/{process}/cwd" if number == AT_FDCWD else f"/proc/{process}/fd/{number}"
    try:
        base = os.readlink(os.fsencode(link))
    except OSError:
        return None
    return os.path.join(base, name) if name else base


def kill(traced):
    """Kills the processes of all these threads, and waits until no lock of theirs is left."""
    for thread in traced:
        try:
            os.kill(thread, signal.SIGKILL)
        except ProcessLookupError:
            pass
    while True:
        try:
            os.waitpid(-1, WALL)
        except ChildProcessError:
            return signal.SIGKILL


def watch(process, calls, below, limit, tell):
    os.waitpid(process, WALL)
    ptrace(SETOPTIONS, process, 0, OPTIONS)
    ptrace(CONT_TO_SYSCALL, process)
    info = ctypes.create_string_buffer(88)
    count, status_of_first, traced = 0, None, set()
    while True:
        try:
            stopped, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            return status_of_first
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            traced.discard(stopped)
            if stopped == process:
                status_of_first = status
            continue
        traced.add(stopped)
        number, event = os.WSTOPSIG(status), status >> 16
        deliver = 0
        if number == signal.SIGTRAP | 0x80:
            libc.ptrace(GET_SYSCALL_INFO, stopped, len(info), ctypes.addressof(info))
            if info[0] == bytes([ENTRY]):
                call, *arguments = struct.unpack_from("<7Q", info, 24)
                name = calls.get(call)
                if name and (name not in FLAGS or arguments[FLAGS[name]] & (O_CREAT | O_TRUNC)):
                    path = target(stopped, CALLS[name][2], arguments)
                    if path and path.startswith(below):
                        count += 1
                        tell(f"{count} {name} {os.fsdecode(path)}\n")
                        if count == limit:
                            return kill(traced)
        elif event == 0 and number not in (signal.SIGSTOP, signal.SIGTRAP):
            deliver = number
        try:
            ptrace(CONT_TO_SYSCALL, stopped, 0, deliver)
        except ProcessLookupError:
            pass


def main():
    limit, report, below, dashes, *command = sys.argv[1:]
    assert dashes == "--"
    column = COLUMN[platform.machine()]
    calls = {row[column]: name for name, row in CALLS.items() if row[column] is not None}
    process = os.fork()
    if process == 0:
        ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execvp(command[0], command)
    with open(report, "w", errors="surrogateescape") as file:
        status = watch(process, calls, os.fsencode(os.path.realpath(below)), int(limit), file.write)
    if status is None:
        sys.exit("the command was lost")
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


main()
