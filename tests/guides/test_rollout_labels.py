"""Labels of traces on planted policies: probabilities in closed form, planted errors, runs that
were killed, files that are wrong.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from fakes import Characters, listed_player
from test_distill import make

import guides.data.label_traces
from benchmarks.sweep import statistics
from benchmarks.verifiers import label_quality as bench
from guides.data.export_trl import export_prm, prm_rows
from guides.data.grading import grade, key_of
from guides.data.label_traces import Labelling, gradable, label_traces
from guides.data.labellers import by_bisection, by_rollouts, from_checker, from_trace
from guides.data.labels import Labels, line_of, read_labels
from guides.engines import Loaded
from guides.policies.lm import LM
from models import Scripted
from search.files import jsonl as lines
from search.problem import TextStep
from search.scheduling.requests import RequestFailed
from search.scheduling.scheduler import run
from search.trace import Trace

Z = 4.5  # standard errors that a mean may be off: 7 in a million


@dataclass(frozen=True)
class Walk:
    """A walk of `length` steps; its answer is "1" if no step was "b". From a good prefix of t steps
    a policy that writes "g" with probability p gets there with p ** (length - t), from another one
    never.
    """

    length: int
    players = 1
    inline = True

    def initial(self) -> tuple[TextStep, ...]:
        return ()

    def actions(self, state: Any) -> None:
        return None

    def apply(self, state: Any, step: TextStep) -> Any:
        return (*state, step)

    def is_terminal(self, state: Any) -> bool:
        return len(state) == self.length

    def verify(self, state: Any) -> None:
        return None

    def answer(self, state: Any) -> str | None:
        return "0" if any(step.text == "b" for step in state) else "1"

    def prompt(self, state: Any) -> str:
        return "walk"

    def key(self, state: Any, step: TextStep) -> str:
        return step.text

    def to_json(self) -> dict[str, Any]:
        return {"length": self.length}


def walker(p: float = 1.0, function: Any = None, **backend: Any) -> LM:
    """A policy that writes "g" with probability p, else "b"."""
    function = function or listed_player(
        lambda prompt: {line: q for line, q in (("g", p), ("b", 1 - p)) if q}
    )
    return LM(
        Loaded(
            Scripted(function, **backend),
            Characters(),
            {"delimiter": "\n", "step_tokens": 4, "prompt": "{problem}\n"},
            "w",
            False,
        )
    )


def walks(*chains: str, length: int | None = None, name: str = "t") -> Trace:
    """The trace of chains such as "ggb", which share their beginnings; finished are those of
    `length` steps.
    """
    length = length or max(map(len, chains))
    texts = sorted(
        {chain[:i] for chain in chains for i in range(1, len(chain) + 1)},
        key=lambda text: (len(text), text),
    )
    place = {"": 0} | {text: i for i, text in enumerate(texts, 1)}
    trace = make(
        [place[text[:-1]] for text in texts],
        [1] * len(texts),
        [len(text) == length for text in texts],
    )
    letters = {place[text]: text[-1] for text in texts}
    steps = tuple(TextStep(letters[int(c)], (ord(letters[int(c)]), 10)) for c in trace.edge_child)
    return replace(
        trace, id=name, kind=f"{__name__}:Walk", arguments={"length": length}, steps=steps
    )


def texts_of(trace: Trace) -> list[str]:
    """The chain of each node, as letters."""
    return [
        "".join(trace.steps[edge].text for edge in trace.path(node))
        for node in range(len(trace.node_parent))
    ]


def rolled(
    trace: Trace, policy: LM, count: int, seed: int = 0, labeller: Any = by_rollouts, **options: Any
) -> Any:
    return run(labeller(trace, "1", policy, count, seed, **options), policy.backends)


# -- roll-outs


def test_labels_are_unbiased() -> None:
    """k / n of each node is the binomial share of its closed-form value."""
    trace, p, count = walks("ggg", "gb", length=4), 0.7, 1000
    labels = rolled(trace, walker(p), count).labels
    truth = {"": p**4, "g": p**3, "gg": p**2, "ggg": p, "gb": 0.0}
    assert labels.n.tolist() == [count] * 5
    for text, share in zip(texts_of(trace), labels.soft, strict=True):
        value = truth[text]
        assert abs(share - value) <= Z * math.sqrt(value * (1 - value) / count), text


def test_nodes_are_rolled_out_from_random_numbers_of_their_own() -> None:
    """An engine draws equal tokens from equal seeds, so labels of siblings that shared some
    would err together.
    """
    seeds = list[int]()

    def function(request: Any) -> Any:
        seeds.append(request.seed)
        return "g\n"

    rolled(walks(*"cdef", length=2), walker(function=function), 8)
    assert len(seeds) == len(set(seeds)) == 8 * 2 + 4 * 8, (
        "two steps from the root, one from each node"
    )


def test_hard_labels_are_right_as_often_as_m_roll_outs_hit() -> None:
    """1 - (1 - V) ** M, over many labels of one node."""
    trace, p, policy = walks("g", length=3), 0.5, walker(0.5)
    hard = [rolled(trace, policy, 4, seed).labels.hard[1] for seed in range(300)]
    expected = 1 - (1 - p**2) ** 4
    assert abs(np.mean(hard) - expected) <= Z * math.sqrt(expected * (1 - expected) / len(hard))


def test_finished_nodes_are_exact_and_cost_nothing() -> None:
    trace = walks("gg", "gb")
    requests = Counter[str]()

    def function(request: Any) -> Any:
        requests["".join(map(chr, request.prompt))] += 1
        return "g\n"

    found = rolled(trace, walker(function=function), 3)
    assert found.labels.k.tolist() == [3, 3, 0, 1] and found.labels.n.tolist() == [
        3,
        3,
        math.inf,
        math.inf,
    ]
    assert [texts_of(trace)[i] for i in (2, 3)] == ["gb", "gg"]
    assert set(requests) == {"walk\n", "walk\ng\n"} and found.made == 6


def test_only_what_finished_chains_go_through() -> None:
    labels = rolled(walks("gg", "b"), walker(), 2, finished=True).labels
    assert labels.n.tolist() == [2, 0, 2, math.inf]
    assert math.isnan(labels.soft[1]) and math.isnan(labels.hard[1])


def test_failed_roll_outs_count_in_no_label() -> None:
    def function(request: Any) -> Any:
        if request.seed % 2:
            raise RequestFailed("the server is away")
        return "g\n"

    found = rolled(walks("g", length=2), walker(function=function), 64)
    assert 0 < found.labels.n[1] < 64 and 0 < found.labels.n[0] < found.labels.n[1], (
        "one more step, one more chance to fail"
    )
    assert found.labels.k.tolist() == found.labels.n.tolist() and found.failed + found.made == 128


def test_an_answer_of_which_nobody_can_tell_counts_in_no_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Undecided is neither right nor wrong; equal answers are checked once."""
    asked = Counter[str | None]()

    def outcome(answer: str | None, target: str) -> float:
        asked[answer] += 1
        return math.nan if answer == "0" else 1.0

    monkeypatch.setattr(guides.data.labellers, "outcome", outcome)
    found = rolled(walks("g", length=2), walker(0.5), 64)
    assert (
        found.labels.k.tolist() == found.labels.n.tolist()
        and 0 < found.labels.n[0] < found.labels.n[1] < 64
    )
    assert found.failed == 128 - found.made and asked == {"0": 1, "1": 1}


def test_a_chain_that_never_ends_is_a_failure_not_unknown() -> None:
    policy = walker()
    policy.max_steps = 3
    labels = rolled(walks("g", length=9), policy, 5).labels
    assert labels.k.tolist() == [0, 0] and labels.n.tolist() == [5, 5]


# -- bisection


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_bisection_finds_a_planted_error(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 40))
    error = data.draw(st.integers(1, length))
    trace = walks(
        "g" * (error - 1)
        + "b"
        + "".join(data.draw(st.lists(st.sampled_from("gb"), min_size=length, max_size=length)))
    )
    trace = replace(trace, arguments={"length": len(trace.steps)})
    trace = walks(texts_of(trace)[-1][:length])
    found = rolled(trace, walker(), 2, labeller=by_bisection)
    assert found.errors == {length: error}
    measured = np.isfinite(found.labels.n) & (found.labels.n > 0)
    assert measured.sum() <= math.ceil(math.log2(length)) and found.made == 2 * measured.sum()
    assert found.labels.n[length] == math.inf and found.labels.k[length] == 0
    assert all((k > 0) == (node < error) for node, k in enumerate(found.labels.k) if measured[node])


def test_chains_share_their_roll_outs_and_right_beginnings_need_none() -> None:
    wrong = ["ggggbggg", "ggggbgbg", "ggbggggg"]
    prompts = Counter[str]()

    def function(request: Any) -> Any:
        prompts["".join(map(chr, request.prompt)).replace("\n", "")] += 1
        return "g\n"

    trace = walks(*wrong, "gggggggg")
    found = rolled(trace, walker(function=function), 3, labeller=by_bisection)
    texts = texts_of(trace)
    assert {texts[node]: step for node, step in found.errors.items()} == {
        wrong[0]: 5,
        wrong[1]: 5,
        wrong[2]: 3,
    }
    nodes = {
        texts[node] for node in np.flatnonzero(np.isfinite(found.labels.n) & (found.labels.n > 0))
    }
    assert nodes and not any("gggggggg".startswith(text) for text in nodes)
    assert found.made == 3 * len(nodes)
    right = trace.node_finished & (found.labels.k == 1)
    assert [texts[node] for node in np.flatnonzero(right)] == ["gggggggg"]


def test_bisection_has_the_labels_of_roll_outs_where_it_has_some() -> None:
    trace = walks("ggbgg", "gbggb", "ggggb")
    every, some = (
        rolled(trace, walker(0.6), 8).labels,
        rolled(trace, walker(0.6), 8, labeller=by_bisection).labels,
    )
    there = some.n > 0
    assert 0 < there.sum() < len(there)
    assert (
        every.k[there].tolist() == some.k[there].tolist()
        and every.n[there].tolist() == some.n[there].tolist()
    )


def test_a_chain_whose_roll_outs_fail_has_no_first_error() -> None:
    def function(request: Any) -> Any:
        raise RequestFailed("the server is away")

    found = rolled(walks("ggbg"), walker(function=function), 2, labeller=by_bisection)
    assert not found.errors and found.made == 0 and found.failed == 2
    assert found.labels.n.tolist() == [0, 0, 0, 0, math.inf]


# -- without roll-outs


def test_labels_of_the_trace_and_of_a_checker() -> None:
    trace = walks("gg", "gb", "bb")
    texts = texts_of(trace)
    labels = from_trace(trace, grade(trace, "1"))
    below = [[chain for chain in ("gg", "gb", "bb") if chain.startswith(text)] for text in texts]
    assert labels.n.tolist() == [len(chains) for chains in below] and labels.k.tolist() == [
        chains.count("gg") for chains in below
    ]
    labels = from_checker(
        trace, lambda problem, state: None if not state else 0.25 if state[-1].text == "b" else 1.0
    )
    assert labels.n.tolist() == [0] + [math.inf] * 5
    assert labels.soft[1:].tolist() == [0.25 if text[-1] == "b" else 1.0 for text in texts[1:]]
    assert labels.hard[1:].tolist() == [float(text[-1] == "g") for text in texts[1:]]


# -- files


def good(*traces: Trace) -> dict[str, str]:
    return {key_of(trace): "1" for trace in traces}


def many(count: int = 12) -> list[Trace]:
    rng = np.random.default_rng(0)
    return [
        walks(*("".join(rng.choice(["g", "b"], 5)) for _ in range(3)), length=5, name=f"t{i}")
        for i in range(count)
    ]


@pytest.mark.parametrize("by", ["rollouts", "omega"])
def test_the_same_labels_beside_any_neighbours(by: str, tmp_path: Path) -> None:
    traces, plan = many(), Labelling(by, count=4, seed=3)
    label_traces(traces, good(*traces), tmp_path / "all", plan, walker(0.7))
    label_traces(
        traces[::-1], good(*traces), tmp_path / "turned", plan, walker(0.7, slots=3, shuffle=5)
    )
    label_traces(traces[4:5], good(*traces), tmp_path / "one", plan, walker(0.7))
    lines = (tmp_path / "all").read_text().splitlines()
    assert sorted(lines) == sorted((tmp_path / "turned").read_text().splitlines())
    assert (tmp_path / "one").read_text().strip() in lines and len(lines) == len(traces)
    label_traces(traces, good(*traces), tmp_path / "other", replace(plan, seed=4), walker(0.7))
    assert (
        read_labels(tmp_path / "other", traces)["t4"].k.tolist()
        != read_labels(tmp_path / "all", traces)["t4"].k.tolist()
    )


def test_a_line_tells_what_it_took(tmp_path: Path) -> None:
    trace = walks("gb", "bb")
    counts = label_traces(
        [trace],
        good(trace),
        tmp_path / "l",
        Labelling(count=3, seed=7),
        walker(),
        settings={"temperature": 0.5},
    )
    row = json.loads((tmp_path / "l").read_text())
    assert row["how"] == {
        "by": "rollouts", "policy": "w", "count": 3, "seed": 7, "finished": False,
        "temperature": 0.5, "target": "1", "calls": 12,
        "generated": 24, "rollouts": 9, "failed": 0,
    }  # fmt: skip
    assert (counts.labelled, counts.rollouts, counts.generated) == (1, 9, 24)


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """Killed within a line: the next run cuts it off, and labels what is missing, once."""
    traces, plan, out, asked = many(), Labelling(count=2), tmp_path / "l", Counter[str]()
    label_traces(traces, good(*traces), tmp_path / "whole", plan, walker(0.7))
    whole = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(whole[:5]) + whole[5][:30])
    player = listed_player(lambda prompt: {"g": 0.7, "b": 0.3})

    def function(request: Any) -> Any:
        asked["n"] += 1
        return player(request)

    counts = label_traces(traces, good(*traces), out, plan, walker(function=function))
    assert (counts.before, counts.labelled) == (5, 7)
    assert sorted(out.read_bytes().splitlines(keepends=True)) == sorted(whole)
    asked.clear()
    assert (
        label_traces(traces, good(*traces), out, plan, walker(function=function)).before == 12
        and not asked
    )


def test_labels_for_another_target_are_not_taken_up(tmp_path: Path) -> None:
    """Targets were corrected after a run that was cut off: its lines are labels for the old
    ones.
    """
    traces, plan, out = many(3), Labelling("trace"), tmp_path / "l"
    label_traces(traces[:2], good(*traces), out, plan)
    before = out.read_bytes()
    corrected = dict.fromkeys(good(*traces), "0")
    with pytest.raises(
        ValueError, match="line 1 has labels of another run .*target 1 instead of .*target 0"
    ):
        label_traces(traces, corrected, out, plan)
    assert out.read_bytes() == before
    assert label_traces(traces[2:], corrected, out, plan).labelled == 1, (
        "what other traces were labelled for is not asked"
    )
    assert label_traces(traces[:2], good(*traces), out, plan).before == 2


def test_ctrl_c_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides.data.label_traces, "SIDE_BY_SIDE", 2)
    traces, out, player, asked = (
        many(),
        tmp_path / "l",
        listed_player(lambda prompt: {"g": 0.7, "b": 0.3}),
        Counter[str](),
    )

    def function(request: Any) -> Any:
        asked["n"] += 1
        if asked["n"] == 150:
            raise KeyboardInterrupt
        return player(request)

    with pytest.raises(KeyboardInterrupt):
        label_traces(traces, good(*traces), out, Labelling(count=2), walker(function=function))
    done = len(out.read_text().splitlines())
    assert 0 < done < 12
    assert (
        label_traces(traces, good(*traces), out, Labelling(count=2), walker(0.7)).labelled
        == 12 - done
    )
    assert len(read_labels(out, traces)) == 12


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(lines.FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[: max(0, 700 - os.fstat(self.fileno()).st_size)])

    traces, out = many(), tmp_path / "l"
    with monkeypatch.context() as patch, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        patch.setattr(lines, "FileIO", Full)
        label_traces(traces, good(*traces), out, Labelling(count=2), walker(0.7))
    assert out.read_bytes().endswith(b"\n") and 0 < len(read_labels(out, traces)) < 12
    label_traces(traces, good(*traces), out, Labelling(count=2), walker(0.7))
    assert len(read_labels(out, traces)) == 12


def test_where_all_fails_nothing_is_written_and_the_next_run_tries_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def function(request: Any) -> Any:
        raise RequestFailed("the server is away")

    trace = walks("gg", "gb")
    counts = label_traces(
        [trace], good(trace), tmp_path / "l", Labelling(count=2), walker(function=function)
    )
    assert (
        counts.failed == 1
        and not (tmp_path / "l").read_text()
        and "give the same command again" in caplog.text
    )
    assert (
        label_traces([trace], good(trace), tmp_path / "l", Labelling(count=2), walker()).labelled
        == 1
    )


def test_wrong_use_is_refused_in_words(tmp_path: Path) -> None:
    trace, out = walks("gg", "gb"), tmp_path / "l"
    with pytest.raises(ValueError, match="choose one of rollouts, omega, trace, checker"):
        Labelling("guess")
    with pytest.raises(ValueError, match="at least 1"):
        Labelling(count=0)
    with pytest.raises(ValueError, match="--checker MODULE:FUNCTION"):
        Labelling("checker")
    with pytest.raises(ValueError, match="cannot load the checker"):
        Labelling("checker", checker="no.such:thing")
    with pytest.raises(ValueError, match="need a policy"):
        label_traces([trace], good(trace), out, Labelling())
    with pytest.raises(ValueError, match="none of 1 traces can be graded"):
        label_traces([trace], {}, out, Labelling("trace"))
    assert not out.exists()
    label_traces([trace], good(trace), out, Labelling(count=2), walker())
    with pytest.raises(ValueError, match="line 1 has labels of another run .*count 2.*count 3"):
        label_traces([trace], good(trace), out, Labelling(count=3), walker())
    with pytest.raises(ValueError, match="another run"):
        label_traces(
            [trace], good(trace), out, Labelling(count=2), walker(), settings={"temperature": 2.0}
        )
    (tmp_path / "other").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="line 1 is no line of labels: choose another --out"):
        label_traces([trace], good(trace), tmp_path / "other", Labelling("trace"))
    (tmp_path / "other").write_text("my diary")
    with pytest.raises(ValueError, match="the last line of .* is no line of labels"):
        label_traces([trace], good(trace), tmp_path / "other", Labelling("trace"))
    assert (tmp_path / "other").read_text() == "my diary"


def test_traces_without_target_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known, unknown = walks("gg", name="a"), walks("ggg", name="b")
    counts = label_traces([known, unknown], good(known), tmp_path / "l", Labelling("trace"))
    assert (counts.labelled, counts.ungraded) == (1, 1) and "1 traces get no labels" in caplog.text
    rewarded = replace(unknown, node_reward=np.where(unknown.node_finished, 1.0, math.nan))
    assert (
        gradable(
            [rewarded, replace(known, node_finished=known.node_finished & False)],
            {},
            Labelling("trace"),
        )
        != []
    )


# -- export


def test_the_columns_of_trl(tmp_path: Path) -> None:
    trace = walks("gg", "gb")
    nodes = {text: node for node, text in enumerate(texts_of(trace))}
    labels = Labels(np.zeros(4), np.full(4, 4.0))
    labels.k[[nodes["g"], nodes["gg"]]], labels.n[[nodes["gg"], nodes["gb"]]] = (3.6, 1), math.inf
    hard = list(prm_rows(trace, labels))
    assert hard == [
        {"prompt": "walk", "completions": ["g", "b"], "labels": [True, False]},
        {"prompt": "walk", "completions": ["g", "g"], "labels": [True, True]},
    ]
    assert all(label is True or label is False for row in hard for label in row["labels"])
    assert [row["labels"] for row in prm_rows(trace, labels, soft=True)] == [[0.9, 0.0], [0.9, 1.0]]
    for soft in (False, True):
        expected = list(prm_rows(trace, labels, soft=soft))
        assert export_prm([trace], {"t": labels}, tmp_path / "r.jsonl", soft=soft) == 2
        assert [
            json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()
        ] == expected
        export_prm([trace], {"t": labels}, tmp_path / "r.parquet", soft=soft)
        import pyarrow.parquet as parquet

        table = parquet.read_table(tmp_path / "r.parquet")
        assert table.to_pylist() == expected and str(
            table.schema.field("labels").type.value_type
        ) == ("double" if soft else "bool")
    with pytest.raises(ValueError, match=r"end with .jsonl or .parquet"):
        export_prm([trace], {"t": labels}, tmp_path / "r.csv")
    with pytest.raises(ValueError, match="no finished chain"):
        export_prm([trace], {"t": labels._replace(n=np.zeros(4))}, tmp_path / "none.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.jsonl", "r.parquet"]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.data())
def test_a_bisected_chain_has_all_its_hard_labels(length: int, data: st.DataObject) -> None:
    error = data.draw(st.integers(1, length))
    trace = walks(
        "g" * (error - 1) + "b" + "g" * (length - error),
        *(["g" * length] if data.draw(st.booleans()) else []),
    )
    rows = {
        "".join(row["completions"]): row["labels"]
        for row in prm_rows(trace, rolled(trace, walker(), 1, labeller=by_bisection).labels)
    }
    for chain, labels in rows.items():
        assert labels == ["b" not in chain[: i + 1] for i in range(length)]
    assert len(rows) == trace.node_finished.sum()


def test_a_chain_is_cut_where_nobody_knows() -> None:
    trace = walks("ggg")
    labels = Labels(np.array([0, 1, 0, 0.0]), np.array([0, 2, 0, 0.0]))
    assert [row["labels"] for row in prm_rows(trace, labels)] == [[True]]
    assert [row["labels"] for row in prm_rows(trace, labels, soft=True)] == [[0.5]]
    assert list(prm_rows(trace, labels._replace(n=np.zeros(4)))) == []


def test_label_files_are_read_back(tmp_path: Path) -> None:
    trace = walks("gg", "gb")
    found = rolled(trace, walker(0.5), 8)
    (tmp_path / "l").write_text(line_of(trace, found.labels))
    read = read_labels(tmp_path / "l", [trace])["t"]
    assert read.k.tolist() == found.labels.k.tolist() and read.n.tolist() == found.labels.n.tolist()


# -- what the benchmark computes


@pytest.mark.parametrize(
    ("right", "n"), [(0, 1), (1, 1), (0, 32), (7, 32), (16, 32), (32, 32), (500, 2000)]
)
def test_the_ends_of_wilsons_interval_are_a_standard_score_away(right: int, n: int) -> None:
    interval, share = statistics.wilson(right, n), right / n
    assert 0 <= interval.low <= share <= interval.high <= 1
    for end in (interval.low, interval.high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(share - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.959964)
    with pytest.raises(ValueError, match="no share"):
        statistics.wilson(n + 1, n)


def test_coverage_of_true_binomials_is_its_exact_value() -> None:
    """Against the sum of binomial probabilities of the counts whose interval covers."""
    values, rng = np.array([0.15, 0.5, 0.85]), np.random.default_rng(0)
    labels = (rng.random((3, 4000, bench.LABEL)) < values[:, None, None]).astype(float)
    for value, share in zip(values, bench.coverage(values, labels), strict=True):
        exact = sum(
            math.comb(bench.LABEL, k) * value**k * (1 - value) ** (bench.LABEL - k)
            for k in range(bench.LABEL + 1)
            if statistics.wilson(k, bench.LABEL).low
            <= value
            <= statistics.wilson(k, bench.LABEL).high
        )
        assert abs(share - exact) <= Z * math.sqrt(exact * (1 - exact) / 4000)


def test_false_positives_of_true_binomials() -> None:
    rolled = (np.random.default_rng(0).random((4000, 64)) < 0.05).astype(float)
    for size, share in zip(bench.SIZES, bench.false_positives(rolled).mean(axis=0), strict=True):
        expected = 1 - 0.95**size
        assert abs(share - expected) <= Z * math.sqrt(expected * (1 - expected) / 4000)


def test_the_report_of_first_errors() -> None:
    found = [
        bench.Search(8, 3, 3, 3, 28, 12),
        bench.Search(8, 3, 2, 3, 28, 12),
        bench.Search(8, 5, 5, 6, 28, 12),
        bench.Search(8, 1, 1, 1, 28, 9),
    ]
    cells = bench.report(found).split(" | ")
    assert (
        cells[0].startswith("75.0 [")
        and cells[3].startswith("75.0 [")
        and cells[1:3] == ["0.0", "28.0"]
        and cells[4:6] == ["25.0", "11.2"]
    )
    assert cells[6:] == ["100.0 %", "40.2 %"]
