# SPDX-License-Identifier: Apache-2.0
"""Files -> tokenizer, with a word of what is wrong with them.

A WordPiece vocabulary is a file vocab.txt with an entry a line (id = line number - 1), a SentencePiece vocabulary a file
sentencepiece.model. tokenizer_config.json beside it says how text is normalised before it is looked up.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError
from bert_jax.files import read_json, reading
from bert_jax.text_files import foreign_encoding, mend_encoding
from bert_jax.tokenization.encoding import CONFIG_FILE, SPECIAL_TOKENS, Tokenizer
from bert_jax.tokenization.sentencepiece import MODEL_FILE, SentencePieceTokenizer
from bert_jax.tokenization.wordpiece import VOCABULARY_FILE, WordPieceTokenizer

Settings = Mapping[str, bool | None]  # lowercase and strip_accents, None where nothing is asked

RECORDED = "recorded in"  # `decided_by` begins so where a file says whether text is lower-cased
CASED_SHARE = 0.01  # of the entries: with at least so many capitals a bare vocabulary is taken for a cased one


def load_tokenizer(path: Path, lowercase: bool | None = None, strip_accents: bool | None = None) -> Tokenizer:
    """The tokenizer of a vocabulary file (vocab.txt, *.model) or of a directory with one: a run, data, a vocabulary.

    A tokenizer_config.json beside it is obeyed: ours, whose fingerprint must fit, or Hugging Face's of a vocab.txt.
    Without one, `lowercase` decides about a vocab.txt; where it is None, text is lower-cased if less than CASED_SHARE
    of the entries have a capital letter. A SentencePiece model says itself how it normalises. `decided_by` of the
    result says which it was. Raises UserError for what does not fit.
    """
    file = _vocabulary_file(Path(path))
    asked = {"lowercase": lowercase, "strip_accents": strip_accents}
    if file.suffix == ".model":
        return _load_sentencepiece(file, asked)
    vocabulary = _read_vocabulary(file)
    config_file = file.parent / CONFIG_FILE
    if file.name == VOCABULARY_FILE and config_file.exists():
        config = _read_config(config_file)
        _refuse_other(asked, config, config_file, f"give a copy of {file.name} without {CONFIG_FILE}")
        decided_by = f"{RECORDED} {config_file.name}"
        tokenizer = WordPieceTokenizer(vocabulary, config["lowercase"], config["strip_accents"], decided_by)
        _require_fingerprint(tokenizer, file, config, config_file)
        return tokenizer
    if lowercase is not None:
        return WordPieceTokenizer(vocabulary, lowercase, strip_accents)
    capitals = sum(_has_capital(entry) for entry in vocabulary)
    lowercase = capitals < CASED_SHARE * len(vocabulary)
    decided_by = f"{capitals} of the {len(vocabulary)} entries of {file.name} have capital letters"
    return WordPieceTokenizer(vocabulary, lowercase, strip_accents, decided_by)


def _vocabulary_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path} is missing: give a {VOCABULARY_FILE}, a {MODEL_FILE} or a directory that has one")
        return path
    present = [path / name for name in (VOCABULARY_FILE, MODEL_FILE) if (path / name).exists()]
    if len(present) == 2:
        raise UserError(f"{path} has both {VOCABULARY_FILE} and {MODEL_FILE}: name the one that is meant")
    if not present:
        raise UserError(
            f"{path / VOCABULARY_FILE} is missing, and so is {MODEL_FILE}: give one of them or a directory that has one"
        )
    return present[0]


# ---- SentencePiece -----------------------------------------------------------------------------------------


def _load_sentencepiece(file: Path, asked: Settings) -> SentencePieceTokenizer:
    config_file = file.parent / CONFIG_FILE
    recorded = file.name == MODEL_FILE and config_file.exists()
    decided_by = f"{RECORDED} {config_file.name}" if recorded else f"{file.name} normalises so"
    try:
        tokenizer = SentencePieceTokenizer(file.read_bytes(), decided_by)
    except UserError as error:
        raise UserError(f"{file} is of no use here: {error}") from None
    if recorded:
        _require_fingerprint(tokenizer, file, _read_config(config_file), config_file)
    _refuse_other(asked, tokenizer.settings(), file, "make another model with `bert-jax vocab`")
    return tokenizer


# ---- WordPiece ---------------------------------------------------------------------------------------------


def _has_capital(entry: str) -> bool:
    return entry != entry.lower() and not re.fullmatch(r"\[.+\]|<.+>", entry)  # not [MASK], <S>


def _read_vocabulary(file: Path) -> list[str]:
    """The entries, stripped of white space as google-research/bert's load_vocab does; each line has an id.

    Equal entries stay, empty ones too, as published vocabularies have them: the ids behind them are those that the model
    was trained with. Only \\n and \\r\\n end a line: other separators (U+2028, a lone \\r) are entries' characters.
    """
    raw = file.read_bytes()
    if (encoding := foreign_encoding(raw)) is not None:
        raise UserError(f"{file} is {mend_encoding(encoding)}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a vocabulary: it is not UTF-8 at byte {error.start}") from None
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


def _refuse_other(asked: Settings, found: Mapping[str, Any], where: Path, remedy: str) -> None:
    for name, value in asked.items():
        if value is not None and value != found[name]:
            raise UserError(f"{name}={value} was asked, but {where} says {found[name]}: drop the option, or {remedy}")


def _require_fingerprint(tokenizer: Tokenizer, file: Path, config: Mapping[str, Any], config_file: Path) -> None:
    recorded = config.get("fingerprint")
    if recorded not in (None, tokenizer.fingerprint):
        raise UserError(
            f"{file} and {config_file} do not belong together: the fingerprint is"
            f" {tokenizer.fingerprint[:12]}, recorded is {str(recorded)[:12]}; one of them was edited:"
            f" restore it, or remove {CONFIG_FILE} and start anew"
        )


def _read_config(config_file: Path) -> dict[str, Any]:
    """Our tokenizer_config.json, or Hugging Face's in our words."""
    remedy = "remove it, or make the vocabulary again"
    config = read_json(config_file, remedy)
    if config.get("kind") not in ("wordpiece", "sentencepiece"):
        return _from_hugging_face(config_file, config)
    with reading(config_file, remedy):
        known = {name: config[name] for name in ("lowercase", "strip_accents", "fingerprint")}
        for name, kinds in {"lowercase": bool, "strip_accents": bool | None, "fingerprint": str | None}.items():
            if not isinstance(known[name], kinds):
                raise TypeError(f"{name} is {str(known[name])[:40]}")
        return known


def _from_hugging_face(config_file: Path, config: dict[str, Any]) -> dict[str, Any]:
    if "do_lower_case" not in config:
        raise UserError(
            f"{config_file} does not say do_lower_case, as one of a BERT's tokenizer does: write it there (true or false), or"
            " remove the file, and the capitals of the vocabulary decide"
        )
    if config.get("tokenize_chinese_chars") is False:
        raise UserError(f"{config_file} says tokenize_chinese_chars false, which BERT's tokenizer does not have")
    strip_accents = config.get("strip_accents")
    lowercase = bool(config["do_lower_case"])
    return {"lowercase": lowercase, "strip_accents": lowercase if strip_accents is None else strip_accents}
