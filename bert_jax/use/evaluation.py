# SPDX-License-Identifier: Apache-2.0
"""Intrinsic scores on held-out data: masked LM loss, perplexity and accuracy, accuracy on pairs.

An example stands in a row of its own here, whatever the run's packing, and `mlm_probability` of its tokens are picked,
whatever the run's schedule, so that scores of one step can be compared with another's.

They stand beside what needs no model: the unigram model of the training text, and always guessing its commonest token.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.objective import ObjectiveConfig, pair_words
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import evaluation_batch, Examples, make_examples
from bert_jax.feed.feed import plain_feed
from bert_jax.feed.kinds import KINDS, PAIRS, require_segments
from bert_jax.feed.shards import DataDirectory, objective_of, Split
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.tokenization import Tokenizer
from bert_jax.train.evaluation import add_sums, read_behind
from bert_jax.train.metrics import mean_scores, wilson_interval
from bert_jax.use.fill_mask import predict
from bert_jax.use.model import Pretrained, TOKENS_AT_ONCE
from bert_jax.use.pseudo_likelihood import head_scores

SAMPLES = 8
SAMPLE_TOKENS = (12, 60)  # shortest and longest example shown as a sample
NO_PAIRS = "mlm_full_sentences"  # the objective that a model is scored by where nothing can be asked about pairs
NO_HEAD = "the checkpoint has no NSP head"
_WEIGHTS = {"mlm": "masked_lm_weights", "nsp": "next_sentence_weights"}


class ScoredObjective(NamedTuple):
    """The objective that a model is scored by, and why it is not scored on pairs."""

    config: ObjectiveConfig
    nsp_left_out: str | None = None  # why the label of pairs is not scored, where the model's objective has one

    def examples(self, model: Pretrained, split: Split, phase: PhaseConfig) -> Examples:
        """Return the masked examples of a split, in batches that fit the model's device."""
        config = replace(model.origin.config, objective=self.config)
        rows = max(1, TOKENS_AT_ONCE // phase.sequence_length)
        return make_examples(split, model.tokenizer, config, phase, rows)

    def report(self, totals: dict[str, float]) -> JsonObject:
        """Return the fields of a record that follow from the objective and the sums over its examples."""
        told = {} if self.nsp_left_out is None else {"nsp_left_out": self.nsp_left_out}
        return told | (nsp_report(totals) if self.config.nsp else {})


def evaluate_data(model: Pretrained, data: DataDirectory, split: str, sequence_length: int | None) -> JsonObject:
    """Score a loaded model on a split of prepared data; the fields of evaluation.json.

    Args:
      model: with an MLM head.
      data: prepared with the model's vocabulary.
      split: `validation` or `train`.
      sequence_length: of the examples; None: that of the run's last phase, or the longest that the data was prepared for
        and the model has positions for.

    Raises:
      UserError: the data does not belong to the model, or has no such split or sequence length; no MLM head.
    """
    use_compilation_cache()
    model.require_masked_lm("scoring masked tokens")
    check_vocabulary(model, data)
    objective = _data_objective(model, data)
    if sequence_length is None and model.origin.run is None:
        positions = model.description.model.max_position_embeddings
        sequence_length = max((n for n in data.manifest["sequence_lengths"] if n <= positions), default=None)
    phase = model.phase(sequence_length)
    examples = objective.examples(model, data.split(split), phase)
    if not len(examples):
        raise UserError(f"{data.directory}: its {split} split has no examples of length {phase.sequence_length}")
    totals: dict[str, float] = {}
    targets = np.zeros(model.tokenizer.vocab_size, np.int64)
    for _, batch, sums in scored_batches(model, examples, "evaluate"):
        add_sums(totals, sums)
        targets += np.bincount(batch["masked_lm_ids"][batch["masked_lm_weights"] > 0], minlength=len(targets))
    return {
        "step": model.origin.step,
        "split": split,
        "objective": objective.config.name,
        "sequence_length": phase.sequence_length,
        **mlm_report(totals),
        **unigram_report(targets, data.token_counts(), model.tokenizer),
        **objective.report(totals),
        **masks_report(totals),
        "samples": sample_predictions(model, examples),
    }


def check_vocabulary(model: Pretrained, data: DataDirectory) -> None:
    """Refuse data of another vocabulary than the model's."""
    own, path = model.tokenizer.fingerprint, model.origin.path
    if own != data.manifest["tokenizer"]:
        raise UserError(
            f"{data.directory}: was prepared with another vocabulary ({data.manifest['tokenizer'][:12]}) than {path}"
            f" was trained with ({own[:12]}): prepare it again with --vocab {path}"
        )


def _data_objective(model: Pretrained, data: DataDirectory) -> ScoredObjective:
    """Return the run's own objective, or for another checkpoint the first that the data was prepared for.

    Raises:
      UserError: it has pairs, and the model has one segment.
    """
    config = model.origin.config
    if model.origin.run is None:
        kind = min(data.manifest["kinds"], key=lambda kind: (kind == "sop", KINDS.index(kind)))
        config = replace(config, objective=replace(config.objective, name=objective_of(kind)))
    objective = config.objective
    require_segments(config, f"score single segments with bert-jax evaluate {model.origin.path} --text TEXT")
    if not objective.nsp or model.description.nsp:
        return ScoredObjective(objective)
    without_label = "mlm_pairs" if objective.examples == "nsp" else NO_PAIRS
    return ScoredObjective(replace(objective, name=without_label), NO_HEAD)


def text_objective(model: Pretrained, documents: int) -> ScoredObjective:
    """Return the model's objective, without pairs where the model cannot judge them or a text of so few documents has none."""
    objective = model.origin.config.objective
    reason = None
    if objective.examples in PAIRS and model.description.model.type_vocab_size == 1:
        reason = "the model knows one segment (type_vocab_size=1)"
    elif objective.nsp and not model.description.nsp:
        reason = NO_HEAD
    elif objective.examples == "nsp" and documents < 2:
        reason = "the text is one document, and a pair needs another to draw from (blank lines separate documents)"
    return ScoredObjective(objective) if reason is None else without_pairs(objective, reason)


def without_pairs(objective: ObjectiveConfig, reason: str) -> ScoredObjective:
    """Return the objective on whole sentences in the place of pairs."""
    return ScoredObjective(replace(objective, name=NO_PAIRS), reason)


# ---- the pass over the examples ------------------------------------------------------------------------------------


def scored_batches(model: Pretrained, examples: Examples, title: str) -> Iterator[tuple[int, Batch, dict[str, float]]]:
    """Yield each batch of one pass over held-out examples with its number and its sums.

    The sums are `HEAD_loss` (nats), `HEAD_correct` and `HEAD_weight` of each head, and the counts of `treatment_counts`.
    """
    rows = examples.shape.rows
    count = -(-len(examples) // rows)
    batches = plain_feed(partial(evaluation_batch, examples, rows), 0, count)
    begun = ((pair, head_scores(model, pair[1])) for pair in enumerate(batches))
    with tqdm(read_behind(begun), total=count, unit="batch", desc=title, dynamic_ncols=True) as bar:
        for (number, batch), scores in bar:
            sums = treatment_counts(batch, examples.special.mask)
            for head, (logs, right) in scores.items():
                counted = batch[_WEIGHTS[head]] > 0
                sums[f"{head}_loss"] = -float(logs[counted].sum(dtype=np.float64))
                sums[f"{head}_correct"] = float(right[counted].sum())
                sums[f"{head}_weight"] = float(counted.sum())
            yield number, batch, sums


def treatment_counts(batch: Batch, mask_id: int) -> dict[str, float]:
    """How the picked tokens of a batch are shown: as [MASK], as another token, as themselves; and the valid tokens."""
    real = batch["masked_lm_weights"] > 0
    shown = np.take_along_axis(batch["input_ids"], batch["masked_lm_positions"], axis=1)[real]
    labels = batch["masked_lm_ids"][real]
    mask, kept = int((shown == mask_id).sum()), int((shown == labels).sum())
    return {
        "mask": mask,
        "kept": kept,
        "random": len(shown) - mask - kept,
        "valid_tokens": int((batch["sequence_ids"] > 0).sum()),
        "not_next": float((batch["next_sentence_labels"] * batch["next_sentence_weights"]).sum()),
    }


def masks_report(totals: dict[str, float]) -> JsonObject:
    """Return how many picked tokens were shown as what, and their share of all."""
    return {
        "mask_histogram": {name: int(totals[name]) for name in ("mask", "random", "kept")},
        "picked_share": totals["mlm_weight"] / totals["valid_tokens"],
    }


def mlm_report(totals: dict[str, float]) -> JsonObject:
    """Masked LM scores; loss in nats."""
    scores = mean_scores(totals, nsp=False)
    return {
        **scores,
        "mlm_perplexity": math.exp(min(scores["mlm_loss"], 700)),
        "mlm_accuracy_95": wilson_interval(totals["mlm_correct"], totals["mlm_weight"]),
        "masked_tokens": int(totals["mlm_weight"]),
    }


def nsp_report(totals: dict[str, float]) -> JsonObject:
    """Scores of the label of pairs; `is_next_share`: of label 0, which is "in order" where that is predicted."""
    scores = mean_scores(totals, nsp=True)
    return {
        "nsp_loss": scores["nsp_loss"],
        "nsp_accuracy": scores["nsp_accuracy"],
        "nsp_accuracy_95": wilson_interval(totals["nsp_correct"], totals["nsp_weight"]),
        "pairs": int(totals["nsp_weight"]),
        "is_next_share": 1 - totals["not_next"] / totals["nsp_weight"],
    }


def unigram_report(targets: np.ndarray, counts: np.ndarray, tokenizer: Tokenizer) -> JsonObject:
    """Return the scores that frequencies alone reach on the same masked tokens.

    Args:
      targets: [V] how often each id is to be predicted.
      counts: [V] occurrences of each id in the training split.
      tokenizer: of the data.

    Returns:
      `unigram_entropy`: of the training text, nats. `unigram_loss`: cross-entropy of the targets under the training
      text's frequencies with one added to each count, nats. `commonest_token`, and its share of the targets.
    """
    shares = counts[counts > 0] / counts.sum()
    smoothed = (counts + 1) / (counts.sum() + len(counts))
    commonest = int(counts.argmax())
    return {
        "unigram_entropy": float(-(shares * np.log(shares)).sum()),
        "unigram_loss": float(-(targets * np.log(smoothed)).sum() / targets.sum()),
        "commonest_token": tokenizer.vocabulary[commonest],
        "commonest_token_accuracy": float(targets[commonest] / targets.sum()),
    }


def sample_predictions(model: Pretrained, examples: Examples) -> list[JsonObject]:
    """Return some held-out examples as the model saw them, with what it says of each [MASK] and of the pair."""
    batch = evaluation_batch(examples, min(len(examples), 256), 0)
    lengths = batch["sequence_ids"].sum(1)
    masks = (batch["input_ids"] == model.tokenizer.mask_id).sum(1)
    shortest, longest = SAMPLE_TOKENS
    rows = np.flatnonzero((lengths >= shortest) & (lengths <= longest) & (masks > 0))[:SAMPLES]
    return [_sample(model, examples.objective, {name: field[row] for name, field in batch.items()}) for row in rows]


def _sample(model: Pretrained, objective: ObjectiveConfig, row: dict[str, np.ndarray]) -> JsonObject:
    tokenizer = model.tokenizer
    length = int(row["sequence_ids"].sum())
    ids, segments = row["input_ids"][:length].tolist(), row["segment_ids"][:length].tolist()
    answers = dict(zip(row["masked_lm_positions"].tolist(), row["masked_lm_ids"].tolist(), strict=True))
    prediction = predict(model, [(ids, segments)], top_k=3)[0]
    sample: JsonObject = {
        "text": tokenizer.decode(ids[1:-1]),  # without [CLS] and the last [SEP]
        "answers": [tokenizer.vocabulary[answers[slot.position]] for slot in prediction.masks],
        "predictions": [[[entry.token, entry.probability] for entry in slot.entries] for slot in prediction.masks],
    }
    words = pair_words(objective)
    if words is not None and prediction.is_next is not None:
        label, guess = words.labels[int(row["next_sentence_labels"][0])], words.labels[prediction.is_next < 0.5]
        probability = max(prediction.is_next, 1 - prediction.is_next)
        sample["pair"] = {"label": label, "prediction": guess, "probability": probability}
    return sample
