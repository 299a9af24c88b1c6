"""The command that starts a program in bubblewrap, and what is missing where it cannot."""

from __future__ import annotations

import os
import secrets
import shutil
import site
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from search.sandbox import seccomp
from search.sandbox.bundle import STUB
from search.sandbox.limits import Limits

#: all variables that a program has
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same program twice prints the same
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ALSO = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/nix/store", "/gnu/store")


def python() -> list[str]:
    """The command of Python that starts the inside: without site, user site and bytecode."""
    executable = sys._base_executable  # type: ignore[attr-defined]
    options = ["-s", "-S", "-P", "-B", "-X", "utf8", "-c", STUB, "{request}", "{reply}"]
    return [executable, *options]


def command(limits: Limits, readable: Iterable[str], rules: int, uid: int | None) -> list[str]:
    """The command of bubblewrap with its options, to which that of a program is added.

    readable  files and folders that the program may read where they stand
    rules     descriptor from which the filter of system calls is read
    uid       the user of `private_user`
    """
    size = str(limits.files)
    words = [
        _bwrap() or "",
        *("--die-with-parent", "--new-session", "--unshare-pid", "--unshare-net"),
        *("--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"),
        *("--cap-drop", "ALL", "--seccomp", str(rules)),
    ]
    if uid is None:
        words += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    else:  # the inside becomes that user, and has no capability from then on
        words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    words += ["--dev", "/dev", "--perms", "1777", "--size", size, "--tmpfs", "/dev/shm"]
    words += ["--perms", "1777", "--size", size, "--tmpfs", "/tmp", "--ro-bind", "/usr", "/usr"]
    for path in _SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    paths = outermost([*_ALSO, *readable])
    for folder in sorted({str(above) for path in paths for above in Path(path).parents} - {"/"}):
        words += ["--perms", "0755", "--dir", folder]  # else closed as root's own folders are
    for path in paths:
        words += ["--ro-bind-try", path, path]
    return [*words, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--"]


def private_user() -> int | None:
    """A number for the user that root becomes inside, which nobody else on this machine has: the
    limit of processes does not bind root. None for all others, who are in a namespace of their own.
    """
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map") as file:
        count = min(int(line.split()[2]) for line in file)
    if count < 1 << 16:
        return None
    highest = min(count, 1 << 31) - 1
    return highest - 1 - secrets.randbelow(highest // 16)


def outermost(paths: Iterable[str]) -> list[str]:
    """The existing ones of `paths`, without those that stand within another one or in /usr; never
    the root of all.
    """
    kept = ["/usr"]
    for path in sorted({os.path.abspath(path) for path in paths} - {"/"}):
        if os.path.exists(path) and not _within(path, kept):
            kept.append(path)
    return kept[1:]


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def packages() -> tuple[str, ...]:
    """The folders of installed packages, as far as this process imports from them."""
    known = {*site.getsitepackages(), site.getusersitepackages()}
    known |= {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return tuple(path for path in sys.path if path in known)


def installation() -> tuple[str, ...]:
    """What a program must read for Python and installed packages."""
    return (sys.base_prefix, sys.base_exec_prefix, *packages())


def modules_in_use(paths: Sequence[str]) -> tuple[str, ...]:
    """The files and folders of all modules that this process has imported from elsewhere than
    `paths`.
    """
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        if "." in name or name == "__main__":
            continue
        places = list(getattr(module, "__path__", ()))
        file = getattr(module, "__file__", None)
        if not places and isinstance(file, str):
            places = [file]
        found.update(os.path.abspath(place) for place in places if isinstance(place, str))
    return tuple(sorted(place for place in found if not _within(place, paths)))


def not_here() -> str | None:
    """What a sandbox lacks on this system, as far as that shows without starting one."""
    if not sys.platform.startswith("linux"):
        return f"the sandbox is made of parts of Linux, and this is {sys.platform}"
    if not seccomp.supported():
        return "the sandbox knows the system calls of x86_64 and aarch64 alone"
    if _bwrap() is None:
        return (
            "bubblewrap is not installed (there is no command bwrap): install the package "
            "bubblewrap of your system"
        )
    return None


def _bwrap() -> str | None:
    return shutil.which("bwrap")
