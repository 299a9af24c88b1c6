"""The arguments of `solve`: everything is checked before any model is loaded."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import operator
import os
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search.guide import Guide, Known, check_kind
from search.imports import import_ours
from search.methods.presets import PRESETS, SEARCHES, Preset, preset, searching
from search.parts import is_ours, label, short
from search.problem import Problem, check_members
from search.problems.stream import CHECK, Stream
from search.scheduling.budget import Budget

if TYPE_CHECKING:
    from search.choose import Chooser

#: async (search: search.Search, *, options) -> None
Method = Callable[..., Coroutine[Any, Any, None]]

CHOOSERS = ("majority", "weighted", "best", "most_visited", "verdict")  #: of `search.choose`

#: numbers of streams that are options of the methods that make them, and their least values
STREAM_OPTIONS = {"attempts": 1, "min_tokens": 0, "max_tokens": 0}
MOST = 100_000  #: of an option of our methods that is a whole number
OF_THE_MODEL = frozenset(
    ("temperature", "top_k", "top_p", "min_p", "delimiter", "step_tokens", "max_steps", "prompt")
    + ("instruction", "system", "device", "dtype", "slots", "pool_tokens")
)  #: options of `guides.load` that are looked for here
OF_THE_BUDGET = {
    "tokens": "tokens=2000",
    "max_tokens": "tokens=2000",
    "max_new_tokens": "tokens=2000",
    "calls": "calls=100",
    "simulations": "simulations=100",
    "num_simulations": "simulations=100",
    "iterations": "simulations=100",
    "seconds": "seconds=10",
    "timeout": "seconds=10",
    "time": "seconds=10",
}  #: limits under the names that are looked for, and how the budget says them
ELSEWHERE = {
    "model": "the model is guide=guides.load(path or hub id)",
    "policy": "the policy is a part of guide=search.Guide(policy, value)",
    "value": "the value function is a part of guide=search.Guide(policy, value)",
    "n": "the number of chains is chains=, an option of sample",
    "k": "the number of chains is chains=, an option of sample",
    "num_samples": "the number of chains is chains=, an option of sample",
    "beam_width": "the number of states kept is width=, an option of beam",
    "num_beams": "the number of states kept is width=, an option of beam",
}


@dataclass(frozen=True)
class Configured:
    """A method as it is run.

    function  the search;  options: of it, its defaults included
    choose    which answer is given, None: a verified one first, else the weighted vote
    policy    settings of the policy that the method wants, such as temperature=0
    stream    fields of the stream that each problem becomes; none: it does not
    """

    function: Method
    options: Mapping[str, Any]
    choose: Chooser | None
    policy: Mapping[str, Any]
    stream: Mapping[str, Any]

    def problem(self, problem: Problem) -> Problem:
        """`problem` as the method searches it; a stream keeps its own moves."""
        if not self.stream:
            return problem
        if isinstance(problem, Stream):
            own = {name: value for name, value in self.stream.items() if name != "moves"}
            return replace(problem, **own)
        return Stream(problem, **self.stream)

    def guide(self, guide: Guide) -> Guide:
        """`guide` with the policy's settings, and room for all attempts. Raises ValueError where
        the policy has no settings.
        """
        if self.stream and hasattr(guide.policy, "longer"):
            guide = replace(guide, policy=guide.policy.longer(self.stream["attempts"]))
        if not self.policy:
            return guide
        if not hasattr(guide.policy, "sampled"):
            what = ", ".join(f"{name}={setting}" for name, setting in self.policy.items())
            raise ValueError(
                f"this method wants {what}, which {type(guide.policy).__name__} does not take: "
                "give it a method sampled(**settings) that returns such a policy"
            )
        return replace(guide, policy=guide.policy.sampled(**self.policy))


def configured(
    method: str | Method, options: Mapping[str, Any], choose: str | Chooser | None = None
) -> Configured:
    """A method by its name (`search.methods.presets`), by module:function, or as a function.

    Raises ValueError for one that is not there, and for options it does not have.
    """
    if not isinstance(method, str):
        named = Preset("")
        function = check_form(method)
    elif ":" in method:
        named = Preset("")
        function = loaded(method)
    else:
        named = preset(method)
        function = searching(named.search)
    stream = dict(named.stream)
    options = dict(options)
    for name, least in STREAM_OPTIONS.items():
        if name in stream:
            stream[name] = whole_number(name, options.pop(name, stream[name]), least)
    check_options(function, options)
    if named.choose is not None and choose is not None:
        raise ValueError(
            f"{method} chooses by {named.choose} already: leave choose out, or use "
            f'method="{named.search}"'
        )
    chosen = chooser_of(named.choose if choose is None else choose)
    whole = all_options(function, {**named.options, **options})
    return Configured(function, whole, chosen, named.policy, stream)


def whole_number(name: str, number: Any, least: int) -> int:
    """The number that an option of that name is given. Raises ValueError for what is none."""
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= MOST:
        raise ValueError(f"{name}={number!r} is impossible: give a whole number from {least} on")
    return number


def loaded(method: str) -> Method:
    """The function of "module:function". Raises ValueError."""
    module, _, name = method.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"cannot load the method {method!r} ({error}): write it as module:function of an "
            "importable module"
        ) from None
    return check_form(found)


def check_form(method: Any) -> Method:
    """The method itself. Raises ValueError, in a sentence that says what to write, for what
    cannot be one.
    """
    form = "`async def name(search, *, options)`"
    if isinstance(method, type):
        raise ValueError(f"method={method.__name__} is a class: give a function, {form}")
    if not callable(method):
        raise ValueError(
            f"method={short(method)} is no method: give one of {', '.join(PRESETS)}, or a "
            f"function, {form}"
        )
    name = f"the method {label(method)}"
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise ValueError(
            f"{name} is a generator: write {form}, `await` for `yield from`, and no `yield`"
        )
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        raise ValueError(f"the parameters of {name} cannot be read: wrap it in {form}") from None
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes = ", ".join(p.name for p in places)
    if [p.name for p in places[:4]] == ["problem", "guide", "meter", "rng"]:
        raise ValueError(
            f"{name} takes ({takes}): write {form}; search.problem, .guide, .meter, .rng and "
            ".tree are what it took and made"
        )
    if not places and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise ValueError(f"{name} takes no search: write {form}")
    if len(places) > 1:
        raise ValueError(
            f"{name} takes ({takes}), and is given the search alone: write a `*` before its "
            f"options, {form}"
        )
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if needed:
        raise ValueError(
            f"{name} has options without a default, {', '.join(needed)}: give each a default"
        )
    return method


def chooser_of(choose: str | Chooser | None) -> Chooser | None:
    """A chooser by its name in `search.choose`, or as a function. Raises ValueError."""
    if choose is None or callable(choose):
        return choose
    if not isinstance(choose, str) or choose not in CHOOSERS:
        raise ValueError(
            f"choose={choose!r} is no chooser: give one of {', '.join(CHOOSERS)}, or a function "
            "like those of search.choose"
        )
    chooser: Chooser = getattr(importlib.import_module("search.choose"), choose)
    return chooser


def check_arguments(guide: Any, budget: Any) -> None:
    """Raises ValueError for arguments of `solve` that are of no use."""
    if isinstance(guide, (str, os.PathLike)):
        raise ValueError(
            f"guide={guide!r} is no guide yet: load it with guides.load({str(guide)!r})"
        )
    if guide is not None and not isinstance(guide, Guide):
        remedy = "give what guides.load(path or hub id) returns"
        if callable(guide):
            remedy = "give search.Guide(policy, value), whose parts may be functions"
        raise ValueError(f"guide={guide!r} is no guide: {remedy}")
    if not isinstance(budget, (Budget, str, type(None))):
        raise ValueError(
            f'budget={budget!r} is no budget: write it like budget="{_budget_like(budget)}"'
        )


def seeds_of(seed: Any, count: int) -> list[int]:
    """The seed of each of `count` searches: one number for all, or one for each as a sequence or
    an array. Raises ValueError.
    """
    listed = isinstance(seed, Sequence) or getattr(seed, "ndim", 0) > 0
    seeds = []
    for one in seed if listed else [seed] * count:
        try:
            number = operator.index(one)
        except TypeError:  # no whole number; an array of some
            number = -1
        if isinstance(one, bool) or not 0 <= number < 2**63:
            raise ValueError(
                f"seed={short(one)} is impossible: give a whole number from 0 on, below 2**63"
            )
        seeds.append(number)
    if len(seeds) != count:
        raise ValueError(
            f"{len(seeds)} seeds for {count} problems: give one for each, or one for all"
        )
    return seeds


def check_budget(budget: Budget, guide: Guide) -> None:
    """Raises ValueError for a budget of which this guide would never spend anything."""
    generates = guide.policy.step_tokens or guide.value.tokens
    asks = guide.policy.backends or guide.value.calls
    ends = budget.simulations is not None or budget.seconds is not None
    if not (ends or (budget.tokens and generates) or (budget.calls and asks)):
        raise ValueError(
            f"a budget of {budget} would never end, because this guide spends none of it: limit "
            "simulations or seconds too"
        )


def check_steps(method: Method, guide: Guide) -> None:
    """Raises ValueError for a method that goes on from single steps where the policy gives whole
    answers alone.
    """
    stepwise = method in [searching(name) for name in SEARCHES if name != "sample"]
    if stepwise and not getattr(guide.policy, "stepwise", True):
        name = getattr(method, "__name__", method)
        raise ValueError(
            f"{name} goes on from steps, and the server answers in whole turns and continues "
            "none: use sample"
        )


def check_enough(search: Configured, problems: Sequence[Problem], guide: Guide) -> None:
    """Raises ValueError where the option `enough` of sampled chains is none, or would end nothing:
    the search begins no attempts, or nothing judges them.
    """
    enough = search.options.get("enough")
    if enough is None or search.function is not searching("sample"):
        return
    if enough > 1:
        raise ValueError(f"enough={enough} is no value of an answer: give a number in [0, 1]")
    for problem in problems:
        stream: Any = problem
        told = isinstance(problem, Stream) and stream.insist
        if not told or CHECK not in stream.moves.kinds:
            raise ValueError(
                f"enough={enough} ends attempts that the search begins, by the move `check`, and "
                "here it cannot: use the method revise"
            )
        if stream.inline and stream.verifies:
            raise ValueError(
                f"enough={enough} would end nothing: the problem verifies its answers itself, and "
                "the first right one ends the attempts; leave it out"
            )
    if isinstance(guide.value, Known):
        raise ValueError(
            f"enough={enough} goes by the values of answers, and nothing judges them here: give a "
            "value function"
        )


def all_options(method: Method, options: Mapping[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            defaults[name] = parameter.default
    return defaults | dict(options)


def _budget_like(budget: Any) -> str:
    whole = isinstance(budget, int) and not isinstance(budget, bool) and budget > 0
    return f"tokens={budget}" if whole else "tokens=2000,seconds=10"


def where_it_belongs(option: str) -> str | None:
    """A sentence on an option that methods never have, None where nothing is known of it."""
    if option in OF_THE_MODEL:
        return (
            f"{option} is of the model: guides.load(path, {option}=...), or "
            f"--{option.replace('_', '-')}"
        )
    if option in OF_THE_BUDGET:
        return f'limits are written in the budget: budget="{OF_THE_BUDGET[option]}"'
    return ELSEWHERE.get(option)


def check_options(method: Method, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(method).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    name = getattr(method, "__name__", str(method))
    for option, value in options.items():
        if option not in allowed:
            raise ValueError(f"{name} has no option {option!r}: {_meant(option, allowed)}")
        kind = str(getattr(allowed[option].annotation, "__name__", allowed[option].annotation))
        if kind not in ("int", "float", "int | None", "float | None"):
            continue
        if value is None and "None" in kind:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < math.inf:
            raise ValueError(f"{name} cannot use {option}={value!r}: give a number from 0 on")
        if kind.startswith("int") and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} cannot use {option}={value!r}: give a whole number from 1 on")
        if kind.startswith("int") and value > MOST and is_ours(method):
            raise ValueError(
                f"{name} cannot use {option}={value}, which would take its time and memory before "
                f"anything is asked: give at most {MOST:,}"
            )


def _meant(option: str, allowed: Collection[str]) -> str:
    place = where_it_belongs(option)
    if place is not None:
        return place
    close = difflib.get_close_matches(option, allowed, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}it knows {', '.join(allowed) or 'none'}"


def problem_of(problem: Problem | str, guide: Guide | None) -> Problem:
    """The problem of text, and open text as the guide's model was asked to mark its answer; as a
    stream where that is what the guide writes. Raises ValueError for what is none.
    """
    if isinstance(problem, str):
        from search.problems import parse

        problem = parse(problem)
    check_members(problem)
    if guide is None:
        return problem
    whole: Problem = problem
    if guide.stream is not None and not isinstance(problem, Stream):
        whole = Stream(problem, **guide.stream)
    asked = getattr(whole, "asked", None)
    if asked is not None:
        whole = asked(guide.answer, getattr(guide.policy, "ends", None))
    return whole


def guide_of(guide: Guide | None, problems: Sequence[Problem]) -> Guide:
    if guide is not None:
        for problem in problems:
            guide.check(problem)
        return guide
    # the one way in which `search` reaches above itself: the default guide
    guides = import_ours("guides")
    kinds = guides.settings("builtin").get("kinds")
    for problem in problems:
        check_kind(kinds, problem)
    return guides.load("builtin")
