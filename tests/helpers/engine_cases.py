"""An engine on a tiny model, and what a plain forward pass gives."""

from __future__ import annotations

import numpy as np
import tiny
import torch
import transformers

from models.engine.engine import Engine


def prompts(count, seed=0, stem=12, own=6):
    """Prompts that share prefixes, as those of a search tree do."""
    rng = np.random.default_rng(seed)
    made = [tuple(rng.integers(0, 256, stem).tolist())]
    while len(made) < count:
        old = made[rng.integers(len(made))]
        made.append(
            old[: rng.integers(1, len(old) + 1)]
            + tuple(rng.integers(0, 256, rng.integers(0, own)).tolist())
        )
    return made


def expected(model, prompt, tokens):
    """Greedy continuation by transformers' own generate."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(out[0, len(prompt) :].tolist())


def forward(model, tokens):
    """log-probs [tokens, vocabulary] and last hidden states [tokens, hidden] of a whole text."""
    with torch.no_grad():
        out = model(torch.tensor([tokens]), output_hidden_states=True)
    return torch.log_softmax(out.logits[0].float(), -1).numpy(), out.hidden_states[-1][0]


def engine(kind="llama", head=None, **options):
    model = tiny.model(kind)
    return Engine(model, tiny.tokenizer(), head, **options)


def check_pool(engine):
    engine._store.tree.check([])
    assert (
        not engine._rows.running
        and sorted(engine._rows.free) == list(range(engine.slots))
        and not engine._rows.stage.any()
    )
    assert not engine._reserved and not engine._rows.to_read


def answers(backend, requests):
    return tiny.answers(backend, requests)


def script(model, ids):
    """Make a model say `ids` one after the other, whatever the prompt: each token's embedding
    tells the next.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        n, d = model.model.embed_tokens.weight.shape
        codes = torch.sign(torch.randn(n, d))
        model.model.embed_tokens.weight.copy_(codes)
        model.model.norm.weight.fill_(1)
        model.lm_head.weight.normal_(std=0.01)
        follows = dict(zip([5, *ids], ids, strict=False))
        for a, b in follows.items():
            model.lm_head.weight[b] = codes[a]


def architecture(name, **options):
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    small |= {"intermediate_size": 48, "num_local_experts": 4}
    if name == "GPT2":
        small = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=258,
        max_position_embeddings=256,
        eos_token_id=256,
        pad_token_id=0,
        initializer_range=0.2,
        **small,
        **options,
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(
        config
    ).eval()
