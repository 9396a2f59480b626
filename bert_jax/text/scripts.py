# SPDX-License-Identifier: Apache-2.0
"""The script of each Unicode code point: Latin, Greek, Han ... A script is not a language.

The ranges are those of Unicode's blocks for the scripts that most text on the web is written in; letters of all other
scripts are `OTHER_LETTERS`. Code points that are no letters have classes of their own.
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

SCRIPT_RANGES: Mapping[str, Sequence[tuple[int, int]]] = {
    "Latin": [
        (0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x24F), (0x250, 0x2B8), (0x1D00, 0x1D25),
        (0x1D2C, 0x1D5C), (0x1D62, 0x1D65), (0x1D6B, 0x1D77), (0x1D79, 0x1DBE), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F),
        (0xA722, 0xA787), (0xA78B, 0xA7FF), (0xAB30, 0xAB64), (0xFB00, 0xFB06), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A),
    ],
    "Greek": [(0x370, 0x3E1), (0x3F0, 0x3FF), (0x1F00, 0x1FFF)],
    "Cyrillic": [(0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)],
    "Armenian": [(0x531, 0x58F), (0xFB13, 0xFB17)],
    "Hebrew": [(0x591, 0x5F4), (0xFB1D, 0xFB4F)],
    "Arabic": [(0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)],
    "Devanagari": [(0x900, 0x97F), (0xA8E0, 0xA8FF)],
    "Bengali": [(0x980, 0x9FF)],
    "Gurmukhi": [(0xA00, 0xA7F)],
    "Gujarati": [(0xA80, 0xAFF)],
    "Oriya": [(0xB00, 0xB7F)],
    "Tamil": [(0xB80, 0xBFF)],
    "Telugu": [(0xC00, 0xC7F)],
    "Kannada": [(0xC80, 0xCFF)],
    "Malayalam": [(0xD00, 0xD7F)],
    "Sinhala": [(0xD80, 0xDFF)],
    "Thai": [(0xE00, 0xE7F)],
    "Lao": [(0xE80, 0xEFF)],
    "Tibetan": [(0xF00, 0xFFF)],
    "Myanmar": [(0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)],
    "Georgian": [(0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)],
    "Ethiopic": [(0x1200, 0x139F), (0x2D80, 0x2DDF), (0xAB01, 0xAB2E)],
    "Khmer": [(0x1780, 0x17FF)],
    "Mongolian": [(0x1800, 0x18AF)],
    "Hangul": [(0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7FB), (0xFFA0, 0xFFDC)],
    "Kana": [(0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F)],
    "Han": [
        (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
        (0x20000, 0x3FFFD),
    ],
}  # fmt: skip

# Scripts that are written without spaces between words.
UNSPACED_SCRIPTS = ("Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")

# Scripts that write vowels, tones or voicing with marks which google-research/bert strips with the accents (Unicode
# category Mn once decomposed): without them other words stand there. The points of Hebrew and Arabic are left out by most
# writers themselves.
SCRIPTS_OF_MARKS = (
    "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala",
    "Thai", "Lao", "Tibetan", "Myanmar", "Khmer", "Kana",
)  # fmt: skip

OTHER_LETTERS = "other letters"
NUMBERS = "numbers"
PUNCTUATION = "punctuation and symbols"
MARKS = "marks"  # combining marks that belong to no script, such as U+0301
SPACES = "white space"
REPLACEMENTS = "U+FFFD"  # stands where bytes could not be decoded
CONTROLS = "control and unassigned"
LETTER_CLASSES = (*SCRIPT_RANGES, OTHER_LETTERS)
CLASSES = (*LETTER_CLASSES, NUMBERS, PUNCTUATION, MARKS, SPACES, REPLACEMENTS, CONTROLS)

_END = 0x110000
_END_OF_LISTED = 0x20000  # code points beyond are Han or nothing that text is written in
_OF_CATEGORY = {"L": OTHER_LETTERS, "N": NUMBERS, "P": PUNCTUATION, "S": PUNCTUATION, "M": MARKS, "Z": SPACES}

_COUNTED_AT_ONCE = 2**16  # characters; their arrays stay in the processor's cache


@functools.cache
def class_table() -> np.ndarray:
    """The class of each code point: [0x110000] uint8, an index of `CLASSES`.

    A letter (category L), or a mark (M) inside a script's ranges, has its script; all else goes by its category.
    """
    scripts = np.full(_END, CLASSES.index(OTHER_LETTERS), np.uint8)
    for name, ranges in SCRIPT_RANGES.items():
        for first, last in ranges:
            scripts[first : last + 1] = CLASSES.index(name)
    table = np.full(_END, CLASSES.index(CONTROLS), np.uint8)
    unlisted = scripts != CLASSES.index(OTHER_LETTERS)
    table[_END_OF_LISTED:][unlisted[_END_OF_LISTED:]] = CLASSES.index("Han")
    for code in range(_END_OF_LISTED):
        category = unicodedata.category(chr(code))[0]
        in_script = category == "L" or (category == "M" and unlisted[code])
        if in_script:
            table[code] = scripts[code]
        elif category in _OF_CATEGORY:
            table[code] = CLASSES.index(_OF_CATEGORY[category])
    for code in (0x09, 0x0A, 0x0D):
        table[code] = CLASSES.index(SPACES)
    table[0xFFFD] = CLASSES.index(REPLACEMENTS)
    return table


def code_points(text: str) -> np.ndarray:
    """The code points of a text: [characters] uint8 or uint32. Lone surrogates, which JSON can hold, are kept."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def count_classes(text: str) -> np.ndarray:
    """How many characters of each class a text has: [len(CLASSES)] int64."""
    counts = np.zeros(len(CLASSES), np.int64)
    for begin in range(0, len(text), _COUNTED_AT_ONCE):
        codes = code_points(text[begin : begin + _COUNTED_AT_ONCE])
        counts += np.bincount(class_table()[codes], minlength=len(CLASSES))
    return counts
