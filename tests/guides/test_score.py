"""SCoRe: the advantages of two attempts against what is computed by hand, what the KL holds, and
both stages on a tiny model whose right answer is planted.
"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from iteration_cases import RIGHT, vowel_folder  # noqa: E402
from trace_cases import make  # noqa: E402

from guides.data.advantages import Credit, advantages  # noqa: E402
from guides.data.examples import ExampleFile, Segment, collate, write_examples  # noqa: E402
from guides.data.grading import Graded, Replay, attempts, read_targets  # noqa: E402
from guides.data.groups import groups_of  # noqa: E402
from guides.data.labels import Labels  # noqa: E402
from guides.iteration.rl import RLPlan, reinforce  # noqa: E402
from guides.iteration.score import ScorePlan, score  # noqa: E402
from guides.training import losses  # noqa: E402
from guides.training.options import Options, PolicyLoss  # noqa: E402
from models.checkpoints.checkpoint import describe  # noqa: E402
from search.chain import GIVEN  # noqa: E402
from search.cli.main import main  # noqa: E402
from search.files.problems_file import read_jobs  # noqa: E402
from search.scheduling.budget import Budget  # noqa: E402
from search.trace import Trace  # noqa: E402

ASKED = {"answer": "([aeiou])", "prompt": "{problem} ", "step_tokens": 4, "delimiter": "\n"}
SMALL = RLPlan(
    language=ASKED,
    budget=Budget(tokens=200),
    per_round=6,
    training={"lr": 1e-2, "warmup": 0},
    gate_every=2,
)


# -- advantages


def two_attempts(first: list[float], last: list[float]) -> Graded:
    """Chains of four steps: one, the move to another attempt, two more; each below the root."""
    count = len(first)
    parents: list[int] = []
    for chain in range(count):
        node = 4 * chain
        parents += [0, node + 1, node + 2, node + 3]
    finished = [False, False, False, True] * count
    trace = make(parents, [1] * (4 * count), finished, sampled=True)
    outcomes = np.full(4 * count + 1, math.nan)
    outcomes[4::4] = last
    worth = np.full(len(trace.steps), math.nan)
    for chain, value in enumerate(first):
        worth[trace.node_edge[4 * chain + 2]] = value
    labels = Labels(*np.zeros((2, len(outcomes))))
    return Graded(Replay(trace), outcomes, outcomes, labels, (1,), attempts=worth)


@pytest.mark.parametrize("bonus", [0.0, 10.0])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_each_attempt_is_compared_with_those_of_the_others(bonus: float, weight: float) -> None:
    first = [0.0, 1.0, 0.0, 1.0]
    last = [1.0, 1.0, 0.0, 0.0]
    one = two_attempts(first, last)
    credit = Credit("attempts", "none", bonus=bonus, first=weight)
    groups = groups_of([one], credit)
    assert [(chain.turn, chain.first) for chain in groups[0].chains] == [(1, r) for r in first]
    [found] = advantages([one], groups, credit)
    gained = [r + bonus * (r - before) for before, r in zip(first, last, strict=True)]
    for chain in range(4):
        edges = [int(one.trace.node_edge[4 * chain + 1 + step]) for step in range(4)]
        expected = [weight * (first[chain] - np.mean(first))]
        expected += [gained[chain] - np.mean(gained)] * 3
        np.testing.assert_allclose((found.positive + found.negative)[edges], expected, atol=1e-12)
        np.testing.assert_array_equal(found.samples[edges], 1.0)


def test_a_first_attempt_that_nobody_can_tell_gets_the_reward_of_the_last() -> None:
    one = two_attempts([math.nan, math.nan], [1.0, 0.0])
    credit = Credit("attempts", "none")
    [found] = advantages([one], groups_of([one], credit), credit)
    edges = one.trace.node_edge[1:5]
    np.testing.assert_allclose((found.positive + found.negative)[edges], 0.5)


def test_the_kl_leaves_free_what_it_is_told(tmp_path: Path) -> None:
    """The sum is that of the other segments alone."""
    import tiny

    from models.checkpoints.heads import ValueHead

    model = tiny.model("qwen2")
    model.value_head = ValueHead(model.config.hidden_size)
    options = Options(policy=PolicyLoss(kl=0.5), precision="float32")
    sums = []
    for free in ((False, False), (True, False), (False, True), (True, True)):
        segments = [Segment((5, 6), 0.0, math.nan, -1)]
        for parent, own in enumerate(free):
            segments.append(
                Segment((7 + parent, 8), 0.0, math.nan, parent, samples=1.0, positive=1.0, free=own)
            )
        write_examples(tmp_path / "e.npz", [segments])
        batch = collate([ExampleFile(tmp_path / "e.npz")[0]])
        batch["reference"] = torch.full(batch["tokens"].shape, -2.0)
        from guides.training.tree_attention import use_trees

        use_trees(model)
        sums.append(float(losses.terms(model, batch, options).kl.detach()))
    assert sums[3] == 0.0
    assert sums[1] + sums[2] == pytest.approx(sums[0], rel=1e-5) and min(sums[:3]) > 0


# -- both stages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vowel_folder(tmp_path_factory.mktemp("score"), again="!")


def corrected(folder: Path, out: Path, rounds: tuple[int, int], **plan: Any) -> Path:
    files = [folder / "p.jsonl", folder / "g.jsonl"]
    jobs, gate = map(read_jobs, files)
    targets = dict(read_targets(files[0])) | read_targets(files[1])
    chosen = ScorePlan(**{"rl": SMALL, "again": "!", **plan})
    return score(folder / "base", jobs, targets, out, rounds=rounds, gate=gate, plan=chosen)


def table(run: Path) -> list[dict[str, float]]:
    with open(run / "rounds.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.mark.thorough
def test_the_stages_reward_what_they_are_meant_to(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    corrected(folder, out, (1, 1))
    told = describe(out / "second" / "best")["stream"]
    assert told["attempts"] == 2 and told["insist"] and told["moves"]["again"] == "!"
    assert told["moves"]["check"] is None, "no verifier tells which first attempts are right"
    targets = read_targets(folder / "p.jsonl")
    for stage, own in (("first", 0.0), ("second", 1.0)):
        run = out / stage / "round-01"
        traces = Trace.load(run / "traces")
        assert all(step.finish == GIVEN for t in traces for step in t.steps if step.text == "!")
        moves = sum(step.finish == GIVEN for trace in traces for step in trace.steps)
        assert moves >= 6
        settings = json.loads((out / stage / "settings.json").read_text())
        assert settings["credit"]["first"] == own
        assert settings["reference"] == (None if stage == "first" else str(folder / "base"))
        row = table(out / stage)[1]
        graded = [attempts(Replay(t, ASKED["answer"]), RIGHT) for t in traces]
        assert len(targets) and any((~np.isnan(one)).any() for one in graded)
        assert 0 <= row["first"] <= 1 and 0 <= row["reward"] <= 1


@pytest.mark.thorough
def test_stage_one_learns_from_the_second_attempt_alone(folder: Path, tmp_path: Path) -> None:
    """In the examples the first attempt has samples, which the KL holds, and no advantage; what the
    search wrote has neither.
    """
    out = tmp_path / "out"
    corrected(folder, out, (1, 1))
    rows = ExampleFile(out / "first" / "round-01" / "examples.npz")
    seen = {"first": 0, "given": 0, "second": 0}
    for row in rows:
        moved = (row["positive"] != 0) | (row["negative"] != 0)
        sampled = row["samples"] > 0
        assert not (moved & ~row["free"]).any(), "no advantage of the first attempt"
        assert not (moved & ~sampled).any() and not (row["free"] & ~sampled).any()
        seen["first"] += int((sampled & ~row["free"]).sum())
        seen["second"] += int((sampled & row["free"]).sum())
        seen["given"] += int((~sampled & (row["positions"] > 0)).sum())
    assert min(seen.values()) > 0
    later = ExampleFile(out / "second" / "round-01" / "examples.npz")
    assert not any(row["free"].any() for row in later), "stage two holds both"


@pytest.mark.thorough
def test_a_run_goes_on_and_is_left_alone_when_it_is_complete(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    corrected(folder, out, (1, 1))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("round-*/*")}
    corrected(folder, out, (1, 1))
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("round-*/*")}


@pytest.mark.slow
def test_the_second_attempt_learns(folder: Path, tmp_path: Path) -> None:
    """By the command: it comes to be right, and the first is not lowered."""
    command = ["train", "score", "--guide", str(folder / "base"), "--again", "!"]
    for name in ("input", "gate"):
        command += [f"--{name}", str(folder / f"{name[0].replace('i', 'p')}.jsonl")]
    command += ["--answer", ASKED["answer"], "--prompt", ASKED["prompt"], "--step-tokens", "4"]
    command += ["--delimiter", "\\n", "--per-round", "6", "--lr", "0.01", "--gate-every", "5"]
    command += ["--first", "10", "--second", "5", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    first = table(tmp_path / "out" / "first")
    second = table(tmp_path / "out" / "second")
    assert first[1]["reward"] < 0.5 < 0.9 < second[-1]["reward"]
    assert second[-1]["first"] >= first[1]["first"] - 0.1


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"rl": RLPlan(credit={"method": "tree"})}, "those of the two stages"),
        ({"rl": RLPlan(loss={"kl": 0.1})}, "those of the two stages"),
        ({"bonus": -1.0}, "bonus at least 0"),
        ({"hold": -1.0}, "kl"),
        ({"again": ""}, "written alike"),
    ],
)
def test_impossible_plans_are_refused(plan: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ScorePlan(**plan)


def test_a_run_without_rounds_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 of the second"):
        corrected(folder, tmp_path / "out", (1, 0))
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_the_kl_may_be_to_another_model(folder: Path, tmp_path: Path) -> None:
    files = [folder / "p.jsonl", folder / "g.jsonl"]
    jobs, gate = map(read_jobs, files)
    targets = dict(read_targets(files[0])) | read_targets(files[1])
    out = tmp_path / "out"
    language = {**ASKED, "max_steps": 2}
    plan = RLPlan(**{**vars(SMALL), "language": language, "loss": {"kl": 0.1}})
    plan = RLPlan(**{**vars(plan), "reference": str(folder / "base")})
    reinforce(folder / "base", jobs, targets, out, rounds=1, gate=gate, plan=plan)
    assert table(out)[1]["kl"] == pytest.approx(0.0, abs=1e-6)
