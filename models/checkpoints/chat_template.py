"""Chats as text, by the chat template of a checkpoint.

A template is a program of unknown authors in transformers' sandbox, which keeps it from files and
from Python, but not from going round for ever. So it is rendered by a process that has limits of
time and memory.

`python -m models.checkpoints.chat_template SECONDS BYTES` is that process: it reads a line of JSON
for each chat, and writes one with the text or with what is wrong.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.child import command

#: seconds of a CPU for one chat, and bytes beside what the process takes at its start
LIMITS = (10, 1 << 30)

Messages = Sequence[Mapping[str, Any]]


class Endless(ValueError):
    """A template takes more time or memory than it may."""


def rendered(tokenizer: Any, messages: Messages, **options: Any) -> str:
    """A chat as the text that a tokenizer's template makes of it.

    options  `add_generation_prompt`, and what else the template is given
    Raises `Endless` for a template that takes too long or too much memory, ValueError for what it
    raises itself.
    """
    theirs = sys.modules.get("transformers.tokenization_utils_base")
    if theirs is not None and isinstance(tokenizer, theirs.PreTrainedTokenizerBase):
        # some render their chats otherwise
        general = theirs.PreTrainedTokenizerBase.apply_chat_template
        if type(tokenizer).apply_chat_template is general:
            template = tokenizer.get_chat_template()
            return render(template, messages, **tokenizer.special_tokens_map, **options)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def render(template: str, messages: Messages, **given: Any) -> str:
    """A chat as the text that a template makes of it. given: what it may name beside `messages`.
    Raises what `rendered` does.
    """
    answer = _process.ask({"template": template, "messages": messages, "given": given})
    if "error" in answer:
        raise ValueError(answer["error"])
    return str(answer["text"])


class _Process:
    """The process that renders, started when it is first asked and again when it was ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._owner = 0  # the process that started it; a copy of this one by fork asks its own

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question. Raises `Endless` where the process ended meanwhile."""
        with self._lock:
            child = self._started()
            assert child.stdin is not None
            assert child.stdout is not None
            line = ""
            try:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(json.dumps(question) + "\n")
                    child.stdin.flush()
                    line = child.stdout.readline()
            finally:
                if not line:  # it was ended, or this was interrupted
                    self.end()
        if not line:
            raise Endless(
                f"the chat template takes more than {LIMITS[0]} s or {LIMITS[1] / 2**30:g} GiB: "
                "give prompt= with {problem} in it"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process, if it runs."""
        child = self._child
        self._child = None
        if child is not None and self._owner == os.getpid():
            child.kill()
            child.communicate()

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None or self._owner != os.getpid():
            root = str(Path(__file__).resolve().parent.parent.parent)
            paths = [root, os.environ.get("PYTHONPATH", "")]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            self._owner = os.getpid()
            self._child = subprocess.Popen(
                command("models.checkpoints.chat_template", *map(str, LIMITS)),
                env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        return self._child


_process = _Process()
atexit.register(_process.end)


# -- the process


def _main(seconds: int, memory: int) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory(memory)
    for line in sys.stdin:
        asked = json.loads(line)
        _limit_time(seconds)
        try:
            (text,), _ = render_jinja_template(
                [asked["messages"]], chat_template=asked["template"], **asked["given"]
            )
            answer = {"text": str(text)}
        except MemoryError:
            return
        except Exception as error:  # a template says in its own way what it does not like
            answer = {"error": " ".join(str(error).split()) or type(error).__name__}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _limit_memory(more: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(seconds: int) -> None:
    """Have this process killed when it has computed for so long from now on."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        most = math.ceil(used.ru_utime + used.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
