# SPDX-License-Identifier: Apache-2.0
"""Cuts of text such that the tokens of the parts are the tokens of the whole.

google-research/bert (tokenization.py) takes space, tab, line ends and the Unicode category Zs for white space, then
splits with str.split, which knows some more: U+2028 and U+2029 separate too, but the control characters \\v \\f
\\x1c to \\x1f \\x85, white space to Python, have been taken out by then and join what stands on either side.
It puts spaces around ideographs, so that each is a part of its own, and cuts before and after punctuation.
"""

import re
import unicodedata
from collections.abc import Sequence

# The CJK blocks of google-research/bert's _is_chinese_char: not kana, not Hangul, and none added after 2015.
IDEOGRAPHS = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
)
ALL_IDEOGRAPHS = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # those of later Unicode as well
JOINING = "\x0b\x0c\x1c\x1d\x1e\x1f\x85"  # str.isspace says that they are white space; here they are not

_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")
_ANY_IDEOGRAPH = re.compile(f"[{ALL_IDEOGRAPHS}]")
_JOINING = re.compile(f"[{JOINING}]")
_CHUNK = re.compile(rf"[\S{JOINING}]+")
_CHUNK_OR_IDEOGRAPH = re.compile(rf"[{IDEOGRAPHS}]|(?:[^\s{IDEOGRAPHS}]|[{JOINING}])+")
_WORD_OR_CHARACTER = re.compile(r"[^\W_]+|.", re.DOTALL)


def split_chunks(texts: Sequence[str], ideographs_apart: bool = False) -> list[list[str]]:
    """Return the parts of each text between white space, as google-research/bert knows it.

    With `ideographs_apart` each ideograph is a chunk of its own.
    """
    chunks = list(map(str.split, texts))  # right for most texts, and one loop in C
    together = "".join(texts)
    if any(character in together for character in JOINING):
        for number, text in enumerate(texts):
            if _JOINING.search(text):
                chunks[number] = _CHUNK.findall(text)
    if ideographs_apart and not together.isascii():
        for number, text in enumerate(texts):
            if not text.isascii() and _IDEOGRAPH.search(text):
                chunks[number] = _CHUNK_OR_IDEOGRAPH.findall(text)
    return chunks


def find_chunks(text: str) -> list[tuple[int, str]]:
    """The chunks of `split_chunks`, each with the place where it begins."""
    return [(match.start(), match[0]) for match in _CHUNK.finditer(text)]


def split_words(chunks: Sequence[str]) -> list[list[str]]:
    """The runs of letters and digits and the punctuation characters of each chunk.

    A chunk stays whole where it has anything else (symbols, marks, what is taken out), an ideograph beside other
    characters, which is no run of letters, or a Σ beside others, whose lower case depends on what stands behind the
    punctuation.
    """
    return [[chunk] if chunk.isalnum() and chunk.isascii() else _words_of(chunk) for chunk in chunks]


def _words_of(chunk: str) -> list[str]:
    if chunk.isascii():
        if chunk[:-1].isalnum() and chunk[-1].isprintable():
            return [chunk[:-1], chunk[-1]]
        return _WORD_OR_CHARACTER.findall(chunk) if chunk.isprintable() else [chunk]
    if len(chunk) > 1 and ("Σ" in chunk or _ANY_IDEOGRAPH.search(chunk)):
        return [chunk]
    parts = _WORD_OR_CHARACTER.findall(chunk)
    return parts if all(map(is_one_word, parts)) else [chunk]


def is_one_word(part: str) -> bool:
    """Whether a part of `split_words` is a run of letters and digits or a punctuation character, not what stayed whole."""
    if part.isascii():
        return part.isalnum() or (len(part) == 1 and part.isprintable())
    if len(part) > 1:
        return part.isalnum() and "Σ" not in part and not _ANY_IDEOGRAPH.search(part)
    return part.isalnum() or unicodedata.category(part)[0] == "P"
