"""Tiny reward models of each published family, and what their model cards compute."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as kinds
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForTokenClassification,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
)

import guides
import search
from models.checkpoints.checkpoint import save_model
from search.problem import TextStep
from search.scheduling.driver import run

CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}<|end|>\n\n{{ m['content'] | trim "
    "}}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)


SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SIZES |= {
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


QUESTION, STEPS = "What is 2 + 3 + 4?", ("2 + 3 = 5", "5 - 1 + 5 = 9", "The answer is 9")


def bytes_tokenizer(
    *special: str, template: str | None = None, **options: Any
) -> PreTrainedTokenizerFast:
    """Byte-level, as Qwen's and Llama 3's are."""
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": list(special), **options})
    made.chat_template = template
    return made


def pieces_tokenizer() -> PreTrainedTokenizerFast:
    """Like Mistral's SentencePiece: words begin with U+2581, the beginning of a text is marked,
    and what is unknown is <unk>.
    """
    letters = [chr(i) for i in range(32, 127) if i != 32] + ["\n", "\u2581", "к", "и"]
    merges = [("к", "и"), ("\u2581", "ки"), ("\u2581", "+"), ("\u2581", "-")]
    names = ["<unk>", "<s>", "</s>", *letters, *(a + b for a, b in merges)]
    raw = Tokenizer(kinds.BPE({name: i for i, name in enumerate(names)}, merges, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = (
        pre_tokenizers.Metaspace(prepend_scheme="first"),
        decoders.Metaspace(prepend_scheme="first"),
    )
    raw.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def write(
    folder: Path, config: Any, tokenizer: Any, tensors: dict[str, torch.Tensor], **said: Any
) -> Path:
    """A checkpoint by hand: any architecture, any tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({**json.loads(config.to_json_string(use_diff=False)), **said})
    )
    save_file(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    tokenizer.save_pretrained(folder)
    return folder


def backbone(config: Any) -> Qwen2Model:
    torch.manual_seed(3)
    return Qwen2Model(config).eval()


def mlp() -> nn.Sequential:
    torch.manual_seed(4)
    made = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    for part in (made[0], made[2]):
        nn.init.normal_(part.weight, std=0.3)
    return made.eval()


def save_shepherd(folder: Path) -> Path:
    tokenizer = pieces_tokenizer()
    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(vocab_size=len(tokenizer), sliding_window=None, **SIZES)
    ).eval()
    return write(
        folder, model.config, tokenizer, model.state_dict(), architectures=["MistralForCausalLM"]
    )


def save_rlhflow(folder: Path) -> Path:
    tokenizer = bytes_tokenizer("<|start|>", "<|end|>", "<|eot|>", template=CHAT)
    model = tiny.model("llama", vocab=264, seed=1, max_position_embeddings=512)
    return write(
        folder, model.config, tokenizer, model.state_dict(), architectures=["LlamaForCausalLM"]
    )


def save_qwen(folder: Path) -> Path:
    tokenizer = bytes_tokenizer("<|start|>", "<|end|>", "<|eot|>", "<extra_0>", template=CHAT)
    config = Qwen2Config(vocab_size=264, tie_word_embeddings=False, **SIZES)
    tensors = {f"model.{name}": tensor for name, tensor in backbone(config).state_dict().items()}
    tensors |= {f"score.{name}": tensor for name, tensor in mlp().state_dict().items()}
    remote = {
        "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
        "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
    }
    folder.mkdir(parents=True)
    (folder / "configuration_qwen2_rm.py").write_text(
        "raise SystemExit('code of a checkpoint was run')\n"
    )
    (folder / "modeling_qwen2_rm.py").write_text(
        "raise SystemExit('code of a checkpoint was run')\n"
    )
    return write(
        folder,
        config,
        tokenizer,
        tensors,
        architectures=["Qwen2ForProcessRewardModel"],
        auto_map=remote,
    )


def save_skywork(folder: Path) -> Path:
    """A full stop and a line's end are one token, as in Qwen's vocabulary: so it matters that
    lines are made into tokens apart.
    """
    tokenizer = tiny.tokenizer(((".", "\u010a"),))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    model = tiny.model("qwen2", vocab=264, seed=2, max_position_embeddings=512)
    torch.manual_seed(5)
    tensors = model.state_dict() | {
        "v_head.summary.weight": torch.randn(1, 32) * 0.15,
        "v_head.summary.bias": torch.ones(1),
    }
    return write(folder, model.config, tokenizer, tensors, architectures=["Qwen2ForPrmModel"])


def save_trl(folder: Path) -> Path:
    """As `AutoModelForTokenClassification.save_pretrained` writes it, dropout in its
    configuration.
    """
    torch.manual_seed(6)
    made = LlamaForTokenClassification(
        LlamaConfig(vocab_size=264, num_labels=2, classifier_dropout=0.5, **SIZES)
    ).eval()
    nn.init.normal_(made.score.weight, std=0.5)
    nn.init.normal_(made.score.bias)
    made.save_pretrained(folder)
    bytes_tokenizer(bos_token="<bos>").save_pretrained(folder)
    return folder


def save_own(folder: Path) -> Path:
    settings = {"format": 1, "prompt": "Q: {problem}\n", "delimiter": "\n", "value_head": True}
    return save_model(
        folder,
        tiny.model("qwen2", seed=8, max_position_embeddings=512),
        tiny.tokenizer(),
        tiny.head(seed=9),
        settings,
    )


@torch.inference_mode()
def shepherd_scores(folder: Path, question: str, steps: tuple[str, ...]) -> list[float]:
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder),
    )
    good, bad, tag = (tokenizer.convert_tokens_to_ids("\u2581" + text) for text in ("+", "-", "ки"))
    text = f"{question} " + "\n".join(f"Step {i}: {step} ки" for i, step in enumerate(steps, 1))
    ids = torch.tensor([tokenizer.encode(text)])
    assert ids[0, 0] == tokenizer.bos_token_id and (ids == tag).sum() == len(steps)
    return model(ids).logits[:, :, [good, bad]].softmax(-1)[:, :, 0][ids == tag].tolist()


@torch.inference_mode()
def rlhflow_scores(folder: Path, question: str, steps: tuple[str, ...]) -> list[float]:
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder),
    )
    good, bad = (tokenizer.convert_tokens_to_ids(text) for text in "+-")
    conversation, scores = [], []
    for i, step in enumerate(steps):
        conversation += [
            {"role": "user", "content": f"{question} {step}" if i == 0 else step},
            {"role": "assistant", "content": "+"},
        ]
        ids = torch.tensor(
            [
                tokenizer.encode(
                    tokenizer.apply_chat_template(conversation, tokenize=False),
                    add_special_tokens=False,
                )
            ]
        )
        assert ids[0, -2] == good
        scores.append(float(model(ids).logits[0, -3, [good, bad]].softmax(-1)[0]))
    return scores


@torch.inference_mode()
def qwen_scores(folder: Path, question: str, steps: tuple[str, ...]) -> list[float]:
    tokenizer, tensors = (
        AutoTokenizer.from_pretrained(folder),
        load_file(folder / "model.safetensors"),
    )
    model = Qwen2Model(Qwen2Config(vocab_size=264, **SIZES)).eval()
    model.load_state_dict(
        {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    )
    score = mlp()
    score.load_state_dict(
        {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("score.")}
    )
    messages = [
        {
            "role": "system",
            "content": "Please reason step by step, and put your final answer within \\boxed{}.",
        },
        {"role": "user", "content": question},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = torch.tensor(
        [
            tokenizer.encode(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
            )
        ]
    )
    logits = score(model(ids).last_hidden_state)
    return logits.softmax(-1)[..., 1][ids == tokenizer.encode("<extra_0>")[0]].tolist()


@torch.inference_mode()
def skywork_scores(folder: Path, question: str, steps: tuple[str, ...]) -> list[float]:
    """At the end of every line; of a step with several lines, at that of the last."""
    tokenizer, tensors = (
        AutoTokenizer.from_pretrained(folder),
        load_file(folder / "model.safetensors"),
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids, at, newline = (
        tokenizer.encode(tokenizer.bos_token + question + "\n"),
        [],
        tokenizer.encode("\n")[-1],
    )
    for step in steps:
        for line in step.split("\n"):
            ids += (tokenizer.encode(line) if line else []) + [newline]
        at.append(len(ids) - 1)
    hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    return torch.sigmoid(
        hidden @ tensors["v_head.summary.weight"][0] + tensors["v_head.summary.bias"]
    )[at].tolist()


@torch.inference_mode()
def trl_scores(
    folder: Path, question: str, steps: tuple[str, ...], separator: str = "\n"
) -> list[float]:
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForTokenClassification.from_pretrained(folder),
    )
    ids, at = (
        [tokenizer.bos_token_id, *tokenizer(question, add_special_tokens=False)["input_ids"]],
        [],
    )
    for step in steps:
        ids += tokenizer(step, add_special_tokens=False)["input_ids"] + tokenizer.encode(
            separator, add_special_tokens=False
        )
        at.append(len(ids) - 1)
    return model(torch.tensor([ids])).logits[0].softmax(-1)[at, 1].tolist()


@torch.inference_mode()
def own_scores(folder: Path, question: str, steps: tuple[str, ...]) -> list[float]:
    tokenizer, head = (
        AutoTokenizer.from_pretrained(folder),
        load_file(folder / "value_head.safetensors"),
    )
    ids, at = tokenizer.encode(f"Q: {question}\n"), []
    for step in steps:
        ids += tokenizer.encode(step + "\n")
        at.append(len(ids) - 1)
    hidden = AutoModelForCausalLM.from_pretrained(folder)(
        torch.tensor([ids]), output_hidden_states=True
    ).hidden_states[-1][0]
    return torch.sigmoid(hidden @ head["weight"][0] + head["bias"])[at].tolist()


@dataclass(frozen=True)
class Family:
    """named: whether its format must be named, as the folder leaves it in doubt;  default: its
    aggregation.
    """

    save: Any
    scores: Any
    named: bool
    default: str = "last"


FAMILIES = {
    "math-shepherd": Family(save_shepherd, shepherd_scores, True, "min"),
    "rlhflow": Family(save_rlhflow, rlhflow_scores, True, "mean"),
    "qwen": Family(save_qwen, qwen_scores, False),
    "skywork": Family(save_skywork, skywork_scores, False),
    "trl": Family(save_trl, trl_scores, True),
    "copse": Family(save_own, own_scores, False),
}


every = pytest.mark.parametrize("name", FAMILIES)


def judge(folder: Path, name: str, **options: Any) -> guides.PRM:
    return guides.PRM(folder, format=name if FAMILIES[name].named else None, **options)


def values(prm: Any, *chains: tuple[str, ...], question: str = QUESTION) -> list[float]:
    states = [tuple(TextStep(text) for text in chain) for chain in chains]
    asks = prm.evaluate(
        search.TextProblem(question),
        states,
        np.full(len(states), np.nan, np.float32),
        np.random.default_rng(0),
    )
    return run(asks, prm.backends).tolist()


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def checkpoints(root):
    """A checkpoint of every family, and "policy", a model that writes."""
    made = {name: family.save(root / name) for name, family in FAMILIES.items()}
    settings = {
        "format": 1,
        "prompt": "{problem}\n",
        "delimiter": "\n",
        "step_tokens": 6,
        "max_steps": 4,
    }
    made["policy"] = save_model(
        root / "policy",
        tiny.model("llama", max_position_embeddings=512),
        tiny.tokenizer(),
        None,
        settings,
    )
    return made
