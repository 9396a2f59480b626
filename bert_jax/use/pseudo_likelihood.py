# SPDX-License-Identifier: Apache-2.0
"""Pseudo-log-likelihood of sentences (Salazar et al. 2020, "Masked language model scoring", 1910.14659).

Each sentence by itself, [CLS] w1 ... wn [SEP], each token masked in turn and predicted from all others: PLL(W) = sum over t of
log P(wt | W without wt). Exact: no token is drawn, every one is scored. exp(PLL) is no probability of a sentence: the
conditionals see both sides, so no chain rule joins them.

Shapes: B rows, S tokens in a row, M predicted positions in a row, V vocabulary, N sentences.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from bert_jax.feed.batch import Batch
from bert_jax.train.evaluation import read_behind
from bert_jax.use.model import Pretrained, TOKENS_AT_ONCE, WIDTH_STEP


@jax.jit
def label_scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [B, M, V] and labels [B, M] -> log-probability of each label in nats, and whether it is the likeliest."""
    true = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return true - jax.nn.logsumexp(logits, axis=-1), logits.argmax(-1) == labels


def head_scores(model: Pretrained, batch: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
    """`label_scores` of the heads that the model has; it has an MLM head."""
    output = model(dict(batch))
    assert output.mlm_logits is not None
    scores = {"mlm": label_scores(output.mlm_logits, batch["masked_lm_ids"])}
    if output.nsp_logits is not None:
        scores["nsp"] = label_scores(output.nsp_logits, batch["next_sentence_labels"])
    return scores


def choose_sentences(lengths: np.ndarray, most: int, longest: int) -> np.ndarray:
    """The numbers of at most `most` of the sentences that have `longest` tokens at most, evenly spaced in the text."""
    fitting = np.flatnonzero(lengths <= longest)
    count = min(most, len(fitting))
    return fitting[np.arange(count) * len(fitting) // max(count, 1)]


def pseudo_log_likelihoods(model: Pretrained, sentences: Sequence[np.ndarray]) -> np.ndarray:
    """PLL of each sentence: the log-probabilities of its tokens, each masked in turn, added up.

    Args:
      model: with an MLM head.
      sentences: N times [n] ids without special tokens; n + 2 is at most the model's positions.

    Returns:
      [N] float64, nats.
    """
    total = sum(map(len, sentences))
    sums = np.zeros(len(sentences))
    begun = ((part, head_scores(model, part.batch)["mlm"]) for part in masked_in_turn(model, sentences))
    with tqdm(total=total, unit="token", desc="pseudo-perplexity", dynamic_ncols=True) as bar:
        for part, (logs, _) in read_behind(begun):
            count = len(part.sentences)
            np.add.at(sums, part.sentences, logs[:count, 0].astype(np.float64))
            bar.update(count)
    return sums


class MaskedInTurn(NamedTuple):
    """Rows of sentences of like length, one token masked in each; beyond `sentences` rows are padding."""

    sentences: np.ndarray  # [rows that count] number of the sentence
    batch: Batch


def masked_in_turn(model: Pretrained, sentences: Sequence[np.ndarray]) -> Iterator[MaskedInTurn]:
    """A row for each token of each sentence, in batches of few shapes: widths are multiples of `WIDTH_STEP`."""
    positions = model.description.model.max_position_embeddings
    widths = np.array([min(-(-(len(ids) + 2) // WIDTH_STEP) * WIDTH_STEP, positions) for ids in sentences])
    for width in np.unique(widths).tolist():
        numbers = np.flatnonzero(widths == width)
        lengths = np.array([len(sentences[int(number)]) for number in numbers])
        owners = np.repeat(np.arange(len(numbers)), lengths)  # of each row
        places = 1 + np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        size = max(1, TOKENS_AT_ONCE // width)
        for begin in range(0, len(owners), size):
            part = slice(begin, begin + size)
            first, last = owners[part][0], owners[part][-1]
            shown = [sentences[int(number)] for number in numbers[first : last + 1]]
            batch = _rows(model, shown, owners[part] - first, places[part], (size, width))
            yield MaskedInTurn(numbers[owners[part]], batch)


def _rows(
    model: Pretrained, shown: Sequence[np.ndarray], owners: np.ndarray, places: np.ndarray, shape: tuple[int, int]
) -> Batch:
    """The fields of a batch: row r is sentence shown[owners[r]] with its token at places[r] masked."""
    tokenizer, (size, width) = model.tokenizer, shape
    whole = np.full((len(shown), width), tokenizer.pad_id, np.int32)
    for row, ids in enumerate(shown):
        whole[row, : len(ids) + 2] = tokenizer.cls_id, *ids.tolist(), tokenizer.sep_id
    lengths = np.array([len(ids) + 2 for ids in shown])
    rows = np.arange(len(owners))
    batch = {name: np.zeros(shape, np.int32) for name in ("input_ids", "segment_ids", "sequence_ids")}
    batch["input_ids"][rows] = whole[owners]
    batch["sequence_ids"][rows] = np.arange(width) < lengths[owners][:, None]
    batch["position_ids"] = np.tile(np.arange(width, dtype=np.int32), (size, 1))
    for name in ("cls_positions", "masked_lm_positions", "masked_lm_ids", "next_sentence_labels"):
        batch[name] = np.zeros((size, 1), np.int32)
    batch["masked_lm_positions"][rows, 0] = places
    batch["masked_lm_ids"][rows, 0] = batch["input_ids"][rows, places]
    batch["input_ids"][rows, places] = tokenizer.mask_id
    return batch
