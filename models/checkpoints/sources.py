"""What people have beside folders of safetensors: a GGUF file, a LoRA adapter, quantised weights.
Each is made a plain folder, once.

The folder is kept in the user's cache (`XDG_CACHE_HOME`, else `~/.cache`), under a digest of what
it was made from, and written beside and renamed, so that one which is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.checkpoints.dequantise import dequantise, quantised
from models.checkpoints.digests import digest_of, write_digests
from models.checkpoints.foreign import read_by
from models.checkpoints.head_layouts import HEAD
from models.checkpoints.settings import GUIDE
from models.memory import check_anywhere, check_making, weight_bytes

log = logging.getLogger(f"copse.{__name__}")

ADAPTER = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"  #: of an adapter
VERSION = "1"  #: changes where the same source would become another folder


def plain(source: Path, resolve: Callable[[str], Path]) -> Path:
    """The plain folder for a file or folder; `source` itself where it is one.

    resolve  from the name of a base checkpoint to its plain folder. Raises ValueError that says
             what to do.
    """
    if source.is_file():
        if source.suffix.lower() != ".gguf":
            raise ValueError(
                f"{source} is a file: give the folder of the checkpoint, or a .gguf file"
            )
        return _of_gguf(source)
    if (source / ADAPTER).exists():
        return _of_adapter(source, resolve)
    if not (source / "config.json").exists():
        files = sorted(source.glob("*.gguf"))
        if len(files) > 1:
            raise ValueError(
                f"{source} holds {len(files)} GGUF files: give one of them, such as {files[0]}"
            )
        return _of_gguf(files[0]) if files else source
    method = quantised(source)
    if method is None:
        return source
    return _made(
        _digest([*source.glob("*.json"), *source.glob("*.safetensors")]),
        lambda folder: dequantise(source, folder, method),
    )


def cache_folder() -> Path:
    """Where made checkpoints are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "copse" / "checkpoints"


_digests: dict[tuple[Any, ...], str] = {}


def _digest(files: list[Path], *more: str, check: Callable[[], None] | None = None) -> str:
    """16 hex digits of what the files hold; kept per process as long as paths, sizes and times stay
    the same.

    check  called before the files are read: raises ValueError where that would be in vain
    """
    files = sorted(files)
    key = (more, *map(file_state, files))
    if key not in _digests:
        if check is not None:
            check()
        digest = hashlib.sha256("|".join((VERSION, *more)).encode())
        for file in files:
            digest.update(file.name.encode() + b"\0" + bytes.fromhex(digest_of(file)))
        _digests[key] = digest.hexdigest()[:16]
    return _digests[key]


def file_state(file: Path) -> tuple[str, int, int]:
    """What changes when a file does: its path, size and time."""
    state = file.stat()
    return str(file), state.st_size, state.st_mtime_ns


def _made(digest: str, make: Callable[[Path], None]) -> Path:
    """The folder of this digest, made now if it is not there."""
    target = cache_folder() / digest
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{target.parent} cannot be written ({error}): set XDG_CACHE_HOME to a folder that can"
        ) from error
    with tempfile.TemporaryDirectory(prefix=".new.", dir=target.parent) as temporary:
        folder = Path(temporary, "made")
        folder.mkdir()
        make(folder)
        write_digests(folder)
        try:
            os.replace(folder, target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    return target


def _of_gguf(file: Path) -> Path:
    numbers = _check_gguf(file)

    def convert(folder: Path) -> None:
        check_making(file, 4 * numbers)  # transformers holds all tensors in float32
        _convert_gguf(file, folder)

    return _made(_digest([file], check=lambda: check_anywhere(file, 2 * numbers)), convert)


def _check_gguf(file: Path) -> int:
    """How many numbers the tensors of a GGUF file hold. Raises ValueError unless it is whole and
    of types that can be read.
    """
    with open(file, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(
                f"{file} is no GGUF file: download it again, or give a folder of safetensors"
            )
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError(
            f"{file}: GGUF files need the package gguf: install Copse again, or give a folder of "
            "safetensors"
        ) from None
    try:
        reader = GGUFReader(file)
        ends = [int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors]
    except Exception as error:  # numpy's and the reader's own, of all kinds
        reason = str(error).strip().split("\n")[0][:120]
        raise ValueError(
            f"{file} is cut short, or of a GGUF type that is not known ({reason}): download "
            "it again, or another file"
        ) from error
    if not ends or max(ends) > file.stat().st_size:
        raise ValueError(f"{file} is cut short: download it again")
    return sum(int(tensor.n_elements) for tensor in reader.tensors)


def _convert_gguf(file: Path, folder: Path) -> None:
    """Dequantise a GGUF file by transformers into `folder`: 16-bit and 32-bit floats stay what
    they are, all else becomes bfloat16.
    """
    import torch
    from gguf import GGMLQuantizationType, GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    log.warning(
        "%s is converted once, which takes a minute or more for a large one; it is kept in %s",
        file.name,
        cache_folder(),
    )
    sizes: dict[Any, int] = {}
    for tensor in GGUFReader(file).tensors:
        sizes[tensor.tensor_type] = sizes.get(tensor.tensor_type, 0) + int(tensor.n_bytes)
    kept = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}
    dtype = kept.get(max(sizes, key=lambda kind: sizes[kind]), torch.bfloat16)
    place = file.parent
    options: dict[str, Any] = {"gguf_file": file.name}
    try:
        with _quiet():
            model = read_by(AutoModelForCausalLM, place, dtype=dtype, **options)
            tokenizer = read_by(AutoTokenizer, place, **options)
    except Exception as error:  # what a converter meets in a file that it does not know
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"{file} cannot be converted ({reason}): give the checkpoint as a folder of safetensors"
        ) from error
    config = model.config
    config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None  # its weights are plain now, which it does not know
    output = model.get_output_embeddings()
    if not config.tie_word_embeddings and torch.equal(
        output.weight, model.get_input_embeddings().weight
    ):
        config.tie_word_embeddings = True
        model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=getattr(config, "bos_token_id", None),
        eos_token_id=getattr(config, "eos_token_id", None),
        pad_token_id=getattr(config, "pad_token_id", None),
    )
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and its remarks on float types: one line of ours is enough."""
    from transformers.utils import logging as theirs

    verbosity = theirs.get_verbosity()
    bars = theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()


def _of_adapter(source: Path, resolve: Callable[[str], Path]) -> Path:
    settings = _read(source / ADAPTER)
    name = settings.get("base_model_name_or_path")
    if not name:
        raise ValueError(
            f"{source / ADAPTER} does not name its base: write the folder of it as "
            "base_model_name_or_path"
        )
    beside = source / str(name)
    try:
        base = resolve(str(beside if beside.is_dir() else name))
    except ValueError as error:
        message = f"{source} is an adapter, and its base {name} is not there ({error})"
        raise ValueError(
            f"{message}: copy the base to this path, or correct base_model_name_or_path in its "
            f"{ADAPTER}"
        ) from error
    files: list[Path] = []
    for pattern in ("*.json", "*.safetensors"):
        files += [*source.glob(pattern), *base.glob(pattern)]
    if not (source / WEIGHTS).exists():
        raise ValueError(
            f"the adapter {source} has no {WEIGHTS}: copy it there; the older adapter_model.bin is "
            "a pickle, which may hold code and is not read"
        )
    needed = weight_bytes([base])

    def merge(folder: Path) -> None:
        check_making(source, needed)
        _merge(source, base, folder)

    return _made(_digest(files, "adapter", check=lambda: check_anywhere(source, needed)), merge)


def _merge(source: Path, base: Path, folder: Path) -> None:
    """Add an adapter's weights to its base's."""
    try:
        from peft import PeftModel
    except ImportError:
        raise ValueError(
            f'{source} is an adapter, which needs a package: pip install "copse-search[train]"'
        ) from None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with _quiet():
            model = read_by(AutoModelForCausalLM, base, dtype="auto")
        merged = PeftModel.from_pretrained(model, str(source)).merge_and_unload()
        own = (source / "tokenizer.json").exists() or (source / "tokenizer_config.json").exists()
        tokenizer = read_by(AutoTokenizer, source if own else base)
    except Exception as error:  # peft's and torch's, of all kinds
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"{source} does not fit its base {base} ({reason}): give the base that it was "
            "trained on"
        ) from error
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in (GUIDE, HEAD):
        for place in (source, base):
            if (place / name).exists():
                shutil.copy(place / name, folder)
                break


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}): correct or copy it again") from None
    return found if isinstance(found, dict) else {}
