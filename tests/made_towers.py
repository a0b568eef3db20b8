"""Small models of the families beside CLIP, saved as transformers saves them, and transformers' own answers."""

from __future__ import annotations

import json
import re
import string

import torch
import transformers

from gare.model.pixels import OPENAI_PIXELS

SIDE, WORDS = 32, 16
TEXTS = ["a red square left", "Green, LOW", "", "a blue square high is a red square low is a grey square left is left"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WHOLE = ("red", "square", "left", "low", "is", "a", "green", "blue", "grey", "high")
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "attention_dropout": 0.0,
}
VISION = TOWER | {"image_size": SIDE, "patch_size": 16}
STATISTICS = (([0.5] * 3, [0.5] * 3), (OPENAI_PIXELS.mean, OPENAI_PIXELS.std))


def gemma():
    """SigLIP 2's tokenizer: byte pairs, spaces as pieces, bytes for what is unknown."""
    pieces = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        *(f"<0x{n:02X}>" for n in range(256)),
        "\u2581",
        *LETTERS,
        ",",
    ]
    ids = {piece: n for n, piece in enumerate(pieces)}
    merges = []
    for word in WHOLE:
        whole = "\u2581"
        for letter in word:
            merges.append((whole, letter))
            whole += letter
            ids.setdefault(whole, len(ids))
    merges = list(dict.fromkeys(merges))
    return transformers.Siglip2Tokenizer(ids, merges, add_bos_token=False, add_eos_token=True, padding_side="right")


def scored(*marks):
    """Unigrams with their scores, after some marks."""
    words = [("\u2581" + word, -1.0 - n / 10) for n, word in enumerate(WHOLE)]
    letters = [(letter, -6.0 - n / 10) for n, letter in enumerate(["\u2581", *LETTERS, *"GLOW,"])]
    return [*((mark, 0.0) for mark in marks), *words, *letters]


def xlm():
    """MetaCLIP 2's tokenizer."""
    return transformers.XLMRobertaTokenizer([*scored("<s>", "<pad>", "</s>", "<unk>"), ("<mask>", 0.0)])


def unigrams():
    """SigLIP's tokenizer, as a tokenizer.json has it."""
    return transformers.T5Tokenizer(scored("<pad>", "</s>", "<unk>"), extra_ids=0)


TOKENIZERS = {"siglip2": gemma, "siglip": unigrams, "metaclip_2": xlm}


def make(kind, folder):
    """Save the model ``siglip2``, ``siglip`` or ``metaclip_2`` in a folder, as those that are published."""
    tokenizer = TOKENIZERS[kind]()
    text = TOWER | {"vocab_size": len(tokenizer), "max_position_embeddings": WORDS}
    torch.manual_seed(0)
    if kind == "metaclip_2":
        text |= {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
        config = transformers.MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=64)
        model, preprocessing = transformers.MetaClip2Model(config), {"image_processor_type": "CLIPImageProcessor"}
    else:
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))
        torch.nn.init.constant_(model.logit_scale, 2.0)
        torch.nn.init.constant_(model.logit_bias, -10.0)
        preprocessing = {
            "image_processor_type": "SiglipImageProcessor",
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "size": {"height": SIDE, "width": SIDE},
            "resample": 2,
        }
    with torch.no_grad():  # as drawn, biases are 0 and norms 1
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


def features(kind, folder, texts, frames, words=WORDS):
    """Text and image features of ``texts`` and uint8 frames [N, 3, 32, 32], by transformers alone."""
    model, tokenizer = transformers.AutoModel.from_pretrained(folder).eval(), TOKENIZERS[kind]()
    if kind == "siglip":  # whose own class needs sentencepiece
        texts = [
            re.sub(r"\s+", " ", text.lower().translate(str.maketrans("", "", string.punctuation))) for text in texts
        ]
        tokenizer.pad_token = tokenizer.eos_token
    cut = [tokenizer(text, truncation=True, max_length=words).input_ids for text in texts]
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (WORDS - len(row)) for row in cut])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in STATISTICS[kind == "metaclip_2"])
    with torch.no_grad():
        text = model.get_text_features(input_ids=ids).pooler_output
        return text, model.get_image_features(pixel_values=(frames / 255 - mean) / std).pooler_output
