"""The endpoint itself: which paths there are, who may ask, and how much at once.

Needs starlette and prometheus_client (`pip install "copse-search[serve]"`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as written
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import search
from search.guide import Guide
from search.problems import parse
from search.running import Running
from search.scheduling.budget import Budget
from search.scheduling.failures import described
from search.serving.answered import Answer
from search.serving.asked import Asked, Refused, asked, names
from search.solution import Solution

log = logging.getLogger(f"copse.{__name__}")

GONE = 499  # the status that is counted where the client has gone


@dataclass(frozen=True)
class Limits:
    """What a server allows.

    budget    of one search at most;  searches: under way and waiting, together
    body      bytes of a request;  key: that clients have to send, None: none
    """

    budget: Budget
    searches: int = 256
    body: int = 1 << 20
    key: str | None = None


class Endpoint:
    """Searches for clients, all on the engine of one guide.

    method  of the model "copse";  answer: regular expression of the answer in open text

    Raises ValueError for a budget without a limit of tokens, which bounds what a client may have
    done at once.
    """

    def __init__(
        self, guide: Guide, limits: Limits, method: str = "mcts", answer: str | None = None
    ):
        if limits.budget.tokens is None:
            raise ValueError(
                f"the budget {limits.budget} lets one client take all there is: limit its tokens, "
                "too, as in tokens=2000,seconds=60"
            )
        self.guide = guide
        self.limits = limits
        self.method = method
        self.answer = answer
        self._running: set[Running] = set()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "copse_requests", "Requests answered", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "copse_search_seconds", "Seconds of a search", ["method"], registry=self.registry
        )
        self._tokens = Counter("copse_generated_tokens", "Tokens generated", registry=self.registry)
        under_way = Gauge(
            "copse_searches_under_way", "Searches, waiting ones included", registry=self.registry
        )
        under_way.set_function(lambda: len(self._under_way()))

    def app(self) -> Starlette:
        """The ASGI application."""

        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            for one in self._under_way():
                one.cancel()

        chat = self._guarded(lambda request: self._complete(request, chat=True))
        plain = self._guarded(lambda request: self._complete(request, chat=False))
        routes = [
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", plain, methods=["POST"]),
            Route("/v1/models", self._guarded(self._models)),
            Route("/metrics", self._guarded(self._metrics)),
            Route("/health", self._health),
        ]
        return Starlette(routes=routes, lifespan=lifespan)

    def _under_way(self) -> set[Running]:
        self._running = {one for one in self._running if not one.done}
        return self._running

    def _guarded(
        self, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Let in who has the key, and make what is refused or fails an error in OpenAI's form."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_key(request)
                response = await answer(request)
            except Refused as error:
                response = _error(error.status, str(error), error.param)
            except ValueError as error:
                response = _error(400, str(error))
            except ClientDisconnect:
                response = Response(status_code=GONE)
            except Exception as error:
                log.exception("a request failed")
                response = _error(500, described(error))
            self._requests.labels(request.url.path, response.status_code).inc()
            return response

        return guarded

    def _check_key(self, request: Request) -> None:
        if self.limits.key is None:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(
            key.strip().encode(), self.limits.key.encode()
        ):
            raise Refused("the API key is missing or wrong", status=401)

    async def _complete(self, request: Request, *, chat: bool) -> Response:
        wanted = asked(
            await self._body(request), chat=chat, method=self.method, budget=self.limits.budget
        )
        free = self.limits.searches - len(self._under_way())
        if len(wanted.problems) > free:
            raise Refused(f"{self.limits.searches} searches are under way: try later", status=429)
        running = await asyncio.to_thread(self._start, wanted)
        self._running.update(running)
        answer = Answer(chat, wanted.model)
        if wanted.stream:
            events = self._events(wanted, running, answer)
            return StreamingResponse(events, media_type="text/event-stream")
        try:
            solutions = await self._solutions(wanted, running, request)
        finally:
            for one in running:
                one.cancel()
        if solutions is None:
            return Response(status_code=GONE)
        return JSONResponse(answer.whole(solutions))

    def _start(self, wanted: Asked) -> list[Running]:
        guide = self.guide
        if wanted.settings:
            sampled = getattr(guide.policy, "sampled", None)
            if sampled is None:
                raise Refused("this model takes no temperature or top_p: leave them out")
            guide = replace(guide, policy=sampled(**wanted.settings))
        begun: list[Running] = []
        try:
            for index, text in enumerate(wanted.problems):
                one = search.start(
                    parse(text, answer=self.answer),
                    guide,
                    wanted.method,
                    wanted.budget,
                    wanted.seed + index,
                    wanted.choose,
                    **wanted.options,
                )
                begun.append(one)
        except BaseException:
            for one in begun:
                one.cancel()
            raise
        return begun

    async def _solutions(
        self, wanted: Asked, running: Sequence[Running], request: Request
    ) -> list[Solution] | None:
        """What was found; None: the client has gone."""
        found = asyncio.ensure_future(_all(running))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({found, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                return None
            solutions = found.result()
        finally:
            gone.cancel()
            found.cancel()
        self._count(wanted, solutions)
        return solutions

    def _count(self, wanted: Asked, solutions: Sequence[Solution]) -> None:
        for solution in solutions:
            self._tokens.inc(solution.usage.generated)
            self._seconds.labels(wanted.method).observe(solution.usage.seconds)

    async def _events(
        self, wanted: Asked, running: Sequence[Running], answer: Answer
    ) -> AsyncIterator[str]:
        """The pieces of a streamed answer, one choice after the other. Where the client goes, this
        is closed, and the searches end.
        """
        solutions = []
        try:
            for index, one in enumerate(running):
                yield _event(answer.begin(index))
                async for progress in one:
                    yield _event(answer.on_the_way(index, progress))
                solution = await one
                _check(solution)
                solutions.append(solution)
                self._count(wanted, [solution])
                for piece in answer.end(index, solution):
                    yield _event(piece)
            if wanted.stream_usage:
                yield _event(answer.last(solutions))
            yield "data: [DONE]\n\n"
        except Exception as error:  # the status has been sent: what is left is to say it
            log.warning("a streamed search failed: %s", described(error))
            yield _event(_failure(500, described(error)))
        finally:
            for one in running:
                one.cancel()

    async def _body(self, request: Request) -> Any:
        parts = bytearray()
        async for part in request.stream():
            parts += part
            if len(parts) > self.limits.body:
                raise Refused(f"the body has more than {self.limits.body} bytes", status=413)
        try:
            return json.loads(bytes(parts))
        except (ValueError, RecursionError):
            raise Refused("the body is no JSON") from None

    async def _models(self, request: Request) -> Response:
        made = int(time.time())
        models = [
            {"id": name, "object": "model", "created": made, "owned_by": "copse"}
            for name in names()
        ]
        return JSONResponse({"object": "list", "data": models})

    async def _metrics(self, request: Request) -> Response:
        return Response(written(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "searches": len(self._under_way())})


async def _all(running: Sequence[Running]) -> list[Solution]:
    found = []
    for one in running:
        solution = await one
        _check(solution)
        found.append(solution)
    return found


def _check(solution: Solution) -> None:
    """Raises the error of a search that failed without an answer."""
    if solution.error is not None and solution.answer is None:
        raise solution.error


async def _gone(request: Request) -> None:
    """Returns when the client of a request whose body was read has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(piece: dict[str, Any]) -> str:
    return f"data: {json.dumps(piece, allow_nan=False)}\n\n"


def _failure(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def _error(status: int, message: str, param: str | None = None) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(_failure(status, message, param), status, headers)
