"""Options that several commands share.

A set of options is a dataclass whose fields are annotated with `typer.Option`. A command that is
decorated with `shares_options` takes such a set as one parameter.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import OptionInfo

from search.cli.options import Model, given, unescape
from search.files.partition import WHOLE, Shard
from search.methods.presets import PRESETS

METHOD_HELP = f"One of {', '.join(PRESETS)}, or module:function of your own."
MODEL = "The model"  #: panel of the help for options of the model

#: parameters of `copse solve` and `copse bench`
Guided = Annotated[
    str,
    typer.Option(
        help="The model that proposes steps: a folder, a hub id, or builtin; with --server its "
        "name there."
    ),
]
Judged = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Another model that judges the steps: one with a value head, or a reward model.",
    ),
]
#: parameter of the commands that read problems or traces
Allowed = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODULE",
        show_default=False,
        help="A module of yours whose kinds of problem the files may name; it is imported. Can be "
        "repeated.",
    ),
]
#: parameter of the commands whose work several processes can share
Shared = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        show_default=False,
        help="Do share I of N only, from 1/N to N/N: for N processes, such as a job array.",
    ),
]


def shard_of(text: str | None) -> Shard:
    """What `--shard` says; without it, the whole. Raises ValueError."""
    return WHOLE if text is None else Shard.parse(text)


@dataclass(frozen=True)
class ModelOptions:
    """How a model is asked, and on what it is computed. None: not given.

    The fields down to `prompt` are those of `guides.LM`, as text of the command line: `language`
    has them as they are meant.
    """

    delimiter: Annotated[
        str | None, typer.Option(help=r"What ends a step of the model; \n is a line's end.")
    ] = None
    step_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of a step.")] = None
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Most steps of a chain of thought.")
    ] = None
    temperature: Annotated[float | None, typer.Option(min=0, help="Of sampling.")] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Of sampling: the likeliest tokens that have this probability together. Default: "
            "1, all.",
        ),
    ] = None
    instruction: Annotated[
        str | None,
        typer.Option(
            help="What a chat model is told after the problem. Default: to reason in steps, answer "
            "in \\boxed{}.",
        ),
    ] = None
    system: Annotated[
        str | None,
        typer.Option(
            help="The system turn of the chat. Default: as its template says.",
        ),
    ] = None
    prompt: Annotated[
        str | None, typer.Option(help="What the model reads, with {problem} in it.")
    ] = None
    answer: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Marks the answer in open text by its one group."),
    ] = None
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask an OpenAI-compatible server for the model, such as http://localhost:8000/v1; "
            "its key is read from OPENAI_API_KEY.",
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Of the model behind --server, a folder or a hub id. Default: --guide.",
        ),
    ] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto"
    slots: Annotated[int, typer.Option(min=1, help="Rows that the model computes at once.")] = 64
    pool_tokens: Annotated[
        int | None,
        typer.Option(
            "--pool-tokens",
            min=1,
            show_default=False,
            help="Tokens whose keys and values have room. Default: 1 GiB of them on a CPU, a "
            "quarter of a GPU's free memory.",
        ),
    ] = None
    value_format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="How --value reads a chain: copse, math-shepherd, rlhflow, qwen, skywork, trl, or "
            "a JSON file. Default: as it says itself.",
        ),
    ] = None
    aggregate: Annotated[
        str | None,
        typer.Option(
            metavar="last|min|prod|mean",
            help="The value of a chain from those of its steps. Default: as the judge says itself.",
        ),
    ] = None

    @property
    def language(self) -> dict[str, Any]:
        """The options of `guides.LM` that were given, with line ends where they were written as
        \\n.
        """
        options = {name: getattr(self, name) for name in LANGUAGE}
        for name in ("delimiter", "prompt", "instruction", "system"):
            options[name] = unescape(options[name])
        return given(options)

    @property
    def kept(self) -> dict[str, Any]:
        """`language` with the pattern of the answer, as a checkpoint keeps them: in this order, on
        which its version depends.
        """
        whole = {**self.language, "answer": self.answer}
        return given({name: whole.get(name) for name in KEPT})

    @property
    def engine(self) -> dict[str, Any]:
        """Device, float type and sizes of the engine."""
        sizes = given({"slots": self.slots, "pool_tokens": self.pool_tokens})
        return {"device": self.device, "dtype": self.dtype, **sizes}

    def model(self, guide: str, value: str | None = None) -> Model:
        """The guide of these options, not checked yet. value: another model that judges."""
        return Model(
            guide,
            value,
            self.answer,
            self.engine,
            self.language,
            server=self.server,
            tokenizer=self.tokenizer,
            value_format=self.value_format,
            aggregate=self.aggregate,
        )


#: fields of `ModelOptions` that are options of `guides.LM`
LANGUAGE = (
    "delimiter", "step_tokens", "max_steps", "temperature", "top_p", "instruction", "system",
    "prompt",
)  # fmt: skip
KEPT = (
    "delimiter", "prompt", "instruction", "system", "answer", "step_tokens", "max_steps",
    "temperature", "top_p",
)  # fmt: skip
#: fields of `ModelOptions` for servers, other judges and large pools, which not all commands have
ADVANCED = ("server", "tokenizer", "pool_tokens", "value_format", "aggregate")


def shares_options(
    panel: str, without: Collection[str] = (), **texts: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: each of its parameters that is annotated with a dataclass becomes the
    options that the dataclass declares, and is given to the command as one object.

    panel    of the help, for the options of `ModelOptions` that name none
    without  fields that are no options of this command and keep their defaults
    texts    the help of fields that mean something of their own in this command
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        names: dict[str, list[str]] = {}  # parameter -> the options that it stands for
        for parameter in signature.parameters.values():
            declared = parameter.annotation
            if not (isinstance(declared, type) and dataclasses.is_dataclass(declared)):
                parameters.append(parameter)
                continue
            options = _options(
                declared, panel if declared is ModelOptions else None, without, texts
            )
            names[parameter.name] = [option.name for option in options]
            parameters += options

        @functools.wraps(command)
        def called(**values: Any) -> None:
            for name, own in names.items():
                declared = signature.parameters[name].annotation
                values[name] = declared(**{option: values.pop(option) for option in own})
            command(**values)

        shown: Any = called
        del shown.__wrapped__  # what typer would read the parameters from
        shown.__signature__ = signature.replace(parameters=parameters)
        shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def _options(
    declared: type, panel: str | None, without: Collection[str], texts: dict[str, str]
) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters of a command, each with options of its own.

    panel  of fields that name none
    """
    hints = get_type_hints(declared, include_extras=True)
    options = []
    for part in dataclasses.fields(declared):
        if part.name in without:
            continue
        hint = hints[part.name]
        info: OptionInfo = copy.copy(hint.__metadata__[0])
        info.help = texts.get(part.name, info.help)
        info.rich_help_panel = info.rich_help_panel or panel
        options.append(
            inspect.Parameter(
                part.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=part.default,
                annotation=Annotated[hint.__origin__, info],
            )
        )
    return options
