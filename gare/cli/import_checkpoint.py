"""``gare import-checkpoint``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gare.cli.command import PLACE, config_options, gare_command
from gare.common.console import note, print_table, warn

if TYPE_CHECKING:
    from gare.model.accounted import Converted


@gare_command(
    "import-checkpoint", short_help="Convert a checkpoint of the authors' code, or a CLIP of OpenAI or open_clip."
)
@click.argument("file", type=PLACE)
@click.option("--out", required=True, type=PLACE, help="Folder for the converted model.")
@click.option("--tokenizer", type=PLACE, help="Folder of the tokenizer it was trained with.")
@config_options
def import_checkpoint(file: Path, out: Path, tokenizer: Path | None, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Convert FILE: a checkpoint of the authors' released GARE code, an OpenAI CLIP archive, or open_clip's weights.

    A GARE checkpoint becomes a checkpoint folder, ready for gare evaluate, index and search. It contains neither its
    tokenizer nor the pooling temperature, corrected side and sign it was trained with: the recipe's values are used
    unless you --set others. A CLIP becomes a CLIP folder for model.clip. What open_clip's weights do not say
    (activation, width of attention heads, pixel statistics) is read from open_clip_config.json in the folder of FILE;
    without that file you have to --set it. FILE is read as tensors; nothing in it is run.

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
    from gare.model import import_checkpoint as importing

    converted, result = importing.import_checkpoint(file, out, tokenizer, overrides)
    _show(converted, result)
    if not result["tokenizer"]:
        end = converted.clip_config["text_config"]["eos_token_id"]
        warn(
            f"The file holds no tokenizer and --tokenizer names none: the model takes token ids (a text ends with "
            f"{end}), and commands that read sentences will refuse it. Import again with --tokenizer DIR."
        )
    use = f"--set model.clip={out}" if converted.kind == "clip" else f"gare evaluate {out} --shards DIR"
    note(f"{out}: {sum(t.numel() for t in converted.weights.values()):,} parameters; use it with {use}")
    return result


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
