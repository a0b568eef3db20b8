"""open_clip's weights: what they do not say comes from their config or the user, never from a guess."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from gare.cli import cli
from gare.common.errors import InputError
from gare.config import ModelConfig
from gare.model import GareModel
from gare.model.clip_config import shapes_of
from gare.model.clip_source import inspect_clip
from tests import openai_clip

CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 40, "width": 64, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.25, 0.5], "std": [0.5, 0.5, 0.25], "interpolation": "bicubic"},
}
SETS = ("clip.activation=gelu", "clip.image_head_width=16", "clip.text_head_width=32")
SIZES = ("input_resolution", "context_length", "vocab_size")


@pytest.fixture(scope="module")
def clip():
    """A CLIP as open_clip builds it: exact GELU, heads of 16 and 32."""
    torch.manual_seed(0)
    clip = openai_clip.Clip().eval()
    for blocks, heads in ((clip.visual.transformer.resblocks, 4), (clip.transformer.resblocks, 2)):
        for block in blocks:
            block.mlp.gelu = nn.GELU()
            block.attn.num_heads, block.attn.head_dim = heads, 64 // heads
    return clip


@pytest.fixture(scope="module")
def state(clip):
    return {name: tensor.clone() for name, tensor in clip.state_dict().items() if name not in SIZES}


def config(**changes):
    """The config with keys of ``vision_cfg__layers`` form changed."""
    values = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        *outer, last = key.split("__")
        part = values["model_cfg"]
        for name in outer:
            part = part[name]
        part[last] = value
    return values


def imported(file, *arguments):
    """Run the command; exit code, output, folder."""
    out = file.parent / "out"
    done = CliRunner().invoke(cli, ["import-checkpoint", str(file), "--out", str(out), *arguments])
    return done.exit_code, done.output, out


def check_same(out, clip):
    model = GareModel.from_clip(out, ModelConfig(temporal_layers=1)).eval()
    text = model.clip.config.text_config
    assert (text.bos_token_id, text.eos_token_id) == (text.vocab_size - 2, text.vocab_size - 1)
    pixels, ids = openai_clip.inputs()
    with torch.no_grad():
        torch.testing.assert_close(model.embed_images(pixels), clip.visual(pixels), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.encode_text(ids, ids > 0), clip.text(ids), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wrapped", ["safetensors", "training file", "custom text class"])
def test_weights_with_their_config_compute_what_open_clip_computes(clip, state, tmp_path, wrapped):
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    file = tmp_path / "open_clip_model.pt"
    if wrapped == "safetensors":
        file = tmp_path / "open_clip_model.safetensors"
        save_file(state, file)
    elif wrapped == "training file":
        optimiser = torch.optim.AdamW(clip.parameters())
        clip.text(openai_clip.inputs()[1]).sum().backward()
        optimiser.step()
        clip.load_state_dict(state, strict=False)
        whole = {"epoch": 3, "name": "a run", "optimizer": optimiser.state_dict(), "scaler": None}
        torch.save(whole | {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    else:
        tower = ("transformer.", "token_embedding", "positional_embedding", "ln_final", "text_projection")
        torch.save({f"text.{n}" if n.startswith(tower) else n: t for n, t in state.items()}, file)
    code, output, out = imported(file)
    assert code == 0, output
    check_same(out, clip)
    assert inspect_clip(str(out)).pixels.mean == (0.5, 0.25, 0.5)
    recorded = json.loads((out / "import.json").read_text())
    assert recorded["stated"]["clip.activation"] == ["gelu", "open_clip_config.json"]
    assert recorded["stated"]["clip.image_head_width"] == [16, "open_clip_config.json"]


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
@pytest.mark.parametrize("with_config", [False, True])
def test_a_folder_of_open_clip_is_a_clip_model(clip, state, tmp_path, name, with_config):
    if name.endswith("bin"):
        torch.save(state, tmp_path / name)
    else:
        save_file(state, tmp_path / name)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    if with_config:  # of transformers, without weights of its kind
        (tmp_path / "config.json").write_text("{}")
    found = inspect_clip(str(tmp_path))
    assert found.lacks_tokenizer
    check_same(tmp_path, clip)
    model = GareModel.from_clip(tmp_path, ModelConfig(temporal_layers=1))
    assert model.pixels.std == (0.5, 0.5, 0.25)
    assert shapes_of(found.architecture) == {n: tuple(t.shape) for n, t in model.clip.state_dict().items()}
    (tmp_path / name).unlink()
    for ask in (lambda: inspect_clip(str(tmp_path)), lambda: GareModel.from_clip(tmp_path, ModelConfig())):
        with pytest.raises(InputError, match=r"it has no weights|is a model of the type None"):
            ask()


def test_without_a_config_it_asks_and_takes_the_answers(clip, state, tmp_path):
    file = tmp_path / "model.pt"
    torch.save(state, file)
    code, output, out = imported(file)
    assert code == 2
    said = " ".join(output.split())
    assert "does not say how its CLIP computes" in said
    assert "--set clip.activation=quick_gelu|gelu --set clip.image_head_width=WIDTH" in said
    assert not out.exists()
    code, output, _ = imported(file, *(word for text in SETS[:2] for word in ("--set", text)))
    assert code == 2
    assert "computes (clip.text_head_width)" in " ".join(output.split())
    code, output, out = imported(file, *(word for text in SETS for word in ("--set", text)))
    assert code == 0, output
    assert "--set" in output
    check_same(out, clip)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_cfg__layers": 12}, "says vision_cfg.layers 12, but its tensors have 2"),
        ({"vision_cfg__image_size": 24}, "says vision_cfg.image_size 24"),
        ({"vision_cfg__mlp_ratio": 4.5}, "says vision_cfg.mlp_width 288"),
        ({"text_cfg__vocab_size": 49408}, "says text_cfg.vocab_size 49408"),
        ({"embed_dim": 32}, "says embed_dim 32"),
        ({"vision_cfg__layers": [2, 2]}, "vision_cfg.layers [2, 2]; a whole number"),
        ({"vision_cfg__head_width": 48}, "not a multiple of the head width 48"),
        ({"text_cfg__heads": 7}, "7 heads do not divide"),
        ({"vision_cfg__timm_model_name": "vit_so400m"}, "vision_cfg.timm_model_name is 'vit_so400m'"),
        ({"vision_cfg__pool_type": "avg"}, "vision_cfg.pool_type is 'avg'"),
        ({"vision_cfg__no_ln_pre": True}, "vision_cfg.no_ln_pre is True"),
        ({"text_cfg__hf_model_name": "xlm-roberta-base"}, "text_cfg.hf_model_name is"),
        ({"text_cfg__tokenizer_kwargs": {"clean": "canonicalize"}}, "text_cfg.tokenizer_kwargs is"),
        ({"text_cfg__no_causal_mask": True}, "text_cfg.no_causal_mask is True"),
        ({"quick_gelu": "no"}, "a quick_gelu that is not true or false"),
        ({"init_logit_bias": -10}, "init_logit_bias is -10"),
    ],
)
def test_a_config_of_other_tensors_or_another_build_is_refused(state, tmp_path, changes, message):
    save_file(state, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config(**changes)))
    code, output, out = imported(tmp_path / "open_clip_model.safetensors")
    assert code == 3, output
    assert message in " ".join(output.split())
    assert not out.exists()


def test_keys_that_change_nothing_here_are_allowed(state, tmp_path):
    save_file(state, tmp_path / "open_clip_model.safetensors")
    same = {"vision_cfg__patch_dropout": 0.5, "text_cfg__pool_type": "argmax", "custom_text": True, "quick_gelu": False}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config(**same)["model_cfg"]))
    code, output, _ = imported(tmp_path / "open_clip_model.safetensors")
    assert code == 0, output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("clip.activation=gelu", "The file is OpenAI's model, whose clip.activation is quick_gelu"),
        ("clip.activation=relu", "clip.activation cannot be 'relu'; it is quick_gelu|gelu"),
        ("clip.image_head_width=yes", "clip.image_head_width cannot be"),
        ("clip.depth=3", "clip.depth is not a setting of a CLIP model; these are: clip.activation"),
        ("model.gap_sign=-1", "model.gap_sign is not a setting of a CLIP model"),
    ],
)
def test_settings_that_contradict_an_openai_archive_or_do_not_exist_are_refused(tmp_path, setting, message):
    torch.save(openai_clip.Clip().state_dict(), tmp_path / "clip.pt")
    code, output, _ = imported(tmp_path / "clip.pt", "--set", setting)
    assert code == 2
    assert message in " ".join(output.split())


def test_settings_that_contradict_the_config_are_refused(state, tmp_path):
    save_file(state, tmp_path / "m.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    code, output, _ = imported(tmp_path / "m.safetensors", "--set", "clip.activation=quick_gelu")
    assert code == 2
    assert "clip.activation is gelu in" in output


def test_the_activation_matters(clip, state, tmp_path):
    """The parity above would not hold with the other one."""
    save_file(state, tmp_path / "m.safetensors")
    sets = ("clip.activation=quick_gelu", *SETS[1:])
    code, output, out = imported(tmp_path / "m.safetensors", *(word for text in sets for word in ("--set", text)))
    assert code == 0, output
    pixels, _ = openai_clip.inputs()
    other = GareModel.from_clip(out, ModelConfig(temporal_layers=1)).eval().embed_images(pixels)
    assert F.cosine_similarity(other, clip.visual(pixels)).min() < 0.99999
    assert load_file(out / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resize_mode": "shortest", "interpolation": "random", "size": [16, 16], "mode": "RGB"}, None),
        ({"resize_mode": "squash"}, "squeezes whole pictures"),
        ({"interpolation": "bilinear", "size": 16}, "resizes by a bilinear filter"),
        ({"resize_mode": "longest"}, InputError),
        ({"interpolation": "lanczos3"}, InputError),
        ({"size": 224}, InputError),
        ({"mode": "L"}, InputError),
    ],
)
def test_how_open_clip_makes_its_pictures_square_is_told_or_refused(state, tmp_path, changes, says):
    save_file(state, tmp_path / "open_clip_model.safetensors")
    values = CONFIG | {"preprocess_cfg": CONFIG["preprocess_cfg"] | changes}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    if says is InputError:
        with pytest.raises(InputError, match=r"resizes pictures by|makes images of 224|of the mode 'L'"):
            inspect_clip(str(tmp_path))
        return
    said = inspect_clip(str(tmp_path)).pixels.unlike_prepared(16)
    assert (said is None) if says is None else says in said
