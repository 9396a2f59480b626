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

from bert_jax.feed.batch import Batch, batch_of_rows
from bert_jax.mesh.dealing import dealt_out
from bert_jax.mesh.distributed import is_main
from bert_jax.model.forward import require_finite
from bert_jax.train.evaluation import read_behind
from bert_jax.use.model import Pretrained, row_of, TOKENS_AT_ONCE, WIDTH_STEP


@jax.jit
def label_scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits [B, M, V] and labels [B, M] -> log-probability of each label in nats, and whether it is the likeliest."""
    true = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return true - jax.nn.logsumexp(logits, axis=-1), logits.argmax(-1) == labels


def head_scores(model: Pretrained, batch: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
    """`label_scores` of what the model predicts, by the names of `config.objective`; it has an MLM head."""
    output = model(batch)
    assert output.mlm_logits is not None
    shape = model.description.model
    term = "ltr" if shape.causal or shape.is_recurrent else "mlm"
    scores = {term: label_scores(output.mlm_logits, batch["masked_lm_ids"])}
    if output.rtl_logits is not None:
        before = np.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)
        scores["rtl"] = label_scores(output.rtl_logits, before)
    if output.nsp_logits is not None and term == "mlm":
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

    Raises:
      UserError: as `require_finite`.
    """
    total = sum(map(len, sentences))
    sums = np.zeros(len(sentences))

    def work(parts: Iterator[MaskedInTurn]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        begun = ((part.sentences, head_scores(model, part.batch)["mlm"]) for part in parts)
        for owners, (logs, _) in read_behind(begun):
            yield owners, logs[: len(owners), 0].astype(np.float64)

    with (
        dealt_out(masked_in_turn(model, sentences), work, "pseudo-log-likelihoods") as found,
        tqdm(total=total, unit="token", desc="pseudo-perplexity", dynamic_ncols=True, disable=not is_main()) as bar,
    ):
        for owners, logs in found:
            np.add.at(sums, owners, logs)
            bar.update(len(owners))
    require_finite(sums, model.params)
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
    """Return the fields of a batch: row r is sentence shown[owners[r]] with its token at places[r] masked."""
    tokenizer, (size, width) = model.tokenizer, shape
    whole = batch_of_rows(
        [row_of(tokenizer, [ids.tolist()]) for ids in shown], len(shown) + 1, width
    )  # the last is empty
    chosen = np.full(size, len(shown))
    chosen[: len(owners)] = owners
    batch = {name: field[chosen] for name, field in whole.items()}
    rows = np.arange(len(owners))
    batch["masked_lm_positions"][rows, 0] = places
    batch["masked_lm_ids"] = np.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)
    batch["next_sentence_labels"] = np.zeros((size, 1), np.int32)
    batch["input_ids"][rows, places] = tokenizer.mask_id
    return batch
