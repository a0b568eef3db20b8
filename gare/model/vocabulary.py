"""The vocabulary of a CLIP tokenizer, read from its files and checked; nothing else in them is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gare.common.errors import InputError
from gare.common.records import read_object, read_small
from gare.common.redact import shown

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
MAX_BYTES = 16 * 2**20
TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS, ADDED = "tokenizer_config.json", "added_tokens.json"
FILES = (TOKENIZER, VOCABULARY, MERGES, SETTINGS, ADDED)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the tokenizer of some model."""
    return (folder / TOKENIZER).is_file() or (folder / VOCABULARY).is_file()


@dataclass(frozen=True)
class Vocabulary:
    """Ids of pieces, and the pairs of pieces that are merged, first to last."""

    ids: Mapping[str, int]
    merges: list[tuple[str, str]]


class _UnfitError(Exception):
    """Why files are not those of a CLIP tokenizer."""


def read_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary in ``tokenizer.json``, else in ``vocab.json`` and ``merges.txt``.

    Raises InputError unless it is CLIP's kind: byte-pair pieces that end words with ``</w>``, can spell any text, are
    all reached by merges, and have start and end tokens.
    """
    try:
        found = _of_one_file(folder) if (folder / TOKENIZER).is_file() else _of_two_files(folder)
        _check(found)
        _check_added(found, folder)
    except _UnfitError as unfit:
        raise InputError(f"{folder} holds no CLIP tokenizer: {unfit}.") from None
    return found


def _of_one_file(folder: Path) -> Vocabulary:
    model = read_object(folder / TOKENIZER, MAX_BYTES).get("model")
    if not isinstance(model, dict):
        raise _UnfitError(f"its {TOKENIZER} describes no model")
    kind = model.get("type", "BPE")
    if kind != "BPE" or "merges" not in model:
        raise _UnfitError(f"its {TOKENIZER} is of the kind {shown(kind)}, not byte pairs")
    suffix = model.get("end_of_word_suffix", WORD_END)
    if suffix != WORD_END:
        raise _UnfitError(f"its pieces end words with {shown(suffix)}, not {WORD_END}")
    pairs = model["merges"]
    return Vocabulary(_ids(model.get("vocab")), [_pair(pair) for pair in pairs] if isinstance(pairs, list) else [])


def _of_two_files(folder: Path) -> Vocabulary:
    for name in (VOCABULARY, MERGES):
        if not (folder / name).is_file():
            raise _UnfitError(f"it has no {TOKENIZER}, and no {name}")
    try:
        lines = read_small(folder / MERGES, MAX_BYTES).decode().splitlines()
    except UnicodeDecodeError:
        raise _UnfitError(f"its {MERGES} is not UTF-8") from None
    pairs = [line for n, line in enumerate(lines) if line and not (n == 0 and line.startswith("#version"))]
    return Vocabulary(_ids(read_object(folder / VOCABULARY, MAX_BYTES)), [_pair(pair) for pair in pairs])


def _ids(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or any(type(id_) is not int or not 0 <= id_ < 2**31 for id_ in value.values()):
        raise _UnfitError("its vocabulary does not map pieces to ids")
    if len(set(value.values())) < len(value):
        raise _UnfitError("two pieces of its vocabulary have the same id")
    return value


def _pair(value: Any) -> tuple[str, str]:
    parts = value.split(" ") if isinstance(value, str) else value
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise _UnfitError(f"{shown(value)} is no pair of pieces to merge")
    return parts[0], parts[1]


def _check(found: Vocabulary) -> None:
    from tokenizers import pre_tokenizers

    ids = found.ids
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    known = {START, END, *bytes_, *(symbol + WORD_END for symbol in bytes_)}
    missing = sorted(known - ids.keys())
    if missing:
        raise _UnfitError(
            f"its vocabulary of {len(ids)} pieces lacks {len(missing)} that CLIP's have, such as {shown(missing[0])}, "
            "so it belongs to another kind of model"
        )
    for pair in found.merges:
        if not {*pair, "".join(pair)} <= ids.keys():
            raise _UnfitError(f"it merges {shown(pair[0])} and {shown(pair[1])}, which its vocabulary does not have")
    lost = ids.keys() - known - {"".join(pair) for pair in found.merges}
    if lost:
        raise _UnfitError(f"no merge makes {len(lost)} of its pieces, such as {min(lost)!r:.40}")


def _check_added(found: Vocabulary, folder: Path) -> None:
    """Tokens that the files add have to be in the vocabulary already."""
    for token, id_ in _added(folder):
        if found.ids.get(token) != id_:
            raise _UnfitError(
                f"it adds the token {shown(token)} with the id {shown(id_)}, which its vocabulary does not have"
            )


def _added(folder: Path) -> Iterator[tuple[str, Any]]:
    """Tokens that the files add, with their ids."""
    values = {
        name: read_object(folder / name, MAX_BYTES) if (folder / name).is_file() else {}
        for name in (TOKENIZER, SETTINGS, ADDED)
    }
    listed, decoder = values[TOKENIZER].get("added_tokens") or [], values[SETTINGS].get("added_tokens_decoder") or {}
    if not isinstance(listed, list) or not isinstance(decoder, dict):
        raise _UnfitError("its added tokens are not written as transformers writes them")
    for entry in listed:
        yield _content(entry), entry.get("id") if isinstance(entry, dict) else None
    for id_, entry in decoder.items():
        yield _content(entry), int(id_) if id_.isdecimal() and len(id_) < 20 else id_
    yield from values[ADDED].items()


def _content(entry: Any) -> str:
    return str(entry.get("content")) if isinstance(entry, dict) else str(entry)
