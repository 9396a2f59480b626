# SPDX-License-Identifier: Apache-2.0
"""Normalisation as in google-research/bert, and the changes of a text by which `tokenizers` does the same.

The library has Unicode tables of its own, older than Python's: it does not know some punctuation, marks and format
characters, drops private-use characters, and takes U+2B820..2B91F for letters. Whether it agrees about a character is
asked of the library itself, once for each character that occurs; where it does not, the character is replaced by one of
the same class that both agree about. tools/check_tokenizer.py compares all code points.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

import tokenizers

from bert_jax.base.errors import UserError
from bert_jax.tokenization.chunks import IDEOGRAPHS

_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")

# Rare characters, the same to Python and the library, that can stand for others of their class.
_POOLS = {
    "dropped": "".join(map(chr, range(0xE0020, 0xE0030))),  # tags
    "mark": "".join(map(chr, range(0x1E8D0, 0x1E8D7))),  # of the Mende Kikakui script
    "punctuation": "".join(map(chr, range(0x10A50, 0x10A59))),  # of the Kharoshthi script
    "ideograph": "".join(map(chr, range(0x2A600, 0x2A6D7))),
    "ordinary": "".join(map(chr, range(0x13000, 0x1342F))),  # Egyptian hieroglyphs
}


class Evening(dict[int, str]):
    """Code point -> the character to give to the library: a table for str.translate, filled as characters occur.

    Args:
      normalizer, pre_tokenizer: the library's.
      lowercase, strip_accents: what the normalizer was made with.
      known: the characters of the vocabulary. One of them that the library misjudges gets a stand-in of its own.
      ideographs_apart: as the normalizer was told.
    """

    def __init__(
        self,
        normalizer: tokenizers.normalizers.Normalizer,
        pre_tokenizer: tokenizers.pre_tokenizers.PreTokenizer,
        lowercase: bool,
        strip_accents: bool,
        known: Iterable[str],
        ideographs_apart: bool = True,
    ):
        super().__init__()
        self._normalizer, self._pre_tokenizer = normalizer, pre_tokenizer
        self._lowercase, self._strip_accents, self._ideographs_apart = lowercase, strip_accents, ideographs_apart
        known = frozenset(known)
        pools = {name: iter([free for free in pool if free not in known]) for name, pool in _POOLS.items()}
        self._shared = {name: _next_free(name, pool) for name, pool in pools.items()}
        for character in sorted(known):
            if self[ord(character)] != character:
                self[ord(character)] = self._own_stand_in(character, pools)

    def __missing__(self, code: int) -> str:
        character = chr(code)
        agreed = code < 128 or self._library_agrees(character)
        self[code] = character if agreed else self._shared[self._class(character)]
        return self[code]

    def even_out(self, text: str) -> str:
        """`text` with stand-ins of one character each, so that offsets stay."""
        if text.isascii():
            return text
        if self._lowercase and "Σ" in text:
            text = _with_lower_sigma(text)
        return text.translate(self)

    @property
    def stand_ins(self) -> frozenset[str]:
        """The characters that stand for others."""
        return frozenset(self._shared.values())

    def _own_stand_in(self, character: str, pools: dict[str, Iterator[str]]) -> str:
        name = self._class(character)
        if name in ("dropped", "mark"):
            return self._shared[name]
        return _next_free(name, pools[name])

    def _library_agrees(self, character: str) -> bool:
        if "\ud800" <= character <= "\udfff":  # half a character: cannot be given to the library
            return False
        normal = self._normalizer.normalize_str(f"a{character}b")
        pieces = [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(normal)]
        expected = basic_tokens(f"a{character}b", self._lowercase, self._strip_accents, self._ideographs_apart)
        return pieces == expected

    def _class(self, character: str) -> str:
        if is_dropped(character):
            return "dropped"
        if self._ideographs_apart and _IDEOGRAPH.match(character):
            return "ideograph"
        if _is_punctuation(character):
            return "punctuation"
        return "mark" if self._strip_accents and unicodedata.category(character) == "Mn" else "ordinary"


def _next_free(name: str, pool: Iterator[str]) -> str:
    """A character that can stand for others of a class.

    Raises:
      UserError: the vocabulary has them all, or too many that the library misjudges.
    """
    for character in pool:
        return character
    raise UserError(
        f"the vocabulary has too many rare characters of the class {name} (U+{ord(_POOLS[name][0]):04X} to"
        f" U+{ord(_POOLS[name][-1]):04X}, or such as the tokenizers library misjudges): take some out"
    )


def basic_tokens(text: str, lowercase: bool, strip_accents: bool, ideographs_apart: bool = True) -> list[str]:
    """Words and punctuation characters, as google-research/bert's BasicTokenizer; slow."""
    kept = "".join(" " if is_space(character) else character for character in text if not is_dropped(character))
    tokens: list[str] = []
    if ideographs_apart:
        kept = _IDEOGRAPH.sub(r" \g<0> ", kept)
    for word in kept.split():
        if lowercase:
            word = word.lower()
        if strip_accents:
            decomposed = unicodedata.normalize("NFD", word)
            word = "".join(character for character in decomposed if unicodedata.category(character) != "Mn")
        for alone, characters in itertools.groupby(word, _is_punctuation):
            run = "".join(characters)
            tokens.extend(run if alone else run.split())
    return tokens


def is_space(character: str) -> bool:
    """Space, tab, line ends and the other blanks; not str.isspace, which knows of more."""
    return character in " \t\n\r" or unicodedata.category(character) == "Zs"


def is_dropped(character: str) -> bool:
    """Control and format characters, and U+FFFD, are taken out before anything else is done."""
    return character == "\ufffd" or (character not in "\t\n\r" and unicodedata.category(character) in ("Cc", "Cf"))


def _is_punctuation(character: str) -> bool:
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character)[0] == "P"


def _with_lower_sigma(text: str) -> str:
    """Python lower-cases a Σ that ends a word to ς, the library to σ."""
    places = [place for place, character in enumerate(text) if not is_dropped(character)]
    kept = "".join(text[place] for place in places)
    lowered = kept.replace("İ", "I").lower()  # İ is the one character whose lower case is two characters long
    characters = list(text)
    for place, character, low in zip(places, kept, lowered, strict=True):
        if character == "Σ":
            characters[place] = low
    return "".join(characters)
