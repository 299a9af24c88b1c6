"""Preferences from trees: the pairs against brute force, the losses against closed forms, against
TRL and against texts read one by one."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_cases import make

from guides.data.distill import distill, split
from guides.data.examples import ExampleFile, Segment, collate, write_examples
from guides.data.export_trl import preference_rows
from guides.data.labels import Labels
from guides.data.preferences import Pairing, pairs_of, worth
from guides.data.prepare import Distillation
from guides.training import losses
from guides.training.options import Options, PreferenceLoss, fine_tuning
from guides.training.preferences import paired, preference_loss
from guides.training.reference import Referenced, check_reference, referenced
from guides.training.tree_attention import use_trees
from search.trace import Trace

KINDS = ("dpo", "ipo")


def searched(sums: list[float], values: list[float] | None = None) -> Trace:
    """Root with steps to 1, 2 and 3; 1 goes on to 4, 5 and 6. sums: of nodes 1 to 6."""
    visits = [4, 4, 1, 2, 2, 2]
    trace = make([0, 0, 0, 1, 1, 1], visits, [False, True, True, True, True, True])
    place = trace.node_edge[1:]
    edge_sum = np.zeros(len(trace.steps))
    edge_sum[place] = sums
    edge_value = np.full(len(trace.steps), math.nan, np.float32)
    if values is not None:
        edge_value[place] = values
    return replace(trace, edge_sum=edge_sum, edge_value=edge_value)


NOTHING = Labels(np.zeros(7), np.zeros(7))
OUTCOMES = np.array([math.nan, math.nan, 0.0, 1.0, 1.0, 0.0, 0.0])


def found(trace: Trace, labels: Labels = NOTHING, keep: int = 10, **pairing: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    return pairs_of(trace, OUTCOMES, labels, Pairing(**pairing), keep=keep, rng=rng)


# the pairs


def test_the_best_and_the_worst_sibling_are_a_pair() -> None:
    trace = searched([3.0, 1.0, 1.0, 0.2, 1.8, 0.6])
    assert found(trace) == [(1, 2), (5, 4)], "node 3 has one visit"
    assert found(trace, visits=1) == [(3, 2), (5, 4)]
    assert found(trace, margin=0.6) == [(5, 4)]
    assert found(trace, visits=3) == [(1, 2)]
    assert found(searched([2.0, 2.0, 0.5, 1.0, 1.0, 1.0])) == [], "equal steps are no pair"


def test_values_are_mixed_with_those_of_the_guide() -> None:
    """Agent Q: alpha * Q + (1 - alpha) * value; a step without a value is in no pair."""
    trace = searched([3.0, 1.0, 1.0, 1.0, 1.2, 0.8], [0.0, 1.0, 0.5, 0.1, math.nan, 0.9])
    values = worth(trace, NOTHING, 0.25)[trace.node_edge[1:]]
    expected = [0.1875, 0.8125, 0.625, 0.2, math.nan, 0.775]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert found(trace, mix=0.25) == [(2, 1), (6, 4)]
    assert found(trace) == [(1, 2), (5, 6)]


def test_samples_are_compared_by_what_came_of_them() -> None:
    trace = replace(searched([0.0] * 6), independent=True)
    labels = Labels(np.array([3.0, 3, 1, 1, 0, 2, 1]), np.array([9.0, 4, 4, 1, 0, 2, 2]))
    assert found(trace, labels) == [(1, 2), (5, 6)], "node 4 has no label"


def test_exact_labels_go_before_what_a_search_thought() -> None:
    """Even of a step that was visited once (node 3); Q remains where nothing is exact."""
    trace = searched([4.0, 1.0, 0.0, 1.0, 1.2, 0.8])
    exact = np.array([0.0, math.inf, 0.0, math.inf, 0.0, 0.0, 0.0])
    labels = Labels(np.array([0.0, 0, 0, 1, 0, 0, 0]), exact)
    assert found(trace, labels) == [(3, 1), (5, 6)]
    assert found(trace) == [(1, 2), (5, 6)]
    values = worth(trace, labels, 1.0)[trace.node_edge[1:]]
    np.testing.assert_allclose(values, [0.0, 0.25, 1.0, 0.5, 0.6, 0.4])


def test_right_chains_are_paired_with_wrong_ones() -> None:
    trace = searched([0.0] * 6)
    pairs = found(trace, kind="chains")
    assert sorted(worse for _, worse in pairs) == [2, 5, 6], "each of the more frequent once"
    assert {better for better, _ in pairs} == {3, 4}
    assert len(found(trace, kind="chains", keep=2)) == 2


def test_one_sort_of_chain_makes_no_pair() -> None:
    trace = searched([0.0] * 6)
    only = np.where(OUTCOMES == 1.0, OUTCOMES, math.nan)
    rng = np.random.default_rng(0)
    assert pairs_of(trace, only, NOTHING, Pairing("chains"), keep=9, rng=rng) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "words"}, "pairs are one of steps, chains, not 'words'"),
        ({"visits": 0}, "visits is at least 1"),
        ({"mix": 1.5}, "mix in"),
        ({"margin": 1.0}, "margin in"),
    ],
)
def test_other_pairings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(pairs=options)  # type: ignore[arg-type]


def test_an_example_has_the_pairs_of_its_trace(tmp_path: Path) -> None:
    trace = searched([3.0, 1.0, 1.0, 0.2, 1.8, 0.6])
    rng = np.random.default_rng(0)
    example = distill(
        trace, OUTCOMES, (1, 2), policy="none", rng=rng, labels=NOTHING, pairs=found(trace)
    )
    assert [segment.tokens[0] for segment in example] == [1, 101, 102, 104, 105], (
        "what is in no pair is left out"
    )
    assert [list(segment.over) for segment in example] == [[], [2], [], [], [3]]
    write_examples(tmp_path / "e.npz", [example, [Segment([7], 1.0, math.nan, -1)]])
    file = ExampleFile(tmp_path / "e.npz")
    rows = [file[i] for i in range(2)]
    pairs = [[tuple(row["tokens"][pair]) for pair in row["pairs"]] for row in rows]
    assert sorted(pairs, key=len) == [[], [(101, 102), (105, 104)]]
    batch = collate(rows)
    assert batch["pairs"].shape == (2, 3)
    at = next(i for i, row in enumerate(rows) if len(row["pairs"]))
    assert batch["pairs"][:, 0].tolist() == [at, at]


def test_files_without_pairs_are_as_before(tmp_path: Path) -> None:
    write_examples(tmp_path / "e.npz", [[Segment([7, 8], 1.0, math.nan, -1)]])
    with np.load(tmp_path / "e.npz") as file:
        assert not {"pairs", "paired"} & set(file)
    assert ExampleFile(tmp_path / "e.npz")[0]["pairs"].shape == (0, 2)


@st.composite
def paired_trees(draw: st.DrawFn) -> list[Segment]:
    """A tree with pairs of segments of which neither is below the other."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    parents = [-1, *(draw(st.integers(0, i)) for i in range(draw(st.integers(2, 9))))]
    above = [{0}]
    for i, parent in enumerate(parents[1:], 1):
        above.append({*above[parent], i})
    segments = []
    for i, parent in enumerate(parents):
        others = [j for j in range(len(parents)) if i not in above[j] and j not in above[i]]
        over = draw(st.sets(st.sampled_from(others), max_size=2)) if others else set()
        tokens = rng.integers(0, 256, int(rng.integers(1, 6))).tolist()
        segments.append(Segment(tokens, 0.0, math.nan, parent, over=sorted(over)))
    return segments


def texts_of(example: list[Segment]) -> list[tuple[int, ...]]:
    texts: list[tuple[int, ...]] = []
    for segment in example:
        before = texts[segment.parent] if segment.parent >= 0 else ()
        texts.append((*before, *segment.tokens))
    return texts


def pairs_in(example: list[Segment]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    texts = texts_of(example)
    pairs = itertools.chain.from_iterable(
        itertools.product([i], segment.over) for i, segment in enumerate(example)
    )
    return sorted((texts[i], texts[j]) for i, j in pairs)


@settings(max_examples=30, deadline=None)
@given(example=paired_trees(), longest=st.integers(1, 40))
def test_a_split_keeps_every_pair_once(example: list[Segment], longest: int) -> None:
    parts = split(example, longest)
    assert sorted(itertools.chain.from_iterable(map(pairs_in, parts))) == pairs_in(example)
    texts = set(itertools.chain.from_iterable(map(texts_of, parts)))
    assert set(texts_of(example)) <= texts


# the losses


def reference_of(model: Any, row: dict[str, np.ndarray]) -> torch.Tensor:
    """[tokens]: log-probs of a row's tokens, text by text."""
    found = torch.zeros(len(row["tokens"]))
    for last in set(range(len(row["tokens"]))) - set(row["previous"].tolist()):
        text = [last]
        while row["previous"][text[0]] >= 0:
            text.insert(0, int(row["previous"][text[0]]))
        if len(text) > 1:
            tokens = torch.from_numpy(row["tokens"][text])
            told = model(tokens[None]).logits[0, :-1].log_softmax(-1)
            places = torch.tensor(text[1:])
            found = found.index_put((places,), told.gather(1, tokens[1:, None])[:, 0])
    return found


def own_tokens(row: dict[str, np.ndarray], pair: np.ndarray) -> list[list[int]]:
    """The tokens of the two texts of a pair behind what they have in common, by walking up."""
    both = []
    for last in pair.tolist():
        text = []
        while last >= 0:
            text.append(last)
            last = int(row["previous"][last])
        both.append(text)
    common = set(both[0]) & set(both[1])
    return [[token for token in text if token not in common] for text in both]


def closed_form(ahead: float, loss: PreferenceLoss) -> float:
    if loss.kind == "ipo":
        return (ahead - 1 / (2 * loss.beta)) ** 2
    return math.log1p(math.exp(-loss.beta * ahead))


@pytest.mark.thorough
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None)
@given(examples=st.lists(paired_trees(), min_size=1, max_size=2))
def test_the_loss_is_the_closed_form_of_texts_one_by_one(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    per_token: bool,
    examples: list[list[Segment]],
) -> None:
    """Value and gradient, of a policy that is not the reference."""
    loss = PreferenceLoss(kind, 0.3, per_token)
    options = Options(precision="float32", compile=False, preference=loss)
    folder = tmp_path_factory.mktemp("rows")
    write_examples(folder / "e.npz", examples)
    rows = ExampleFile(folder / "e.npz")
    reference = tiny.model(seed=1, spread=0.1)
    with_reference = referenced(reference, rows, folder / "reference.npy", options)
    packed, alone = (tiny.model(spread=0.1) for _ in range(2))
    packed.value_head = tiny.head()
    use_trees(packed)
    batch = collate([with_reference[i] for i in range(len(rows))])
    counts = losses.counts(batch, options)
    assert counts[3] == sum(len(segment.over) for example in examples for segment in example)
    ours = losses.total(losses.terms(packed, batch, options), counts, options)
    theirs = torch.zeros(())
    plain = tiny.model(seed=1, spread=0.1)
    for row in (rows[i] for i in range(len(rows))):
        ratios = reference_of(alone, row) - reference_of(plain, row).detach()
        for pair in row["pairs"]:
            sums = []
            for tokens in own_tokens(row, pair):
                sums.append(ratios[tokens].mean() if per_token else ratios[tokens].sum())
            ahead = sums[0] - sums[1]
            single = (ahead - 1 / 0.6) ** 2
            if kind == "dpo":
                single = torch.log1p(torch.exp(-0.3 * ahead))
            assert single.item() == pytest.approx(closed_form(ahead.item(), loss), rel=1e-4)
            theirs = theirs + single
    theirs = theirs / max(1, int(counts[3]))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-6)
    if not counts[3]:
        return
    ours.backward()
    theirs.backward()
    right = {name: p.grad for name, p in alone.named_parameters() if p.grad is not None}
    scale = max(1.0, *(float(gradient.abs().max()) for gradient in right.values()))
    for name, gradient in right.items():
        got = packed.get_parameter(name).grad
        torch.testing.assert_close(got / scale, gradient / scale, atol=1e-5, rtol=0)


def flat_pairs(count: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A row for each pair: a prompt of 3 tokens, then texts of 4 and of 2; and log-probs."""
    batch = defaultdict(list)
    for i in range(count):
        batch["tokens"].append(list(range(9)))
        batch["ends"].append([9, 9, 9, 7, 7, 7, 7, 9, 9])
        batch["pairs"].append([i, 6, 8])
    torch.manual_seed(0)
    tensors = {name: torch.tensor(array) for name, array in batch.items()}
    tensors["reference"] = torch.randn(count, 9) - 2
    return tensors, torch.randn(count, 9) - 2


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("sigmoid", PreferenceLoss("dpo", 0.2)),
        ("sigmoid_norm", PreferenceLoss("dpo", 0.2, per_token=True)),
        ("ipo", PreferenceLoss("ipo", 0.2, per_token=True)),
    ],
)
def test_losses_and_gradients_are_those_of_trl(name: str, loss: PreferenceLoss) -> None:
    """Of the same log-probs. TRL's IPO divides by lengths always."""
    trl = pytest.importorskip("trl")
    batch, log_probs = flat_pairs(5)
    ours = log_probs.clone().requires_grad_()
    mean = preference_loss(ours, batch, loss) / 5
    mean.backward()

    # TRL reads rows of [chosen, rejected], with what is no completion masked
    def rows(array: torch.Tensor) -> torch.Tensor:
        better = array[:, :7]
        worse = torch.cat([array[:, :3], array[:, 7:], torch.zeros(len(array), 2)], 1)
        return torch.cat([better, worse])

    mask = torch.zeros(10, 7)
    mask[:5, 3:7] = 1
    mask[5:, 3:5] = 1
    theirs = log_probs.clone().requires_grad_()

    def outputs(of: torch.Tensor) -> SimpleNamespace:
        blank = torch.zeros(10, 6)
        own = (rows(of) * mask)[:, 1:]
        return SimpleNamespace(
            log_probs=own, entropy=blank, mean_logits=blank, is_top1=blank.bool()
        )

    anything = AnyTrainer(
        model=SimpleNamespace(training=False), _total_train_tokens=0,
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True,
        f_divergence_type="reverse_kl", loss_types=[name], loss_weights=[1.0], beta=loss.beta,
        use_weighting=False, label_smoothing=0.0,
    )  # fmt: skip
    inputs = {"input_ids": torch.zeros(10, 7, dtype=torch.int64), "completion_mask": mask}
    reference = (rows(batch["reference"]) * mask).sum(1)
    inputs |= {"ref_chosen_logps": reference[:5], "ref_rejected_logps": reference[5:]}
    got = trl.DPOTrainer._compute_loss(anything, lambda **_: outputs(theirs), inputs, False)
    got.backward()
    assert mean.item() == pytest.approx(got.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)
    assert (ours.grad[:, :3] == 0).all() and (ours.grad[:, 3:] != 0).all()


class AnyTrainer(SimpleNamespace):
    """What TRL's loss reads of its trainer; metrics go nowhere."""

    _metrics = defaultdict(lambda: defaultdict(list))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_known_numbers(kind: str) -> None:
    """Four tokens of 0.5 more than the reference, two of 0.25 less: 2.5 ahead, 0.75 a token."""
    batch, _ = flat_pairs(1)
    ratios = torch.tensor([[9.0, 9, 9, 0.5, 0.5, 0.5, 0.5, -0.25, -0.25]])
    for per_token, ahead in ((False, 2.5), (True, 0.75)):
        loss = PreferenceLoss(kind, 0.4, per_token)
        got = preference_loss(batch["reference"] + ratios, batch, loss)
        assert got.item() == pytest.approx(closed_form(ahead, loss), rel=1e-5)


def test_common_tokens_and_those_below_a_pair_are_in_no_sum() -> None:
    """The pair (3..4, 7..8) of a prompt 0..2, where 5..6 go on behind 4."""
    batch = {
        "tokens": torch.zeros(1, 10, dtype=torch.int64),
        "ends": torch.tensor([[9, 9, 9, 7, 7, 7, 7, 9, 9, 0]]),
        "pairs": torch.tensor([[0, 4, 8]]),
    }
    assert paired(batch)[0].nonzero().ravel().tolist() == [3, 4, 7, 8]


def test_pairs_need_a_reference(tmp_path: Path) -> None:
    example = [Segment([1], 0.0, math.nan, -1)]
    example += [Segment([2], 0.0, math.nan, 0, over=[2]), Segment([3], 0.0, math.nan, 0)]
    write_examples(tmp_path / "e.npz", [example])
    model = tiny.model()
    model.value_head = tiny.head()
    use_trees(model)
    with pytest.raises(ValueError, match="has no log-probs of a reference"):
        losses.terms(model, collate([ExampleFile(tmp_path / "e.npz")[0]]), Options())


def test_a_reference_is_read_once(tmp_path: Path) -> None:
    """And stored: the second time no model is asked."""
    examples = []
    for length in (3, 30, 5):
        example = [Segment([1], 0.0, math.nan, -1)]
        example += [Segment([2] * length, 0.0, math.nan, 0, over=[2])]
        examples.append([*example, Segment([3], 0.0, math.nan, 0)])
    write_examples(tmp_path / "e.npz", examples)
    rows = ExampleFile(tmp_path / "e.npz")
    options = Options(precision="float32")
    path = tmp_path / "work" / "reference.npy"
    first = referenced(tiny.model(), rows, path, options)
    again = referenced(None, rows, path, options)  # type: ignore[arg-type]
    assert isinstance(again, Referenced) and len(again) == 3
    for i in range(3):
        expected = reference_of(tiny.model(), rows[i]).detach().numpy()
        np.testing.assert_allclose(first[i]["reference"], expected, atol=1e-5)
        np.testing.assert_array_equal(first[i]["reference"], again[i]["reference"])


def test_a_reference_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    for name, merges in (("a", ()), ("b", (("a", "b"),))):
        tiny.model(vocab=259).save_pretrained(tmp_path / name)
        tiny.tokenizer(merges).save_pretrained(tmp_path / name)
    check_reference(tmp_path / "a", tmp_path / "a")
    with pytest.raises(ValueError, match="b has another tokenizer than .*a, so its log-probs"):
        check_reference(tmp_path / "b", tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kto"}, "one of dpo, ipo, not 'kto'"),
        ({"beta": 0.0}, "beta is finite and above 0"),
        ({"beta": math.inf}, "beta is finite and above 0"),
    ],
)
def test_other_losses_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fine_tuning(preference=options)


# export


def test_pairs_have_the_columns_of_trl() -> None:
    trace = searched([3.0, 1.0, 1.0, 0.2, 1.8, 0.6])
    rows = list(preference_rows(trace, found(trace)))
    assert rows == [
        {"prompt": "?", "chosen": "1", "rejected": "2"},
        {"prompt": "?1", "chosen": "5", "rejected": "4"},
    ]
    chains = list(preference_rows(trace, [(3, 5)]))
    assert chains == [{"prompt": "?", "chosen": "3", "rejected": "15"}]
    assert json.loads(json.dumps(rows)) == rows
