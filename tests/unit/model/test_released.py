"""Checkpoints of the authors' code and OpenAI's CLIP, imported: the same scores, nothing lost unsaid."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from gare.cli import cli
from gare.common.errors import ConfigError, InputError
from gare.config import ModelConfig
from gare.model import GareModel, Tokenizer, load_model
from gare.model.released import build_gare, convert, settings_of
from tests import openai_clip, reference

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return openai_clip.Clip().eval()


@pytest.fixture
def state(clip):
    return openai_clip.released(clip)


def imported(file, out, *arguments):
    """Run the command; its result."""
    return CliRunner().invoke(cli, ["import-checkpoint", str(file), "--out", str(out), *arguments, "--json"])


def relative(mine, theirs):
    return float((mine - theirs).abs().max() / theirs.abs().max())


def check_parity(model, golden):
    ids, pixels = golden["input.token_ids"], golden["input.pixels"]
    mask = torch.ones(pixels.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        text = model.encode_text(ids, golden["input.token_mask"].bool())
        embedded = model.embed_images(pixels.flatten(0, 1)).view(*pixels.shape[:2], -1)
        frames = model.encode_frames(pixels, mask)
        out = model.score(text, frames, mask, return_delta=True)
    assert relative(text, golden["output.text"]) <= 1e-4
    assert relative(embedded, golden["output.frame_embeddings"]) <= 1e-4
    assert relative(frames, golden["output.frames_after_temporal"]) <= 1e-4
    assert relative(out.delta, golden["output.delta"]) <= 1e-4
    assert (out.scores - golden["output.scores"]).abs().max() <= 2e-6


def test_the_golden_model_is_reproduced(fixtures_dir):
    golden = load_file(fixtures_dir / "parity" / "full_model.safetensors")
    converted = convert({k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")})
    model = build_gare(converted, settings_of(converted, {}))
    assert model.end_id == 299
    check_parity(model, golden)


def test_the_golden_checkpoint_imported_by_the_command_is_reproduced(fixtures_dir, tmp_path):
    done = imported(fixtures_dir / "parity" / "reference_checkpoint.bin", tmp_path / "out")
    assert done.exit_code == 0, done.output
    check_parity(load_model(tmp_path / "out"), load_file(fixtures_dir / "parity" / "full_model.safetensors"))


def test_a_released_checkpoint_is_a_checkpoint_of_ours(state, clip, tmp_path):
    torch.save(state, tmp_path / "theirs.bin")
    done = imported(tmp_path / "theirs.bin", tmp_path / "out")
    assert done.exit_code == 0, done.output
    model = load_model(tmp_path / "out")
    assert (model.config.temporal_layers, model.config.max_frames, model.image_size) == (2, 7, 16)
    result = json.loads((tmp_path / "out" / "import.json").read_text())
    dropped = {row["group"]: row["tensors"] for row in result["dropped"]}
    assert dropped == {
        "agent.psi.*": 24,
        "psi.layers.*.linear2.*": 2,
        "psi.layers.*.mlp.*": 2,
        "psi.log_std_proj.*": 2,
        "weight_fc.*": 2,
    }
    assert sum(dropped.values()) + sum(row["tensors"] for row in result["mapped"]) == len(state)
    assert result["assumed"]["model.pool_temperature"] == 3.0
    pixels, ids = openai_clip.inputs()
    with torch.no_grad():
        text = model.encode_text(ids, ids > 0)
        frames = model.encode_frames(pixels[None].expand(2, -1, -1, -1, -1), torch.ones(2, 3, dtype=torch.bool))
        assert torch.allclose(text, clip.text(ids), atol=1e-5)
        assert torch.allclose(model.embed_images(pixels), clip.visual(pixels), atol=1e-5)
        out = model.score(text, frames, torch.ones(2, 3, dtype=torch.bool))
    names = {f"layers.0.cross_attn.{p}_proj": f"{p}_proj" for p in ("q", "k", "v", "out")}
    psi = {}
    for name, tensor in state.items():
        if name.startswith("psi."):
            part, _, kind = name.removeprefix("psi.").rpartition(".")
            psi[f"{names.get(part, part.removeprefix('layers.0.'))}.{kind}"] = tensor.double()
    for i, j in itertools.product(range(4), range(2)):
        score, *_ = reference.pair(text[i].double(), frames[j].double(), None, psi,
                                   corrected="text", context="frames", sign=1, temperature=3.0)  # fmt: skip
        assert abs(float(score - out.scores[i, j])) < 1e-5


def test_the_temporal_transformer_is_the_released_one(state, clip):
    converted = convert(state)
    model = build_gare(converted, settings_of(converted, {}))
    blocks = openai_clip.Transformer(64, 2).eval()
    blocks.load_state_dict(
        {k.removeprefix("transformerClip."): v for k, v in state.items() if k.startswith("transformerClip")}
    )
    for block in blocks.resblocks:
        block.ln_1.eps = block.ln_2.eps = 1e-12
    frames = torch.randn(2, 5, 64)
    expected = blocks(frames + state["frame_position_embeddings.weight"][:5], None) + frames
    assert torch.allclose(model.temporal(frames, torch.ones(2, 5, dtype=torch.bool)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["traced", "state dict"])
def test_an_openai_archive_becomes_a_clip_folder(clip, tmp_path, kind):
    path, (pixels, ids) = tmp_path / "clip.pt", openai_clip.inputs()
    if kind == "traced":
        torch.jit.save(torch.jit.trace(clip, (pixels, ids)), path)
    else:
        torch.save(clip.state_dict(), path)
    done = imported(path, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "import.json").read_text())["dropped"][0]["tensors"] == 3
    model = GareModel.from_clip(tmp_path / "out", ModelConfig(temporal_layers=1)).eval()
    with torch.no_grad():
        assert torch.allclose(model.embed_images(pixels), clip.visual(pixels), atol=1e-5)
        assert torch.allclose(model.encode_text(ids, ids > 0), clip.text(ids), atol=1e-5)
    assert torch.equal(model.clip.logit_scale, clip.logit_scale)
    assert model.tokenizer is None


def test_half_precision_weights_are_widened(clip):
    half = {k: v.half() if v.is_floating_point() else v for k, v in clip.state_dict().items()}
    assert {t.dtype for t in convert(half).weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"psi.extra.weight": torch.ones(2)}, r"1 tensors this software does not know.*psi.extra.weight"),
        ({"agent.psi.mean_proj.bias": torch.ones(64)}, "two versions of one weight: agent.psi.mean_proj.bias"),
        ({"agent.psi.other": torch.ones(2)}, r"agent.psi.other, but not psi.other"),
        ({"psi.mean_proj.bias": None}, r"no tensor psi.mean_proj.bias"),
        ({"clip.ln_final.bias": torch.ones(3)}, r"clip.ln_final.bias in the file is \(3,\), where .* \(64,\)"),
        ({"clip.ln_final.bias": torch.full((64,), torch.nan)}, "not finite numbers"),
        ({"clip.text_projection": torch.ones(64, dtype=torch.int64).expand(64, 64)}, "not finite numbers"),
        ({"transformerClip.resblocks.1.ln_1.bias": None}, "no tensor transformerClip.resblocks.1.ln_1.bias"),
        ({"clip.visual.positional_embedding": torch.ones(4, 64)}, "3 patches"),
        ({"clip.visual.layer1.0.conv1.weight": torch.ones(1)}, "ResNet"),
        ({"clip.vocab_size": torch.tensor(41)}, "states vocab_size 41, but its tensors have 40"),
    ],
)
def test_what_does_not_fit_is_one_clear_sentence(state, change, message):
    changed = {k: v for k, v in (state | change).items() if v is not None}
    with pytest.raises(InputError, match=message):
        convert(changed)


def test_a_file_of_something_else_is_one_clear_sentence():
    with pytest.raises(InputError, match=r"neither a checkpoint of the released GARE code .* fc.weight"):
        convert({"fc.weight": torch.ones(2)})


def test_settings_come_from_the_file_the_recipe_and_the_user(state):
    converted = convert(state)
    config = settings_of(converted, {"model.corrected": "video", "model.gap_sign": -1, "model.temporal_layers": 2})
    assert (config.model.corrected, config.model.gap_sign, config.model.max_frames) == ("video", -1, 7)
    assert (config.data.words, config.data.frames, config.prepare.crop) == (12, 7, 16)
    for change, message in (
        ({"model.temporal_layers": 4}, "model.temporal_layers is 2 in the file"),
        ({"train.epochs": 4}, r"only model\.\*"),
        ({"model.query": "residual_scaled"}, "no weights for the learned length"),
        ({"model.increment": "none"}, "model.increment is cross_attention in the file"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings_of(converted, change)


def test_without_psi_the_model_is_the_baseline(clip):
    converted = convert(openai_clip.released(clip, psi=False))
    model = build_gare(converted, settings_of(converted, {}))
    assert model.head.psi is None


def test_the_tokenizer_goes_along_if_it_fits(tmp_path, monkeypatch):
    words = Tokenizer.train(["a red circle"], vocabulary=530)
    words.save(tmp_path / "words")
    monkeypatch.setattr(openai_clip, "VOCABULARY", len(words))
    torch.save(openai_clip.released(openai_clip.Clip()), tmp_path / "theirs.bin")
    assert imported(tmp_path / "theirs.bin", tmp_path / "out", "--tokenizer", str(tmp_path / "words")).exit_code == 0
    assert load_model(tmp_path / "out").tokenizer.end_id == len(words) - 1
    monkeypatch.setattr(openai_clip, "VOCABULARY", len(words) + 1)
    torch.save(openai_clip.released(openai_clip.Clip()), tmp_path / "other.bin")
    done = imported(tmp_path / "other.bin", tmp_path / "out2", "--tokenizer", str(tmp_path / "words"))
    assert done.exit_code == 3
    assert not (tmp_path / "out2").exists()


def test_the_command_says_what_it_assumed_and_what_is_missing(state, tmp_path):
    torch.save(state, tmp_path / "theirs.bin")
    arguments = ["import-checkpoint", str(tmp_path / "theirs.bin"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, [*arguments, "--set", "model.gap_sign=-1"])
    assert done.exit_code == 0, done.output
    for said in ("model.pool_temperature", "the recipe's default", "--set", "stored twice", "--tokenizer DIR"):
        assert said in done.output
    done = CliRunner().invoke(cli, [*arguments[:-1], str(tmp_path), "--json"])
    assert done.exit_code == 3
    assert (tmp_path / "theirs.bin").exists()
