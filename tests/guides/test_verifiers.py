"""Verifiers trained from traces: labels, what is held out, the report and the calibration, each
against a truth of its own.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.torch import load_file
from verifier_cases import torch

import guides.data.holdout
import guides.training.value_report
from guides.data.examples import ExampleFile, Segment, collate, write_examples
from guides.data.grading import Graded, Replay
from guides.data.holdout import Held, held_of, hold_out, place_of
from guides.data.labels import Labels, hardened, line_of, read_labels
from guides.data.prepare import prepare
from guides.training import train, train_guide, value_report
from guides.training.value_report import FEWEST
from models.checkpoints.checkpoint import describe, load_model, save_model, version
from models.checkpoints.digests import SUMS
from search.problem import TextStep
from search.scheduling.requests import Usage
from search.trace import Trace

HOW = {"prompt": "{problem}:", "delimiter": "\n", "answer": "([gb])\n*$"}


CHAIN = 4  #: steps of every chain of the planted task: "g" is a right step, "b" a wrong one


# -- labels and where they stand


def test_a_spread_label_stands_at_every_token_of_its_segment(tmp_path: Path) -> None:
    """The prompt keeps its label at its end, a soft label comes to the batch as it is, and a
    longer row pads with none.
    """
    example = [
        Segment((1, 2, 3), 0.0, 0.25, -1, 8.0),
        Segment((4, 5), 1.0, 0.9, 0, 10.0, True),
        Segment((6, 7, 8), 1.0, math.nan, 1, 0.0, True),
        Segment((9, 9), 0.0, 0.1, 1, math.inf),
    ]
    write_examples(tmp_path / "e.npz", [example, [Segment((1,), 0.0, 1.0, -1, 2.0, True)]], block=1)
    batch = collate(
        sorted(
            (ExampleFile(tmp_path / "e.npz")[i] for i in range(2)),
            key=lambda row: -len(row["tokens"]),
        )
    )
    nan = math.nan
    wanted = np.array(
        [[nan, nan, 0.25, 0.9, 0.9, nan, nan, nan, nan, 0.1], [1.0, *[nan] * 9]], np.float32
    )
    np.testing.assert_array_equal(batch["values"].numpy(), wanted)
    counts = np.array([[0, 0, 8, 10, 10, 0, 0, 0, 0, math.inf], [2, *[0] * 9]])
    np.testing.assert_array_equal(batch["counts"].numpy(), counts)


def test_files_from_before_the_spread_are_read(tmp_path: Path) -> None:
    write_examples(tmp_path / "new.npz", [[Segment((1, 2), 1.0, 0.5, -1)]])
    with np.load(tmp_path / "new.npz") as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file if name != "spread"})
    np.testing.assert_array_equal(
        ExampleFile(tmp_path / "old.npz")[0]["values"], np.array([math.nan, 0.5], np.float32)
    )


def graded(trace: Trace) -> Graded:
    """A trace with its rewards and no labels."""
    bare = Labels(*np.zeros((2, len(trace.node_parent))))
    return Graded(Replay(trace), trace.node_reward, trace.node_reward, bare, (1,))


def held_out(traces: list[Trace], share: float) -> set[str]:
    """The ids of the traces that are held out."""
    return {one.trace.id for one in hold_out(map(graded, traces), share) if one.held}


def test_an_outcome_verifier_has_labels_at_all_tokens_but_those_of_the_prompt(
    base: Path, folder: Path, tmp_path: Path
) -> None:
    """From traces to the tokens: "g" and a newline each, the prompt of two or three; without the
    flag only the last of each.
    """
    for every in (True, False):
        prepare(folder, {}, base, tmp_path / "e.npz", policy="none", every_token=every)
        rows = ExampleFile(tmp_path / "e.npz")
        for row, segments in zip(
            map(rows.__getitem__, range(len(rows))), np.diff(rows.segments), strict=True
        ):
            prompt, told = len(row["tokens"]) - 2 * (segments - 1), ~np.isnan(row["values"])
            assert told[:prompt].tolist() == [False] * (prompt - 1) + [True]
            assert told[prompt:].tolist() == [every, True] * (segments - 1)
            assert (
                row["values"][prompt:][told[prompt:]].reshape(segments - 1, -1).std(axis=1) == 0
            ).all()


def test_hard_labels_ask_whether_anything_was_right() -> None:
    labels = hardened(
        Labels(
            np.array([0.0, 1.0, 8.0, 0.0, 1.0, 0.6]),
            np.array([8.0, 8.0, 8.0, 0.0, math.inf, math.inf]),
        )
    )
    np.testing.assert_array_equal(labels.soft, [0.0, 1.0, 1.0, math.nan, 1.0, 0.0])
    np.testing.assert_array_equal(labels.n, [8.0, 8.0, 8.0, 0.0, math.inf, math.inf])


def planted(number: int, rng: np.random.Generator, version: str, chains: int = 6) -> Trace:
    """Chains side by side below the root; each step is right by a fair coin, or half as often
    wrong. All are graded by their reward.
    """
    texts = [["g" if rng.random() < 0.8 else "b" for _ in range(CHAIN)] for _ in range(chains)]
    texts[0], texts[1] = ["g"] * CHAIN, ["g", "b", "g", "g"]
    count = chains * CHAIN
    firsts = np.arange(count) % CHAIN == 0
    parents = np.where(firsts, 0, np.arange(count))
    order = np.argsort(parents, kind="stable")  # edges stand in the order of their nodes
    place = np.empty(count, np.int32)
    place[order] = np.arange(count)
    ends = np.array([False, *((np.arange(count) % CHAIN == CHAIN - 1).tolist())])
    rewards = np.full(count + 1, math.nan)
    rewards[ends] = [float("b" not in text) for text in texts]
    flat = [letter for text in texts for letter in text]
    step = {letter: TextStep(letter, tuple(f"{letter}\n".encode()), "stop") for letter in "gb"}
    return Trace(
        id=f"trace{number}", kind="search.problem:TextProblem",
        arguments={"statement": f"{number}"}, method="my:tree", options={}, seed=0,
        version=version, usage=Usage(simulations=chains),
        node_parent=np.array([-1, *parents], np.int32),
        node_edge=np.array([-1, *place], np.int32), node_finished=ends, node_reward=rewards,
        edge_node=parents[order].astype(np.int32), edge_child=(order + 1).astype(np.int32),
        edge_visits=np.ones(count, np.int32),
        edge_sum=np.zeros(count), edge_prior=np.ones(count, np.float32),
        edge_value=np.full(count, math.nan, np.float32),
        edge_log_prob=np.zeros(count), steps=tuple(step[flat[i]] for i in order),
    )  # fmt: skip


def no_mistake(problem: Any, state: Any) -> float:
    return float(all(step.text == "g" for step in state))


def half_wrong(problem: Any, state: Any) -> float:
    """No chain of an even problem is right."""
    return float(int(problem.statement) % 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model over bytes."""
    tok = tiny.tokenizer()
    return save_model(
        tmp_path_factory.mktemp("model") / "base",
        tiny.model(spread=0.1),
        tok,
        settings={"format": 1, **HOW},
    )


@pytest.fixture(scope="module")
def traces(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Trace]:
    tok, rng = tiny.tokenizer(), np.random.default_rng(0)
    made = [planted(i, rng, version(base)) for i in range(40)]
    ids = {letter: tuple(tok.encode(f"{letter}\n", add_special_tokens=False)) for letter in "gb"}
    return [
        Trace(
            **{
                **vars(trace),
                "steps": tuple(TextStep(s.text, ids[s.text], "stop") for s in trace.steps),
            }
        )
        for trace in made
    ]


@pytest.fixture(scope="module")
def folder(traces: list[Trace], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("traces")
    Trace.save(traces, place / "shard.parquet")
    return place


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process: starting another takes longer than the training."""
    monkeypatch.setattr(train_guide, "run_training", train.main)


TRAINING = {"lr": 0.003, "epochs": 30, "batch": 8, "precision": "float32"}


CHECKER = f"{__name__}:no_mistake"


# -- the planted task


@pytest.mark.thorough
@pytest.mark.usefixtures("at_once")
def test_a_head_is_judged_in_the_type_that_it_was_trained_in(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a checkpoint in bfloat16 whose weights are float32 while they are trained; few problems
    do not tell how well the head tells chains apart.
    """
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    shutil.copytree(base, half)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(half)
    (half / SUMS).unlink(missing_ok=True)
    seen = []
    judge = value_report.judge

    def judged(model: Any, tokenizer: Any, head: Any, held: Any) -> dict[str, Any]:
        report = judge(model, tokenizer, head, held)
        seen.append(model.dtype)
        return report | {"within": 0.9, "within_problems": problems}

    monkeypatch.setattr(value_report, "judge", judged)
    options = TRAINING | {"epochs": 1}
    for problems, known in ((FEWEST - 1, None), (FEWEST, 0.9)):
        out = train_guide.train_guide(
            folder,
            {},
            half,
            tmp_path / f"new{problems}",
            options,
            policy="none",
            checker=CHECKER,
            held_out=0.3,
            off_policy=True,
        )
        assert describe(out).get("within") == known
        weights = load_file(out / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert seen == [torch.float32, torch.float32]


@pytest.mark.thorough
@pytest.mark.usefixtures("at_once")
def test_a_verifier_learns_the_planted_steps_and_its_report_says_so(
    base: Path, folder: Path, tmp_path: Path
) -> None:
    out = train_guide.train_guide(
        folder, {}, base, tmp_path / "new", TRAINING, policy="none", checker=CHECKER, held_out=0.3
    )
    report = json.loads((out / "report.json").read_text())
    assert report["within"] > 0.95 and report["auroc"] > 0.95 and report["steps"]["f1"] > 0.9, (
        report
    )
    few = report["within_problems"] < FEWEST
    assert ("within" in describe(out)) is not few
    if not few:
        assert describe(out)["within"] == pytest.approx(report["within"], abs=1e-4)
    best, majority = ([row[name] for row in report["best_of"]] for name in ("best", "majority"))
    assert best[-1] > 0.95 > best[0] and best == sorted(best) and best[-1] > majority[-1]
    held = held_out(Trace.load(folder), 0.3)
    assert report["problems"] == len(held) > 3


@pytest.mark.thorough
@pytest.mark.usefixtures("at_once")
def test_a_run_that_was_killed_while_it_was_judged_goes_on(
    base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**TRAINING, "epochs": 2, "save_steps": 2}
    arguments: dict[str, Any] = {"policy": "none", "checker": CHECKER, "held_out": 0.3}
    whole = train_guide.train_guide(folder, {}, base, tmp_path / "whole", options, **arguments)

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(guides.training.value_report, "judge", killed)
        train_guide.train_guide(folder, {}, base, tmp_path / "new", options, **arguments)
    assert (
        not (tmp_path / "new" / "report.json").exists()
        and not (tmp_path / "new" / "training.json").exists()
    )
    out = train_guide.train_guide(folder, {}, base, tmp_path / "new", options, **arguments)
    for name in ("report.json", "guide.json", "value_head.safetensors", "model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    with pytest.raises(ValueError, match="other traces, targets or options"):
        train_guide.train_guide(folder, {}, base, out, options, **{**arguments, "held_out": 0.2})


@pytest.mark.thorough
@pytest.mark.usefixtures("at_once")
def test_a_soft_label_is_learnt_as_it_is(
    base: Path, folder: Path, traces: list[Trace], tmp_path: Path
) -> None:
    """Every node is labelled 0.9: a head that saw it rounded would say 1. What the base's
    guide.json tells of its own head is not kept.
    """
    told = Path(shutil.copytree(base, tmp_path / "told"))
    (told / "guide.json").write_text(json.dumps({**describe(base), "within": 0.9}))
    nodes = len(traces[0].node_parent)
    soft = Labels(np.full(nodes, 9.0), np.full(nodes, 10.0))
    (tmp_path / "labels.jsonl").write_text("".join(line_of(trace, soft) for trace in traces))
    arguments: dict[str, Any] = {
        "policy": "none",
        "held_out": 0.0,
        "labels": tmp_path / "labels.jsonl",
        "off_policy": True,
    }
    for hard, wanted in ((False, 0.9), (True, 0.98)):
        out = train_guide.train_guide(
            folder,
            {},
            told,
            tmp_path / f"new-{hard}",
            {**TRAINING, "epochs": 10},
            hard=hard,
            **arguments,
        )
        model, tok, head, _ = load_model(out)
        ids = torch.tensor([tok.encode("7:g\ng\n", add_special_tokens=False)])
        value = float(head(model.model(ids).last_hidden_state[0, -1]))
        assert value == pytest.approx(wanted, abs=0.025)
        assert not (out / "report.json").exists() and "within" not in describe(out)


def test_a_problem_is_held_out_whatever_else_there_is(traces: list[Trace]) -> None:
    places = np.array([place_of(trace.problem()) for trace in traces])
    assert held_out(traces, 0.4) == {
        trace.id for trace, place in zip(traces, places, strict=True) if place < 0.4
    }
    assert held_out(traces[:7], 0.4) == held_out(traces, 0.4) & {trace.id for trace in traces[:7]}
    assert held_out(traces, 0.0) == set() and 0.2 < np.mean(places) < 0.8


def test_what_is_held_out_is_in_no_example(
    base: Path, folder: Path, traces: list[Trace], tmp_path: Path
) -> None:
    report = prepare(
        folder,
        {},
        base,
        tmp_path / "e.npz",
        policy="none",
        held_file=tmp_path / "held.npz",
        held_share=0.4,
    )
    away = held_out(traces, 0.4)
    assert report["held"] == len(away) and report["problems"] == len(traces) - len(away)
    tok, rows = tiny.tokenizer(), ExampleFile(tmp_path / "e.npz")
    prompts = {
        trace.id: tuple(tok.encode(f"{trace.arguments['statement']}:", add_special_tokens=False))
        for trace in traces
    }
    seen = {
        tuple(rows[i]["tokens"][: len(prompt)].tolist())
        for i in range(len(rows))
        for prompt in prompts.values()
    }
    assert all((prompt in seen) == (name not in away) for name, prompt in prompts.items())
    assert all(not rows[i]["weights"].any() for i in range(len(rows))), (
        "a verifier imitates nothing"
    )
    held = Held.load(tmp_path / "held.npz")
    assert {held.tokens[i] for i in np.flatnonzero(held.parents < 0)} == {
        prompts[name] for name in away
    }
    assert (
        len(held.ends) == 6 * len(away)
        and held.times.tolist() == [1] * len(held.ends)
        and not held.lost.any()
    )
    good = [
        all(
            held.tokens[node][0] == held.tokens[held.path(end)[1]][0] for node in held.path(end)[1:]
        )
        for end in held.ends
    ]
    starts = [
        held.tokens[held.path(end)[1]] == tuple(tok.encode("g\n", add_special_tokens=False))
        for end in held.ends
    ]
    assert held.right.tolist() == [a and b for a, b in zip(good, starts, strict=True)]


@pytest.mark.thorough
def test_wrong_sources_of_labels_are_refused(
    base: Path, folder: Path, traces: list[Trace], tmp_path: Path
) -> None:
    lines = []
    for trace in traces[:3]:
        lines.append(json.loads(line_of(trace, Labels(*np.ones((2, len(trace.node_parent)))))))
        del lines[-1]["crc32"]
    path = tmp_path / "labels.jsonl"

    def refused(*rows: dict[str, Any], **more: Any) -> str:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(ValueError) as caught:
            prepare(folder, {}, base, tmp_path / "e.npz", **{"labels": path, **more})
        assert not (tmp_path / "e.npz").exists()
        return str(caught.value)

    assert "line 2" in refused(lines[0], {**lines[1], "k": [2.0] * len(lines[1]["k"])})
    assert "line 3" in refused(*lines[:2], {**lines[2], "n": lines[2]["n"][1:]})
    assert "line 1" in refused({"trace": "trace0"})
    for row in (
        {**lines[0], "k": [str(k) for k in lines[0]["k"]]},
        {**lines[0], "n": [True, *lines[0]["n"][1:]]},
    ):
        assert "line 2" in (said := refused(lines[1], row)) and "no number" in said
    assert "no number" in refused({**lines[0], "k": [10**400, *lines[0]["k"][1:]]})
    assert "line 1" in refused({**lines[0], "trace": ["trace0"]})
    none = [{**row, "n": [0] * len(row["n"]), "k": [0] * len(row["k"])} for row in lines]
    assert "no step of the 40 traces has a label" in refused(*none, policy="none")
    assert "not from both" in refused(*lines, checker=CHECKER)
    assert "no label file" in refused(*lines, labels=tmp_path / "none.jsonl")
    assert "[0, 1)" in refused(*lines, held_share=1.0)
    assert "all problems are held out" in refused(*lines, held_share=0.9999)
    with pytest.raises(ValueError, match="cannot read the labels"):
        read_labels(tmp_path, traces)


def test_samples_that_ended_unfinished_are_counted(traces: list[Trace]) -> None:
    """Of 15 samples each of six chains was drawn twice; the tree of a search knows no samples."""
    trace = traces[0]
    drawn = Trace(
        **{
            **vars(trace),
            "independent": True,
            "usage": Usage(simulations=15),
            "edge_visits": np.full(len(trace.steps), 2, np.int32),
        }
    )
    for one, times, lost in ((drawn, 2, 3), (trace, 1, 0)):
        held = held_of([graded(one)])
        assert held.times.tolist() == [times] * 6 and held.lost.tolist() == [lost]


def test_what_an_answer_is_worth_stands_before_the_checker_s_word(
    base: Path, folder: Path, traces: list[Trace], tmp_path: Path
) -> None:
    """A checker calls whole problems right or wrong: the chains that are held out are as right
    as their rewards, their labels are its.
    """
    path = tmp_path / "held.npz"
    prepare(
        folder,
        {},
        base,
        tmp_path / "e.npz",
        held_file=path,
        held_share=0.4,
        checker=f"{__name__}:half_wrong",
    )
    held, away = Held.load(path), held_out(traces, 0.4)
    assert held.right.sum() == sum(
        (trace.node_reward == 1.0).sum() for trace in traces if trace.id in away
    )
    assert ((held.k[held.ends] == 0.0) & held.right).any() and (
        (held.k[held.ends] == 1.0) & ~held.right
    ).any()


def test_it_is_told_that_nothing_is_held_out(
    base: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for share in (0.0, 1e-6):
        assert (
            prepare(
                folder,
                {},
                base,
                tmp_path / "e.npz",
                held_file=tmp_path / "held.npz",
                held_share=share,
            )["held"]
            == 0
        )
        assert ("none of the problems is held out" in caplog.text) == (share > 0)


def test_problems_of_one_form_are_one_in_the_report(
    traces: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one of them would be in the half that values are calibrated on, its twin in the half
    that decides.
    """
    monkeypatch.setattr(guides.data.holdout, "form_of", lambda problem: problem.statement[-1])
    held = held_of([graded(trace) for trace in traces])
    pairs = {
        (trace.arguments["statement"][-1], int(n))
        for trace, n in zip(traces, held.problems[held.parents < 0], strict=True)
    }
    assert len(held.lost) == len(pairs) == 10, "the forms are the last digits"
