"""From the flags of `copse solve` to the arguments of `search.solve`: what is wrong is said
here, before any model is loaded.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.imports import add_working_folder, import_ours
from search.methods.presets import PRESETS
from search.scheduling.requests import check_sampling

if TYPE_CHECKING:
    from search.guide import Guide
    from search.problem import Problem


METHOD_HELP = f"One of {', '.join(PRESETS)}, or module:function of your own."


def check_use(
    problem: str | None,
    input: Path | None,
    output: Path | None,
    drawn: bool,
    limited: bool,
    as_json: bool,
    time_limit: float | None,
) -> None:
    """Raises ValueError for flags that do not go together. drawn: --tree; limited: --depth or
    --width.
    """
    if (problem is None) == (input is None):
        raise ValueError("give either one problem as text, or a file of problems with --input")
    if output is not None and input is None:
        raise ValueError(
            "--output takes the results of a file of problems: give one with --input, or use "
            "--json for one problem"
        )
    if (
        input is not None
        and output is not None
        and input.exists()
        and output.exists()
        and output.samefile(input)
    ):
        raise ValueError(f"{output} is the problems file: give another --output")
    if drawn and (as_json or input is not None):
        raise ValueError(
            "--tree draws one tree for people to read: use --traces DIR and copse view DIR instead"
        )
    if time_limit is not None and input is None:
        raise ValueError(
            "--time-limit is of a file of problems: give one with --input, or limit one search "
            "with --budget seconds=10"
        )
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"--time-limit {time_limit:g} lets no search run: give seconds above 0")
    if limited and not drawn:
        raise ValueError(
            "--depth and --width are limits of the tree that is shown: give --tree too"
        )


def search_arguments(
    method: str, budget: str | None, choose: str | None, seed: int, options: Sequence[str]
) -> dict[str, Any]:
    """The arguments of `search.solve` but problem and guide, checked. Raises ValueError.

    options  texts such as "branch=8"; what stands behind = is JSON, else text
    """
    import search
    from search.arguments import configured

    limits = None if budget is None else search.Budget.parse(budget)
    given: dict[str, Any] = {}
    for text in options:
        name, equals, setting = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(
                f"cannot read the option {text!r}: write name=value, for example branch=8"
            )
        if name in given:
            raise ValueError(f"the option {name} is given twice: give it once")
        if name in inspect.signature(search.solve_many).parameters:
            raise ValueError(
                f"{name} is no option of a method: see copse solve --help for the flag of that name"
            )
        try:
            given[name] = json.loads(setting)
        except ValueError:
            given[name] = setting
    if ":" in method:
        add_working_folder()
    configured(method, given, choose)
    return {"method": method, "budget": limits, "seed": seed, "choose": choose, **given}


def language_of(**flags: Any) -> dict[str, Any]:
    """The options of `guides.LM` (and of training) that were given, with line ends where they
    were written as \\n.
    """
    texts = {"delimiter", "prompt", "instruction", "system"}
    return {
        name: unescape(flag) if name in texts else flag
        for name, flag in flags.items()
        if flag is not None
    }


@dataclass(frozen=True)
class Model:
    """The flags that describe the guide.

    value     another model that judges;  value_format: how it reads a chain, a name or a JSON file;
              aggregate: of the steps' values
    answer    marks the answer of open text, of the flag or else of the checkpoint
    engine    device, dtype, slots;  language: the options of `guides.LM` that were given
    settings  what the checkpoint says of itself (`guides.settings`)
    server    address of one that serves the model `guide`, None: it is loaded here;  tokenizer: of
              that model, None: `guide` is one
    """

    guide: str
    value: str | None
    answer: str | None
    engine: dict[str, Any]
    language: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    server: str | None = None
    tokenizer: str | None = None
    value_format: str | None = None
    aggregate: str | None = None

    def checked(self) -> Model:
        """This with the settings of its checkpoints, which are looked at but not loaded. Raises
        ValueError.
        """
        prompt = self.language.get("prompt")
        if prompt is not None and "{problem}" not in prompt:
            raise ValueError(
                f"the prompt {prompt!r} has no place for the problem: write {{problem}} where it "
                "goes"
            )
        if prompt is not None and "system" in self.language:
            raise ValueError(
                "--system is a turn of a chat, which --prompt replaces: leave one of them out"
            )
        defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        check_sampling(
            **{name: self.language.get(name, default) for name, default in defaults.items()}
        )
        _check_pattern(self.answer)
        if self.server is None and self.tokenizer is not None:
            raise ValueError(
                "--tokenizer is of a model behind a server: give --server too, or leave it out"
            )
        if self.server is not None and self.guide == "builtin":
            raise ValueError(
                "--server needs the name of the model that it serves: give it with --guide"
            )
        guides = import_ours("guides")
        settings = (
            guides.settings(self.guide)
            if self.server is None
            else guides.served_settings(self.tokenizer or self.guide)
        )
        if self.value is None and self.value_format is not None:
            raise ValueError(
                "--value-format says how the model of --value reads a chain of thought: give "
                "--value too, or leave it out"
            )
        if self.value is None and self.aggregate is not None and self.server is not None:
            raise ValueError(
                "--aggregate is of the values of a head, which a server has not: give a model "
                "that judges with --value"
            )
        if self.value is not None:
            guides.check_judge(self.value, self.value_format, self.aggregate)
        elif self.aggregate is not None:
            guides.check_judge(self.guide, None, self.aggregate)
        return replace(self, settings=settings, answer=self.answer or settings.get("answer"))

    @property
    def kinds(self) -> tuple[str, ...] | None:
        """The kinds of problem that the checkpoint was trained on; None: any."""
        return tuple(self.settings.get("kinds") or ()) or None

    def check(self, problem: Problem) -> None:
        """Raises ValueError where the checkpoint was not trained for this kind of problem."""
        from search.guide import check_kind

        try:
            check_kind(self.kinds, problem)
        except ValueError:
            known = ", ".join(kind.rpartition(":")[2] for kind in self.kinds or ())
            raise ValueError(
                f"the model {self.guide!r} was trained on {known} problems only and this is "
                f"a {type(problem).__name__}: "
                "name a model that can solve it with --guide (a folder or a hub id), "
                "or say the problem like one of those, such as: Use 4, 7, 8 and 8 to make 24."
            ) from None

    def load(self) -> Guide:
        """One model for both parts of the guide, or a model and the judge of --value.

        Raises ValueError for a broken checkpoint, and for a server that is not there or serves
        another model.
        """
        guides = import_ours("guides")
        if self.server is not None:
            # before the judge
            import_ours("guides.engines").load_server(
                self.server, self.guide, self.tokenizer, self.engine["slots"]
            )
            judge = None if self.value is None else self._judge()
            many = {
                "tokenizer": self.tokenizer,
                "connections": self.engine["slots"],
                "answer": self.answer,
            }
            return guides.connect(self.server, self.guide, value=judge, **many, **self.language)  # type: ignore[no-any-return]
        if self.value is None:
            return guides.load(
                self.guide, answer=self.answer, **self.judging, **self.engine, **self.language
            )  # type: ignore[no-any-return]
        from search.guide import Guide
        from search.scheduling.budget import Budget

        policy, value = guides.LM(self.guide, **self.engine, **self.language), self._judge()
        guide = Guide(policy, value, kinds=self.kinds, answer=self.answer, classes=guides.classes)
        return (
            replace(guide, budget=Budget(**self.settings["budget"]))
            if self.settings.get("budget")
            else guide
        )

    @property
    def judging(self) -> dict[str, str]:
        """What the flags say of how chains are judged, {} if nothing: format and aggregate."""
        said = {"format": self.value_format, "aggregate": self.aggregate}
        return {name: what for name, what in said.items() if what is not None}

    def _judge(self) -> Any:
        return import_ours("guides").PRM(self.value, **self.judging, **self.engine)


def _check_pattern(pattern: str | None) -> None:
    try:
        groups = 1 if pattern is None else re.compile(pattern).groups
    except re.error as error:
        raise ValueError(
            f"the answer pattern {pattern!r} is no regular expression ({error}): correct it"
        ) from None
    if groups != 1:
        raise ValueError(
            f"the answer pattern {pattern!r} has {groups} groups: mark the answer with exactly "
            "one (...)"
        )


def unescape(text: str | None) -> str | None:
    r"""`text` with a line's end for \n and a tab for \t, which a shell hardly lets one write."""
    return None if text is None else text.replace("\\n", "\n").replace("\\t", "\t")
