"""The gate to a CLIP folder: what fits is used and recorded, anything else is one sentence, before anything is made."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gare.common.errors import InputError
from gare.config import Config, ModelConfig
from gare.config.tree import with_overrides
from gare.launch.dry_run.plan import make_plan
from gare.model import GareModel, Tokenizer, load_model, save_model
from gare.model.clip_source import inspect_clip, load_clip
from gare.model.pixels import OPENAI_PIXELS
from tests import toy

PLAIN = ModelConfig(temporal_layers=1)
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(toy_clip, tmp_path):
    """A CLIP that says nothing of its preprocessing."""
    folder = shutil.copytree(toy_clip, tmp_path / "clip")
    (folder / PREPROCESSOR).unlink()
    return folder


def edit(path, **changes):
    """Change keys of a JSON file (dots go inside); None removes one."""
    values = json.loads(path.read_text()) if path.is_file() else {}
    for key, value in changes.items():
        *outer, last = key.split("__")
        part = values
        for name in outer:
            part = part[name]
        part[last] = value
        if value is None:
            del part[last]
    path.write_text(json.dumps(values))


def refusal(folder):
    """The one sentence with which training and the dry run both refuse a folder."""
    said = []
    for ask in (lambda: GareModel.from_clip(folder, PLAIN), lambda: inspect_clip(str(folder))):
        with pytest.raises(InputError) as caught:
            ask()
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert len(said[0]) < 600
    return said[0]


# Other models and damaged or absurd configs


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("siglip2", "is a SigLIP 2 of variable resolution (NaFlex)"),
        ("siglip", "text_config in"),
        ("metaclip_2", "text_config in"),
        *((kind, f"is a model of the type {kind!r}; CLIP, SigLIP, MetaCLIP 2 can be used") for kind in ("t5", None)),
        (["clip"], "is a model of the type ['clip']"),
    ],
)
def test_other_models_are_refused_by_training_and_dry_run_alike(folder, kind, message):
    edit(folder / "config.json", model_type=kind)
    assert message in refusal(folder)


def test_towers_of_other_models_are_refused(folder):
    edit(folder / "config.json", vision_config__model_type="siglip_vision_model")
    assert "vision_config in" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__num_hidden_layers": 10**6}, "num_hidden_layers: 1000000; a whole number from 1 to 256"),
        ({"text_config__vocab_size": 3 * 10**7}, "vocab_size: 30000000"),
        ({"text_config__vocab_size": 4 * 10**6}, r"token_embedding.weight in"),
        ({"text_config__max_position_embeddings": 10**10}, "max_position_embeddings: 10000000000"),
        ({"vision_config__image_size": 10**10}, "image_size: 10000000000"),
        ({"vision_config__image_size": [32, 32]}, "image_size: [32, 32]"),
        ({"vision_config__image_size": 8}, "larger than its images"),
        ({"vision_config__num_channels": 1}, "1 colours"),
        ({"projection_dim": -1}, "projection_dim: -1"),
        ({"projection_dim": True}, "projection_dim"),
        ({"text_config__hidden_size": 0}, "hidden_size"),
        ({"text_config__hidden_size": 30, "text_config__num_attention_heads": 4}, "is not a multiple"),
        ({"text_config__hidden_act": "relu9"}, "names the activation 'relu9'"),
        ({"text_config__layer_norm_eps": 1e999}, "Infinity is not a JSON number"),
        ({"text_config__eos_token_id": 10**6}, "eos_token_id: 1000000"),
        ({"text_config__eos_token_id": [1, 2]}, "eos_token_id: [1, 2]"),
        ({"text_config": [1]}, "text_config in"),
        ({"vision_config__num_hidden_layers": 2}, "tensors are missing"),
        ({"num_labels": 10**10}, None),
    ],
)
def test_absurd_configs_are_one_sentence_and_irrelevant_keys_do_nothing(folder, changes, message):
    edit(folder / "config.json", **changes)
    if message is None:
        GareModel.from_clip(folder, PLAIN)
    else:
        assert message in refusal(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 10**5, b"\xff\xfe", b'{"a": 1, "a": 2}', b" " * (2**20 + 1)], ids=range(6)
)
def test_a_config_that_is_no_json_is_one_sentence(folder, content):
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refusal(folder)


# Weights


def header_of(path):
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(path, header, body):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_weights_that_overlap_leave_gaps_or_lie_about_their_size_are_refused(folder):
    header, body = header_of(folder / WEIGHTS)
    names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    first, second = (json.loads(json.dumps(header[name])) for name in names[:2])
    pair = second["data_offsets"]
    for change, message in (
        ({"data_offsets": [pair[0] - 4, pair[1] - 4]}, "overlap or leave gaps"),
        ({"data_offsets": [pair[0] + 4, pair[1] + 4]}, "overlap or leave gaps"),
        ({"shape": [2**40, 2**40]}, "no plain tensor of that size"),
        ({"shape": [-1]}, "no plain tensor"),
        ({"dtype": "F4"}, "no plain tensor"),
        ({"data_offsets": [pair[1], pair[0]]}, "no plain tensor"),
    ):
        with_header(folder / WEIGHTS, header | {names[1]: second | change}, body)
        assert message in refusal(folder)
    with_header(folder / WEIGHTS, header | {names[0]: first}, body[:-4])
    assert "its tensors take" in refusal(folder)
    for length in (2**63, 2**40, 5 * 2**20, 0):
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + b"{}" * 100)
        assert "not a safetensors file" in refusal(folder)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2 * 10**5) + b"[" * (2 * 10**5))
    assert "nested too deeply" in refusal(folder)


def test_weights_of_wrong_kinds_and_values_are_refused_when_loaded(folder):
    weights = load_file(folder / WEIGHTS)
    name = "text_projection.weight"
    for tensor, message in (
        (weights[name].to(torch.int32), f"weight {name} in .* is int32, not a floating-point tensor"),
        (torch.full_like(weights[name], torch.nan), f"weight {name} in .* not finite numbers"),
        (
            weights[name][:, :-1].contiguous(),
            f"weight {name} in .* is \\(64, 63\\), not the \\(64, 64\\)",
        ),
    ):
        save_file(weights | {name: tensor}, folder / WEIGHTS)
        with pytest.raises(InputError, match=message):
            GareModel.from_clip(folder, PLAIN)
    save_file(weights | {"classifier.weight": weights[name].clone()}, folder / WEIGHTS)
    assert "1 are unknown (classifier.weight)" in refusal(folder)
    (folder / WEIGHTS).unlink()
    assert f"it has no weights ({WEIGHTS})" in refusal(folder)


@pytest.mark.parametrize("how", ["half", "pickled", "parts", "pickled parts", "old positions"])
def test_every_way_of_saving_gives_the_same_weights(folder, how):
    from transformers import CLIPModel

    expected = GareModel.from_clip(folder, PLAIN).clip.state_dict()
    weights = load_file(folder / WEIGHTS)
    if how == "half":
        save_file({name: tensor.double() for name, tensor in weights.items()}, folder / WEIGHTS)
    elif how == "old positions":
        save_file(weights | {"text_model.embeddings.position_ids": torch.arange(16)[None]}, folder / WEIGHTS)
    elif how == "parts":
        model = CLIPModel.from_pretrained(folder)
        (folder / WEIGHTS).unlink()
        model.save_pretrained(folder, max_shard_size="100KB")
        assert not (folder / WEIGHTS).exists()
    else:
        (folder / WEIGHTS).unlink()
        names = list(weights)
        parts = [weights] if how == "pickled" else [{n: weights[n] for n in p} for p in (names[::2], names[1::2])]
        files = [f"pytorch_model-{n}.bin" if len(parts) > 1 else "pytorch_model.bin" for n in range(len(parts))]
        for file, part in zip(files, parts, strict=True):
            torch.save(part, folder / file)
        if len(parts) > 1:
            places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    found = GareModel.from_clip(folder, PLAIN).clip.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_index_cannot_name_files_elsewhere(folder):
    (folder / WEIGHTS).rename(folder.parent / WEIGHTS)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": f"../{WEIGHTS}"}}))
    assert "does not name the files of the weights next to it" in refusal(folder)


def test_loading_draws_nothing(folder):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_clip(str(folder))
    assert torch.equal(torch.rand(4), expected)


# Nothing of the size that is asked for is made: with the memory of this process limited, each is still one sentence.

LIMITED = """
import resource, sys
from pathlib import Path
import torch
from transformers import CLIPModel, CLIPTokenizer
from gare.common.errors import InputError
from gare.config import ModelConfig
from gare.model import GareModel, load_model
from gare.model.archive import read_archive

now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 600 * 2**20,) * 2)
for line in sys.stdin.read().splitlines():
    how, place = line.split(" ", 1)
    try:
        if how == "clip":
            GareModel.from_clip(place, ModelConfig(temporal_layers=1))
        else:
            {"checkpoint": load_model, "archive": read_archive}[how](place)
        print("loaded")
    except InputError as error:
        print(error)
"""


def sparse(path, start):
    """A file of 8 GiB that takes no place."""
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(2**33)
    return path


def hostile(folder, place):
    """How each is opened, and where it is."""
    copied = [shutil.copytree(folder, place / f"clip{n}") for n in range(6)]
    edit(copied[0] / "config.json", text_config__vocab_size=4 * 10**6)
    edit(copied[1] / "config.json", text_config__hidden_size=2**16)
    edit(copied[2] / "config.json", vision_config__intermediate_size=2**18)
    sparse(copied[3] / WEIGHTS, struct.pack("<Q", 2**32))
    sparse(copied[4] / "tokenizer.json", b"{")
    sparse(copied[5] / "config.json", b"{")
    checkpoint = place / "checkpoint"
    checkpoint.mkdir()
    save_model(GareModel.from_clip(folder, PLAIN), Config(model=PLAIN), checkpoint)
    (checkpoint / "config.yaml").write_text("model:\n  temporal_layers: 256\n  max_frames: 65536\n")
    edit(checkpoint / "clip" / "config.json", projection_dim=2**16)
    sparse(place / "zip.pt", b"PK\x03\x04")
    sparse(place / "header.safetensors", struct.pack("<Q", 2**32) + b"{")
    with zipfile.ZipFile(place / "lists.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"]" * (15 * 2**20))
    return [*(("clip", path) for path in copied), ("checkpoint", checkpoint)] + [
        ("archive", path) for path in sorted((*place.glob("*.pt"), *place.glob("*.safetensors")))
    ]


def test_hostile_files_end_within_little_memory(folder, tmp_path):
    asked = hostile(folder, tmp_path)
    lines = "\n".join(f"{how} {path}" for how, path in asked)
    done = subprocess.run([sys.executable, "-c", LIMITED], input=lines, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout.splitlines()
    assert len(said) == len(asked) == 10, said
    assert "loaded" not in said
    assert "MemoryError" not in done.stdout + done.stderr


def damaged(content, random):
    """Bytes cut off, left out or changed, mostly near the start, where a file says what it holds."""
    span = min(len(content), 6000)
    at = random.randrange(span)
    match random.randrange(3):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + content[at + random.randrange(1, 20) :]
    changed = bytearray(content)
    for _ in range(3):
        changed[random.randrange(span)] ^= 1 << random.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", PREPROCESSOR, WEIGHTS])
def test_a_damaged_folder_is_one_sentence_or_a_model(toy_clip, tmp_path, name):
    folder = shutil.copytree(toy_clip, tmp_path / "clip")
    good, refused = (folder / name).read_bytes(), 0
    for seed in range(40):
        (folder / name).write_bytes(damaged(good, Random(f"{name} {seed}")))
        try:
            load_clip(str(folder))
        except InputError as error:
            refused += 1
            assert str(error).isprintable(), seed  # noqa: PT017
            assert len(str(error)) < 700, seed  # noqa: PT017
    assert refused > 10


# Pixel statistics


def test_statistics_are_used_stored_and_loaded(folder, tmp_path):
    edit(folder / PREPROCESSOR, image_mean=[0.5, 0.25, 0.5], image_std=[0.5, 0.5, 0.125])
    model = GareModel.from_clip(folder, PLAIN)
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([1.0, 1.5, 4.0])
    assert torch.allclose(model.normalise(white)[0, :, 0, 0], expected)
    (tmp_path / "out").mkdir()
    save_model(model, Config(model=PLAIN), tmp_path / "out")
    again = load_model(tmp_path / "out")
    assert again.pixels == model.pixels
    assert torch.allclose(again.normalise(white)[0, :, 0, 0], expected)
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor.from_pretrained(tmp_path / "out" / "clip")
    theirs = processor(torch.full((3, 32, 32), 255, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert torch.allclose(theirs[0, :, 0, 0], expected)
    # Checkpoints from before statistics were recorded were made with OpenAI's.
    (tmp_path / "out" / "clip" / PREPROCESSOR).unlink()
    assert load_model(tmp_path / "out").pixels == OPENAI_PIXELS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": [0.5, 0.5]}, "the mean [0.5, 0.5]; three finite numbers"),
        ({"image_mean": "imagenet"}, "three finite numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "each has to be above 0"),
        ({"do_normalize": False}, "do_normalize: False"),
        ({"do_rescale": False}, "do_rescale: False"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor: 0.00784"),
        ({"crop_size": 224}, "makes images of crop_size 224, but config.json's image tower takes 32"),
        ({"crop_size": {"height": 32, "width": 64}}, "makes images of crop_size"),
        ({"size": {"height": 48, "width": 48}, "do_center_crop": False}, "makes images of size"),
        ({"size": {"longest_edge": 32}}, "makes images of size {'longest_edge': 32}; a height and a width or a"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "makes images of size"),
        ({"size": {"shortest_edge": 24}}, "a shortest edge of 32 pixels or more"),
        ({"size": "large"}, "makes images of size 'large'"),
        ({"resample": 6}, "resample: 6; PIL's filters are 0 to 5"),
        ({"resample": "bicubic"}, "resample: 'bicubic'"),
        ({"do_pad": True}, "do_pad: True; frames are never padded here"),
    ],
)
def test_preprocessing_of_another_kind_is_refused(folder, changes, message):
    edit(folder / PREPROCESSOR, **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "values",
    [
        {
            "crop_size": {"height": 32, "width": 32},
            "size": {"shortest_edge": 40},
            "rescale_factor": 0.00392156862745098,
        },
        {"crop_size": 32, "size": 32, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"},
        {"size": {"shortest_edge": 32}},
        {},
    ],
)
def test_the_ways_in_which_clips_state_their_preprocessing_are_read(folder, values):
    edit(folder / PREPROCESSOR, image_std=0.5, **values)
    assert inspect_clip(str(folder)).pixels.std == (0.5, 0.5, 0.5)
    nested = json.loads((folder / PREPROCESSOR).read_text())
    (folder / PREPROCESSOR).unlink()
    edit(folder / "processor_config.json", image_processor=nested)
    assert inspect_clip(str(folder)).pixels.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, None),
        ({"size": {"shortest_edge": 32}, "crop_size": 32, "resample": 3}, None),
        ({"size": {"shortest_edge": 40}, "crop_size": 32}, "whose shorter side is 40 pixels, where prepare.short_side"),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False}, "squeezes whole pictures into squares"),
        ({"size": {"height": 40, "width": 40}, "crop_size": 32}, "squeezes whole pictures into squares"),
        ({"resample": 2}, "resizes by a bilinear filter, where prepare resizes by a bicubic one"),
        ({"size": {"height": 32, "width": 32}, "resample": 1}, "squares, where prepare keeps their shape and a centre"),
    ],
)
def test_preprocessing_unlike_ours_is_told_when_a_run_is_planned_and_kept_in_checkpoints(
    folder, toy_shards, tmp_path, values, says
):
    edit(folder / PREPROCESSOR, **values)
    config = toy.toy_config(folder, toy_shards, tmp_path)
    remarks = make_plan(config).remarks
    assert [says in remark for remark in remarks] == [True] if says else not remarks
    if "40 pixels" in str(says):
        assert not make_plan(with_overrides(config, {"data.crop": "random"})).remarks
    (tmp_path / "out").mkdir()
    save_model(GareModel.from_clip(folder, PLAIN), config, tmp_path / "out")
    again, given = load_model(tmp_path / "out").pixels, inspect_clip(str(folder)).pixels
    assert again.unlike_prepared(32) == given.unlike_prepared(32)


# Tokenizers


def test_a_tokenizer_of_another_clip_is_refused_by_training_dry_run_and_checkpoints(folder, toy_clip, tmp_path):
    Tokenizer.train(["other words " + chr(97 + n) * 3 for n in range(20)] * 2, 700).save(folder)
    assert "has ids up to" in refusal(folder)
    Tokenizer.train(["a"], 520).save(folder)
    assert "ends a text with id" in refusal(folder)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_model(GareModel.from_clip(toy_clip, PLAIN), Config(model=PLAIN), checkpoint)
    Tokenizer.load(folder).save(checkpoint / "clip")
    with pytest.raises(InputError, match="ends a text with id"):
        load_model(checkpoint)


def test_the_end_id_of_older_openai_configs_is_the_largest_one(folder):
    edit(folder / "config.json", text_config__eos_token_id=2)
    model = GareModel.from_clip(folder, PLAIN)
    assert model.end_id == model.tokenizer.end_id == model.clip.config.text_config.vocab_size - 1


def word_piece():
    from tokenizers import Tokenizer as Raw
    from tokenizers import models

    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *"abcdefghijklmnopqrstuvwxyz", "<|startoftext|>", "<|endoftext|>"]
    return Raw(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token=words[0])).to_str()


def test_tokenizers_of_other_models_are_refused(folder):
    path = folder / "tokenizer.json"
    good = json.loads(path.read_text())
    model = good["model"]
    shifted = {piece: id_ + 5 for piece, id_ in model["vocab"].items()}
    for value, message in (
        (json.loads(word_piece()), "of the kind 'WordPiece', not byte pairs"),
        (good | {"model": model | {"end_of_word_suffix": ""}}, "end words with '', not </w>"),
        (good | {"model": model | {"vocab": {"a": 0, "b": 1}, "merges": []}}, "belongs to another kind of model"),
        (good | {"model": model | {"merges": []}}, "no merge makes"),
        (good | {"model": model | {"merges": [["a", "zz"]]}}, "which its vocabulary does not have"),
        (good | {"model": model | {"merges": ["abc"]}}, "is not a pair of pieces"),
        (good | {"model": model | {"vocab": dict.fromkeys(model["vocab"], 3)}}, "have the same id"),
        (good | {"model": model | {"vocab": shifted}, "added_tokens": []}, "has ids up to"),
        (
            good | {"added_tokens": [*good["added_tokens"], {"id": 9999, "content": "<video>"}]},
            "adds the token '<video>'",
        ),
        (good | {"added_tokens": 7}, "not written as transformers writes them"),
        ({"model": 3}, "describes no model"),
    ):
        path.write_text(json.dumps(value))
        assert message in refusal(folder)
    path.write_text(json.dumps(good))
    edit(folder / "tokenizer_config.json", added_tokens_decoder={"9999": {"content": "<video>"}})
    assert "adds the token '<video>' with the id 9999" in refusal(folder)


def test_a_tokenizer_in_two_files_is_the_same_one(folder):
    one = Tokenizer.load(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    two = Tokenizer.load(folder)
    assert one == two
    texts = ["a red square left", "# #version 12"]
    assert torch.equal(one(texts, 16)[0], two(texts, 16)[0])
    (folder / "merges.txt").unlink()
    assert "no merges.txt" in refusal(folder)


def test_captions_of_one_length_get_different_ids(toy_clip):
    ids, _ = Tokenizer.load(toy_clip)(["a red circle", "a wet pencil"], 16)
    assert not torch.equal(ids[0], ids[1])


def test_a_run_that_began_without_cleaning_goes_on_without_it(toy_clip):
    now, began = (GareModel.from_clip(toy_clip, PLAIN) for _ in range(2))
    began.tokenizer.cleaning = "none"
    nn.init.constant_(began.pixel_mean, 0.25)
    now.read_inputs_as(began)
    assert now.tokenizer.cleaning == "none"
    assert torch.equal(now.pixel_mean, began.pixel_mean)
