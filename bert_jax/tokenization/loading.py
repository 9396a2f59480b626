# SPDX-License-Identifier: Apache-2.0
"""Files -> tokenizer, with a word of what is wrong with them.

A WordPiece vocabulary is a file vocab.txt with an entry a line (id = line number - 1), a SentencePiece vocabulary a file
sentencepiece.model. tokenizer_config.json beside it says how text is normalised before it is looked up. What transformers
writes is read in hugging_face.py.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json, reading, refuse_dead_links
from bert_jax.base.lines import decode_text
from bert_jax.base.paths import any_path
from bert_jax.base.types import JsonObject
from bert_jax.tokenization.encoding import SPECIAL_TOKENS, Tokenizer, TOKENIZER_FILE
from bert_jax.tokenization.hugging_face import (
    ADDED_TOKENS_FILE,
    Described,
    LARGEST_FILE,
    LIBRARY_FILE,
    read_description,
    SPECIAL_TOKENS_FILE,
)
from bert_jax.tokenization.sentencepiece import MODEL_FILE, SentencePieceTokenizer
from bert_jax.tokenization.switches import switches_from
from bert_jax.tokenization.wordpiece import VOCABULARY_FILE, WordPieceTokenizer

TOKENIZER_FILES = (VOCABULARY_FILE, MODEL_FILE, LIBRARY_FILE, TOKENIZER_FILE, ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE)
Settings = Mapping[str, bool | None]  # lowercase and strip_accents, None where nothing is asked

RECORDED = "recorded in"  # `decided_by` begins so where a file says whether text is lower-cased
CASED_SHARE = 0.01  # of the entries: with at least so many capitals a bare vocabulary is taken for a cased one


def load_tokenizer(path: Path, lowercase: bool | None = None, strip_accents: bool | None = None) -> Tokenizer:
    """The tokenizer of a vocabulary file (vocab.txt, *.model) or of a directory with one: a run, data, a vocabulary.

    A tokenizer_config.json beside it is obeyed: ours, whose fingerprint must fit, or Hugging Face's of a vocab.txt, with
    its tokenizer.json, which may stand in the place of a vocab.txt too. Where they do not say it, `lowercase` decides about
    a vocab.txt; where it is None, text is lower-cased if less than CASED_SHARE of the entries have a capital letter. A
    SentencePiece model says itself how it normalises. `decided_by` of the result says which it was. Raises UserError for
    what does not fit.
    """
    path = any_path(path)
    if path.is_dir() or path.name in TOKENIZER_FILES:
        refuse_dead_links(path if path.is_dir() else path.parent, TOKENIZER_FILES)
    file = _vocabulary_file(path)
    asked = {"lowercase": lowercase, "strip_accents": strip_accents}
    if file.suffix == ".model":
        return _load_sentencepiece(file, asked)
    config_file = file.parent / TOKENIZER_FILE
    ours = _read_config(config_file) if file.name == VOCABULARY_FILE and config_file.exists() else None
    if ours is not None:
        _refuse_other(asked, ours, config_file, f"give a copy of {file.name} without {TOKENIZER_FILE}")
        decided_by, settings = f"{RECORDED} {config_file.name}", (ours["lowercase"], ours["strip_accents"])
        tokenizer = WordPieceTokenizer(_read_vocabulary(file), *settings, decided_by, ours["switches"])
        _require_fingerprint(tokenizer, file, ours, config_file)
        return tokenizer
    described = read_description(file.parent) if file.name in (VOCABULARY_FILE, LIBRARY_FILE) else None
    if described is not None:
        return _load_described(file, described, asked)
    vocabulary = _read_vocabulary(file)
    return WordPieceTokenizer(vocabulary, *_undecided(file, vocabulary, asked, asked["strip_accents"]))


def _undecided(
    file: Path, vocabulary: Sequence[str], asked: Settings, strip_accents: bool | None
) -> tuple[bool, bool | None, str]:
    """Return lowercase, strip_accents and what decided, for a vocabulary that no file says the case of."""
    if asked["lowercase"] is not None:
        return asked["lowercase"], strip_accents, "as asked"
    capitals = sum(_has_capital(entry) for entry in vocabulary)
    said = f"{capitals} of the {len(vocabulary)} entries of {file.name} have capital letters"
    return capitals < CASED_SHARE * len(vocabulary), strip_accents, said


def _load_described(file: Path, described: Described, asked: Settings) -> WordPieceTokenizer:
    """A vocabulary with transformers' files beside it, or tokenizer.json alone."""
    vocabulary = described.entries if file.name == LIBRARY_FILE else _read_vocabulary(file)
    assert vocabulary is not None  # a tokenizer.json has entries
    if described.entries is not None and file.name != LIBRARY_FILE:
        _require_same_entries(file, vocabulary, described.entries)
    lowercase, strip_accents = described.lowercase, described.strip_accents
    if lowercase is None:
        settings = _undecided(file, vocabulary, asked, strip_accents)
    else:
        found = {"lowercase": lowercase, "strip_accents": lowercase if strip_accents is None else strip_accents}
        remedy = f"give a copy of {file.name} without {described.decided_by}"
        _refuse_other(asked, found, file.parent / described.decided_by, remedy)
        settings = lowercase, strip_accents, f"{RECORDED} {described.decided_by}"
    return WordPieceTokenizer(vocabulary, *settings, described.switches)


def _require_same_entries(file: Path, vocabulary: Sequence[str], others: Sequence[str]) -> None:
    """vocab.txt and tokenizer.json are of one vocabulary; the latter has repeated entries once."""
    ids = {entry: index for index, entry in enumerate(vocabulary)}
    different = next((entry for index, entry in enumerate(others) if ids.get(entry.strip()) != index), None)
    if len(vocabulary) == len(ids) and (different is not None or len(others) != len(vocabulary)):
        what = f"of {len(others)} entries" if different is None else f"where {different!r} is another id or none"
        raise UserError(
            f"{file}, of {len(vocabulary)} entries, and the {LIBRARY_FILE} beside it, {what}, are not of one vocabulary:"
            " remove the wrong one, or name the right one by --vocab"
        )


def _vocabulary_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} is missing: give a {VOCABULARY_FILE}, a {MODEL_FILE} or a directory that has one")
        return path
    present = [path / name for name in (VOCABULARY_FILE, MODEL_FILE) if (path / name).exists()]
    if not present and (path / LIBRARY_FILE).exists():
        return path / LIBRARY_FILE
    if len(present) == 2:
        raise UserError(f"{path} has both {VOCABULARY_FILE} and {MODEL_FILE}: name the one that is meant")
    if not present:
        raise UserError(
            f"{path / VOCABULARY_FILE} is missing, and so is {MODEL_FILE}: give one of them or a directory that has one"
        )
    return present[0]


# ---- SentencePiece -----------------------------------------------------------------------------------------


def _load_sentencepiece(file: Path, asked: Settings) -> SentencePieceTokenizer:
    config_file = file.parent / TOKENIZER_FILE
    recorded = file.name == MODEL_FILE and config_file.exists()
    decided_by = f"{RECORDED} {config_file.name}" if recorded else f"{file.name} normalises so"
    _require_small(file)
    try:
        tokenizer = SentencePieceTokenizer(file.read_bytes(), decided_by)
    except UserError as error:
        raise UserError(f"{file} is of no use here: {error}") from None
    if recorded:
        _require_fingerprint(tokenizer, file, _read_config(config_file) or {}, config_file)
    _refuse_other(asked, tokenizer.settings(), file, "make another model with `bert-jax vocab`")
    return tokenizer


# ---- WordPiece ---------------------------------------------------------------------------------------------


def _has_capital(entry: str) -> bool:
    return entry != entry.lower() and not re.fullmatch(r"\[.+\]|<.+>", entry)  # not [MASK], <S>


def _require_small(file: Path) -> None:
    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise UserError(f"{file} has {size:,} bytes, and a vocabulary {LARGEST_FILE:,} at most: it is another file")


def _read_vocabulary(file: Path) -> list[str]:
    """The entries, stripped of white space as google-research/bert's load_vocab does; each line has an id.

    Equal entries stay, empty ones too, as published vocabularies have them: the ids behind them are those that the model
    was trained with. Only \n and \r\n end a line: other separators (U+2028, a lone \\r) are entries' characters.
    """
    _require_small(file)
    text = decode_text(file.read_bytes(), str(file))
    if not text.strip():
        raise UserError(f"{file} is empty: make a vocabulary with `bert-jax vocab`")
    lines = text.split("\n")  # what stands before it of \r\n is white space, which is stripped
    if not lines[-1]:
        lines.pop()  # what follows the last line's end
    entries = [line.strip() for line in lines]
    missing = [token for token in SPECIAL_TOKENS if token not in entries]
    if missing:
        raise UserError(
            f"{file} lacks the special tokens {', '.join(missing)} (of its {len(entries)} entries the first"
            f" is '{entries[0][:40]}'): add each on its own line, or make a vocabulary with `bert-jax vocab`"
        )
    return entries


# ---- tokenizer_config.json ---------------------------------------------------------------------------------


def _refuse_other(asked: Settings, found: JsonObject, where: Path, remedy: str) -> None:
    for name, value in asked.items():
        if value is not None and value != found[name]:
            raise UserError(f"{name}={value} was asked, but {where} says {found[name]}: drop the option, or {remedy}")


def _require_fingerprint(tokenizer: Tokenizer, file: Path, config: JsonObject, config_file: Path) -> None:
    recorded = config.get("fingerprint")
    if recorded not in (None, tokenizer.fingerprint):
        raise UserError(
            f"{file} and {config_file} do not belong together: the fingerprint is"
            f" {tokenizer.fingerprint[:12]}, recorded is {str(recorded)[:12]}; one of them was edited:"
            f" restore it, or remove {TOKENIZER_FILE} and start anew"
        )


def _read_config(config_file: Path) -> JsonObject | None:
    """Our tokenizer_config.json; None where it is Hugging Face's."""
    remedy = "remove it, or make the vocabulary again"
    config = read_json(config_file, remedy)
    if config.get("kind") not in ("wordpiece", "sentencepiece"):
        return None
    with reading(config_file, remedy):
        known = {name: config[name] for name in ("lowercase", "strip_accents", "fingerprint")}
        for name, kinds in {"lowercase": bool, "strip_accents": bool | None, "fingerprint": str | None}.items():
            if not isinstance(known[name], kinds):
                raise TypeError(f"{name} is {str(known[name])[:40]}")
        return known | {"switches": switches_from(config)}
