r"""The checker on what models wrote, beside Math-Verify and the string rules of harnesses: who
agrees with the published verdicts, and how fast.

    python -m benchmarks.answers.outputs outputs/ --read benchmarks/log/2026-11-30-model-outputs.csv
    python -m benchmarks.answers.outputs outputs/ --differences differences.csv

The folder holds files of JSON lines (`gsm8k.jsonl.gz` and so on), each with the target "gt", the
chain "code" and the published evaluator's verdict "score". Published verdicts err, too. So
differences are read by a person: the file of `--read` says of each what is true ("right", "wrong",
or "open" where the target itself is in doubt) and why. All others count as published.
"""

from __future__ import annotations

import argparse
import collections
import csv
import gzip
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.answers.string_rules import last_number, same_text
from guides.answers.checker import Verdict, check, examine

log = logging.getLogger(f"copse.{__name__}")

NUMERIC = ("gsm8k", "svamp", "asdiv", "mawps")
FIELDS = ("set", "index", "target", "answer", "published", "checker", "math_verify", "rule")
_GRADERS = ("checker", "math_verify", "rule")


@dataclass(frozen=True)
class Output:
    """One chain with its target.

    answer     what the evaluator cut out of it
    published  the evaluator's verdict
    """

    name: str
    index: int
    target: str
    text: str
    answer: str
    published: bool


@dataclass(frozen=True)
class Graded:
    """What the graders say of an output: True, False, or None for undecided.

    way      by which the checker decided
    seconds  that the checker took
    """

    output: Output
    checker: bool | None
    math_verify: bool | None
    rule: bool
    way: str
    seconds: float


def read(folder: Path) -> list[Output]:
    """All outputs of a folder that have a target, by set."""
    found = []
    for path in sorted(folder.glob("*.jsonl*")):
        name = path.name.partition(".")[0]
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        for index, line in enumerate(text.rstrip("\n").split("\n")):
            row = json.loads(line)
            first = [row[field][0] for field in ("code", "pred", "score")]
            if row["gt"].strip():
                found.append(Output(name, index, row["gt"], *first))
    return found


def grade(
    outputs: Iterable[Output], style: str, beside: Callable[[str, str], bool | None]
) -> list[Graded]:
    """Ask all graders about each output, one after another."""
    said = {Verdict.RIGHT: True, Verdict.WRONG: False, Verdict.UNDECIDED: None}
    graded = []
    for output in outputs:
        start = time.perf_counter()
        verdict, way = examine([(output.text, output.target)], style=style)[0]
        spent = time.perf_counter() - start
        rule = last_number if output.name in NUMERIC else same_text
        graded.append(
            Graded(
                output, said[verdict], beside(output.text, output.target),
                rule(output.text, output.target), way, spent,
            )
        )  # fmt: skip
    return graded


def math_verify(text: str, target: str) -> bool | None:
    """What Math-Verify says; None where it raises."""
    from math_verify import parse, verify

    try:
        return bool(verify(parse(f"${target}$"), parse(text)))
    except Exception:  # whatever it meets in a text is its own
        return None


def truths(path: Path | None) -> dict[tuple[str, int], bool | None]:
    """What is true of the outputs that a person has read; None: the target is in doubt."""
    if path is None:
        return {}
    said = {"right": True, "wrong": False, "open": None}
    with path.open(newline="") as lines:
        return {
            (row["set"], int(row["index"])): said[row["truth"]] for row in csv.DictReader(lines)
        }


def table(graded: list[Graded], known: dict[tuple[str, int], bool | None]) -> list[str]:
    """Rows of Markdown: for each set and grader what it accepts of the right and of the wrong
    outputs, what it leaves open, and its share of true verdicts among all and among those given.
    """
    rows = [
        "| set | outputs | grader | right accepted | wrong accepted | undecided | true of all "
        "| true of decided |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sets: dict[str, list[Graded]] = collections.defaultdict(list)
    for one in graded:
        sets[one.output.name].append(one)
        sets["all"].append(one)
    for name, found in sorted(sets.items(), key=lambda item: (item[0] == "all", item[0])):
        for grader in _GRADERS:
            rows.append(f"| {name} | {len(found)} | {grader} | {_shares(found, grader, known)} |")
    return rows


def _shares(found: list[Graded], grader: str, known: dict[tuple[str, int], bool | None]) -> str:
    counts: collections.Counter[tuple[bool, bool | None]] = collections.Counter()
    for one in found:
        truth = known.get((one.output.name, one.output.index), one.output.published)
        if truth is not None:
            counts[truth, getattr(one, grader)] += 1
    right = sum(counts[True, said] for said in (True, False, None))
    wrong = sum(counts[False, said] for said in (True, False, None))
    open_ = counts[True, None] + counts[False, None]
    true = counts[True, True] + counts[False, False]
    shares = (
        f"{counts[True, True]} of {right}",
        f"{counts[False, True]} of {wrong}",
        str(open_),
        f"{100 * true / (right + wrong):.1f} %",
        f"{100 * true / max(1, right + wrong - open_):.2f} %",
    )
    return " | ".join(shares)


def differences(graded: list[Graded]) -> list[dict[str, object]]:
    """A row of `FIELDS` for each output where the checker does not say what was published."""
    rows = []
    for one in graded:
        output = one.output
        if one.checker is not output.published:
            values = (
                output.name, output.index, output.target, output.answer, output.published,
                one.checker, one.math_verify, one.rule,
            )  # fmt: skip
            rows.append(dict(zip(FIELDS, values, strict=True)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--style", default="strict", help="of the checker: strict, math or gsm8k")
    parser.add_argument("--read", type=Path, help="what a person found true of the differences")
    parser.add_argument("--differences", type=Path, help="write what differs from the published")
    parser.add_argument("--alone", action="store_true", help="leave Math-Verify out")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    check(r"\sin 2x", r"2\sin x\cos x")  # starts the processes
    beside = (lambda text, target: None) if args.alone else math_verify
    graded = grade(read(args.folder), args.style, beside)
    log.info("\n".join(table(graded, truths(args.read))))
    times = sorted(one.seconds for one in graded)
    ways = collections.Counter(one.way for one in graded)
    log.info(
        "\n%.0f checks a second; milliseconds: p50 %.2f, p99 %.2f, slowest %.0f; by %s",
        len(times) / sum(times), 1e3 * times[len(times) // 2], 1e3 * times[len(times) * 99 // 100],
        1e3 * times[-1], ", ".join(f"{way} {count}" for way, count in ways.most_common()),
    )  # fmt: skip
    if args.differences:
        with args.differences.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(differences(graded))


if __name__ == "__main__":
    main()
