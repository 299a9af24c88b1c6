"""Whether the hub can be asked at all."""

from __future__ import annotations

SECONDS = 5.0  #: that a connection to the hub, and an answer of it, may take


def hub_answers(name: str) -> bool:
    """Whether the hub answers a question on the model `name`, if only that there is none, within
    some `SECONDS`. False where it is away, and where it may not be asked (HF_HUB_OFFLINE).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(name, timeout=SECONDS)
    except (HfHubHTTPError, ValueError):  # it says no, or this is no name of a model
        return True
    except Exception:  # what the client raises for a network has no common name
        return False
    return True
