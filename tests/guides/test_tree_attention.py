"""Trees in one pass, beside their texts one by one and beside attention below a mask of all
pairs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guides.data.examples import ExampleFile, Segment, collate, depth_first, write_examples
from guides.training import tree_attention
from guides.training.tree_attention import added, plan_of, tree_states, use_trees, visible
from models.checkpoints.heads import ValueHead

MODELS = ("llama", "llama biased", "qwen2 tied", "qwen3", "mistral", "phi3", "phi norms", "gpt2")


@st.composite
def trees(draw: st.DrawFn) -> list[Segment]:
    """Segments in any order in which a parent stands before its child; there may be several
    roots.
    """
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=9))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    segments = []
    for i, length in enumerate(lengths):
        tokens = rng.integers(0, 256, length).tolist()
        segments.append(Segment(tokens, 1.0, math.nan, draw(st.integers(-1, i - 1))))
    return segments


def rows_of(folder: Path, *examples: list[Segment]) -> list[dict[str, np.ndarray]]:
    write_examples(folder / "examples.npz", examples)
    rows = ExampleFile(folder / "examples.npz")
    return [rows[i] for i in range(len(rows))]


def texts_of(row: dict[str, np.ndarray]) -> list[list[int]]:
    """The texts of a row from the first token to the last, as indices into the row."""
    texts = []
    for last in set(range(len(row["tokens"]))) - set(row["previous"].tolist()):
        text = [last]
        while row["previous"][text[0]] >= 0:
            text.insert(0, int(row["previous"][text[0]]))
        texts.append(text)
    return texts


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def loss_of(logits: torch.Tensor, values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Of every token but the first, and of the value at each: numbers that depend on the token."""
    nll = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    return nll @ (1 + tokens % 5).float() + values @ (1 + tokens % 3).float()


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5, deadline=None)
@given(examples=st.lists(trees(), min_size=1, max_size=3), small=st.sampled_from([1, 8, 128]))
def test_gradients_of_a_tree_are_those_of_its_texts(
    tmp_path_factory: pytest.TempPathFactory, name: str, examples: list[list[Segment]], small: int
) -> None:
    """Each token of the tree counts once, in whichever of its texts; value head included."""
    rows = rows_of(tmp_path_factory.mktemp("rows"), *examples)
    batch = collate(rows)
    models = []
    for _ in range(2):
        models.append(families.model(name))
        torch.manual_seed(1)
        models[-1].value_head = ValueHead(models[-1].config.hidden_size)
        torch.nn.init.normal_(models[-1].value_head.weight, std=0.1)
    packed, alone = models
    use_trees(packed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_attention, "SMALL", small)
        tree_attention._stored_plan.cache_clear()
        hidden = tree_states(
            packed.get_decoder(), batch["tokens"], batch["ends"], batch["positions"]
        )
        total = hidden.new_zeros(())
        for states, row in zip(hidden, rows, strict=True):
            after = np.flatnonzero(row["previous"] >= 0)
            logits = packed.lm_head(states[row["previous"][after]])
            total = total + loss_of(
                logits, packed.value_head(states[after]), torch.from_numpy(row["tokens"][after])
            )
        if total.requires_grad:
            total.backward()
    tree_attention._stored_plan.cache_clear()
    expected = 0.0
    for row in rows:
        seen: set[int] = set()
        for text in texts_of(row):
            fresh = [at for at, token in enumerate(text) if at and token not in seen]
            seen |= set(text)
            tokens = torch.from_numpy(row["tokens"][text])
            states = alone.get_decoder()(tokens[None]).last_hidden_state[0]
            if fresh:
                logits = alone.lm_head(states[np.array(fresh) - 1])
                loss = loss_of(logits, alone.value_head(states[fresh]), tokens[fresh])
                loss.backward()
                expected += loss.item()
    assert total.item() == pytest.approx(expected, rel=1e-5)
    right = gradients(alone)
    scale = max([1.0, *(float(gradient.abs().max()) for gradient in right.values())])
    for key, gradient in gradients(packed).items():
        expected_one = right.get(key, torch.zeros_like(gradient))  # none of texts of a token
        torch.testing.assert_close(gradient / scale, expected_one / scale, atol=1e-5, rtol=0)
    assert right.keys() <= gradients(packed).keys()


@settings(max_examples=20, deadline=None)
@given(tree=trees())
def test_rows_stand_depth_first_and_ends_say_who_sees_whom(
    tmp_path_factory: pytest.TempPathFactory, tree: list[Segment]
) -> None:
    row = rows_of(tmp_path_factory.mktemp("rows"), tree)[0]
    seen = visible(torch.from_numpy(row["ends"])[None])[0].numpy()
    count = len(row["tokens"])
    for token in range(count):
        above = token
        path = []
        while above >= 0:
            path.append(above)
            above = int(row["previous"][above])
        assert np.flatnonzero(seen[token]).tolist() == path[::-1]
        assert row["positions"][token] == len(path) - 1

    def texts(segments: list[Segment]) -> list[list[int]]:
        whole: list[list[int]] = []
        for segment in segments:
            before = whole[segment.parent] if segment.parent >= 0 else []
            whole.append([*before, *segment.tokens])
        parents = {segment.parent for segment in segments}
        return sorted(text for i, text in enumerate(whole) if i not in parents)

    assert sorted(row["tokens"][text].tolist() for text in texts_of(row)) == texts(tree)


def test_segments_are_followed_by_what_is_below_them() -> None:
    assert depth_first([-1, 0, 0, 1, -1, 2, 1]).tolist() == [0, 1, 3, 6, 2, 5, 4]


@settings(max_examples=15, deadline=None)
@given(tree=trees(), small=st.integers(1, 30), padding=st.integers(0, 3))
def test_every_pair_is_in_exactly_one_block(
    tmp_path_factory: pytest.TempPathFactory, tree: list[Segment], small: int, padding: int
) -> None:
    row = rows_of(tmp_path_factory.mktemp("rows"), tree)[0]
    ends = np.concatenate([row["ends"], np.zeros(padding, np.int64)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_attention, "SMALL", small)
        plan = plan_of(ends)
    times = np.zeros((len(ends) + 1, len(ends)), int)
    for batch in plan.batches:
        reads = batch.read.reshape(-1, batch.size)
        for read, write, mask in zip(reads, batch.write.view_as(reads), batch.mask, strict=True):
            for i, j in itertools.product(range(batch.size), repeat=2):
                times[write[i], read[j]] += bool(mask[0, i, j] == 0)
    for start, stop in plan.chains:
        times[start:stop, start:stop] += np.tri(stop - start, dtype=int)
    for start, stop, end in plan.below:
        times[stop:end, start:stop] += 1
    expected = visible(torch.from_numpy(ends)[None])[0].numpy()
    assert (times[:-1] == expected).all()  # the last row is padding, which is thrown away


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_is_that_below_a_mask(tmp_path: Path, dtype: torch.dtype) -> None:
    """With prompts, chains and leaves longer than a block with a mask."""
    rng = np.random.default_rng(0)

    def segment(length: int, parent: int) -> Segment:
        return Segment(rng.integers(0, 256, length).tolist(), 1.0, math.nan, parent)

    tree = [segment(300, -1)] + [segment(*size) for size in ((150, 0), (20, 0), (7, 1), (140, 1))]
    rows = rows_of(tmp_path, tree, [segment(9, -1)])
    batch = collate(rows)
    torch.manual_seed(0)
    found = []
    parts = [torch.randn(2, 3, batch["tokens"].shape[1], 24).to(dtype) for _ in range(4)]
    real = batch["ends"] > 0
    for way in ("tree", "mask"):
        q, k, v = (part.clone().requires_grad_() for part in parts[:3])
        if way == "tree":
            out, _ = tree_attention._attend(q, k, v, batch["ends"], 0.3)
        else:
            mask = added(visible(batch["ends"]), dtype)
            out = torch.softmax(0.3 * q @ k.transpose(2, 3) + mask, -1) @ v
            out = out.transpose(1, 2)
        (out * parts[3].transpose(1, 2))[real].sum().backward()
        found.append([out[real], q.grad, k.grad, v.grad])
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05}[dtype]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_padding_attends_to_nothing_and_has_no_gradient() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 8).requires_grad_()
    q.retain_grad()
    out, _ = tree_attention._attend(q, k, v, torch.tensor([[3, 3, 3, 0, 0]]), 1.0)
    out.sum().backward()
    assert (out[0, 3:] == 0).all() and (q.grad[0, :, 3:] == 0).all()
    assert q.grad.isfinite().all()


def test_no_row_of_the_mask_hides_everything() -> None:
    """Where a token sees nothing at all, fused attention on a GPU gives gradients that are no
    numbers: padding sees itself.
    """
    seen = visible(torch.tensor([[2, 2, 0, 0, 0], [5, 5, 5, 5, 5]]))
    mask = added(seen, torch.float32)
    assert mask.shape == (2, 1, 5, 5) and (mask == 0).any(-1).all()
    assert (mask[1, 0] == 0).equal(seen[1]) and (mask[0, 0, :2] == 0).equal(seen[0, :2]), (
        "what is no padding sees what it saw"
    )


@pytest.mark.parametrize("name", ["mistral window", "qwen2 window", "phi3 window", "gemma3"])
def test_a_sliding_window_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="last 13 tokens in some layers"):
        use_trees(families.model(name))


def test_a_window_as_long_as_any_text_is_none() -> None:
    use_trees(families.model("mistral", sliding_window=families.LONGEST))


def test_logits_that_are_scaled_are_refused() -> None:
    with pytest.raises(ValueError, match="type cohere reads a tree otherwise"):
        use_trees(families.model("cohere"))


def test_capped_scores_are_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = families.COMMON | families.FOURS | {"head_dim": 24, "layer_types": None}
    config = Gemma2Config(**sizes, sliding_window=families.LONGEST)
    with pytest.raises(ValueError, match="type gemma2 cannot read trees .*caps its scores"):
        use_trees(Gemma2ForCausalLM(config))


def test_a_recurrence_is_refused() -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match="type mamba (cannot read trees|reads a tree otherwise)"):
        use_trees(MambaForCausalLM(config))


def test_a_model_is_left_in_the_mode_it_was_in() -> None:
    model = tiny.model().train()
    use_trees(model)
    assert model.training
