"""What verifiers say of stored chains, and the tables of `benchmarks.verifiers.train`: who
selects the better answer among N?
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.sweep import statistics
from benchmarks.verifiers import selection
from benchmarks.verifiers.selection import Samples
from guides.data.grading import Graded, Replay, checker_of
from guides.data.holdout import Held, held_of, read_values
from guides.data.labels import Labels
from guides.data.trace_tokens import TraceReader
from guides.training.metrics import auroc
from search.scheduling.scheduler import run
from search.trace import Trace

log = logging.getLogger(__name__)

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
        table = np.array([[aggregate(one) for one in steps] for aggregate in AGGREGATES.values()])
        part = path.with_name(f".{path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, table)
        part.rename(path)
        del loaded
        unload(verifier)
        log.info("%s", path)
    return np.load(path)


class Pool:
    """The samples of a split, problem by problem, with any number of values for each."""

    def __init__(self, held: Held):
        clean, owner = held.k[held.ends] == 1.0, held.problems[held.ends]
        # of each problem: the chains of its samples, and how many ended unfinished
        self.rows: list[tuple[np.ndarray, int]] = []
        self.samples: list[Samples] = []
        for problem, lost in enumerate(held.lost.tolist()):
            own = np.flatnonzero(owner == problem)
            chains = np.repeat(own, held.times[own])
            said = held.answers[chains]
            answers = np.where(said < 0, -1, np.searchsorted(np.unique(said[said >= 0]), said))
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
        ones = [np.ones((1, len(samples.answers))) for samples in self.samples]
        return {
            "pass": np.array(
                [selection.passed(samples.right, self.sizes) for samples in self.samples]
            ),
            "steps": np.array(
                [selection.passed(samples.clean, self.sizes) for samples in self.samples]
            ),
            "majority": np.array(
                [
                    selection.votes(s, w, self.sizes, i)[0]
                    for i, (s, w) in enumerate(zip(self.samples, ones, strict=True))
                ]
            ),
        }

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
        found = [
            selection.flawed(
                samples,
                self.spread(weights[None], i, 0.0)[0],
                self.spread(scores[None], i, -1.0)[0],
                AT,
                i,
            )
            for i, samples in enumerate(self.samples)
        ]
        return np.array([right for right, _ in found]), np.array([wrong for _, wrong in found])


def choices(pool: Pool, values: Mapping[str, np.ndarray]) -> tuple[dict[tuple[str, str], str], str]:
    """(kind, chooser) -> the aggregate that is best for it at `AT` samples of the validation
    problems, over all seeds; the table of them.

    values  kind -> float64 [seeds, aggregates, chains] of the validation split
    """
    chosen, at, names = {}, pool.sizes.index(AT), list(AGGREGATES)
    lines = [
        f"| validation, per cent at N = {AT} | " + " | ".join(names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]
    for kind, table in values.items():
        rates = (
            pool.rates(table.reshape(-1, table.shape[-1]))[..., at]
            .mean(axis=-1)
            .reshape(len(CHOOSERS), *table.shape[:2])
        )
        for chooser, rate in zip(CHOOSERS, rates.mean(axis=1), strict=True):
            chosen[kind, chooser] = names[int(rate.argmax())]
            lines.append(
                f"| {kind} {chooser} | " + " | ".join(f"{100 * share:.1f}" for share in rate) + " |"
            )
    return chosen, "\n".join(lines) + "\n"


def report(
    pool: Pool, values: Mapping[str, np.ndarray], chosen: Mapping[tuple[str, str], str]
) -> str:
    """Markdown. values: kind -> float64 [seeds, aggregates, chains] of the test split."""
    names, plain = list(AGGREGATES), pool.plain()
    picked = {key: values[key[0]][:, names.index(aggregate)] for key, aggregate in chosen.items()}
    rates = {
        (kind, how): pool.rates(table)[CHOOSERS.index(how)].transpose(1, 0, 2)
        for (kind, how), table in picked.items()
    }
    lines = ["AUROC within a problem, per cent: the answer is right; every step is right, too", ""]
    for kind in values:
        both = [pool.told_apart(picked[kind, "best"], clean) for clean in (False, True)]
        told = "; ".join(str(_interval(one[:, ~np.isnan(one).any(axis=0)].T)) for one in both)
        lines.append(f"* {kind} ({chosen[kind, 'best']}): {told}")
    columns = {name: table[:, None, :] for name, table in plain.items()}
    columns |= {f"{kind} {how} ({chosen[kind, how]})": rates[kind, how] for kind, how in rates}
    lines += ["", "| N | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for i, size in enumerate(pool.sizes):
        lines.append(
            f"| {size} | "
            + " | ".join(str(_interval(table[..., i])) for table in columns.values())
            + " |"
        )
    lines += ["", f"Paired differences in points, at N = {AT} where nothing else is said", ""]
    lines += [
        f"* {name}: {_interval(table).signed}"
        for name, table in _differences(pool.sizes, plain["majority"], rates).items()
    ]
    lines += [
        "",
        f"Trace error: chains with a wrong step among those chosen at N = {AT} with a right "
        "answer, per cent",
        "",
    ]
    lines += [f"* {name}: {100 * share:.1f}" for name, share in _trace_errors(pool, picked).items()]
    return "\n".join(lines) + "\n"


def _differences(
    sizes: Sequence[int], majority: np.ndarray, rates: Mapping[tuple[str, str], np.ndarray]
) -> dict[str, np.ndarray]:
    """float64 [problems, seeds] by name, of rates [problems, seeds, sizes]."""
    at, early = sizes.index(AT), sizes.index(4)
    found = {
        f"{kind} {how} - majority": table[..., at] - majority[:, None, at]
        for (kind, how), table in rates.items()
    }
    kinds = list(dict.fromkeys(kind for kind, _ in rates))
    for how in CHOOSERS:
        for kind in [kind for kind in kinds if kind != "orm" and "orm" in kinds]:
            gap = rates[kind, how] - rates["orm", how]
            found[f"{kind} - orm, {how}"] = gap[..., at]
            found[f"{kind} - orm, {how}, gap({AT}) - gap(4)"] = gap[..., at] - gap[..., early]
        if {"rollouts", "exact"} <= set(kinds):
            found[f"rollouts - exact, {how}"] = (
                rates["rollouts", how][..., at] - rates["exact", how][..., at]
            )
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
            found[f"{kind} weighted"] = float(
                np.mean([_share(*pool.trace_error(scores, scores)) for scores in table])
            )
        else:
            at = [AT]
            right, clean = (
                np.mean(
                    [
                        [selection.best(s, good(x), at)[0] for s in pool.spread(table, i, -1.0)]
                        for i, x in enumerate(pool.samples)
                    ]
                )
                for good in (lambda x: x.right, lambda x: x.clean)
            )
            found[f"{kind} best"] = float((right - clean) / right)
    return found


def _share(right: np.ndarray, flawed: np.ndarray) -> float:
    return float(flawed.sum() / max(right.sum(), 1e-9))


def _interval(table: np.ndarray) -> statistics.Interval:
    """In per cent, over problems, and over seeds too where there are several. float [problems]
    or [problems, seeds].
    """
    return (
        statistics.bootstrap(
            table, two_level=table.ndim == 2 and table.shape[1] > 1, resamples=2_000
        )
        * 100
    )


def complete(out: Path, kinds: Sequence[str]) -> dict[str, list[Path]]:
    """The verifiers KIND-SEED in `out` that are complete, kind -> by seed; only seeds that all
    kinds with any have.
    """
    found: dict[str, dict[int, Path]] = {kind: {} for kind in kinds}
    for path in out.glob("*-*/training.json"):
        kind, _, seed = path.parent.name.rpartition("-")
        if kind in found and seed.isdigit():
            found[kind][int(seed)] = path.parent
    some = {kind: own for kind, own in found.items() if own}
    shared = sorted(set.intersection(*map(set, some.values()))) if some else []
    return {kind: [own[seed] for seed in shared] for kind, own in some.items() if shared}
