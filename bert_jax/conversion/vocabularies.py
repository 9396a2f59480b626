# SPDX-License-Identifier: Apache-2.0
"""The tokenizer that belongs to a checkpoint, and its files as each format wants them."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bert_jax.base.errors import listed, UserError
from bert_jax.base.files import complete_or_absent, write_json
from bert_jax.base.types import JsonObject
from bert_jax.tokenization import load_tokenizer, Tokenizer, WordPieceTokenizer
from bert_jax.tokenization.encoding import SPECIAL_TOKENS, TOKENIZER_FILE
from bert_jax.tokenization.hugging_face import LIBRARY_FILE, read_description, SPECIAL_NAMES, SPECIAL_TOKENS_FILE
from bert_jax.tokenization.sentencepiece import MODEL_FILE
from bert_jax.tokenization.switches import LONGEST_WORD_OF_TRANSFORMERS, Switches
from bert_jax.tokenization.wordpiece import library_model, library_tokenizer, VOCABULARY_FILE


def find_tokenizer(folder: Path, asked: Path | None = None) -> Tokenizer | None:
    """The tokenizer of `asked`, or of the vocabulary in a checkpoint's folder; None where there is none.

    Raises:
      UserError: it is of no use here.
    """
    if asked is not None:
        return load_tokenizer(asked)
    names = (VOCABULARY_FILE, MODEL_FILE, LIBRARY_FILE)
    if any((folder / name).is_file() or (folder / name).is_symlink() for name in names):
        return load_tokenizer(folder)
    return None


def not_kept(folder: Path, positions: int) -> Iterator[str]:
    """Yield what transformers' files of a tokenizer say that has no place here, a line each."""
    described = read_description(folder)
    if described is None:
        return
    yield from described.notes
    if described.longest is not None and described.longest < positions:
        yield (
            f"left out of {TOKENIZER_FILE}: model_max_length={described.longest}; texts may be as long as the {positions}"
            " positions of the model"
        )


def write_google_vocabulary(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """vocab.txt alone; what it cannot say is returned."""
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise UserError(
            "a SentencePiece vocabulary has no place in a checkpoint of google-research/bert: convert to huggingface"
        )
    with complete_or_absent(folder / VOCABULARY_FILE) as file:
        file.write("".join(f"{entry}\n" for entry in tokenizer.vocabulary).encode())
    return [
        f"vocab.txt does not say it: run Google's code with --do_lower_case={tokenizer.lowercase}",
        *_lost(tokenizer),
    ]


def _lost(tokenizer: WordPieceTokenizer) -> Iterator[str]:
    """Yield what google-research/bert's tokenizer does otherwise, a line each."""
    switches = tokenizer.switches
    if switches.added_tokens:
        added = listed(token.content for token in switches.added_tokens)
        yield f"the added tokens {added} are entries of vocab.txt: Google's code may cut them, and finds none with punctuation"
    if not switches.tokenize_chinese_chars:
        yield "tokenize_chinese_chars=false is left out: Google's code parts ideographs, so ids of Chinese text are others"
    if tokenizer.strip_accents != tokenizer.lowercase:
        yield f"strip_accents={str(tokenizer.strip_accents).lower()} is left out: Google's code strips where it lower-cases"
    if switches.max_input_chars_per_word != Switches().max_input_chars_per_word:
        longest = switches.max_input_chars_per_word
        yield f"max_input_chars_per_word={longest} is left out: to Google's code it is {Switches().max_input_chars_per_word}"


def write_hugging_face_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> list[str]:
    """vocab.txt, tokenizer.json, tokenizer_config.json and special_tokens_map.json; what they cannot say is returned."""
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise UserError(
            "a SentencePiece vocabulary is no tokenizer of Hugging Face's BERT: only WordPiece can be converted"
        )
    for name, content in tokenizer.files().items():
        with complete_or_absent(folder / name) as file:
            file.write(content)
    write_json(folder / TOKENIZER_FILE, _transformers_config(tokenizer, longest))
    write_json(folder / SPECIAL_TOKENS_FILE, SPECIAL_NAMES)
    with complete_or_absent(folder / LIBRARY_FILE) as file:
        file.write(json.dumps(_library_tokenizer(tokenizer), ensure_ascii=False).encode())
    longest_word = tokenizer.switches.max_input_chars_per_word
    if longest_word <= LONGEST_WORD_OF_TRANSFORMERS:
        return []
    return [
        f"words of {LONGEST_WORD_OF_TRANSFORMERS + 1} to {longest_word} characters are [UNK] to transformers' BertTokenizer,"
        " whatever its files say, and pieces here"
    ]


def _transformers_config(tokenizer: WordPieceTokenizer, longest: int) -> JsonObject:
    """tokenizer_config.json; `longest`: tokens of a text."""
    values: JsonObject = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.switches.tokenize_chinese_chars,
        "model_max_length": longest,
        **SPECIAL_NAMES,
    }
    if tokenizer.switches.added_tokens:
        ids = {token: index for index, token in enumerate(tokenizer.vocabulary)}
        values["added_tokens_decoder"] = {
            str(ids[token.content]): asdict(token) for token in tokenizer.switches.added_tokens
        }
    return values


def _library_tokenizer(tokenizer: WordPieceTokenizer) -> JsonObject:
    """tokenizer.json, by the library itself: [CLS] A [SEP] and [CLS] A [SEP] B [SEP]."""
    import tokenizers

    switches = tokenizer.switches
    ids = {token: index for index, token in enumerate(tokenizer.entries)}
    library = library_tokenizer(tokenizer.lowercase, tokenizer.strip_accents, switches.tokenize_chinese_chars)
    library.model = library_model(ids, switches.max_input_chars_per_word)
    library.decoder = tokenizers.decoders.WordPiece(prefix="##")
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    library.add_special_tokens(list(SPECIAL_TOKENS))
    library.add_tokens([tokenizers.AddedToken(**asdict(token)) for token in switches.added_tokens])
    return json.loads(library.to_str())
