# SPDX-License-Identifier: Apache-2.0
"""WordPiece: text -> ids, with the characters each piece came from.

Ids are those of google-research/bert's FullTokenizer (its tokenization.py), computed by the `tokenizers`
library, whose few differences are evened out here. A vocabulary is a file vocab.txt with an entry a line (id
= line number - 1); tokenizer_config.json beside it says how text is normalised before it is looked up.
"""

import collections
import functools
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY_FILE = "vocab.txt"
CONFIG_FILE = "tokenizer_config.json"
LONGEST_WORD = 200  # characters; a longer word is [UNK], as in google-research/bert
CASED_SHARE = 0.01  # of the entries: with at least so many capitals a bare vocabulary is taken for a cased one


@dataclass(frozen=True)
class Encoding:
    """One encoded text: three lists of equal length."""

    ids: list[int]
    pieces: list[str]
    offsets: list[tuple[int, int]]  # [begin, end) in characters of the text as it was given


class Tokenizer:
    """A WordPiece vocabulary, and how text is normalised before it is looked up in it.

    `strip_accents=None` means: where text is lower-cased, as google-research/bert does. `decided_by` says,
    for people, where `lowercase` came from; it changes nothing. A tokenizer can be pickled.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        lowercase: bool,
        strip_accents: bool | None = None,
        decided_by: str = "as asked",
    ):
        self.vocabulary = tuple(vocabulary)
        self.lowercase = lowercase
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.decided_by = decided_by
        ids = {entry: index for index, entry in enumerate(self.vocabulary)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL_TOKENS)
        self._backend = _wordpiece(ids, self.lowercase, self.strip_accents)
        self._characters = frozenset("".join(self.vocabulary))

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary."""
        return len(self.vocabulary)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the settings and the entries in order: the same one means the same ids."""
        settings = json.dumps({"kind": "wordpiece", "lowercase": self.lowercase, "strip_accents": self.strip_accents})
        return hashlib.sha256("\n".join((settings, *self.vocabulary)).encode()).hexdigest()

    def encode(self, text: str) -> Encoding:
        """Ids, pieces and offsets. No special tokens are added; text that reads "[SEP]" is plain text."""
        encoded = self._backend.encode(self._evened(text), add_special_tokens=False)
        return Encoding(encoded.ids, encoded.tokens, encoded.offsets)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text: those of `encode`, but faster.

        The library uses all cores; in a process that is one of many, set TOKENIZERS_PARALLELISM=false.
        """
        evened = [self._evened(text) for text in texts]
        return [encoded.ids for encoded in self._backend.encode_batch_fast(evened, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The pieces as text for people to read; special tokens are shown.

        Case, accents and white space are not those of the original. The text encodes to the same ids again,
        unless there are special tokens in it.
        """
        for index in ids:
            if not 0 <= index < self.vocab_size:
                raise UserError(f"id {index} is not in the vocabulary, which has {self.vocab_size} entries")
        return _joined([self.vocabulary[index] for index in ids])

    def save(self, directory: Path) -> None:
        """Writes vocab.txt and tokenizer_config.json into `directory`, which is made where it is missing."""
        directory.mkdir(parents=True, exist_ok=True)
        config = {
            "kind": "wordpiece",
            "lowercase": self.lowercase,
            "strip_accents": self.strip_accents,
            "fingerprint": self.fingerprint,
        }
        _write(directory / VOCABULARY_FILE, "".join(f"{entry}\n" for entry in self.vocabulary))
        _write(directory / CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    def _evened(self, text: str) -> str:
        """`text`, changed so that the library treats it as google-research/bert does."""
        return text if text.isascii() else _even_out(text, self.lowercase, self._characters)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def _wordpiece(ids: dict[str, int], lowercase: bool, strip_accents: bool) -> Any:
    """The library's tokenizer. It is told of no special tokens, so that no text is ever taken for one."""
    import tokenizers

    model = tokenizers.models.WordPiece(vocab=ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return backend


# Where the library and google-research/bert differ (all code points compared, tokenizers 0.23). What is left
# are characters that Unicode got after the library's tables were made; there google-research/bert's ids
# depend on the version of Python.

_UNEVEN = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff\ud800-\udfff\U0002b820-\U0002b91f]")
_ORDINARY = "\U0001d200"  # a musical sign, a word character to both: for what the library would drop
_IDEOGRAPH = "\U0002a6d6"  # for a Chinese character that the library does not put spaces around


def _even_out(text: str, lowercase: bool, known: frozenset[str]) -> str:
    """`text` with stand-ins of one character each, so that offsets stay; none for `known` characters.

    Private-use characters and lone surrogates belong to a word there and are dropped by the library;
    U+2B820..2B91F are ideographs there but not in the library; Python lower-cases a Σ that ends a word to ς,
    the library to σ.
    """
    if lowercase and "Σ" in text:
        text = _with_lower_sigma(text)
    if not _UNEVEN.search(text):
        return text
    return _UNEVEN.sub(lambda match: match[0] if match[0] in known else _stand_in(match[0]), text)


def _with_lower_sigma(text: str) -> str:
    places = [place for place, character in enumerate(text) if not _is_dropped(character)]
    kept = "".join(text[place] for place in places)
    lowered = kept.replace("İ", "I").lower()  # İ is the one character whose lower case is two characters long
    characters = list(text)
    for place, character, low in zip(places, kept, lowered, strict=True):
        if character == "Σ":
            characters[place] = low
    return "".join(characters)


def _is_dropped(character: str) -> bool:
    """Control and format characters are taken out of a word before it is lower-cased."""
    return character in "\0\ufffd" or (character not in "\t\n\r" and unicodedata.category(character) in ("Cc", "Cf"))


def _stand_in(character: str) -> str:
    return _IDEOGRAPH if "\U0002b820" <= character <= "\U0002b91f" else _ORDINARY


# Joining pieces.

_IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"  # as in google-research/bert
_WIDE = _IDEOGRAPHS + "\u3000-\u303f\uff00-\uffef"  # with Chinese punctuation
_NO_SPACE = re.compile(
    rf"(?<=[{_WIDE}]) (?=[{_WIDE}])"  # between Chinese characters
    r"| (?=[.,;:!?%)\]}’”])"  # before closing punctuation
    r"|(?<=[(\[{“‘]) "  # after opening punctuation
    r"|(?<=\w) (?=' (?:s|t|d|m|re|ve|ll)\b)|(?<=\w ') (?=(?:s|t|d|m|re|ve|ll)\b)"  # it's, don't
)


def _joined(pieces: Sequence[str]) -> str:
    words: list[str] = []
    for piece in pieces:
        if words and len(piece) > 2 and piece.startswith("##"):
            words[-1] += piece[2:]
        else:
            words.append(piece)
    return _NO_SPACE.sub("", " ".join(words))


# Reading.


def load_tokenizer(path: Path, lowercase: bool | None = None, strip_accents: bool | None = None) -> Tokenizer:
    """The tokenizer of a vocabulary file, or of any directory with a vocab.txt: a run, data, a vocabulary.

    A tokenizer_config.json beside a vocab.txt is obeyed: ours, whose fingerprint must fit, or Hugging Face's.
    Without one, `lowercase` decides; where it is None, text is lower-cased if less than CASED_SHARE of the
    entries have a capital letter. `decided_by` of the result says which it was. Raises UserError for what
    does not fit.
    """
    path = Path(path)
    file = path / VOCABULARY_FILE if path.is_dir() else path
    if not file.exists():
        raise UserError(f"{file} is missing: give a {VOCABULARY_FILE} or a directory that has one")
    vocabulary = _read_vocabulary(file)
    config_file = file.parent / CONFIG_FILE
    if file.name == VOCABULARY_FILE and config_file.exists():
        return _configured(file, vocabulary, config_file, {"lowercase": lowercase, "strip_accents": strip_accents})
    if lowercase is not None:
        return Tokenizer(vocabulary, lowercase, strip_accents)
    capitals = sum(_has_capital(entry) for entry in vocabulary)
    lowercase = capitals < CASED_SHARE * len(vocabulary)
    decided_by = f"{capitals} of the {len(vocabulary)} entries of {file.name} have capital letters"
    return Tokenizer(vocabulary, lowercase, strip_accents, decided_by)


def _has_capital(entry: str) -> bool:
    return entry != entry.lower() and not re.fullmatch(r"\[.+\]|<.+>", entry)  # not [MASK], <S>


def _read_vocabulary(file: Path) -> list[str]:
    """The entries, stripped of white space as google-research/bert's load_vocab does; each line has an id."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a vocabulary: it is not UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise UserError(f"{file} is empty: make a vocabulary with `bert-jax vocab`")
    entries = [line.strip() for line in re.split("\r\n|\r|\n", text)]
    if not entries[-1]:
        entries.pop()  # what follows the last line's end
    first_lines: dict[str, int] = {}
    for number, entry in enumerate(entries, start=1):
        first = first_lines.setdefault(entry, number)
        if first != number:
            raise UserError(
                f"{file} has the entry '{entry}' twice, in lines {first} and {number}: write"
                f" [unused{number}] in the place of the second, so that the other ids stay"
            )
    missing = [token for token in SPECIAL_TOKENS if token not in first_lines]
    if missing:
        raise UserError(
            f"{file} lacks the special tokens {', '.join(missing)} (of its {len(entries)} entries the first"
            f" is '{entries[0]}'): add each on its own line, or make a vocabulary with `bert-jax vocab`"
        )
    return entries


def _configured(file: Path, vocabulary: list[str], config_file: Path, asked: dict[str, bool | None]) -> Tokenizer:
    config = _read_config(config_file)
    for name, value in asked.items():
        if value is not None and value != config[name]:
            raise UserError(
                f"{name}={value} was asked, but {config_file} says {config[name]}: drop the option, or give a"
                f" copy of {file.name} without {CONFIG_FILE}"
            )
    tokenizer = Tokenizer(vocabulary, config["lowercase"], config["strip_accents"], f"recorded in {config_file.name}")
    recorded = config.get("fingerprint")
    if recorded not in (None, tokenizer.fingerprint):
        raise UserError(
            f"{file} and {config_file} do not belong together: the fingerprint is"
            f" {tokenizer.fingerprint[:12]}, recorded is {str(recorded)[:12]}; one of them was edited:"
            f" restore it, or remove {CONFIG_FILE} and start anew"
        )
    return tokenizer


def _read_config(config_file: Path) -> dict[str, Any]:
    """Our tokenizer_config.json, or Hugging Face's in our words."""
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if config.get("kind") != "wordpiece":
            return _from_hugging_face(config_file, config)
        return {name: config[name] for name in ("lowercase", "strip_accents", "fingerprint")}
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{config_file} cannot be read ({type(error).__name__}: {error}): remove it, or make the vocabulary again"
        ) from None


def _from_hugging_face(config_file: Path, config: dict[str, Any]) -> dict[str, Any]:
    if "do_lower_case" not in config:
        raise UserError(f"{config_file} has neither kind 'wordpiece' nor do_lower_case: it is not a BERT tokenizer's")
    if config.get("tokenize_chinese_chars") is False:
        raise UserError(f"{config_file} says tokenize_chinese_chars false, which BERT's tokenizer does not have")
    strip_accents = config.get("strip_accents")
    lowercase = bool(config["do_lower_case"])
    return {"lowercase": lowercase, "strip_accents": lowercase if strip_accents is None else strip_accents}


# Training.


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    lowercase: bool,
    strip_accents: bool | None = None,
    min_frequency: int = 2,
    limit_alphabet: int = 1000,
) -> Tokenizer:
    """A vocabulary of at most `vocab_size` entries, learned by merging the commonest neighbours inside words.

    Entries: [PAD] [UNK] [CLS] [SEP] [MASK] as ids 0 to 4, the `limit_alphabet` commonest characters, each
    with its '##' form where it can stand inside a word, then merges that occur `min_frequency` times or more,
    commonest first. There are fewer entries than asked for where the text has no more such merges. The same
    text gives the same vocabulary.

    `texts` is gone through twice; an iterator is kept in memory for that. Raises UserError for text without
    words and a `vocab_size` too small for the characters.
    """
    import tokenizers

    texts = list(texts) if isinstance(texts, Iterator) else texts
    strip_accents = lowercase if strip_accents is None else strip_accents
    backend = _wordpiece({"[UNK]": 0}, lowercase, strip_accents)
    basis = [*SPECIAL_TOKENS, *_alphabet(texts, backend.normalizer, lowercase, limit_alphabet)]
    if len(basis) > vocab_size:
        raise UserError(
            f"a vocabulary of {vocab_size} entries is too small: the special tokens and the characters of the"
            f" text make {len(basis)}; raise --size or lower --limit-alphabet, which is {limit_alphabet}"
        )
    # The library numbers characters in the order of a hash table, which differs from run to run and decides
    # between merges of equal count (huggingface/tokenizers issue 1794). Given as special tokens their numbers
    # are fixed, and limit_alphabet=0 keeps it from adding others.
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        limit_alphabet=0,
        special_tokens=basis,
        show_progress=False,
    )
    backend.train_from_iterator((_even_out(text, lowercase, frozenset()) for text in texts), trainer)
    ids = backend.get_vocab(with_added_tokens=True)
    return Tokenizer(sorted(ids, key=lambda entry: ids[entry]), lowercase, strip_accents)


def _alphabet(texts: Iterable[str], normalizer: Any, lowercase: bool, limit: int) -> list[str]:
    """The commonest characters after normalisation, by code point, then their '##' forms."""
    raw: collections.Counter[str] = collections.Counter()
    for text in texts:
        raw.update(_even_out(text, lowercase, frozenset()))
    counts: collections.Counter[str] = collections.Counter()
    for character, count in raw.items():
        for normal in normalizer.normalize_str(character):
            if not normal.isspace():
                counts[normal] += count
    for stand_in in (_ORDINARY, _IDEOGRAPH):
        counts.pop(stand_in, None)
    if not counts:
        raise UserError("the text has no words to make a vocabulary of: check --input")
    commonest = sorted(counts, key=lambda character: (-counts[character], character))[:limit]
    if counts[commonest[0]] >= 2**31:  # the library counts pairs in 32 bits
        raise UserError(f"'{commonest[0]}' occurs {counts[commonest[0]]} times, too often to count: use less text")
    alphabet = sorted(commonest)
    return alphabet + [f"##{character}" for character in alphabet if not _stands_alone(character)]


def _stands_alone(character: str) -> bool:
    """Punctuation and ideographs are words by themselves."""
    if character.isascii():
        return not character.isalnum()
    return unicodedata.category(character)[0] == "P" or re.match(f"[{_IDEOGRAPHS}]", character) is not None
