"""Published reward models: the scores of their cards, or a refusal.

Every family stands here as a tiny random checkpoint with its own key layout and tokenizer. The
reference reads it as its model card does, with transformers alone: texts, ids, positions and
softmax are written down once more, none of it is ours.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prm_cases import FAMILIES, QUESTION, STEPS, checkpoints, copy, every, judge, trl_scores, values
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForTokenClassification,
)

from guides.values.prm import aggregated

AGGREGATES = {
    "last": lambda s: s[-1],
    "min": min,
    "prod": math.prod,
    "mean": lambda s: sum(s) / len(s),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return checkpoints(tmp_path_factory.mktemp("judges"))


# -- right scores


@pytest.mark.thorough
@every
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_values_are_those_of_the_card(folders, name, aggregate):
    """Of all prefixes of a chain, in one batch. Scores that are alike, or all but 0 or 1, would
    test nothing.
    """
    reference = FAMILIES[name].scores(folders[name], QUESTION, STEPS)
    assert (
        len(reference) == 3
        and np.ptp(reference) > 0.05
        and all(0.001 < score < 0.999 for score in reference)
    )
    wanted = [AGGREGATES[aggregate](reference[: n + 1]) for n in range(3)]
    prm = judge(folders[name], name, aggregate=aggregate)
    assert values(prm, *(STEPS[: n + 1] for n in range(3))) == pytest.approx(wanted, abs=1e-5)
    assert prm.version.endswith(f" {aggregate}") and f" {name}#" in prm.version


@every
def test_the_default_aggregation_is_the_familys(folders, name):
    reference = FAMILIES[name].scores(folders[name], QUESTION, STEPS)
    assert values(judge(folders[name], name), STEPS) == pytest.approx(
        [AGGREGATES[FAMILIES[name].default](reference)], abs=1e-5
    )


@pytest.mark.parametrize("name", ["math-shepherd", "qwen", "trl"])
def test_weights_in_half_precision_are_read(folders, name, tmp_path):
    """A bfloat16 checkpoint gives the scores of its own rounded weights."""
    folder = copy(folders[name], tmp_path / name)
    tensors = {
        key: tensor.bfloat16() for key, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(
        {key: tensor.float() for key, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    reference = FAMILIES[name].scores(folder, QUESTION, STEPS)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert values(judge(folder, name, aggregate="prod"), STEPS) == pytest.approx(
        [math.prod(reference)], abs=1e-5
    )


@every
def test_a_second_step_is_read_alone(folders, name):
    """What a chain shares with one that was read is not read again, whatever is aggregated."""
    prm = judge(folders[name], name, aggregate="min")
    engine = next(iter(prm.backends.values()))
    reader, question = prm._reader, "How much is 7 + 8?"
    lengths = [len(reader(question, STEPS[:n])[0]) for n in (1, 2, 3)]
    engine.clear()
    for n, new in zip((1, 2, 3), np.diff([0, *lengths]), strict=True):
        before = engine.counts.read
        values(prm, STEPS[:n], question=question)
        assert engine.counts.read - before == new
    values(prm, STEPS, question=question)
    assert engine.counts.read - before == lengths[2] - lengths[1], (
        "a chain that was read before costs nothing"
    )


def test_a_head_without_bias(folders, tmp_path):
    """Some releases of transformers give token classifiers no bias."""
    folder = copy(folders["trl"], tmp_path / "trl")
    tensors = load_file(folder / "model.safetensors")
    with torch.no_grad():
        save_file(
            {key: t for key, t in tensors.items() if key != "score.bias"},
            folder / "model.safetensors",
            {"format": "pt"},
        )
        bare = values(judge(folder, "trl"), STEPS)
        save_file(
            tensors | {"score.bias": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"}
        )
    assert bare == pytest.approx([trl_scores(folder, QUESTION, STEPS)[-1]], abs=1e-5)


def test_a_model_without_an_output_layer_has_no_random_one(folders):
    """What nobody reads is the embedding; no tensor is made up, and nothing is said of missing
    ones.
    """
    from models import load_model

    model, _, head, _ = load_model(folders["trl"])
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    with torch.inference_mode():
        again = AutoModelForTokenClassification.from_pretrained(folders["trl"])
        ids = torch.arange(20)[None]
        hidden = model(ids, output_hidden_states=True).hidden_states[-1]
        assert torch.allclose(head(hidden), again(ids).logits.softmax(-1)[..., 1], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_aggregations_are_what_they_are_called(scores):
    for name, plain in AGGREGATES.items():
        assert aggregated(name, np.array(scores)) == pytest.approx(plain(scores), abs=1e-12)
