# SPDX-License-Identifier: Apache-2.0
"""Words with tags -> rows of tokens, and scores of tokens -> a tag for each word.

The first piece of a word carries its label and is read for its tag, the other pieces have none (Devlin et al., 2019,
section 5.3). Legend: N sentences, W words of all of them, T tokens of all of them, R rows, S tokens of a row, L labels.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import Sentence
from bert_jax.tasks.rows import check_row_settings, Cut, cut_windows, IGNORE, Row, too_long_error
from bert_jax.tasks.schemes import OUTSIDE, Transitions, transitions
from bert_jax.tokenization import Tokenizer

LEFT_OUT = -1  # the row of a word that was cut off
UNKNOWN_LABELS = ("refuse", "error", "ignore")
_SPECIAL = 2  # [CLS] in front and [SEP] behind, in every row


class WordMap(NamedTuple):
    """The place of each word in the rows: the token that is read for it. Words are counted through all sentences."""

    sentences: np.ndarray  # [N + 1] int64: the words of sentence n are those from sentences[n] to sentences[n + 1]
    rows: np.ndarray  # [W] int64, LEFT_OUT where a word is in no row
    tokens: np.ndarray  # [W] int64, place of its first piece in the row
    row_count: int


class Tagged(NamedTuple):
    """The tags that are predicted for the words of one sentence."""

    tags: tuple[str, ...]
    probabilities: tuple[float, ...]  # of the tag, by the softmax at the word; 0 for a word that was left out


class _Pieces(NamedTuple):
    ids: np.ndarray  # [T] int32
    begins: np.ndarray  # [W + 1] int64, first piece of each word
    empty: int  # words that the tokenizer makes nothing of


def tagging_rows(
    sentences: Sequence[Sentence],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    max_length: int,
    too_long: str = "error",
    stride: int = 128,
    unknown_labels: str = "refuse",
    advice: str = "",
) -> tuple[list[Row], WordMap, dict[str, int]]:
    """Return rows [CLS] pieces [SEP], in the order of the sentences, with a label for each token: that of a word at its first
    piece, else IGNORE.

    A word has its label in one row only, so that every word counts once in a loss over the rows. A word that the
    tokenizer makes no piece of (it is empty, or control characters) becomes [UNK].

    Args:
      labels: the L labels by number.
      max_length: tokens of a row at most, [CLS] and [SEP] among them.
      too_long: a sentence of more tokens is an error, or its end is left out ("truncate"), or it becomes several rows
        ("windows"), of which a word is read in the one where it has most context.
      stride: windows begin so many tokens apart, or as many as fit into one.
      unknown_labels: a tag that is not in `labels` is refused, or its word has no label ("error" and "ignore", which
        differ in how it is scored).
      advice: what else than to mend the file can be done about unknown labels, for the message.

    Returns:
      The rows, the map that `decode` wants, and counts for people; `text_rows.unknown_note` reads "unknown tokens".

    Raises:
      UserError: a sentence is too long, a tag is not in `labels`, or a setting cannot be.
    """
    room = max_length - _SPECIAL
    check_row_settings(max_length, _SPECIAL + 1, too_long, stride)
    label_of_word, without_label = _label_numbers(sentences, labels, unknown_labels, advice)  # [W]
    pieces = _pieces([word for sentence in sentences for word in sentence.words], tokenizer)
    bounds = np.cumsum([0, *(len(sentence.words) for sentence in sentences)])  # [N + 1], in words
    token_begins = pieces.begins[bounds]  # [N + 1]
    tokens_of = np.diff(token_begins)  # [N]
    long = np.flatnonzero(tokens_of > room)
    if len(long) and too_long == "error":
        raise too_long_error(sentences[long[0]].place, (tokens_of[long] + _SPECIAL).tolist(), max_length)
    windows = [
        cut_windows(min(size, room) if too_long == "truncate" else size, room, stride) for size in tokens_of.tolist()
    ]
    word_map = _word_map(bounds, pieces.begins, windows, long)
    rows = _rows(pieces.ids, token_begins, windows, word_map, label_of_word, tokenizer)
    counts = {
        "examples": len(sentences),
        "rows": len(rows),
        "words": len(label_of_word),
        "tokens": len(pieces.ids),
        "unknown tokens": int(np.count_nonzero(pieces.ids == tokenizer.unk_id)),
        "words without a piece": pieces.empty,
        "words with an unknown label": without_label,
        "in windows": len(long) if too_long == "windows" else 0,
        "cut": len(long) if too_long == "truncate" else 0,
        "words left out": int(np.count_nonzero(word_map.rows == LEFT_OUT)),
    }
    return rows, word_map, counts


# ---- labels and pieces --------------------------------------------------------------------------------------


def _label_numbers(
    sentences: Sequence[Sentence], labels: Sequence[str], unknown_labels: str, advice: str
) -> tuple[np.ndarray, int]:
    """Return the number of each word's label, [W] int64, and how many words have a tag that is not in `labels`."""
    if unknown_labels not in UNKNOWN_LABELS:
        raise UserError(f"unknown_labels={unknown_labels} is not known: choose one of {', '.join(UNKNOWN_LABELS)}")
    numbers: dict[str | None, int] = {label: number for number, label in enumerate(labels)}
    tags = [sentence.tags or (None,) * len(sentence.words) for sentence in sentences]
    result = np.array([numbers.get(tag, IGNORE) for own in tags for tag in own], np.int64)
    foreign = {tag for own in tags for tag in own if tag is not None} - set(labels)
    if not foreign:
        return result, 0
    if unknown_labels == "refuse":
        raise _unknown_label_error(sentences, labels, foreign, advice)
    return result, sum(tag in foreign for own in tags for tag in own)


def _unknown_label_error(
    sentences: Sequence[Sentence], labels: Sequence[str], foreign: set[str], advice: str
) -> UserError:
    sentence, place = next(
        (sentence, place) for sentence in sentences for place, tag in enumerate(sentence.tags or ()) if tag in foreign
    )
    where = f"{sentence.place}, word {place + 1} ({sentence.words[place]})"
    found = (sentence.tags or ())[place]
    known = {tag for own in sentences for tag in own.tags or ()} & set(labels)
    if known <= {OUTSIDE}:
        return UserError(
            f"{where}: the tag {found} and all others besides O are not among the {len(labels)} labels of the model"
            f" ({_some(labels)}): it is the label set of another model, or another scheme of tags"
        )
    more = f", nor are {_some(sorted(foreign - {found}))}" if len(foreign) > 1 else ""
    return UserError(
        f"{where}: the tag {found} is not among the {len(labels)} labels ({_some(labels)}){more}: mend the file{advice}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])])


def _pieces(words: Sequence[str], tokenizer: Tokenizer) -> _Pieces:
    """Return the tokens of all words; a word that has none becomes [UNK]."""
    flat = tokenizer.encode_flat(words)
    begins = np.concatenate([[0], np.cumsum(np.maximum(flat.lengths, 1))])  # [W + 1]
    empty = flat.lengths == 0
    filled = np.zeros(begins[-1], np.bool_)
    filled[begins[:-1][empty]] = True
    ids = np.full(begins[-1], tokenizer.unk_id, np.int32)
    ids[~filled] = flat.ids
    return _Pieces(ids, begins, int(np.count_nonzero(empty)))


# ---- rows ----------------------------------------------------------------------------------------------------


def _word_map(
    bounds: np.ndarray, piece_begins: np.ndarray, windows: Sequence[Sequence[Cut]], long: Iterable[int]
) -> WordMap:
    """Return where each word is read; only the sentences `long` have words that are not in their first row."""
    first_row = np.cumsum([0, *map(len, windows)])  # [N + 1]
    sentence_of = np.repeat(np.arange(len(windows)), np.diff(bounds))  # [W]
    rows = first_row[sentence_of]  # [W]
    places = piece_begins[:-1] - piece_begins[bounds[sentence_of]]  # [W], first pieces among the sentence's tokens
    for number in long:
        own, cuts = slice(bounds[number], bounds[number + 1]), windows[number]
        window = np.searchsorted([cut.best_end for cut in cuts], places[own], side="right")  # len(cuts): left out
        rows[own] = np.where(window < len(cuts), rows[own] + window, LEFT_OUT)
        places[own] -= np.array([*(cut.begin for cut in cuts), 0])[window]
    return WordMap(bounds, rows, places + 1, int(first_row[-1]))


def _rows(
    ids: np.ndarray,
    token_begins: np.ndarray,
    windows: Sequence[Sequence[Cut]],
    word_map: WordMap,
    label_of_word: np.ndarray,
    tokenizer: Tokenizer,
) -> list[Row]:
    spans = [
        (begin + cut.begin, begin + cut.end, example)
        for example, (begin, cuts) in enumerate(zip(token_begins[:-1].tolist(), windows, strict=True))
        for cut in cuts
    ]
    row_begins = np.cumsum([0, *(end - begin + _SPECIAL for begin, end, _ in spans)])  # [R + 1]
    labels = np.full(row_begins[-1], IGNORE, np.int64)  # of the tokens of all rows
    read = word_map.rows != LEFT_OUT
    labels[row_begins[word_map.rows[read]] + word_map.tokens[read]] = label_of_word[read]
    all_ids, all_labels = ids.tolist(), labels.tolist()
    return [
        Row(
            ids=[tokenizer.cls_id, *all_ids[begin:end], tokenizer.sep_id],
            segments=[0] * (end - begin + _SPECIAL),
            example=example,
            labels=all_labels[start : start + end - begin + _SPECIAL],
        )
        for (begin, end, example), start in zip(spans, row_begins.tolist(), strict=False)
    ]


# ---- scores -> tags -----------------------------------------------------------------------------------------


def decode(
    logits: Iterable[np.ndarray], words: WordMap, labels: Sequence[str], constrained: str | None = None
) -> list[Tagged]:
    """Return a tag for each word, read at its first piece; O for a word that was left out.

    Args:
      logits: the scores of each row's tokens, [S or more, L], in the order of the rows.
      constrained: a scheme of tags: the best sequence that keeps to it, by the sum of log probabilities (Viterbi);
        None: the best label of each word, the first of several that are equally good.

    Returns:
      One for each sentence, words in order.

    Raises:
      UserError: `labels` are not those of the scheme.
    """
    scores = _log_probabilities(_word_logits(logits, words, len(labels)))  # [W, L]
    read = words.rows != LEFT_OUT
    best = np.zeros(len(read), np.int64)
    if constrained is None:
        best[read] = scores[read].argmax(axis=1)
    else:
        rules = transitions(labels, constrained)
        for begin, end in itertools.pairwise(words.sentences):
            own = begin + np.flatnonzero(read[begin:end])
            best[own] = best_path(scores[own], rules)
    probabilities = np.where(read, np.exp(scores[np.arange(len(best)), best]), 0.0).tolist()
    tags = [labels[number] if known else OUTSIDE for number, known in zip(best.tolist(), read.tolist(), strict=True)]
    bounds = itertools.pairwise(words.sentences.tolist())
    return [Tagged(tuple(tags[begin:end]), tuple(probabilities[begin:end])) for begin, end in bounds]


def best_path(scores: np.ndarray, rules: Transitions) -> np.ndarray:
    """Return the labels of a sequence with the greatest sum of `scores` [W, L] among those that `rules` allow, [W] int64."""
    if not len(scores):
        return np.empty(0, np.int64)
    barred = np.where(rules.follows, 0.0, -np.inf)  # [L, L]
    total = scores[0] + np.where(rules.first, 0.0, -np.inf)  # [L]
    came_from = []
    for own in scores[1:]:
        through = total[:, None] + barred  # [L, L]: before, after
        came_from.append(through.argmax(axis=0))
        total = through.max(axis=0) + own
    path = [int((total + np.where(rules.last, 0.0, -np.inf)).argmax())]
    for before in reversed(came_from):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1], np.int64)


def _word_logits(logits: Iterable[np.ndarray], words: WordMap, label_count: int) -> np.ndarray:
    """Return the scores at each word's first piece, [W, L]; zeros for words that were left out."""
    result = np.zeros((len(words.rows), label_count))
    order = np.argsort(words.rows, kind="stable")
    bounds = np.searchsorted(words.rows[order], np.arange(words.row_count + 1))
    for (begin, end), own in zip(itertools.pairwise(bounds), logits, strict=True):
        mine = order[begin:end]
        result[mine] = own[words.tokens[mine]]
    return result


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
