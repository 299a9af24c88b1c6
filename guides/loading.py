"""From a checkpoint or a server to a guide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from guides.answers.checker import classes
from guides.engines import load_engine, load_server
from guides.policies.lm import LM
from guides.values.prm import PRM
from search.functions import PlainValue
from search.guide import Guide, Known, Policy, Value
from search.scheduling.budget import Budget

if TYPE_CHECKING:
    from models import Server


def load(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    slots: int = 64,
    pool_tokens: int | None = None,
    answer: str | None = None,
    aggregate: str | None = None,
    **policy: Any,
) -> Guide:
    """A guide from one checkpoint: its language model as policy, its value head as value function.

    path    folder or hub id of a causal language model that transformers loads, or "builtin"
    device  "auto" (cuda where there is one), "cpu", "cuda", ...;  dtype: "auto"
            (`models.checkpoints.checkpoint.chosen_dtype`), "float32", ...
    slots   rows that the model computes at once
    pool_tokens  tokens whose keys and values have room; None: 1 GiB of them on a CPU, a quarter of
                 a GPU's free memory
    answer  regular expression with one group that marks the final answer in open text
    aggregate  what the value of a chain is of its steps' values: "last", "min", "prod" or "mean";
               None: what the checkpoint says, else the
            last, which comes with the pass that writes the step
    policy  further options of `guides.LM`: delimiter, step_tokens, max_steps, prompt, instruction,
            temperature, ...

    Without a value head nothing judges steps, and a warning says so. Raises ValueError for a bad
    checkpoint.
    """
    loaded = load_engine(path, device, dtype, slots, pool_tokens)
    if loaded.settings.get("prm") is not None:  # a trained judge, which reads each chain apart
        judge = PRM(loaded, aggregate=aggregate)
        return _guide(LM(loaded, **policy), judge, loaded.settings, answer)
    if not loaded.has_head and aggregate is not None:
        raise ValueError(
            f"{path} has no value head whose values {aggregate!r} could aggregate: leave "
            "aggregate out, or give another model"
        )
    last = (aggregate or loaded.settings.get("aggregate") or "last") == "last"
    # a step's own value is no value of the chain
    lm = LM(loaded, values=last and loaded.has_head, **policy)
    if loaded.has_head:
        return _guide(lm, PRM(loaded, policy=lm, aggregate=aggregate), loaded.settings, answer)
    note = (
        f"{path} has no value head: nothing judges its steps, so beam keeps any, and mcts "
        "spreads its samples evenly and votes"
    )
    return _guide(lm, Known(note=note), loaded.settings, answer)


#: options of a policy whose server gives whole answers alone
WHOLE = {"step_tokens": 2048, "max_steps": 1}


def connect(
    url: str,
    model: str,
    *,
    tokenizer: str | Path | None = None,
    connections: int = 64,
    timeout: float = 600.0,
    value: Value | PlainValue | None = None,
    answer: str | None = None,
    **policy: Any,
) -> Guide:
    """A guide whose policy is a model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp,
    `transformers serve`, hosted.

    url, model   as vLLM prints them: http://host:8000/v1, and the name that is served
    tokenizer    folder or hub id of its tokenizer, where `model` is none;  connections: requests
                 under way at once
    timeout      seconds that a request may take in all, repetitions included
    value        judges the steps, for example `guides.PRM(folder)`, or a function (`search.Guide`);
                 None: nothing does
    answer, policy   as in `load`

    A server that has conversations alone (/v1/chat/completions) is told the problem as a user's
    turn, and the steps so far as the beginning of the assistant's. One that cannot go on with such
    a beginning gives whole answers: a chain is one step of up to `step_tokens` (2,048), for
    `sample` and whatever votes over it; mcts, gumbel and beam refuse it.

    A key is read from the environment variable OPENAI_API_KEY. Raises ValueError where nobody
    answers, or not as this model, where samples are asked for and all are the same, and for options
    that a chat server cannot follow.
    """
    loaded = load_server(url, model, tokenizer, connections, timeout)
    found = cast("Server", loaded.engine).capabilities
    if not found.samples and policy.get("temperature", 1.0) != 0:
        # an error, not a warning: a vote of copies looks like one of samples, and costs as much
        raise ValueError(
            f"{url} gave the same text twice at a high temperature with different seeds: samples "
            "would be copies of one: have the server heed temperature and seed, or give "
            "temperature=0"
        )
    if found.chat and (policy.get("prompt") or loaded.settings.get("prompt")):
        raise ValueError(
            "the server takes conversations alone, so that a prompt cannot be one's own: give "
            "instruction= instead"
        )
    if not found.stepwise:
        given = [name for name in ("delimiter", "max_steps") if policy.get(name) is not None]
        if given:
            raise ValueError(
                "the server gives whole answers, so that an answer is one step: leave out "
                f"{' and '.join(given)}"
            )
        policy = WHOLE | {name: option for name, option in policy.items() if option is not None}
    if value is None:
        note = (
            "a server has no value head: nothing judges its steps; let a model do so with "
            "value= (--value DIR)"
        )
        if not found.log_probs:
            note += "; it tells no log-probs, so that priors are shares of samples"
        value = Known(note=note)
    return _guide(LM(loaded, **policy), value, loaded.settings, answer)


def _guide(
    policy: Policy, value: Value | PlainValue, settings: dict[str, Any], answer: str | None
) -> Guide:
    budget = Budget(**(settings.get("budget") or {"tokens": 20_000, "seconds": 120}))
    kinds = settings.get("kinds")
    return Guide(
        policy,
        value,
        budget,
        tuple(kinds) if kinds else None,
        answer or settings.get("answer"),
        classes,
        settings.get("stream"),
    )
