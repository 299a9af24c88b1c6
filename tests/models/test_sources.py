"""What is no plain folder of safetensors becomes one, with the numbers of an independent
reading, or is refused in a sentence.
"""

from __future__ import annotations

import json
import struct

import gguf
import numpy as np
import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from guides.engines import load_engine
from models import describe, load_model, save_model, version
from models.checkpoints.dequantise import AWQ_ORDER

FLOATS = gguf.GGMLQuantizationType


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "copse" / "checkpoints"


def logits(model, tokenizer):
    """Of a few tokens."""
    with torch.inference_mode():
        return model(torch.tensor([tokenizer.encode("ab cd, Tom")])).logits.float()


def written(path, made, kind=FLOATS.F32):
    """A GGUF file of a Qwen2 model: what its convention calls each tensor, matrices as `kind`."""
    config = made.config
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    }
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    tokenizer = tiny.tokenizer((("a", "b"),))
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if word in tiny.SPECIAL else gguf.TokenType.NORMAL
            for word in words
        ]
    )
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(257)
    for name, tensor in made.state_dict().items():
        parts = name.split(".")
        if parts[1] == "layers":
            stem, ending = ".".join(parts[3:-1]), parts[-1]
            named = f"blk.{parts[2]}.{names[stem]}.{ending}"
        else:
            named = {
                "model.embed_tokens.weight": "token_embd.weight",
                "model.norm.weight": "output_norm.weight",
            }.get(name, "output.weight")
        numbers = tensor.detach().numpy()
        if numbers.ndim == 2 and kind != FLOATS.F32:
            writer.add_tensor(named, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(named, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def small(**options):
    """A model whose rows are whole blocks of what GGUF quantises."""
    return tiny.model(
        "qwen2",
        vocab=259,
        hidden_size=64,
        intermediate_size=96,
        rope_theta=1e4,
        eos_token_id=257,
        **options,
    )


@pytest.mark.thorough
def test_gguf_files_are_read(tmp_path, cache):
    made = small()
    path = written(tmp_path / "model.gguf", made)
    model, tokenizer, head, settings = load_model(path)
    assert (
        head is None
        and settings == {}
        and tokenizer.encode("ab cd") == tiny.tokenizer((("a", "b"),)).encode("ab cd")
    )
    torch.testing.assert_close(logits(model, tokenizer), logits(made, tokenizer))
    assert tokenizer.eos_token_id == 257 and model.generation_config.eos_token_id == 257
    assert [folder.name for folder in cache.iterdir()] == [next(cache.iterdir()).name] and version(
        path
    ) == version(next(cache.iterdir()))
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "other.gguf")
    assert version(tmp_path / "folder") == version(next(cache.iterdir())), (
        "a folder with one; kept by content, made once"
    )
    native, *_ = load_model(tmp_path / "folder", trainable=False)
    assert type(native).__name__ == "Llama"


def test_quantised_gguf_files_become_bfloat16(tmp_path):
    made = small()
    model, tokenizer, *_ = load_model(
        written(tmp_path / "model.gguf", made, FLOATS.Q8_0), dtype="bfloat16"
    )
    for name, tensor in made.state_dict().items():
        if tensor.dim() == 2:
            packed = gguf.quants.quantize(tensor.numpy(), FLOATS.Q8_0)
            wanted = torch.from_numpy(gguf.quants.dequantize(packed, FLOATS.Q8_0)).bfloat16()
            assert torch.equal(model.state_dict()[name], wanted), name


def test_broken_gguf_files_say_so(tmp_path):
    path = written(tmp_path / "model.gguf", small())
    whole = path.read_bytes()
    for content, message in [
        (whole[: len(whole) // 2], "cut short.*: download it again"),
        (whole[:100], "cut short.*: download it again"),
        (b"PK" + whole[2:], "no GGUF file: download"),
        (b"GGUF" + struct.pack("<I", 99) + whole[8:], "not known.*: download"),
        (whole.replace(b"qwen2", b"xwen9"), "cannot be converted.*: give"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            describe(path)
    (tmp_path / "other.gguf").write_bytes(whole)
    with pytest.raises(ValueError, match="2 GGUF files: give one"):
        describe(tmp_path)
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(ValueError, match="is a file: give"):
        describe(tmp_path / "text.txt")


def adapter(tmp_path, base):
    """A LoRA adapter that changes something, and the model with it."""
    model = peft.get_peft_model(
        tiny.model(),
        peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], base_model_name_or_path=base),
    )
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": base})
    )
    return model.eval()


@pytest.mark.parametrize("where", ["absolute", "beside"])
def test_adapters_are_merged_into_their_base(tmp_path, where, cache):
    base = save_model(
        tmp_path / "base",
        tiny.model(),
        tiny.tokenizer(),
        tiny.head(),
        {"format": 1, "value_head": True},
    )
    adapted = adapter(tmp_path, str(base) if where == "absolute" else "../base")
    model, tokenizer, head, settings = load_model(tmp_path / "adapter")
    torch.testing.assert_close(
        logits(model, tokenizer), logits(adapted, tokenizer), atol=1e-5, rtol=1e-5
    )
    assert head is not None and settings["value_head"] and len(list(cache.iterdir())) == 1
    assert (logits(tiny.model(), tokenizer) - logits(model, tokenizer)).abs().max() > 0.01


def test_an_adapter_without_its_base_names_it(tmp_path):
    adapter(tmp_path, "somebody/absent")
    with pytest.raises(
        ValueError,
        match="is an adapter, and its base somebody/absent is not there .*: copy the base",
    ):
        describe(tmp_path / "adapter")
    save_model(tmp_path / "other", tiny.model("qwen2", hidden_size=16), tiny.tokenizer())
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../other"})
    )
    with pytest.raises(ValueError, match="does not fit its base .*: give the base"):
        describe(tmp_path / "adapter")


def packed(numbers, bits, axis):
    """Whole numbers as int32 words along an axis, bit by bit: a slow twin of the unpacking."""
    numbers = np.moveaxis(numbers, axis, 0)
    each = 32 // bits
    words = np.zeros((len(numbers) // each, *numbers.shape[1:]), np.int64)
    for i, row in enumerate(numbers):
        words[i // each] += row << bits * (i % each)
    return torch.from_numpy(np.moveaxis(words, 0, axis).astype(np.uint32).view(np.int32).copy())


def quantised(tmp_path, method):
    """A checkpoint in a quantised layout, and the tensors that it stands for."""
    made, rng = (
        tiny.model(vocab=264, hidden_size=32, intermediate_size=64).to(torch.float16),
        np.random.default_rng(0),
    )
    path = save_model(tmp_path / "quantised", made, tiny.tokenizer())
    tensors, wanted, size = load_file(path / "model.safetensors"), {}, 16
    kind = method["quant_method"]
    for name, tensor in list(tensors.items()):
        if "proj" not in name:
            continue
        del tensors[name]
        stem, (out, inner) = name.removesuffix(".weight"), tensor.shape
        if kind == "fp8":
            scale = torch.rand(-(-out // 16), -(-inner // 16)) + 0.5
            values = tensor.float().to(torch.float8_e4m3fn)
            tensors |= {name: values, f"{stem}.weight_scale_inv": scale}
            each = torch.stack(
                [scale[i // 16, j // 16] for i in range(out) for j in range(inner)]
            ).view(out, inner)
            wanted[name] = (values.float() * each).bfloat16()
            continue
        groups = rng.permutation(inner) // size if kind == "gptq" else np.arange(inner) // size
        numbers, zeros = (
            rng.integers(0, 16, (inner, out)),
            rng.integers(1, 16, (inner // size, out)),
        )
        scales = torch.from_numpy(rng.random((inner // size, out)) * 0.02 + 0.01).half()
        found = (numbers - zeros[groups]) * scales.double().numpy()[groups]
        wanted[name] = torch.from_numpy(found.T).half()
        if kind == "awq":  # eight columns a word, in an order of its own
            numbers, zeros = (
                s.reshape(len(s), -1, 8)[:, :, list(AWQ_ORDER)].reshape(len(s), -1)
                for s in (numbers, zeros)
            )
            tensors |= {
                f"{stem}.qweight": packed(numbers, 4, 1),
                f"{stem}.qzeros": packed(zeros, 4, 1),
                f"{stem}.scales": scales,
            }
        else:
            tensors |= {
                f"{stem}.qweight": packed(numbers, 4, 0),
                f"{stem}.qzeros": packed(zeros - 1, 4, 1),
                f"{stem}.scales": scales,
            }
            tensors[f"{stem}.g_idx"] = torch.from_numpy(groups.astype(np.int32))
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": method}))
    return path, wanted, tensors


METHODS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True},
    "awq": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 16,
        "version": "gemm",
        "zero_point": True,
    },
    "fp8": {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"},
}


@pytest.mark.parametrize("name", METHODS)
def test_quantised_weights_are_multiplied_out(name, tmp_path):
    path, wanted, tensors = quantised(tmp_path, METHODS[name])
    model, *_ = load_model(path, dtype="bfloat16" if name == "fp8" else "float16")
    state = model.state_dict()
    assert len(wanted) == 14
    for key, tensor in wanted.items():
        torch.testing.assert_close(state[key], tensor, atol=1e-6, rtol=1e-3)
    same = "model.norm.weight"
    assert torch.equal(state[same].float(), tensors[same].float())
    native, *_ = load_model(path, trainable=False, dtype="float32")
    torch.testing.assert_close(
        native.product("layers.0.self_attn.q_proj")[0],
        wanted["model.layers.0.self_attn.q_proj.weight"].float(),
    )


@pytest.mark.parametrize("name", ["bitsandbytes", "hqq"])
def test_other_quantisations_are_refused(name, tmp_path):
    path, *_ = quantised(tmp_path, METHODS["awq"])
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": name}})
    )
    with pytest.raises(ValueError, match=f"quantised by {name}, which is not read here: give"):
        describe(path)


def test_models_that_cannot_continue_a_text_are_refused(tmp_path):
    sizes = {
        "vocab_size": 258,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    for made in (
        BertForMaskedLM(BertConfig(**sizes)),
        T5ForConditionalGeneration(T5Config(vocab_size=258, d_model=16, num_layers=1)),
    ):
        made.save_pretrained(tmp_path / made.config.model_type)
        tiny.tokenizer().save_pretrained(tmp_path / made.config.model_type)
        with pytest.raises(ValueError, match="encode.*: give a causal language model"):
            load_model(tmp_path / made.config.model_type)


def test_a_model_larger_than_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = save_model(tmp_path / "model", tiny.model().to(torch.bfloat16), tiny.tokenizer())
    size = (path / "model.safetensors").stat().st_size
    monkeypatch.setattr("models.memory.memory_left", lambda: size + 1000)
    load_model(path, dtype="bfloat16")
    with pytest.raises(
        ValueError, match="GB of memory in float32, and .* are left: try dtype bfloat16"
    ):
        load_model(path, dtype="float32")
    monkeypatch.setattr("models.memory.memory_left", lambda: size // 2)
    with pytest.raises(ValueError, match="are left: use a smaller one"):
        load_model(path, dtype="bfloat16")


def unread(monkeypatch):
    """Fails whoever reads a file to its end."""

    def read(*args):
        raise AssertionError("a file was read")

    monkeypatch.setattr("hashlib.file_digest", read)


def test_a_model_larger_than_memory_is_refused_before_it_is_hashed(tmp_path, monkeypatch):
    path = save_model(tmp_path / "model", tiny.model(), tiny.tokenizer())
    with monkeypatch.context() as patch:
        unread(patch)
        patch.setattr("models.memory.memory_left", lambda: 1000)
        with pytest.raises(
            ValueError, match="GB of memory in float32, and .* are left: use a smaller one"
        ):
            load_engine(path)
    loaded = load_engine(path, slots=2, pool_tokens=64)
    monkeypatch.setattr("models.memory.memory_left", lambda: 1000)
    assert load_engine(path, slots=2, pool_tokens=64) is loaded, (
        "what is there already needs no memory"
    )


def test_gguf_files_and_adapters_larger_than_memory_are_refused_before_they_are_hashed(
    tmp_path, monkeypatch
):
    made = small()
    path = written(tmp_path / "model.gguf", made, FLOATS.Q8_0)
    numbers = sum(tensor.numel() for tensor in made.state_dict().values())
    base = save_model(tmp_path / "base", tiny.model(), tiny.tokenizer())
    adapter(tmp_path, str(base))
    monkeypatch.setattr("models.memory.memory_left", lambda: 1000)
    with monkeypatch.context() as patch:
        unread(patch)
        for source in (path, tmp_path / "adapter"):
            with pytest.raises(
                ValueError, match="GB of memory at least, and .* are left: use a smaller one"
            ):
                load_engine(source)
    # enough for what would be made, not for making it
    monkeypatch.setattr("models.memory.memory_left", lambda: 3 * numbers)
    with pytest.raises(ValueError, match="GB of main memory while it is made a plain checkpoint"):
        load_engine(path)
