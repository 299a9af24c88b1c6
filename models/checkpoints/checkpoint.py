"""Checkpoints: folders that `AutoModelForCausalLM.from_pretrained` loads, with a value head and
settings beside the model.

`guide.json` is optional and says how the checkpoint wants to be used
(`models.checkpoints.settings`); `value_head.safetensors` is the head (`models.checkpoints.heads`).
What can be checked without torch is checked without it, before anything is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from models.checkpoints.config_check import check_config
from models.checkpoints.digests import check_digests, digest_of, write_digests
from models.checkpoints.foreign import read_by
from models.checkpoints.head_layouts import HEAD, LAYOUTS, architecture, head_layout, tensor_names
from models.checkpoints.settings import GUIDE, check_settings
from models.checkpoints.sources import file_state, plain
from models.memory import check_loading

logger = logging.getLogger(f"copse.{__name__}")

CONTENT = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*token*",
    "vocab*",
    "merges.txt",
    "*.jinja",
    GUIDE,
)
BAR = 1 << 30  # bytes of weights from which loading shows a progress bar
DTYPES = ("float32", "bfloat16", "float16")
# how classes end that encode texts
ENCODERS = ("ForMaskedLM", "ForQuestionAnswering", "ForPreTraining", "EncoderModel")
ENCODER_TYPES = frozenset((
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "esm",
    "eurobert", "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta",
))  # fmt: skip
_versions: dict[tuple[Any, ...], str] = {}


def describe(path: str | Path) -> dict[str, Any]:
    """The settings in the checkpoint's `guide.json`, {} without one. Needs neither torch nor the
    weights in memory.

    path  folder, or id of a model on the hub. Raises ValueError, saying what to do, where the
          folder, its config.json, its weights or a head that the settings promise are missing, and
          for settings that `SETTINGS` does not allow
    """
    folder = resolve(path, weights=False)
    check_config(folder, _read_json(folder / "config.json", f"{folder} is not a checkpoint"))
    weights = set(folder.glob("*.safetensors")) - {folder / HEAD}
    if not weights and (pickles := sorted(folder.glob("*.bin"))):
        raise ValueError(
            f"the weights in {folder} are a pickle ({pickles[0].name}), which may hold code and is "
            "not read: give a checkpoint with *.safetensors; save_pretrained of transformers "
            "writes them"
        )
    if Path(path).is_dir() and not weights:
        raise ValueError(
            f"{folder} holds no weights (*.safetensors): copy them there, or give another "
            "checkpoint"
        )
    if not (folder / GUIDE).exists():
        return {}
    settings = _read_json(folder / GUIDE, "the settings of a checkpoint are broken")
    check_settings(settings, str(folder / GUIDE))
    if settings.get("value_head") and not (folder / HEAD).exists() and Path(path).is_dir():
        raise ValueError(
            f"{folder} has no {HEAD}, which its {GUIDE} promises: copy it there, or set "
            "value_head to false"
        )
    return settings


def version(path: str | Path) -> str:
    """16 hex digits: SHA-256 of what decides the model's behaviour (config, tokenizer, weights,
    head, settings), names included.

    Kept per process as long as paths, sizes and times of the files stay the same. Raises ValueError
    for weights of ours that are damaged (`models.checkpoints.digests`).
    """
    folder = resolve(path)
    files, key = _content(folder)
    if key not in _versions:
        found = {file.name: digest_of(file) for file in files}
        check_digests(folder, found)
        digest = hashlib.sha256()
        for name, content in found.items():
            digest.update(name.encode() + b"\0" + bytes.fromhex(content))
        _versions[key] = digest.hexdigest()[:16]
    return _versions[key]


def _content(folder: Path) -> tuple[list[Path], tuple[Any, ...]]:
    """The files that decide the model's behaviour, and what changes when one of them does."""
    found: set[Path] = set()
    for pattern in CONTENT:
        found.update(filter(Path.is_file, folder.glob(pattern)))
    files = sorted(found)
    return files, (str(folder), *map(file_state, files))


def check_size(path: str | Path, device: str = "auto", dtype: str = "auto") -> None:
    """Raise ValueError where a model is larger than the memory of its device, before `version`
    reads it. Arguments as for `load_model`.

    A checkpoint whose version is known already passes: it may be loaded, and would not fit a second
    time.
    """
    folder = resolve(path)
    if _content(folder)[1] in _versions:
        return
    place, kind = _place(device, dtype, folder)
    check_loading(folder, str(place), _stored(folder), kind)


def load_model(
    path: str | Path, device: str = "auto", dtype: str = "auto", trainable: bool = True
) -> tuple[Any, Any, Any, dict[str, Any]]:
    """A checkpoint's (model, tokenizer, head, settings); head is None and settings {} where there
    are none.

    path    folder, or id of a model on the hub
    device  "auto": cuda where there is one, else cpu; or what torch.device takes
    dtype   "auto": what `chosen_dtype` says; or one of DTYPES
    trainable  False: for an engine alone; the model is a `models.checkpoints.llama_weights.Llama`
               where the checkpoint has that shape, its weights stay on disk
            until the engine packs them, and transformers is not asked

    A published reward model loads by its own head (`models.checkpoints.head_layouts`); where it has
    no output layer, that is its embedding, which is never read. Code in the checkpoint's folder
    (`auto_map`) is never run.

    Raises ValueError that says what to do: a missing folder, a tensor that is missing, unexpected
    or misshapen (by name), a broken head.
    """
    settings = describe(path)
    folder = resolve(path)
    from models.checkpoints.heads import ValueHead, load_head, published_head

    place, kind = _place(device, dtype, folder)
    _check_architecture(folder)
    check_loading(folder, str(place), _stored(folder), kind)
    version(folder)  # checks the digests of weights that we wrote
    layout = head_layout(folder)
    model = None
    if not trainable:
        model = _native(folder, place, kind)
    if model is None:
        model = _by_transformers(folder, layout, place, kind)
    tokenizer = _tokenizer(folder, trainable)
    hidden = model.config.get_text_config().hidden_size
    head: ValueHead | None
    if layout in LAYOUTS:
        head = published_head(folder, str(layout), hidden)
    else:
        head = load_head(folder, hidden)
    if head is not None:
        head.to(place)
    logger.info(
        "%s: %.1f M parameters, %s on %s, value head: %s",
        folder,
        model.num_parameters() / 1e6,
        kind,
        place,
        layout or "none",
    )
    return model, tokenizer, head, settings


def _check_architecture(folder: Path) -> None:
    """Raise ValueError for a model that does not continue texts."""
    made = architecture(folder)
    raw = _read_json(folder / "config.json", f"{folder} is not a checkpoint")
    if made.endswith(ENCODERS) or (
        raw.get("model_type") in ENCODER_TYPES and not raw.get("is_decoder")
    ):
        what = made or raw["model_type"]
        raise ValueError(
            f"{folder} is a {what}, which encodes texts and cannot continue one: give a "
            "causal language model (...ForCausalLM)"
        )
    if raw.get("is_encoder_decoder"):
        raise ValueError(
            f"{folder} is a {made}, an encoder with a decoder: give a causal language model "
            "(...ForCausalLM)"
        )


def _stored(folder: Path) -> str:
    own = own_dtype(folder)
    return own if own in DTYPES else "float32"


def _native(folder: Path, place: Any, kind: str) -> Any:
    """The checkpoint for our own forward, None where it has another shape, device or float type."""
    import torch

    from models.checkpoints.llama_weights import Llama

    if place.type != "cpu" or kind not in ("float32", "bfloat16"):
        return None
    return Llama.open(folder, getattr(torch, kind))


def _tokenizer(folder: Path, trainable: bool) -> Any:
    """The checkpoint's tokenizer, by transformers where it is to be trained on or needs code of
    theirs.
    """
    from models.checkpoints.tokenizer import Fast

    try:
        if not trainable and (own := Fast.open(folder)) is not None:
            return own
        from transformers import AutoTokenizer

        return read_by(AutoTokenizer, folder)
    except Exception as error:  # as below
        raise _unloadable(folder, error) from error


def _unloadable(folder: Path, error: Exception) -> ValueError:
    reason = str(error).strip().split("\n")[0][:300]
    return ValueError(
        f"{folder} cannot be loaded ({reason}): copy or save the checkpoint again, or give another"
    )


def _by_transformers(folder: Path, layout: str | None, place: Any, kind: str) -> Any:
    """The checkpoint's model by transformers, on its device. Raises ValueError for tensors that
    are missing, unexpected or misshapen.
    """
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging as bar

    published = LAYOUTS.get(layout or "")
    bars = (
        bar.is_progress_bar_enabled()
        and sum(f.stat().st_size for f in folder.glob("*.safetensors")) < BAR
    )
    verbosity = bar.get_verbosity()
    try:
        # surplus tensors are reported below, or are a head's
        bar.set_verbosity_error()
        if bars:  # a small model loads at once
            bar.disable_progress_bar()
        config = read_by(AutoConfig, folder)
        if published and not any(name.endswith("lm_head.weight") for name in tensor_names(folder)):
            # else the output layer would be random numbers
            config.get_text_config().tie_word_embeddings = True
        model, info = read_by(
            _maker(folder, config),
            folder,
            config=config,
            dtype=getattr(torch, kind),
            output_loading_info=True,
        )
    # what transformers raises for odd values in the files of others has no common name
    except Exception as error:
        raise error if str(error).startswith(str(folder)) else _unloadable(folder, error) from error
    finally:
        bar.set_verbosity(verbosity)
        if bars:
            bar.enable_progress_bar()
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        found = set()
        for key in info.get(what, ()):
            name = str(key[0] if isinstance(key, tuple) else key)
            if published is None or not name.startswith(published.prefix):
                found.add(name)
        if found:
            names = sorted(found)
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(
                f"{folder}: {what.removesuffix('_keys')} tensors "
                f"{', '.join(names[:3])}{more}: its weights are not those of a "
                f"{type(model).__name__}; copy the checkpoint again, or correct config.json"
            )
    return model.to(place).eval().requires_grad_(False)


def _maker(folder: Path, config: Any) -> Any:
    """The class of transformers that loads it: for texts alone, or for texts and pictures, of
    which the half for texts is used.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for maker in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in maker._model_mapping.keys():  # noqa: SIM118 (it is no dict)
            return maker
    raise ValueError(
        f"{folder} is a {config.model_type}, which transformers does not load as a language "
        "model: give another checkpoint"
    )


def _place(device: str, dtype: str, folder: Path) -> tuple[Any, str]:
    """The torch device and the name of the float type."""
    import torch

    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"unknown dtype {dtype!r}: use auto, {', '.join(DTYPES)}")
    cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: use auto, cpu or cuda") from None
    if place.type == "cuda" and not cuda:
        raise ValueError(
            "this torch sees no cuda device: use --device cpu, or install a torch built for your "
            "GPU"
        )
    if dtype == "auto":
        dtype = chosen_dtype(folder, place.type)
    return place, dtype


def chosen_dtype(folder: Path, device: str) -> str:
    """The float type that a checkpoint is computed in by default: decided by checkpoint and
    device, never by what is free.

    On a GPU bfloat16, or the checkpoint's own float16. On a CPU the checkpoint's own bfloat16 where
    it has instructions for that, else float32, which holds every 16-bit number.
    """
    own = own_dtype(folder)
    if device == "cuda":
        return "float16" if own == "float16" else "bfloat16"
    return "bfloat16" if own == "bfloat16" and fast_bfloat16() else "float32"


def own_dtype(folder: Path) -> str:
    """The float type that config.json gives; "float32" where it gives none."""
    raw = _read_json(folder / "config.json", f"{folder} is not a checkpoint")
    inner = raw.get("text_config") or {}
    named = (
        raw.get("dtype") or raw.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype")
    )
    return str(named or "float32").removeprefix("torch.")


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers by instructions of its own (AVX-512 BF16,
    AMX), and torch's oneDNN uses them.
    """
    import torch

    if not torch.backends.mkldnn.is_available():
        return False
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(supported) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def save_model(
    path: str | Path,
    model: Any,
    tokenizer: Any,
    head: Any = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint; the folder appears at once and complete, replacing one that is there.
    Returns its path.

    Raises ValueError for settings that `describe` would refuse.
    """
    from models.checkpoints.heads import save_head

    path = Path(path).resolve()
    if settings is not None:
        check_settings(settings)
        if settings.get("value_head") and head is None:
            raise ValueError(
                "the settings promise a value head, but none is given: give head=, or set "
                "value_head to false"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True
    ) as temporary:
        fresh = Path(temporary, "new")
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        if head is not None:
            save_head(fresh, head)
        write_digests(fresh)
        if settings is not None:
            (fresh / GUIDE).write_text(json.dumps(settings, indent=2) + "\n")
        if path.exists():
            os.replace(path, Path(temporary, "old"))
        os.replace(fresh, path)
    return path


def resolve(path: str | Path, weights: bool = True) -> Path:
    """The folder of a checkpoint; a hub id is looked up in the hub's cache or downloaded, without
    `weights` its JSON files only.

    A GGUF file, an adapter and quantised weights are made a plain folder first
    (`models.checkpoints.sources`). Raises ValueError that says what to do.
    """
    name = str(path)
    if Path(path).exists():
        return plain(Path(path).resolve(), resolve)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ValueError(f"no folder {name}: check the path of the checkpoint")
    from huggingface_hub import snapshot_download

    patterns = ["*.json"]
    if weights:
        patterns += ["*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab*"]
    try:
        found = Path(snapshot_download(name, allow_patterns=patterns))
        if not (found / "config.json").exists():  # an adapter, or nothing but GGUF files
            patterns = ["*.json", "*.safetensors", "*.gguf", "*.jinja"]
            found = Path(snapshot_download(name, allow_patterns=patterns))
            weights = True
    except Exception as error:  # the hub's client raises what its HTTP library raises
        reason = str(error).strip().split("\n")[0][:200]
        message = (
            f"{name} is neither a folder nor a model on the hub that can be reached now "
            f"({type(error).__name__}: {reason})"
        )
        raise ValueError(f"{message}: check the path, or the name and the network") from error
    return plain(found, resolve) if weights else found


def _read_json(path: Path, problem: str) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(
            f"{problem}: it has no {path.name}: give the folder that save_pretrained wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{problem}: {path} cannot be read ({error}): correct or copy it again"
        ) from None
