# SPDX-License-Identifier: Apache-2.0
import itertools
import unicodedata
from collections import Counter

import numpy as np
import pytest

from bert_jax.text.scripts import class_table, CLASSES, code_points, count_classes, OTHER_LETTERS, SCRIPT_RANGES

# What Unicode calls the letters of a script; a name begins with it.
NAMES = {
    "LATIN": "Latin", "GREEK": "Greek", "CYRILLIC": "Cyrillic", "ARMENIAN": "Armenian", "HEBREW": "Hebrew",
    "ARABIC": "Arabic", "DEVANAGARI": "Devanagari", "BENGALI": "Bengali", "GURMUKHI": "Gurmukhi", "GUJARATI": "Gujarati",
    "ORIYA": "Oriya", "TAMIL": "Tamil", "TELUGU": "Telugu", "KANNADA": "Kannada", "MALAYALAM": "Malayalam",
    "SINHALA": "Sinhala", "THAI": "Thai", "LAO": "Lao", "TIBETAN": "Tibetan", "MYANMAR": "Myanmar",
    "GEORGIAN": "Georgian", "ETHIOPIC": "Ethiopic", "KHMER": "Khmer", "MONGOLIAN": "Mongolian", "HANGUL": "Hangul",
    "HIRAGANA": "Kana", "KATAKANA": "Kana", "CJK": "Han",
}  # fmt: skip


def class_of(character: str) -> str:
    return CLASSES[class_table()[ord(character)]]


def test_scripts_are_those_of_the_names_that_unicode_gives_letters():
    """Independent of the ranges: every letter of the first two planes, by the first word of its name."""
    wrong = {}
    for code in range(0x20000):
        if unicodedata.category(chr(code))[0] != "L":
            continue
        expected = NAMES.get(unicodedata.name(chr(code), "").split(" ")[0].split("-")[0])
        found = CLASSES[class_table()[code]]
        if expected and found != expected:
            wrong.setdefault((expected, found), []).append(code)
    # Letters of these scripts in blocks of their own, far from common use.
    rare = {(name, OTHER_LETTERS) for name in NAMES.values()}
    assert not {pair: codes for pair, codes in wrong.items() if pair not in rare}
    assert sum(map(len, wrong.values())) < 800


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("aéßŁ", "Latin"), ("αΩ", "Greek"), ("жЯ", "Cyrillic"), ("中國々𠀋", "Han"), ("ひカー", "Kana"), ("한글", "Hangul"),
        ("عر", "Arabic"), ("אב", "Hebrew"), ("हिन्दी", "Devanagari"), ("ไทย", "Thai"), ("12٣½", "numbers"),
        (".,“”。+€😀", "punctuation and symbols"), (" \t\n\u3000", "white space"), ("\ufffd", "U+FFFD"),
        ("\0\u200b\ue000", "control and unassigned"), ("\u0301", "marks"), ("ᚠ", "other letters"),
    ],
)  # fmt: skip
def test_class_of_characters(text, name):
    """Chinese is told from Japanese and Korean."""
    assert {class_of(character) for character in text} == {name}


@pytest.mark.parametrize("text", ["plain ascii, 12.", "naïve Ω 中文 ไทย 𠀋 \ufffd", "\ud800 lone", ""])
def test_counting_is_the_sum_over_characters(text):
    text = text * 5_000  # several pieces
    expected = dict.fromkeys(CLASSES, 0)
    for character, times in Counter(text).items():
        expected[class_of(character)] += times
    assert dict(zip(CLASSES, count_classes(text).tolist(), strict=True)) == expected


def test_code_points_are_those_of_python():
    for text in ("abc", "aé中𠀋\ud800"):
        assert code_points(text).tolist() == list(map(ord, text))
        assert np.iinfo(code_points(text).dtype).min == 0


def test_ranges_do_not_overlap():
    ranges = sorted(entry for entries in SCRIPT_RANGES.values() for entry in entries)
    assert all(first <= last for first, last in ranges)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(ranges))
