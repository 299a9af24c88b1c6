"""Mixtures of experts and the text half of models that see pictures: served on the fast path,
with the tokens of `generate`.
"""

from __future__ import annotations

import pytest
import tiny
import torch
import transformers

from models import Engine, load_model, save_model
from search.scheduling.requests import Generate

TEXT = {
    "vocab_size": 258,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 256,
    "bos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.12,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
EYE = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
EYES = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
}
TURNS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
MARKS = {
    "image_token_id": 250,
    "video_token_id": 251,
    "vision_start_token_id": 252,
    "vision_end_token_id": 253,
}


def made(name):
    """A tiny random model."""
    if name == "Mixtral":
        return transformers.MixtralForCausalLM(
            transformers.MixtralConfig(**TEXT, num_local_experts=4)
        )
    if name == "Qwen3Moe":
        return transformers.Qwen3MoeForCausalLM(
            transformers.Qwen3MoeConfig(**TEXT, **EXPERTS, head_dim=16, moe_intermediate_size=32)
        )
    if name == "Olmoe":
        return transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**TEXT, **EXPERTS))
    if name == "Gemma3":
        text, marks = (
            TEXT | {"head_dim": 16, "sliding_window": 32},
            {"image_token_index": 257, "boi_token_index": 255},
        )
        config = transformers.Gemma3Config(
            text_config=text, vision_config=EYE, mm_tokens_per_image=4, eoi_token_index=254, **marks
        )
        return transformers.Gemma3ForConditionalGeneration(config)
    if name == "Qwen2.5-VL":
        config = transformers.Qwen2_5_VLConfig(
            text_config=TEXT | {"rope_parameters": TURNS}, vision_config=EYES, **MARKS
        )
        return transformers.Qwen2_5_VLForConditionalGeneration(config)
    sight = transformers.CLIPVisionConfig(**EYE)
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT), vision_config=sight, image_token_index=257
    )
    return transformers.LlavaForConditionalGeneration(config)


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "Olmoe", "Gemma3", "Qwen2.5-VL", "Llava"])
def test_texts_are_those_of_the_model(name, dtype, tmp_path):
    torch.manual_seed(0)
    path = save_model(tmp_path / "checkpoint", made(name).eval(), tiny.tokenizer())
    model, tokenizer, *_ = load_model(path, dtype=dtype, trainable=False)
    backend = Engine(model, tokenizer, slots=4, pool_tokens=500)
    assert backend.path == "modules"
    if dtype == "float32":
        requests = [
            Generate(tuple(range(65, 65 + count)), max_tokens=10, temperature=0)
            for count in (3, 9, 40)
        ]
        for request, reply in zip(requests, tiny.answers(backend, requests), strict=True):
            ids = torch.tensor([request.prompt])
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=10,
                do_sample=False,
                pad_token_id=0,
            )
            assert reply.result.tokens == tuple(out[0, len(request.prompt) :].tolist())


def test_what_is_no_language_model_is_refused(tmp_path):
    config = transformers.CLIPVisionConfig(**EYE)
    save_model(tmp_path / "eye", transformers.CLIPVisionModel(config), tiny.tokenizer())
    with pytest.raises(ValueError, match="does not load as a language model: give another"):
        load_model(tmp_path / "eye")
