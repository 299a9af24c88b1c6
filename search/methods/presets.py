"""The methods of the literature by their names: a search, its options, and which answer is chosen.

Everything that takes the name of a method knows these: `search.solve`, `copse solve`, `copse bench`
and `copse train iterate`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MODULE = "search.methods"
SEARCHES = ("mcts", "gumbel", "beam", "sample")  #: functions of modules with the same names


@dataclass(frozen=True)
class Preset:
    """A named method.

    search   the function that searches, one of `SEARCHES`
    options  of that function, which the caller's own override
    choose   name of a chooser of `search.choose`; None: a verified state first, else the weighted
             vote
    policy   settings of the policy, such as temperature=0
    stream   the problem is searched as a `search.problems.stream.Stream` with these fields, of
             which the numbers are options
    source   what it is, and who described it
    """

    search: str
    options: Mapping[str, Any] = field(default_factory=dict)
    choose: str | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)
    stream: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


_GREEDY = Preset(
    "sample",
    {"chains": 1, "wave": 1},
    policy={"temperature": 0},
    source="one chain of thought at temperature 0 (Wei et al. 2022)",
)

PRESETS: Mapping[str, Preset] = {
    "greedy": _GREEDY,
    "cot": _GREEDY,
    "sample": Preset("sample", source="sampled chains; the weighted vote where none is verified"),
    "self_consistency": Preset(
        "sample", choose="majority", source="majority vote of sampled chains (Wang et al. 2022)"
    ),
    "best_of_n": Preset(
        "sample",
        choose="best",
        source="the sampled chain that the value function likes best (Cobbe et al. 2021)",
    ),
    "weighted_vote": Preset(
        "sample",
        choose="weighted",
        source="vote of sampled chains, weighed by their values (Li et al. 2022)",
    ),
    "revise": Preset(
        "sample",
        {"chains": 1, "wave": 1},
        stream={"attempts": 4, "insist": True},
        source="attempts one after the other, each of which sees those before; the last answer "
        "counts (sequential revisions; Snell et al. 2024)",
    ),
    "budget_forcing": Preset(
        "sample",
        {"chains": 1, "wave": 1},
        stream={
            "attempts": 2,
            "min_tokens": 0,
            "max_tokens": 0,
            "insist": True,
            "turns": False,
            "moves": {"back": None, "check": None, "again": "Wait"},
        },
        source="a chain that is told to wait behind its answer, and to answer where it has become "
        "long (s1; Muennighoff et al. 2025)",
    ),
    "rejection": Preset(
        "sample",
        {"wave": 1},
        source="one chain after another until the problem verifies one (rejection sampling)",
    ),
    "beam": Preset("beam", source="the best states of each depth (Snell et al. 2024)"),
    "dvts": Preset(
        "beam",
        {"width": 4, "subtrees": 4},
        source="independent beams of width one (diverse verifier tree search; "
        "Beeching et al. 2024)",
    ),
    "rebase": Preset(
        "beam",
        {"balance": 0.2},
        source="beam search that deals its steps by value (Wu et al. 2024)",
    ),
    "mcts": Preset("mcts", source="Monte Carlo tree search with priors and values (PUCT)"),
    "gumbel": Preset("gumbel", source="Gumbel root and sequential halving (Danihelka et al. 2022)"),
}

FORMER = {"majority": "self_consistency", "best": "best_of_n", "weighted": "weighted_vote"}


def preset(method: str) -> Preset:
    """The preset of that name. Raises ValueError that lists the names, or gives the one that was
    meant.
    """
    if method in PRESETS:
        return PRESETS[method]
    if method in FORMER:
        raise ValueError(f"there is no method {method!r}: it is called {FORMER[method]!r}")
    plain = method.strip().lower().replace("-", "_").replace(" ", "_")
    close = difflib.get_close_matches(plain, PRESETS, n=1, cutoff=0.7)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"there is no method {method!r}: {meant}use one of {', '.join(PRESETS)}, or "
        "module:function of your own"
    )


def searching(name: str) -> Callable[..., Any]:
    """The function of one of `SEARCHES`; its module loads the kernels."""
    function: Callable[..., Any] = getattr(importlib.import_module(f"{MODULE}.{name}"), name)
    return function
