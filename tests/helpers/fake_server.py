"""An OpenAI-compatible server in a thread of its own, which speaks a script's words and can
misbehave in every way that servers do.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import tiny

from models.detokenizer import Texts

MODEL = "fake/model"
END = 256  # the end of text of the tiny tokenizer without merges
OPENAI = {
    "model",
    "prompt",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "echo",
}
OPENAI |= {"logprobs", "top_logprobs"}


def echoes(prompt: str, seed: int) -> str:
    """A model that writes a line about what it reads."""
    return f"line {(len(prompt) * 7 + seed) % 97} of\n" * 3


class FakeServer:
    """A server of `MODEL` with the tokenizer of `tiny`; use it in a `with` block.

    say      (prompt, seed) -> the text that the model would write; it then ends its text
    ids      takes prompts as ids ("spelled": takes the list for a text)
    extras   takes fields beyond OpenAI's (else 422);  told_ids: answers with token ids
    refuses  {field: (status, message)} of fields that it takes in no request; a top_k of 0 is taken
    log_probs: tells them; "content": as llama.cpp does;  tempered: of the distribution after
    temperature
    marks    the field that tells the stop string, None: there is none;  keeps: the stop string
             stays in the text
    leaves   leaves the last token of a text that a stop string ended out of what it tells of
             tokens, as llama.cpp does
    merges   pairs of tokens that its tokenizer makes one, across words too
    seeded   heeds the seed (else every answer is another one);  heats: heeds the temperature (else
             all are greedy)
    counts   what `usage` says of the tokens: True (the truth), False (there is none), or a number
             that it always says
    chat     has /chat/completions: "too", "only" (no /completions), "wraps" (/completions makes a
             conversation of a prompt)
    continues  how it goes on with an assistant's turn, as in `CONTINUATIONS`; "": it begins a new
               one
    trims    its chat template strips what is said;  repeats: it repeats the beginning of the turn
    models   status of /models;  key: the key that it wants;  context: tokens of prompt and answer
             at most;  port: 0: a free one
    fault    (number of the completion from 0, body) -> what goes wrong, None nothing: "refuse"
             (429), ("refuse", "2"), "error" (500), "drop", "half", "leave" (after the answer),
             "hold" (until the client hangs up), "garbage", "empty", "list", "body", "headers",
             "chunks", "continue" (which drip without end), ("slow", seconds), ("status", 400,
             text), or a dict that replaces parts of reply and choice
    """

    def __init__(
        self,
        say: Callable[[str, int], str] = echoes,
        *,
        ids: bool | str = True,
        extras: bool = True,
        refuses: dict[str, tuple[int, str]] | None = None,
        told_ids: bool = True,
        log_probs: bool | str = True,
        tempered: bool = False,
        marks: str | None = "stop_reason",
        keeps: bool = False,
        leaves: bool = False,
        merges: tuple[tuple[str, str], ...] = (),
        seeded: bool = True,
        heats: bool = True,
        counts: bool | int = True,
        chat: str = "",
        continues: str = "continue_final_message",
        trims: bool = False,
        repeats: bool = False,
        models: int = 200,
        key: str | None = None,
        context: int = 4096,
        port: int = 0,
        fault: Callable[[int, dict[str, Any]], Any] = lambda number, body: None,
    ):
        self.say = say
        self.ids = ids
        self.extras = extras
        self.refuses = refuses or {}
        self.told_ids = told_ids
        self.log_probs = log_probs
        self.tempered = tempered
        self.marks = marks
        self.keeps = keeps
        self.leaves = leaves
        self.seeded = seeded
        self.heats = heats
        self.counts = counts
        self.chat = chat
        self.continues = continues
        self.trims = trims
        self.repeats = repeats
        self.models = models
        self.key = key
        self.context = context
        self.fault = fault
        self.tokenizer = tiny.tokenizer(merges, within_words=not merges)
        self.end = self.tokenizer.eos_token_id
        self.texts = Texts(self.tokenizer)
        self.bodies: list[dict[str, Any]] = []
        self.seen: list[list[int]] = []  # prompts whose keys and values it has
        self.connections = self.running = self.most = self.broken = 0
        self.change = threading.Condition()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with fake.change:
                    fake.connections += 1

            def do_GET(self) -> None:
                fake.list_models(self)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.change:
                    number = len(fake.bodies)
                    fake.bodies.append(body)
                    fake.running += 1
                    fake.most = max(fake.most, fake.running)
                    fake.change.notify_all()
                try:
                    fake.complete(self, body | {"path": self.path}, number)
                except OSError:
                    with fake.change:
                        fake.broken += 1
                        fake.change.notify_all()
                    self.close_connection = True
                finally:
                    with fake.change:
                        fake.running -= 1
                        fake.change.notify_all()

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self.http = Quiet(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> FakeServer:
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *args: Any) -> None:
        self.http.shutdown()
        self.http.server_close()

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until something is so."""
        with self.change:
            assert self.change.wait_for(condition, seconds), "it never came to that"

    # -- answers

    def list_models(self, handler: Any) -> None:
        data = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        answer(handler, self.models, data if self.models == 200 else {"detail": "offline"})

    def complete(self, handler: Any, body: dict[str, Any], number: int) -> None:
        told = handler.headers.get("Authorization")
        if self.key is not None and told != f"Bearer {self.key}":
            return answer(handler, 401, {"error": {"message": f"no entry with {told}"}})
        fault = self.fault(number, body)
        name = fault[0] if isinstance(fault, tuple) else fault
        if name == "refuse":
            return answer(
                handler,
                429,
                {"error": {"message": "too many"}},
                {"Retry-After": fault[1]} if isinstance(fault, tuple) else {},
            )
        if name == "error":
            return answer(handler, 500, {"detail": "out of luck"})
        if name == "status":
            return answer(handler, fault[1], {"error": {"message": fault[2]}})
        if name == "slow":
            time.sleep(fault[1])
        if name == "hold":
            handler.connection.recv(1)
            raise ConnectionAbortedError
        if isinstance(name, str) and name in DRIPS:
            return drip(handler, name)
        if name == "drop":
            handler.close_connection = True
            return None
        raw = (
            {"garbage": b"<html>what?</html>", "empty": b"", "list": b"[1, 2]"}.get(name)
            if isinstance(name, str)
            else None
        )
        if raw is not None:
            return answer(handler, 200, raw)
        status, reply = self.reply(body)
        if isinstance(fault, dict):
            reply["choices"][0].update(fault)
            reply.update({k: v for k, v in fault.items() if k in ("choices", "usage")})
        if name == "leave":
            handler.close_connection = True
        if name == "half":
            handler.close_connection = True
            return answer(handler, status, reply, cut=True)
        return answer(handler, status, reply)

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        chat = body.pop("path").endswith("/chat/completions")
        if chat and not self.chat or not chat and self.chat == "only":
            return 404, {"detail": "Not Found"}
        if body["model"] != MODEL:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        for name, (status, message) in self.refuses.items():
            if name in body and (name, body[name]) != ("top_k", 0):
                return status, {"error": {"message": message}}
        body = {"max_tokens": body.get("max_completion_tokens")} | body
        if not self.extras and set(body) - OPENAI:
            return 422, {
                "detail": f"Unexpected fields in the request: {sorted(set(body) - OPENAI)}"
            }
        if chat:
            prompt, read = self.turns(body)
        else:
            prompt = body["prompt"]
            if not isinstance(prompt, str) and not self.ids:
                return 400, {"detail": "prompt must be a string."}
            if self.ids == "spelled":
                prompt = str(prompt)
            read = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            prompt = self.tokenizer.decode(read)
            if self.chat == "wraps":
                read = self.tokenizer.encode("<user>") + read + self.tokenizer.encode("<assistant>")
        if len(read) + body["max_tokens"] > self.context:
            return 400, {
                "error": {
                    "message": f"This model's maximum context length is {self.context} tokens, you "
                    "asked for "
                    "more"
                }
            }
        wrote, reason, mark = self.write(prompt, body)
        cached = max((common(read, old) for old in self.seen), default=0)
        self.seen.append(read + wrote)
        shown = self.tokenizer.decode([t for t in wrote if t != self.end])
        if isinstance(mark, str) and not self.keeps:
            shown = shown[: shown.index(mark)]
        choice: dict[str, Any] = {
            "index": 0,
            "text": shown,
            "finish_reason": reason,
            "logprobs": None,
        }
        if chat:
            del choice["text"]
            begun = body["messages"][-1]
            again = begun["content"] if self.repeats and begun["role"] == "assistant" else ""
            choice["message"] = {"role": "assistant", "content": again + shown}
        if self.marks:
            choice[self.marks] = mark
        told = wrote[:-1] if self.leaves and mark else wrote
        ids = self.told_ids and body.get("return_token_ids")
        if ids:
            choice |= {"token_ids": told, "prompt_token_ids": read}
        if self.log_probs and body.get("logprobs"):
            choice["logprobs"] = self.told(read if body.get("echo") else [], told, body, chat)
        usage = {
            "prompt_tokens": len(read),
            "completion_tokens": len(wrote),
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if self.counts is not True:
            usage = (
                {}
                if self.counts is False
                else {"prompt_tokens": len(read), "completion_tokens": self.counts}
            )
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "model": MODEL,
            "choices": [choice],
            "usage": usage,
        }

    def turns(self, body: dict[str, Any]) -> tuple[str, list[int]]:
        """What is said in a conversation, a turn a line, and its tokens with the marks of a
        template.
        """
        said = [
            turn["content"].strip() if self.trims else turn["content"] for turn in body["messages"]
        ]
        last = body["messages"][-1]
        asked = {
            "continue_final_message": body.get("continue_final_message")
            and body.get("add_generation_prompt") is False,
            "prefix": last.get("prefix"),
            "last message": True,
            "": False,
        }
        goes_on = last["role"] == "assistant" and asked[self.continues]
        marked = "".join(
            f"<{turn['role']}>{text}</>" for turn, text in zip(body["messages"], said, strict=True)
        )
        marked = marked.removesuffix("</>") if goes_on else f"{marked}<assistant>"
        return "\n".join([*said, *([] if goes_on else [""])]), self.tokenizer.encode(marked)

    def write(self, prompt: str, body: dict[str, Any]) -> tuple[list[int], str, str | None]:
        """Tokens, finish reason and the stop string."""
        seed = body.get("seed", 0) if self.seeded else len(self.seen)
        text = self.say(prompt, seed if body["temperature"] and self.heats else 0)
        stops = [
            (text.index(stop) + len(stop), stop) for stop in body.get("stop", ()) if stop in text
        ]
        end, mark = min(stops, default=(len(text), None))
        tokens = self.tokenizer.encode(text[:end]) + ([] if mark else [self.end])
        cut = len(tokens) > body["max_tokens"]
        return tokens[: body["max_tokens"]], "length" if cut else "stop", None if cut else mark

    def told(
        self, read: list[int], wrote: list[int], body: dict[str, Any], chat: bool
    ) -> dict[str, Any]:
        scale = (
            1.0 if not self.tempered or body["temperature"] in (0, 1) else 1 / body["temperature"]
        )
        named = body.get("return_tokens_as_token_ids") and self.told_ids
        spell = (lambda t: f"token_id:{t[0]}") if named else self.tokenizer.decode
        if chat or self.log_probs == "content":
            count = body["top_logprobs"] if chat else 1
            likely = {t: log_prob(t) for t in (97, 98, 99, *range(7, 7 + count))}
            entries = []
            for token in wrote:
                # as vLLM does: the sampled one is among them
                likeliest = list(({token: log_prob(token)} | likely).items())[:count]
                tops = [{"token": spell([t]), "logprob": number * scale} for t, number in likeliest]
                entries.append({"id": token, "top_logprobs": tops, **tops[0]})
                if chat:
                    del entries[-1]["id"]
                    entries[-1]["bytes"] = list(self.texts.piece(token))
            return {"content": entries}
        numbers = [
            *([None] if read else []),
            *(log_prob(t) for t in read[1:]),
            *(log_prob(t) * scale for t in wrote),
        ]
        likely = {spell([t]): log_prob(t) * scale for t in range(97, 97 + body["logprobs"])}
        tops = [
            None if n is None else {spell([t]): n, **likely}
            for t, n in zip([*read, *wrote], numbers, strict=True)
        ]
        return {
            "tokens": [spell([t]) for t in [*read, *wrote]],
            "token_logprobs": numbers,
            "top_logprobs": tops,
        }


def log_prob(token: int) -> float:
    """What the fake tells of a token."""
    return -(token % 7 + 1) / 8


#: Begin of an answer, and what comes again and again without end.
DRIPS = {
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-More: and more\r\n"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


def drip(handler: Any, name: str) -> None:
    """An answer that never ends."""
    begin, again = DRIPS[name]
    handler.wfile.write(begin)
    while True:
        handler.wfile.write(again)
        handler.wfile.flush()
        time.sleep(0.01)


def common(a: list[int], b: list[int]) -> int:
    """Length of what two lists begin with."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def answer(
    handler: Any, status: int, data: Any, headers: dict[str, str] | None = None, cut: bool = False
) -> None:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    handler.send_response(status)
    for name, value in {
        **(headers or {}),
        "Content-Type": "application/json",
        "Content-Length": str(len(raw)),
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(raw[: len(raw) // 2] if cut else raw)
    handler.wfile.flush()
