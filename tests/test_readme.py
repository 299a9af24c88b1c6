"""Every example of README.md runs as it stands there. Only `path/to/model` is put in: a tiny random chat model."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from search.methods.presets import PRESETS, SEARCHES, searching

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


def blocks(language: str, part: str = TEXT) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 checkpoint with random weights, byte-level tokens and a chat template."""
    import tiny

    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    tiny.model("qwen2", vocab=264, eos_token_id=257, max_position_embeddings=32_768).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: f"line-{TEXT[: TEXT.index(code)].count(chr(10)) + 1}")
def test_python_examples_run(
    code: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("path/to/model", str(model)), "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("code", blocks("python", section("Parts of your own")))
def test_parts_of_your_own_take_at_most_20_lines(code: str) -> None:
    ast.parse(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


CHECKED = """
[mypy]
strict = {strict}
check_untyped_defs = True
follow_imports = silent
mypy_path = {root}
[mypy-torch.*,transformers.*,numba.*,llvmlite.*,networkx.*,pyarrow.*,sympy.*,tokenizers.*,safetensors.*]
follow_imports = skip
ignore_missing_imports = True
"""

OWN = """
from collections.abc import Sequence
from typing import Any

import guides
import search


def nearness(problem: Any, states: Sequence[Any]) -> list[float]:
    return [1.0 for state in states]


async def later(text: str) -> float:
    return 0.5


class Asks(search.Value):
    calls = 1

    def __init__(self, judge: guides.LM) -> None:
        self._judge = judge

    @property
    def backends(self) -> dict[str, search.Backend]:
        return dict(self._judge.backends)

    async def evaluate(self, problem: search.Problem, states: Sequence[Any], known: Any, rng: Any) -> list[float]:
        scored: search.Scored = await search.ask(search.Score((1,), (0,), to="policy"))
        return [float(scored.values[0]) for state in states]


class Speaks(search.Policy):
    max_steps = 3

    async def propose(
        self, problem: search.Problem, state: Any, n: int, rng: Any, avoid: Sequence[Any] = ()
    ) -> list[search.Proposal]:
        return [search.Proposal(search.TextStep("x"), 0.0, 1.0)]


class Count(search.Problem):
    def initial(self) -> int:
        return 0

    def apply(self, state: int, step: int) -> int:
        return state + step

    def is_terminal(self, state: int) -> bool:
        return state > 3

    def prompt(self, state: int) -> str:
        return "Count."


def steps(text: str) -> list[str]:
    return ["a", "b"]


async def best_first(run: search.Search, *, branch: int = 4) -> None:
    nodes: list[int] = await run.expand([0], branch)
    values: list[float] = await run.judge(nodes)
    print(values, run.over, run.tree.mean(0), run.budget)


policy: search.Policy = guides.LM("builtin")
values: list[search.Value] = [guides.PRM("a"), guides.ORM("a"), guides.Judge("a"), guides.Likelihood("a")]
values += [guides.Rollout(steps), guides.Mixture(later, nearness), Asks(guides.LM("a")), search.Known()]
guide = search.Guide(guides.LM("builtin"), nearness)
guide = search.Guide(policy, later)
guide = search.Guide(steps, lambda text: 0.5)
guide = search.Guide(Speaks(), Asks(guides.LM("a")))
guide = search.Guide(search.Uniform(), values[0])
print(search.solve(Count(), guide, best_first, branch=4).answer)
search.check_value(nearness)
search.check_policy(steps)
search.check_method(best_first)
search.check_problem(Count())
"""


def type_check(folder: Path, strict: bool) -> None:
    """Hold the modules of a folder against mypy as in a project of the user's, where the packages are installed."""
    pytest.importorskip("mypy")
    (folder / "mypy.ini").write_text(CHECKED.format(strict=strict, root=ROOT))
    command = [sys.executable, "-P", "-m", "mypy", "--config-file", "mypy.ini", *sorted(file.name for file in folder.glob("*.py"))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_examples_of_parts_pass_a_type_checker(tmp_path: Path) -> None:
    for number, code in enumerate(blocks("python", section("In Python")) + blocks("python", section("Parts of your own"))):
        (tmp_path / f"example_{number}.py").write_text(code)
    type_check(tmp_path, strict=False)


def test_parts_pass_a_strict_type_checker_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    type_check(tmp_path, strict=True)
    (tmp_path / "own.py").write_text(OWN + "search.Guide(guides.PRM('a'))\n")
    with pytest.raises(AssertionError, match="incompatible type"):
        type_check(tmp_path, strict=True)


def test_the_problems_file_runs(tmp_path: Path) -> None:
    (lines,) = blocks("json", section("Parts of your own"))
    (command,) = blocks("sh", section("Parts of your own"))
    (tmp_path / "problems.jsonl").write_text(lines)
    name, *arguments = command.split()
    assert name == "copse"
    done = subprocess.run([sys.executable, "-P", "-m", "search.cli", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    solved = [json.loads(line) for line in (tmp_path / "solved.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in solved) == ["easy", "hard"]
    assert "8/3)" not in done.stdout or any(row["verified"] for row in solved)


def test_the_two_commands_stand_alone() -> None:
    """They are what `.ci/run` runs: each on one line, from an environment made there."""
    commands = [line for block in blocks("sh", section("Two commands")) for line in block.splitlines()]
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install -q ") for command in commands)
    assert "copse solve" in commands[0] and commands[1].endswith("-m pytest -q -n 2")


def test_the_command_line_is_spelled_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the README names options that exist."""
    import shlex

    from typer.main import get_command

    from search.cli import app

    names = ("On the command line", "Your own server", "Training on your own problems", "Benchmarks on your own problems")
    parts = [section(name) for name in names]
    commands = [line.split("   #")[0] for part in parts for block in blocks("sh", part) for line in block.splitlines()]
    assert len(commands) >= 13
    for line in commands:
        words = shlex.split(line)
        assert words.pop(0) == "copse"
        command = get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("name", SEARCHES)
def test_the_table_of_methods_tells_all_options(name: str) -> None:
    parameters = inspect.signature(searching(name)).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    (row,) = re.findall(rf'^\| `"{name}"` \|.*\|(.*)\|$', section("Methods and budgets"), re.MULTILINE)
    told = dict(re.findall(r"`(\w+)`[^(]*\((\w[\w./]*)", row))
    assert {option: default_of(text) for option, text in told.items()} == options


@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(SEARCHES)))
def test_the_table_of_names_tells_their_search(name: str) -> None:
    (row,) = re.findall(rf'^\| [^|]*`"{name}"`[^|]* \|.*\|([^|]*)\|$', section("Methods and budgets"), re.MULTILINE)
    search, *options = re.findall(r"`([^`]*)`", row)
    assert search == PRESETS[name].search
    told = {option: ast.literal_eval(text) for option, text in (written.split("=") for written in options)}
    assert told.items() <= dict(PRESETS[name].options).items()


def default_of(text: str) -> object:
    """What a default stands for: None, a number, a fraction, or a word."""
    if "/" in text:
        return float(Fraction(text))
    return ast.literal_eval(text) if re.match(r"None|[\d.]", text) else text


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
