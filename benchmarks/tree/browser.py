"""A browser without a window, driven by the WebDriver protocol: Chromium by `chromedriver`, where
the two are installed (`apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DRIVER = "chromedriver"
WAIT = 30  #: seconds that something may take to come true
KEYS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015", "enter": "\ue007"}


def is_there() -> bool:
    return all(map(shutil.which, (DRIVER, "chromium")))


class Browser:
    """One window. Scripts are bodies of functions, their result is what they return."""

    def __init__(self, address: str, session: str):
        self._session = f"{address}/session/{session}"

    def open(self, path: Path) -> None:
        """Load a page and wait for it."""
        self._post("url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *args: Any) -> Any:
        return self._post("execute/sync", {"script": script, "args": args})

    def later(self, script: str, *args: Any) -> Any:
        """The result that a script hands to its last argument, a function."""
        return self._post("execute/async", {"script": script, "args": args})

    def until(self, script: str, *args: Any) -> Any:
        """What a script returns once that is true. Raises TimeoutError."""
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            if found := self.run(script, *args):
                return found
            time.sleep(0.05)
        raise TimeoutError(f"this never came true: {script}")

    def click(self, selector: str) -> None:
        self._post(f"element/{_number(self._find(selector))}/click", {})

    def keys(self, selector: str, text: str) -> None:
        """Type into an element; named keys are in `KEYS`."""
        self._post(f"element/{_number(self._find(selector))}/value", {"text": text})

    def enter(self, selector: str) -> None:
        """Go into a frame; `open` leaves it."""
        self._post("frame", {"id": self._find(selector)})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def complaints(self) -> list[str]:
        """What the console has said since the last call: errors and warnings."""
        return [entry["message"] for entry in self._post("se/log", {"type": "browser"})]

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(_ask(f"{self._session}/screenshot"))

    def close(self) -> None:
        _ask(self._session, method="DELETE")

    def _find(self, selector: str) -> dict[str, str]:
        """An element, as the protocol names it."""
        found = self._post("element", {"using": "css selector", "value": selector})
        return dict(found)

    def _post(self, name: str, body: dict[str, Any]) -> Any:
        return _ask(f"{self._session}/{name}", body)


def _number(element: dict[str, str]) -> str:
    return next(iter(element.values()))


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 800, dark: bool = False) -> Iterator[Browser]:
    """A fresh browser of that size, without a network."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [DRIVER, "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HOME": home},
        )
        try:
            address = _address(process)
            wanted = _wanted(home, (width, height), dark)
            session = _ask(f"{address}/session", {"capabilities": wanted})
            window = Browser(address, session["sessionId"])
            yield window
            window.close()
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if "started successfully on port" in line:
            port = line.rstrip(". \n").rpartition(" ")[2]
            return f"http://127.0.0.1:{port}"
    raise RuntimeError(f"{DRIVER} has ended before it said its port")


def _wanted(home: str, size: tuple[int, int], dark: bool) -> dict[str, Any]:
    arguments = [
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={home}/profile",
        f"--window-size={size[0]},{size[1]}",
    ]  # fmt: skip
    if dark:
        arguments.append("--blink-settings=preferredColorScheme=0")
    return {
        "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
    }


def _ask(address: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, method=method)
    request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as reply:
            return json.load(reply)["value"]
    except urllib.error.HTTPError as error:
        told = json.load(error)["value"]
        raise RuntimeError(f"{told['error']}: {told['message']}") from None
