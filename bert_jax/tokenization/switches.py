# SPDX-License-Identifier: Apache-2.0
"""Differences of Hugging Face's WordPiece from google-research/bert's that change ids, as switches.

Each is a field of transformers' or of the `tokenizers` library, under its name there.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields

import tokenizers

from bert_jax.base.types import JsonObject

LONGEST_WORD = 200  # characters; a longer word is [UNK], as in google-research/bert
LONGEST_WORD_OF_TRANSFORMERS = 100  # of transformers' BertTokenizer, whatever its files say


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before words are, and stays whole; as `tokenizers.AddedToken`."""

    content: str
    single_word: bool = False  # not inside a word
    lstrip: bool = False  # takes the white space before it along
    rstrip: bool = False
    normalized: bool = True  # looked for in the normalised text, itself normalised
    special: bool = False


@dataclass(frozen=True)
class Switches:
    """How a tokenizer differs from google-research/bert's; the defaults are google-research/bert's."""

    tokenize_chinese_chars: bool = True  # each ideograph is a word of its own
    max_input_chars_per_word: int = LONGEST_WORD
    added_tokens: tuple[AddedToken, ...] = ()  # those that are no entries of the vocabulary have the ids behind it

    def changed(self) -> JsonObject:
        """Return the switches that are not google-research/bert's, for JSON; `switches_from` inverts it."""
        values = asdict(self) | {"added_tokens": [asdict(token) for token in self.added_tokens]}
        return {field.name: values[field.name] for field in fields(self) if getattr(self, field.name) != field.default}

    def behind(self, entries: Iterable[str]) -> list[str]:
        """The added tokens that are no entries of a vocabulary, in the order of their ids."""
        known = set(entries)
        return [token.content for token in self.added_tokens if token.content not in known]


def switches_from(values: JsonObject) -> Switches:
    """The switches of a tokenizer_config.json of ours.

    Raises:
      TypeError: a token with a field that no added token has.
    """
    named = {field.name: values[field.name] for field in fields(Switches) if field.name in values}
    if "added_tokens" in named:
        named["added_tokens"] = tuple(AddedToken(**token) for token in named["added_tokens"])
    return Switches(**named)


class AddedTokens:
    """The added tokens of a tokenizer, given to the library, and a look whether a text may have one of them.

    Args:
      tokens: of a vocabulary whose entries the library's model has already.
      backend: the library's tokenizer.
      even_out: a text -> what the library is given in its place.
    """

    def __init__(self, tokens: Iterable[AddedToken], backend: tokenizers.Tokenizer, even_out: Callable[[str], str]):
        self._normalize, self._even_out = backend.normalizer.normalize_str, even_out
        evened = [AddedToken(**asdict(token) | {"content": even_out(token.content)}) for token in tokens]
        for token in evened:
            flags = {name: value for name, value in asdict(token).items() if name != "content"}
            backend.add_tokens([tokenizers.AddedToken(token.content, **flags)])
        self._raw = _any_of(token.content for token in evened if not token.normalized)
        self._normal = _any_of(self._normalize(token.content) for token in evened if token.normalized)

    def may_be_in(self, text: str) -> bool:
        """Whether one of them is in a text; where single words are asked for, it may yet be inside one."""
        text = self._even_out(text)
        if self._raw is not None and self._raw.search(text):
            return True
        return self._normal is not None and self._normal.search(self._normalize(text)) is not None


def _any_of(contents: Iterable[str]) -> re.Pattern[str] | None:
    contents = [re.escape(content.strip() or content) for content in contents]
    return re.compile("|".join(contents)) if contents else None
