# SPDX-License-Identifier: Apache-2.0
"""More words and more positions for a checkpoint, every old id and position keeping its numbers.

A new word takes the place of an `[unusedN]` entry, or a row at the end of the table. Its row is the mean of the rows of the
pieces that it was cut into before, in the word embedding, an output matrix of its own and the output bias. New positions
repeat the rows that there are, from the first on (as Longformer, 2004.05150, section 5).

Shapes: V entries, P positions, D features.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.config_files import with_vocab_size
from bert_jax.conversion.tensors import StoredTensors, TensorEntry
from bert_jax.tokenization import Tokenizer, WordPieceTokenizer

_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass(frozen=True)
class Extension:
    """A plan of new entries by id, and of the number of positions."""

    tokenizer: WordPieceTokenizer  # with the new entries
    added: Mapping[str, int]  # word -> id
    pieces: Mapping[str, Sequence[int]]  # word -> ids it was cut into
    positions: int
    entries: int  # before

    def kept(self) -> np.ndarray:
        """The ids that stand for what they stood for before."""
        return np.setdiff1d(np.arange(self.entries), list(self.added.values()))

    @property
    def filled(self) -> int:
        """Words that took the place of an [unusedN] entry."""
        return sum(index < self.entries for index in self.added.values())


def plan_extension(
    checkpoint: Checkpoint, words: Sequence[str], positions: int | None = None, fill_unused: bool = True
) -> Extension:
    """Plan the places of new words, and record what they were cut into before.

    Args:
      checkpoint: of any format, with a WordPiece vocabulary.
      words: new entries, as the tokenizer normalises them.
      positions: rows of the position table afterwards; None: as many as there are.
      fill_unused: take the places of [unusedN] entries before rows are added.

    Raises:
      UserError: a word that is there already, that is none to the tokenizer, or fewer positions than there are.
    """
    model, tokenizer = checkpoint.description.model, checkpoint.tokenizer
    positions = model.max_position_embeddings if positions is None else positions
    if positions < model.max_position_embeddings:
        raise UserError(f"--positions {positions}: the model has {model.max_position_embeddings}; they can only grow")
    if tokenizer is None or not isinstance(tokenizer, WordPieceTokenizer):
        raise UserError(f"{checkpoint.path} has no WordPiece vocabulary that words could be added to")
    if tokenizer.vocab_size != model.vocab_size:
        raise UserError(
            f"{checkpoint.path} has {model.vocab_size} rows for {tokenizer.vocab_size} entries: give --padding-rows drop"
        )
    return _plan(tokenizer, words, positions, fill_unused)


def extended(checkpoint: Checkpoint, extension: Extension) -> Checkpoint:
    """The checkpoint with more entries and positions; nothing is written, new rows are made when they are read."""
    description = with_vocab_size(checkpoint.description, extension.tokenizer.vocab_size)
    grown = replace(description.model, max_position_embeddings=extension.positions)
    description = replace(description, model=grown)
    tensors = _grown_tensors(checkpoint, extension)
    grown_one = replace(checkpoint, description=description, tensors=tensors, run=None, grown=True)
    return replace(grown_one, tokenizer=extension.tokenizer)


def _plan(tokenizer: WordPieceTokenizer, words: Sequence[str], positions: int, fill_unused: bool) -> Extension:
    vocabulary = list(tokenizer.entries)
    known, behind = set(tokenizer.vocabulary), tokenizer.vocab_size - len(tokenizer.entries)
    free = [index for index, entry in enumerate(vocabulary) if _UNUSED.fullmatch(entry)] if fill_unused else []
    added: dict[str, int] = {}
    pieces: dict[str, Sequence[int]] = {}
    for word in words:
        if word in known:
            raise UserError(f"'{word}' is in the vocabulary already: leave it out")
        if word in added:
            raise UserError(f"'{word}' is asked for twice: leave one out")
        pieces[word] = _pieces(tokenizer, word)
        if behind and not free:  # a row more would move the ids of the added tokens
            raise UserError(
                f"'{word}' has no place: behind the vocabulary are the ids of {behind} added tokens, so new words can only"
                " take the places of [unusedN] entries"
            )
        added[word] = free.pop(0) if free else len(vocabulary)
        vocabulary[added[word] : added[word] + 1] = [word]
    grown = tokenizer.with_entries(vocabulary)
    for word, index in added.items():
        if grown.encode(word).ids != [index]:
            found = " ".join(grown.encode(word).pieces)
            raise UserError(
                f"'{word}' would never be met: the tokenizer cuts it into {found}; give it as the text has it, normalised"
            )
    return Extension(grown, added, pieces, positions, tokenizer.vocab_size)


def _pieces(tokenizer: Tokenizer, word: str) -> Sequence[int]:
    ids = tokenizer.encode(word).ids
    if not ids:
        raise UserError(f"{word!r} is nothing to the tokenizer: leave it out")
    return ids


def _grown_tensors(checkpoint: Checkpoint, extension: Extension) -> StoredTensors:
    """The tensors with new rows, made when they are read."""
    old = checkpoint.tensors
    rows = {"V": extension.tokenizer.vocab_size, "P": extension.positions}  # by the letters of the table of names
    grown = {checkpoint.own_names[row.ours]: row for row in checkpoint.rows if row.shape and row.shape[0] in rows}
    entries = dict(old.entries)
    for name, row in grown.items():
        entries[name] = TensorEntry((rows[row.shape[0]], *entries[name].shape[1:]), entries[name].dtype)

    def read(name: str) -> np.ndarray:
        array = old.read(name)
        if name not in grown:
            return array
        return _more_positions(array, extension) if grown[name].shape[0] == "P" else _more_entries(array, extension)

    return StoredTensors(old.path, entries, read)


def _more_positions(array: np.ndarray, extension: Extension) -> np.ndarray:
    return array[np.arange(extension.positions) % len(array)]


def _more_entries(array: np.ndarray, extension: Extension) -> np.ndarray:
    """[V, ...] with a row for each new word: the mean of its pieces'; without padding rows."""
    array = array[: extension.entries]
    grown = np.concatenate(
        [array, np.zeros((extension.tokenizer.vocab_size - len(array), *array.shape[1:]), array.dtype)]
    )
    for word, index in extension.added.items():
        grown[index] = array[list(extension.pieces[word])].astype(np.float32).mean(0)
    return grown


# ---- which words ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Suggestion:
    """A word that the vocabulary lacks."""

    word: str
    times: int  # in the text
    pieces: int  # that it is cut into

    @property
    def gain(self) -> int:
        """Tokens that the text would be shorter by."""
        return self.times * (self.pieces - 1)


def suggest(texts: Iterable[str], tokenizer: WordPieceTokenizer, most: int) -> list[Suggestion]:
    """The words of a text that would save most tokens if they were entries, best first; of equals the first by name."""
    counts: Counter[tuple[str, int]] = Counter()
    for text in texts:
        counts.update(_parted_words(tokenizer.encode(text).pieces))
    known = set(tokenizer.vocabulary)
    found = [Suggestion(word, times, pieces) for (word, pieces), times in counts.items() if word not in known]
    return sorted(found, key=lambda one: (-one.gain, one.word))[:most]


def _parted_words(pieces: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The words that are more than one piece, as the vocabulary would hold them, and how many pieces they are."""
    begin = 0
    for end in range(1, len(pieces) + 1):
        if end == len(pieces) or not pieces[end].startswith("##"):
            if end - begin > 1:
                yield "".join(piece.removeprefix("##") for piece in pieces[begin:end]), end - begin
            begin = end
