"""Worker processes answer every call once, whatever its function does, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import worker_jobs as jobs

from search.problem import IllegalStep
from search.scheduling.driver import run
from search.scheduling.requests import (
    Call,
    Cancelled,
    Generate,
    Reply,
    RequestFailed,
    check_backend,
)
from search.scheduling.scheduler import ask, parallel
from search.scheduling.workers import Workers


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as made:
        yield made


def answer(workers: Workers, *calls: Call, seconds: float = 60) -> list[Reply]:
    """Replies to `calls`, in their order; each must come once."""
    for call in calls:
        workers.submit(call)
    return wait(workers, *calls, seconds=seconds)


def wait(workers: Workers, *calls: Call, seconds: float = 60) -> list[Reply]:
    replies: dict[Any, Reply] = {}
    deadline = time.monotonic() + seconds
    while len(replies) < len(calls):
        assert time.monotonic() < deadline, "a call was never answered"
        for reply in workers.poll(0.1):
            assert reply.request not in replies
            replies[reply.request] = reply
    assert workers.poll(0) == []
    return [replies[call] for call in calls]


def gone(pid: int, seconds: float = 10) -> bool:
    """True once the process has ended (a zombie has)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.thorough
def test_passes_the_examiner(workers: Workers) -> None:
    check_backend(workers, lambda i: Call(jobs.square, (i,)))


@pytest.mark.thorough
def test_many_calls(workers: Workers) -> None:
    replies = answer(workers, *(Call(jobs.square, (i,)) for i in range(300)))
    assert [reply.result for reply in replies] == [i * i for i in range(300)]


@pytest.mark.thorough
def test_a_method_crosses_with_its_object(workers: Workers) -> None:
    board = jobs.Board(3)
    good, bad = answer(workers, Call(board.apply, ((0,), 2)), Call(board.apply, ((0,), 3)))
    assert good.result == (0, 2)
    assert type(bad.error) is IllegalStep and str(bad.error) == "3 is off the board"


@pytest.mark.thorough
def test_one_run_drives_them(workers: Workers) -> None:
    async def searching() -> Any:
        results = await parallel(ask(Call(jobs.square, (i,))) for i in range(20))
        try:
            await ask(Call(jobs.illegal))
        except IllegalStep as error:
            return results, error

    results, error = run(searching(), {"workers": workers})
    assert results == [i * i for i in range(20)]
    assert any("illegal" in note for note in error.__notes__), "the worker's traceback comes along"


@pytest.mark.thorough
@pytest.mark.parametrize("function", [jobs.sleep, jobs.spin])
def test_a_call_beyond_its_seconds_is_ended(workers: Workers, function: Any) -> None:
    args = (600,) if function is jobs.sleep else ()
    answer(workers, Call(jobs.pid))
    start = time.monotonic()
    (reply,) = answer(workers, Call(function, args, seconds=0.3))
    assert type(reply.error) is RequestFailed and "longer than 0.3 s" in str(reply.error)
    assert time.monotonic() - start < 20
    assert answer(workers, Call(jobs.square, (3,)))[0].result == 9


def test_starting_does_not_count_as_the_calls_own_time(workers: Workers) -> None:
    assert answer(workers, Call(jobs.square, (3,), seconds=0.2))[0].result == 9


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call(jobs.die), "SIGKILL"),
        (Call(jobs.die, (signal.SIGSEGV,)), "SIGSEGV"),
        (Call(jobs.leave, (3,)), "exit code 3"),
        (Call(jobs.stop), "SystemExit: enough"),
        (Call(jobs.odd), "raised Odd: odd"),
        (Call(jobs.unsendable), "cannot be sent back"),
    ],
)
def test_failures_are_answers(workers: Workers, call: Call, message: str) -> None:
    (reply,) = answer(workers, call)
    assert type(reply.error) is RequestFailed and message in str(reply.error)
    assert [r.result for r in answer(workers, *(Call(jobs.square, (i,)) for i in range(4)))] == [
        0,
        1,
        4,
        9,
    ]


@pytest.mark.thorough
def test_a_worker_killed_while_idle_is_replaced() -> None:
    with Workers(1) as workers:
        first = answer(workers, Call(jobs.pid))[0].result
        os.kill(first, signal.SIGKILL)
        assert gone(first)
        second = answer(workers, Call(jobs.pid))[0].result
        assert second != first


@pytest.mark.thorough
def test_a_killed_worker_fails_only_its_own_call() -> None:
    with Workers(2) as workers:
        pids = {reply.result for reply in answer(workers, *(Call(jobs.pid) for _ in range(50)))}
        calls = [Call(jobs.sleep, (1.0,)) for _ in range(2)]
        for call in calls:
            workers.submit(call)
        time.sleep(0.4)
        os.kill(next(iter(pids)), signal.SIGKILL)
        errors = [reply.error for reply in wait(workers, *calls)]
        assert sum(error is not None for error in errors) <= 1
        assert all(error is None or isinstance(error, RequestFailed) for error in errors)


@pytest.mark.thorough
def test_huge_arguments_and_results(workers: Workers) -> None:
    size = 30_000_000
    (reply,) = answer(workers, Call(jobs.huge, (size,)))
    assert len(reply.result) == size
    assert answer(workers, Call(len, (reply.result,)))[0].result == size


@pytest.mark.thorough
def test_output_and_input_leave_the_pipes_alone(
    workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [
        reply.result for reply in answer(workers, Call(jobs.loud), Call(jobs.ask), Call(jobs.loud))
    ] == [7, "", 7]
    captured = capfd.readouterr()
    assert captured.out == "" and "from a child" in captured.err


def test_memory_has_a_limit() -> None:
    with Workers(1, memory=4 << 30) as workers:
        fits, too_much = answer(
            workers, Call(jobs.allocate, (1 << 20,)), Call(jobs.allocate, (16 << 30,))
        )
        assert fits.result == 1 << 20
        assert type(too_much.error) is RequestFailed and "memory" in str(too_much.error)
        assert answer(workers, Call(jobs.square, (2,)))[0].result == 4


@pytest.mark.thorough
def test_cancelling_what_runs_waits_or_is_done() -> None:
    with Workers(1) as workers:
        answer(workers, Call(jobs.pid))
        running, queued = Call(jobs.spin, seconds=600), Call(jobs.square, (2,))
        workers.submit(running)
        workers.submit(queued)
        time.sleep(0.2)
        for call in (queued, running, running, queued):
            workers.cancel(call)
        assert [type(reply.error) for reply in wait(workers, running, queued)] == [
            Cancelled,
            Cancelled,
        ]
        workers.cancel(running)
        assert answer(workers, Call(jobs.square, (5,)))[0].result == 25


def test_cancelling_at_any_moment_gives_one_answer(workers: Workers) -> None:
    for i in range(40):
        call = Call(jobs.square, (i,))
        workers.submit(call)
        time.sleep(i * 0.0002)
        workers.cancel(call)
        (reply,) = wait(workers, call)
        assert reply.result == i * i if reply.error is None else type(reply.error) is Cancelled


def test_what_cannot_be_pickled_runs_here_with_one_warning(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    here = []

    def local(x: int) -> int:
        here.append(os.getpid())
        if x < 0:
            raise IllegalStep("negative")
        return x + 1

    with caplog.at_level(logging.WARNING):
        first, second, third = answer(
            workers, Call(local, (1,)), Call(lambda: 5), Call(local, (-1,))
        )
    assert (first.result, second.result, here) == (2, 5, [os.getpid()] * 2)
    assert type(third.error) is IllegalStep
    assert len(caplog.records) == 1 and "module that can be imported" in caplog.text
    waiting = Call(local, (1,))
    workers.submit(waiting)
    workers.cancel(waiting)
    assert type(wait(workers, waiting)[0].error) is Cancelled and len(here) == 2


def test_what_the_worker_cannot_import_runs_here(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    module = type(sys)("only_here")
    exec("def double(x):\n    return 2 * x", module.__dict__)
    sys.modules["only_here"] = module
    try:
        with caplog.at_level(logging.WARNING):
            assert answer(workers, Call(module.double, (4,)))[0].result == 8
        assert "only_here" in caplog.text
    finally:
        del sys.modules["only_here"]


def test_a_script_without_a_main_guard(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("import os\n\ndef where():\n    return os.getpid()\n")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os
            import rules
            from search.scheduling.driver import run
            from search.scheduling.scheduler import ask
            from search.scheduling.requests import Call
            from search.scheduling.workers import Workers

            def own(x):
                return os.getpid()

            class Own:
                pass

            with Workers(1) as workers:
                backends = {"workers": workers}
                assert run(ask(Call(rules.where)), backends) != os.getpid()
                assert run(ask(Call(own, (1,))), backends) == os.getpid()
                assert run(ask(Call(isinstance, (Own(), Own))), backends)
            os.write(1, b"done")
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout == "done", done.stderr


@pytest.mark.thorough
def test_eight_threads_each_with_their_own() -> None:
    results: dict[int, list[int]] = {}

    def use(thread: int) -> None:
        async def searching() -> Any:
            return await parallel(ask(Call(jobs.square, (thread + i,))) for i in range(10))

        with Workers(1) as workers:
            results[thread] = run(searching(), {"workers": workers})

    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == {t: [(t + i) ** 2 for i in range(10)] for t in range(8)}


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("end", ["close", "cancel", "seconds"])
def test_no_process_outlives_its_call_or_the_workers(tmp_path: Path, end: str) -> None:
    note = tmp_path / "pids"
    workers = Workers(1)
    idle = answer(workers, Call(jobs.pid))[0].result
    call = Call(jobs.with_child, (str(note),), seconds=2 if end == "seconds" else 600)
    workers.submit(call)
    while not (note.exists() and note.read_text()):
        time.sleep(0.02)
    if end == "cancel":
        workers.cancel(call)
    if end != "close":
        wait(workers, call)
    else:
        workers.close()
    assert all(gone(int(pid)) for pid in note.read_text().split())
    workers.close()
    workers.close()
    assert gone(idle)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent.parent / "helpers")!r})
import worker_jobs
from search.scheduling.requests import Call
from search.scheduling.workers import Workers
workers = Workers(1)
workers.submit(Call(worker_jobs.with_child, ({str(note)!r},), 600))
workers.poll(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (note.exists() and note.read_text()):
        time.sleep(0.02)
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    assert gone(int(note.read_text().split()[0]))


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["sample", "beam", "mcts"])
def test_a_search_outlives_a_verifier_that_crashes(method: str) -> None:
    from fakes import generated, scripted_guide

    import search

    problem = search.TextProblem("Say seven.", verify=jobs.verdict, inline=False)
    guide = scripted_guide(
        lambda request: generated(
            rf"\boxed{{{request.seed % 10}}}", "end", limit=request.max_tokens
        ),
        value=False,
    )
    # all chains of a beam end with their first step here
    options = {"width": 40} if method == "beam" else {}
    solution = search.solve(problem, guide, method=method, budget="tokens=2000", **options)
    assert (solution.answer, solution.verified, solution.stopped) == ("7", True, "verified")
    assert {answer for answer, *_ in solution.candidates} <= {"1", "3", "5", "7", "9"}


def test_bad_use_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Workers(0)
    with pytest.raises(ValueError, match="memory"):
        Workers(memory=0)
    workers = Workers(1)
    with pytest.raises(TypeError, match="Generate"):
        workers.submit(Generate((1,)))
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(Call(jobs.pid))
