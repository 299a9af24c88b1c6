"""Our engine beside vLLM, llama.cpp and `generate` on a real model: decoding, and expanding leaves.

    python -m benchmarks.engine.rivals --model FOLDER --gguf FILE --llama-server PATH \
        --vllm-python PATH --out rivals.csv

Every engine has a process and one thread of its own and continues the same token ids, in turn with
the others; medians, with the smallest and the largest in brackets. Texts are slices of Python's
standard library. All have been read before ("reading"); a run continues them behind one token that
differs from run to run, so that no engine finds its own last continuation.

    decode  greedy, `--new` tokens behind contexts of `--context` that share nothing; a multiple
            of 128, for vLLM caches blocks of 128 tokens and reads the rest again
    expand  `--kids` continuations of `--step` tokens at temperature 1 from each of `--leaves`
            texts of `--leaf-context` tokens, of which they share `--shared`; a `--spread` makes
            them unequal, as leaves are, so that they do not end where a cache's blocks do

CPU seconds are user and system time of the engine's processes. "equal" compares greedy tokens with
those of the first engine, `generate` unless it is left out: rows that are the same to the end, and
where the others part in the middle.
"""

from __future__ import annotations

import logging
import math
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import filterfalse
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.engine.rival_processes import ROOT, Engine, Failed, Rival, Watch, resident, start
from benchmarks.engine.texts import parting
from benchmarks.output import row, table, write_csv

log = logging.getLogger(f"copse.{__name__}")

VARIATIONS = ("the", "if", "for", "return", "not", "in", "and", "def", "import", "while", "or", "a")
SOURCES = ("argparse", "ast", "tarfile", "typing", "doctest", "inspect", "pdb", "logging")

Text = list[int]


@dataclass(frozen=True)
class Work:
    """Texts to continue at once.

    contexts  what has been read before;  copies: continuations of each;  new: tokens of each
    sizes     how many of the contexts, from the first, a run takes; every one is measured
    """

    name: str
    contexts: list[Text]
    copies: int
    new: int
    temperature: float
    sizes: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Sequences at once, at most."""
        return self.copies * max(self.sizes)

    @property
    def tokens(self) -> int:
        """Of the longest sequence, with the token that differs from run to run."""
        return max(map(len, self.contexts)) + 1 + self.new


@dataclass(frozen=True)
class Measured:
    """One run of one engine. rows: sequences; tokens: generated; resident: bytes, after it.

    same    share of rows that are as by the first engine to the end, nan if none are compared
    parts   median place of the first other token among the other rows, from 0; nan without one
    """

    work: str
    engine: str
    rows: int
    turn: int
    tokens: int
    seconds: float
    cpu: float
    resident: int
    same: float = math.nan
    parts: float = math.nan


# -- texts


def slices(tokens: Sequence[int], count: int, length: int, begin: int = 0) -> list[Text]:
    """`count` pieces of `length` tokens in a row. Raises ValueError if there are fewer."""
    if len(tokens) < begin + count * length:
        raise ValueError(f"{count} texts of {length} tokens are more than there are: ask for less")
    places = range(begin, begin + count * length, length)
    return [list(tokens[place : place + length]) for place in places]


def works(
    tokens: Sequence[int],
    rows: Sequence[int],
    context: int,
    new: int,
    leaves: int,
    kids: int,
    shared: int,
    leaf_context: int,
    step: int,
    spread: int = 0,
) -> dict[str, Work]:
    """What is measured, by its name. spread: leaves are so many tokens shorter to longer."""
    apart = slices(tokens, max(rows), context)
    trunk = slices(tokens, 1, shared, begin=max(rows) * context)[0]
    longest = leaf_context - shared + spread
    own = slices(tokens, leaves, longest, begin=max(rows) * context + shared)
    grown = []
    for leaf, end in enumerate(own):
        less = 2 * spread * leaf // max(1, leaves - 1)
        grown.append(trunk + end[: longest - less])
    return {
        "decode": Work("decode", apart, 1, new, 0.0, tuple(rows)),
        "expand": Work("expand", grown, kids, step, 1.0, (leaves,)),
    }


def library(tokenizer: Any, modules: Sequence[str] = SOURCES) -> list[int]:
    """Token ids of modules of Python's standard library."""
    import importlib.util

    tokens: list[int] = []
    for name in modules:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            tokens += tokenizer.encode(Path(spec.origin).read_text()).ids
    return tokens


# -- measuring


def measured(
    work: Work, engines: Sequence[Engine], behind: Sequence[int], rounds: int
) -> Iterator[Measured]:
    """Runs of all engines in turn; what fails is logged and left out from there on.

    behind  token ids, one a round, that a context is followed by; the last warms up
    """
    with ExitStack() as stack:
        running: dict[str, Rival] = {}
        for engine in engines:
            with _tolerated(running, engine.label):
                rival = start(engine, work.rows, work.tokens + 8)
                stack.callback(rival.close)
                running[engine.label] = rival
                log.info("%s: %s", engine.label, rival.about)
                yield _reading(work, rival)
                _run(work, rival, behind[-1], min(work.sizes), turn=-1, new=4)
        for turn in range(rounds):
            first: dict[int, list[Text]] = {}  # of the first engine that runs, by rows
            labels = [engine.label for engine in engines if engine.label in running]
            ahead = labels[:1] + _rotated(labels[1:], turn)
            for size in work.sizes:
                for label in ahead:
                    with _tolerated(running, label):
                        one, texts = _run(work, running[label], behind[turn], size, turn, work.new)
                        first.setdefault(size, texts)
                        if not work.temperature:
                            one = replace(one, **compared(texts, first[size]))
                        log.info("%s %d %s: %.1f s", work.name, one.rows, label, one.seconds)
                        yield one


def _reading(work: Work, rival: Rival) -> Measured:
    watch = Watch(rival.pid)
    rival.read(work.contexts)
    spent = watch.read()
    count = sum(map(len, work.contexts))
    name = f"{work.name}: reading"
    here = resident(rival.pid)
    return Measured(name, rival.label, len(work.contexts), 0, count, spent.seconds, spent.cpu, here)


def _run(
    work: Work, rival: Rival, behind: int, size: int, turn: int, new: int
) -> tuple[Measured, list[Text]]:
    prompts = [context + [behind] for context in work.contexts[:size]]
    rival.prepare(prompts, work.copies)
    watch = Watch(rival.pid)
    texts = rival.go_on(prompts, work.copies, new, work.temperature, seed=1000 * (turn + 1))
    spent = watch.read()
    if len(texts) != size * work.copies:
        raise Failed(f"{rival.label}: {len(texts)} texts came back of {size * work.copies}")
    count = sum(map(len, texts))
    here = resident(rival.pid)
    one = Measured(
        work.name, rival.label, len(texts), turn, count, spent.seconds, spent.cpu, here
    )  # fmt: skip
    return one, texts


class _tolerated:
    """What fails inside is logged, and its engine runs no more."""

    def __init__(self, running: dict[str, Rival], label: str):
        self.running = running
        self.label = label

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Failed):
            log.warning("not measured: %s", error)
            self.running.pop(self.label, None)
            return True
        return False


def _rotated(labels: list[str], turn: int) -> list[str]:
    """Another order each turn; the first engine, by which others are judged, stays ahead."""
    by = turn % len(labels) if labels else 0
    return labels[by:] + labels[:by]


def compared(texts: Sequence[Text], others: Sequence[Text]) -> dict[str, Any]:
    """`same` and `parts` of `Measured`. A text that ended early is compared as far as it goes."""
    places = list(map(parting, texts, others))
    parted = [place for place in places if place is not None]
    same = 1 - len(parted) / len(places)
    return {"same": same, "parts": statistics.median(parted) if parted else math.nan}


# -- telling


def lines(found: Sequence[Measured], base: str) -> list[str]:
    """A table's lines. base: label of the engine whose rates others are compared with."""
    names = "work, rows, engine, tokens/s, tokens/CPU s, times, of the CPU, MiB, equal"
    rendered = [row(names.split(", "))]
    groups: dict[tuple[str, int], dict[str, list[Measured]]] = {}
    for one in found:
        groups.setdefault((one.work, one.rows), {}).setdefault(one.engine, []).append(one)
    for (work, rows), engines in groups.items():
        ours = engines.get(base)
        for label, runs in engines.items():
            cells = [work, str(rows), label, _rate(runs, "seconds"), _rate(runs, "cpu")]
            for kind in ("seconds", "cpu"):
                cells.append(f"{_ratio(ours, runs, kind):.2f}" if ours else "-")
            resident_bytes = max(map(attrgetter("resident"), runs))
            cells += [f"{resident_bytes / 2**20:,.0f}", _equal(runs)]
            rendered.append(row(cells))
    return rendered


def rates(runs: Sequence[Measured], kind: str) -> list[float]:
    """Tokens a second, "seconds" or "cpu", of each run."""
    return [one.tokens / max(getattr(one, kind), 1e-9) for one in runs]


def _rate(runs: Sequence[Measured], kind: str) -> str:
    each = rates(runs, kind)
    spread = f" [{min(each):,.0f}, {max(each):,.0f}]" if len(each) > 1 else ""
    return f"{statistics.median(each):,.1f}{spread}"


def _ratio(ours: Sequence[Measured], runs: Sequence[Measured], kind: str) -> float:
    """Median over turns of our rate divided by another engine's in the same turn."""
    theirs = {one.turn: rate for one, rate in zip(runs, rates(runs, kind), strict=True)}
    ratios = []
    for one, rate in zip(ours, rates(ours, kind), strict=True):
        if one.turn in theirs:
            ratios.append(rate / theirs[one.turn])
    return statistics.median(ratios) if ratios else math.nan


def _equal(runs: Sequence[Measured]) -> str:
    same = list(filterfalse(math.isnan, map(attrgetter("same"), runs)))
    if not same:
        return ""
    parts = list(filterfalse(math.isnan, map(attrgetter("parts"), runs)))
    where = f", else from {statistics.median(parts):.0f}" if parts else ""
    return f"{100 * statistics.mean(same):.0f} %{where}"


# -- the command


def engines_of(
    model: str,
    dtypes: Sequence[str],
    sources: Sequence[str],
    gguf: Path | None,
    llama_server: str | None,
    vllm_python: str | None,
    extra: dict[str, str],
) -> list[Engine]:
    """`generate` first, which the others are compared with; then ours, then the rivals.

    sources  "LABEL=FOLDER", of code that is measured;  extra: environment of vLLM's process
    """
    made = [Engine(f"generate {dtype}", "generate", model, dtype) for dtype in dtypes]
    for named in sources:
        label, equals, folder = named.partition("=")
        if not equals or not (Path(folder) / "models").is_dir():
            raise typer.BadParameter(f"{named!r}: write LABEL=FOLDER of a folder with models in it")
        source = str(Path(folder).resolve())
        for dtype in dtypes:
            made.append(Engine(f"{label} {dtype}", "copse", model, dtype, source=source))
    if vllm_python:
        made.append(Engine("vllm bfloat16", "vllm", model, program=vllm_python, extra=extra))
    if llama_server and gguf:
        label = f"llama.cpp {gguf.stem}"
        made.append(Engine(label, "llama.cpp", str(gguf), program=llama_server))
    return made


def main(
    model: Annotated[Path, typer.Option(help="Folder of the model, as transformers reads it.")],
    gguf: Annotated[Path | None, typer.Option(help="The same model for llama.cpp.")] = None,
    llama_server: Annotated[str | None, typer.Option(help="The program llama-server.")] = None,
    vllm_python: Annotated[str | None, typer.Option(help="A Python that has vLLM.")] = None,
    vllm_preload: Annotated[str, typer.Option(help="Libraries to preload there, with :.")] = "",
    vllm_options: Annotated[str, typer.Option(help="More options of vllm.LLM, JSON.")] = "{}",
    source: Annotated[list[str] | None, typer.Option(help="Our code: LABEL=FOLDER.")] = None,
    dtypes: Annotated[str, typer.Option(help="Of ours and `generate`.")] = "bfloat16",
    work: Annotated[str, typer.Option(help="decode, expand.")] = "decode,expand",
    without: Annotated[str, typer.Option(help="Kinds of engine to leave out.")] = "",
    rows: Annotated[str, typer.Option(help="Sequences at once.")] = "1,16,64",
    context: Annotated[int, typer.Option(min=1)] = 256,
    new: Annotated[int, typer.Option(min=1)] = 64,
    leaves: Annotated[int, typer.Option(min=1)] = 32,
    kids: Annotated[int, typer.Option(min=1)] = 4,
    shared: Annotated[int, typer.Option(min=1)] = 300,
    leaf_context: Annotated[int, typer.Option(min=2)] = 400,
    spread: Annotated[int, typer.Option(min=0, help="Leaves are shorter, longer by it.")] = 0,
    step: Annotated[int, typer.Option(min=1)] = 12,
    rounds: Annotated[int, typer.Option(min=1, max=len(VARIATIONS) - 1)] = 3,
    out: Annotated[Path | None, typer.Option(help="Where to write all runs, as CSV.")] = None,
) -> None:
    """Measure engines side by side on one thread each; the table goes to stdout."""
    from tokenizers import Tokenizer

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)  # engines are closed on the way out
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    sizes = list(map(int, rows.split(",")))
    texts = library(tokenizer)
    by_name = works(texts, sizes, context, new, leaves, kids, shared, leaf_context, step, spread)
    behind = [tokenizer.encode(f" {word}").ids[-1] for word in VARIATIONS]
    extra = {"RIVAL_VLLM": vllm_options, "LD_PRELOAD": vllm_preload}
    sources = source or [f"copse={ROOT}"]
    chosen = (str(model), dtypes.split(","), sources, gguf, llama_server, vllm_python, extra)
    engines = [one for one in engines_of(*chosen) if one.kind not in without.split(",")]
    found: list[Measured] = []
    for name in work.split(","):
        for one in measured(by_name[name], engines, behind, rounds):
            found.append(one)
            if out is not None:
                write_csv(out, found)
    base = ""
    for engine in reversed(engines):
        if engine.kind == "copse":
            base = engine.label
    typer.echo(table(lines(found, base)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    typer.run(main)
