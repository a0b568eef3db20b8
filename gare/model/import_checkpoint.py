"""Convert a foreign checkpoint: the authors' released code, an OpenAI CLIP archive, or open_clip's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gare.common.errors import ConfigError
from gare.common.files import atomic_directory, file_digest, write_json
from gare.config.tree import parse_override, split_override
from gare.model.accounted import Converted
from gare.model.archive import read_archive
from gare.model.checkpoint import save_clip, save_model
from gare.model.clip_config import check_tokenizer
from gare.model.open_clip import stated_for
from gare.model.pixels import Pixels, write_pixels
from gare.model.released import architecture_of, assumed, build_clip, build_gare, convert, settings_of
from gare.model.tokenizer import Tokenizer

IMPORT_FILE = "import.json"


def import_checkpoint(
    file: Path, out: Path, tokenizer: Path | None, overrides: Sequence[str]
) -> tuple[Converted, dict[str, Any]]:
    """Convert a file to a checkpoint folder (GARE) or a CLIP folder; only its tensors are read, nothing in it is run.

    Args:
        file: the foreign checkpoint.
        out: folder for the converted model.
        tokenizer: folder of the tokenizer it was trained with; without one, the model takes token ids only.
        overrides: ``model.*=...`` for what a GARE checkpoint does not say, ``clip.*=...`` for what a CLIP does not.

    Returns the conversion and the content of ``import.json``. Raises InputError for a file that cannot be converted
    completely, and ConfigError for a setting that its kind does not have.
    """
    archive = read_archive(file)
    of_clip = dict(split_override(text) for text in overrides if text.lstrip().startswith("clip."))
    changes = dict(parse_override(text) for text in overrides if not text.lstrip().startswith("clip."))
    converted = convert(archive.tensors, stated_for(file, of_clip))
    words = Tokenizer.load(tokenizer) if tokenizer is not None else None
    if words is not None:
        check_tokenizer(words, architecture_of(converted), str(tokenizer))
    if changes and converted.kind == "clip":
        raise ConfigError(f"{next(iter(changes))} is not a setting of a CLIP model, which FILE is; leave out --set.")
    if of_clip and converted.kind == "gare":
        raise ConfigError(f"{next(iter(of_clip))} cannot be set: FILE is of the released code, whose CLIP is OpenAI's.")
    result = {
        "file": str(file),
        "sha256": file_digest(file),
        "format": archive.kind,
        "kind": converted.kind,
        "out": str(out),
        "mapped": [vars(row) for row in converted.mapped],
        "dropped": [vars(row) for row in converted.dropped],
        "tokenizer": words is not None,
    }
    config = settings_of(converted, changes)
    with atomic_directory(out, marker=IMPORT_FILE) as folder:
        if converted.kind == "gare":
            result |= {"from_file": converted.settings, "assumed": assumed(config, converted), "set": sorted(changes)}
            save_model(build_gare(converted, config, words), config, folder)
        else:
            result |= {"stated": converted.stated, "pixels": vars(converted.pixels)}
            _save_clip(build_clip(converted), converted.pixels, words, folder)
        write_json(folder / IMPORT_FILE, result)
    return converted, result


def _save_clip(clip: Any, pixels: Pixels, tokenizer: Tokenizer | None, folder: Path) -> None:
    save_clip(clip, folder)
    write_pixels(folder, pixels, clip.config.vision_config.image_size)
    if tokenizer is not None:
        tokenizer.save(folder)
