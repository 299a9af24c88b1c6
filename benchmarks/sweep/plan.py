"""What a sweep does: problems with their targets, methods and budgets as text. Everything is
checked here, before any work.

A method is a name and options: "mcts leaves=1 c_puct=0.8". The names are those of
`search.methods.presets` and module:function. Those that choose among the same chains (sample,
self_consistency, best_of_n, weighted_vote with the same options) share one search, so their rows
cost the same and differ in the answer only.

Options are those of the method, of the policy (temperature, top_k, top_p, min_p), and the ablations
value=0.5 (or another constant), value=shuffled and prior=uniform.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from benchmarks import tasks
from benchmarks.sweep import ablations
from benchmarks.sweep.rows import clean
from guides.data.grading import key_of, read_targets, same
from search.arguments import configured
from search.files.atomic import atomic
from search.files.partition import Shard
from search.files.problems_file import read_jobs
from search.guide import Guide
from search.imports import add_working_folder
from search.methods.presets import Preset, preset
from search.problem import Problem, TextProblem
from search.scheduling.budget import Budget

POLICY = ("temperature", "top_k", "top_p", "min_p")
_EXAMPLE = '"mcts leaves=1 c_puct=0.8"'


@dataclass(frozen=True)
class Task:
    """Problems by name, and what is right.

    targets      name -> right answer; none at all: the problems verify themselves, and one budget,
                 the largest, tells of all smaller ones
    steps_right  (problem, steps) -> whether all steps are right, None where that is unknown; None:
                 nobody can say
    """

    name: str
    problems: Mapping[str, Problem]
    targets: Mapping[str, str]
    steps_right: Callable[[Problem, Sequence[Any]], bool | None] | None = None

    def share(self, shard: Shard) -> Task:
        """The same task with a share of its problems; all targets stay, for what is searched
        depends on whether there are any. Raises ValueError where the share is empty.
        """
        names = shard.of(list(self.problems))
        own = zip(names, map(self.problems.__getitem__, names), strict=True)
        return replace(self, problems=dict(own))

    def correct(self, name: str, answer: str | None, verified: bool | None) -> bool:
        """Whether a search succeeded: by the problem's own verifier where it spoke, else by the
        target.
        """
        if verified is not None or answer is None:
            return bool(verified)
        if name not in self.targets:
            raise ValueError(
                f"nobody can tell whether {answer[:80]!r} is right for the problem {name!r}: "
                "give its target"
            )
        return same(answer, self.targets[name])


def task_named(name: str) -> Task:
    """A task of `benchmarks.tasks`."""
    problems: dict[str, Problem] = {}
    targets: dict[str, str] = {}
    for problem in tasks.TASKS[name]():
        key = clean(tasks.identity(problem))
        problems[key] = problem
        target = tasks.target_of(problem)
        if target is not None:
            targets[key] = target
    return Task(name, problems, targets, tasks.steps_right)


def task_of_file(
    path: Path, answer: str | None = None, check: Callable[[Problem], None] | None = None
) -> Task:
    """The problems of a JSON-lines file (`search.files.problems_file`) by their ids, with the
    "target" of each line.

    Raises ValueError for whatever is wrong with it, targets that are missing where the problem
    cannot verify itself included.
    """
    jobs = read_jobs(path, answer, check)
    given = read_targets(path)
    problems: dict[str, Problem] = {}
    targets: dict[str, str] = {}
    for job in jobs:
        name = clean(str(job.id))
        problem = job.problem
        if problems.setdefault(name, problem) is not problem:
            raise ValueError(
                f"{path}: two ids are {name!r} but for spaces: give each problem its own"
            )
        target = None
        if given and hasattr(problem, "to_json"):
            target = given.get(key_of(problem))
        if target is None:
            target = tasks.target_of(problem)
        if target is not None:
            targets[name] = target
        elif type(problem).verify is TextProblem.verify:
            raise ValueError(
                f"{path}: {name!r} has no target, and open text cannot verify itself: add "
                '"target": "the right answer"'
            )
    return Task(path.stem, problems, targets, tasks.steps_right)


def read_method(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of a method: "beam width=4" is ("beam", {"width": 4}). What stands
    behind = is JSON, else text. Raises ValueError for what is no option.
    """
    word, *rest = text.split() or [""]
    options: dict[str, Any] = {}
    for part in rest:
        name, equals, setting = part.partition("=")
        if not equals or not name or name in options:
            raise ValueError(
                f"cannot read {part!r} in the method {text!r}: write options once each, as "
                f"in {_EXAMPLE}"
            )
        try:
            options[name] = json.loads(setting)
        except ValueError:
            options[name] = setting
    return word, options


@dataclass(frozen=True)
class Run:
    """A method with its options, read from `text`.

    options  of the method;  policy: those of the policy;  chooser: of `search.choose` by name, or
             None: the choice of `search.solve`
    value, prior  the ablations, None without
    """

    text: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    chooser: str | None = None
    value: Any = None
    prior: Any = None

    @classmethod
    def parse(cls, text: str) -> Run:
        """Raises ValueError for a method or an option that does not exist."""
        word, given = read_method(text)
        value = given.pop("value", None)
        prior = given.pop("prior", None)
        policy = {name: given.pop(name) for name in POLICY if name in given}
        _check_policy(text, policy)
        if ":" in word:
            add_working_folder()
        named = Preset(word) if ":" in word else preset(word)
        given = {**named.options, **given}
        policy = {**named.policy, **policy}
        # a stream is no other choice among the chains of its search
        method = word if named.stream else named.search
        _check_ablations(text, method, given, value, prior)
        written = " ".join(text.split())
        return cls(written, method, given, policy, named.choose, value, prior)

    @property
    def search(self) -> str:
        """Equal for runs that are the same search and differ only in what they choose of it."""
        return json.dumps(
            [self.method, dict(self.options), dict(self.policy), self.value, self.prior],
            sort_keys=True,
        )

    @property
    def greedy(self) -> bool:
        """Whether every seed gives the same chain."""
        return self.method == "sample" and self.policy.get("temperature") == 0

    def guide(self, load: Callable[..., Guide]) -> Guide:
        """The guide of these searches; `load(**policy)` gives the whole one. Raises ValueError
        where it has no such part to take.
        """
        guide = load(**self.policy)
        if self.prior is not None:
            guide = ablations.uniform_priors(guide)
        if self.value is None:
            return guide
        if self.value == "shuffled":
            return ablations.shuffled_values(guide)
        return ablations.constant_value(guide, float(self.value))


def _check_policy(text: str, policy: Mapping[str, Any]) -> None:
    for name, setting in policy.items():
        if isinstance(setting, bool) or not isinstance(setting, (int, float)) or not setting >= 0:
            raise ValueError(
                f"cannot use {name}={setting!r} in the method {text!r}: give a number from 0 on"
            )


def _check_ablations(
    text: str, method: str, options: dict[str, Any], value: Any, prior: Any
) -> None:
    whole = configured(method, options).options
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
    if value is not None and value != "shuffled" and not number:
        raise ValueError(
            f"cannot use value={value!r} in the method {text!r}: give shuffled, or a constant "
            "from 0 to 1"
        )
    if prior is not None and prior != "uniform":
        raise ValueError(
            f"cannot use prior={prior!r} in the method {text!r}: the only one is uniform"
        )
    if method in ("sample", "revise") and (value == "shuffled" or prior is not None):
        raise ValueError(
            f"{text!r} would change nothing: chains are sampled without priors, and judged at "
            "their end only"
        )
    if value == "shuffled" and whole.get("branch") == 1:
        raise ValueError(
            f"{text!r} would change nothing: values are dealt out among steps proposed together, "
            "so use branch=2 or more"
        )


def read_runs(texts: Sequence[str], task: Task) -> list[Run]:
    """The methods of `texts`, each once. Raises ValueError for one that cannot be measured on
    this task.
    """
    runs = list(map(Run.parse, texts))
    if not runs or len(set(map(attrgetter("text"), runs))) < len(runs):
        raise ValueError("give at least one method, and each only once")
    for run in runs:
        if run.chooser and not task.targets:
            raise ValueError(
                f"{run.text!r} chooses among chains that nobody verified, but these problems "
                "verify themselves: use sample"
            )
    return runs


@dataclass(frozen=True)
class Limit:
    """One budget, such as tokens=500, of a kind of `search.Budget`."""

    kind: str
    amount: float

    def __str__(self) -> str:
        if self.kind == "seconds":
            return f"{self.kind}={self.amount:g}"
        return f"{self.kind}={int(self.amount)}"

    @property
    def budget(self) -> Budget:
        return Budget.parse(str(self))


def read_budgets(text: str) -> list[Limit]:
    """Budgets of one kind, "tokens=500,2000", ascending. Raises ValueError."""
    kind, equals, amounts = text.partition("=")
    if not equals or "=" in amounts:
        raise ValueError(
            f"cannot read the budgets {text!r}: write one kind with its amounts, such as "
            "tokens=500,2000"
        )
    kind = kind.strip()
    limits: set[Limit] = set()
    for amount in amounts.split(","):
        budget = Budget.parse(f"{kind}={amount.strip()}")
        limits.add(Limit(kind, getattr(budget, kind)))
    return sorted(limits, key=lambda limit: limit.amount)


def claim(folder: Path, task: Task, settings: Mapping[str, Any]) -> None:
    """Note in `folder` what its results are of: settings of the model, and the problems behind the
    names, which may become more.

    Raises ValueError where it holds results of other ones, with which these would be mixed.
    """
    note = folder / "bench.json"
    mine = {
        name: _digest(problem, task.targets.get(name)) for name, problem in task.problems.items()
    }
    try:
        before = {"settings": dict(settings), "problems": {}}
        if note.exists():
            before = json.loads(note.read_text())
        changed = [
            name for name, digest in before["problems"].items() if mine.get(name, digest) != digest
        ]
        other = None
        if changed:
            other = f"another problem or target under the id {min(changed)!r}"
        elif before["settings"] != settings:
            other = f"the settings {before['settings']}"
        if other is not None:
            raise ValueError(f"{folder} has results of {other}: choose another folder")
        whole = {"settings": dict(settings), "problems": before["problems"] | mine}
        with atomic(note) as part:
            part.write_text(json.dumps(whole, indent=1))
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"cannot use {folder} for results ({error}): choose another folder"
        ) from None


def _digest(problem: Problem, target: str | None) -> str:
    parts = [type(problem).__qualname__, problem.prompt(problem.initial()), target]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
