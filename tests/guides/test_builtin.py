"""The built-in model: its tokenizer, its data, and the weights that are shipped."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import guides  # noqa: E402
from guides.builtin import (  # noqa: E402
    chains_data,
    chains_key,
    countdown_data,
    train,
    words_data,
)
from guides.data.examples import ExampleFile, Shards, collate, write_examples  # noqa: E402
from guides.training.options import Options  # noqa: E402
from guides.training.tree_attention import added, visible  # noqa: E402
from models.checkpoints.heads import ValueHead, load_head  # noqa: E402
from search.problem import TextStep  # noqa: E402
from search.problems import parse  # noqa: E402
from search.problems.chains import Chains  # noqa: E402
from search.problems.countdown import Countdown  # noqa: E402
from search.problems.words import Words  # noqa: E402

SHIPPED = train.RECIPE.parent
ASCII = st.text(st.sampled_from([chr(code) for code in range(32, 127)] + ["\n"]), max_size=60)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# the tokenizer


def tokenizer() -> Any:
    recipe = train.read_recipe()
    return train.build_tokenizer(**recipe["tokenizer"], more=recipe["stages"][-1]["words"])


GROWN, MORE = tokenizer(), train.read_recipe()["stages"][-1]["words"]


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(ASCII, st.sampled_from([9, 99, 999]))
def test_any_ascii_text_survives(text: str, numbers: int) -> None:
    tok = train.build_tokenizer(["Use", "and", "to", "make"], numbers)
    ids = tok.encode(text, add_special_tokens=False)
    assert tok.decode(ids, skip_special_tokens=False) == text
    assert tok.decode(ids, skip_special_tokens=True) == text, "no ASCII text holds a special token"


@pytest.mark.thorough
@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(MORE), st.sampled_from([*"a'Z0 .;\n", "and", "17", "1234"]), ASCII
        ),
        max_size=12,
    ).map("".join)
)
def test_any_text_survives_more_words(text: str) -> None:
    ids = GROWN.encode(text, add_special_tokens=False)
    assert (
        GROWN.decode(ids, skip_special_tokens=False)
        == text
        == GROWN.decode(ids, skip_special_tokens=True)
    )
    assert "".join(GROWN.tokenize(text)) == text


def test_more_words_come_last_and_the_longest_counts() -> None:
    few = train.build_tokenizer(**train.read_recipe()["tokenizer"])
    before, after = few.get_vocab(), GROWN.get_vocab()
    assert before.items() <= after.items() and {after[word] for word in MORE} == set(
        range(len(before), len(before) + len(MORE))
    )
    assert GROWN.tokenize("Now Ann's bag, Anna has 12, Max has 7.") == [
        *(
            "Now",
            " Ann's",
            " bag",
            ",",
            " ",
            "A",
            "n",
            "n",
            "a",
            " has ",
            "12",
            ",",
            " Max",
            " has ",
            "7",
            ".",
        ),
    ]
    assert GROWN.tokenize("How is 5Now") == ["H", "o", "w", " is", " ", "5", "N", "o", "w"]
    for twice in ("make", "a", "17", " Ann"):
        with pytest.raises(ValueError, match="twice"):
            train.build_tokenizer(["make"], 99, [" Ann", twice])


@pytest.mark.thorough
@pytest.mark.parametrize("module", [countdown_data, chains_data])
def test_what_was_learnt_before_is_read_as_before(module: Any) -> None:
    few = train.build_tokenizer(**train.read_recipe()["tokenizer"])
    texts = {text for example in module.examples(5, 0, 60, 0.9) for text, *_ in example if text}
    assert len(texts) > 500 and all(few.encode(text) == GROWN.encode(text) for text in texts)


@pytest.mark.thorough
def test_stories_are_words_and_numbers() -> None:
    """None of their words falls into letters, and every line is short enough for the guide's
    settings.
    """
    lengths = []
    for example in words_data.examples(5, 0, 300, 0.9, dict.fromkeys(range(1, 9), 1)):
        for i, (text, *_) in enumerate(example):
            tokens = GROWN.tokenize(text)
            assert not any(len(token) == 1 and token.isalpha() for token in tokens), text
            lengths.append((i == 0, len(tokens)))
    assert max(n for statement, n in lengths if statement) <= 192
    assert (
        max(n for statement, n in lengths if not statement)
        <= train.read_recipe()["guide"]["step_tokens"]
    )


def test_a_model_grows_and_keeps_what_it_knows() -> None:
    few = train.build_tokenizer(["make"], 9)
    model, _ = train.build_model(
        {"hidden": 32, "layers": 1, "heads": 2, "inner": 64, "context": 64}, few, 0
    )
    ids = torch.tensor([few.encode("8-7=1\nmake 3")])
    with torch.no_grad():
        before, table = model(input_ids=ids).logits, model.get_input_embeddings().weight.clone()
        train.grow(model, len(few) + 20, seed=3)
        after, grown = model(input_ids=ids).logits, model.get_input_embeddings().weight
    assert (
        model.config.vocab_size == len(grown) == -(-(len(few) + 20) // 8) * 8
        and model.lm_head.weight is grown
    )
    torch.testing.assert_close(after[..., : len(table)], before)
    assert torch.equal(grown[: len(table)], table)
    assert abs(float((grown[len(table) :].std() / table.std()).detach()) - 1) < 0.2
    train.grow(model, len(few), seed=4)
    assert model.get_input_embeddings().weight is grown, "nothing is there to add"


def test_no_token_is_longer_than_a_number_word_or_symbol() -> None:
    tok = tokenizer()
    for token in tok.get_vocab():
        assert (
            len(token) == 1
            or token.strip().removesuffix("'s").isalpha()
            or token.isdigit()
            or token == "#### "
        )
    sentence = [
        "Use",
        " ",
        "4",
        ",",
        " ",
        "17",
        " ",
        "and",
        " ",
        "100",
        " ",
        "to",
        " ",
        "make",
        " ",
        "24",
        ".",
        "\n",
    ]
    assert tok.tokenize("".join(sentence)) == sentence
    with pytest.raises(ValueError, match="9, 99 or 999"):
        train.build_tokenizer([], 150)
    assert tok.tokenize("007 1000 today") == list("007 1000 today")


# the data


def play(
    segments: list[tuple[str, float, float, int]], index: int
) -> tuple[Any, tuple[TextStep, ...]]:
    """The problem of an example and the state at one of its segments."""
    problem = parse(segments[0][0])
    assert problem is not None
    lines: list[str] = []
    while index > 0:
        lines.insert(0, segments[index][0].removesuffix("\n"))
        index = segments[index][3]
    state = problem.initial()
    for text in lines:
        state = problem.apply(state, TextStep(text))
    return problem, state


def reaches(numbers: tuple[int, ...], target: int) -> bool:
    """Brute force over whole non-negative numbers up to LIMIT: an independent truth."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            a, b = numbers[i], numbers[j]
            if i == j or a < b:
                continue
            rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
            results = {a + b, a - b, a * b} | ({a // b} if b and a % b == 0 else set())
            if any(reaches((*rest, c), target) for c in results if c <= countdown_data.LIMIT):
                return True
    return False


def test_examples_are_legal_and_labelled_right() -> None:
    for segments in countdown_data.examples(0, 0, 60):
        drawn: dict[int, float] = {}
        for i, (text, weight, value, parent) in enumerate(segments):
            problem, state = play(segments, i if text else parent)
            assert problem.split() == "train" and 1 <= problem.target <= 100
            left = tuple(int(n) for n in problem.left(state))
            drawn[parent] = drawn.get(parent, 0.0) + weight
            if text:
                assert 0 <= weight <= 1 and (weight == 0 or value == 1)
                if len(left) < 5:
                    assert value == float(reaches(left, problem.target))
            else:
                assert problem.verify(state) == 1.0 and math.isnan(value)
        for i, (text, weight, *_) in enumerate(segments):
            if weight and text and play(segments, i)[0].left(play(segments, i)[1])[1:]:
                assert drawn[i] == pytest.approx(weight), (
                    "every path that comes to a step goes on from it"
                )


@pytest.mark.slow
def test_no_example_has_a_held_out_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the first and the last shard of every stage, which have the shares of both kinds
    that the recipe says.
    """
    assert 24 in countdown_data.HELD_OUT
    monkeypatch.setattr(train, "SHARD", 400)
    recipe, tok = train.read_recipe(), tokenizer()
    sizes: dict[tuple[str, bool], list[int]] = {}
    told: dict[tuple[str, bool], list[int]] = {}
    for stage in recipe["stages"]:
        shards = train._shards(tmp_path, recipe, stage)
        for shard in (0, shards.count - 1):
            rows = ExampleFile(shards.ensure(shard))
            texts = [tok.decode(rows[i]["tokens"]) for i in range(len(rows))]
            assert all(
                text.count("make") + text.count("mod") + text.count("How many") == 1
                for text in texts
            ), "one prompt an example"
            problems = [parse(text[: text.index("\n") + 1]) for text in texts]
            puzzles, chains, words = (
                [p for p in problems if isinstance(p, kind)] for kind in (Countdown, Chains, Words)
            )
            shares = {
                "countdown": [400, 0, 0],
                "both": [160, 240, 0],
                "words": [100, 100, 200],
                "more": [140, 120, 140],
                "ends": [140, 120, 140],
            }
            assert [len(puzzles), len(chains), len(words)] == shares[stage["name"]]
            assert all(p.split() == "train" for p in problems)
            assert not {p.target for p in puzzles} & set(countdown_data.HELD_OUT)
            assert not {int(chains_key.target(p)) for p in chains} & set(countdown_data.HELD_OUT)
            sizes[stage["name"], shard > 0] = [len(p.needed()) for p in chains]
            told[stage["name"], shard > 0] = [len(p.story.needed()) for p in words if p.story]
    assert set(sizes["both", False]) == {1, 2, 3} and set(sizes["both", True]) == {1, 2, 3, 4, 5, 6}
    assert set(sizes["words", False]) == set(sizes["words", True]) == {2, 3, 4, 5, 6, 7}
    assert set(told["words", False]) == {1, 2, 3} and set(told["words", True]) == {1, 2, 3, 4, 5, 6}
    assert set(told["more", False]) == {1, 2, 3, 4, 5, 6} and sizes["more", True].count(7) > 30, (
        "the last stage has long ones throughout"
    )


def test_each_stage_asks_for_what_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fifth file of every stage: module, seed, shard, count and the rest, written out by
    hand.
    """
    asked: list[Any] = []
    for module in (countdown_data, chains_data, words_data):
        told = functools.partial(lambda *a, **k: asked.append((*a, k)) or iter(()), module)
        monkeypatch.setattr(module, "examples", told)
    recipe = train.read_recipe()
    shards = [train._shards(tmp_path, recipe, stage) for stage in recipe["stages"]]
    assert [list(one.make(4)) for one in shards] == [[]] * 5
    assert [(one.count, one.size) for one in shards] == [
        (30, 8192),
        (17, 8192),
        (10, 8192),
        (37, 8192),
        (10, 8192),
    ]
    assert asked == [
        (countdown_data, 1, 4, 8192, {"progress": 4 / 30}),
        (countdown_data, 2, 4, 3277, {"progress": 0.8}),
        (chains_data, 2, 4, 4915, {"progress": 4 / 17}),
        (countdown_data, 3, 4, 2048, {"progress": 0.8}),
        (
            chains_data,
            3,
            4,
            2048,
            {
                "progress": 0.8,
                "operations": {"2": 0.05, "3": 0.1, "4": 0.15, "5": 0.2, "6": 0.25, "7": 0.25},
            },
        ),
        (words_data, 3, 4, 4096, {"progress": 4 / 10}),
        (countdown_data, 4, 4, 2867, {"progress": 0.9}),
        (
            chains_data,
            4,
            4,
            2458,
            {
                "progress": 0.9,
                "operations": {"2": 0.01, "3": 0.02, "4": 0.04, "5": 0.1, "6": 0.2, "7": 0.63},
            },
        ),
        (
            words_data,
            4,
            4,
            2867,
            {
                "progress": 0.9,
                "operations": {"1": 0.05, "2": 0.1, "3": 0.2, "4": 0.25, "5": 0.25, "6": 0.15},
            },
        ),
        (countdown_data, 5, 4, 2867, {"progress": 0.9}),
        (
            chains_data,
            5,
            4,
            2458,
            {
                "progress": 0.9,
                "ends": 0.5,
                "operations": {"2": 0.01, "3": 0.02, "4": 0.04, "5": 0.1, "6": 0.2, "7": 0.63},
            },
        ),
        (
            words_data,
            5,
            4,
            2867,
            {
                "progress": 0.9,
                "ends": 0.5,
                "operations": {"1": 0.05, "2": 0.1, "3": 0.2, "4": 0.25, "5": 0.25, "6": 0.15},
            },
        ),
    ]


def test_files_of_a_stage_can_be_made_ahead_by_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SHARD", 20)
    recipe = train.read_recipe()
    stage = recipe["stages"][1]
    stage["options"] = {"steps": 3, "batch": 20}
    train._claim(tmp_path / "work", recipe)
    made = []
    for job in ("1", "0"):
        train.main(["shards", str(tmp_path), "1", "2", job])
        made.append(sorted(path.name for path in tmp_path.glob("work/both/shards/*")))
    assert made == [["shard-00001.npz"], [f"shard-0000{i}.npz" for i in range(3)]]
    alone = train._shards(tmp_path / "alone", recipe, stage)
    assert all(
        alone.ensure(i).read_bytes()
        == (tmp_path / "work/both/shards" / f"shard-0000{i}.npz").read_bytes()
        for i in range(3)
    )


@pytest.mark.thorough
def test_a_large_batch_has_blocks_of_several_lengths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be of one kind, and the next of another."""
    monkeypatch.setattr(train, "SHARD", 260)
    recipe = train.read_recipe()
    stage = {**recipe["stages"][-1], "options": {"steps": 2, "batch": 130}}
    rows = ExampleFile(train._shards(tmp_path, recipe, stage).ensure(0))
    first, second = (
        [len(rows[i]["tokens"]) for i in part] for part in (range(130), range(130, 260))
    )
    assert max(first) > min(second) and max(second) > min(first)


def test_sizes_differ_in_model_and_options_alone() -> None:
    small, full = (train.read_recipe(size=size) for size in ("small", "full"))
    for stages in zip(small.pop("stages"), full.pop("stages"), strict=True):
        options = [Options(**stage.pop("options")) for stage in stages]
        assert (
            stages[0] == stages[1]
            and options[0] != options[1]
            and {o.optimizer for o in options} == {"muon"}
        )
    assert small.pop("model") != full.pop("model") and small == full


def test_data_depend_on_seed_and_shard_alone() -> None:
    def draw(seed: int, shard: int) -> str:
        return repr(list(countdown_data.examples(seed, shard, 20)))

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(2, 1), draw(1, 3)}) == 3


def test_an_example_is_read_as_its_texts_one_by_one(tmp_path: Path) -> None:
    """A tree in one pass gives each branch the logits it gets alone."""
    tok = tokenizer()
    path = tmp_path / "a.npz"
    examples = list(train.encode(tok, countdown_data.examples(3, 0, 4)))
    write_examples(path, examples, block=1)
    model, _ = train.build_model(
        {"hidden": 32, "layers": 2, "heads": 2, "inner": 64, "context": 128}, tok, 0
    )
    model.set_attn_implementation("eager")
    batch = collate([ExampleFile(path)[i] for i in range(4)])
    mask = added(visible(batch["ends"]), torch.float32)
    together = model(
        input_ids=batch["tokens"], position_ids=batch["positions"], attention_mask=mask
    ).logits
    for row in range(4):
        previous, tokens = batch["previous"][row].tolist(), batch["tokens"][row]
        for last in range(len(ExampleFile(path)[row]["tokens"])):
            chain = [last]
            while previous[chain[0]] >= 0:
                chain.insert(0, previous[chain[0]])
            if last % 7 == 0:
                alone = model(input_ids=tokens[chain][None]).logits[0, -1]
                torch.testing.assert_close(alone, together[row, last], atol=1e-4, rtol=1e-4)


def test_files_are_arranged_in_blocks_of_equal_length(tmp_path: Path) -> None:
    def make(shard: int) -> Any:
        return ([([1] * (1 + i % 5), 1.0, math.nan, -1)] for i in range(40))

    rows = Shards(tmp_path, 2, 40, make, block=8)
    assert len(rows) == 80
    for start in range(0, 80, 8):
        assert len({len(rows[i]["tokens"]) for i in range(start, start + 8)}) == 1
    with pytest.raises(ValueError, match="write it again"):
        (tmp_path / "bad.npz").write_bytes(b"PK half a file")
        ExampleFile(tmp_path / "bad.npz")


# the shipped weights

needs_weights = pytest.mark.skipif(
    not (SHIPPED / "model.safetensors").exists(), reason="weights not trained yet"
)


@needs_weights
def test_shipped_weights_load_and_are_small() -> None:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        SHIPPED, output_loading_info=True
    )
    assert (
        not report["missing_keys"]
        and not report["unexpected_keys"]
        and not report["mismatched_keys"]
    )
    assert (
        model.num_parameters() <= 10_000_000
        and model.config.model_type == "llama"
        and model.config.use_cache
    )
    assert sum(p.stat().st_size for p in SHIPPED.glob("*.safetensors")) <= 20 * 2**20
    head = load_head(SHIPPED, model.config.hidden_size)
    assert isinstance(head, ValueHead)
    tok = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    assert tok.get_vocab() == tokenizer().get_vocab() and len(tok) <= model.config.vocab_size
    shipped, recipe = json.loads((SHIPPED / "guide.json").read_text()), train.read_recipe()["guide"]
    assert shipped == recipe


@needs_weights
def test_shipped_model_solves_an_easy_puzzle() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED)
    tok = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    problem = parse("Use 2, 4 and 6 to make 48.")
    assert problem is not None
    ids = torch.tensor([tok.encode(problem.prompt(()) + "\n", add_special_tokens=False)])
    text = tok.decode(
        model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )[0, ids.shape[1] :]
    )
    state = problem.initial()
    for line in text.split("\n")[:2]:
        state = problem.apply(state, TextStep(line))
    assert problem.verify(state) == 1.0


@pytest.mark.thorough
@needs_weights
def test_shipped_model_solves_short_chains() -> None:
    """Greedily, without a search: chains of three operations that it never saw."""
    import search
    from search.problems.chains import generate

    guide = guides.load(SHIPPED, temperature=0.0)
    problems = list(generate(55, 8, 3, 1, split="test"))
    solutions = search.solve_many(problems, guide, "sample", "tokens=200", progress=False, chains=1)
    pairs = zip(problems, solutions, strict=True)
    assert sum(s.answer == chains_key.target(p) for p, s in pairs) >= 6


@pytest.mark.thorough
@needs_weights
def test_shipped_model_solves_short_stories() -> None:
    """Greedily, without a search: word problems of two and three operations that it never saw."""
    import search
    from guides.builtin.words_key import target
    from search.problems.words import generate

    guide = guides.load(SHIPPED, temperature=0.0)
    problems = [problem for size in (2, 3) for problem in generate(55, 6, size, 1, split="test")]
    solutions = search.solve_many(problems, guide, "sample", "tokens=300", progress=False, chains=1)
    assert sum(s.answer == target(p) for p, s in zip(problems, solutions, strict=True)) >= 8
