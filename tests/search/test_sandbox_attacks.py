"""Verifiers that attack: each is contained, and said to be what it is."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attacks
import ordinary_user
import pytest
from sandbox_cases import SLEEP, Surroundings, appears, left_over, need_a_sandbox

import search
from search.sandbox import Limits
from search.sandbox.functions import SandboxedFunction
from search.scheduling.driver import run
from search.scheduling.requests import Call, RequestFailed
from search.scheduling.scheduler import ask
from search.scheduling.workers import Workers

SMALL = Limits(memory=256 << 20, files=8 << 20, processes=16)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Surroundings]:
    monkeypatch.setenv("COPSE_TEST_KEY", "open sesame")
    made = Surroundings(tmp_path)
    yield made
    made.close()


def verify(attack: Any, text: str, seconds: float = 60.0, sandbox: Any = SMALL) -> float | None:
    problem = search.TextProblem("?", verify=attack, sandbox=sandbox, seconds=seconds)
    return problem.verify((search.TextStep(text),))


#: the twelve of the review that found them: what comes of each, a reward or words of the error
TWELVE: dict[Any, float | str] = {
    attacks.environment: 0.0,
    attacks.passwords: 0.0,
    attacks.write_files: 0.0,
    attacks.sockets: 0.0,
    attacks.signal_parent: 0.0,
    attacks.outlive: 0.0,
    attacks.three_gigabytes: "needs more than the 268435456 bytes of memory",
    attacks.pickled_exception: "raised Bomb: ",
    attacks.write_into_pipes: "ended without an answer",
    attacks.spin: "took longer than 1 s",
    attacks.crash: "ended without an answer",
    attacks.nonsense: "give a number in",
}
MORE: dict[Any, float | str] = {
    attacks.fork_bomb: 0.0,
    attacks.print_for_ever: "printed more than",
    attacks.fill_files: 0.0,
    attacks.memory_that_no_limit_counts: 0.0,
    attacks.other_processes: 0.0,
    attacks.become_root: 0.0,
    attacks.rare_parts_of_the_kernel: 0.0,
    attacks.read_files: 0.0,
    attacks.kill_all: "ended without an answer",
    attacks.endless_reply: "sent what is no reply",
    attacks.deep_reply: "ended without an answer",
    attacks.rare_sockets: 0.0,
    attacks.deaf: "took longer than 1 s",
    attacks.terminal: 0.0,
}
HANGS = (attacks.spin, attacks.deaf)


@pytest.mark.thorough
@pytest.mark.parametrize("attack", [*TWELVE, *MORE], ids=lambda attack: attack.__name__)
def test_an_attack_is_contained(attack: Any, outside: Surroundings) -> None:
    need_a_sandbox()
    expected = (TWELVE | MORE)[attack]
    seconds = 1.0 if attack in HANGS else 60.0
    if isinstance(expected, float):
        assert verify(attack, outside.text(), seconds) == expected
    else:
        with pytest.raises((RequestFailed, ValueError), match=expected):
            verify(attack, outside.text(), seconds)
    assert outside.harm() == []


def test_there_are_twelve_and_more_than_ten() -> None:
    assert len(TWELVE) == 12 and len(MORE) >= 10


def test_a_call_finds_nothing_of_the_one_before() -> None:
    need_a_sandbox()
    assert [verify(attacks.leave_something, "?") for _ in range(2)] == [0.0, 0.0]
    assert not os.path.exists("/tmp/left")


def test_an_error_holds_nothing_that_a_terminal_would_obey() -> None:
    need_a_sandbox()
    with pytest.raises(RequestFailed, match="raised ValueError: .*owned") as caught:
        verify(attacks.escapes, "?")
    assert str(caught.value).isprintable()


@pytest.mark.thorough
def test_memory_counts_for_all_processes_together() -> None:
    need_a_sandbox()
    with pytest.raises(RequestFailed, match="needs more than the 1073741824 bytes of memory"):
        verify(attacks.many_processes_of_memory, "?", sandbox=True)


def test_all_ends_when_its_parent_is_killed() -> None:
    """By nothing that the parent does: it has no time for that."""
    need_a_sandbox()
    code = f"import subprocess\nsubprocess.run(['/bin/sleep', '{SLEEP}'])"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import search\nsearch.sandbox.run({code!r}, seconds=600)"]
    )
    try:
        assert appears()
    finally:
        parent.kill()
        parent.wait()
    assert not left_over()


def test_a_call_that_is_given_up_leaves_no_sandbox() -> None:
    need_a_sandbox()
    linger = SandboxedFunction(attacks.linger, "linger", 600.0, True)
    call = Call(linger, (SLEEP,), linger.longest)
    with Workers(1) as workers:
        workers.submit(call)
        assert appears()
        workers.cancel(call)
        assert not left_over()


USER = 12345  #: an ordinary one, whom nobody knows


@pytest.mark.thorough
def test_it_holds_for_an_ordinary_user() -> None:
    """Root has no user namespace, all others have; tests often run as root."""
    need_a_sandbox()
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0 or python is None or not _is_new(python):
        pytest.skip("needs root, and a Python of the system that others may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        source = Path(search.sandbox.__file__).parent
        shutil.copytree(source, Path(folder, "search", "sandbox"))
        Path(folder, "search", "__init__.py").touch()
        for path in (Path(attacks.__file__), Path(ordinary_user.__file__)):
            shutil.copy(path, folder)
        done = subprocess.run(
            [python, "ordinary_user.py"], cwd=folder, env={}, capture_output=True, text=True,
            user=USER, group=USER, extra_groups=(), timeout=250,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "all contained\n", "")


def _is_new(python: str) -> bool:
    words = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    return subprocess.run(words, check=False).returncode == 0


# -- the attacks are attacks: they succeed where nothing contains them


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("attack", "harm"),
    [
        (attacks.environment, ""),
        (attacks.passwords, ""),
        (attacks.sockets, "somebody has connected"),
        (attacks.signal_parent, "a process was ended"),
        (attacks.read_files, ""),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_an_attack_succeeds_in_a_plain_worker(
    attack: Any, harm: str, outside: Surroundings
) -> None:
    async def call() -> Any:
        return await ask(Call(attack, (outside.text(),), 60.0))

    with Workers(1) as workers:
        assert run(call(), {"workers": workers}) == 1.0
    until = time.monotonic() + 30
    while not (seen := any(harm in one for one in outside.harm() or [""])):
        assert time.monotonic() < until, "a signal takes its time, but not so long"
        time.sleep(0.01)
    assert seen


def test_a_pickled_exception_is_code(outside: Surroundings) -> None:
    try:
        attacks.pickled_exception(outside.text())
    except attacks.Bomb as bomb:
        pickle.loads(pickle.dumps(bomb))
    assert outside.harm() == ["files: ['bomb', 'secret']"]


def test_a_process_that_outlives_is_found(outside: Surroundings) -> None:
    one = subprocess.Popen(["/bin/sleep", SLEEP])
    try:
        assert appears() and left_over(0.0)
    finally:
        one.kill()
        one.wait()
    assert not left_over()
