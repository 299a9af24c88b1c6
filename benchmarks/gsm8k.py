"""Questions of GSM8K, drawn by a seed, as a problems file for `copse solve` and `copse bench`.

    python -m benchmarks.gsm8k gsm8k_test.jsonl --count 100 --seed 1 > questions.jsonl
    copse bench --guide FOLDER --input questions.jsonl --budgets tokens=500,1500 --out results ...

A line of GSM8K holds a question and an answer whose last line is `#### n` (Cobbe et al. 2021); the file may be
compressed by gzip. The id of a question is its line in the file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def questions(path: Path, count: int, seed: int, skip: int = 0) -> Iterator[dict[str, str]]:
    """`count` questions with their targets, those from place `skip` on of the order that `seed` gives.

    Raises ValueError where the file has too few, or a line that is none of GSM8K's.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    if not 0 < count <= len(lines) - skip:
        raise ValueError(f"{path} has {len(lines)} questions, not {skip} and {count} more: ask for fewer")
    for place in np.random.default_rng(seed).permutation(len(lines))[skip : skip + count]:
        number = int(place) + 1
        try:
            line = json.loads(lines[place])
            marked = line["answer"].split("####")
            target = marked[1].strip().replace(",", "")
            yield {"id": str(number), "problem": line["question"], "target": target}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            message = "is no question of GSM8K: each line holds question and answer, and the answer ends in #### n"
            raise ValueError(f"{path}, line {number} {message}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip", type=int, default=0, help="leave out so many at the beginning of the seed's order")
    arguments = parser.parse_args()
    for question in questions(arguments.file, arguments.count, arguments.seed, arguments.skip):
        sys.stdout.write(json.dumps(question) + "\n")


if __name__ == "__main__":
    main()
