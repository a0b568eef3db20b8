"""``gare import-checkpoint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import config_options, gare_command
from gare.common.console import note, print_table, warn

if TYPE_CHECKING:
    from gare.model.released import Converted
    from gare.model.tokenizer import Tokenizer

IMPORT_FILE = "import.json"


@gare_command("import-checkpoint", short_help="Convert a checkpoint of the authors' code, or OpenAI's CLIP.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the converted model.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder of the tokenizer it was trained with.")
@config_options
def import_checkpoint(file: Path, out: Path, tokenizer: Path | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Convert FILE, a checkpoint of the authors' released GARE code or one of OpenAI's CLIP archives.

    A GARE checkpoint becomes a checkpoint folder, ready for gare evaluate, index and search. It holds neither its
    tokenizer nor the pooling temperature, corrected side and sign it was trained with: these are the recipe's
    unless --set says otherwise. A CLIP archive becomes a CLIP folder for model.clip. FILE is read as tensors;
    nothing in it is run.

    \b
    Examples:
      gare import-checkpoint pytorch_model.bin.4 --out gare-msrvtt --tokenizer clip-vit-base-patch32
      gare import-checkpoint pytorch_model.bin.4 --out gare-activitynet --tokenizer clip-vit-base-patch32 \\
        --set model.corrected=video --set model.context=words
      gare import-checkpoint ViT-B-32.pt --out clip-vit-base-patch32
    """
    from gare.common.errors import ConfigError
    from gare.common.files import atomic_directory, file_digest, write_json
    from gare.config.tree import parse_override
    from gare.model.archive import read_archive
    from gare.model.checkpoint import save_model
    from gare.model.released import assumed, build_clip, build_gare, check_tokenizer, convert, settings_of
    from gare.model.tokenizer import Tokenizer

    archive = read_archive(file)
    converted = convert(archive.tensors)
    words = Tokenizer.load(tokenizer) if tokenizer is not None else None
    if words is not None:
        check_tokenizer(converted, words)
    changes = dict(parse_override(text) for text in overrides)
    if changes and converted.kind == "clip":
        raise ConfigError(f"{file} is a CLIP model, which has no settings; leave out --set.")
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
            _save_clip(build_clip(converted), words, folder)
        write_json(folder / IMPORT_FILE, result)
    _show(converted, result)
    if words is None:
        _say_no_tokenizer(converted)
    use = f"--set model.clip={out}" if converted.kind == "clip" else f"gare evaluate {out} --shards DIR"
    note(f"{out}: {sum(t.numel() for t in converted.weights.values()):,} parameters; use it with {use}")
    return result


def _save_clip(clip: Any, tokenizer: Tokenizer | None, folder: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    clip.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save(folder)


def _show(converted: Converted, result: dict[str, Any]) -> None:
    rows = [["mapped", row.group, row.tensors, row.remark] for row in converted.mapped]
    rows += [["dropped", row.group, row.tensors, row.remark] for row in converted.dropped]
    print_table(f"{result['file']} ({result['format']})", ["", "tensors of the file", "count", "as, or why not"], rows)
    if converted.kind == "gare":
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
