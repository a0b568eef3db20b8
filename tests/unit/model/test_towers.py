"""Families of models beside CLIP compute what transformers computes: from a folder, from a checkpoint, in training."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from random import Random

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.activations import ACT2FN

from gare.cli import main
from gare.common.errors import InputError
from gare.config import ModelConfig
from gare.data.batches import make_batch
from gare.data.shards import ShardSet
from gare.launch.dry_run.memory import memory_of_step
from gare.launch.dry_run.plan import make_plan
from gare.launch.local import fit_local
from gare.model import GareModel, load_model, save_model
from gare.model.checkpoint import save_clip
from gare.model.clip_config import config_of, read_config
from gare.model.clip_source import inspect_clip, load_clip
from gare.model.towers import FAMILIES, family_of
from gare.model.transformer import ACTIVATIONS, activation
from gare.objective import SINGLE
from gare.training.numerics import prepare_towers
from gare.training.optimiser import freeze, make_optimiser, parameter_groups
from gare.training.step import backward, train_step
from tests import made_towers, toy
from tests.made_towers import TEXTS, WORDS
from tests.unit.launch.test_memory import kept, parts
from tests.unit.model.test_clip_source import PREPROCESSOR, damaged, edit, refusal

PLAIN = ModelConfig(temporal_layers=1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: made_towers.make(kind, tmp_path_factory.mktemp(kind)) for kind in made_towers.TOKENIZERS}


@pytest.fixture(params=made_towers.TOKENIZERS)
def kind(request):
    return request.param


@pytest.fixture
def config(folders, kind, toy_shards, tmp_path):
    """Settings of a run whose texts have fewer positions than the model."""
    return lambda *changes: toy.toy_config(folders[kind], toy_shards, tmp_path / "runs", *changes)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("words", [WORDS, 8])
def test_texts_and_frames_are_encoded_as_transformers_does(folders, kind, config, tmp_path, words):
    frames = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    text, images = made_towers.features(kind, folders[kind], TEXTS, frames, words)
    model = GareModel.from_clip(folders[kind], PLAIN).eval()
    save_model(model, config(), tmp_path)
    for one in (model, load_model(tmp_path)):
        ids, mask = one.tokenizer(TEXTS, words)
        with torch.no_grad():
            close(one.encode_text(ids, mask), text)
            close(one.embed_images(one.normalise(frames)), images)
            vectors = one.encode_words(ids, mask)
        assert vectors.shape == (len(TEXTS), words, one.dim)
        assert one.pixels == inspect_clip(str(folders[kind])).pixels
    saved = AutoTokenizer.from_pretrained(tmp_path / "clip")
    assert saved(TEXTS[0]).input_ids == ids[0, mask[0]].tolist()


@pytest.mark.parametrize("name", ["clip", *made_towers.TOKENIZERS])
def test_towers_are_those_of_transformers_to_the_last_bit(folders, toy_clip, name):
    folder = folders.get(name, toy_clip)
    theirs, (ours, found) = AutoModel.from_pretrained(folder), load_clip(str(folder))
    assert list(ours.state_dict()) == list(theirs.state_dict())  # digests of weights follow their order
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    ids = found.tokenizer(["a small red circle", "a"], ours.config.text_config.max_position_embeddings)[0]
    side = ours.config.vision_config.image_size
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    made = [
        (ours.train().text_model(ids), ours.vision_model(pixels)),
        (theirs.train().text_model(input_ids=ids).last_hidden_state, theirs.vision_model(pixels).pooler_output),
    ]
    for texts, images in made:
        (texts.square().sum() + images.square().sum()).backward()
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        if parameter.grad is None:
            assert expected[key].grad is None or not expected[key].grad.any(), key
        else:
            assert torch.equal(parameter.grad, expected[key].grad), key


@pytest.mark.parametrize("name", ["clip", *made_towers.TOKENIZERS])
def test_transformers_reads_what_is_saved(folders, toy_clip, tmp_path, name):
    clip, found = load_clip(str(folders.get(name, toy_clip)))
    save_clip(clip, tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path)
    assert type(theirs).__name__ == family_of(found.architecture).class_name
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in clip.state_dict().items())
    assert read_config(tmp_path) == found.architecture
    for part in ("text_config", "vision_config"):
        saved = getattr(theirs.config, part)
        assert {key: getattr(saved, key) for key in vars(getattr(clip.config, part))} == vars(
            getattr(clip.config, part)
        )


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_config_without_values_has_the_defaults_of_transformers(kind):
    own, theirs = config_of({"model_type": kind}, "the file"), AutoConfig.for_model(kind)
    for part in ("text_config", "vision_config"):
        ours = vars(getattr(own, part))
        assert ours == {key: getattr(getattr(theirs, part), key) for key in ours}
    top = {key: value for key, value in vars(own).items() if not key.endswith("_config")}
    assert top == {key: getattr(theirs, key) for key in top}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers(name):
    x = torch.linspace(-6, 6, 101)
    assert torch.equal(activation(name)(x), ACT2FN[name](x))


def test_a_word_is_read_where_it_stands(folders, kind):
    """The last word that is valid is what comes of reading the text's hidden state there."""
    model = GareModel.from_clip(folders[kind], PLAIN).eval()
    ids, mask = model.tokenizer(TEXTS, 8)
    padded = torch.nn.functional.pad(ids, (0, WORDS - 8), value=model.tokenizer.pad_id)
    with torch.no_grad():
        hidden = model.clip.text_model(padded)[:, :8]
        close(model.encode_words(ids, mask), model.family.ends(model.clip)[0](hidden))
    assert (ids[torch.arange(len(ids)), mask.sum(1) - 1] == model.tokenizer.end_id).all()


def test_the_text_cleaning_of_each(folders):
    siglip2, siglip, metaclip_2 = (load_clip(str(folders[kind]))[1].tokenizer for kind in made_towers.TOKENIZERS)
    same = [["A Red, SQUARE!", "a red  square"], ["A RED", "a red"], ["a red\n left", "a red left"]]
    for tokenizer, (one, two) in zip((siglip, siglip2, metaclip_2), same, strict=True):
        first, second = tokenizer([one, two], WORDS)[0]
        assert torch.equal(first, second), one
    for tokenizer, (one, two) in ((siglip2, same[0]), (metaclip_2, same[1])):
        first, second = tokenizer([one, two], WORDS)[0]
        assert not torch.equal(first, second), one


def test_loading_draws_nothing_and_the_outline_has_its_shapes(folders, kind, config):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    clip, found = load_clip(str(folders[kind]))
    assert torch.equal(torch.rand(4), expected)
    memory = memory_of_step(found.architecture, config(), workers=1)
    model = GareModel(clip, config().model, found.tokenizer)
    freeze(model, config().train)
    data = ShardSet(config().runtime.shards).split("train")
    full = [n for n in range(len(data)) if data.count(n) == 3][:4]
    batch = make_batch(data, [(n, 0) for n in full], found.tokenizer, config(), model.image_size, epoch=0)
    assert parts(memory) == pytest.approx(kept(model.train(), batch, config(), SINGLE), rel=0.02)
    assert min(memory.text_tower, memory.image_tower, memory.temporal, memory.pairs) > 10_000


def test_norms_embeddings_and_biases_are_not_decayed_and_an_idle_bias_is_not_trained(folders, kind, config):
    model = GareModel.from_clip(folders[kind], PLAIN)
    freeze(model, config().train)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {g["name"]: {names[id(p)] for p in g["params"]} for g in parameter_groups(model, config().train)}
    decayed = {name for name in groups["clip/decay"] if model.get_parameter(name).ndim < 2}
    assert decayed == set()
    assert not [name for name in groups["clip/decay"] if "embedding" in name or "probe" in name]
    assert "clip.logit_scale" in groups["clip/no_decay"]
    assert "clip.logit_bias" not in set().union(*groups.values())
    assert not [n for n in groups["clip/decay"] | groups["clip/no_decay"] if "patch_embedding" in n]
    for part, prefix in (("text_tower", "clip.text_"), ("image_tower", "clip.vis")):
        frozen = GareModel.from_clip(folders[kind], PLAIN)
        freeze(frozen, config(f'train.freeze=["{part}"]').train)
        assert not [n for n, p in frozen.named_parameters() if p.requires_grad and n.startswith(prefix)]


@pytest.mark.parametrize(
    "changes", [(), ("train.chunk=2",), ("train.checkpoint_activations=true",), ("train.precision=bf16",)]
)
def test_a_step_trains_both_towers_whichever_way_it_is_computed(folders, kind, config, changes):
    gradients = []
    exact = ("model.dropout=0", "objective.information_bottleneck.weight=0")  # whose 1 / std magnifies rounding
    for settings in (config(*exact), config(*exact, *changes)):
        torch.manual_seed(0)
        model = GareModel.from_clip(folders[kind], settings.model).train()
        freeze(model, settings.train)
        prepare_towers(model, settings.train)
        data = ShardSet(settings.runtime.shards).split("train")
        batch = make_batch(data, [(n, 0) for n in range(4)], model.tokenizer, settings, model.image_size, epoch=0)
        backward(model, batch, settings, SINGLE, 0)
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    still = {n for n, gradient in gradients[0].items() if gradient is None or not gradient.abs().sum()}
    assert not still
    if changes != ("train.precision=bf16",):
        for name, gradient in gradients[1].items():
            assert (gradient - gradients[0][name]).norm() < 1e-4 * gradients[0][name].norm() + 1e-6, name
    scale = model.clip.logit_scale
    with torch.no_grad():
        scale.fill_(9.0)
    train_step(model, make_optimiser(model, settings.train), batch, settings, SINGLE, 0)
    assert float(model.logit_scale.detach()) == pytest.approx(100, rel=1e-4)


def test_a_run_trains_and_its_checkpoint_and_the_model_itself_are_evaluated(folders, kind, config, capfd):
    summary = fit_local(config("train.epochs=1"), quiet=True)
    shards = ("--shards", config().runtime.shards)
    figures = []
    for command in (
        ("zero-shot", folders[kind], *shards, "--split", "dev", "--out", f"{summary.directory}/zero"),
        ("evaluate", summary.directory, *shards, "--split", "dev"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, command), "--json"])
        out, err = capfd.readouterr()
        assert ended.value.code == 0, err
        figures.append(json.loads(out))
        assert ("squeezes whole pictures" in err) == (command[0] == "zero-shot" and kind != "metaclip_2")
        assert "[transformers]" not in err
    assert figures[0]["t2v/R@1"] is not None
    assert figures[1]["t2v/R@1"] == summary.best_metrics["dev/t2v/R@1"]
    before, after = GareModel.from_clip(folders[kind], config().model), load_model(summary.best)
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    assert not torch.equal(before.clip.get_parameter(name), after.clip.get_parameter(name))
    if kind != "metaclip_2":
        assert torch.equal(before.clip.logit_bias, after.clip.logit_bias)
    plan = make_plan(config("runtime.name=other"))
    assert plan.problems == []
    assert plan.parameters.trained + plan.parameters.frozen == sum(p.numel() for p in after.parameters())
    assert any("resizes by a bilinear filter" in remark for remark in plan.remarks) == (kind != "metaclip_2")


# What is refused


def copied(folders, kind, tmp_path):
    return shutil.copytree(folders[kind], tmp_path / "clip")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__projection_size": 32}, "end in vectors of 32 (text) and 64 (images) numbers"),
        ({"vision_config__vision_use_head": False}, "has no pooling head"),
        ({"vision_config__vision_use_head": "no"}, "Cannot read the config"),
        ({"text_config__projection_size": -1}, "projection_size: -1; a whole number"),
        ({"text_config__vocab_size": 10**9}, "vocab_size: 1000000000"),
        ({"text_config__vocab_size": 200}, "but the CLIP model embeds 200"),
        ({"vision_config__num_hidden_layers": 3}, "tensors are missing"),
        ({"text_config__model_type": "clip_text_model"}, "is not one of SigLIP's"),
    ],
)
def test_configs_whose_towers_do_not_fit_the_method(folders, tmp_path, changes, message):
    folder = copied(folders, "siglip2", tmp_path)
    edit(folder / "config.json", **changes)
    assert message in refusal(folder)


def test_tokenizers_of_other_families_are_refused(folders, toy_clip, tmp_path):
    for kind, other, message in (
        ("siglip2", toy_clip, "its vocabulary of"),
        ("siglip2", folders["metaclip_2"], "ends a text with id 2, but the CLIP model with 1"),
        ("metaclip_2", folders["siglip"], "ends a text with id 1, but the CLIP model with 2"),
        ("metaclip_2", folders["siglip2"], "is of the kind 'BPE', not Unigram"),
    ):
        folder = shutil.copytree(folders[kind], tmp_path / f"{kind} {other.name}")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(other / name, folder / name)
        assert message in refusal(folder)


def test_tokenizer_files_that_cannot_be_used(folders, tmp_path):
    folder = copied(folders, "metaclip_2", tmp_path)
    path = folder / "tokenizer.json"
    good = json.loads(path.read_text())
    model, lone = good["model"], good["model"]["vocab"][0]
    for value, message in (
        (good | {"model": model | {"vocab": {"a": 1}}}, "is not a list of pieces"),
        (good | {"model": model | {"vocab": [*model["vocab"], ["a"]]}}, "is not a piece with its score"),
        (good | {"model": model | {"vocab": [*model["vocab"], ["a", 10**400]]}}, "is not a piece with its score"),
        (good | {"model": model | {"vocab": [*model["vocab"], lone]}}, "are the same"),
        (good | {"model": model | {"vocab": [["a", 0.0]]}}, "its vocabulary of 1 pieces has no"),
        (good | {"added_tokens": [{"id": 5, "content": "<video>"}]}, "adds the token '<video>'"),
        (good | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "table of characters"),
        (good | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": 7}}, "table of characters"),
        (good | {"model": model | {"vocab": [["a" * 13 * 2**20, 0.0]]}}, "13 MiB together"),
        ({"model": 3}, "describes no model"),
    ):
        path.write_text(json.dumps(value))
        assert message in refusal(folder)
    path.write_text("[" * 13_000_000)
    assert "more than any vocabulary" in refusal(folder)
    path.unlink()
    assert inspect_clip(str(folder)).lacks_tokenizer
    (folder / "sentencepiece.bpe.model").write_bytes(b"pieces")
    assert "has no tokenizer.json; docs/training.md says how" in refusal(folder)


def test_tables_that_the_library_refuses_without_a_word_are_one_sentence(folders, monkeypatch):
    def refuse(*_, **__):
        raise ValueError

    monkeypatch.setattr("tokenizers.models.Unigram", refuse)
    assert "its tables do not fit each other (ValueError)" in refusal(folders["metaclip_2"])


def test_siglip_padded_on_the_left_is_refused(folders, tmp_path):
    folder = copied(folders, "siglip2", tmp_path)
    edit(folder / "tokenizer_config.json", padding_side="left")
    assert "says padding_side: left" in refusal(folder)


def table(*, last=0, base=2):
    """A table of characters that turns ``a`` into ``b``; ``last``, ``base``: damage to what its leaf and root name."""
    units = [0] * 256
    node = 2 ^ ord("a")  # the children of a node are at its base, exclusive or their character
    units[0] = base << 10
    units[node] = ord("a") | 256 | ((node ^ 8) << 10)  # has a leaf, at 8
    units[8] = 2**31 | last
    return base64.b64encode(struct.pack("<I256I", 1024, *units) + b"b\0").decode()


def test_a_table_of_characters_is_followed_where_no_text_leads_out_of_it(folders, tmp_path):
    folder = copied(folders, "metaclip_2", tmp_path)
    path = folder / "tokenizer.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": table()}}))
    tokenizer = load_clip(str(folder))[1].tokenizer
    tokenizer.save(folder)
    for one in (tokenizer, load_clip(str(folder))[1].tokenizer):
        first, second = one(["a", "b"], 8)[0]
        assert torch.equal(first, second)
    for damage in ({"last": 1}, {"last": 7}, {"base": 2**18}):
        harmed = {"type": "Precompiled", "precompiled_charsmap": table(**damage)}
        path.write_text(json.dumps(good | {"normalizer": {"type": "Sequence", "normalizers": [harmed]}}))
        assert "table of characters is damaged" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", PREPROCESSOR])
def test_a_damaged_folder_is_one_sentence_or_a_model(folders, kind, tmp_path, name):
    folder = copied(folders, kind, tmp_path)
    good, refused = (folder / name).read_bytes(), 0
    for seed in range(40):
        (folder / name).write_bytes(damaged(good, Random(f"{name} {seed}")))
        try:
            found = inspect_clip(str(folder))
            if found.tokenizer is not None:
                found.tokenizer(TEXTS, WORDS)
        except InputError as error:
            refused += 1
            assert str(error).isprintable(), seed  # noqa: PT017
            assert len(str(error)) < 700, seed  # noqa: PT017
    assert refused > 10


def test_a_way_of_cleaning_that_is_not_the_familys_is_refused(folders, kind, tmp_path):
    folder = copied(folders, kind, tmp_path)
    edit(folder / "tokenizer_config.json", text_cleaning="openai")
    assert "says text_cleaning: 'openai', which is not known of tokenizers of its kind" in refusal(folder)
