"""JSON over HTTP to one server: a connection that is kept, time-outs, and asking again what failed for a while.

The key comes from the environment at every request and is kept nowhere; whatever a server says is stripped of it before anybody reads it.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from search.requests import RequestFailed

AGAIN = frozenset({408, 429, 500, 502, 503, 504})  # statuses that pass
FIRST, LONGEST = 0.5, 30.0  # seconds before the first repetition; each next one waits twice as long, up to the longest
PATIENCE = 300.0  # seconds of a Retry-After that are waited for
CONNECT = 10.0  # seconds that a connection may take to come about
LARGEST = 1 << 26  # bytes of an answer
WORDS = 300  # characters of what a server says that are passed on


class Refused(RequestFailed):
    """The server refused a request with this `status`, and would again."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Address:
    """Where a server is, and the name of the environment variable that holds its key.

    Raises ValueError for a URL that is none, one that holds a password, and a key that no header can hold.
    """

    def __init__(self, url: str, key_variable: str):
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise ValueError(f"the URL of the server holds a name or password: put the key into the environment variable {key_variable}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not _plain(url):
            raise ValueError(f"{url!r} is no address of a server: write it like http://localhost:8000/v1")
        try:
            self.port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise ValueError(f"{url!r} has no usable port: write it like http://localhost:8000/v1") from None
        self.url, self.host, self.path = url.rstrip("/"), parts.hostname, parts.path.rstrip("/")
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.key_variable = key_variable
        self.headers()

    def headers(self) -> dict[str, str]:
        """Of a request, the key among them where there is one."""
        key = self._key()
        if not _plain(key):
            raise ValueError(f"the key in {self.key_variable} has characters that no key has: copy it again")
        return {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def without_key(self, text: str) -> str:
        """`text` with the key replaced, wherever it stands."""
        key = self._key()
        return text.replace(key, "[key]") if key else text

    def _key(self) -> str:
        return os.environ.get(self.key_variable, "").strip()


def _plain(text: str) -> bool:
    return all("!" <= c <= "~" for c in text)


class Line:
    """A connection to a server, kept from request to request and made anew when it broke. Of one thread; any may `cut` it.

    timeout  seconds that one answer may take
    wanted   False once the request under way is not: it then ends with an error, whatever it was doing
    """

    def __init__(self, address: Address, timeout: float):
        self.address, self.timeout, self.wanted = address, timeout, True
        self._http: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect, if there is no connection. Raises OSError."""
        if self._http is None:
            a = self.address
            made = http.client.HTTPConnection(a.host, a.port, timeout=min(CONNECT, self.timeout))
            if a.tls is not None:
                made = http.client.HTTPSConnection(a.host, a.port, timeout=min(CONNECT, self.timeout), context=a.tls)
            made.connect()
            self._http, self._socket = made, made.sock
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.wanted:  # it was cut while it came about
            raise ConnectionAbortedError("cut")

    def send(self, path: str, body: Any = None) -> tuple[int, str | None, bytes]:
        """POST `body` as JSON, or GET without one: status, Retry-After and what the server said.

        Raises OSError or HTTPException where the connection breaks, TimeoutError where the answer takes too long.
        """
        kept = self._http is not None
        try:
            return self._send(path, body)
        except (ConnectionResetError, BrokenPipeError):  # the server may have closed the kept connection meanwhile
            if not kept or not self.wanted:
                raise
        return self._send(path, body)

    def _send(self, path: str, body: Any) -> tuple[int, str | None, bytes]:
        try:
            self.open()
            assert self._http is not None and self._socket is not None
            self._socket.settimeout(self.timeout)
            until = time.monotonic() + self.timeout
            data = None if body is None else json.dumps(body).encode()
            self._http.request("GET" if body is None else "POST", self.address.path + path, data, self.address.headers())
            with self._http.getresponse() as response:
                said = _read(response, until)
            if response.will_close:
                self.close()
            return response.status, response.getheader("Retry-After"), said
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """End the request under way, from another thread. The connection is gone."""
        self.wanted = False
        if (made := self._socket) is not None:
            with contextlib.suppress(OSError):  # it is closed already
                socket.socket.shutdown(made, socket.SHUT_RDWR)  # not TLS's own, which would wait for the other side

    def close(self) -> None:
        """Give the connection up. Idempotent."""
        made, self._http, self._socket = self._http, None, None
        if made is not None:
            made.close()


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    """All of an answer. Raises TimeoutError where it drips too long, IncompleteRead where the connection ends within it."""
    length, parts, total = response.length, [], 0
    while length is None or total < length:
        part = response.read1(1 << 16)
        if not part:
            break
        parts.append(part)
        total += len(part)
        if total > LARGEST:
            raise http.client.HTTPException(f"an answer of more than {LARGEST} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    if length is not None and total < length:
        raise http.client.IncompleteRead(b"", length - total)
    return b"".join(parts)


def exchange(line: Line, path: str, body: Any, retries: int, seed: int, pause: Callable[[float], None]) -> dict[str, Any]:
    """The JSON object with which the server answers.

    retries  repetitions at most after a broken connection or a status that passes (429, 5xx), `pause(seconds)` before each
    seed     of the jitter

    Raises Refused for another status, RequestFailed for all else: the last failure, a time-out, an answer that is no JSON object.
    """
    url = line.address.url
    for attempt in range(retries + 1):
        after = None
        try:
            status, after, said = line.send(path, body)
        except TimeoutError:
            raise RequestFailed(f"{url} did not answer within {line.timeout:g} s: give it more time, or fewer connections") from None
        except (OSError, http.client.HTTPException) as error:
            trouble = f"the connection to {url} broke ({type(error).__name__})"
        else:
            if 200 <= status < 300:
                return _object(said, line.address)
            trouble = f"{url} answered {status}: {words(said, line.address)}"
            if status not in AGAIN:
                raise Refused(status, trouble)
        seconds = delay(attempt, seed, after)
        if attempt == retries or seconds > PATIENCE:
            break
        pause(seconds)
    asked = f"; asked {attempt + 1} times" if attempt else ""
    raise RequestFailed(f"{trouble}{asked}: see what the server logs, or ask it for less at once")


def delay(attempt: int, seed: int, after: str | None = None) -> float:
    """Seconds before repetition `attempt` (from 0): twice as long each time, half of it at random, and no less than Retry-After."""
    grown = min(LONGEST, FIRST * 2**attempt)
    return max(grown * random.Random(f"{seed} {attempt}").uniform(0.5, 1.0), _seconds(after))


def _seconds(after: str | None) -> float:
    """A Retry-After header, a number or a date, in seconds from now; 0 where there is none that can be read."""
    try:
        return max(0.0, float(after or 0))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after or "").timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def words(said: bytes, address: Address) -> str:
    """What a server says about an error: the message in its JSON, else the beginning of its text; without the key."""
    text = address.without_key(said.decode("utf-8", "replace"))
    try:
        told = json.loads(text)
        told = told.get("error", told)
        told = told.get("message", told.get("detail", told)) if isinstance(told, dict) else told
        text = told if isinstance(told, str) else json.dumps(told)
    except (ValueError, AttributeError, RecursionError):
        pass
    return address.without_key(" ".join(text.split()))[:WORDS] or "nothing more"


def _object(said: bytes, address: Address) -> dict[str, Any]:
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        begins = address.without_key(said[: 4 * WORDS].decode("utf-8", "replace"))[:60]
        raise RequestFailed(f"{address.url} answered with {begins!r}, which is no JSON object: is it an OpenAI-compatible server?")
    return told
