# SPDX-License-Identifier: Apache-2.0
"""SentencePiece, unigram and BPE, with BERT's special tokens; the only importer of `sentencepiece`.

Kudo and Richardson, "SentencePiece" (2018); Kudo, "Subword Regularization" (2018) for the unigram model. A piece that
begins a word begins with '▁' (U+2581). Text is cut at white space and the parts are encoded one by one: no piece
crosses white space, so this is what the library makes of the whole, without a dependence on what stands before.
"""

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from bert_jax.base.errors import UserError
from bert_jax.tokenization.chunks import find_chunks, split_chunks
from bert_jax.tokenization.encoding import Spans, SPECIAL_TOKENS, Tokenizer

if TYPE_CHECKING:
    import sentencepiece

MODEL_FILE = "sentencepiece.model"
MODELS = ("unigram", "bpe")
_SPACE = "▁"
_SURROGATES = re.compile("[\ud800-\udfff]")  # halves of characters, which UTF-8 does not have


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model that has BERT's special tokens, which no text is ever encoded to.

    Args:
      model: the content of the model's file.
      decided_by: where `lowercase` came from, for people.

    Raises:
      UserError: `model` is not a SentencePiece model or does not have the special tokens.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes, decided_by: str = "as the model normalises"):
        import sentencepiece

        self._model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model, num_threads=1)
        except RuntimeError:
            raise UserError("it is not a SentencePiece model") from None
        if not self._processor.get_piece_size():  # the library takes an empty file for a model
            raise UserError("it is not a SentencePiece model")
        vocabulary = [self._processor.id_to_piece(index) for index in range(self._processor.get_piece_size())]
        _require_special_tokens(self._processor, vocabulary)
        _require_words_apart(self._processor, vocabulary)
        lowercase = self._normalized("A") == "a"
        super().__init__(vocabulary, lowercase, self._normalized("é") == "e", decided_by)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._model, self.decided_by)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on one core: those of `encode`."""
        flat = self.encode_flat(texts)
        ids, lengths = iter(flat.ids.tolist()), flat.lengths.tolist()
        return [[next(ids) for _ in range(length)] for length in lengths]

    def decode(self, ids: Sequence[int]) -> str:
        """The pieces as text for people to read; special tokens are shown.

        It is the text as the model normalises it, which is encoded to the same ids again, unless there are special
        tokens in it.
        """
        self._check_ids(ids)
        special = {self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id}
        parts: list[str] = []
        run: list[int] = []
        for index in [*ids, None]:
            if index is not None and index not in special:
                run.append(index)
                continue
            if run:
                parts.append(" " * self.vocabulary[run[0]].startswith(_SPACE) + self._processor.decode(run))
                run = []
            if index is not None:
                parts.append(f" {self.vocabulary[index]}")
        return "".join(parts).strip()

    def files(self) -> dict[str, bytes]:
        """The files that `save` writes besides tokenizer_config.json."""
        return {MODEL_FILE: self._model}

    def _contents(self) -> Sequence[str]:
        return [hashlib.sha256(self._model).hexdigest()]

    def _split(self, texts: Sequence[str]) -> list[list[str]]:
        return split_chunks(texts)

    def _encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], Spans]]:
        found = [find_chunks(text) for text in texts]
        chunks = [_SURROGATES.sub("\ue000", chunk) for places in found for _, chunk in places]
        encoded = iter(self._processor.encode(chunks, return_type="offset_mapping"))
        results = []
        for places in found:
            ids: list[int] = []
            offsets: Spans = []
            for (place, chunk), pieces in zip(places, itertools.islice(encoded, len(places)), strict=True):
                ids += pieces["ids"]
                spans = zip(pieces["pieces"], pieces["offsets"], strict=True)
                offsets += [(place + begin, place + _end(piece, begin, end, chunk)) for piece, (begin, end) in spans]
            results.append((ids, offsets))
        return results

    def _normalized(self, character: str) -> str:
        return self._processor.normalize(character).strip(_SPACE)


def _end(piece: str, begin: int, end: int, chunk: str) -> int:
    """Return the end of a piece; where a character gives several pieces, the library gives all but one an empty span."""
    return end if begin < end or piece == _SPACE else min(begin + 1, len(chunk))


def _require_words_apart(processor: "sentencepiece.SentencePieceProcessor", vocabulary: Sequence[str]) -> None:
    """Refuse a model whose pieces of a word depend on its neighbours: here each word is encoded by itself."""
    joined = next((piece for piece in vocabulary if _SPACE in piece[1:]), None)
    if joined is not None:
        raise UserError(f"its piece {joined!r} goes over a blank: make one with split_by_whitespace=true")
    if not processor.normalize("a").startswith(_SPACE):
        raise UserError(f"it has no {_SPACE} before the first word: make one with add_dummy_prefix=true")


def _require_special_tokens(processor: "sentencepiece.SentencePieceProcessor", vocabulary: Sequence[str]) -> None:
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise UserError(
            f"it lacks the special tokens {', '.join(missing)} (its first entries are {' '.join(vocabulary[:5])}):"
            " make a model with `bert-jax vocab --algorithm unigram`"
        )
    for token in SPECIAL_TOKENS:
        index = vocabulary.index(token)
        if not (processor.is_unknown(index) if token == "[UNK]" else processor.is_control(index)):
            kind = "the unknown piece" if token == "[UNK]" else "a control symbol"
            raise UserError(
                f"its entry {token} is not {kind}, so that text could be taken for it: make a model with"
                " `bert-jax vocab --algorithm unigram`"
            )


# ---- training ----------------------------------------------------------------------------------------------

_LONGEST_LINE = 4096  # characters; longer text is cut: the trainer counts places in a line in 16 bits
_LINE = re.compile(rf"[^\n]{{1,{_LONGEST_LINE}}}")
_THREADS = 8  # fixed: sums of floats, and so the pieces, depend on it
# The trainer leaves out lines with a tab, ▁ or ▅, and stops at NUL.
_CLEANED = {0: None, ord("\t"): " ", ord("▁"): " ", ord("▅"): " ", **dict.fromkeys(range(0xD800, 0xE000))}


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    model: str = "unigram",
    lowercase: bool = False,
    character_coverage: float = 0.9995,
) -> SentencePieceTokenizer:
    """A SentencePiece model of at most `vocab_size` entries.

    Entries: [PAD] [UNK] [CLS] [SEP] [MASK] as ids 0 to 4, then pieces. There are fewer than asked for where the text
    has no more. The same texts in the same order give the same model, whatever the number of cores. All of `texts` is
    held in memory while it learns.

    Args:
      texts: sentences, or anything else; line ends separate.
      model: "unigram" or "bpe".
      lowercase: fold case (nmt_nfkc_cf) besides the normalisation that is always done (nmt_nfkc: compatibility forms
        become plain ones). Accents stay.
      character_coverage: share of the characters, the commonest first, that get entries; the others are [UNK].

    Raises:
      UserError: text without words, or a `vocab_size` too small for the characters.
    """
    import sentencepiece

    if model not in MODELS:
        raise UserError(f"there is no SentencePiece model '{model}': use {' or '.join(MODELS)}")
    written = io.BytesIO()
    pad, unk, cls, sep, mask = SPECIAL_TOKENS
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=written,
            model_type=model,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=character_coverage,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            control_symbols=[mask],
            pad_piece=pad,
            unk_piece=unk,
            bos_piece=cls,
            eos_piece=sep,
            max_sentence_length=8 * _LONGEST_LINE,
            num_threads=_THREADS,
            minloglevel=3,
        )
    except (RuntimeError, OSError) as error:
        raise _training_error(str(error), vocab_size) from None
    return SentencePieceTokenizer(written.getvalue())


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in _LINE.findall(text.translate(_CLEANED)):
            if not line.isspace():
                yield line


def _training_error(message: str, vocab_size: int) -> UserError:
    if "sentences_.empty()" in message or "(all_chars_count) > (0)" in message:
        return UserError("the text has no words to make a vocabulary of: check --input")
    needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if needed:
        return UserError(
            f"a vocabulary of {vocab_size} entries is too small: the special tokens and the characters of the text"
            f" make {needed[1]}; raise --size or lower --character-coverage"
        )
    return UserError(f"SentencePiece could not learn from this text: {' '.join(message.split())}")
