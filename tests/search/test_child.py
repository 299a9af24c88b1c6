"""Child processes that end with their parent, whatever they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from search import child

BUSY = """
import time
from pathlib import Path
Path("busy").write_text("x")
while True:  # as an import that takes long
    pass
"""


def gone(pid: int, seconds: float) -> bool:
    """Whether a process ends within so many seconds; one that nobody has waited for counts."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
        if done.stdout.strip() in ("", "Z"):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("kernel", [True, False], ids=["told by the kernel", "watching"])
def test_a_child_that_imports_ends_with_its_parent(tmp_path, kernel):
    (tmp_path / "busy_module.py").write_text(BUSY)
    hide = "" if kernel else "import search.child; search.child._ask_kernel = lambda: False"
    (tmp_path / "sitecustomize.py").write_text(hide)
    program = textwrap.dedent("""
        import subprocess
        from search.child import command
        print(subprocess.Popen(command("busy_module")).pid, flush=True)
        input()
    """)
    paths = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    while not (tmp_path / "busy").exists():
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert gone(pid, 60), "the child goes on without its parent"


def test_a_parent_that_was_gone_before_the_child_began():
    code = f"import os; from search.child import end_with; end_with({os.getpid()} + 1)"
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL


def test_arguments_and_exit_codes_are_those_of_the_module(tmp_path):
    (tmp_path / "told.py").write_text("import sys; print(sys.argv[1:], __name__); sys.exit(7)")
    paths = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        child.command("told", "a", "-b"), env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("['a', '-b'] __main__\n", 7), done.stderr
