"""Files of labels, their export, and what the benchmark of labels computes."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
from fakes import listed_player
from label_cases import Z, rolled, texts_of, walker, walks

import guides.data.label_traces
from benchmarks.sweep import statistics
from benchmarks.verifiers import label_quality as bench
from guides.data.export_trl import export_prm, prm_rows
from guides.data.grading import key_of
from guides.data.label_traces import Labelling, gradable, label_traces
from guides.data.labellers import by_bisection
from guides.data.labels import Labels, line_of, read_labels
from search.files import jsonl as lines
from search.files.partition import Shard
from search.scheduling.requests import RequestFailed
from search.trace import Trace


def good(*traces: Trace) -> dict[str, str]:
    return {key_of(trace): "1" for trace in traces}


def many(count: int = 12) -> list[Trace]:
    rng = np.random.default_rng(0)
    return [
        walks(*("".join(rng.choice(["g", "b"], 5)) for _ in range(3)), length=5, name=f"t{i}")
        for i in range(count)
    ]


# -- files


@pytest.mark.thorough
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


def test_shards_are_the_labels_that_nobody_shares(tmp_path: Path) -> None:
    """One behind the other; what is missing is labelled by the run without a shard. A trace that
    cannot be graded is in no shard.
    """
    unknown = walks("gbg", name="no target")
    known = many(6)
    traces = [known[0], unknown, *known[1:]]
    targets, plan = good(*known), Labelling(count=2)
    label_traces(traces, targets, tmp_path / "whole", plan, walker(0.7))
    whole = (tmp_path / "whole").read_text().splitlines(keepends=True)
    shares = []
    for number in (1, 2, 3):
        out = tmp_path / f"l{number}"
        counts = label_traces(traces, targets, out, plan, walker(0.7), shard=Shard(number, 3))
        assert (counts.labelled, counts.before, counts.ungraded) == (2, 0, 1)
        shares.append(out.read_text())
    assert sorted("".join(shares).splitlines(keepends=True)) == sorted(whole)
    merged = tmp_path / "merged"
    merged.write_text(shares[0] + shares[2])
    counts = label_traces(traces, targets, merged, plan, walker(0.7))
    assert (counts.before, counts.labelled) == (4, 2)
    assert sorted(merged.read_text().splitlines(keepends=True)) == sorted(whole)


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
