"""Verifiers that attack whoever calls them. Each takes a text (JSON, see tests/search/
test_sandbox_attacks.py) and returns 1.0 where its attack succeeded, as far as it can tell, else
0.0; some do not come back.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import time


def _any(*attempts) -> float:
    """1.0 where one of `attempts` comes back without an error and with something true."""
    for attempt in attempts:
        try:
            if attempt():
                return 1.0
        except Exception:
            continue
    return 0.0


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def environment(text: str) -> float:
    return _any(
        lambda: any("open sesame" in value for value in os.environ.values()),
        lambda: "open sesame" in _read(f"/proc/{json.loads(text)['pid']}/environ"),
        lambda: "open sesame" in _read("/proc/self/environ"),
    )


def passwords(text: str) -> float:
    return _any(lambda: _read("/etc/passwd"), lambda: _read("/etc/shadow"))


def write_files(text: str) -> float:
    def write(path: str) -> bool:
        with open(path, "a") as file:
            file.write("gotcha")
        return True

    folder = json.loads(text)["folder"]
    return _any(
        lambda: write(os.path.join(folder, "written")),
        lambda: write(__file__),
        lambda: write(os.__file__),
        lambda: write("/usr/bin/gotcha"),
        lambda: write("/gotcha"),
        lambda: write("/dev/gotcha"),
        lambda: os.rename(folder, folder + ".moved") or True,
    )


def sockets(text: str) -> float:
    order = json.loads(text)

    def unix() -> bool:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect("\0" + order["abstract"])
        return True

    return _any(lambda: socket.create_connection(("127.0.0.1", order["port"]), 5), unix)


def signal_parent(text: str) -> float:
    """Terminates what it is told to, and its parent."""
    return _any(
        lambda: os.kill(json.loads(text)["victim"], signal.SIGTERM) or True,
        lambda: os.kill(json.loads(text)["pid"], signal.SIGUSR1) or True,
        lambda: os.kill(os.getppid(), signal.SIGUSR1) or True,
    )


def outlive(text: str) -> float:
    """Leaves a process in a session of its own, with nothing open."""
    devnull = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen(["/bin/sleep", json.loads(text)["sleep"]], start_new_session=True, **devnull)
    return 0.0


def linger(text: str) -> float:
    """Waits for a process of its own that does not end. The text ends with its seconds."""
    subprocess.run(["/bin/sleep", text.split()[-1]], check=True)
    return 1.0


def three_gigabytes(text: str) -> float:
    return float(len(bytearray(3 << 30)) > 0)


class Bomb(Exception):
    """Runs a command where it is unpickled."""

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def pickled_exception(text: str) -> float:
    raise Bomb(os.path.join(json.loads(text)["folder"], "bomb"))


def write_into_pipes(text: str) -> float:
    """Says what a worker process would say, into everything that is open."""
    data = b"R" + pickle.dumps(Bomb(os.path.join(json.loads(text)["folder"], "bomb")))
    for descriptor in range(3, 256):
        try:
            os.write(descriptor, len(data).to_bytes(4, "big") + data)
        except OSError:
            continue
    return 1.0


def spin(text: str) -> float:
    while True:
        pass


def crash(text: str) -> float:
    return float(ctypes.string_at(0)[0])


def nonsense(text: str) -> float:
    return float("inf")


# -- ten and more of ours


def fork_bomb(text: str) -> float:
    """1.0 where nothing stops it before it has 200 processes."""
    children = 0
    while children < 200:
        try:
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
        except OSError:
            return 0.0
        children += 1
    return 1.0


def print_for_ever(text: str) -> float:
    while True:
        os.write(1, b"x" * (1 << 16))


def fill_files(text: str) -> float:
    """1.0 where nothing stops it before it has written 1 GB."""

    def fill(folder: str) -> bool:
        for number in range(64):
            with open(os.path.join(folder, f"filler-{number}"), "wb") as file:
                file.write(bytes(16 << 20))
        return True

    return _any(lambda: fill("/tmp"), lambda: fill("/dev/shm"), lambda: fill("/"))


def _call(x86_64: int, aarch64: int, *args: int) -> bool:
    """Whether a system call is not refused with EPERM or ENOSYS. Its arguments make it harmless."""
    number = {"x86_64": x86_64, "aarch64": aarch64}[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(arg) for arg in args))
    return result != -1 or ctypes.get_errno() not in (1, 38)


def memory_that_no_limit_counts(text: str) -> float:
    name = ctypes.cast(ctypes.c_char_p(b"filler"), ctypes.c_void_p).value
    return _any(
        lambda: os.memfd_create("filler"),
        lambda: _call(319, 279, name, 0),
        lambda: _call(29, 194, 0, 1 << 20, 0o1600),  # shmget
        lambda: _call(447, 447, 0),  # memfd_secret
    )


def other_processes(text: str) -> float:
    """Looks into the memory and the descriptors of others."""
    pid = os.getppid()
    return _any(
        lambda: _call(101, 117, 16, pid, 0, 0),  # ptrace
        lambda: _call(310, 270, pid, 0, 0, 0, 0, 0),  # process_vm_readv
        lambda: _call(311, 271, pid, 0, 0, 0, 0, 0),
        lambda: _call(438, 438, os.pidfd_open(os.getpid()), 0, 0),  # pidfd_getfd
        lambda: open(f"/proc/{pid}/mem", "rb"),
    )


def become_root(text: str) -> float:
    """New namespaces, mounts, and another user."""
    new_user = 0x10000000
    return _any(
        lambda: _call(272, 97, new_user),  # unshare
        lambda: _call(56, 220, new_user | 0x200, 0, 0, 0, 0),  # clone, invalid where it is allowed
        lambda: _call(435, 435, 0, 88),  # clone3
        lambda: _call(165, 40, 0, 0, 0, 0, 0),  # mount
        lambda: os.chroot("/tmp") or True,
        lambda: os.setuid(0) or True,
        lambda: os.chown("/tmp", 0, 0) or True,
        lambda: os.mknod("/tmp/memory", 0o600 | 0o20000, os.makedev(1, 1)) or True,
    )


def rare_parts_of_the_kernel(text: str) -> float:
    return _any(
        lambda: _call(321, 280, 0, 0, 0),  # bpf
        lambda: _call(250, 219, 0, 0),  # keyctl
        lambda: _call(248, 217, 0, 0, 0, 0, 0),  # add_key
        lambda: _call(425, 425, 8, 0),  # io_uring_setup
        lambda: _call(298, 241, 0, 0, 0, 0, 0),  # perf_event_open
        lambda: _call(323, 282, 0),  # userfaultfd
        lambda: _call(246, 104, 0, 0, 0, 0),  # kexec_load
        lambda: _call(103, 116, 3, 0, 0),  # syslog
    )


def read_files(text: str) -> float:
    """A file of the user, other users' files, the kernel's."""
    folder = json.loads(text)["folder"]
    return _any(
        lambda: _read(os.path.join(folder, "secret")),
        lambda: os.listdir(folder),
        lambda: os.listdir("/home") or os.listdir("/root"),
        lambda: os.listdir("/proc"),
        lambda: os.listdir("/sys"),
        lambda: os.listdir("/run"),
        lambda: [name for name in os.listdir("/etc") if "passwd" in name or "ssh" in name],
    )


def leave_something(text: str) -> float:
    """Looks for what the call before left, and leaves a file, a process and a changed module."""
    found = _any(
        lambda: _read("/tmp/left"),
        lambda: _read("/dev/shm/left"),
        lambda: hasattr(os, "left"),
        lambda: os.path.exists("/tmp/alive"),
        lambda: len([pid for pid in range(2, 300) if _alive(pid)]) > 2,
    )
    for path in ("/tmp/left", "/dev/shm/left"):
        with open(path, "w") as file:
            file.write("here")
    os.left = True  # type: ignore[attr-defined]
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kill_all(text: str) -> float:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def endless_reply(text: str) -> float:
    """More JSON than anybody can want, and deeper."""
    for descriptor in range(3, 256):
        try:
            while True:
                os.write(descriptor, b"[" * (1 << 16))
        except OSError:
            continue
    return 1.0


def deep_reply(text: str) -> float:
    """JSON on which a parser may fall over."""
    for descriptor in range(3, 256):
        try:
            os.write(descriptor, b'{"result":' * 6000)
        except OSError:
            continue
    os._exit(0)


def rare_sockets(text: str) -> float:
    """Kinds that know no namespaces, or reach the kernel."""
    kinds = [(40, 1), (16, 3), (17, 3), (38, 5), (2, 3), (31, 3)]  # vsock, netlink, packet, alg...
    return _any(*(lambda kind=kind: socket.socket(*kind) for kind in kinds))


def deaf(text: str) -> float:
    """Closes what is open, ignores signals, stops itself."""
    for number in range(1, 64):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    os.closerange(0, 256)
    if os.fork() == 0:
        os.setsid()
        os.execv("/bin/sleep", ["/bin/sleep", json.loads(text)["sleep"]])
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(600)
    return 1.0


def terminal(text: str) -> float:
    """Types into the terminal of whoever started it."""
    import fcntl
    import termios

    def type_in(descriptor: int) -> bool:
        fcntl.ioctl(descriptor, termios.TIOCSTI, b"x")
        return True

    return _any(
        lambda: type_in(0),
        lambda: type_in(1),
        lambda: type_in(2),
        lambda: type_in(os.open("/dev/tty", os.O_RDWR)),
    )


def escapes(text: str) -> float:
    raise ValueError("\x1b]0;owned\x07\x1b[2J")


def many_processes_of_memory(text: str) -> float:
    """Each takes less than the limit, all together far more."""
    for _ in range(12):
        if os.fork() == 0:
            held = bytearray(400 << 20)
            for place in range(0, len(held), 4096):
                held[place] = 1
            time.sleep(600)
            os._exit(0)
    time.sleep(600)
    return 1.0


def honest(text: str) -> float:
    return 0.25 if text == "a quarter" else float("yes" in text)


def odd(text: str) -> object:
    return {"yes": 1, "no": None, "number": "12"}.get(text, [sys.version])
