"""`copse label` and `copse export` on a tiny random model: from traces to labels to rows, and
what is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import tiny

from guides.data.grading import grade
from guides.data.labels import read_labels
from models.checkpoints.checkpoint import save_model, version
from search.cli import main
from search.problem import TextProblem
from search.trace import Trace

SETTINGS = {
    "format": 1,
    "prompt": "{problem}:",
    "delimiter": "\n",
    "step_tokens": 50,
    "max_steps": 3,
    "answer": "([0-9])",
    "value_head": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a problems file and traces of its searches."""
    folder = tmp_path_factory.mktemp("labels")
    save_model(
        folder / "model",
        tiny.model(max_position_embeddings=512, spread=0.1),
        tiny.tokenizer(),
        tiny.head(),
        SETTINGS,
    )
    rows = [{"problem": f"problem {i}", "target": "1"} for i in range(4)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        "solve",
        "--guide",
        folder / "model",
        "--input",
        folder / "p.jsonl",
        "--output",
        folder / "o.jsonl",
        "--traces",
        folder / "t",
    ]
    flags = ["--method", "sample", "--option", "chains=8", "--budget", "simulations=8"]
    assert main.main([*map(str, command), *flags]) in (0, 1)
    return folder


def label(folder: Path, out: Path, *flags: str) -> int:
    return main.main(["label", "--from", str(folder / "t"), "--out", str(out), *flags])


@pytest.mark.thorough
def test_from_traces_to_labels_to_rows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolled = [
        "--guide",
        str(folder / "model"),
        "--targets",
        str(folder / "p.jsonl"),
        "--count",
        "3",
    ]
    assert label(folder, tmp_path / "l", *rolled) == 0
    assert "4 labelled, 0 before" in capsys.readouterr().out
    traces = Trace.load(folder / "t")
    labels = read_labels(tmp_path / "l", traces)
    for trace in traces:
        outcomes = grade(trace, "1", SETTINGS["answer"])
        assert np.isinf(labels[trace.id].n).tolist() == trace.node_finished.tolist()
        assert (
            labels[trace.id].k[trace.node_finished].tolist()
            == outcomes[trace.node_finished].tolist()
        )
        assert (labels[trace.id].n[~trace.node_finished] == 3).all()
    how = json.loads((tmp_path / "l").read_text().splitlines()[0])["how"]
    assert (
        how["policy"] == version(folder / "model")
        and how["generated"] > 0
        and how["answer"] == SETTINGS["answer"]
    )
    assert label(folder, tmp_path / "l", *rolled) == 0
    assert "0 labelled, 4 before" in capsys.readouterr().out
    assert label(folder, tmp_path / "l", *rolled, "--temperature", "0.5") == 2
    assert "another run" in capsys.readouterr().err
    for by in ("omega", "trace"):
        assert (
            label(
                folder,
                tmp_path / by,
                "--by",
                by,
                *(rolled if by == "omega" else [*rolled[2:4], "--answer", SETTINGS["answer"]]),
            )
            == 0
        )
    command = [
        "export",
        "--from",
        str(folder / "t"),
        "--labels",
        str(tmp_path / "l"),
        "--out",
        str(tmp_path / "rows.jsonl"),
    ]
    assert main.main(command) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == sum(trace.node_finished.sum() for trace in traces) and {
        row["prompt"] for row in rows
    } == {f"problem {i}" for i in range(4)}
    assert all(len(row["completions"]) == len(row["labels"]) for row in rows)


def is_short(problem: TextProblem, state: tuple) -> float:
    return float(len(state) < 2)


def test_labels_of_a_checker(folder: Path, tmp_path: Path) -> None:
    assert (
        label(folder, tmp_path / "l", "--by", "checker", "--checker", f"{__name__}:is_short") == 0
    )
    traces = Trace.load(folder / "t")
    labels = read_labels(tmp_path / "l", traces)
    assert all(
        labels[t.id].soft.tolist() == [float(len(t.path(i)) < 2) for i in range(len(t.node_parent))]
        for t in traces
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--by", "omega"], "name the model that completes the chains with --guide"),
        (["--by", "trace", "--count", "3"], "leave out --guide, --count"),
        (
            ["--by", "trace", "--max-steps", "3"],
            "leave out --guide, --count and the flags of the model",
        ),
        (["--by", "checker"], "--checker MODULE:FUNCTION"),
        (["--by", "trace", "--checker", "a:b"], "give both"),
        (["--by", "trace", "--finished"], "--finished is of labels by rollouts"),
        (["--by", "trace"], "none of 4 traces can be graded"),
        (["--by", "guess"], "see copse label --help"),
        (["--guide", "there/is/none"], "there/is/none"),
    ],
)
def test_wrong_use(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert label(folder, tmp_path / "l", *flags) == 2
    assert words in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "l").exists()


def test_another_tokenizer_is_refused_before_a_model_is_loaded(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merges = tuple((a, b) for a in "abc" for b in "xyz")
    other = save_model(
        tmp_path / "m",
        tiny.model(vocab=258 + len(merges)),
        tiny.tokenizer(merges),
        None,
        SETTINGS | {"value_head": False},
    )
    model = tmp_path / "m" / "model.safetensors"
    model.write_bytes(b"")
    code = label(
        folder,
        tmp_path / "l",
        "--guide",
        str(other),
        "--targets",
        str(folder / "p.jsonl"),
        "--delimiter",
        "#",
    )
    assert (
        code == 2
        and "another tokenizer or delimiter" in capsys.readouterr().err
        and not (tmp_path / "l").exists()
    )


def test_no_traces_and_no_labels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t").mkdir()
    assert (
        main.main(
            ["label", "--from", str(tmp_path / "t"), "--out", str(tmp_path / "l"), "--by", "trace"]
        )
        == 2
    )
    assert "no readable trace" in capsys.readouterr().err
    (tmp_path / "l").write_text('{"trace": "x", "k": [1], "n": [1]}\n')
    command = ["export", "--from", str(folder / "t"), "--labels", str(tmp_path / "l"), "--out"]
    assert main.main([*command, str(tmp_path / "rows.jsonl")]) == 2
    assert "no label in" in capsys.readouterr().err
    assert main.main([*command, str(tmp_path / "rows.csv")]) == 2
    assert ".parquet" in capsys.readouterr().err
