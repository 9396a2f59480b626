# SPDX-License-Identifier: Apache-2.0
"""Intrinsic scores on held-out data: loss, perplexity and accuracy of masked or next tokens, accuracy on pairs.

An example stands in a row of its own here, whatever the run's packing, and `mlm_probability` of its tokens are picked,
whatever the run's schedule, so that scores of one step can be compared with another's.

They stand beside what needs no model: the unigram model of the training text, and always guessing its commonest token.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription
from bert_jax.config.objective import directions, ObjectiveConfig, pair_words
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import evaluation_batch, Examples, make_examples
from bert_jax.feed.feed import plain_feed
from bert_jax.feed.kinds import KINDS, PAIRS, require_segments
from bert_jax.feed.shards import DataDirectory, objective_of, Split, TRAIN
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.dealing import dealt_out
from bert_jax.mesh.distributed import is_main
from bert_jax.model.encoder import Compute
from bert_jax.model.forward import model_graph, require_finite
from bert_jax.tokenization import Tokenizer
from bert_jax.train.evaluation import add_sums, read_behind, read_sums
from bert_jax.train.losses import Scores
from bert_jax.train.metrics import mean_scores, wilson_interval
from bert_jax.train.replaced_tokens import scores_of
from bert_jax.use.fill_mask import predict, predict_at
from bert_jax.use.model import Pretrained, TOKENS_AT_ONCE
from bert_jax.use.pseudo_likelihood import head_scores

SAMPLES = 8
SLOT_EVERY = 6  # tokens
SAMPLE_TOKENS = (12, 60)  # shortest and longest example shown as a sample
NO_PAIRS = "mlm_full_sentences"  # the objective that a model is scored by where nothing can be asked about pairs
NO_HEAD = "the checkpoint has no NSP head"
_WEIGHTS = {**dict.fromkeys(("mlm", "ltr", "rtl"), "masked_lm_weights"), "nsp": "next_sentence_weights"}


class ScoredObjective(NamedTuple):
    """The objective that a model is scored by, and why it is not scored on pairs."""

    config: ObjectiveConfig
    nsp_left_out: str | None = None  # why the label of pairs is not scored, where the model's objective has one

    def examples(self, model: Pretrained, split: Split, phase: PhaseConfig) -> Examples:
        """Return the masked examples of a split, in batches that fit the model's device."""
        config = replace(model.origin.config, objective=self.config)
        tokens = TOKENS_AT_ONCE // (1 if self.config.masks else 4)  # else each has logits of the whole vocabulary
        rows = max(1, tokens // phase.sequence_length)
        return make_examples(split, model.tokenizer, config, phase, rows)

    def report(self, totals: dict[str, float]) -> JsonObject:
        """Return the fields of a record that follow from the objective and the sums over its examples."""
        told = {} if self.nsp_left_out is None else {"nsp_left_out": self.nsp_left_out}
        told |= nsp_report(totals) if self.config.nsp else {}
        return told | masks_report(totals) if self.config.masks else told


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
    model.require_token_head("scoring tokens")
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
    replaces = model.description.generator is not None

    def kept(_: int, batch: Batch) -> tuple[np.ndarray, dict[str, float]]:
        asked = batch["masked_lm_ids"][batch["masked_lm_weights"] > 0]
        return asked, replaced_sums(model, batch) if replaces else {}

    for sums, (asked, replaced) in scored_batches(model, examples, "evaluate", kept):
        add_sums(totals, sums | replaced)
        targets += np.bincount(asked, minlength=len(targets))
    return {
        "step": model.origin.step,
        "weights": model.origin.weights,
        "split": split,
        "objective": objective.config.name,
        "sequence_length": phase.sequence_length,
        **token_report(totals, objective.config),
        **unigram_report(targets, _training_counts(model, data, objective.config, phase), model.tokenizer),
        **objective.report(totals),
        **(rtd_report(totals) if replaces else {}),
        "samples": sample_predictions(model, examples),
    }


def _training_counts(
    model: Pretrained, data: DataDirectory, objective: ObjectiveConfig, phase: PhaseConfig
) -> np.ndarray:
    """Return how often the training split asks for each id, [V]: of next tokens for a [SEP] at the end of each example too."""
    counts = data.token_counts()
    if not objective.masks:
        counts = counts.copy()
        counts[model.tokenizer.sep_id] += data.split(TRAIN).num_examples(objective.examples, phase.sequence_length)
    return counts


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
    if model.origin.run is None and config.objective.masks:
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


def scored_batches[Kept](
    model: Pretrained, examples: Examples, title: str, kept: Callable[[int, Batch], Kept]
) -> Iterator[tuple[dict[str, float], Kept]]:
    """Yield the sums of each batch of one pass over held-out examples, and what `kept` makes of its number and the batch.

    The sums are `HEAD_loss` (nats), `HEAD_correct` and `HEAD_weight` of each head, and the counts of `treatment_counts`.
    Several processes deal the batches out.
    """
    rows = examples.shape.rows
    count = -(-len(examples) // rows)

    def work(numbers: Iterator[int]) -> Iterator[tuple[dict[str, float], Kept]]:
        own = list(numbers)
        batches = plain_feed(lambda place: evaluation_batch(examples, rows, own[place]), 0, len(own))
        begun = ((pair, head_scores(model, pair[1])) for pair in zip(own, batches, strict=True))
        for (number, batch), scores in read_behind(begun):
            yield _sums(examples, batch, scores), kept(number, batch)

    with dealt_out(range(count), work, "scores") as found:
        for sums, own in tqdm(found, total=count, unit="batch", desc=title, dynamic_ncols=True, disable=not is_main()):
            require_finite(np.array(list(sums.values())), model.params)
            yield sums, own


def _sums(examples: Examples, batch: Batch, scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    sums = treatment_counts(batch, examples.special.mask)
    for head, (logs, right) in scores.items():
        counted = batch[_WEIGHTS[head]] > 0
        sums[f"{head}_loss"] = -float(logs[counted].sum(dtype=np.float64))
        sums[f"{head}_correct"] = float(right[counted].sum())
        sums[f"{head}_weight"] = float(counted.sum())
    return sums


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


def token_report(totals: dict[str, float], objective: ObjectiveConfig) -> JsonObject:
    """Return the scores of masked or of next tokens, and of a biLM of those before too; loss in nats a token."""
    found: JsonObject = {}
    for words in directions(objective):
        scores, weight = mean_scores(totals, [words.term]), totals[f"{words.term}_weight"]
        found |= {
            **scores,
            f"{words.term}_perplexity": math.exp(min(scores[f"{words.term}_loss"], 700)),
            f"{words.term}_accuracy_95": wilson_interval(totals[f"{words.term}_correct"], weight),
            words.counter: int(weight),
        }
    return found


def nsp_report(totals: dict[str, float]) -> JsonObject:
    """Scores of the label of pairs; `is_next_share`: of label 0, which is "in order" where that is predicted."""
    scores = mean_scores(totals, ["nsp"])
    return {
        "nsp_loss": scores["nsp_loss"],
        "nsp_accuracy": scores["nsp_accuracy"],
        "nsp_accuracy_95": wilson_interval(totals["nsp_correct"], totals["nsp_weight"]),
        "pairs": int(totals["nsp_weight"]),
        "is_next_share": 1 - totals["not_next"] / totals["nsp_weight"],
    }


def rtd_report(totals: dict[str, float]) -> JsonObject:
    """Scores of the head for replaced tokens, beside what needs no model.

    `rtd_always_original` is the accuracy of never saying that a token was replaced, `rtd_share_loss` the loss (nats) of giving
    every token the share of replaced ones as its probability.
    """
    scores = mean_scores(totals, ["rtd"])
    share = min(max(scores["replaced_share"], 1e-9), 1 - 1e-9)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    floors = {"rtd_always_original": 1 - scores["replaced_share"], "rtd_share_loss": entropy}
    return {**scores, "rtd_tokens": int(totals["rtd_weight"]), **floors}


def replaced_sums(model: Pretrained, batch: Batch) -> dict[str, float]:
    """The sums of `train.replaced_tokens.scores_of` over a batch, but those of the generator."""
    scores = _replaced_pass(model.description, model.compute)(model.params, dict(batch))
    return {name: value for name, value in read_sums(scores).items() if not name.startswith("mlm")}


@functools.lru_cache(maxsize=1)
def _replaced_pass(description: ModelDescription, compute: Compute) -> Callable[..., dict[str, Scores]]:
    graph = model_graph(description, compute)
    return jax.jit(lambda params, batch: scores_of(nnx.merge(graph, params), batch, None))


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
    """Return some held-out examples as the model saw them, with what it says of each [MASK] and of the pair.

    Of a model of next tokens every `SLOT_EVERY`th word stands for a [MASK]: it is told from the words before it.
    """
    batch = evaluation_batch(examples, min(len(examples), 256), 0)
    lengths = batch["sequence_ids"].sum(1)
    if not examples.objective.masks:
        shortest_first = np.argsort(lengths, kind="stable")
        rows = np.sort(shortest_first[lengths[shortest_first] >= SAMPLE_TOKENS[0]][:SAMPLES])
        return [_next_token_sample(model, batch["input_ids"][row, : lengths[row]].tolist()) for row in rows]
    masks = (batch["input_ids"] == model.tokenizer.mask_id).sum(1)
    shortest, longest = SAMPLE_TOKENS
    rows = np.flatnonzero((lengths >= shortest) & (lengths <= longest) & (masks > 0))[:SAMPLES]
    return [_sample(model, examples.objective, {name: field[row] for name, field in batch.items()}) for row in rows]


def _next_token_sample(model: Pretrained, ids: list[int]) -> JsonObject:
    tokenizer, ids = model.tokenizer, ids[: SAMPLE_TOKENS[1]]
    slots = np.arange(SLOT_EVERY, len(ids) - 1, SLOT_EVERY)
    found = predict_at(model, [(ids, [0] * len(ids))], [slots - 1], top_k=3)[0].masks
    shown = np.array(ids)
    shown[slots] = tokenizer.mask_id
    return {
        "text": tokenizer.decode(shown[1:].tolist()),
        "answers": [tokenizer.vocabulary[ids[place]] for place in slots],
        "predictions": [[[entry.token, entry.probability] for entry in slot.entries] for slot in found],
    }


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
