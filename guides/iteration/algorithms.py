"""The algorithms of guess and check by the names of the literature, as values of the fields of a
`guides.iteration.plan.Plan`.

All but one sample chains, keep some and imitate them: expectation maximisation, where the chains
that are kept stand for the posterior over chains of thought (Neal and Hinton 1998). They differ in
what is kept, from which model a round trains, and what it is told. `mcts_dpo` learns preferences
instead.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from guides.iteration.plan import Plan

log = logging.getLogger(f"copse.{__name__}")

#: how a problem that was not solved is asked again
HINT = "{problem}\n\nHint: the answer is {target}."


@dataclass(frozen=True)
class Algorithm:
    """fields: of a `Plan`, those that differ from its defaults;  source: what it is, and who
    described it
    """

    fields: Mapping[str, Any]
    source: str


ALGORITHMS: Mapping[str, Algorithm] = {
    "star": Algorithm(
        {"method": "greedy", "keep": 1, "restart": True, "hint": HINT},
        "one greedy chain a problem; those that fail are asked again with the target as a hint, "
        "which the training text leaves out; each round from the base (Zelikman et al. 2022)",
    ),
    "rest": Algorithm(
        {"options": {"chains": 16, "solutions": None}, "thresholds": (0.25, 0.5, 0.75, 1.0)},
        "graded rewards; a round trains once for each threshold, from the last model on, on the "
        "chains that reach it (Gulcehre et al. 2023)",
    ),
    "rest_em": Algorithm(
        {"options": {"chains": 32, "solutions": 10}, "keep": 10, "restart": True},
        "up to ten right chains a problem; each round from the base (Singh et al. 2023)",
    ),
    "best_of_n": Algorithm(
        {"options": {"chains": 16, "solutions": None}, "policy": "best", "keep": 1},
        "the chain of the highest reward among N, which is the option chains (Nakano et al. 2021)",
    ),
    "vstar": Algorithm(
        {
            "options": {"chains": 16, "solutions": 10},
            "keep": 10,
            "restart": True,
            "window": 0,
            "train_verifier": True,
        },
        "as rest_em on the right chains of all rounds, and a verifier from all rounds' right and "
        "wrong chains (Hosseini et al. 2024)",
    ),
    "mcts_dpo": Algorithm(
        {"method": "mcts", "policy": "none", "pairs": "steps"},
        "preferences: at each node of a tree the step of the highest Q before that of the lowest, "
        "with the model that the round began with as the reference (Xie et al. 2024)",
    ),
    "self_training": Algorithm(
        {"options": {"chains": 16, "solutions": None}, "reward": "majority"},
        "no labels: the chains that agree with the majority of their problem's samples (McClosky "
        "et al. 2006, with the vote as the filter)",
    ),
}


def method_of(algorithm: str | None) -> str:
    """The search of an algorithm, or of none, where no other is chosen."""
    fields = {} if algorithm is None else ALGORITHMS[algorithm].fields
    return str(fields.get("method", Plan.method))


def plan_of(algorithm: str | None = None, **chosen: Any) -> Plan:
    """The plan of an algorithm, whose fields `chosen` override; without one, of `chosen` alone.

    Options of the algorithm's method stay beside those that are chosen, unless another method is.
    What the algorithm sets is logged. Raises ValueError for an algorithm that is not there, and
    what `Plan` raises.
    """
    if algorithm is None:
        return Plan(**chosen)
    if algorithm not in ALGORITHMS:
        plain = algorithm.strip().lower().replace("-", "_")
        close = difflib.get_close_matches(plain, ALGORITHMS, n=1, cutoff=0.6)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"there is no algorithm {algorithm!r}: {meant}use one of {', '.join(ALGORITHMS)}"
        )
    own = dict(ALGORITHMS[algorithm].fields)
    other = chosen.get("method", method_of(algorithm)) != method_of(algorithm)
    options = own.pop("options", {})
    if other:
        options = {}
    fields = {**own, **chosen, "options": {**options, **chosen.get("options", {})}}
    said = ""
    for name in [*own, "options"]:
        said += f", {name}={fields[name]!r}"
    log.info("%s sets %s", algorithm, said[2:])
    return Plan(**fields, algorithm=algorithm)
