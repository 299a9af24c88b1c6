"""The child process in which one engine continues texts. Runs in any Python that has the engine.

    python -P rival_child.py KIND MODEL DTYPE ROWS TOKENS

KIND is a key of `ENGINES`; DTYPE "bfloat16" or "float32"; ROWS is the most sequences at once and
TOKENS the longest of them. A JSON object a line comes in, one goes out:

    {"do": "read", "prompts": [[1, 2], ...]}      read texts, so that they are known
    {"do": "prepare", "prompts": ..., "copies": 1}   what is not to be timed before `continue`
    {"do": "continue", "prompts": ..., "copies": 1, "new": 64, "temperature": 0.0, "seed": 0}

Every answer has "tokens", a list for each copy of each prompt, empty lists where none were wanted;
or "error". The process that started this one measures: it sees time, CPU time and memory.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(f"copse.{__name__}")

Texts = Sequence[Sequence[int]]
POOL = 1 << 30  #: bytes for keys and values, as many as our engine takes by default


class Copse:
    """Our engine, as `guides.load` makes it."""

    def __init__(self, model: str, dtype: str, rows: int, tokens: int):
        from guides.engines import load_engine
        from search.scheduling.requests import Generate, Score

        self.generate = Generate
        self.score = Score
        self.engine: Any = load_engine(model, device="cpu", dtype=dtype, slots=rows).engine
        self.about = f"the {self.engine.path} forward"

    def read(self, prompts: Texts) -> None:
        requests = []
        for prompt in prompts:
            requests.append(self.score(tuple(prompt), (len(prompt) - 1,), log_probs=False))
        self._replies(requests)

    def prepare(self, prompts: Texts, copies: int) -> None:
        pass

    def go_on(
        self, prompts: Texts, copies: int, new: int, temperature: float, seed: int
    ) -> list[list[int]]:
        asked: list[Any] = []
        for prompt, _ in itertools.product(prompts, range(copies)):
            number = seed + len(asked)
            asked.append(
                self.generate(tuple(prompt), max_tokens=new, temperature=temperature, seed=number)
            )
        return [list(generated.tokens) for generated in self._replies(asked)]

    def _replies(self, requests: list[Any]) -> list[Any]:
        for request in requests:
            self.engine.submit(request)
        found: dict[Any, Any] = {}
        while len(found) < len(requests):
            for reply in self.engine.poll():
                if reply.error is not None:
                    raise reply.error
                found[reply.request] = reply.result
        return list(map(found.__getitem__, requests))


class Generate:
    """`generate` of transformers, given the keys and values of what has been read.

    Rows have equal lengths. What all texts begin with is read once, its keys and values copied.
    """

    def __init__(self, model: str, dtype: str, rows: int, tokens: int):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.torch = torch
        self.cache = None
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.model: Any = loaded.eval()
        self.about = f"transformers {sys.modules['transformers'].__version__}"

    def read(self, prompts: Texts) -> None:
        if len(set(map(len, prompts))) > 1:
            raise ValueError("its rows must have equal lengths")
        ids = self.torch.tensor(prompts)
        same = (ids == ids[:1]).all(0).long().cumprod(0).sum().item()
        same = min(same, ids.shape[1] - 1) if len(ids) > 1 else 0
        self.cache = None
        with self.torch.inference_mode():
            if same:
                self.cache = self._passed(ids[:1, :same], None)
                self.cache.batch_repeat_interleave(len(ids))
            self.cache = self._passed(ids[:, same:], self.cache)

    def _passed(self, ids: Any, cache: Any) -> Any:
        given = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        return self.model(ids, **given).past_key_values

    def prepare(self, prompts: Texts, copies: int) -> None:
        from copy import deepcopy

        if self.cache is None:
            raise ValueError("read the texts first")
        self.ready: Any = deepcopy(self.cache)
        with self.torch.inference_mode():
            self.ready.batch_select_indices(self.torch.arange(len(prompts)))
            if copies > 1:
                self.ready.batch_repeat_interleave(copies)

    def go_on(
        self, prompts: Texts, copies: int, new: int, temperature: float, seed: int
    ) -> list[list[int]]:
        ids = self.torch.tensor(prompts).repeat_interleave(copies, 0)
        self.torch.manual_seed(seed)
        how: dict[str, Any] = {"do_sample": False}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        given = {"attention_mask": self.torch.ones_like(ids), "past_key_values": self.ready}
        found = self.model.generate(ids, max_new_tokens=new, min_new_tokens=new, **given, **how)
        self.ready = None
        return found[:, ids.shape[1] :].tolist()


class Vllm:
    """vLLM in this process, prefixes cached."""

    def __init__(self, model: str, dtype: str, rows: int, tokens: int):
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process: it is measured
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        import vllm

        self.vllm = vllm
        options = json.loads(os.environ.get("RIVAL_VLLM", "{}"))
        given: dict[str, Any] = {
            "max_model_len": tokens,
            "max_num_seqs": rows,
            "enable_prefix_caching": True,
        }
        given |= {"kv_cache_memory_bytes": POOL, "distributed_executor_backend": "uni"}
        self.engine = vllm.LLM(model, dtype=dtype, **given | options)
        self.about = f"vllm {vllm.__version__}"

    def read(self, prompts: Texts) -> None:
        self.go_on(prompts, 1, 1, 0.0, 0)

    def prepare(self, prompts: Texts, copies: int) -> None:
        pass

    def go_on(
        self, prompts: Texts, copies: int, new: int, temperature: float, seed: int
    ) -> list[list[int]]:
        how = self.vllm.SamplingParams(
            n=copies, temperature=temperature, max_tokens=new, ignore_eos=True, seed=None,
            detokenize=False,
        )  # fmt: skip
        texts = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        tokens = []
        for one in self.engine.generate(texts, how, use_tqdm=False):
            for output in one.outputs:
                tokens.append(list(output.token_ids))
        return tokens


ENGINES = {"copse": Copse, "generate": Generate, "vllm": Vllm}


def answer(engine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Do one of what the module says."""
    what = asked["do"]
    prompts = asked["prompts"]
    if what == "read":
        engine.read(prompts)
    elif what == "prepare":
        engine.prepare(prompts, asked["copies"])
    elif what == "continue":
        how = {name: asked[name] for name in ("copies", "new", "temperature", "seed")}
        return {"tokens": engine.go_on(prompts, **how)}
    else:
        raise ValueError(f"do={what!r} is unknown: say read, prepare or continue")
    return {"tokens": []}


def main(kind: str, model: str, dtype: str, rows: str, tokens: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes with the errors
    engine: Any = None
    for line in sys.stdin:
        try:
            if engine is None:
                engine = ENGINES[kind](model, dtype, int(rows), int(tokens))
            asked = json.loads(line)
            if asked["do"] == "start":
                reply = {"about": engine.about}
            else:
                reply = answer(engine, asked)
        except Exception as error:
            log.exception("%s", kind)
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
