"""From the options of a command to the arguments of `search.solve`: what is wrong is reported
here, before any model is loaded.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.imports import add_working_folder, import_ours
from search.patterns import Pattern
from search.scheduling.requests import check_sampling

if TYPE_CHECKING:
    from search.guide import Guide
    from search.problem import Problem


def check_use(
    problem: str | None,
    input: Path | None,
    output: Path | None,
    drawn: bool,
    limited: bool,
    as_json: bool,
    time_limit: float | None,
    shared: bool,
    ray: bool,
    usage: bool,
) -> None:
    """Raises ValueError for flags that do not go together. drawn: --tree; limited: --depth or
    --width; shared: --shard; ray: --ray; usage: --usage.
    """
    if (problem is None) == (input is None):
        raise ValueError("give either one problem as text, or a file of problems with --input")
    if output is not None and input is None:
        raise ValueError(
            "--output takes the results of a file of problems: give one with --input, or use "
            "--json for one problem"
        )
    if input is not None and output is not None:
        both_exist = input.exists() and output.exists()
        if both_exist and output.samefile(input):
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
    if shared and input is None:
        raise ValueError("--shard is a share of a file of problems: give one with --input")
    if ray and (input is None or time_limit is not None or usage):
        raise ValueError(
            "--ray searches a file of problems on engines elsewhere: give one with --input, and "
            "leave out --usage and --time-limit"
        )
    if limited and not drawn:
        raise ValueError(
            "--depth and --width are limits of the tree that is shown: give --tree too"
        )


def check_view(page: bool, limited: bool, beside: Path | None, targets: Path | None) -> None:
    """Raises ValueError for flags of `copse view` that do not go together. page: --html; limited:
    --depth or --width.
    """
    if page and limited:
        raise ValueError("--depth and --width limit what is printed: leave them out with --html")
    for name, given in (("beside", beside), ("targets", targets)):
        if given is not None and not page:
            raise ValueError(f"--{name} is for a page: give --html FILE, too")


def search_arguments(
    method: str, budget: str | None, choose: str | None, seed: int, options: Sequence[str]
) -> dict[str, Any]:
    """The arguments of `search.solve` but problem and guide, checked. Raises ValueError.

    options  texts such as "branch=8"; what stands behind = is JSON, else text
    """
    import search
    from search.arguments import configured

    limits = None
    if budget is not None:
        limits = search.Budget.parse(budget)
    chosen = named_values(options, "branch=8")
    for name in chosen:
        if name in inspect.signature(search.solve_many).parameters:
            raise ValueError(
                f"{name} is no option of a method: see copse solve --help for the flag of that name"
            )
    if ":" in method:
        add_working_folder()
    configured(method, chosen, choose)
    return {"method": method, "budget": limits, "seed": seed, "choose": choose, **chosen}


def named_values(texts: Sequence[str], example: str) -> dict[str, Any]:
    """Texts such as "branch=8" as values by their names; what stands behind = is JSON, else text.
    Raises ValueError, which shows an `example`, for what cannot be read or is given twice.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(
                f"cannot read the option {text!r}: write name=value, for example {example}"
            )
        if name in values:
            raise ValueError(f"the option {name} is given twice: give it once")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


@dataclass(frozen=True)
class Model:
    """The options that describe the guide.

    value     another model that judges;  value_format: how it reads a chain, a name or a JSON file;
              aggregate: of the steps' values
    answer    marks the answer of open text, of the option or else of the checkpoint
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
        self._check_language()
        if self.answer is not None:
            Pattern(self.answer, groups=1)
        self._check_server()
        guides = import_ours("guides")
        if self.server is None:
            settings = guides.settings(self.guide)
        else:
            settings = guides.served_settings(self.tokenizer or self.guide)
        self._check_judge(guides)
        return replace(self, settings=settings, answer=self.answer or settings.get("answer"))

    def _check_language(self) -> None:
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
        check_sampling(
            temperature=self.language.get("temperature", 1.0),
            top_k=self.language.get("top_k", 0),
            top_p=self.language.get("top_p", 1.0),
            min_p=self.language.get("min_p", 0.0),
        )

    def _check_server(self) -> None:
        if self.server is None and self.tokenizer is not None:
            raise ValueError(
                "--tokenizer is of a model behind a server: give --server too, or leave it out"
            )
        if self.server is not None and self.guide == "builtin":
            raise ValueError(
                "--server needs the name of the model that it serves: give it with --guide"
            )

    def _check_judge(self, guides: Any) -> None:
        if self.value is not None:
            guides.check_judge(self.value, self.value_format, self.aggregate)
            return
        if self.value_format is not None:
            raise ValueError(
                "--value-format says how the model of --value reads a chain of thought: give "
                "--value too, or leave it out"
            )
        if self.aggregate is None:
            return
        if self.server is not None:
            raise ValueError(
                "--aggregate is of the values of a head, which a server has not: give a model "
                "that judges with --value"
            )
        guides.check_judge(self.guide, None, self.aggregate)

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
            trained = ", ".join(kind.rpartition(":")[2] for kind in self.kinds or ())
            raise ValueError(
                f"the model {self.guide!r} was trained on {trained} problems only and this is "
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
            return self._connect(guides)
        if self.value is None:
            return guides.load(
                self.guide, answer=self.answer, **self.judging, **self.engine, **self.language
            )  # type: ignore[no-any-return]
        from search.guide import Guide
        from search.scheduling.budget import Budget

        policy = guides.LM(self.guide, **self.engine, **self.language)
        value = self._judge()
        guide = Guide(
            policy,
            value,
            kinds=self.kinds,
            answer=self.answer,
            classes=guides.classes,
            stream=self.settings.get("stream"),
        )
        budget = self.settings.get("budget")
        return replace(guide, budget=Budget(**budget)) if budget else guide

    def _connect(self, guides: Any) -> Guide:
        """The guide of a model behind a server. Connects before a judge is loaded, which takes
        longer.
        """
        slots = self.engine["slots"]
        import_ours("guides.engines").load_server(self.server, self.guide, self.tokenizer, slots)
        judge = None if self.value is None else self._judge()
        return guides.connect(
            self.server,
            self.guide,
            value=judge,
            tokenizer=self.tokenizer,
            connections=slots,
            answer=self.answer,
            **self.language,
        )  # type: ignore[no-any-return]

    @property
    def judging(self) -> dict[str, str]:
        """How chains are judged, as far as options tell: format and aggregate."""
        return given({"format": self.value_format, "aggregate": self.aggregate})

    def _judge(self) -> Any:
        return import_ours("guides").PRM(self.value, **self.judging, **self.engine)


def unescape(text: str | None) -> str | None:
    r"""`text` with a line's end for \n and a tab for \t, which a shell hardly lets one write."""
    return None if text is None else text.replace("\\n", "\n").replace("\\t", "\t")


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that are not None."""
    return {name: option for name, option in options.items() if option is not None}
