"""Training data for Countdown: random solution paths, and labelled steps for a value head.

An example is a problem with a small tree of steps below it: solution paths, which are to be
imitated, and other legal steps, which are only judged. Whether the target can still be reached from
the numbers left is known exactly, by brute force, and is the value's label. Only non-negative whole
intermediate results up to `LIMIT` occur. A shard depends on nothing but its seed, its index and how
far the training has come.

Rules that every example keeps: its target is in 1..100 and in none of `HELD_OUT` (24 is the Game of
24, which is to stay a pure test; 36 and 50 are unseen targets to choose a recipe on), and its
canonical form belongs to the split "train".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from search.kernels.jit import kernel
from search.problems.countdown import OPERATORS, Countdown

TARGETS = 100  #: targets are 1 .. TARGETS
LIMIT = 999  #: largest intermediate result
HELD_OUT = (24, 36, 50)  #: never the target of an example
SIZES = {3: 0.08, 4: 0.80, 5: 0.12}  #: how many numbers: probability
RANGES = {13: 0.60, 25: 0.15, 100: 0.25}  #: numbers are drawn from 1 .. key: probability
#: from this share of the training on, while the learning rate falls, small numbers are drawn more
#: often:
LATE = 0.7
LATE_SIZES = {3: 0.04, 4: 0.90, 5: 0.06}
LATE_RANGES = {13: 0.85, 25: 0.05, 100: 0.10}
UNREACHABLE = 0.05  #: share of problems whose target cannot be reached
PATHS = 4  #: solution paths in an example; where they begin alike they are one
#: how many numbers: steps in an example, filled up with any legal steps
STEPS = {3: 10, 4: 16, 5: 20}

Segment = tuple[str, float, float, int]


def examples(seed: int, shard: int, count: int, progress: float = 0.0) -> Iterator[list[Segment]]:
    """`count` examples, each a tree of segments (text, weight, value, parent), deterministic in its
    arguments.

    `progress` in [0, 1]: how far the training has come when it reads them.

    Segment 0 is the prompt with its newline; the others are lines, newline included, each in the
    place after its parent (an earlier segment; -1 for the prompt). An empty text is the end of the
    text.
    weight  how much the text is to be imitated: the share of the solution paths drawn that go
            through it, in [0, 1]
    value   1.0 or 0.0: can the target be reached from the state at the segment's end; nan: no label
    """
    rng = np.random.default_rng((seed, shard))
    made = 0
    while made < count:
        alive = bool(rng.random() >= UNREACHABLE)
        problem = _draw(alive, progress, rng)
        if problem is not None:
            yield _tree(problem, alive, rng)
            made += 1


def solution_paths(problem: Countdown) -> int:
    """How many paths of different steps, through whole numbers 0 to `LIMIT` only, solve
    `problem`.
    """
    return int(
        _paths(_work(np.array(sorted(problem.numbers))), 0, len(problem.numbers), problem.target)
    )


def _draw(alive: bool, progress: float, rng: np.random.Generator) -> Countdown | None:
    """A problem of the training split, or None: draw again. Targets are uniform among those that
    can (or cannot) be reached.
    """
    late = progress >= LATE
    sizes = LATE_SIZES if late else SIZES
    ranges = LATE_RANGES if late else RANGES
    size = rng.choice(list(sizes), p=list(sizes.values()))
    largest = rng.choice(list(ranges), p=list(ranges.values()))
    numbers = np.sort(rng.integers(1, largest + 1, size))
    counts = np.zeros(TARGETS + 1)
    _count(_work(numbers), 0, size, counts)
    wanted = (counts > 0) == alive
    wanted[0] = False
    wanted[list(HELD_OUT)] = False
    candidates = np.flatnonzero(wanted)
    if not len(candidates):
        return None
    problem = Countdown(tuple(numbers.tolist()), int(rng.choice(candidates)))
    return problem if problem.split() == "train" else None


def _tree(problem: Countdown, alive: bool, rng: np.random.Generator) -> list[Segment]:
    """`PATHS` solution paths, drawn each alike, and then single legal steps from any state of
    the tree.
    """
    states = [np.array(sorted(problem.numbers))]
    segments: list[Segment] = [(problem.prompt(problem.initial()) + "\n", 0.0, float(alive), -1)]
    options: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    children: dict[tuple[int, int], int] = {}

    def take(node: int, winning: bool) -> int:
        """Go from `node` to a child, made if it is not there: along a solution path, or by any
        legal step.
        """
        if node not in options:
            steps = np.zeros((100, 4), np.int64)
            paths = np.zeros(100)
            legal = _steps(_work(states[node]), 0, len(states[node]), problem.target, paths, steps)
            options[node] = steps[:legal], paths[:legal]
        steps, paths = options[node]
        total = np.cumsum(paths) if winning else np.arange(1, len(steps) + 1)
        pick = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        if (node, pick) not in children:
            children[node, pick] = len(segments)
            a, operator, b, result = steps[pick].tolist()
            rest = states[node].tolist()
            rest.remove(a)
            rest.remove(b)
            states.append(np.array(sorted([*rest, result])))
            segments.append(
                (f"{a}{OPERATORS[operator]}{b}={result}\n", 0.0, float(paths[pick] > 0), node)
            )
        return children[node, pick]

    node = 0
    for _ in range(PATHS if alive else 0):
        node = 0
        while len(states[node]) > 1:
            node = take(node, winning=True)
            text, weight, value, parent = segments[node]
            segments[node] = text, weight + 1 / PATHS, value, parent
    end = node
    for _ in range(10 * PATHS):
        if len(segments) > STEPS[len(problem.numbers)]:
            break
        node = int(rng.integers(len(segments)))
        if len(states[node]) > 1:
            take(node, winning=False)
    if alive:
        segments.append(("", 1.0, float("nan"), end))
    return segments


def _work(numbers: np.ndarray) -> np.ndarray:
    """int64 [numbers + 1, numbers]; row i holds the numbers left after i steps."""
    work = np.zeros((len(numbers) + 1, len(numbers)), np.int64)
    work[0] = numbers
    return work


@kernel("int64(int64, int64, int64)")
def _result(a: int, operator: int, b: int) -> int:
    """a operator b for a >= b >= 0 (0 +, 1 -, 2 *, 3 /), or -1: not a whole number, or above
    LIMIT.
    """
    if operator == 0:
        c = a + b
    elif operator == 1:
        c = a - b
    elif operator == 2:
        c = a * b
    elif b > 0 and a % b == 0:
        c = a // b
    else:
        return -1
    return c if c <= LIMIT else -1


@kernel("int64(int64[:, ::1], int64, int64, int64, int64, int64)")
def _reduce(work: np.ndarray, depth: int, n: int, i: int, j: int, c: int) -> int:
    """Write row depth + 1: row depth without entries i and j, with c. Returns its length."""
    k = 0
    for m in range(n):
        if m != i and m != j:
            work[depth + 1, k] = work[depth, m]
            k += 1
    work[depth + 1, k] = c
    return k + 1


@kernel("boolean(int64[:, ::1], int64, int64, int64, int64)")
def _repeated(work: np.ndarray, depth: int, n: int, i: int, j: int) -> bool:
    """True if an earlier pair of row `depth` holds the same two values as entries i < j."""
    a, b = work[depth, i], work[depth, j]
    for p in range(i + 1):
        for q in range(p + 1, j if p == i else n):
            x, y = work[depth, p], work[depth, q]
            if (x == a and y == b) or (x == b and y == a):
                return True
    return False


@kernel("void(int64[:, ::1], int64, int64, float64[::1])")
def _count(work: np.ndarray, depth: int, n: int, counts: np.ndarray) -> None:
    """Add to counts[t], for t below its length, the paths of different steps from row `depth` (n
    numbers) to t.
    """
    if n == 1:
        if work[depth, 0] < len(counts):
            counts[work[depth, 0]] += 1
        return
    for i in range(n):
        for j in range(i + 1, n):
            if n > 2 and _repeated(work, depth, n, i, j):
                continue
            a, b = max(work[depth, i], work[depth, j]), min(work[depth, i], work[depth, j])
            for operator in range(4):
                c = _result(a, operator, b)
                if c >= 0:
                    _count(work, depth + 1, _reduce(work, depth, n, i, j, c), counts)


@kernel("float64(int64[:, ::1], int64, int64, int64)")
def _paths(work: np.ndarray, depth: int, n: int, target: int) -> float:
    """How many paths of different steps lead from row `depth` (n numbers) to the target."""
    if n == 1:
        return 1.0 if work[depth, 0] == target else 0.0
    total = 0.0
    for i in range(n):
        for j in range(i + 1, n):
            if n > 2 and _repeated(work, depth, n, i, j):
                continue
            a, b = max(work[depth, i], work[depth, j]), min(work[depth, i], work[depth, j])
            for operator in range(4):
                c = _result(a, operator, b)
                if c >= 0:
                    total += _paths(work, depth + 1, _reduce(work, depth, n, i, j, c), target)
    return total


@kernel("int64(int64[:, ::1], int64, int64, int64, float64[::1], int64[:, ::1])")
def _steps(
    work: np.ndarray, depth: int, n: int, target: int, paths: np.ndarray, steps: np.ndarray
) -> int:
    """Write the different legal steps (a, operator, b, result), a >= b, and the solution paths
    behind each. Returns how many.
    """
    k = 0
    for i in range(n):
        for j in range(i + 1, n):
            if _repeated(work, depth, n, i, j):
                continue
            a, b = max(work[depth, i], work[depth, j]), min(work[depth, i], work[depth, j])
            for operator in range(4):
                c = _result(a, operator, b)
                if c >= 0:
                    paths[k] = _paths(work, depth + 1, _reduce(work, depth, n, i, j, c), target)
                    steps[k, 0] = a
                    steps[k, 1] = operator
                    steps[k, 2] = b
                    steps[k, 3] = c
                    k += 1
    return k
