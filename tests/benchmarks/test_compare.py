"""Ways to learn side by side (`benchmarks.learning.compare`): what an arm may be, what is counted,
and the stories for models that are not ours.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.learning import arms, compare
from benchmarks.learning.arms import CONTROLS, Spent, read_arms
from benchmarks.learning.easy_stories import stories
from benchmarks.output import write_csv
from guides.data.examples import ExampleFile
from guides.data.streams import Streaming


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dqn", "no arm 'dqn'"),
        ("rl,", "no arm ''"),
        ("rl temperature=1", "no option 'temperature'"),
        ("paths flops=1", "no option 'flops'"),
        ("paths kind=retry", "no option 'kind'"),
        ("streams epochs=1", "no option 'epochs'"),
    ],
)
def test_what_is_no_arm_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        read_arms(text)


def test_arms_with_options_have_folders_of_their_own() -> None:
    arms = read_arms("rl,rl kl=0.1 credit=tree,rest_em problems=250,paths of=rest_em_problems=250")
    assert len({arm.folder for arm in arms}) == 4
    assert arms[1].options == {"kl": 0.1, "credit": "tree"}
    assert arms[2].folder == arms[3].options["of"]


def test_the_table_compares_problem_by_problem(tmp_path: Path) -> None:
    """Planted pools: one arm is right on one problem of ten more than the other, for every seed."""
    start = np.zeros((10, 2), bool)
    first = np.repeat(np.arange(10) < 4, 2).reshape(10, 2)
    better = np.repeat(np.arange(10) < 5, 2).reshape(10, 2)
    measured = {"start": [start], "first": [first] * 3, "better": [better] * 3}
    spent = {"first": [Spent(10, 5, 1e9, 2.0, 1)] * 3, "better": [Spent(20, 5, 1e9, 2.0, 1)] * 3}
    text = compare.report(measured, spent, tmp_path / "t.csv")
    with (tmp_path / "t.csv").open() as file:
        rows = {row["arm"]: row for row in csv.DictReader(file)}
    assert rows["first"]["pass@1"].startswith("40.0 [")
    assert rows["better"]["over start"].removeprefix("'").startswith("+50.0 [")
    assert rows["better"]["over first"].removeprefix("'").startswith("+10.0 [")
    assert rows["first"]["over first"] == ""
    assert rows["better"]["generated"] == "20"
    assert "| better | 3 |" in text


def test_stories_are_what_they_say() -> None:
    """Each is followed line by line by a reader of its own."""
    found = list(itertools.islice(stories(3), 400))
    assert len(set(found)) == 400
    assert found == list(itertools.islice(stories(3), 400))
    for text, target in found:
        count = None
        for line in text.split(". "):
            numbers = list(map(int, re.findall(r"\d+", line)))
            if count is None:
                [count] = numbers
            elif re.search(r"gives|loses|sells", line):
                count -= numbers[0]
            elif numbers:
                count += numbers[0]
        assert str(count) == target and int(target) >= 0, text


def test_held_stories_share_no_name_and_no_pair_of_numbers() -> None:
    def pairs(held: bool) -> tuple[set[str], set[tuple[str, str]]]:
        names, numbers = set(), set()
        for text, _ in itertools.islice(stories(5, held=held), 500):
            names.add(text.split()[0])
            first, second, *_ = re.findall(r"\d+", text)
            numbers.add((first, second))
        return names, numbers

    (ours, trained), (theirs, tested) = pairs(False), pairs(True)
    assert not ours & theirs and not trained & tested


def test_a_control_pays_for_the_samples_that_it_is_made_of(tmp_path, monkeypatch):
    """All but the generator's chains of other problems, which need none."""
    run = tmp_path / "rest_em" / "seed-0" / "run"
    last = run / "round-01"
    (last / "checkpoint").mkdir(parents=True)
    told = {"examples": ["e.npz"], "options": {"epochs": 1.0, "lr": 3e-4}}
    (last / "training.json").write_text(json.dumps(told))
    (run.parent / "seconds.json").write_text("{}")
    costs = {"search_tokens": 30, "gate_tokens": 4, "search_flops": 200, "gate_flops": 10}
    rows = [{"round": 0, **costs, "training_tokens": "", "total_flops": 210}]
    rows.append({"round": 1, **costs, "training_tokens": 9, "total_flops": 520})
    write_csv(run / "rounds.csv", rows)

    def trained(config):
        out = config.parent / "model"
        out.mkdir()
        (out / "training.json").write_text(json.dumps({"tokens": 5, "flops": 70.0}))

    monkeypatch.setattr(arms, "run_training", trained)
    monkeypatch.setattr(arms, "_tokens", lambda path: 10)
    made = dict.fromkeys(arms.CONTROLS, lambda *given: given[-1].touch())
    monkeypatch.setattr(arms, "CONTROLS", made)
    data = arms.Data("builtin", [], [], {}, 4, 1e9)
    for name in made:
        out = tmp_path / name / "seed-0"
        out.mkdir(parents=True)
        _, spent = arms.Arm(name, name, {}).train(data, 0, out, tmp_path)
        assert spent.read == 5
        options = json.loads((out / "model.json").read_text())["options"]
        assert options["lr"] == (1e-5 if "dpo" in name else 3e-4)
        assert (spent.generated, spent.flops) == ((0, 70) if name == "paths" else (68, 490))

    def taught(traces, targets, base, out, options, **choices):
        out.mkdir()
        (out / "training.json").write_text(json.dumps({"tokens": 5, "flops": 70.0}))
        asked.append((traces, options, choices))

    asked: list = []
    monkeypatch.setattr(arms, "prepare", lambda *given, **choices: given[3].touch())
    monkeypatch.setattr(arms, "train_guide", taught)
    monkeypatch.setattr(arms, "_tokens", lambda path: 40 if path.name == "examples.npz" else 10)
    [arm] = read_arms("streams kind=retry rate=0.5 masked=true checker=one:two of=rest_em lr=1e-4")
    out = tmp_path / "streams" / "seed-0"
    out.mkdir(parents=True)
    _, spent = arm.train(data, 3, out, tmp_path)
    assert (spent.generated, spent.read, spent.flops) == (68, 5, 490)
    [(traces, options, choices)] = asked
    assert traces == last / "traces"
    assert options == {"epochs": 0.25, "lr": 1e-4}, "as many tokens"
    streams = Streaming("retry", rate=0.5, masked=True)
    assert choices == {"held_out": 0, "checker": "one:two", "seed": 3, "streams": streams}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_comparison_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all controls; a second call trains and samples nothing and says the same."""
    from benchmarks import tasks

    files = {}
    for kind, count in (("training", 40), ("gate", 30), ("test", 4)):
        command = ["tasks", kind, "--only", "chains", "--size", "8", "--count", str(count)]
        monkeypatch.setattr("sys.argv", command)
        tasks.main()
        files[kind] = tmp_path / f"{kind}.jsonl"
        files[kind].write_text(capsys.readouterr().out)
    out = tmp_path / "out"
    arms = ",".join(["rl per_round=8 chains=4", "rest_em per_round=16 chains=8", *CONTROLS])
    arms = arms.replace(",unfiltered", ",unfiltered of=rest_em_per_round=16_chains=8")
    for name in list(CONTROLS)[1:]:
        arms = arms.replace(f",{name}", f",{name} of=rest_em_per_round=16_chains=8")
    command = ["compare", "--input", files["training"], "--gate", files["gate"]]
    command += ["--test", files["test"], "--arms", arms, "--seeds", "0", "--flops", "1e10"]
    command += ["--samples", "2", "--slots", "32", "--out", out]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    compare.main()
    table = next(out.glob("*.csv")).read_text()
    assert len(table.splitlines()) == 2 + 2 + len(CONTROLS)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    monkeypatch.setattr(compare, "sample", None)
    compare.main()
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert next(out.glob("*.csv")).read_text().count("\n") == table.count("\n")
    folder = "of=rest_em_per_round=16_chains=8"
    solutions = ExampleFile(out / f"expert_{folder}" / "seed-0" / "examples.npz")
    assert len(solutions) > 0


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"problem": "1 + 1", "target": "2"}) + "\n")
    command = ["compare", "--input", path, "--gate", path, "--test", path, "--arms", "rl,x"]
    monkeypatch.setattr("sys.argv", [*map(str, command), "--flops", "1", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        compare.main()
    assert "no arm 'x'" in capsys.readouterr().err
