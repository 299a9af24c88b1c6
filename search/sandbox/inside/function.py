"""Inside: one call of one function of a text, whose answer is a number."""

from __future__ import annotations

import pickle

from .messages import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def answer(order: dict[str, Any]) -> dict[str, str]:
    """The reply: "result", a number or "none"; "odd", what else it returned; "raised", "foreign" or
    "memory".
    """
    try:
        function = pickle.loads(order["function"])
    except Exception as error:
        return {"foreign": _told(error)}
    try:
        return _of(function(order["text"]))
    except MemoryError:
        return {"memory": ""}
    except SystemExit as end:
        return {"raised": f"SystemExit: {end}"[:1000]}
    except Exception as error:
        return {"raised": _told(error)}


def _of(result: Any) -> dict[str, str]:
    import numbers

    if result is None:
        return {"result": "none"}
    if hasattr(result, "item"):  # a number of numpy's or torch's
        result = result.item()
    if isinstance(result, numbers.Real):
        return {"result": repr(float(result))}
    return {"odd": repr(result)[:200]}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]
