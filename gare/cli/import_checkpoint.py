"""``gare import-checkpoint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import config_options, gare_command
from gare.common.console import note, print_table, warn

if TYPE_CHECKING:
    from gare.model.accounted import Converted
    from gare.model.pixels import Pixels
    from gare.model.tokenizer import Tokenizer

IMPORT_FILE = "import.json"


@gare_command(
    "import-checkpoint", short_help="Convert a checkpoint of the authors' code, or a CLIP of OpenAI or open_clip."
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the converted model.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of the tokenizer it was trained with.")
@config_options
def import_checkpoint(file: Path, out: Path, tokenizer: Path | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Convert FILE: a checkpoint of the authors' released GARE code, an OpenAI CLIP archive, or open_clip's weights.

    A GARE checkpoint becomes a checkpoint folder, ready for gare evaluate, index and search. It holds neither its
    tokenizer nor the pooling temperature, corrected side and sign it was trained with: these are the recipe's
    unless --set says otherwise. A CLIP becomes a CLIP folder for model.clip. What the weights of open_clip do not
    say (activation, width of attention heads, pixel statistics) is read from the open_clip_config.json beside FILE;
    without it, --set has to say it. FILE is read as tensors; nothing in it is run.

    \b
    Examples:
      gare import-checkpoint pytorch_model.bin.4 --out gare-msrvtt --tokenizer clip-vit-base-patch32
      gare import-checkpoint pytorch_model.bin.4 --out gare-activitynet --tokenizer clip-vit-base-patch32 \\
        --set model.corrected=video --set model.context=words
      gare import-checkpoint ViT-B-32.pt --out clip-vit-base-patch32 --tokenizer clip-vit-base-patch32
      gare import-checkpoint laion/open_clip_model.safetensors --out clip-laion --tokenizer laion
      gare import-checkpoint epoch_32.pt --out clip-ours --tokenizer laion --set clip.activation=gelu \\
        --set clip.image_head_width=64 --set clip.text_head_width=64
    """
    from gare.common.files import atomic_directory, file_digest, write_json
    from gare.config.tree import parse_override, split_override
    from gare.model.archive import read_archive
    from gare.model.checkpoint import save_model
    from gare.model.clip_config import check_tokenizer
    from gare.model.open_clip import stated_for
    from gare.model.released import architecture_of, assumed, build_clip, build_gare, convert, settings_of
    from gare.model.tokenizer import Tokenizer

    archive = read_archive(file)
    of_clip = dict(split_override(text) for text in overrides if text.lstrip().startswith("clip."))
    changes = dict(parse_override(text) for text in overrides if not text.lstrip().startswith("clip."))
    converted = convert(archive.tensors, stated_for(file, of_clip))
    words = Tokenizer.load(tokenizer) if tokenizer is not None else None
    if words is not None:
        check_tokenizer(words, architecture_of(converted), str(tokenizer))
    _refuse_unused(converted, changes, of_clip)
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
    _show(converted, result)
    if words is None:
        _say_no_tokenizer(converted)
    use = f"--set model.clip={out}" if converted.kind == "clip" else f"gare evaluate {out} --shards DIR"
    note(f"{out}: {sum(t.numel() for t in converted.weights.values()):,} parameters; use it with {use}")
    return result


def _refuse_unused(converted: Converted, changes: dict[str, Any], of_clip: dict[str, Any]) -> None:
    """ConfigError for settings that the kind of file does not have."""
    from gare.common.errors import ConfigError

    if changes and converted.kind == "clip":
        raise ConfigError(f"{next(iter(changes))} is no setting of a CLIP model, which FILE is; leave out --set.")
    if of_clip and converted.kind == "gare":
        raise ConfigError(f"{next(iter(of_clip))} cannot be set: FILE is of the released code, whose CLIP is OpenAI's.")


def _save_clip(clip: Any, pixels: Pixels, tokenizer: Tokenizer | None, folder: Path) -> None:
    from transformers.utils import logging

    from gare.model.pixels import write_pixels

    logging.disable_progress_bar()
    clip.save_pretrained(folder)
    write_pixels(folder, pixels, clip.config.vision_config.image_size)
    if tokenizer is not None:
        tokenizer.save(folder)


def _show(converted: Converted, result: dict[str, Any]) -> None:
    rows = [["mapped", row.group, row.tensors, row.remark] for row in converted.mapped]
    rows += [["dropped", row.group, row.tensors, row.remark] for row in converted.dropped]
    print_table(f"{result['file']} ({result['format']})", ["", "tensors of the file", "count", "as, or why not"], rows)
    if converted.kind == "clip":
        rows = [[key, str(value), origin] for key, (value, origin) in converted.stated.items()]
        print_table("What the tensors do not say, and who did", ["of the CLIP", "value", "from"], rows)
    else:
        chosen = result["set"]
        settings = [[k, v, "--set" if k in chosen else "the recipe's default"] for k, v in result["assumed"].items()]
        settings += [[key, value, "the file's shapes"] for key, value in converted.settings.items()]
        settings = [[key, str(value), origin] for key, value, origin in settings]
        print_table("Settings, and where they come from", ["setting", "value", "from"], settings)


def _say_no_tokenizer(converted: Converted) -> None:
    end = converted.clip_config["text_config"]["eos_token_id"]
    warn(
        f"The file holds no tokenizer and --tokenizer names none: the model takes token ids (a text ends with {end}), "
        "and commands that read sentences will refuse it. Import again with --tokenizer DIR."
    )
