"""JSON over HTTP to one server: an event loop in a thread of its own, deadlines, and asking again
what failed for a while.

The key comes from the environment at every request and is kept nowhere; whatever a server says is
stripped of it before it is passed on.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import re
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from search.scheduling.requests import RequestFailed, TooLong

T = TypeVar("T")

AGAIN = frozenset({408, 425, 429})  # statuses that pass, beside all from 500 on
FIRST = 0.5  # seconds before the first repetition; each next one waits twice as long ...
LONGEST = 30.0  # ... up to this
CONNECT = 10.0  # seconds that a connection may take to come about
KNOCK = 20.0  # seconds in which a server must say anything at all
LARGEST = 1 << 26  # bytes of an answer
WORDS = 300  # characters of what a server says that are passed on

#: What a server says with status 500 when the request itself is wrong, so that it would say it
#: again: pydantic's words for a field (llama-cpp-python), an option that the model was not loaded
#: with, a prompt beyond the context.
WRONG = re.compile(
    r"validation error|input should be |extra inputs|['\"]loc['\"]\s*:|not supported|unsupported|"
    r"unrecognized",
    re.IGNORECASE,
)

#: What servers say of a prompt that is too long for the model.
LONG = re.compile(
    r"maximum context|exceed\w*\s+(the\s+)?(available\s+|model'?s?\s+)?context|context[_ ]length[_ "
    r"]exceeded",
    re.IGNORECASE,
)


class Refused(RequestFailed):
    """The server refused a request with this `status`, and would again."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Address:
    """Where a server is, and the name of the environment variable that holds its key.

    Raises ValueError for a URL that is none, one that holds a password, and a key that no header
    can hold.
    """

    def __init__(self, url: str, key_variable: str):
        example = "write it like http://localhost:8000/v1"
        parts = urlsplit(url)
        if parts.username or parts.password:
            remedy = f"put the key into the environment variable {key_variable}"
            raise ValueError(f"the URL of the server holds a name or password: {remedy}")
        web = parts.scheme in ("http", "https") and parts.hostname
        if not web or parts.query or parts.fragment or not _plain(url):
            raise ValueError(f"{url!r} is no address of a server: {example}")
        try:
            parts.port  # noqa: B018 - it raises for a port beyond 65535
        except ValueError:
            raise ValueError(f"{url!r} has no usable port: {example}") from None
        self.url = url.rstrip("/")
        self.here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self.key_variable = key_variable
        self.headers()

    def headers(self) -> dict[str, str]:
        """Of a request, the key among them where there is one."""
        key = self._key()
        if not _plain(key):
            raise ValueError(
                f"the key in {self.key_variable} has characters that no key has: copy it again"
            )
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def without_key(self, text: str) -> str:
        """`text` with the key replaced, wherever it stands."""
        key = self._key()
        return text.replace(key, "[key]") if key else text

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()


def _plain(text: str) -> bool:
    return all("!" <= c <= "~" for c in text)


class Http:
    """One server, asked by an `httpx2.AsyncClient` on an event loop in a daemon thread. Close it.

    timeout      seconds that a request may take in all, repetitions and the pauses before them
                 included
    retries      repetitions at most after a broken connection, a status that passes (408, 425, 429,
                 5xx) or no JSON
    connections  kept at most
    """

    def __init__(self, address: Address, timeout: float, retries: int, connections: int):
        self.address = address
        self.timeout = timeout
        self.retries = retries
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="copse-server", daemon=True
        )
        self._thread.start()
        self._client = httpx2.AsyncClient(
            # the deadline is of the request as a whole: a read that is renewed byte by byte has
            # none
            timeout=httpx2.Timeout(None, connect=CONNECT),
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections
            ),
            trust_env=not address.here,  # a proxy leads nowhere from here to here
        )

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop; cancelling the future cancels it, and closes the
        connection that it uses.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Cancel what runs, close all connections, end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        try:
            self.start(self._end()).result(2.0)
        except TimeoutError:  # a connection that does not close: the thread is a daemon
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def knock(self) -> None:
        """Raises RequestFailed where nothing listens, or nothing answers."""
        try:
            async with asyncio.timeout(min(KNOCK, self.timeout)):
                await self._send("/models", None)
        except TimeoutError:
            raise RequestFailed("it says nothing") from None
        except (
            httpx2.ConnectError,
            httpx2.ConnectTimeout,
            httpx2.InvalidURL,
            UnicodeError,
        ) as error:
            raise RequestFailed(str(error) or type(error).__name__) from None
        except httpx2.HTTPError:  # a server is there: the questions will show what is broken
            return

    async def ask(
        self,
        path: str,
        body: Any,
        seed: int = 0,
        retries: int | None = None,
        troubles: list[str] | None = None,
    ) -> dict[str, Any]:
        """The JSON object with which the server answers a POST of `body`, or a GET where it is
        None.

        seed     of the jitter of the pauses
        retries  instead of this object's
        troubles  takes what went wrong each time that it will be asked again

        Raises Refused for a status that does not pass, RequestFailed for all else: the last
        failure, the deadline, an answer that is no JSON object.
        """
        if troubles is None:
            troubles = []
        if retries is None:
            retries = self.retries
        try:
            async with asyncio.timeout(self.timeout):
                return await self._ask(path, body, seed, retries, troubles)
        except TimeoutError:
            before = f" (before that: {troubles[-1]})" if troubles else ""
            what = f"{self.address.url} did not answer within {self.timeout:g} s{before}"
            raise RequestFailed(f"{what}: give it more time, or fewer connections") from None

    async def _ask(
        self, path: str, body: Any, seed: int, retries: int, troubles: list[str]
    ) -> dict[str, Any]:
        until = self._loop.time() + self.timeout
        for attempt in range(retries + 1):
            after = None
            try:
                status, after, answer = await self._send(path, body)
                return _object(status, answer, self.address)
            except (Refused, TooLong):
                raise
            except RequestFailed as error:
                troubles.append(str(error))
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                troubles.append(
                    f"the connection to {self.address.url} broke ({type(error).__name__})"
                )
            pause = delay(attempt, seed, after)
            if attempt == retries or self._loop.time() + pause > until:
                break
            await asyncio.sleep(pause)
        asked = f"; asked {len(troubles)} times" if len(troubles) > 1 else ""
        raise RequestFailed(
            f"{troubles[-1]}{asked}: see what the server logs, or ask it for less at once"
        )

    async def _send(self, path: str, body: Any) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and the server's answer. Raises httpx2's errors."""
        method = "GET"
        content: bytes | None = None
        if body is not None:
            method = "POST"
            content = json.dumps(body).encode()
        url = self.address.url + path
        parts: list[bytes] = []
        total = 0
        async with self._client.stream(
            method, url, content=content, headers=self.address.headers()
        ) as response:
            async for part in response.aiter_bytes():
                parts.append(part)
                total += len(part)
                if total > LARGEST:
                    raise httpx2.RemoteProtocolError(f"an answer of more than {LARGEST} bytes")
        return response.status_code, response.headers.get("Retry-After"), b"".join(parts)


def delay(attempt: int, seed: int, after: str | None = None) -> float:
    """Seconds before repetition `attempt` (from 0): twice as long each time, half of it at
    random, no less than Retry-After.
    """
    grown: float = min(LONGEST, FIRST * 2.0**attempt)
    return max(grown * random.Random(f"{seed} {attempt}").uniform(0.5, 1.0), _seconds(after))


def _seconds(after: str | None) -> float:
    """A Retry-After header, a number or a date, in seconds from now; 0 where there is none that
    can be read.
    """
    try:
        return max(0.0, float(after or 0))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after or "").timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _object(status: int, answer: bytes, address: Address) -> dict[str, Any]:
    """The JSON object of an answer. Raises Refused for a status that does not pass,
    RequestFailed for what may pass.
    """
    found = _json(address.without_key(answer.decode("utf-8", "replace")))
    if 200 <= status < 300:
        status = _hidden_status(found) or status
    if not 200 <= status < 300:
        trouble = f"{address.url} answered {status}: {_words(found, answer, address)}"
        if status in (400, 413, 422, 500) and LONG.search(trouble):
            raise TooLong(f"{trouble}: shorten the text, or serve the model with a longer context")
        if (status < 500 and status not in AGAIN) or (status == 500 and WRONG.search(trouble)):
            raise Refused(status, trouble)
        raise RequestFailed(trouble)
    if not isinstance(found, dict):
        begins = address.without_key(answer[: 4 * WORDS].decode("utf-8", "replace"))[:60]
        what = f"{address.url} answered with {begins!r}, which is no JSON object"
        raise RequestFailed(f"{what} (is it an OpenAI-compatible server?)")
    return found


def _hidden_status(found: Any) -> int | None:
    """The status of another server's error that a gateway passes on as success, else None."""
    if not isinstance(found, dict) or "choices" in found:
        return None
    error = found.get("error")
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _words(found: Any, answer: bytes, address: Address) -> str:
    """What a server says about an error: the message in its JSON, else the beginning of its
    text; without the key.
    """
    message = found
    if isinstance(message, dict):
        message = message.get("error", message)
    if isinstance(message, dict):
        message = message.get("message", message.get("detail", message))
    if message is None:
        message = answer.decode("utf-8", "replace")
    elif not isinstance(message, str):
        message = json.dumps(message)
    # twice, as white space may have stood within the key
    line = address.without_key(" ".join(address.without_key(message).split()))
    return line[:WORDS] or "nothing more"
