"""Inspect and load a CLIP folder or hub id, for training, evaluation and the dry run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gare.common.errors import InputError
from gare.common.records import read_object
from gare.common.redact import first_line
from gare.model import pixels, vocabulary
from gare.model.architecture import CONFIG, Architecture
from gare.model.archive import read_archive
from gare.model.clip_config import OPENAI, check_tokenizer, config_of, read_config, shapes_of
from gare.model.open_clip import CONFIG as OPEN_CLIP_CONFIG
from gare.model.open_clip import Stated, stated_for
from gare.model.openai_names import config_values, convert_clip
from gare.model.pixels import OPENAI_PIXELS, Pixels, read_pixels
from gare.model.tokenizer import Tokenizer
from gare.model.towers import family_of, model_of
from gare.model.weights import as_floats, compare, read_safetensors, shapes_in

ADVICE = "Give a folder saved by transformers or open_clip, or a hub id this machine can reach."
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
SMALL_FILES = (CONFIG, OPEN_CLIP_CONFIG, *pixels.FILES, *vocabulary.FILES)
SAFE_FILES = (SAFE, f"{SAFE}.index.json", "model-*.safetensors")
PICKLED_FILES = (PICKLED, f"{PICKLED}.index.json", "pytorch_model-*.bin")
OPEN_CLIP_FILES = ("open_clip_*.safetensors", "open_clip_*.bin")
MAX_FILES = 1000


@dataclass(frozen=True)
class ClipSource:
    """A CLIP model before its weights are loaded.

    ``folder``: None if only the model's published sizes are known and none of its files are on this machine.
    ``tokenizer``: None if there is none. ``open_clip``: its config's values, if the folder is one of open_clip's.
    """

    name: str
    architecture: Architecture
    folder: Path | None = None
    pixels: Pixels = OPENAI_PIXELS
    tokenizer: Tokenizer | None = None
    open_clip: Stated | None = None

    @property
    def lacks_tokenizer(self) -> bool:
        """True if the folder is known and has no tokenizer."""
        return self.folder is not None and self.tokenizer is None


def inspect_clip(source: str) -> ClipSource:
    """Inspect the CLIP of a folder or hub id without its weights: from this machine, else as published, else the hub.

    Raises InputError if there is none, or if any part other than its weights cannot be used.
    """
    folder = _local(source)
    if folder is not None:
        found = _inspect(source, folder)
        if found.open_clip is None and _weight_files(folder):
            _check_headers(found, folder)
        elif Path(source).is_dir() and _open_clip_weights(folder) is None:
            raise _no_weights(source)
        return found
    if source in OPENAI:
        return ClipSource(source, config_of({"model_type": "clip", **OPENAI[source]}, source))
    return _inspect(source, _fetched(source, SMALL_FILES))


def load_clip(source: str) -> tuple[Any, ClipSource]:
    """Load the model of a folder or hub id in float32, in evaluation mode, and everything else known of it.

    Raises InputError as ``inspect_clip`` does, and if the weights do not fit config.json; that is checked before
    anything of the config's size is allocated.
    """
    folder = Path(source) if Path(source).is_dir() else None
    if folder is None:
        folder = _fetched(source, (*SMALL_FILES, *SAFE_FILES))
        for patterns in (PICKLED_FILES, OPEN_CLIP_FILES[:1], OPEN_CLIP_FILES[1:]):
            if not _weight_files(folder) and _open_clip_weights(folder) is None:
                folder = _fetched(source, patterns)
    found = _inspect(source, folder)
    return model_of(found.architecture, _read_weights(found, folder)), found


def _inspect(source: str, folder: Path) -> ClipSource:
    stated = None
    if _is_open_clip(folder):
        stated = stated_for(folder / OPEN_CLIP_CONFIG, {})
        architecture, statistics = config_of(config_values(stated), source), stated.pixels
    elif (folder / CONFIG).is_file():
        architecture = read_config(folder)
        statistics = read_pixels(folder, architecture.vision_config.image_size, family_of(architecture).pixels)
    else:
        raise InputError(f"Cannot load a CLIP model from {source}: it has no {CONFIG}. {ADVICE}")
    tokenizer = None
    if vocabulary.has_tokenizer(folder):
        tokenizer = family_of(architecture).tokenizer.load(folder)
        check_tokenizer(tokenizer, architecture, source)
    return ClipSource(source, architecture, folder, statistics, tokenizer, stated)


def _local(source: str) -> Path | None:
    """Return the folder on this machine, or None; InputError if the source can only be a folder and does not exist."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith(("/", ".", "~")):
        raise InputError(f"Cannot load a CLIP model from {source}: there is no such folder. {ADVICE}")
    from huggingface_hub import snapshot_download

    try:
        with _quiet_hub():
            cached = Path(snapshot_download(source, local_files_only=True))
    except Exception:  # noqa: BLE001 - the hub's library has many ways to say that it has nothing cached
        return None
    return cached if (cached / CONFIG).is_file() else None


def _fetched(source: str, patterns: tuple[str, ...]) -> Path:
    """Download a hub id's files and return their folder; if the hub does not answer, use those on this machine."""
    _local(source)
    from huggingface_hub import snapshot_download

    try:
        with _quiet_hub():
            return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except Exception as error:  # many kinds, for a hub that does not answer or does not know the model
        raise InputError(f"Cannot load a CLIP model from {source}: {first_line(error)}. {ADVICE}") from error


def _weight_files(folder: Path) -> list[Path]:
    """List the files of a folder's weights; empty if there are none."""
    for name in (SAFE, PICKLED):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            named = read_object(index).get("weight_map")
            files = set(named.values()) if isinstance(named, dict) and all(map(_is_text, named.values())) else set()
            if not 0 < len(files) <= MAX_FILES or any(Path(file).name != file for file in files):
                raise InputError(f"{index} does not name the files of the weights next to it.")
            return [folder / file for file in sorted(files)]
    return []


def _check_headers(found: ClipSource, folder: Path) -> dict[Path, list[str]]:
    """Compare safetensors files with the config and return each file's weight names; pickled files are skipped."""
    files = [path for path in _weight_files(folder) if path.suffix == ".safetensors"]
    shapes = {path: shapes_in(path) for path in files}
    if files:
        held = {name: shape for part in shapes.values() for name, shape in part.items() if _counts(name)}
        compare(held, shapes_of(found.architecture), found.name, f"its {CONFIG}")
    return {path: [name for name in part if _counts(name)] for path, part in shapes.items()}


def _read_weights(found: ClipSource, folder: Path) -> dict[str, Tensor]:
    if found.open_clip is not None:
        theirs = _open_clip_weights(folder)
        if theirs is None:
            raise _no_weights(found.name)
        return as_floats(convert_clip(read_archive(theirs).tensors, found.open_clip).weights, str(theirs))
    files = _weight_files(folder)
    if not files:
        raise _no_weights(found.name)
    names = _check_headers(found, folder)
    held: dict[str, Tensor] = {}
    for path in files:
        part = read_safetensors(path, names[path]) if path in names else read_archive(path).tensors
        held |= {name: tensor for name, tensor in part.items() if _counts(name)}
    if not names:
        shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
        compare(shapes, shapes_of(found.architecture), found.name, f"its {CONFIG}")
    return as_floats(held, found.name)


def _counts(name: str) -> bool:
    """True if a tensor is a weight: older files also hold the position numbers."""
    return not name.endswith(".position_ids")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _no_weights(source: str) -> InputError:
    return InputError(f"Cannot load a CLIP model from {source}: it has no weights ({SAFE}). {ADVICE}")


def _open_clip_weights(folder: Path) -> Path | None:
    """Return the weights next to open_clip's config, if there are any."""
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        return None
    return next((path for pattern in OPEN_CLIP_FILES for path in sorted(folder.glob(pattern))), None)


def _is_open_clip(folder: Path) -> bool:
    """True if a folder is one of open_clip's and transformers cannot read it."""
    if not (folder / CONFIG).is_file():
        return (folder / OPEN_CLIP_CONFIG).is_file()
    return not _weight_files(folder) and _open_clip_weights(folder) is not None


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Silence the log of the hub's library: an error says what is wrong, in one sentence."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
