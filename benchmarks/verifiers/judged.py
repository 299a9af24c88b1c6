"""What verifiers say of stored chains, and the tables of `benchmarks.verifiers.train`: who
selects the better answer among N?
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.output import row as row_of
from benchmarks.output import table as markdown
from benchmarks.sweep import statistics
from benchmarks.verifiers import selection
from benchmarks.verifiers.selection import Samples
from guides.data.grading import Graded, Replay, checker_of
from guides.data.holdout import Held, held_of, read_values
from guides.data.labels import Labels
from guides.data.trace_tokens import TraceReader
from guides.training.metrics import auroc
from search.files.atomic import atomic
from search.scheduling.driver import run
from search.trace import Trace

log = logging.getLogger(f"copse.{__name__}")

#: from the values of a chain's steps to one of the chain
AGGREGATES = {
    "last": lambda v: v[-1],
    "min": min,
    "prod": lambda v: float(np.prod(v)),
    "mean": lambda v: float(np.mean(v)),
}
CHOOSERS = ("best", "weighted")
AT = 64  #: samples that verifiers are compared at


def chains_of(
    folder: Path, targets: Mapping[str, str], generator: Path, checker: str, path: Path
) -> Held:
    """The chains of a folder of traces with exact labels of their steps, kept in the file
    `path`.
    """
    if not path.exists():
        from models.checkpoints.checkpoint import describe

        judge = checker_of(checker)
        assert judge is not None
        reader = TraceReader(generator, describe(generator))
        graded = []
        for replay in map(Replay, Trace.load(folder)):
            outcomes = replay.grade(targets[replay.key])
            labels = Labels(replay.check(judge), np.full(len(outcomes), np.inf))
            prompt = reader.prompt(replay.problem)
            graded.append(Graded(replay, outcomes, outcomes, labels, prompt))
        held_of(graded).save(path)
    return Held.load(path)


def values_of(held: Held, verifier: Path, path: Path) -> np.ndarray:
    """float64 [aggregates, chains]: what the verifier's values of a chain's steps come to, kept
    in the file `path`.
    """
    if not path.exists():
        from guides.engines import load_engine, unload

        loaded = load_engine(verifier, slots=256)
        values = run(read_values(held, loaded.name), {loaded.name: loaded.engine})
        steps = [values[held.path(int(end))[1:]].tolist() for end in held.ends]
        rows = [list(map(aggregate, steps)) for aggregate in AGGREGATES.values()]
        with atomic(path) as part, part.open("wb") as file:
            np.save(file, np.array(rows))
        del loaded
        unload(verifier)
        log.info("%s", path)
    return np.load(path)


class Pool:
    """The samples of a split, problem by problem, with any number of values for each."""

    def __init__(self, held: Held):
        clean = held.k[held.ends] == 1.0
        owner = held.problems[held.ends]
        # of each problem: the chains of its samples, and how many ended unfinished
        self.rows: list[tuple[np.ndarray, int]] = []
        self.samples: list[Samples] = []
        for problem, lost in enumerate(held.lost.tolist()):
            own = np.flatnonzero(owner == problem)
            chains = np.repeat(own, held.times[own])
            given = held.answers[chains]
            classes = np.unique(given[given >= 0])
            answers = np.where(given < 0, -1, np.searchsorted(classes, given))
            none = np.zeros(lost, bool)
            self.rows.append((chains, lost))
            self.samples.append(
                Samples(
                    np.concatenate([answers, np.full(lost, -1)]),
                    np.concatenate([held.right[chains], none]),
                    np.concatenate([held.right[chains] & clean[chains], none]),
                )
            )
        count = min(len(samples.answers) for samples in self.samples)
        self.sizes = [2**i for i in range(count.bit_length())]

    def spread(self, values: np.ndarray, problem: int, lost: float) -> np.ndarray:
        """float64 [ways, N] of a problem's samples, from float [ways, chains]; `lost` for those
        that ended unfinished.
        """
        chains, missing = self.rows[problem]
        return np.concatenate([values[:, chains], np.full((len(values), missing), lost)], axis=1)

    def rates(self, values: np.ndarray) -> np.ndarray:
        """float64 [choosers, ways, problems, sizes]: how often what is chosen by values [ways,
        chains] is right.
        """
        table = np.empty((len(CHOOSERS), len(values), len(self.samples), len(self.sizes)))
        for i, samples in enumerate(self.samples):
            for way, scores in enumerate(self.spread(values, i, -1.0)):
                table[0, way, i] = selection.best(scores, samples.right, self.sizes)
            table[1, :, i] = selection.votes(samples, self.spread(values, i, 0.0), self.sizes, i)
        return table

    def plain(self) -> dict[str, np.ndarray]:
        """float64 [problems, sizes] each: "pass", "steps" (pass where every step must be right,
        too) and "majority".
        """
        rates: dict[str, list[np.ndarray]] = {"pass": [], "steps": [], "majority": []}
        for i, samples in enumerate(self.samples):
            ones = np.ones((1, len(samples.answers)))
            rates["pass"].append(selection.passed(samples.right, self.sizes))
            rates["steps"].append(selection.passed(samples.clean, self.sizes))
            rates["majority"].append(selection.votes(samples, ones, self.sizes, i)[0])
        return {name: np.array(rows) for name, rows in rates.items()}

    def told_apart(self, values: np.ndarray, clean: bool = False) -> np.ndarray:
        """float64 [ways, problems]: the AUROC of values [ways, chains] within each problem; nan
        where all or none are right.
        """
        table = np.empty((len(values), len(self.samples)))
        for i, ((chains, _), samples) in enumerate(zip(self.rows, self.samples, strict=True)):
            good = (samples.clean if clean else samples.right)[: len(chains)]
            table[:, i] = [auroc(scores, good) for scores in values[:, chains]]
        return table

    def trace_error(self, weights: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64 [problems] each, for one way at `AT` samples: chosen chains with a right
        answer, and those with a wrong step, too.
        """
        rows = []
        for i, samples in enumerate(self.samples):
            own_weights = self.spread(weights[None], i, 0.0)[0]
            own_scores = self.spread(scores[None], i, -1.0)[0]
            rows.append(selection.flawed(samples, own_weights, own_scores, AT, i))
        right, wrong = np.array(rows).T
        return right, wrong

    def chosen_right(self, table: np.ndarray) -> tuple[float, float]:
        """How often the best-scored of `AT` samples has a right answer, and right steps, too.
        table: float64 [seeds, chains], scores.
        """
        right = []
        clean = []
        for i, samples in enumerate(self.samples):
            for scores in self.spread(table, i, -1.0):
                right.append(selection.best(scores, samples.right, [AT])[0])
                clean.append(selection.best(scores, samples.clean, [AT])[0])
        return float(np.mean(right)), float(np.mean(clean))


def choices(pool: Pool, values: Mapping[str, np.ndarray]) -> tuple[dict[tuple[str, str], str], str]:
    """(kind, chooser) -> the aggregate that is best for it at `AT` samples of the validation
    problems, over all seeds; the table of them.

    values  kind -> float64 [seeds, aggregates, chains] of the validation split
    """
    chosen = {}
    at = pool.sizes.index(AT)
    names = list(AGGREGATES)
    lines = [row_of([f"validation, per cent at N = {AT}", *names])]
    for kind, table in values.items():
        rates = pool.rates(table.reshape(-1, table.shape[-1]))[..., at].mean(axis=-1)
        rates = rates.reshape(len(CHOOSERS), *table.shape[:2])
        for chooser, rate in zip(CHOOSERS, rates.mean(axis=1), strict=True):
            chosen[kind, chooser] = names[int(rate.argmax())]
            lines.append(row_of([f"{kind} {chooser}", *map("{:.1f}".format, 100 * rate)]))
    return chosen, markdown(lines) + "\n"


def report(
    pool: Pool, values: Mapping[str, np.ndarray], chosen: Mapping[tuple[str, str], str]
) -> str:
    """Markdown. values: kind -> float64 [seeds, aggregates, chains] of the test split."""
    names = list(AGGREGATES)
    plain = pool.plain()
    columns = {name: rate[:, None, :] for name, rate in plain.items()}
    picked: dict[tuple[str, str], np.ndarray] = {}
    rates: dict[tuple[str, str], np.ndarray] = {}
    for (kind, how), aggregate in chosen.items():
        scores = values[kind][:, names.index(aggregate)]
        picked[kind, how] = scores
        rates[kind, how] = pool.rates(scores)[CHOOSERS.index(how)].transpose(1, 0, 2)
        columns[f"{kind} {how} ({aggregate})"] = rates[kind, how]
    lines = ["AUROC within a problem, per cent: the answer is right; every step is right, too", ""]
    for kind in values:
        areas = []
        for clean in (False, True):
            area = pool.told_apart(picked[kind, "best"], clean)
            areas.append(str(_interval(area[:, ~np.isnan(area).any(axis=0)].T)))
        lines.append(f"* {kind} ({chosen[kind, 'best']}): {'; '.join(areas)}")
    rows = [row_of(["N", *columns])]
    for i, size in enumerate(pool.sizes):
        cells = [str(_interval(rate[..., i])) for rate in columns.values()]
        rows.append(row_of([str(size), *cells]))
    lines += ["", markdown(rows)]
    lines += ["", f"Paired differences in points, at N = {AT} unless stated otherwise", ""]
    for name, gains in _differences(pool.sizes, plain["majority"], rates).items():
        lines.append(f"* {name}: {_interval(gains).signed}")
    lines += [
        "",
        f"Trace error: chains with a wrong step among those chosen at N = {AT} with a right "
        "answer, per cent",
        "",
    ]
    for name, share in _trace_errors(pool, picked).items():
        lines.append(f"* {name}: {100 * share:.1f}")
    return "\n".join(lines) + "\n"


def _differences(
    sizes: Sequence[int], majority: np.ndarray, rates: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, np.ndarray]:
    """float64 [problems, seeds] by name, of rates [problems, seeds, sizes]."""
    at = sizes.index(AT)
    early = sizes.index(4)
    found: dict[str, np.ndarray] = {}
    for (kind, how), table in rates.items():
        found[f"{kind} {how} - majority"] = table[..., at] - majority[:, None, at]
    kinds = list(dict.fromkeys(kind for kind, _ in rates))
    for how in CHOOSERS:
        for kind in kinds:
            if kind == "orm" or "orm" not in kinds:
                continue
            gap = rates[kind, how] - rates["orm", how]
            found[f"{kind} - orm, {how}"] = gap[..., at]
            found[f"{kind} - orm, {how}, gap({AT}) - gap(4)"] = gap[..., at] - gap[..., early]
        if {"rollouts", "exact"} <= set(kinds):
            gap = rates["rollouts", how] - rates["exact", how]
            found[f"rollouts - exact, {how}"] = gap[..., at]
    return found


def _trace_errors(pool: Pool, picked: Mapping[tuple[str, str], np.ndarray]) -> dict[str, float]:
    """By name; majority gives any chain of its answer, a verifier the best-scored of them,
    "best" the best-scored of all.
    """
    same = np.ones(picked[next(iter(picked))].shape[-1])
    noise = np.random.default_rng(0).random(len(same))
    found = {"majority": _share(*pool.trace_error(same, noise))}
    for (kind, how), table in picked.items():
        if how == "weighted":
            shares = [_share(*pool.trace_error(scores, scores)) for scores in table]
            found[f"{kind} weighted"] = float(np.mean(shares))
        else:
            right, clean = pool.chosen_right(table)
            found[f"{kind} best"] = (right - clean) / right
    return found


def _share(right: np.ndarray, flawed: np.ndarray) -> float:
    return float(flawed.sum() / max(right.sum(), 1e-9))


def _interval(table: np.ndarray) -> statistics.Interval:
    """In per cent, over problems, and over seeds too where there are several. float [problems]
    or [problems, seeds].
    """
    several = table.ndim == 2 and table.shape[1] > 1
    return statistics.bootstrap(table, two_level=several, resamples=2_000) * 100


def complete(out: Path, kinds: Sequence[str]) -> dict[str, list[Path]]:
    """The verifiers KIND-SEED in `out` that are complete, kind -> by seed; only seeds that all
    kinds with any have.
    """
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in out.glob("*-*/training.json"):
        kind, _, seed = path.parent.name.rpartition("-")
        if kind in kinds and seed.isdigit():
            found[kind][int(seed)] = path.parent
    shared = sorted(set.intersection(*map(set, found.values()))) if found else []
    folders: dict[str, list[Path]] = {}
    for kind in filter(found.__contains__, kinds):
        if shared:
            folders[kind] = [found[kind][seed] for seed in shared]
    return folders
