"""What a format of reward models refuses, how it is written, and how the command takes it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prm_cases import (
    CHAT,
    FAMILIES,
    QUESTION,
    STEPS,
    bytes_tokenizer,
    checkpoints,
    copy,
    every,
    judge,
    own_scores,
    skywork_scores,
    trl_scores,
    values,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

import guides
import search
from guides import Format
from guides.values.prm_formats import FORMATS, read_format
from guides.values.prm_reader import Reader
from search.cli.main import main
from search.problem import TextStep
from search.scheduling.driver import run
from search.trace import Trace


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return checkpoints(tmp_path_factory.mktemp("judges"))


# -- steps that hold what separates steps


@pytest.mark.thorough
def test_lines_within_a_step(folders):
    """Skywork reads lines, and the last line of a step counts; TRL reads the step as it is and
    looks at the separator behind it.
    """
    chain = ("First.\nSecond.", "Third.\n\nFourth.")
    assert values(judge(folders["skywork"], "skywork", aggregate="min"), chain) == pytest.approx(
        [min(skywork_scores(folders["skywork"], QUESTION, chain))], abs=1e-5
    )
    assert values(judge(folders["trl"], "trl", aggregate="prod"), chain) == pytest.approx(
        [math.prod(trl_scores(folders["trl"], QUESTION, chain))], abs=1e-5
    )


def test_a_marker_in_the_problem_is_never_the_end_of_a_step(folders):
    with pytest.raises(
        ValueError, match=f"{len(STEPS) + 1} scores for {len(STEPS)} steps.*<extra_0>"
    ):
        values(judge(folders["qwen"], "qwen"), STEPS, question="What does <extra_0> mean?")


def test_a_marker_in_a_step_costs_that_chain_its_value(folders, caplog):
    prm = judge(folders["qwen"], "qwen")
    told = values(prm, ("a <extra_0> b", "c"), STEPS, ("<extra_0>",))
    assert np.isnan([told[0], told[2]]).all() and told[1] == values(prm, STEPS)[0]
    assert caplog.text.count("3 scores for 2 steps") == 1 and "its value is unknown" in caplog.text


words = st.text(st.sampled_from("ab \n"), max_size=6).map(lambda text: f"x{text}x")


@pytest.mark.thorough
@settings(max_examples=60, deadline=None)
@given(words, st.lists(words | st.just("x\u0001x"), min_size=1, max_size=5))
def test_there_are_as_many_scores_as_steps_or_none(statement, steps):
    """In every layout the tokens behind the scores' places are those of the steps: decoding
    between them gives the steps back.
    """
    tokenizer = bytes_tokenizer("<|start|>", "<|end|>", "<|eot|>", template=CHAT)
    marked = {"step": "{step}\u0001", "marker": "\u0001", "good": "+", "bad": "-"}
    for format in (
        Format("parts", "score", prompt="{problem}\n", step=("{step}", "\u0002")),
        Format("text", "tokens", prompt="{problem}\n", **marked),
        Format("chat", "tokens", prompt="{problem}\n", **marked),
        Format("turns", "tokens", prompt="{problem}\n", good="+", bad="-"),
    ):
        reader = Reader(format, tokenizer)
        if format.marker and any("\u0001" in step for step in steps):
            with pytest.raises(ValueError, match="scores for"):
                reader(statement, tuple(steps))
            continue
        tokens, positions = reader(statement, tuple(steps))
        assert len(positions) == len(steps) and positions[-1] == len(tokens) - 1
        ends = [tokenizer.decode(tokens[: position + 1]) for position in positions]
        behind = {
            "parts": "{}\u0002",
            "text": "{}\u0001",
            "chat": "{}\u0001",
            "turns": "{}<|eot|><|start|>assistant<|end|>\n\n",
        }
        assert all(
            end.endswith(behind[format.layout].format(step))
            for end, step in zip(ends, steps, strict=True)
        )
        assert all(after.startswith(before) for before, after in zip(ends, ends[1:], strict=False))


def test_numbers_stand_before_steps_that_have_none(folders):
    prm = judge(folders["math-shepherd"], "math-shepherd")
    numbered = tuple(f"Step {i}: {step}" for i, step in enumerate(STEPS, 1))
    assert values(prm, STEPS) == values(prm, numbered)


def test_chains_without_steps(folders):
    """Nobody has taught a published model what a question alone is worth; our heads know."""
    for name in FAMILIES:
        value = values(judge(folders[name], name), ())[0]
        assert math.isnan(value) if name != "copse" else 0 < value < 1
    blank = (*STEPS, "  ")
    assert values(judge(folders["qwen"], "qwen", aggregate="mean"), blank) == values(
        judge(folders["qwen"], "qwen", aggregate="mean"), STEPS
    )


def test_a_chain_beyond_the_context_has_no_value(folders, caplog):
    prm = judge(folders["trl"], "trl", aggregate="min")
    long, short = ("x" * 600,), STEPS
    found = values(prm, long, short, long)
    assert math.isnan(found[0]) and math.isnan(found[2]) and 0 < found[1] < 1
    assert caplog.text.count("could not be judged") == 1 and "the context takes 512" in caplog.text


# -- the policy's own head


@pytest.mark.thorough
def test_the_policys_own_head_aggregates_its_steps(folders):
    last, least = guides.load(folders["copse"]), guides.load(folders["copse"], aggregate="min")
    model, head = (
        AutoModelForCausalLM.from_pretrained(folders["copse"]),
        load_file(folders["copse"] / "value_head.safetensors"),
    )
    problem, rng, engine = (
        search.TextProblem("hm"),
        np.random.default_rng(0),
        next(iter(least.backends.values())),
    )
    state, ends = (), []
    for _ in range(3):
        state = (*state, run(last.policy.propose(problem, state, 1, rng), last.backends)[0].step)
        tokens = [*b"Q: hm\n", *(token for step in state for token in step.tokens)]
        assert tuple(tokens[6:]) == last.policy.tokens(problem, state)[6:]
        ends.append(len(tokens) - 1)
        with torch.inference_mode():
            hidden = model(
                torch.tensor([last.policy.tokens(problem, state)]), output_hidden_states=True
            ).hidden_states[-1][0, ends]
        reference = torch.sigmoid(hidden @ head["weight"][0] + head["bias"]).tolist()
        for guide, known, wanted in (
            (last, math.nan, reference[-1]),
            (last, 0.125, 0.125),
            (least, 0.125, min(reference)),
        ):
            before = engine.counts.read
            asks = guide.value.evaluate(problem, [state], np.full(1, known, np.float32), rng)
            assert run(asks, guide.backends)[0] == pytest.approx(wanted, abs=1e-5)
        assert engine.counts.read == before, "the ends of all steps are stored"
    proposals = run(least.policy.propose(problem, (), 4, rng), least.backends)
    assert all(math.isnan(proposal.value) for proposal in proposals), (
        "a step's own value is not the minimum of the chain"
    )
    assert last.version == last.policy.version != least.version and least.value.version.endswith(
        " min"
    )


def test_an_outcome_verifier_judges_finished_chains(folders):
    orm, prm = guides.ORM(folders["trl"], format="trl"), guides.PRM(folders["trl"], format="trl")
    states = [(TextStep("so"),), (TextStep("so"), TextStep("\\boxed{5}"))]
    known = np.array([0.25, 0.25], np.float32)
    problem, rng = search.TextProblem(QUESTION), np.random.default_rng(0)
    found = run(orm.evaluate(problem, states, known, rng), orm.backends)
    assert found.tolist() == [
        0.25,
        run(prm.evaluate(problem, states[1:], known[1:], rng), prm.backends)[0],
    ]
    assert run(
        orm.evaluate(problem, states[:1], np.full(1, np.nan, np.float32), rng), orm.backends
    ).tolist() == [0.5]
    assert orm.version != prm.version


# -- what is not certain or not whole is refused


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.named])
def test_a_family_that_is_not_certain_must_be_named(folders, name):
    with pytest.raises(
        ValueError,
        match="--value-format .*math-shepherd, rlhflow, qwen, skywork, trl, or a JSON file",
    ):
        guides.PRM(folders[name])


CASES = {
    "no layer": ("qwen", {"score.0.weight": None}, "no tensor 'score.0.weight'"),
    "no last layer": ("qwen", {"score.2.weight": None}, "no tensor 'score.2.weight'"),
    "no head at all": (
        "qwen",
        {
            "score.0.weight": None,
            "score.0.bias": None,
            "score.2.weight": None,
            "score.2.bias": None,
        },
        "no tensor",
    ),
    "surplus": ("qwen", {"score.4.weight": torch.zeros(2, 2)}, "unknown tensor 'score.4.weight'"),
    "misshapen": (
        "qwen",
        {"score.2.weight": torch.zeros(1, 32)},
        r"score.2.weight has shape \(1, 32\)",
    ),
    "no classifier": (
        "trl",
        {"score.weight": None, "score.bias": None},
        "no tensor 'score.weight'",
    ),
    "three classes": (
        "trl",
        {"score.weight": torch.zeros(3, 32)},
        r"score.weight has shape \(3, 32\), the model needs \(2, 32\)",
    ),
    "not finite": (
        "trl",
        {"score.bias": torch.full((2,), math.nan)},
        "score.bias holds numbers that are not finite",
    ),
    "no summary": ("skywork", {"v_head.summary.weight": None}, "no tensor 'v_head.summary.weight'"),
    "no bias": ("skywork", {"v_head.summary.bias": None}, "no tensor 'v_head.summary.bias'"),
    "no layer of the model": (
        "trl",
        {"model.layers.1.mlp.up_proj.weight": None},
        "missing tensors model.layers.1.mlp.up_proj.weight",
    ),
    "another head": (
        "skywork",
        {"other.weight": torch.zeros(1)},
        "unexpected tensors other.weight",
    ),
}


@pytest.mark.parametrize("name, change, message", CASES.values(), ids=CASES.keys())
def test_a_head_is_whole_or_refused(folders, tmp_path, name, change, message):
    """transformers would only warn, and judge with a random head."""
    folder = copy(folders[name], tmp_path / name)
    tensors = load_file(folder / "model.safetensors") | {
        key: tensor for key, tensor in change.items() if tensor is not None
    }
    for key in [key for key, tensor in change.items() if tensor is None]:
        del tensors[key]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message + ".*[:;] "):
        judge(folder, name)


def test_two_heads_are_one_too_many(folders, tmp_path):
    folder = copy(folders["skywork"], tmp_path / "two")
    (folder / "value_head.safetensors").write_bytes(
        (folders["copse"] / "value_head.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="two heads.*remove"):
        judge(folder, "skywork")


@pytest.mark.parametrize(
    "name, format, message",
    [
        ("rlhflow", "math-shepherd", "'ки' is not one token"),
        ("rlhflow", "qwen", "has no value head, but the format 'qwen' wants 'score-mlp'"),
        (
            "trl",
            "skywork",
            "has a head of the kind 'score', but the format 'skywork' wants 'v_head'",
        ),
        ("policy", "rlhflow", "no chat template"),
        ("trl", "openr", "no format 'openr' of reward models"),
    ],
)
def test_a_format_that_does_not_fit_says_why(folders, name, format, message):
    with pytest.raises(ValueError, match=message + ".*: "):
        guides.PRM(folders[name], format=format)


def test_markers_that_the_tokenizer_lacks_are_named(folders, tmp_path):
    folder = copy(folders["qwen"], tmp_path / "qwen")
    bytes_tokenizer("<|start|>", "<|end|>", "<|eot|>", template=CHAT).save_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"'<extra_0>' is not one token of this tokenizer \(9 tokens\)"
    ):
        judge(folder, "qwen")
    unknown = Format("text", "tokens", "{problem} ", step="{step} §", marker="§", good="+", bad="-")
    # but <unk>, as all else that it does not know
    with pytest.raises(ValueError, match="'§' is not one token of this tokenizer"):
        guides.PRM(folders["math-shepherd"], format=unknown)


def test_a_chat_template_that_begins_replies_otherwise_is_refused(folders, tmp_path):
    folder = copy(folders["rlhflow"], tmp_path / "rlhflow")
    bytes_tokenizer(
        "<|start|>",
        "<|end|>",
        "<|eot|>",
        template=CHAT.replace("assistant<|end|>", "assistant<|end|>Hm."),
    ).save_pretrained(folder)
    with pytest.raises(ValueError, match="does not begin a reply as it writes one"):
        values(judge(folder, "rlhflow"), STEPS)


def test_judges_do_not_write(folders):
    for name in ("qwen", "trl", "skywork"):
        with pytest.raises(ValueError, match="judges and does not write"):
            guides.load(folders[name])
    with pytest.raises(ValueError, match="no value head whose values 'min'"):
        guides.load(folders["policy"], aggregate="min")
    with pytest.raises(ValueError, match="leave them out"):
        guides.PRM(folders["trl"], policy=guides.LM(folders["policy"]), format="trl")
    with pytest.raises(
        ValueError, match="aggregate 'max' is none: use one of last, min, prod, mean"
    ):
        guides.PRM(folders["trl"], format="trl", aggregate="max")


# -- formats of one's own


@pytest.mark.thorough
def test_a_format_of_ones_own(folders, tmp_path):
    """In a file, in guide.json, and in Python: the same values as the reference with another
    separator.
    """
    folder = copy(folders["trl"], tmp_path / "mine")
    wanted = pytest.approx([min(trl_scores(folder, QUESTION, STEPS, "\n\n"))], abs=1e-5)
    said = {"like": "trl", "step": ["{step}", "\n\n"], "aggregate": "min"}
    (tmp_path / "blank.json").write_text(json.dumps(said))
    by_file = guides.PRM(folder, format=tmp_path / "blank.json")
    assert values(by_file, STEPS) == wanted and " blank#" in by_file.version
    assert (
        values(
            guides.PRM(
                folder,
                format=Format(
                    "parts", "score", "{problem}", step=("{step}", "\n\n"), aggregate="min"
                ),
            ),
            STEPS,
        )
        == wanted
    )
    (folder / "guide.json").write_text(json.dumps({"format": 1, "prm": said, "within": 0.9}))
    assert values(guides.PRM(folder), STEPS) == wanted
    (folder / "guide.json").write_text(json.dumps({"format": 1, "prm": "trl", "aggregate": "mean"}))
    assert values(guides.PRM(folder), STEPS) == pytest.approx(
        [np.mean(trl_scores(folder, QUESTION, STEPS))], abs=1e-5
    )
    full = {
        "layout": "text",
        "score": "tokens",
        "prompt": "{problem}|",
        "step": "{step}#\n",
        "marker": "#",
        "good": "y",
        "bad": "n",
    }
    (tmp_path / "full.json").write_text(json.dumps(full))
    prm = guides.PRM(folders["policy"], format=tmp_path / "full.json", aggregate="min")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folders["policy"]),
        AutoModelForCausalLM.from_pretrained(folders["policy"]),
    )
    scores = []
    for n in range(1, 4):
        text = f"{QUESTION}|" + "\n".join(f"{step}#" for step in STEPS[:n])
        with torch.inference_mode():
            logits = model(torch.tensor([tokenizer.encode(text)])).logits[0, -1]
        good, bad = (math.exp(logits[tokenizer.encode(letter)[0]]) for letter in "yn")
        scores.append(good / (good + bad))
    assert values(prm, STEPS) == pytest.approx([min(scores)], abs=1e-5)


@pytest.mark.parametrize(
    "like, change",
    [
        ("math-shepherd", {"lead": ""}),
        ("math-shepherd", {"prompt": "{problem}\n"}),
        ("math-shepherd", {"good": "y"}),
        ("math-shepherd", {"bad": "n"}),
        ("math-shepherd", {"step": "{step} ки"}),
        ("qwen", {"system": None}),
        ("qwen", {"score": "score"}),
        ("skywork", {"cut": ""}),
        ("copse", {"opening": False}),
    ],
)
def test_labels_tell_readings_apart(like, change):
    """Of a search's version: all that changes a score is in the digest, and neither name nor
    aggregation is.
    """
    format = FORMATS[like]
    assert replace(format, **change).label != format.label
    assert (
        replace(format, name="other", aggregate="prod").label.split("#")[1]
        == format.label.split("#")[1]
    )


def test_ours_with_another_aggregation_still_ends_steps_as_its_settings_say(folders, tmp_path):
    folder = copy(folders["copse"], tmp_path / "mine")
    settings = json.loads((folder / "guide.json").read_text())
    (folder / "guide.json").write_text(
        json.dumps({**settings, "prm": {"like": "copse", "aggregate": "min"}})
    )
    assert values(guides.PRM(folder), STEPS) == pytest.approx(
        [min(own_scores(folder, QUESTION, STEPS))], abs=1e-5
    )


MARKED = {
    "layout": "text",
    "score": "tokens",
    "prompt": "{problem}",
    "step": "{step}#",
    "marker": "#",
    "good": "y",
    "bad": "n",
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layout": "prose"}, "use one of parts, text, chat, turns"),
        ({"score": "logits"}, "use tokens, or"),
        ({"aggregate": "max"}, "use one of last"),
        ({"prompt": "none"}, "problem"),
        ({"step": "#"}, "step"),
        ({"step": ["{step}", "#"]}, "step"),
        ({"step": "{step}"}, "does not hold the marker"),
        ({"marker": ""}, "marker is missing"),
        ({"bad": ""}, "bad is missing"),
        ({"score": "score"}, "good is of no use here"),
        ({"cut": "\n"}, "cut is of no use"),
        ({"system": "Be kind."}, "system is of no use"),
        ({"opening": True}, "opening is of no use"),
        ({"opening": "yes"}, "write true or false"),
        ({"good": 3}, "write text"),
        ({"template": "x"}, "no 'template'"),
        ({"like": "openr"}, "cannot be like"),
    ],
)
def test_descriptions_are_checked(change, message):
    assert read_format(MARKED).parts == ("{step}#",)
    with pytest.raises(ValueError, match=message + ".*"):
        read_format(MARKED | change)


def test_files_of_formats_are_checked(tmp_path):
    for text, message in [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ('{"layout": "text"}', "does not say its score"),
    ]:
        (tmp_path / "f.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_format(tmp_path / "f.json")
    assert all(read_format(name).name == name for name in FORMATS)


def test_a_value_that_tells_little_is_warned_of(folders, tmp_path, caplog):
    folder = copy(folders["copse"], tmp_path / "weak")
    said = json.loads((folder / "guide.json").read_text())
    for within, warned in [(0.62, True), (0.75, False), (None, False)]:
        caplog.clear()
        (folder / "guide.json").write_text(json.dumps(said | {"within": within}))
        guides.PRM(folder)
        assert (
            "in only 62 of 100 pairs" in caplog.text and "weighted vote" in caplog.text
        ) == warned
    (folder / "guide.json").write_text(json.dumps(said | {"within": 1.5}))
    with pytest.raises(ValueError, match="within"):
        guides.PRM(folder)


# -- the command


@pytest.mark.thorough
@every
def test_the_command_searches_with_every_family(folders, name, tmp_path, capsys):
    args = [
        "solve",
        "Say a.",
        "--answer",
        "(a)",
        "--guide",
        folders["policy"],
        "--value",
        folders[name],
        "--budget",
        "tokens=150",
    ]
    args += [
        "--aggregate",
        "min",
        "--json",
        "--traces",
        tmp_path,
        *(["--value-format", name] if FAMILIES[name].named else []),
    ]
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    assert code in (0, 1) and json.loads(out)["error"] is None, err
    trace = Trace.load(tmp_path)[0]
    assert re.fullmatch(rf"[0-9a-f]{{16}} {name}#[0-9a-f]{{8}} min", trace.judge)
    judged = [n for n in range(1, len(trace.node_parent)) if trace.edge_visits[trace.node_edge[n]]]
    assert judged, "the search went beyond its root"
    assert (
        main(["view", str(tmp_path)]) == 0 and f"judged by {trace.judge}" in capsys.readouterr().out
    )


def test_the_command_refuses_at_the_door(folders, capsys, monkeypatch, tmp_path):
    for module in ("guides.engines", "guides.loading"):
        monkeypatch.setattr(
            f"{module}.load_engine", lambda *given: pytest.fail("a model was loaded")
        )
    start = ["solve", "Say a.", "--guide", str(folders["policy"]), "--value"]
    for more, message in [
        ([str(folders["trl"])], "name its format"),
        ([str(folders["rlhflow"])], "name its format"),
        ([str(folders["rlhflow"]), "--value-format", "qwen"], "wants 'score-mlp'"),
        ([str(folders["trl"]), "--value-format", "trl", "--aggregate", "max"], "use one of last"),
        ([str(folders["trl"]), "--value-format", str(tmp_path / "no.json")], "no format"),
    ]:
        assert main([*start, *more]) == 2
        out, err = capsys.readouterr()
        assert out == "" and message in err and err.count("\n") == 1, err
    assert main(["solve", "Say a.", "--guide", str(folders["policy"]), "--aggregate", "min"]) == 2
    assert "no value head" in capsys.readouterr().err


def test_shards_from_before_the_judge_was_kept(folders, tmp_path):
    import pyarrow.parquet as parquet

    solution = search.solve(
        "Say a.", guides.load(folders["copse"], step_tokens=4, max_steps=2), budget="tokens=20"
    )
    assert solution.trace.judge == solution.trace.version
    path = Trace.save([solution.trace], tmp_path / "a.parquet")
    parquet.write_table(parquet.read_table(path).drop_columns(["judge", "digest"]), path)
    assert [trace.judge for trace in Trace.load(tmp_path)] == [""]
