# SPDX-License-Identifier: Apache-2.0
"""Where text may be cut so that the tokens of the parts are the tokens of the whole.

google-research/bert (tokenization.py) takes space, tab, line ends and the Unicode category Zs for white space, then
splits with str.split, which knows some more: U+2028 and U+2029 separate too, but the control characters \\v \\f
\\x1c to \\x1f \\x85, white space to Python, have been taken out by then and join what stands on either side.
It puts spaces around ideographs, so that each is a part of its own, and cuts before and after punctuation.
"""

import re
import unicodedata

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


def split_chunks(text: str) -> list[str]:
    """What white space separates, as google-research/bert knows it."""
    return _CHUNK.findall(text) if _has_joining(text) else text.split()


def split_chunks_and_ideographs(text: str) -> list[str]:
    """What white space separates; each ideograph is a chunk of its own."""
    if not text.isascii() and _IDEOGRAPH.search(text):
        return _CHUNK_OR_IDEOGRAPH.findall(text)
    return split_chunks(text)


def find_chunks(text: str) -> list[tuple[int, str]]:
    """The chunks of `split_chunks`, each with the place where it begins."""
    return [(match.start(), match[0]) for match in _CHUNK.finditer(text)]


def split_words(chunk: str) -> list[str]:
    """The runs of letters and digits and the punctuation characters of a chunk.

    An empty list where it has anything else (symbols, marks, what is taken out), an ideograph beside other characters,
    which is no run of letters, or a Σ beside others, whose lower case depends on what stands behind the punctuation.
    """
    parts = _WORD_OR_CHARACTER.findall(chunk)
    if chunk.isascii():
        return parts if chunk.isprintable() else []
    if len(chunk) > 1 and ("Σ" in chunk or _ANY_IDEOGRAPH.search(chunk)):
        return []
    return parts if all(map(_is_word_or_punctuation, parts)) else []


def _is_word_or_punctuation(part: str) -> bool:
    return part.isalnum() or (part.isprintable() if part.isascii() else unicodedata.category(part)[0] == "P")


def _has_joining(text: str) -> bool:
    if not text.isascii():
        return _JOINING.search(text) is not None
    # Six scans by the C library are four times as fast as a regular expression.
    return "\x0b" in text or "\x0c" in text or "\x1c" in text or "\x1d" in text or "\x1e" in text or "\x1f" in text
