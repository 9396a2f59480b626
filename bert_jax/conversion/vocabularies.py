# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that belongs to a checkpoint, and its files as each format wants them."""

import json
from pathlib import Path
from typing import Any

from bert_jax.conversion.config_files import read_json
from bert_jax.errors import UserError
from bert_jax.files import complete_or_absent, reading, write_json
from bert_jax.tokenization import load_tokenizer, Tokenizer, WordPieceTokenizer
from bert_jax.tokenization.encoding import CONFIG_FILE, SPECIAL_TOKENS
from bert_jax.tokenization.loading import RECORDED
from bert_jax.tokenization.sentencepiece import MODEL_FILE
from bert_jax.tokenization.wordpiece import library_model, VOCABULARY_FILE

LIBRARY_FILE = "tokenizer.json"  # of the tokenizers library


def find_tokenizer(folder: Path, asked: Path | None = None) -> Tokenizer | None:
    """The tokenizer of `asked`, or of the vocabulary in a checkpoint's folder; None where there is none.

    Raises:
      UserError: it is of no use here.
    """
    if asked is not None:
        return load_tokenizer(asked)
    if (folder / VOCABULARY_FILE).is_file() or (folder / MODEL_FILE).is_file():
        return load_tokenizer(folder)
    if (folder / LIBRARY_FILE).is_file():
        return read_library_file(folder / LIBRARY_FILE)
    return None


def read_library_file(path: Path) -> Tokenizer:
    """A tokenizer.json with BERT's WordPiece, as Hugging Face's library writes it where it writes no vocab.txt."""
    with reading(path, "give --vocab"):
        return _from_library(path, read_json(path))


def _from_library(path: Path, values: dict[str, Any]) -> Tokenizer:
    model, normalizer = values.get("model") or {}, values.get("normalizer") or {}
    if model.get("type") != "WordPiece" or normalizer.get("type") != "BertNormalizer":
        raise UserError(
            f"{path} holds a {model.get('type')} tokenizer with {normalizer.get('type')}, not BERT's WordPiece: give --vocab"
        )
    entries = model["vocab"]
    if sorted(entries.values()) != list(range(len(entries))):
        raise UserError(f"{path}: the ids of its vocabulary are not 0 to {len(entries) - 1}: give --vocab")
    vocabulary = sorted(entries, key=entries.__getitem__)
    missing = [token for token in SPECIAL_TOKENS if token not in entries]
    if missing:
        raise UserError(f"{path} lacks the special tokens {', '.join(missing)}: give --vocab")
    if not normalizer.get("handle_chinese_chars", True):
        raise UserError(f"{path} does not part Chinese characters, which BERT's tokenizer does: give --vocab")
    lowercase, strip = bool(normalizer.get("lowercase", True)), normalizer.get("strip_accents")
    return WordPieceTokenizer(vocabulary, lowercase, strip, decided_by=f"{RECORDED} {path.name}")


def write_google_vocabulary(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """vocab.txt alone; what it cannot say is returned."""
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise UserError(
            "a SentencePiece vocabulary has no place in a checkpoint of google-research/bert: convert to huggingface"
        )
    for name, content in tokenizer.files().items():
        with complete_or_absent(folder / name) as file:
            file.write(content)
    return [f"vocab.txt does not say it: run Google's code with --do_lower_case={tokenizer.lowercase}"]


def write_hugging_face_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> list[str]:
    """vocab.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json; what they cannot say is returned."""
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise UserError(
            "a SentencePiece vocabulary is no tokenizer of Hugging Face's BERT: only WordPiece can be converted"
        )
    special = {f"{name}_token": f"[{token}]" for name, token in
               (("cls", "CLS"), ("mask", "MASK"), ("pad", "PAD"), ("sep", "SEP"), ("unk", "UNK"))}  # fmt: skip
    for name, content in tokenizer.files().items():
        with complete_or_absent(folder / name) as file:
            file.write(content)
    write_json(
        folder / CONFIG_FILE,
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": tokenizer.lowercase,
            "strip_accents": tokenizer.strip_accents,
            "tokenize_chinese_chars": True,
            "model_max_length": longest,
            **special,
        },
    )
    write_json(folder / "special_tokens_map.json", special)
    with complete_or_absent(folder / LIBRARY_FILE) as file:
        file.write(json.dumps(_library_tokenizer(tokenizer), ensure_ascii=False).encode())
    return []


def _library_tokenizer(tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """tokenizer.json, by the library itself: [CLS] A [SEP] and [CLS] A [SEP] B [SEP]."""
    import tokenizers

    ids = {token: index for index, token in enumerate(tokenizer.vocabulary)}
    library = tokenizers.Tokenizer(library_model(ids))
    library.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=tokenizer.strip_accents,
        lowercase=tokenizer.lowercase,
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.decoder = tokenizers.decoders.WordPiece(prefix="##")
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    library.add_special_tokens(list(SPECIAL_TOKENS))
    return json.loads(library.to_str())
