"""Inside: a program and what judges it, in two processes.

The judge runs the tests. A name that they take from the program is a `Remote`: calling it runs the
program's function in the program's process, which has neither the tests nor the way to reply. So a
program that ends early, prints what it likes or changes its own Python changes its results alone.
"""

from __future__ import annotations

import builtins
import os
import sys
import time
import types

from .link import PROGRAM, Gone, Link, Remote
from .messages import TYPE_CHECKING, read_order

if TYPE_CHECKING:
    from typing import Any, NoReturn

_PATIENCE = 1.0  # seconds that a program has to print the rest, once it was judged
_LONGEST = 1000  # characters of a reason


def verdict(order: dict[str, Any], request: int, reply: int) -> dict[str, str]:
    """The reply: "ended", one of the words of `search.sandbox.Outcome`, and "reason"."""
    their_read, our_write = os.pipe()
    our_read, their_write = os.pipe()
    pid = os.fork()
    if pid == 0:  # before the tests are read
        for descriptor in (request, reply, our_read, our_write):
            os.close(descriptor)
        _be_the_program(order, Link(their_read, their_write, trusts=True))
    os.close(their_read)
    os.close(their_write)
    link = Link(our_read, our_write, trusts=False)
    tests = read_order(request)["tests"]
    if tests is None:
        return _of_itself(link, pid)
    try:
        if link.receive().get("memory"):
            return {"ended": "memory", "reason": ""}
    except Gone:
        return _of_a_dead_program(pid, " before a test began")
    found = _judge(tests, link, pid)
    link.close()
    _wait(pid, _PATIENCE)
    return found


# -- the process of the program


def _be_the_program(order: dict[str, Any], link: Link) -> NoReturn:
    name = PROGRAM if order["tested"] else "__main__"
    module = types.ModuleType(name)
    module.__file__ = f"{PROGRAM}.py"
    sys.modules[name] = module
    sys.argv = [module.__file__]
    with open(module.__file__, "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(order["code"])  # for tracebacks, and `inspect`
    try:
        exec(compile(order["code"], module.__file__, "exec", dont_inherit=True), module.__dict__)
    except MemoryError:
        link.send({"memory": True})
        raise SystemExit(1) from None
    except Exception as error:
        import traceback

        traceback.print_exception(error.with_traceback(_own(error.__traceback__)))
        raise SystemExit(1) from None
    if not order["tested"]:
        raise SystemExit(0)
    link.lend_program(module)
    link.send({"defined": True})
    link.serve()
    raise SystemExit(0)


def _own(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """A traceback from the program's own code on."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith("inside/"):
        traceback = traceback.tb_next
    return traceback


# -- the process of the judge


class _Names(dict):  # type: ignore[type-arg]
    """The names of the tests: their own, Python's, then the program's."""

    def __init__(self, link: Link):
        super().__init__(__name__="tests")
        self._program = link.program()
        self[PROGRAM] = sys.modules[PROGRAM] = self._program  # type: ignore[assignment]

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        try:
            found = getattr(self._program, name)
        except AttributeError:
            raise KeyError(name) from None
        if isinstance(found, Remote) and name in sys.stdlib_module_names:
            found = __import__(name)  # the program's own would learn what is expected
        if callable(found) or isinstance(found, types.ModuleType):
            self[name] = found
        return found


def _judge(tests: str, link: Link, pid: int) -> dict[str, str]:
    """Run the tests."""
    lines = tests.splitlines()
    try:
        exec(compile(tests, "tests", "exec", dont_inherit=True), _Names(link))
    except Gone as gone:
        if gone.ended:
            return _of_a_dead_program(pid, " during the tests")
        return _failed(f"the program's process is no partner: {gone}")
    except MemoryError:
        return {"ended": "memory", "reason": ""}
    except BaseException as error:  # SystemExit, too: no test passes by leaving
        line = _line(error.__traceback__)
        where = ""
        if 0 < line <= len(lines):
            where = f" in line {line} of the tests: {lines[line - 1].strip()}"
        return _failed(f"{type(error).__name__}{f': {error}' if str(error) else ''}{where}")
    if not link.asked:  # such as functions that nobody calls: they would hold for every program
        return _failed("the tests asked nothing of the program: let them call what it defines")
    return {"ended": "passed", "reason": ""}


def _line(traceback: types.TracebackType | None) -> int:
    """The number of the line of the tests where an exception was met last; 0: there is none."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "tests":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _failed(reason: str) -> dict[str, str]:
    return {"ended": "failed", "reason": reason[:_LONGEST]}


def _of_itself(link: Link, pid: int) -> dict[str, str]:
    """Of a program without tests: it passes by its exit code."""
    status = _wait(pid)
    if link.waiting():  # it says one thing alone
        return {"ended": "memory", "reason": ""}
    if status == 0:
        return {"ended": "passed", "reason": ""}
    return _error(status, "")


def _of_a_dead_program(pid: int, when: str) -> dict[str, str]:
    return _error(_wait(pid, _PATIENCE), when)


def _error(status: int, when: str) -> dict[str, str]:
    code = os.waitstatus_to_exitcode(status)
    how = f"exit code {code}" if code >= 0 else f"signal {_signal(-code)}"
    return {"ended": "error", "reason": f"the program ended with {how}{when}"}


def _signal(number: int) -> str:
    import signal

    return signal.Signals(number).name


def _wait(pid: int, seconds: float | None = None) -> int:
    """The status of a child that has ended, or is killed after `seconds`."""
    if seconds is not None:
        deadline = time.monotonic() + seconds
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                os.kill(pid, 9)
                break
            time.sleep(0.0005)
    return os.waitpid(pid, 0)[1]
