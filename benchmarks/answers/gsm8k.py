"""GSM8K (Cobbe et al. 2021): its problems with their targets, from a file with a line of JSON each,
"question" and "answer".

    python -m benchmarks.answers.gsm8k gsm8k_test.jsonl > problems.jsonl
    python -m benchmarks.answers.gsm8k gsm8k_test.jsonl --count 100 --seed 1 > questions.jsonl

The output is for `copse solve --input`, with targets for the training commands. The second command
draws a hundred problems by a seed.

The file may be compressed by gzip. An answer is a chain of thought that ends with "#### " and the
target; the target alone is kept.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np

from search.problem import Problem
from search.problems import parse
from search.problems.words import plain_number

_TARGET = re.compile(r"####\s*\$?(-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)\s*")
_EXAMPLE = '{"question": "How much is 2 and 3?", "answer": "2 + 3 = 5\\n#### 5"}'


def load(path: str | Path) -> list[tuple[Problem, str]]:
    """(problem, target) of every line, in order. A target is a number as `plain_number` writes it:
    "#### 70,000" is "70000".

    Problems are what their text is to `search.solve`: open text, or a story that the built-in model
    knows. Raises ValueError that names the line for whatever is wrong with it.
    """
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"cannot read {path} ({error}): give a file of GSM8K, with a line of JSON a problem"
        ) from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(_row(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    if not rows:
        raise ValueError(f"there is no problem in {path}: write lines like {_EXAMPLE}")
    return rows


def drawn(total: int, count: int, seed: int, skip: int = 0) -> list[int]:
    """`count` indices of `total`, those from place `skip` on of the order that `seed` gives.
    Raises ValueError where there are too few.
    """
    if count < 1 or skip < 0 or skip + count > total:
        raise ValueError(f"{total} questions cannot give {count} after {skip}: ask for fewer")
    order = np.random.default_rng(seed).permutation(total)
    return [int(place) for place in order[skip : skip + count]]


def _row(line: str) -> tuple[Problem, str]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        row = None
    texts = [row.get("question"), row.get("answer")] if isinstance(row, dict) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(
            f"this is no JSON object with the texts question and answer: write it like {_EXAMPLE}"
        )
    match = _TARGET.fullmatch(row["answer"].rpartition("\n")[2].strip())
    if match is None:
        raise ValueError(
            f"the answer ends with {row['answer'][-40:]!r}: its last line must be #### and a number"
        )
    return parse(row["question"]), plain_number(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--count", type=int, help="so many questions, drawn at random; default: all, in order"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument(
        "--skip", type=int, default=0, help="leave out so many at the beginning of the seed's order"
    )
    args = parser.parse_args()
    try:
        rows = load(args.file)
        chosen = list(range(len(rows)))
        if args.count is not None:
            chosen = drawn(len(rows), args.count, args.seed, args.skip)
    except ValueError as error:
        parser.error(str(error))
    for index in chosen:
        problem, target = rows[index]
        statement = problem.prompt(problem.initial())
        line = {"id": index + 1, "problem": statement, "target": target}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
