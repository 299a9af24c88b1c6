"""Which system calls a program in the sandbox may make: a filter for the kernel, as bytes.

Namespaces hide what is outside; the filter keeps a program from the parts of the kernel that reach
past them, that are often how a way out is found, or that hold memory which no limit counts. It is a
program of classic BPF (`man 2 seccomp`), made here by hand, so that nothing need be compiled or
installed. What is not named below is allowed; a call that is newer than the list does not exist.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct
from typing import NamedTuple

#: refused with EPERM: the numbers on x86_64 and on aarch64, None where a system has no such call
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # the machine: kernels, modules, clocks, ports, swap
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "syslog": (103, 116),
    "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "clock_settime": (227, 112), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "vhangup": (153, 58),
    "personality": (135, 92), "uselib": (134, None), "mknod": (133, None), "mknodat": (259, 33),
    # namespaces and mounts
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "move_mount": (429, 429), "open_tree": (428, 428),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442),
    # other processes, and files by number
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # large and often broken parts of the kernel
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "fanotify_init": (300, 262), "lookup_dcookie": (212, 18), "vmsplice": (278, 75),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "mbind": (237, 235),
    "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    # the network: some kinds of socket (of virtual machines) know no namespaces
    "socket": (41, 198),
    # memory that no limit of a process counts
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
}  # fmt: skip

NEWEST = 450  #: the last call that was looked at (Linux 6.1), the same number on both


class _Machine(NamedTuple):
    architecture: int  # as the kernel names it
    column: int  # of `REFUSED`
    clone: int
    clone3: int
    socketpair: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, 0, 56, 435, 53),
    "aarch64": _Machine(0xC00000B7, 1, 220, 435, 199),
}
_NAMESPACES = 0x7E020000  # every CLONE_NEW... flag that `clone` knows
_UNIX = 1  # AF_UNIX

# classic BPF: load a word of the call's data; compare with a constant; return
_LOAD = 0x20
_EQUAL = 0x15
_GREATER = 0x25
_ANY_BIT = 0x45
_RETURN = 0x06

# offsets in `struct seccomp_data`
_NUMBER = 0
_ARCHITECTURE = 4
_FIRST_ARGUMENT = 16

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERROR = 0x00050000


def supported(machine: str | None = None) -> bool:
    """Whether there is a filter for a machine; None: for this one."""
    return (machine or platform.machine()) in _MACHINES


@functools.cache
def compiled(machine: str | None = None) -> bytes:
    """The filter for a machine (None: for this one), as an array of `struct sock_filter`. Raises
    KeyError where `supported` is False.
    """
    one = _MACHINES[machine or platform.machine()]
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, one.architecture),  # another architecture's calls have other numbers
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_answer(_GREATER, NEWEST, errno.ENOSYS),
        # its flags stand in memory, which a filter cannot read; libraries fall back on clone
        *_answer(_EQUAL, one.clone3, errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        number = numbers[one.column]
        if number is not None:
            program += _answer(_EQUAL, number, errno.EPERM)
    program += [
        (_EQUAL, 0, 3, one.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *_answer(_ANY_BIT, _NAMESPACES, errno.EPERM),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, one.socketpair),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, _UNIX),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _answer(comparison: int, constant: int, error: int) -> list[tuple[int, int, int, int]]:
    return [(comparison, 0, 1, constant), (_RETURN, 0, 0, _ERROR | error)]
