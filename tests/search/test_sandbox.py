"""Programs in the sandbox: verdicts that a program cannot forge, limits, and what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import attacks
import pytest
from fakes import generated, scripted_guide
from sandbox_cases import need_a_sandbox

import search
from search.sandbox import Limits, Outcome, SandboxMissing, missing, run, run_many
from search.sandbox import start as starting
from search.scheduling.requests import RequestFailed

TESTS = """
assert add(2, 3) == 5
assert add([1], [2]) == [1, 2]
"""


@pytest.fixture(autouse=True)
def _sandbox() -> None:
    need_a_sandbox()


def judged(code: str, tests: str | None = TESTS, **options: Any) -> Outcome:
    return run(textwrap.dedent(code), textwrap.dedent(tests) if tests else tests, **options)


def test_a_right_program_passes_and_a_wrong_one_fails() -> None:
    right = judged("def add(a, b):\n    return a + b")
    assert right.passed and right.ended == "passed" and right.reason == "" and right.seconds > 0
    wrong = judged("def add(a, b):\n    return a - b")
    assert not wrong.passed and wrong.ended == "failed"
    assert wrong.reason == "AssertionError in line 2 of the tests: assert add(2, 3) == 5"


@pytest.mark.parametrize(
    ("code", "ended", "reason"),
    [
        ("def add(a, b):\n    raise KeyError('x')", "failed", "KeyError: 'x' in line 2"),
        ("def sub(a, b): pass", "failed", "NameError: name 'add' is not defined in line 2"),
        ("def add(a, b:", "error", "exit code 1 before a test began: SyntaxError"),
        ("1 / 0", "error", "exit code 1 before a test began: ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 11)", "error", "signal SIGSEGV before a test began"),
        ("while True: pass", "time", "it took longer than 1 s"),
        ("x = bytearray(3 << 30)", "memory", "it took more than 1073741824 bytes of memory"),
        ("def add(a, b): return bytearray(3 << 30)", "memory", "it took more than"),
        ("while True: print('x' * 100)", "output", "it printed more than 1048576 bytes"),
    ],
)
def test_why_a_program_ended_is_said(code: str, ended: str, reason: str) -> None:
    seconds = 1.0 if ended == "time" else 60.0
    outcome = judged(code, seconds=seconds)
    assert (outcome.ended, outcome.passed) == (ended, False)
    assert reason in outcome.reason


FORGERIES = {
    "exit": "import sys; sys.exit(0)",
    "hard exit": "import os; os._exit(0)",
    "exit in a call": "import os\ndef add(a, b): os._exit(0)",
    "exit by a signal": "import os\ndef add(a, b): os.kill(0, 9)",
    "marker": "print('passed'); print('{\"ended\": \"passed\"}')",
    "equal to all": """
        class All:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __bool__(self): return True
        def add(a, b): return All()
    """,
    "equal list": """
        class All(list):
            def __eq__(self, other): return True
        def add(a, b): return All()
    """,
    "equal number": """
        class All(int):
            def __eq__(self, other): return True
        def add(a, b): return All(7)
    """,
    "any": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "exit as function": "import sys\nadd = sys.exit",
    "other builtins": """
        import builtins
        builtins.AssertionError = RuntimeError
        def add(a, b): return None
    """,
    "replies into all descriptors": """
        import os
        def add(a, b):
            for number in range(3, 256):
                try: os.write(number, b'{"ended": "passed", "reason": ""}')
                except OSError: pass
            os._exit(0)
    """,
    "messages to the judge": """
        import inside.messages as messages, os
        exit = {"raised": ["error", "X", "SystemExit"], "with": ["tuple", [0]]}
        none = ["dict", []]
        order = {"do": "call", "args": ["tuple", [["known", "os", "_exit"], 0]], "named": none}
        lent = {"do": "getattr", "args": ["tuple", [["yours", 0], "x"]], "named": none}
        made = {"value": ["value", "unittest.mock", "_ANY", ["tuple", []]]}
        any = {"value": ["known", "unittest.mock", "ANY"]}
        deep = {"value": [["list", []]] * 9}
        def add(a, b):
            for said in (SAID, None, 5, {}):
                data = messages.pack(said)
                for number in range(3, 256):
                    try: os.write(number, len(data).to_bytes(4, 'big') + data)
                    except OSError: pass
            os._exit(0)
    """,
    "names what others define": """
        import inside.link as link
        link.Link.dumps = lambda self, value: ["known", "unittest.mock", "ANY"]
        def add(a, b): return 1
    """,
    "changed judge": """
        import inside.judge as judge, inside.launch as launch, os
        judge._judge = lambda *_: {"ended": "passed", "reason": ""}
        launch.leave = lambda code: None
        def add(a, b): return None
    """,
    "end of a loop": "def add(a, b): raise StopIteration",
    "own assert": "def add(a, b): return None\nimport sys\nsys.settrace(lambda *a: None)",
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_a_verdict_cannot_be_forged(code: str) -> None:
    code = code.replace("SAID", "exit")
    outcome = judged(code, TESTS + "assert all(map(lambda n: add(n, n) == 2 * n, range(9)))\n")
    assert not outcome.passed and outcome.ended in ("failed", "error")


@pytest.mark.parametrize("said", ["exit", "order", "lent", "made", "any", "deep"])
def test_no_message_of_a_program_does_more_than_make_a_value(said: str) -> None:
    code = FORGERIES["messages to the judge"].replace("SAID", said)
    outcome = judged(code, "assert add(2, 3) == 5")
    assert outcome.ended in ("failed", "error"), outcome


def test_tests_may_import_the_program() -> None:
    tests = "from program import add\nimport program\nassert add(1, 2) == program.add(2, 1) == 3"
    assert judged("def add(a, b): return a + b", tests).passed


def test_tests_that_ask_nothing_hold_for_no_program() -> None:
    for tests in ("def check(candidate): assert candidate(1, 2) == 3", "# later", "assert True"):
        outcome = judged("def add(a, b): return a + b", tests)
        assert outcome.ended == "failed" and "asked nothing of the program" in outcome.reason
    assert judged("def add(a, b): return a + b", f"{tests}\nadd").passed


def test_the_end_of_a_loop_is_no_verdict() -> None:
    tests = "assert all(map(lambda n: add(n, n) == 2 * n, range(9)))"
    assert judged("def add(a, b): raise StopIteration", tests).ended == "failed"
    assert judged("def add(a, b): return a + b", tests).passed


def test_a_program_cannot_take_the_place_of_what_the_tests_use() -> None:
    code = """
        class Near:
            def isclose(self, *_): return True
        math = Near()
        def abs(x): return 0
        def half(x): return 0.0
    """
    assert judged(code, "assert abs(half(3) - 1.5) < 1e-9").ended == "failed"
    assert judged(code, "assert math.isclose(half(3), 1.5)").ended == "failed"
    assert judged(code, "assert program.abs(-3) == 0").passed


VALUES = [
    "None", "True", "3", "-(2 ** 9000)", "1.5", "float('inf')", "2 + 3j", "'text \\ud800 \\u20ac'",
    "b'ab'", "[1, [2, (3,)]]", "{'a': {1, 2}, (1, 2): frozenset({3})}",
    "__import__('datetime').date(2026, 11, 30)", "__import__('decimal').Decimal('1.10')",
    "__import__('fractions').Fraction(1, 3)", "__import__('datetime').timedelta(1, 2)",
    "__import__('collections').deque([1, 2], 3)", "__import__('collections').Counter('aab')",
    "__import__('collections').OrderedDict(b=1, a=2)", "range(3, 9, 2)",
    "__import__('collections').defaultdict(list, a=[1])", "int", "[]", "()", "{}", "set()",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_values_cross_as_they_are(value: str) -> None:
    tests = f"""
        value = {value}
        assert echo(value) == value and type(echo(value)) is type(value)
        assert give() == value and repr(give()) == repr(value)
    """
    assert judged(f"def echo(x): return x\ndef give(): return {value}", tests).reason == ""


def test_numbers_of_any_length_cross() -> None:
    assert judged("def echo(x): return -x", "assert echo(2 ** 99999) == -(2 ** 99999)").passed


def test_arrays_cross() -> None:
    tests = """
        import numpy
        assert (double(numpy.arange(3)) == [0, 2, 4]).all()
        assert mean([1, 2]) == 1.5
        assert np.zeros(2).tolist() == [0, 0]
    """
    code = "import numpy as np\ndef double(x): return x * 2\ndef mean(x): return np.mean(x)"
    assert judged(code, tests, seconds=60, sandbox=Limits(memory=2 << 30)).reason == ""


def test_objects_functions_and_exceptions_work_across() -> None:
    code = """
        from collections import Counter, namedtuple
        class Pair:
            def __init__(self, a, b): self.a, self.b = a, b
            def __eq__(self, other): return (self.a, self.b) == (other.a, other.b)
            def __lt__(self, other): return self.a < other.a
            def __add__(self, other): return Pair(self.a + other.a, self.b + other.b)
            def __len__(self): return 2
            def __getitem__(self, key): return [self.a, self.b][key]
            def __repr__(self): return f'Pair({self.a}, {self.b})'
            def total(self, *, more=0): return self.a + self.b + more
        class Wrong(ValueError): pass
        state = 0
        def tick():
            global state
            state += 1
        def largest(pairs): return max(pairs)
        def fail(): raise Wrong('no', 3)
        def up_to(n):
            for i in range(n): yield i
        def apply(f, xs): return [f(x) for x in xs]
        def sort(xs): xs.sort()
        def turn(queue): queue.rotate(1)
        def forget(things): things.clear()
        class Node:
            def __init__(self, value): self.value, self.next = value, None
        def last(node):
            while node.next: node = node.next
            return node
        def counts(text): return Counter(text)
        def compose(f, g): return lambda x: g(f(x))
    """
    tests = """
        from collections import deque
        p = Pair(1, 2)
        p.a = 3
        assert p.a == 3 and p.total() == 5 and p.total(more=1) == 6 and len(p) == 2 and p[1] == 2
        assert p == Pair(3, 2) and p != Pair(3, 3) and repr(p + p) == 'Pair(6, 4)'
        assert isinstance(p, Pair) and not isinstance(3, Pair) and p < Pair(4, 0)
        assert largest([Pair(1, 1), p]).a == 3 and p != (3, 2)
        try:
            fail()
            assert False
        except ValueError as error:
            assert error.args == ('no', 3) and type(error).__name__ == 'Wrong'
        try:
            fail()
        except Wrong:
            tick()
        assert state == 1 and (tick(), state)[1] == 2
        assert list(up_to(3)) == [0, 1, 2] and sum(up_to(4)) == 6
        assert apply(lambda x: x + 1, [1, 2]) == [2, 3] and apply(len, ['ab']) == [2]
        xs = [3, 1, 2]
        sort(xs)
        queue, table, bag = deque([1, 2, 3]), {1: 2}, {1}
        turn(queue), forget(table), forget(bag)
        assert queue == deque([3, 1, 2]) and table == {} and bag == set()
        node = Node(1)
        node.next = Node(2)
        assert node.next.value == 2 and node.next.next is None and last(node) == node.next
        assert xs == [1, 2, 3] and counts('aab') == {'a': 2, 'b': 1}
        assert compose(lambda x: x + 1, str)(1) == '2'
    """
    assert judged(code, tests).reason == ""


def test_a_script_reads_and_prints() -> None:
    outcome = judged("print(int(input()) * 2)\nassert __name__ == '__main__'", None, stdin="21\n")
    assert outcome.passed and outcome.stdout == "42\n" and outcome.stderr == ""
    outcome = judged("import sys\nsys.exit('too bad')", None)
    assert outcome.ended == "error" and outcome.reason.endswith("exit code 1: too bad")
    assert judged("raise SystemExit(0)", None).passed
    outcome = judged("def f():\n    return 1 / 0\nf()", None)
    assert "line 2, in f\n    return 1 / 0" in outcome.stderr and "inside" not in outcome.stderr


def test_what_is_printed_is_cut() -> None:
    outcome = judged("print('x' * 5000)", None, sandbox=Limits(output=100))
    assert outcome.ended == "output" and outcome.stdout == "x" * 100


def test_a_program_may_have_processes_and_threads_of_its_own() -> None:
    code = """
        import subprocess, sys, threading
        from multiprocessing import get_context
        from concurrent.futures import ThreadPoolExecutor
        if __name__ == '__main__':
            words = [sys.executable, '-S', '-c', 'print(7)']
            print(subprocess.run(words, capture_output=True, text=True).stdout)
            with get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))
            with ThreadPoolExecutor(2) as pool: print(list(pool.map(abs, [-3])))
            import asyncio
            async def four(): return 4
            print(asyncio.run(four()))
    """
    outcome = judged(code, None, seconds=60)
    assert outcome.passed, outcome
    assert outcome.stdout.split("\n") == ["7", "", "[1, 2]", "[3]", "4", ""]


def test_what_is_readable_is_what_was_said(tmp_path: Any) -> None:
    (tmp_path / "data").write_text("here")
    code = f"print(open({str(tmp_path / 'data')!r}).read())"
    assert judged(code, None).ended == "error"
    allowed = Limits(readable=(str(tmp_path / "data"),))
    assert judged(code, None, sandbox=allowed).stdout == "here\n"


def test_programs_run_side_by_side_in_order_and_find_nothing_of_one_another() -> None:
    code = """
        import os
        print(os.path.exists('/tmp/left'), os.getpid() < 9)
        open('/tmp/left', 'w').write('here')
        if os.fork() == 0:
            import time
            time.sleep(600)
    """
    programs = [(textwrap.dedent(code) + f"\nprint({i})", None) for i in range(6)]
    outcomes = run_many(programs, seconds=60)
    assert [one.stdout for one in outcomes] == [f"False True\n{i}\n" for i in range(6)]
    assert all(one.passed for one in outcomes)


def test_the_same_program_prints_the_same() -> None:
    code = "print({'a', 'b', 'c', 'd'}, hash('x'))"
    assert judged(code, None).stdout == judged(code, None).stdout


# -- verifiers of problems


def test_a_verifier_in_its_sandbox_is_a_verifier() -> None:
    problem = search.TextProblem("?", verify=attacks.honest, sandbox=True)
    assert not problem.inline
    texts = ("yes", "no", "a quarter")
    assert [problem.verify((search.TextStep(text),)) for text in texts] == [1.0, 0.0, 0.25]
    problem = search.TextProblem("?", verify=attacks.odd, sandbox=True)
    assert problem.verify((search.TextStep("yes"),)) == 1.0
    assert problem.verify((search.TextStep("no"),)) is None
    with pytest.raises(ValueError, match=r"verify returned '12': give a number in \[0, 1\]"):
        problem.verify((search.TextStep("number"),))
    with pytest.raises(ValueError, match="give a number"):
        problem.verify((search.TextStep("list"),))


@pytest.mark.thorough
def test_a_search_verifies_in_sandboxes() -> None:
    guide = scripted_guide(
        lambda request: generated(f"The answer is {'yes' if request.seed % 3 == 0 else 'no'}"),
        value=False,
    )
    problem = search.TextProblem("yes or no?", verify=attacks.honest, sandbox=True)
    solution = search.solve(problem, guide, "sample", "tokens=300")
    assert solution.verified and solution.answer == "yes" and solution.error is None


def test_a_search_whose_problem_cannot_cross_verifies_in_sandboxes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only its verifier must."""
    guide = scripted_guide(lambda request: generated("It is yes."), value=False)
    problem = search.TextProblem(
        "yes or no?", verify=attacks.honest, answer=lambda text: "yes", sandbox=True
    )
    solution = search.solve(problem, guide, "sample", "tokens=30")
    assert solution.verified and "runs in this process" not in caplog.text


def test_a_verifier_that_attacks_is_what_failed() -> None:
    guide = scripted_guide(lambda request: generated("The answer is 4"), value=False)
    problem = search.TextProblem("?", verify=attacks.kill_all, sandbox=True)
    solution = search.solve(problem, guide, "sample", "tokens=40")
    assert solution.stopped == "error"
    assert "calls of TextProblem.verify failed" in str(solution.error)
    assert "TextProblem.verify ended without an answer" in str(solution.error)


def test_what_cannot_cross_is_refused_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cannot cross to its sandbox .*at the top level"):
        search.TextProblem("?", verify=lambda text: True, sandbox=True)
    with pytest.raises(ValueError, match="no TextProblem.verify to run in a sandbox"):
        search.TextProblem("?", sandbox=True)
    monkeypatch.setattr(attacks.honest, "__module__", "__main__")
    with pytest.raises(ValueError, match="script or notebook, which a sandbox cannot import"):
        search.TextProblem("?", verify=attacks.honest, sandbox=True)


# -- without a sandbox


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "_tried", False)
    monkeypatch.setenv("PATH", "/nowhere")


def test_it_says_what_is_missing_and_refuses(nothing_here: None) -> None:
    assert "bubblewrap is not installed" in str(missing())
    with pytest.raises(SandboxMissing, match='bubblewrap is not installed.*sandbox="none" runs'):
        run("print(1)")
    with pytest.raises(SandboxMissing, match="bubblewrap is not installed"):
        search.TextProblem("?", verify=attacks.honest, sandbox=True)


def test_none_runs_without_it(nothing_here: None) -> None:
    assert run("print(1)", sandbox="none").stdout == "1\n"
    assert run("def f(): return 2", "assert f() == 2", sandbox="none").passed
    assert run("x = bytearray(3 << 30)", sandbox="none").ended == "memory"
    assert run("while True: pass", sandbox="none", seconds=1).ended == "time"
    problem = search.TextProblem("?", verify=attacks.honest, sandbox="none")
    assert problem.verify((search.TextStep("yes"),)) == 1.0


def test_a_system_that_lets_nobody_make_namespaces_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1")
    fake.chmod(0o755)
    monkeypatch.setattr(starting, "_tried", False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert "lets nobody like you make namespaces" in str(missing())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "parts of Linux, and this is darwin" in str(missing())


def test_a_kernel_that_makes_no_namespaces_is_named() -> None:
    """Not by a fake: within bubblewrap that was told to allow no more."""
    if os.geteuid() != 0:
        pytest.skip("an ordinary user may be allowed none at all")
    words = ["bwrap", "--dev-bind", "/", "/", "--unshare-user", "--uid", "1000", "--disable-userns"]
    code = "import search; print(search.sandbox.missing())"
    done = subprocess.run([*words, sys.executable, "-c", code], capture_output=True, text=True)
    assert "lets nobody like you make namespaces" in done.stdout


@pytest.mark.parametrize("wish", [1, False, "yes", None])
def test_a_sandbox_that_is_none_is_refused(wish: Any) -> None:
    with pytest.raises(ValueError, match=r"give True, search.sandbox.Limits\(...\), or"):
        run("print(1)", sandbox=wish)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tests": ""}, "which every program passes"),
        ({"tests": "assert f( == 1"}, "the tests are no Python: .*line 1"),
        ({"tests": 5}, "which every program passes"),
        ({"code": None}, "the program is None: give its code as text"),
        ({"seconds": 0}, "seconds=0 is no limit"),
        ({"seconds": float("nan")}, "seconds=nan is no limit"),
        ({"seconds": float("inf")}, "seconds=inf is no limit"),
    ],
)
def test_what_cannot_be_run_is_refused_at_the_door(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run(**{"code": "", **options})


@pytest.mark.parametrize(
    "limits",
    [{"memory": 1}, {"processes": True}, {"files": "1"}, {"output": 0}, {"readable": "/etc"}],
)
def test_limits_in_which_nothing_runs_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limits))}="):
        Limits(**limits)


def test_a_call_that_fails_is_a_request_that_failed() -> None:
    problem = search.TextProblem("?", verify=attacks.spin, sandbox=True, seconds=0.5)
    with pytest.raises(RequestFailed, match="TextProblem.verify took longer than 0.5 s"):
        problem.verify((search.TextStep("?"),))
