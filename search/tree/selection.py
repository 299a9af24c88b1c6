"""Selection rules: which edge a search takes next. A rule is a pair of small functions, given to
the one set of kernels.

    look = prepare(words, f4, i4, start, count, n, mean, notes, node, params)
    score(q, prior, taken, n, look, params)

`prepare` is called once a node and gives four numbers of its block, `score` once an edge; the edge
with the highest is taken.

start, count  the first edge of the node's block, and how many there are
n             visits of the node, at least 1
mean          of the node's values, in the view of the player who moves there
q             mean value of the edge; of one never taken, its own value or the first-play urgency
taken         visits of the edge, pending ones included; where it is 0 the score must grow with the
              prior
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from search.kernels.jit import bind, digest, inner, kernel
from search.kernels.simd import exp, spread, sqrt, where_positive
from search.tree import batch_kernels, descent_kernels
from search.tree.descent_kernels import (
    BASE,
    DISCOUNT,
    FLOOR,
    NODE,
    PARAMS,
    PLAYERS,
    PRIOR,
    REDUCTION,
    SCALE,
    VISITS,
    WIDEN,
    C,
    f4_of,
    f8_of,
)


def _plain(words, f4, i4, start, count, n, mean, notes, node, params):
    return params[C] * math.sqrt(n), 0.0, 0.0, 0.0


def _puct(q, prior, taken, n, look, params):
    return q + look[0] * (prior / (1.0 + taken))


def _growing(words, f4, i4, start, count, n, mean, notes, node, params):
    scale = (params[C] + math.log((1.0 + n + params[BASE]) / params[BASE])) * math.sqrt(n)
    return scale, 0.0, 0.0, 0.0


def _log(words, f4, i4, start, count, n, mean, notes, node, params):
    return math.log(n), 0.0, 0.0, 0.0


def _ucb1(q, prior, taken, n, look, params):
    return where_positive(taken, q + params[C] * sqrt(look[0] / taken), 1e6 + prior)


def _between(words, f4, i4, start, count, n, mean, notes, node, params):
    """The lowest and the highest of the node's mean and the means of its taken edges."""
    low = high = mean
    for e in range(np.uint64(0), count):
        taken = i4[f4_of(start + np.uint64(e), VISITS)]
        if taken > 0:
            q = words[f8_of(start + np.uint64(e))] / taken
            low = min(low, q)
            high = max(high, q)
    scale = (params[C] + math.log((1.0 + n + params[BASE]) / params[BASE])) * math.sqrt(n)
    return scale, low, max(high - low, 1e-8), 0.0


def _normalised(q, prior, taken, n, look, params):
    return where_positive(taken, (q - look[1]) / look[2], spread(0.0)) + look[0] * (
        prior / (1.0 + taken)
    )


def _completed(words, f4, i4, start, count, n, mean, notes, node, params):
    """(scale of Q, lowest completed Q, value of untaken edges, log of the sum of exp(logit +
    sigma)); Danihelka et al. 2022, eq. 11, 33.
    """
    most = 0
    total = 0
    taken_prior = 0.0
    weighed = 0.0
    listed = 0.0
    low = math.inf
    high = -math.inf
    for e in range(np.uint64(0), count):
        e = start + np.uint64(e)
        visits = i4[f4_of(e, VISITS)]
        prior = float(f4[f4_of(e, PRIOR)])
        if prior < 0.0:
            continue
        listed += prior
        if visits > 0:
            q = words[f8_of(e)] / visits
            most = max(most, visits)
            total = total + visits
            taken_prior = taken_prior + prior
            weighed = weighed + prior * q
            low = min(low, q)
            high = max(high, q)
    own = float(notes[node])
    mixed = own
    if total != 0:
        mixed = (own + total * (weighed / max(taken_prior, 1e-300))) / (1 + total)
    rest = 0.0
    if listed > taken_prior:  # some are untaken; in an ordered block one of them is always listed
        rest = max(0.0, 1.0 - taken_prior)
        low = min(low, mixed)
        high = max(high, mixed)
    scale = params[SCALE] * (params[FLOOR] + most) / max(high - low, 1e-8)
    mass = rest * math.exp(scale * (mixed - low)) if rest > 0.0 else 0.0
    for e in range(np.uint64(0), count):
        e = start + np.uint64(e)
        visits = i4[f4_of(e, VISITS)]
        prior = float(f4[f4_of(e, PRIOR)])
        if visits > 0 and prior >= 0.0:
            mass += prior * math.exp(scale * (words[f8_of(e)] / visits - low))
    return scale, low, mixed, math.log(max(mass, 1e-300))


def _improved(q, prior, taken, n, look, params):
    """Its share of the improved policy less its share of the visits (eq. 14). The node's own
    evaluation is one of its n visits.
    """
    completed = where_positive(taken, q, spread(look[2]))
    return prior * exp(look[0] * (completed - look[1]) - look[3]) - taken / n


class Kernels(NamedTuple):
    """The compiled kernels of one rule: `search.tree.descent_kernels`."""

    select: Any
    backup: Any
    absorb: Any
    step: Any
    names: dict[str, Any]  # what a kernel of the rule is bound to


_INNER = (
    "entry",
    "rate",
    "move_at",
    "refresh",
    "clear",
    "swap",
    "advance",
    "open_",
    "descend",
    "above",
    "count_at",
    "forget",
    "walk",
    "rise",
    "settle",
    "grow",
)
_nodes = numba.from_dtype(NODE)[::1]
_f8 = numba.float64[::1]
_i8 = numba.int64
_bool = numba.boolean
_f4s = numba.float32[::1]
_leaves = numba.int32[::1]
_rows = numba.float32[:, ::1]
_arena = (_nodes, _f8, _f4s)
_pair = numba.types.UniTuple(_i8, 2)
SIGNATURES = {
    "select": _i8(*_arena, _i8[::1], _leaves, _i8, _bool, _f8, _leaves),
    "backup": numba.void(*_arena, _leaves, _f8, _f8),
    "absorb": _pair(*_arena, _i8[::1], _leaves, _rows, _f8, _bool, _f8),
    "step": _pair(*_arena, _i8[::1], _leaves, _i8, _f8, _leaves, _rows, _f8, _bool, _leaves),
}


@dataclass(frozen=True)
class Rule:
    """A selection rule with its numbers. Two rules of one `name` share compiled code.

    params  index -> number, see `search.tree.descent_kernels`
    notes   whether it needs to know a number of each node, which is its value in a `Forest`
    """

    name: str
    prepare: Callable[..., Any]
    score: Callable[..., Any]
    params: tuple[tuple[int, float], ...]
    notes: bool = False

    def array(self, players: int, discount: float, widen: float = 0.0) -> np.ndarray:
        """float64 [PARAMS] for the kernels."""
        values = np.zeros(PARAMS)
        for index, number in self.params:
            values[index] = number
        values[PLAYERS] = players
        values[DISCOUNT] = discount
        values[WIDEN] = widen
        return values

    def number(self, index: int) -> float:
        """One of `params`, 0 where the rule has none."""
        return dict(self.params).get(index, 0.0)

    @property
    def kernels(self) -> Kernels:
        """Compiled at first use, from the cache where they are there."""
        return _compiled(self.name, self.prepare, self.score)


@functools.cache
def _compiled(name: str, prepare: Callable[..., Any], score: Callable[..., Any]) -> Kernels:
    names = {**vars(descent_kernels), **vars(batch_kernels)}
    name = f"{name}_{digest(prepare, score, batch_kernels.select, *descent_kernels.SOURCES)}"
    for part, function in (("prepare", prepare), ("score", score)):
        names[part] = numba.njit(inline="always", error_model="numpy")(function)
    for part in _INNER:
        names[part] = inner(bind(getattr(descent_kernels, part), names, f"{part}_{name}"))
    for outer in SIGNATURES:
        bound = bind(getattr(batch_kernels, outer), names, f"{outer}_{name}")
        names[outer] = kernel(SIGNATURES[outer])(bound)
    return Kernels(*(names[outer] for outer in SIGNATURES), names)


def _number(name: str, value: float, low: float = 0.0) -> float:
    if not (math.isfinite(value) and value >= low):
        raise ValueError(
            f"{name}={value} must be a number from {low:g} on: correct the selection rule"
        )
    return float(value)


def puct(c: float = 1.25, fpu_reduction: float = 0.0) -> Rule:
    """Q + c sqrt(N) P / (1 + n), AlphaGo's constant c (Silver et al. 2016; Rosin 2011)."""
    numbers = ((C, _number("c", c)), (REDUCTION, _number("fpu_reduction", fpu_reduction)))
    return Rule("puct", _plain, _puct, numbers)


def alphazero(
    init: float = 1.25, base: float = 19_652.0, fpu_reduction: float = 0.0, normalise: bool = False
) -> Rule:
    """PUCT with c(s) = init + log((1 + N + base) / base), the constants of AlphaZero (Silver et al.
    2018).

    normalise  Q of a taken edge is scaled to [0, 1] between the lowest and highest of its siblings
               and their parent, and 0 where it was not taken, as MuZero scales where the range of
               values is unknown (Schrittwieser et al. 2020)
    """
    numbers = (
        (C, _number("init", init)),
        (BASE, _number("base", base, 1e-9)),
        (REDUCTION, _number("fpu_reduction", fpu_reduction)),
    )
    if normalise:
        return Rule("normalised", _between, _normalised, numbers)
    return Rule("alphazero", _growing, _puct, numbers)


def ucb1(c: float = math.sqrt(2)) -> Rule:
    """Q + c sqrt(log N / n); untaken edges first, the likeliest of them before (Auer et al.
    2002; as UCT: Kocsis and Szepesvari 2006).
    """
    return Rule("ucb1", _log, _ucb1, ((C, _number("c", c)),))


def gumbel(value_scale: float = 0.1, visit_floor: float = 50.0) -> Rule:
    """The policy improved by completed Q, less the visits (Danihelka et al. 2022, eq. 14); at the
    root see `search.tree.sequential_halving`.

    sigma(q) = (visit_floor + most visits) value_scale q, where q is scaled to [0, 1] between the
    completed Q of the node's edges; that of an untaken edge is the mix of the node's own value and
    those of its taken edges (their eq. 33).
    """
    numbers = (
        (SCALE, _number("value_scale", value_scale)),
        (FLOOR, _number("visit_floor", visit_floor)),
    )
    return Rule("gumbel", _completed, _improved, numbers, notes=True)


def dirichlet(rng: np.random.Generator, choices: int) -> np.ndarray:
    """Noise for the priors of a root with `choices` edges: float64 [choices], sum 1, drawn with
    concentration 10 / choices (AlphaZero, Silver et al. 2018, has 0.3 in chess, 0.03 in Go: about
    10 over the legal moves).
    """
    return rng.dirichlet(np.full(choices, 10 / choices))
