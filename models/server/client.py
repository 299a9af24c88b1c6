"""The backend that asks an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.checkpoints.foreign import read_by
from models.checkpoints.hub import hub_answers
from models.server.capabilities import Capabilities, tokens_of
from models.server.conversation import marked
from models.server.handshake import learn
from models.server.http import Address, Http, Refused
from models.server.pieces import Pieces
from models.server.responses import Words, generated, scored, spent
from search.scheduling.requests import (
    Cancelled,
    Generate,
    Reply,
    Request,
    RequestFailed,
    Score,
    Usage,
    check_sampling,
)

log = logging.getLogger(f"copse.{__name__}")

MODELS = "/models"
PATIENCE = 3.0  #: seconds of connecting after which the screen says what takes so long


@dataclass(eq=False)
class _Job:
    """A request that is not answered yet, whether it was sent, and what went wrong since."""

    request: Generate | Score
    task: Future[None] | None = None
    sent: bool = False
    troubles: list[str] = field(default_factory=list)


_Answer = Reply | tuple[Generate | Score, dict[str, Any]]  # a reply, or the server's JSON


class Server:
    """Backend for `Generate` and `Score` by a server that speaks OpenAI's API.

    url           as vLLM prints it, http://host:8000/v1;  model: the name that it serves
    tokenizer     of that model, or a folder or hub id; None: `model` is one, or, behind a chat
                  server, nobody has it (`pieces`)
    connections   requests under way at once; the others wait here
    timeout       seconds that a request may take in all, repetitions included
    retries       how often a broken connection, 408, 425, 429, 5xx and an answer that is no JSON
                  are asked again
    key_variable  environment variable with the server's key, if it wants one

    What the server takes and reports is found out here, by a dozen questions of a few tokens
    (`capabilities`); what it lacks is written to the log. Without log-probs from it they are nan;
    without token ids its text is encoded; sampling is as repeatable as the server makes it. It
    cannot avoid (`Generate.avoid`) and has no value head. `Score` is an echo with log-probs, which
    vLLM and SGLang have; what may follow a prompt is read from any server with log-probs.

    A server that has no /completions is asked by /chat/completions. Its `tokenizer` is then a copy
    with a chat template of our own: a prompt that was written by it is read back into turns here
    (`conversation`). What follows the last mark is the beginning of the assistant's turn, which the
    server goes on with where it can; where it cannot (`capabilities.stepwise` is False), a turn
    comes whole, no stop strings are sent, and a prompt with a turn that has begun is answered
    RequestFailed.

    A failed request is answered RequestFailed in the server's words. Usage is the server's, but
    never less than what came: cached prompt tokens count as reused; what a cancelled or broken
    request had generated is not known and not counted.

    Raises ValueError where nothing answers, the key or the model is wrong, or the tokenizer is
    another one. Close it, or leave it to the end of the process.
    """

    computes = False
    # it neither repeats a text nor tells how far it is: see `search.scheduling.pool`
    ordered = False

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
            given = f"connections={connections}, retries={retries}, timeout={timeout}"
            raise ValueError(f"{given} are impossible: give at least 1, 0 and above 0")
        self.lock = threading.Lock()
        self.wake: threading.Event | None = None
        self.model = model
        self._address = Address(url, key_variable)
        self._change = threading.Condition()  # guards all that follows
        self._jobs: dict[Request, _Job] = {}  # not answered yet
        self._answers: list[_Answer] = []  # replies, and the server's JSON
        self._closed = False
        self._http = Http(self._address, timeout, retries, connections)
        self._free = asyncio.Semaphore(connections)
        self.slots = connections  # as engines call it
        slow = threading.Timer(
            PATIENCE,
            log.info,
            ["asking %s what it can, in a dozen short questions", self._address.url],
        )
        slow.daemon = True
        slow.start()
        try:
            self._knock()
            self.tokenizer, missing = _tokenizer_or_pieces(model, tokenizer)
            self._words = Words(self.tokenizer)
            self.capabilities = self._learn()
            if missing is not None and not self.capabilities.chat:
                raise missing
        except BaseException:
            self.close()
            raise
        finally:
            slow.cancel()
        if missing is not None:
            log.warning(
                "%s, else tokens are counted as the server counts them, or in words of up to six "
                "letters",
                missing,
            )
        elif self.capabilities.chat:
            self.tokenizer = marked(self.tokenizer)
        for sentence in self.capabilities.limits():
            log.warning("%s: %s", self._address.url, sentence)

    def __repr__(self) -> str:
        return f"Server({self._address.url!r}, {self.model!r})"

    def submit(self, request: Request) -> None:
        """Queue a request. Raises TypeError or ValueError for one that no language model can
        answer.
        """
        if not isinstance(request, (Generate, Score)):
            raise TypeError(
                f"a language model cannot answer {type(request).__name__}: send Generate or Score"
            )
        if self._closed:
            raise RuntimeError(f"{self!r} is closed: make a new one")
        self._check(request)
        try:
            body = self._body(request)
        except RequestFailed as error:
            self._keep(Reply(request, error=error))
            return
        with self._change:
            self._jobs[request] = job = _Job(request)
            job.task = self._http.start(self._serve(job, body))

    def poll(self, seconds: float = 0.0) -> list[Reply]:
        """What has been answered; waits up to `seconds` for the first. The tokenizer works here:
        it is of one thread.
        """
        with self._change:
            self._change.wait_for(lambda: self._answers, seconds)
            answers = self._answers
            self._answers = []
        return [one if isinstance(one, Reply) else self._read(*one) for one in answers]

    def cancel(self, request: Request) -> None:
        """Give a request up: `Cancelled` at the next poll, and its connection is closed, by
        which servers notice. Idempotent.
        """
        with self._change:
            job = self._jobs.pop(request, None)
            if job is None:
                return
            reply = Reply(request, error=Cancelled("cancelled"), usage=Usage(calls=int(job.sent)))
        assert job.task is not None and reply.error is not None
        job.task.cancel()
        if job.troubles:  # it was being asked again
            reply.error.__cause__ = RequestFailed(job.troubles[-1])
        self._keep(reply)

    def close(self) -> None:
        """Drop what is queued or under way, unanswered, and close all connections. Idempotent."""
        with self._change:
            self._closed = True
            self._jobs.clear()
            self._answers.clear()
        self._http.close()

    def _check(self, request: Generate | Score) -> None:
        """Raises ValueError as an engine does, for what is a mistake of the caller."""
        tokens = tokens_of(request)
        if not tokens:
            raise ValueError(
                "a request without tokens: give at least one, such as the beginning-of-text token"
            )
        if not 0 <= min(tokens) <= max(tokens) < self._words.size:
            allowed = f"the tokenizer knows 0 to {self._words.size - 1}"
            raise ValueError(
                f"token ids {min(tokens)} to {max(tokens)}, {allowed}: use this server's"
            )
        if isinstance(request, Generate):
            if request.max_tokens < 1:
                raise ValueError(f"max_tokens={request.max_tokens} is impossible: give at least 1")
            check_sampling(request.temperature, request.top_k, request.top_p, request.min_p)
        if isinstance(request, Score) and any(not 0 <= p < len(tokens) for p in request.positions):
            raise ValueError(
                f"positions {request.positions} of {len(tokens)} tokens: give indices into the "
                "tokens"
            )

    # -- at the door

    def _knock(self) -> None:
        """Raises ValueError where nothing listens, or nothing answers."""
        try:
            self._http.start(self._http.knock()).result()
        except RequestFailed as error:
            example = f"start one, for example with vllm serve {self.model}, or correct the address"
            raise ValueError(
                f"no server answers at {self._address.url} ({error}): {example}"
            ) from None

    def _learn(self) -> Capabilities:
        def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
            return self._http.start(self._http.ask(path, body)).result()

        try:
            return learn(ask, self.model, self._words)
        except Refused as error:
            if error.status in (401, 403):
                remedy = (
                    "put the server's key into the environment variable "
                    f"{self._address.key_variable}"
                )
                raise ValueError(f"{error}: {remedy}") from None
            raise ValueError(f"{error}: {self._served()}") from None
        except RequestFailed as error:
            raise ValueError(f"{error} ({self._served()})") from None

    def _served(self) -> str:
        """What may be wrong with the name of the model, as far as the server tells."""
        try:
            reply = self._http.start(self._http.ask(MODELS, None, retries=0)).result()
            names = [str(model["id"]) for model in reply["data"]]
        except (RequestFailed, KeyError, TypeError):
            return f"is {self.model!r} the name that it serves, and does its address end in /v1?"
        if self.model in names:
            return "see what it logs"
        return f"it serves {', '.join(names[:5]) or 'no model'}: name one of these"

    # -- in the words of the server

    def _body(self, request: Generate | Score) -> dict[str, Any]:
        found = self.capabilities
        text = "" if found.ids else self._words.text(tokens_of(request))
        if isinstance(request, Generate):
            return found.generate(request, text)
        return found.score(request, text)

    def _read(self, request: Generate | Score, reply: dict[str, Any]) -> Reply:
        try:
            if isinstance(request, Score):
                result = scored(request, reply, self._words)
                return Reply(request, result, usage=spent(request, reply))
            text = generated(request, reply, self.capabilities, self._words)
            return Reply(request, text, usage=spent(request, reply, len(text.tokens)))
        except RequestFailed as error:
            return Reply(request, error=error, usage=spent(request, reply))

    # -- on the loop

    async def _serve(self, job: _Job, body: dict[str, Any]) -> None:
        """Have one request answered, when there is room."""
        async with self._free:
            with self._change:
                job.sent = True
            answer: _Answer
            path = self.capabilities.path
            seed = body.get("seed", 0)
            try:
                reply = await self._http.ask(path, body, seed, troubles=job.troubles)
                answer = (job.request, reply)
            # a mistake in here is raised where it was asked, too: else a search would wait for ever
            except Exception as error:
                answer = Reply(job.request, error=error, usage=Usage(calls=1))
        with self._change:
            if self._jobs.pop(job.request, None) is None:
                return  # it was cancelled meanwhile, and answered then
        self._keep(answer)

    def _keep(self, answer: _Answer) -> None:
        with self._change:
            self._answers.append(answer)
            self._change.notify_all()
        if (wake := self.wake) is not None:
            wake.set()


def _tokenizer_or_pieces(model: str, given: Any) -> tuple[Any, ValueError | None]:
    """The tokenizer that was given, else the model's; where there is none by its name, a stand-in,
    and what to do about it.

    Raises ValueError where there is none in the place that was given.
    """
    try:
        return _tokenizer(model if given is None else given), None
    except ValueError as error:
        if given is not None:
            raise
        return Pieces(), error


def _tokenizer(given: Any) -> Any:
    """A tokenizer, or that of a folder or hub id. Raises ValueError where there is none."""
    if not isinstance(given, str) and not hasattr(given, "__fspath__"):
        return given
    from transformers import AutoTokenizer

    # transformers would ask a hub that is away again and again, for a minute and more
    away = not Path(given).exists() and not hub_answers(str(given))
    try:
        return read_by(AutoTokenizer, given, fetch=not away)
    # what the hub's client, transformers and tokenizers raise has no common name
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}"
        if away:
            reason = "it is no folder, the hub cannot be reached now, and its cache has none"
        raise ValueError(
            f"there is no tokenizer under {str(given)!r} ({reason}): give tokenizer=, a folder or "
            "hub id of the model that is served"
        ) from None
