"""The checker on pairs whose truth was written down before it was asked: our own file, and one
beside the project where it is there.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from guides import Verdict, check_many

OWN = Path(__file__).parent / "answer_pairs.jsonl"
DATA = Path(os.environ.get("COPSE_DATA") or Path(__file__).parents[3] / "shared" / "data")
FROM_THE_FIELD = DATA.parent / "cases" / "answers.jsonl"


def fits(verdict: Verdict, want: str) -> bool:
    """Whether a verdict is what a pair wants: "RIGHT", or "not RIGHT" for either of the others."""
    if want.startswith("not "):
        return verdict.name != want.removeprefix("not ")
    return verdict.name == want


def examined(path: Path) -> list[tuple[dict[str, str], Verdict]]:
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    verdicts = check_many([(pair["text"], pair["target"]) for pair in pairs], seconds=20.0)
    return list(zip(pairs, verdicts, strict=True))


@pytest.mark.parametrize(
    ("path", "least"), [(OWN, 0.99), (FROM_THE_FIELD, 0.99)], ids=["own", "from the field"]
)
def test_pairs_come_out_as_they_should(path: Path, least: float) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there: name its folder by COPSE_DATA")
    found = examined(path)
    other = [(pair, verdict.name) for pair, verdict in found if not fits(verdict, pair["want"])]
    assert len(found) >= 300
    wrongly = [(pair, said) for pair, said in other if said != "UNDECIDED"]
    assert not wrongly, "a false accept, or a right answer that is called wrong"
    assert len(other) <= (1 - least) * len(found), "\n".join(map(str, other))


def test_every_kind_has_pairs_of_both_sorts() -> None:
    pairs = [json.loads(line) for line in OWN.read_text().splitlines()]
    assert len({(pair["text"], pair["target"]) for pair in pairs}) == len(pairs)
    kinds = Counter(pair["kind"] for pair in pairs)
    accepted = Counter(pair["kind"] for pair in pairs if pair["want"] == "RIGHT")
    assert len(kinds) == 20 and min(kinds.values()) >= 7
    assert all(0 < accepted[kind] < count for kind, count in kinds.items())
