"""Language models behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, `transformers
serve`, hosted ones.

From the ground up: `http` (an event loop, repetitions, deadlines, the key), `response_fields` (what
is in a reply), `conversation` (turns as text, for servers that take conversations alone), `pieces`
(a stand-in where nobody has the tokenizer), `capabilities` (what a server takes and tells, and
requests in its words), `responses` (replies as an engine would give them), `handshake` (how
capabilities are found out), `client`.
"""

from models.server.client import Server

__all__ = ["Server"]
