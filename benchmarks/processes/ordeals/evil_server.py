"""A chat server that knows the answer, and from a given request on does harm."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "evil/model"
QUESTION = "Say {}"  #: a problem; the answer is its number
PAUSE = 0.02  #: seconds that an answer takes
DRIP = 0.05  #: seconds between two bytes of an answer that drips

#: What it may do: hang up and listen no more; drip without end; answer with status 500, 502 or 503;
#: send half of its JSON, or one without a choice; tell log-probs that are no numbers.
HARMS = ("dies", "drips", "5xx", "cut", "lies", "nan")


class EvilServer:
    """A server of `MODEL` at `url`; use it in a `with` block.

    harm   one of `HARMS`, or "" for none, done from question number `onset` on
    asked  questions so far, but for those with which a client finds out what a server can do
    """

    def __init__(self) -> None:
        self.harm = ""
        self.onset = 0
        self.asked = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._http = self._listening(0)
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> EvilServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.die()

    def well(self) -> None:
        """Do no harm from now on; listen again after a death."""
        if self.harm == "dies":
            self.die()
            self._http = self._listening(self.port)
        self.harm = ""

    def turn(self, harm: str, onset: int) -> None:
        """Do this harm as soon as `onset` more questions have been answered."""
        self.harm = harm
        self.onset = self.asked + onset

    def die(self) -> None:
        """Listen no more, and hang up. Idempotent."""
        self._http.shutdown()
        self._http.server_close()
        with self._lock:
            still = list(self._open)
        for one in still:
            _hang_up(one)

    def _listening(self, port: int) -> ThreadingHTTPServer:
        evil = self

        class Handler(_Handler):
            server_of = evil

        http = _Listener(("127.0.0.1", port), Handler)
        threading.Thread(
            target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return http

    def opened(self, one: socket.socket) -> None:
        with self._lock:
            self._open.add(one)

    def closed(self, one: socket.socket) -> None:
        with self._lock:
            self._open.discard(one)

    def harm_of(self, question: bool) -> str:
        """What is done to the next request."""
        if not question:
            return ""
        with self._lock:
            self.asked += 1
            return self.harm if self.asked > self.onset else ""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: EvilServer

    def setup(self) -> None:
        super().setup()
        self.server_of.opened(self.connection)

    def finish(self) -> None:
        self.server_of.closed(self.connection)
        super().finish()

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/chat/completions"):
            self._answer(404, {"error": {"message": "Not Found"}})
            return
        number = _number_of(body)
        harm = self.server_of.harm_of(number is not None)
        time.sleep(PAUSE)
        reply = _reply(body, number, float("nan") if harm == "nan" else -0.5)
        if harm == "dies":
            threading.Thread(target=self.server_of.die, daemon=True).start()
            self.close_connection = True
        elif harm == "drips":
            self._drip()
        elif harm == "5xx":
            status = (500, 502, 503)[self.server_of.asked % 3]
            self._answer(status, {"error": {"message": "out of luck"}})
        elif harm == "cut":
            text = json.dumps(reply)
            self._send(200, text[: len(text) // 2].encode())
        elif harm == "lies":
            self._answer(200, reply | {"choices": []})
        else:
            self._answer(200, reply)

    def _answer(self, status: int, reply: dict[str, Any]) -> None:
        self._send(status, json.dumps(reply).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _drip(self) -> None:
        """A byte now and then, until the client hangs up or this server is closed."""
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 20))
        self.end_headers()
        while True:
            self.wfile.write(b" ")
            time.sleep(DRIP)


def _hang_up(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return


def _number_of(body: dict[str, Any]) -> int | None:
    """The number of the question; None where the client asks what the server can do."""
    found = re.search(QUESTION.format(r"(\d+)"), str(body["messages"]))
    return int(found[1]) if found else None


def _reply(body: dict[str, Any], number: int | None, log_prob: float) -> dict[str, Any]:
    """The reply of a model that is right, in words that depend on the seed."""
    text = f"Thought {body.get('seed', 0)} is short.\n\nThe answer is \\boxed{{{number}}}."
    words = re.findall(r"\s*\S+", text)
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    choice["message"] = {"role": "assistant", "content": text}
    if body.get("logprobs"):
        told = [{"token": word, "logprob": log_prob, "top_logprobs": []} for word in words]
        choice["logprobs"] = {"content": told}
    usage = {"prompt_tokens": 20, "completion_tokens": len(words)}
    return {"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
