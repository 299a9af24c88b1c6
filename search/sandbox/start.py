"""Starts the inside: in bubblewrap, or without it where somebody asked for that by name."""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Any

from search.sandbox import bundle, seccomp
from search.sandbox.bubblewrap import (
    ENVIRONMENT,
    command,
    installation,
    not_here,
    private_user,
    python,
)
from search.sandbox.limits import Limits
from search.sandbox.process import Command, Ended, perform

#: True: in bubblewrap, with the limits of `Limits()`; or with other limits; "none": without
#: bubblewrap, and so without protection
Wish = bool | str | Limits

_REMEDY = (
    'Install it or run elsewhere; sandbox="none" runs without protection, which is for code that '
    "you trust"
)
_HINTS = {  # what bubblewrap says where it cannot, and what that means
    "namespace": "this system lets nobody like you make namespaces (in a container: it needs "
    "CAP_SYS_ADMIN or permission for user namespaces)",
    "uid map": "this system restricts user namespaces (by AppArmor, for example)",
    "Unknown option": "this version of bubblewrap is too old: 0.8 is enough",
}


class SandboxMissing(RuntimeError):
    """There can be no sandbox here; the sentence says what is missing."""


def limits_of(sandbox: Wish) -> Limits:
    """The limits of a sandbox that was asked for. Raises ValueError for what asks for none."""
    if isinstance(sandbox, Limits):
        return sandbox
    if sandbox is True or sandbox == "none":
        return Limits()
    raise ValueError(
        f'sandbox={sandbox!r} is none: give True, search.sandbox.Limits(...), or "none" to run '
        "without protection"
    )


def check_seconds(seconds: float) -> None:
    """Raises ValueError for what is no limit of time."""
    if isinstance(seconds, bool) or not 0 < seconds <= 1e6:
        raise ValueError(
            f"seconds={seconds!r} is no limit: give the seconds that a program may take, above 0 "
            "and at most a million"
        )


def missing() -> str | None:
    """What a sandbox lacks here, as a sentence; None where one can be had, which was tried."""
    global _tried
    with _lock:
        if not _tried:
            told = not_here() or _trial()
            if told is not None:
                return told
            _tried = True
    return None


_lock = threading.Lock()
_tried = False  # whether a sandbox was started once


def require(sandbox: Wish) -> None:
    """Raises SandboxMissing where this sandbox cannot be had, ValueError where it is none."""
    limits_of(sandbox)
    told = None if sandbox == "none" else missing()
    if told is not None:
        raise SandboxMissing(f"{told}. {_REMEDY}")


def inside(
    order: dict[str, Any],
    *,
    sandbox: Wish,
    seconds: float,
    more: dict[str, Any] | None = None,
    stdin: bytes = b"",
    readable: tuple[str, ...] = (),
) -> Ended:
    """Have the inside perform an order, and read what comes back.

    more      a second message, which the inside reads when it has started what it started
    readable  files and folders that it may read, beside Python, its packages and those of
              `Limits.readable`
    Raises SandboxMissing where nothing could be started.
    """
    limits = limits_of(sandbox)
    bare = sandbox == "none"
    if not bare and (told := not_here()):
        raise SandboxMissing(f"{told}. {_REMEDY}")
    uid = None if bare else private_user()
    order = {
        **order,
        "isolated": not bare,
        "uid": uid,
        "memory": limits.memory,
        "files": limits.files,
        "processes": None if bare else limits.processes,
        "cpu": int(seconds) + 2,
    }
    sent = bundle.code(order["kind"]) + bundle.message(order)
    if more is not None:
        sent += bundle.message(more)
    if bare:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**ENVIRONMENT, "HOME": folder, "TMPDIR": folder}
            plain = Command(python(), environment, folder)
            ended = perform(plain, sent, stdin, seconds, limits)
    else:
        rules = _rules()
        try:
            readable = (*installation(), *readable, *limits.readable)
            words = command(limits, readable, rules, uid) + python()
            wrapped = Command(words, ENVIRONMENT, inherited=(rules,))
            ended = perform(wrapped, sent, stdin, seconds, limits)
        finally:
            os.close(rules)
    if not ended.begun:
        raise SandboxMissing(f"{_unstarted(ended)}. {_REMEDY}")
    return ended


def _rules() -> int:
    """A descriptor from which the filter of system calls is read, once."""
    read, write = os.pipe()
    with open(write, "wb") as pipe:
        pipe.write(seccomp.compiled())
    return read


def _trial() -> str | None:
    try:
        ended = inside({"kind": "program", "code": "", "tested": False, "path": ()},
                       more={"tests": None}, sandbox=True, seconds=60.0)  # fmt: skip
    except SandboxMissing as error:
        return str(error).removesuffix(f". {_REMEDY}")
    return None if ended.code == 0 else _unstarted(ended)


def _unstarted(ended: Ended) -> str:
    said = ended.stderr.decode(errors="replace").strip() or f"exit code {ended.code}"
    last = said.splitlines()[-1]
    hints = [hint for words, hint in _HINTS.items() if words in said]
    return "the sandbox does not start: " + (f"{hints[0]}; " if hints else "") + last
