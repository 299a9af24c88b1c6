"""Numbers of a config.json that no model has: a sentence, at once and in little memory."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import tiny

from models.checkpoints.checkpoint import describe, load_model, save_model

ODD = (0, -1, 10**6, 10**12, 1.5, "x", [], {}, True, math.nan, math.inf, -0.5)
NUMBERS = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "eos_token_id",
)  # fmt: skip
OTHERS = (
    "architectures",
    "model_type",
    "text_config",
    "rope_parameters",
    "dtype",
    "layer_types",
    "quantization_config",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m") / "saved"
    return save_model(folder, tiny.model(), tiny.tokenizer())


def read(folder):
    """Load it both ways; what is said where that cannot be."""
    said = []
    for trainable in (False, True):
        try:
            load_model(folder, trainable=trainable)
        except ValueError as error:
            said.append(str(error))
    return said


@pytest.mark.thorough
@pytest.mark.parametrize("name", [*NUMBERS, *OTHERS])
def test_an_odd_value_is_taken_or_named(saved, tmp_path, name):
    for number, value in enumerate(ODD):
        folder = shutil.copytree(saved, tmp_path / str(number))
        config = json.loads((saved / "config.json").read_text()) | {name: value}
        (folder / "config.json").write_text(json.dumps(config))
        for sentence in read(folder):
            assert str(folder) in sentence and "Traceback" not in sentence


@pytest.mark.parametrize("name", NUMBERS[:7])
@pytest.mark.parametrize("value", [10**6, 10**12, 0, -1, math.nan])
def test_what_no_weights_have_is_refused_before_a_model_is_made(saved, tmp_path, name, value):
    folder = shutil.copytree(saved, tmp_path / "m")
    config = json.loads((saved / "config.json").read_text()) | {name: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"{name} is .* a whole number from 1 to"):
        describe(folder)


def test_a_config_that_is_no_object(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "m")
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="no JSON object"):
        describe(folder)
