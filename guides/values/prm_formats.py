r"""Formats: how a process reward model reads a chain of thought, and where in the text its scores
stand.

A format is data. A family of models that is not among `FORMATS` is described in Python, by
`Format(...)`, in a JSON file, or under "prm" in the `guide.json` of its folder:

    {"like": "trl", "step": ["{step}", "\n\n"]}
    {"layout": "text", "score": "tokens", "prompt": "{problem}\n\n", "step": "{step} \n\n\n\n\n",
    "marker": " \n\n\n\n\n",
     "good": " +", "bad": " -", "aggregate": "min"}

Nothing in a text is cut or escaped to make it fit: every step has one score, or the chain is
refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from models.checkpoints.head_layouts import LAYOUTS as HEADS
from models.checkpoints.head_layouts import OWN
from models.checkpoints.settings import AGGREGATES

LAYOUTS = ("parts", "text", "chat", "turns")


def check_aggregate(aggregate: str) -> None:
    """Raises ValueError for an aggregation that there is not."""
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate {aggregate!r} is none: use one of {', '.join(AGGREGATES)}")


@dataclass(frozen=True)
class Format:
    """How a family of process reward models reads a chain of thought, and where its scores stand.

    layout  "parts": the prompt and the parts of every step, each made into tokens on its own; a
            score at the last token of every step "text": one plain text, made into tokens as a
            whole, with those that the tokenizer puts around it; a score at every `marker` "chat":
            the same in a chat, whose last message holds all steps; a score at every `marker`
            "turns": a chat in which every step is a message of the user's and `good` the reply; a
            score at the token before each reply
    score   "tokens": the softmax over the logits of the tokens `good` and `bad`, of the first; or
            the kind of head that tells the probability: "value_head" (ours), "score" (two classes,
            the second), "score-mlp" (the same behind a hidden layer), "v_head" (sigmoid of one)
    prompt  what stands before the first step, with {problem} in it. In turns, the first message is
            it and the first step. None, for parts only: what a policy of this checkpoint reads.
            Other prompts in parts get the beginning-of-text token, where there is one
    system  the chat's system prompt; None: what the chat template says without one
    lead    stands before every step that does not begin with it already; {number} counts the steps
            from 1 on
    step    a step's text, with {step} in it once, and what ends it; in parts, perhaps several texts
            that are made into tokens apart
    cut     parts only: a step that holds this text is cut there, and its pieces are read like
            steps, but the score of the last one counts
    marker, good, bad   texts that are one token each, as the tokenizer encodes them alone and
                        without special tokens. So " +" is another
            token than "+" in byte-level vocabularies, and SentencePiece takes "+" for the one that
            begins a word
    reply   parts only: what stands behind the score of each step but the last, as if the model had
            found the step right
    opening whether the prompt alone has a score, at its end; else a chain without steps has no
    value
    aggregate  what the value of a chain is of its steps' scores: "last", "min", "prod" or "mean"

    Raises ValueError for fields that do not go together.
    """

    layout: str
    score: str
    prompt: str | None = None
    system: str | None = None
    lead: str = ""
    step: str | tuple[str, ...] = "{step}"
    cut: str = ""
    marker: str | None = None
    good: str | None = None
    bad: str | None = None
    reply: str = ""
    opening: bool = False
    aggregate: str = "last"
    name: str = "custom"

    def __post_init__(self) -> None:
        marked = self.layout in ("text", "chat")
        chat = self.layout in ("chat", "turns")
        in_parts = self.layout == "parts"
        if self.layout not in LAYOUTS:
            self._refuse(f"layout {self.layout!r} is none: use one of {', '.join(LAYOUTS)}")
        if self.score not in ("tokens", OWN, *HEADS):
            self._refuse(
                f"score {self.score!r} is none: use tokens, or the kind of its head: "
                f"{', '.join([OWN, *HEADS])}"
            )
        check_aggregate(self.aggregate)
        if self.prompt is None:
            prompted = in_parts
        else:
            prompted = self.prompt.count("{problem}") == 1
        if not prompted:
            self._refuse("it needs a prompt: write one with {problem} in it once")
        if "".join(self.parts).count("{step}") != 1 or (len(self.parts) > 1 and not in_parts):
            self._refuse(
                "step is a text with {step} in it once, or in parts several texts: correct it"
            )
        needs = {
            "marker": marked,
            "good": self.score == "tokens" or self.layout == "turns",
            "bad": self.score == "tokens",
        }
        for field, needed in needs.items():
            given = bool(getattr(self, field))
            if needed and not given:
                self._refuse(f"{field} is missing: give it")
            if given and not needed:
                self._refuse(f"{field} is of no use here: leave it out")
        if marked and str(self.marker) not in self.parts[0]:
            self._refuse(
                f"its step does not hold the marker {self.marker!r}: write it where the score "
                "stands"
            )
        useful_in = {"system": chat, "cut": in_parts, "reply": in_parts, "opening": in_parts}
        for field, useful in useful_in.items():
            if getattr(self, field) and not useful:
                self._refuse(f"{field} is of no use in layout {self.layout!r}: leave it out")

    def _refuse(self, reason: str) -> None:
        raise ValueError(f"the format {self.name!r} of a reward model is not usable: {reason}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The texts of a step that are made into tokens apart."""
        return (self.step,) if isinstance(self.step, str) else tuple(self.step)

    @property
    def label(self) -> str:
        """Its name and a digest of all that it says but the aggregation, which may be chosen
        anew: "qwen#1a2b3c4d".
        """
        content = dataclasses.asdict(self)
        del content["name"], content["aggregate"]
        if not content["reply"]:
            del content["reply"]  # digests are older than this field
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.name}#{digest}"


_UNNAMED = {
    # ours: a value head read at the end of every step. The checkpoint's guide.json says what its
    # prompt is and what ends a step
    "copse": Format("parts", OWN, step="{step}\n\n", opening=True),
    # Wang et al. 2024, "Math-Shepherd"; the card of peiyi9979/math-shepherd-mistral-7b-prm. The
    # paper takes the minimum of the steps
    "math-shepherd": Format(
        "text",
        "tokens",
        prompt="{problem} ",
        lead="Step {number}: ",
        step="{step} ки\n",
        marker="ки",
        good="+",
        bad="-",
        aggregate="min",
    ),
    # RLHFlow/Llama3.1-8B-PRM-Mistral-Data and -Deepseek-Data, whose own script takes the mean
    "rlhflow": Format("turns", "tokens", prompt="{problem} ", good="+", bad="-", aggregate="mean"),
    # Zhang et al. 2025, "The Lessons of Developing Process Reward Models"; the card of
    # Qwen/Qwen2.5-Math-PRM-7B
    "qwen": Format(
        "chat",
        "score-mlp",
        prompt="{problem}",
        system="Please reason step by step, and put your final answer within \\boxed{}.",
        step="{step}<extra_0>",
        marker="<extra_0>",
    ),
    # Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B: every line is read on its own and has a
    # score
    "skywork": Format("parts", "v_head", prompt="{problem}\n", step=("{step}", "\n"), cut="\n"),
    # AutoModelForTokenClassification as TRL's PRMTrainer trains it, with its default step_separator
    "trl": Format("parts", "score", prompt="{problem}", step=("{step}", "\n")),
}
FORMATS = {name: replace(format, name=name) for name, format in _UNNAMED.items()}
# classes that have been trained in one format only
CERTAIN = {"Qwen2ForProcessRewardModel": "qwen", "Qwen2ForPrmModel": "skywork"}


def read_format(given: str | Path | Mapping[str, Any] | Format) -> Format:
    """A format from its name, the path of a JSON file, what such a file holds, or itself. Raises
    ValueError.
    """
    if isinstance(given, Format):
        return given
    if isinstance(given, Mapping):
        return _described(given)
    if str(given) in FORMATS:
        return FORMATS[str(given)]
    path = Path(given)
    if not path.is_file():
        raise ValueError(
            f"there is no format {str(given)!r} of reward models: use {', '.join(FORMATS)}, or "
            "the path of a JSON file"
        )
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the format in {path} cannot be read ({error}): write it as a JSON object"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"the format in {path} is no JSON object: write it as one")
    return _described({"name": path.stem, **content})


def _described(content: Mapping[str, Any]) -> Format:
    """The format that a JSON object describes, perhaps "like" another one but for its own
    fields.
    """
    names = [field.name for field in dataclasses.fields(Format)]
    content = dict(content)
    like = content.pop("like", None)
    if like is not None and like not in FORMATS:
        raise ValueError(f"a format cannot be like {like!r}: use one of {', '.join(FORMATS)}")
    for name, value in content.items():
        if name not in names:
            raise ValueError(
                f"a format of reward models has no {name!r}: use like, {', '.join(names)}"
            )
        wanted = "true or false" if name == "opening" else "text"
        if not _fits(name, value):
            raise ValueError(f"the format's {name} is {json.dumps(value)[:60]}: write {wanted}")
        if isinstance(value, list):
            content[name] = tuple(value)
    if like is not None:
        return replace(FORMATS[like], **{"name": f"like-{like}", **content})
    if missing := [name for name in ("layout", "score") if name not in content]:
        raise ValueError(
            f"the format does not say its {' and '.join(missing)}: add it, or say which format "
            "it is like"
        )
    return Format(**content)


def _fits(name: str, value: Any) -> bool:
    """Whether a value of JSON is one of the field `name` of a format."""
    if name == "opening":
        return isinstance(value, bool)
    if name == "step" and isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, str)


def verdict_format(right: str, wrong: str, tokenizer: Any, ending: str) -> dict[str, Any]:
    """The format, as JSON, of a model that has learnt to write a check behind each line of a
    chain: the chance that it calls a line right, where it has called those before it right. Their
    product is the chance that it calls all lines right (GenRM; Zhang et al. 2024, of each step).

    right, wrong   the two checks, as lines without what ends them;  ending: what ends a line

    Raises ValueError where the tokenizer does not tell both apart by one token.
    """
    first = tokenizer.encode(right + ending, add_special_tokens=False)
    second = tokenizer.encode(wrong + ending, add_special_tokens=False)
    at = 0
    while at < min(len(first), len(second)) and first[at] == second[at]:
        at += 1
    parts = (first[:at], first[at : at + 1], second[at : at + 1], first[at:])
    lead, good, bad, reply = texts = list(map(tokenizer.decode, parts))
    again = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    if tuple(again) != parts or not (lead and good and bad):
        raise ValueError(
            f"the tokenizer does not write {right!r} and {wrong!r} alike up to a token that tells "
            "which it is: give other verdicts"
        )
    return {
        "layout": "parts",
        "score": "tokens",
        "step": ["{step}" + ending, lead],
        "good": good,
        "bad": bad,
        "reply": reply,
        "aggregate": "prod",
    }


def choose_format(
    given: str | Path | Format | None,
    settings: Mapping[str, Any],
    head: str | None,
    architecture: str,
    where: str,
) -> Format:
    """The format of the checkpoint `where`: what is `given`, else what its settings say under
    "prm", else what is certain.

    head, architecture  as `models.checkpoints.head_layouts` finds them. Raises ValueError where
                        none is certain, and where the head is another one
    """
    chosen = settings.get("prm") if given is None else given
    if chosen is None and head == OWN:
        chosen = "copse"
    elif chosen is None:
        chosen = CERTAIN.get(architecture)
    others = ", ".join(name for name in FORMATS if name != "copse")
    how = f"name its format with format= or --value-format ({others}, or a JSON file of your own)"
    if chosen is None and head is None:
        raise ValueError(
            f"{where} has no value head: train one, or, if it is a reward model that answers "
            f"with tokens, {how}"
        )
    if chosen is None:
        raise ValueError(
            f"{where} has a head, but how it reads a chain of thought is not certain: {how}"
        )
    format = read_format(chosen)
    if format.score not in ("tokens", head):
        found = "has no value head" if head is None else f"has a head of the kind {head!r}"
        raise ValueError(
            f"{where} {found}, but the format {format.name!r} wants {format.score!r}: {how}, or "
            "give another checkpoint"
        )
    return format


def check_judge(
    path: str | Path, format: str | Path | Format | None = None, aggregate: str | None = None
) -> None:
    """Look at a checkpoint that is to judge, without loading it. Raises ValueError where
    `guides.PRM` would, as far as can be seen.
    """
    from guides.engines import locate, settings
    from models.checkpoints.checkpoint import resolve
    from models.checkpoints.head_layouts import architecture, head_layout

    described = settings(path)
    folder = resolve(locate(path), weights=False)
    if aggregate is not None:
        check_aggregate(aggregate)
    if Path(locate(path)).is_dir():
        choose_format(format, described, head_layout(folder), architecture(folder), str(path))
    elif format is not None:  # of a model on the hub, the weights are not here yet
        read_format(format)
