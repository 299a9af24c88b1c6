"""Inside: one call of one function of a text, whose answer is a number."""

from __future__ import annotations

import base64
import numbers
import pickle
from typing import Any


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """The reply: "result", a number or None; "odd", what else it returned; or "raised"."""
    try:
        function = pickle.loads(base64.b64decode(order["function"]))
    except Exception as error:
        return {"foreign": _told(error)}
    try:
        result = function(order["text"])
        if result is None:
            return {"result": None}
        if hasattr(result, "item"):  # a number of numpy's or torch's
            result = result.item()
        if isinstance(result, numbers.Real):
            return {"result": float(result)}
        return {"odd": repr(result)[:200]}
    except MemoryError:
        return {"memory": True}
    except SystemExit as end:  # no crash, and no answer
        return {"raised": f"SystemExit: {end}"[:1000]}
    except Exception as error:
        return {"raised": _told(error)}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]
