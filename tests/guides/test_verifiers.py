"""Verifiers trained from traces: labels, what is held out, the report and the calibration, each
against a truth of its own.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import tiny  # noqa: E402

import guides.data.holdout  # noqa: E402
import guides.training.value_report  # noqa: E402
from benchmarks.sweep import statistics  # noqa: E402
from benchmarks.verifiers import judged, selection  # noqa: E402
from benchmarks.verifiers import train as verifiers  # noqa: E402
from guides.data.examples import ExampleFile, Segment, collate, write_examples  # noqa: E402
from guides.data.grading import Graded, Replay, key_of  # noqa: E402
from guides.data.holdout import Held, held_of, hold_out, place_of  # noqa: E402
from guides.data.labels import Labels, hardened, line_of, read_labels  # noqa: E402
from guides.data.prepare import prepare  # noqa: E402
from guides.training import train, train_guide  # noqa: E402
from guides.training.calibration import Line, cross_entropy, fit, log_odds  # noqa: E402
from guides.training.metrics import auroc, best_of_k  # noqa: E402
from guides.training.value_report import calibration_error, report_of, step_report  # noqa: E402
from guides.training.value_report import selection as curve  # noqa: E402
from models.checkpoints.checkpoint import describe, load_model, save_model, version  # noqa: E402
from search.problem import TextStep  # noqa: E402
from search.scheduling.requests import Usage  # noqa: E402
from search.trace import Trace  # noqa: E402

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


# -- the planted task


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
    assert describe(out)["within"] == pytest.approx(report["within"], abs=1e-4)
    best, majority = ([row[name] for row in report["best_of"]] for name in ("best", "majority"))
    assert best[-1] > 0.95 > best[0] and best == sorted(best) and best[-1] > majority[-1]
    held = held_out(Trace.load(folder), 0.3)
    assert report["problems"] == len(held) > 3


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


def test_wrong_sources_of_labels_are_refused(
    base: Path, folder: Path, traces: list[Trace], tmp_path: Path
) -> None:
    lines = [
        json.loads(line_of(trace, Labels(*np.ones((2, len(trace.node_parent))))))
        for trace in traces[:3]
    ]
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


# -- calibration


@settings(max_examples=25, deadline=None)
@given(st.floats(0.3, 3.0), st.floats(-1.5, 1.5), st.integers(0, 100))
def test_calibration_recovers_a_planted_line(scale: float, shift: float, seed: int) -> None:
    """Soft labels that are a known line of the values: no noise, so the line itself is the best."""
    odds = np.random.default_rng(seed).normal(0, 1.5, 400)
    values, labels = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-(scale * odds + shift)))
    found = fit(values, labels, np.ones(400))
    assert found.scale == pytest.approx(scale, abs=1e-5) and found.shift == pytest.approx(
        shift, abs=1e-5
    )
    np.testing.assert_allclose(found(values), labels, atol=1e-5)
    assert (
        cross_entropy(found(values), labels, np.ones(400))
        <= cross_entropy(values, labels, np.ones(400)) + 1e-12
    )


def test_a_temperature_is_found_in_coins_and_kept_where_it_helps() -> None:
    """Values twice too sure of themselves; the second half of the problems decides."""
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, 4000)
    coins = rng.random(4000) < 1 / (1 + np.exp(-truth))
    held = forest(
        [
            [(-1, math.nan, 0)] + [(0, float(c), math.inf) for c in coins[i : i + 40]]
            for i in range(0, 4000, 40)
        ]
    )
    values = np.full(len(held.parents), 0.5)
    values[held.parents >= 0] = 1 / (1 + np.exp(-2 * truth))
    line, told = guides.training.value_report.calibrate(held, values)
    assert (
        told["kept"]
        and told["after"] < told["before"]
        and line.scale == pytest.approx(0.5, abs=0.05)
        and abs(line.shift) < 0.1
    )
    right = 1 / (1 + np.exp(-truth))
    fine = values.copy()
    fine[held.parents >= 0] = right
    assert guides.training.value_report.calibrate(held, fine)[0].scale == pytest.approx(
        1.0, abs=0.1
    )
    spoilt = held._replace(
        k=np.where((held.problems % 2 == 0) & (held.parents >= 0), 1 - held.k, held.k)
    )
    assert guides.training.value_report.calibrate(spoilt, fine)[0] == Line(), (
        "a line that the other half does not confirm is left out"
    )


def test_a_label_counts_in_the_calibration_as_in_the_training() -> None:
    """n / (n + 4): 1/5 of one outcome, 4/5 of sixteen, all of an exact one."""
    nodes = [(-1, 1.0, 1.0), (0, 4.0, 16.0), (1, 0.0, math.inf), (2, math.nan, 0.0)]
    held, values = forest([nodes, nodes]), np.array([0.5, 0.25, 0.2, 0.9] * 2)
    _, told = guides.training.value_report.calibrate(held, values)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert told["before"] == pytest.approx(
        (0.2 * math.log(2) + 0.8 * quarter - math.log(0.8)) / 2.0
    )


@pytest.mark.parametrize(
    ("values", "labels"),
    [([], []), ([0.5, 0.5], [0.0, 1.0]), ([0.2, 0.8], [1.0, 1.0]), ([0.8, 0.2], [0.0, 1.0])],
)
def test_nothing_is_changed_where_nothing_can_be_told(
    values: list[float], labels: list[float]
) -> None:
    assert fit(np.array(values), np.array(labels), np.ones(len(values))) == Line()


def test_log_odds_are_finite_and_nan_stays() -> None:
    odds = log_odds(np.array([0.0, 0.5, 1.0, math.nan]))
    assert (
        np.isfinite(odds[:3]).all()
        and odds[1] == 0
        and odds[0] == -odds[2]
        and math.isnan(Line(2, 1)(np.array([math.nan]))[0])
    )


# -- the report


def forest(
    problems: list[list[tuple[int, float, float]]],
    chains: list[tuple[int, int, bool, int]] | None = None,
    lost: list[int] | None = None,
) -> Held:
    """Nodes (parent within the problem, k, n) of each problem; chains (node, times, right,
    answer).
    """
    parents, owners, k, n = [], [], [], []
    for number, nodes in enumerate(problems):
        first = len(parents)
        for parent, label, count in nodes:
            parents.append(parent + first if parent >= 0 else -1)
            owners.append(number)
            k.append(0.0 if math.isnan(label) else label)
            n.append(count)
    rows = np.array(chains or np.zeros((0, 4)), np.int64)
    return Held(
        [(1,)] * len(parents), np.array(parents), np.array(owners), np.array(k),
        np.array(n, np.float64),
        rows[:, 0], rows[:, 1], rows[:, 2].astype(bool), rows[:, 3],
        np.array(lost or [0] * len(problems)),
    )  # fmt: skip


def test_the_first_wrong_step_is_told_as_in_processbench() -> None:
    """Four chains of three steps: found, called too early, right and left alone, right but
    called wrong.
    """
    inf, nodes, chains, values = math.inf, [(-1, 1.0, math.inf)], [], [0.9]
    for labels, said in (
        ([1, 0, 0], [0.9, 0.3, 0.8]),
        ([1, 1, 0], [0.9, 0.4, 0.1]),
        ([1, 1, 1], [0.5, 0.6, 0.7]),
        ([1, 1, 1], [0.9, 0.49, 0.9]),
    ):
        for step, (label, value) in enumerate(zip(labels, said, strict=True)):
            nodes.append((0 if step == 0 else len(nodes) - 1, float(label), inf))
            values.append(value)
        chains.append((len(nodes) - 1, 1, labels[-1] == 1, 0))
    held = forest([nodes], chains)
    assert step_report(held, np.array(values)) == {
        "erroneous": 0.5,
        "right": 0.5,
        "f1": 0.5,
        "chains": 4,
    }
    late = np.array(values)
    late[5] = 0.6  # the second chain's error is found now: 1 and 1 / 2
    assert step_report(held, late) == pytest.approx(
        {"erroneous": 1.0, "right": 0.5, "f1": 2 / 3, "chains": 4}
    )
    assert step_report(held._replace(n=np.full(len(nodes), 8.0)), late) is None, (
        "roll-outs know no first error"
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.93, 1.0]), st.booleans(), st.integers(1, 3)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_report_counts_samples_as_brute_force_does(rows: list[tuple[float, bool, int]]) -> None:
    """Two problems share the chains: odd ones and even ones."""
    problems = [[(-1, math.nan, 0.0)] + [(0, math.nan, 0.0)] * len(rows[i::2]) for i in (0, 1)]
    flat, chains, values = [*rows[0::2], *rows[1::2]], [], np.full(len(rows) + 2, 0.5)
    places = [*range(1, len(rows[0::2]) + 1), *range(len(rows[0::2]) + 2, len(rows) + 2)]
    for place, (value, right, times) in zip(places, flat, strict=True):
        chains.append((place, times, right, 0))
        values[place] = value
    told = report_of(forest(problems, chains), values, np.ones(2, bool))
    samples = [(value, right) for value, right, times in flat for _ in range(times)]
    pairs = [
        [(a, b) for (a, good), (b, bad) in itertools.product(own, own) if good and not bad]
        for own in (samples, *halves(rows))
    ]
    areas = [np.mean([(a > b) + (a == b) / 2 for a, b in pair]) if pair else None for pair in pairs]
    assert told["auroc"] == (None if areas[0] is None else pytest.approx(areas[0]))
    inside = [area for area in areas[1:] if area is not None]
    assert told["within"] == (pytest.approx(np.mean(inside)) if inside else None) and told[
        "within_problems"
    ] == len(inside)
    assert told["brier"] == pytest.approx(
        np.mean([(value - right) ** 2 for value, right in samples])
    )
    gaps = 0.0
    for low in range(15):
        own = [
            (v, r) for v, r in samples if low / 15 <= v < (low + 1) / 15 or (low == 14 and v == 1)
        ]
        gaps += (
            len(own)
            / len(samples)
            * abs(np.mean([v for v, _ in own]) - np.mean([r for _, r in own]))
            if own
            else 0
        )
    assert told["calibration_error"] == pytest.approx(gaps)
    assert told["steps"] is None and told["chains"] == len(samples)


def test_a_calibration_is_told_by_problems_that_it_has_not_seen() -> None:
    """How good the probabilities are is of the second problem alone, who is above whom of both."""
    nodes = [(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]
    held = forest(
        [nodes, nodes], [(1, 1, True, 0), (2, 1, False, 1), (4, 1, True, 0), (5, 1, False, 1)]
    )
    told = report_of(held, np.array([0.5, 0.9, 0.1, 0.5, 0.4, 0.6]), np.array([False, True]))
    assert told["chains"] == 4 and told["within"] == 0.5 and told["auroc"] == 0.75
    assert told["brier"] == pytest.approx(0.36) and told["calibration_error"] == pytest.approx(0.6)


def test_the_line_is_folded_into_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-odds are `scale` x the old + `shift`, the old bias included; how good they are is told
    of the second problem.
    """
    line, model, head = Line(0.5, 0.7), tiny.model(), tiny.head()
    head.bias.data.fill_(0.4)
    monkeypatch.setattr(
        guides.training.value_report, "calibrate", lambda held, values: (line, {"kept": True})
    )
    nodes = [(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]
    held = forest(
        [nodes, nodes], [(1, 1, True, 0), (2, 1, True, 0), (4, 1, True, 0), (5, 1, False, 1)]
    )
    hidden = model.model(torch.tensor([[1, 1]])).last_hidden_state[0, -1].detach()
    before = head.logits(hidden).item()
    told = guides.training.value_report.judge(model, tiny.tokenizer(), head, held)
    assert head.logits(hidden).item() == pytest.approx(0.5 * before + 0.7, abs=1e-5)
    value = head(hidden).item()
    assert told["brier"] == pytest.approx(((1 - value) ** 2 + value**2) / 2, abs=1e-3)


def halves(rows: list[tuple[float, bool, int]]) -> list[list[tuple[float, bool]]]:
    return [
        [(value, right) for value, right, times in rows[i::2] for _ in range(times)] for i in (0, 1)
    ]


def test_values_that_are_not_known_are_left_out() -> None:
    held = forest(
        [[(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]],
        [(1, 1, True, 0), (2, 1, False, 1)],
    )
    told = report_of(held, np.array([math.nan, 0.7, math.nan]), np.ones(1, bool))
    assert (
        told["chains"] == 1
        and told["auroc"] is told["within"] is None
        and told["brier"] == pytest.approx(0.09)
    )
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0)))


def test_the_curve_counts_unfinished_samples_as_wrong() -> None:
    """One right chain of four samples, two of which never finished."""
    held = forest(
        [[(-1, math.nan, 0), (0, math.nan, 0), (0, math.nan, 0)]],
        [(1, 1, True, 0), (2, 1, False, 1)],
        lost=[2],
    )
    rows = curve(held, np.array([0.5, 0.9, 0.2]))
    assert [row["n"] for row in rows] == [1, 2, 4]
    assert [row["best"] for row in rows] == pytest.approx([1 / 4, 1 / 2, 1.0])
    assert rows[2]["weighted"] == 1.0 and rows[2]["majority"] == 0.5


# -- the estimators of the comparison


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-1, 3), st.sampled_from([0.0, 0.2, 0.7, 1.0]), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
def test_choices_among_samples_agree_with_all_choices(rows: list[tuple[int, float, bool]]) -> None:
    """best and passed exactly; a vote over all samples exactly, ties by their share."""
    answers = np.array([answer for answer, _, _ in rows])
    known = np.unique(answers[answers >= 0])
    answers = np.where(answers >= 0, np.searchsorted(known, answers), -1)
    scores = np.array([score for _, score, _ in rows])
    right = (answers == 0) & (answers >= 0)
    sizes = list(range(1, len(rows) + 1))
    np.testing.assert_allclose(
        selection.best(scores, right, sizes), [best_of_k(scores, right, k) for k in sizes]
    )
    np.testing.assert_allclose(
        selection.passed(right, sizes),
        [statistics.pass_at_k(len(rows), int(right.sum()), k) for k in sizes],
    )
    exact = [
        np.mean([right[list(drawn)].any() for drawn in itertools.combinations(range(len(rows)), k)])
        for k in sizes
    ]
    np.testing.assert_allclose(selection.passed(right, sizes), exact)
    samples = selection.Samples(answers, right, right)
    weights = np.stack([np.ones(len(rows)), scores])
    found = selection.votes(samples, weights, [len(rows)], seed=3)[:, 0]
    for way, got in zip(weights, found, strict=True):
        tally = {
            answer: way[answers == answer].sum() for answer in set(answers[answers >= 0].tolist())
        }
        top = [
            answer
            for answer, votes in tally.items()
            if votes > 0 and math.isclose(votes, max(tally.values()))
        ]
        assert got == pytest.approx((0 in top) / len(top) if top else 0.0)


def test_votes_over_sub_samples_have_the_right_mean() -> None:
    """Exactly, over all choices of 3 of 7: within four standard errors of 200 draws a seed."""
    answers = np.array([0, 0, 1, 1, 1, 2, -1])
    samples = selection.Samples(answers, answers == 0, answers == 0)
    weights = np.array([[1.0] * 7, [0.9, 0.8, 0.1, 0.3, 0.2, 0.5, 0.0]])
    got = np.mean([selection.votes(samples, weights, [1, 3], seed) for seed in range(20)], axis=0)
    for way, means in zip(weights, got, strict=True):
        for k, mean in zip((1, 3), means, strict=True):
            shares = []
            for drawn in itertools.combinations(range(7), k):
                own = [i for i in drawn if answers[i] >= 0]
                tally = {int(a): sum(way[i] for i in own if answers[i] == a) for a in answers[own]}
                top = [a for a, votes in tally.items() if math.isclose(votes, max(tally.values()))]
                shares.append((0 in top) / len(top) if top else 0.0)
            assert (
                abs(mean - np.mean(shares))
                < 4 * np.std(shares) / math.sqrt(20 * selection.DRAWS) + 1e-9
            )


def test_a_flawed_chain_is_chosen_where_it_is_scored_best() -> None:
    answers = np.array([0, 0, 0, 1])
    samples = selection.Samples(answers, answers == 0, np.array([True, False, True, False]))
    ones = np.ones(4)
    assert selection.flawed(samples, ones, np.array([0.1, 0.9, 0.2, 1.0]), 4, 0) == (1.0, 1.0)
    assert selection.flawed(samples, ones, np.array([0.9, 0.1, 0.2, 1.0]), 4, 0) == (1.0, 0.0)
    assert selection.flawed(samples, np.array([0, 0, 0, 1.0]), ones, 4, 0) == (0.0, 0.0)
    alike = selection.Samples(
        np.zeros(4, int), np.ones(4, bool), np.array([True, False, True, True])
    )
    right, wrong = selection.flawed(alike, ones, np.array([0.1, 0.9, 0.2, 0.3]), 2, 0)
    assert right == 1.0 and abs(wrong - 0.5) < 4 * 0.5 / math.sqrt(selection.DRAWS), (
        "it is among two of four in half of the draws"
    )
    nobody = selection.Samples(np.full(4, -1), np.zeros(4, bool), np.zeros(4, bool))
    assert (
        selection.flawed(nobody, ones, ones, 2, 0) == (0.0, 0.0)
        and not selection.votes(nobody, ones[None], [2], 0).any()
    )


def test_a_pool_gives_no_vote_to_a_chain_without_an_answer() -> None:
    nodes = [(-1, 1.0, math.inf), *[(0, 1.0, math.inf)] * 3]
    pool = judged.Pool(
        forest([nodes], [(1, 1, True, 7), (2, 3, False, -1), (3, 1, False, 9)], lost=[2])
    )
    assert pool.samples[0].answers.tolist() == [0, -1, -1, -1, 1, -1, -1]
    assert pool.samples[0].right.tolist() == [True, *[False] * 6]
    assert pool.sizes == [1, 2, 4] and pool.plain()["majority"].shape == (1, 3)


def test_an_unfinished_sample_is_neither_the_best_nor_has_a_vote() -> None:
    """One right chain of value 0 and two unfinished: it is chosen whenever it is drawn, unless
    votes weigh nothing.
    """
    pool = judged.Pool(
        forest([[(-1, 1.0, math.inf), (0, 1.0, math.inf)]], [(1, 1, True, 0)], lost=[2])
    )
    best, weighted = pool.rates(np.array([[0.0], [0.3]]))[:, :, 0]
    np.testing.assert_allclose(best, [[1 / 3, 2 / 3]] * 2)
    assert weighted[0].tolist() == [0, 0] and np.abs(
        weighted[1] - best[1]
    ).max() < 4 * 0.5 / math.sqrt(selection.DRAWS)


def test_differences_are_of_the_same_chooser_at_the_same_size() -> None:
    sizes, rng = [1, 2, 4, 8, 16, 32, 64], np.random.default_rng(0)
    rates = {
        (kind, how): rng.random((3, 2, 7))
        for kind in ("orm", "exact", "rollouts")
        for how in judged.CHOOSERS
    }
    majority = rng.random((3, 7))
    told = judged._differences(sizes, majority, rates)
    for how in judged.CHOOSERS:
        orm, exact, rolled = (rates[kind, how] for kind in ("orm", "exact", "rollouts"))
        gap = exact - orm
        np.testing.assert_allclose(told[f"exact - orm, {how}"], gap[:, :, 6])
        np.testing.assert_allclose(
            told[f"exact - orm, {how}, gap(64) - gap(4)"], gap[:, :, 6] - gap[:, :, 2]
        )
        np.testing.assert_allclose(told[f"rollouts - exact, {how}"], (rolled - exact)[:, :, 6])
        np.testing.assert_allclose(told[f"orm {how} - majority"], orm[:, :, 6] - majority[:, 6:])


def test_splits_share_no_problem_and_a_report_needs_a_verifier(tmp_path: Path) -> None:
    found = {
        split: {p.canonical() for p in verifiers.problems_of(split, 40)}
        for split in verifiers.SPLITS
    }
    assert all(len(own) == 40 for own in found.values())
    assert not any(found[a] & found[b] for a, b in itertools.combinations(found, 2))
    task = verifiers.task_of(verifiers.problems_of("test", 3))
    assert all(
        task.correct(key, str(p.values[p.query]), None) for key, p in task.problems.items()
    ) and set(task.problems) == {key_of(problem) for problem in task.problems.values()}
    with pytest.raises(ValueError, match="train one first"):
        verifiers.report(tmp_path)
    for name in ("orm-0", "orm-1", "exact-1", "exact-2", "other-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training.json").touch()
    assert judged.complete(tmp_path, ["orm", "exact", "rollouts"]) == {
        kind: [tmp_path / f"{kind}-1"] for kind in ("orm", "exact")
    }


def test_the_area_is_that_of_all_pairs() -> None:
    assert auroc([0.1, 0.4, 0.4, 0.9], [False, True, False, True]) == pytest.approx(
        (1 + 0.5 + 1 + 1) / 4
    )
