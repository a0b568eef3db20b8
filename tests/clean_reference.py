"""The published rule of CLIP's text encoding, in its plain form: what the tokenizer has to agree with."""

from __future__ import annotations

import html
import re
from itertools import pairwise

import ftfy
import regex

WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


def cleaned(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip().lower()


def _letters():
    """Each byte's stand-in: itself where it prints, else the next free character from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in plain}
    return table | {byte: chr(256 + n) for n, byte in enumerate(sorted(set(range(256)) - set(plain)))}


LETTERS = _letters()


def encoded(text, ids, merges):
    """Ids of a text without start and end."""
    ranks = {pair: n for n, pair in enumerate(merges)}
    out = []
    for word in WORD.findall(cleaned(text)):
        if word in ("<|startoftext|>", "<|endoftext|>"):
            out.append(ids[word])
            continue
        pieces = [LETTERS[byte] for byte in word.encode()]
        pieces[-1] += "</w>"
        while len(pieces) > 1:
            first = min(pairwise(pieces), key=lambda pair: ranks.get(pair, len(ranks)))
            if first not in ranks:
                break
            joined, n = [], 0
            while n < len(pieces):
                if tuple(pieces[n : n + 2]) == first:
                    joined.append(pieces[n] + pieces[n + 1])
                    n += 2
                else:
                    joined.append(pieces[n])
                    n += 1
            pieces = joined
        out += [ids[piece] for piece in pieces]
    return out
