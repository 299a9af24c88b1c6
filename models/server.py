"""Language models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers serve`."""

from __future__ import annotations

import collections
import contextlib
import threading
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import Any

from models.dialect import Dialect, learn
from models.replies import Words, generated, scored
from models.told import spent
from models.wire import Address, Line, Refused, exchange
from search.requests import Cancelled, Generate, Reply, Request, RequestFailed, Score, Usage, check_sampling

COMPLETIONS, MODELS = "/completions", "/models"
KNOCK = 20.0  # seconds in which a server must say anything at all


@dataclass(eq=False)
class _Job:
    request: Generate | Score
    body: dict[str, Any]
    given_up: threading.Event = field(default_factory=threading.Event)
    line: Line | None = None  # while it is being asked


class Server:
    """Backend for `Generate` and `Score` by a server that speaks OpenAI's API, asked by as many threads as are needed.

    url           as vLLM prints it, http://host:8000/v1;  model: the name that it serves
    tokenizer     of that model, or a folder or hub id; None: `model` is one
    connections   requests under way at once, each on a connection of its own; the others wait here
    timeout       seconds that an answer may take;  retries: how often a broken connection, 429 and 5xx are asked again
    key_variable  environment variable with the server's key, if it wants one

    What the server takes and tells is found out here, by a few questions of four tokens (`models.dialect`). Where it tells no log-probs,
    they are nan; where it tells no token ids, its text is encoded; sampling is as repeatable as the server makes it. It cannot avoid
    (`Generate.avoid`) and has no value head; `Score` is an echo with log-probs, which vLLM and SGLang have. A failed request is
    answered RequestFailed in the server's words. Usage is the server's: cached prompt tokens count as reused; what a cancelled or
    broken request had generated is not known and not counted.

    Raises ValueError where nobody answers, the key or the model is wrong, or the tokenizer is another one. Close it, or leave it to the
    end of the process.
    """

    computes = False

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: Any = None,
        *,
        connections: int = 64,
        timeout: float = 600.0,
        retries: int = 5,
        key_variable: str = "OPENAI_API_KEY",
    ):
        if connections < 1 or retries < 0 or not timeout > 0:
            raise ValueError(
                f"connections={connections}, retries={retries}, timeout={timeout} are impossible: give at least 1, 0 and above 0"
            )
        self.lock = threading.Lock()
        self.wake: threading.Event | None = None
        self.model, self.connections = model, connections
        self._address, self._timeout, self._retries = Address(url, key_variable), timeout, retries
        self._change = threading.Condition()  # guards all that follows
        self._queue: collections.OrderedDict[_Job, None] = collections.OrderedDict()
        self._jobs: dict[Request, _Job] = {}  # not answered yet
        self._answers: list[Reply | tuple[Request, dict[str, Any]]] = []  # replies, and what the server said
        self._threads: list[threading.Thread] = []
        self._idle, self._closed = 0, False
        self._knock()
        self.tokenizer = _tokenizer(model if tokenizer is None else tokenizer)
        self._words = Words(self.tokenizer)
        self.dialect = self._learn()

    def __repr__(self) -> str:
        return f"Server({self._address.url!r}, {self.model!r})"

    def submit(self, request: Request) -> None:
        """Queue a request. Raises TypeError or ValueError for one that no language model can answer."""
        if not isinstance(request, (Generate, Score)):
            raise TypeError(f"a language model cannot answer {type(request).__name__}: send Generate or Score")
        if self._closed:
            raise RuntimeError(f"{self!r} is closed: make a new one")
        self._check(request)
        try:
            body = self._body(request)
        except RequestFailed as error:
            self._keep(Reply(request, error=error))
            return
        with self._change:
            self._jobs[request] = job = _Job(request, body)
            self._queue[job] = None
            if self._idle < len(self._queue) and len(self._threads) < self.connections:
                self._threads.append(threading.Thread(target=self._serve, name="copse-server", daemon=True))
                self._threads[-1].start()
            self._change.notify_all()

    def poll(self, seconds: float = 0.0) -> list[Reply]:
        """What has been answered; waits up to `seconds` for the first. The tokenizer works here: it is of one thread."""
        with self._change:
            self._change.wait_for(lambda: self._answers, seconds)
            answers, self._answers = self._answers, []
        return [one if isinstance(one, Reply) else self._read(*one) for one in answers]

    def cancel(self, request: Request) -> None:
        """Give a request up: `Cancelled` at the next poll, and its connection is closed, by which servers notice. Idempotent."""
        with self._change:
            job = self._jobs.get(request)
            if job is None:
                return
            reply = Reply(request, error=Cancelled("cancelled"), usage=Usage(calls=int(job.line is not None)))
            if job.line is None:
                del self._queue[job]
            self._give_up(job)
            del self._jobs[request]
        self._keep(reply)

    def close(self) -> None:
        """Drop what is queued or under way, unanswered, and close all connections. Idempotent."""
        with self._change:
            self._closed = True
            for job in self._jobs.values():
                self._give_up(job)
            self._queue.clear()
            self._jobs.clear()
            self._answers.clear()
            self._change.notify_all()
        for thread in self._threads:
            thread.join(1.0)  # one that is just connecting ends by itself

    @staticmethod
    def _give_up(job: _Job) -> None:
        job.given_up.set()
        if job.line is not None:
            job.line.cut()

    def _check(self, request: Generate | Score) -> None:
        """Raises ValueError as an engine does, for what is a mistake of the caller."""
        tokens = request.prompt if isinstance(request, Generate) else request.tokens
        if not tokens:
            raise ValueError("a request without tokens: give at least one, such as the beginning-of-text token")
        if not 0 <= min(tokens) <= max(tokens) < self._words.size:
            raise ValueError(
                f"token ids {min(tokens)} to {max(tokens)}, the tokenizer knows 0 to {self._words.size - 1}: use this server's"
            )
        if isinstance(request, Generate):
            if request.max_tokens < 1:
                raise ValueError(f"max_tokens={request.max_tokens} is impossible: give at least 1")
            check_sampling(request.temperature, request.top_k, request.top_p, request.min_p)
        if isinstance(request, Score) and any(not 0 <= p < len(tokens) for p in request.positions):
            raise ValueError(f"positions {request.positions} of {len(tokens)} tokens: give indices into the tokens")

    # -- at the door

    def _knock(self) -> None:
        """Raises ValueError where nobody is there, or somebody who says nothing."""
        line = Line(self._address, min(KNOCK, self._timeout))
        try:
            line.open()
            with contextlib.suppress(ConnectionError, HTTPException):  # what is broken the questions will tell
                line.send("/")
        except (OSError, UnicodeError) as error:  # the latter for a host name that none can be
            reason = "it says nothing" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or type(error).__name__
            message = f"no server answers at {self._address.url} ({reason}): start one, for example with vllm serve {self.model}"
            raise ValueError(f"{message}, or correct the address") from None
        finally:
            line.close()

    def _learn(self) -> Dialect:
        line, pause = Line(self._address, self._timeout), threading.Event().wait

        def ask(body: dict[str, Any]) -> dict[str, Any]:
            return exchange(line, COMPLETIONS, body, self._retries, 0, pause)

        try:
            return learn(ask, self.model, self._words.encode)
        except Refused as error:
            if error.status in (401, 403):
                raise ValueError(f"{error}: put the server's key into the environment variable {self._address.key_variable}") from None
            raise ValueError(f"{error}: {self._served(line)}") from None
        except RequestFailed as error:
            raise ValueError(f"{error} ({self._served(line)})") from None
        finally:
            line.close()

    def _served(self, line: Line) -> str:
        """What may be wrong with the name of the model, as far as the server tells."""
        try:
            told = exchange(line, MODELS, None, 0, 0, lambda seconds: None)
            names = [str(model["id"]) for model in told["data"]]
        except (RequestFailed, KeyError, TypeError):
            return f"is {self.model!r} the name that it serves, and does its address end in /v1?"
        return f"it serves {', '.join(names[:5]) or 'no model'}: name one of these" if self.model not in names else "see what it logs"

    # -- in the words of the server

    def _body(self, request: Generate | Score) -> dict[str, Any]:
        if isinstance(request, Generate):
            return self.dialect.generate(request, "" if self.dialect.ids else self._words.text(request.prompt))
        return self.dialect.score(request, "" if self.dialect.ids else self._words.text(request.tokens))

    def _read(self, request: Generate | Score, told: dict[str, Any]) -> Reply:
        try:
            if isinstance(request, Score):
                usage = replace(spent(told, len(request.tokens), 0), generated=0)  # the token that a server must draw is used for nothing
                return Reply(request, scored(request, told, self._words), usage=usage)
            usage = spent(told, len(request.prompt), request.max_tokens)
            result = generated(request, told, self.dialect, self._words)
            return Reply(request, result, usage=spent(told, len(request.prompt), len(result.tokens)))
        except RequestFailed as error:
            return Reply(request, error=error, usage=usage)

    # -- the threads

    def _serve(self) -> None:
        """One connection: takes a request, has it answered, and again."""
        line = Line(self._address, self._timeout)
        while True:
            with self._change:
                self._idle += 1
                self._change.wait_for(lambda: self._queue or self._closed)
                self._idle -= 1
                if self._closed:
                    break
                job = self._queue.popitem(last=False)[0]
                job.line, line.wanted = line, True
            answer = self._ask(job, line)
            with self._change:
                job.line = None
                if self._jobs.pop(job.request, None) is None:
                    continue  # it was cancelled meanwhile, and answered then
            self._keep(answer)
        line.close()

    def _ask(self, job: _Job, line: Line) -> Reply | tuple[Request, dict[str, Any]]:
        def pause(seconds: float) -> None:
            if job.given_up.wait(seconds):
                raise Cancelled("cancelled")

        try:
            return job.request, exchange(line, COMPLETIONS, job.body, self._retries, job.body["seed"], pause)
        except Exception as error:  # a mistake in here is raised where it was asked, too: nobody must wait for ever
            return Reply(job.request, error=error, usage=Usage(calls=1))

    def _keep(self, answer: Reply | tuple[Request, dict[str, Any]]) -> None:
        with self._change:
            self._answers.append(answer)
            self._change.notify_all()
        if (wake := self.wake) is not None:
            wake.set()


def _tokenizer(given: Any) -> Any:
    """A tokenizer, or that of a folder or hub id. Raises ValueError where there is none."""
    if not isinstance(given, str) and not hasattr(given, "__fspath__"):
        return given
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(given)
    except Exception as error:  # what the hub's client, transformers and tokenizers raise has no common name
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"there is no tokenizer under {str(given)!r} ({type(error).__name__}: {reason}): give tokenizer=, a folder or hub id of the "
            "model that is served"
        ) from None
