# SPDX-License-Identifier: Apache-2.0
"""Beginnings of words, by the characters of the text: for any language and any tokenizer.

A word is a run of letters, digits and marks; each punctuation character, symbol and ideograph is one. White space
separates words; control and format characters (a soft hyphen, a joiner) neither belong to words nor separate them.
Chinese and Japanese words are what a segmenter, where one is given, makes of their characters.
"""

import enum
import functools
import itertools
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType

from bert_jax.base.errors import UserError
from bert_jax.tokenization.chunks import ALL_IDEOGRAPHS, JOINING

Segmenter = Callable[[str], list[str]]  # a run of Chinese or Japanese characters -> its words, which joined are the run

_KANA = "\u3005\u3006\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HAS_IDEOGRAPH = re.compile(f"[{ALL_IDEOGRAPHS}]")
_PART = re.compile(rf"[{ALL_IDEOGRAPHS}]|[^\W_{ALL_IDEOGRAPHS}]+|.", re.DOTALL)
_CJK = re.compile(f"[{ALL_IDEOGRAPHS}{_KANA}]+")
_HAN_OR_REST = re.compile(f"[{ALL_IDEOGRAPHS}]+|[^{ALL_IDEOGRAPHS}]+")


class _Kind(enum.Enum):
    """The kinds of characters by their effect on words."""

    SPACE = enum.auto()
    NONE = enum.auto()  # as if it were not there
    LETTER = enum.auto()  # or digit
    MARK = enum.auto()  # belongs to what stands before it
    SINGLE = enum.auto()  # punctuation or symbol
    IDEOGRAPH = enum.auto()


def word_starts(
    text: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    unk_id: int,
    segmenter: Segmenter | None = None,
) -> list[bool]:
    """Return for each token of `text` whether it begins a word: whether no token before it has a part of its first word.

    An [UNK] is a word, whatever it covers.
    """
    if not ids:
        return []
    first_words, last_words = words_of_characters(text, segmenter)
    starts = [True]
    for (before_begin, before_end), (begin, _) in itertools.pairwise(offsets):
        starts.append(first_words[begin] != last_words[max(before_begin, before_end - 1)])
    if unk_id in ids:
        unknown = [index == unk_id for index in ids]
        starts = [
            start or here or before for start, here, before in zip(starts, unknown, [False, *unknown], strict=False)
        ]
    return starts


def has_cjk(text: str) -> bool:
    """Whether there is anything for a segmenter in `text`."""
    return not text.isascii() and _CJK.search(text) is not None


def words_of_characters(text: str, segmenter: Segmenter | None = None) -> tuple[list[int], list[int]]:
    """Return for each character the number of its word, from 0; in the first list for the end of the text too.

    A character of no word counts in the first list to the word after it, in the second to the word before it.
    """
    parts = [] if segmenter else _PART.findall(text)
    if parts and all(map(_is_word, parts)):  # so with most chunks of text
        numbers = [word for word, part in enumerate(parts) for _ in part]
        return [*numbers, len(parts)], numbers
    cuts = _segmenter_cuts(text, segmenter) if segmenter else {}
    word = -1
    before = _Kind.SPACE
    last_words: list[int] = []
    belongs: list[bool] = []
    for place, character in enumerate(text):
        kind = _KINDS[character]
        belongs.append(kind not in (_Kind.SPACE, _Kind.NONE))
        if belongs[-1] and cuts.get(place, not _continues(before, kind)):
            word += 1
        if kind is _Kind.MARK:
            before = before if before in (_Kind.LETTER, _Kind.SINGLE) else _Kind.LETTER
        elif kind is not _Kind.NONE:
            before = kind
        last_words.append(word)
    first_words = [word + 1]
    for belonging, number in zip(reversed(belongs), reversed(last_words), strict=True):
        first_words.append(number if belonging else first_words[-1])
    return first_words[::-1], last_words


def _is_word(part: str) -> bool:
    return part.isalnum() or _KINDS[part] is _Kind.SINGLE


def _continues(before: _Kind, kind: _Kind) -> bool:
    if kind is _Kind.MARK:  # google-research/bert parts marks from ideographs
        return before in (_Kind.LETTER, _Kind.SINGLE)
    return before is _Kind.LETTER and kind is _Kind.LETTER


def _segmenter_cuts(text: str, segmenter: Segmenter) -> dict[int, bool]:
    """Return where words begin among Chinese and Japanese characters, and at the end of each run of them."""
    cuts: dict[int, bool] = {}
    for run in _CJK.finditer(text):
        words = segmenter(run[0])
        if "".join(words) != run[0]:
            raise UserError(f"the segmenter changed '{run[0][:40]}' to '{''.join(words)[:40]}': it may only cut it")
        cuts |= dict.fromkeys(range(*run.span()), False)
        place = run.start()
        for word in words:
            cuts[place] = True
            place += len(word)
        cuts[place] = True
    return cuts


class _Kinds(dict[str, _Kind]):
    """The kind of each character that was asked for."""

    def __missing__(self, character: str) -> _Kind:
        kind = self[character] = _kind(character)
        return kind


def _kind(character: str) -> _Kind:
    category = unicodedata.category(character)
    if character.isspace() and character not in JOINING:
        return _Kind.SPACE
    if category in ("Cc", "Cf") or character == "\ufffd":
        return _Kind.NONE
    if _HAS_IDEOGRAPH.match(character):
        return _Kind.IDEOGRAPH
    if category[0] == "M":
        return _Kind.MARK
    return _Kind.SINGLE if category[0] in "PS" else _Kind.LETTER


_KINDS = _Kinds()


# ---- segmenters --------------------------------------------------------------------------------------------


def load_segmenter(name: str) -> Segmenter:
    """The segmenter of that name: "jieba", for Chinese. Raises UserError where it is not installed."""
    if name != "jieba":
        raise UserError(f"there is no segmenter '{name}': the one there is is jieba (for Chinese)")
    _jieba()
    return cut_with_jieba


def cut_with_jieba(run: str) -> list[str]:
    """Chinese words, by jieba's dictionary and its model of new words; kana, which it does not know, stay whole."""
    jieba = _jieba()
    parts = _HAN_OR_REST.findall(run)
    return [word for part in parts for word in (jieba.lcut(part) if _HAS_IDEOGRAPH.match(part) else [part])]


@functools.cache
def _jieba() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was written for older Pythons
        try:
            import jieba
        except ImportError:
            raise UserError(
                'the segmenter jieba is not installed: pip install "bert-jax[jieba]", or go without'
            ) from None
        jieba.setLogLevel(logging.WARNING)
        jieba.initialize()
    return jieba
