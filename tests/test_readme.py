"""The READMEs are true: examples run as they stand there, commands are parsed by the commands,
links lead somewhere.

Only `path/to/model` is put in: a tiny random chat model.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import json
import re
import runpy
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import pytest
from endpoint_cases import answers, served
from sandbox_cases import need_a_sandbox

from search.methods.presets import PRESETS, SEARCHES, searching

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("search", "models", "guides", "benchmarks")
PAGES = (
    "README.md",
    *(f"{package}/README.md" for package in PACKAGES),
    "models/builtin/README.md",
    "guides/answers/README.md",
)
TEXT = {page: (ROOT / page).read_text() for page in PAGES}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor "
    "%}<|im_start|>assistant\n"
)
OWN_PARTS = "search/README.md"  #: the page that says how to write parts
SERVED = "http://127.0.0.1:8000"  #: what the examples ask that need a server
LONGEST = 180  #: lines of the README that a stranger meets first


def blocks(language: str, part: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> str:
    return TEXT[page].split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def places(language: str) -> list[Any]:
    """Page and block of every block of one language, named by the line that it begins in."""
    return [
        pytest.param(page, block, id=f"{page}-{text[: text.index(block)].count(chr(10)) + 1}")
        for page, text in TEXT.items()
        for block in blocks(language, text)
    ]


def commands() -> list[Any]:
    """Page and words of every command in a shell block: lines joined, comments and redirections
    left out.
    """
    found = []
    for page, text in TEXT.items():
        for block in blocks("sh", text):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while "&&" in words:
                    found.append((page, words[: words.index("&&")]))
                    words = words[words.index("&&") + 1 :]
                found.append((page, words[: words.index(">")] if ">" in words else words))
    return [
        pytest.param(page, words, id=f"{page}-{number}")
        for number, (page, words) in enumerate(found)
        if words
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 checkpoint with random weights, byte-level tokens and a chat template."""
    import tiny

    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    tiny.model(
        "qwen2", vocab=264, eos_token_id=257, max_position_embeddings=32_768
    ).save_pretrained(folder)
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("page, code", places("python"))
def test_python_examples_run(
    page: str,
    code: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "search.sandbox" in code:
        need_a_sandbox()
    code = code.replace("path/to/model", str(model))
    with contextlib.ExitStack() as stack:
        if SERVED in code:
            url, _ = stack.enter_context(served(answers))
            code = code.replace(SERVED, url)
        exec(compile(code, page, "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("code", blocks("python", section(OWN_PARTS, "Parts of your own")))
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

    async def evaluate(
        self, problem: search.Problem, states: Sequence[Any], known: Any, rng: Any
    ) -> list[float]:
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
values: list[search.Value] = [guides.PRM("a"), guides.ORM("a")]
values += [guides.Judge("a"), guides.Likelihood("a")]
values += [guides.Rollout(steps), guides.Mixture(later, nearness)]
values += [Asks(guides.LM("a")), search.Known()]
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
    """Hold the modules of a folder against mypy as in a project of the user's, where the
    packages are installed.
    """
    pytest.importorskip("mypy")
    (folder / "mypy.ini").write_text(CHECKED.format(strict=strict, root=ROOT))
    command = [
        sys.executable,
        "-P",
        "-m",
        "mypy",
        "--config-file",
        "mypy.ini",
        *sorted(file.name for file in folder.glob("*.py")),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_examples_of_parts_pass_a_type_checker(tmp_path: Path) -> None:
    examples = blocks("python", TEXT["README.md"]) + blocks(
        "python", section(OWN_PARTS, "Parts of your own")
    )
    assert len(examples) >= 6
    for number, code in enumerate(examples):
        (tmp_path / f"example_{number}.py").write_text(code)
    type_check(tmp_path, strict=False)


@pytest.mark.thorough
def test_parts_pass_a_strict_type_checker_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    type_check(tmp_path, strict=True)
    (tmp_path / "own.py").write_text(OWN + "search.Guide(guides.PRM('a'))\n")
    with pytest.raises(AssertionError, match="incompatible type"):
        type_check(tmp_path, strict=True)


@pytest.mark.thorough
def test_the_problems_file_runs(tmp_path: Path) -> None:
    (lines,) = blocks("json", section(OWN_PARTS, "Many problems"))
    command = blocks("sh", section(OWN_PARTS, "Many problems"))[0]
    (tmp_path / "problems.jsonl").write_text(lines)
    name, *arguments = command.split()
    assert name == "copse"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "search.cli.main", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, 1), done.stderr
    rows = [json.loads(line) for line in (tmp_path / "solved.jsonl").read_text().splitlines()]
    solved = {row["id"]: row for row in rows}
    assert sorted(solved) == ["easy", "hard"]
    assert solved["easy"]["verified"] is True


def test_the_two_commands_stand_alone() -> None:
    """They are what `.ci/run` runs: each on one line, from an environment made there."""
    commands = [
        line
        for block in blocks("sh", section("README.md", "Two commands"))
        for line in block.splitlines()
    ]
    assert len(commands) == 2
    assert all(
        command.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")
        for command in commands
    )
    assert "copse solve" in commands[0] and commands[1].endswith("-m pytest -q -n 2")


class Parsed(BaseException):
    """A command line was understood."""


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command's own parser read a line, argparse's or Typer's, and end there. Words that are
    wrong end in SystemExit.

    words  of `copse`, or of `python -m MODULE`, whose first word is the module
    """
    from typer.core import TyperCommand

    from search.cli.main import app

    read = argparse.ArgumentParser.parse_args

    def end(parser: argparse.ArgumentParser, *arguments: Any, **more: Any) -> NoReturn:
        read(parser, *arguments, **more)
        raise Parsed

    def stop(command: TyperCommand, context: Any) -> NoReturn:
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", end)
        patch.setattr(TyperCommand, "invoke", stop)
        patch.setattr(sys, "argv", words)
        if words[0] == "copse":
            app(words[1:])
        else:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("page, words", commands())
def test_commands_are_spelled_right(
    page: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of `copse` and of `benchmarks` is one that its parser takes, options and
    values.
    """
    name = Path(words[0]).name
    if name == "python" and words[2].startswith("benchmarks"):
        assert words[1] == "-m"
        words = words[2:]
    elif name == "copse":
        words = [name, *words[1:]]
    else:
        assert name in {"python", "python3", "pip", "cp", "cat", "tail"}, words
        return
    with pytest.raises(Parsed):
        parse(words, monkeypatch)


WRONG = (
    "copse solve x --buget tokens=1",
    "copse solve x --seed many",
    "copse train gide",
    "benchmarks.tasks training --cuont 5",
    "benchmarks.tree.core chekc",
)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("line", WRONG)
def test_a_misspelt_command_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as found:
        parse(line.split(), monkeypatch)
    assert found.value.code == 2


@pytest.mark.parametrize("name", SEARCHES)
def test_the_table_of_methods_tells_all_options(name: str) -> None:
    parameters = inspect.signature(searching(name)).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    (row,) = re.findall(
        rf'^\| `"{name}"` \|.*\|(.*)\|$', section("README.md", "Methods and budgets"), re.MULTILINE
    )
    told = dict(re.findall(r"`(\w+)`[^(]*\((\w[\w./]*)", row))
    assert {option: default_of(text) for option, text in told.items()} == options


@pytest.mark.parametrize("name", sorted(set(PRESETS) - set(SEARCHES)))
def test_the_table_of_names_tells_their_search(name: str) -> None:
    (row,) = re.findall(
        rf'^\| [^|]*`"{name}"`[^|]* \|.*\|([^|]*)\|$',
        section("README.md", "Methods and budgets"),
        re.MULTILINE,
    )
    search, *options = re.findall(r"`([^`]*)`", row)
    assert search == PRESETS[name].search
    told = {
        option: ast.literal_eval(text)
        for option, text in (written.split("=") for written in options)
    }
    assert told.items() <= dict(PRESETS[name].options).items()


def default_of(text: str) -> object:
    """What a default stands for: None, a number, a fraction, or a word."""
    if "/" in text:
        return float(Fraction(text))
    return ast.literal_eval(text) if re.match(r"None|[\d.]", text) else text


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)]+)\)", TEXT[page])
    assert targets
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_the_readme_is_short() -> None:
    assert len(TEXT["README.md"].splitlines()) <= LONGEST


def test_every_folder_is_on_the_map() -> None:
    assert all(f"]({package}/README.md)" in section("README.md", "Map") for package in PACKAGES)
