# SPDX-License-Identifier: Apache-2.0
"""Intrinsic scores on held-out data: masked LM loss, perplexity and accuracy, accuracy on pairs.

An example stands in a row of its own here, whatever the run's packing, and `mlm_probability` of its tokens are picked,
whatever the run's schedule, so that scores of one step can be compared with another's.

They stand beside what needs no model: the unigram model of the training text, and always guessing its commonest token.
"""

import math
from typing import Any

import numpy as np
from tqdm import tqdm

from bert_jax.config.objective import pair_words
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.errors import UserError
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import evaluation_batch, Examples, make_examples
from bert_jax.feed.feed import plain_feed
from bert_jax.feed.kinds import require_segments
from bert_jax.feed.shards import DataDirectory
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.runs.directory import RunDirectory
from bert_jax.tokenization import Tokenizer
from bert_jax.train.evaluation import add_sums, evaluation_rows, ScorePass
from bert_jax.train.masked_lm import MaskedLmLoss
from bert_jax.train.metrics import mean_scores, wilson_interval
from bert_jax.use.fill_mask import Inference

SAMPLES = 8
SAMPLE_TOKENS = (12, 60)  # shortest and longest example shown as a sample


def evaluate_run(run: RunDirectory, data: DataDirectory, split: str, sequence_length: int | None) -> dict[str, Any]:
    """Score the run's newest checkpoint on a split; the fields of evaluation.json.

    Args:
      run: the run.
      data: prepared with the run's vocabulary.
      split: `validation` or `train`.
      sequence_length: of the examples; None: that of the run's last phase.

    Raises:
      UserError: the data does not belong to the run, or has no such split or sequence length.
    """
    use_compilation_cache()
    check_vocabulary(run, data)
    require_segments(run.config(), f"score single segments with bert-jax evaluate {run.path} --text FILE")
    phase = choose_phase(run.config(), sequence_length)
    inference = Inference(run)
    config, tokenizer = inference.config, inference.tokenizer
    rows = evaluation_rows(phase, inference.training.mesh)
    examples = make_examples(data.split(split), tokenizer, config, phase, rows)
    if not len(examples):
        raise UserError(f"{data.directory}: its {split} split has no examples of length {phase.sequence_length}")
    loss = MaskedLmLoss(config.objective.nsp, tokenizer.mask_id)
    scoring = ScorePass(inference.training, loss, examples)
    totals: dict[str, float] = {}
    targets = np.zeros(tokenizer.vocab_size, np.int64)
    scored = scoring.scores(inference.params, plain_feed(scoring.batch, 0, scoring.batches()))
    for batch, sums in tqdm(scored, total=scoring.batches(), unit="batch", desc="evaluate", dynamic_ncols=True):
        add_sums(totals, sums)
        add_sums(totals, treatment_counts(batch, tokenizer.mask_id))
        targets += np.bincount(batch["masked_lm_ids"][batch["masked_lm_weights"] > 0], minlength=len(targets))
    return {
        "step": inference.step,
        "split": split,
        "objective": config.objective.name,
        "sequence_length": phase.sequence_length,
        **mlm_report(totals),
        **unigram_report(targets, data.token_counts(), tokenizer),
        **(nsp_report(totals) if config.objective.nsp else {}),
        "mask_histogram": {name: int(totals[name]) for name in ("mask", "random", "kept")},
        "picked_share": totals["mlm_weight"] / totals["valid_tokens"],
        "samples": sample_predictions(inference, examples),
    }


def check_vocabulary(run: RunDirectory, data: DataDirectory) -> None:
    """Refuse data of another vocabulary than the run's."""
    own = run.tokenizer().fingerprint
    if own != data.manifest["tokenizer"]:
        raise UserError(
            f"{data.directory}: was prepared with another vocabulary ({data.manifest['tokenizer'][:12]}) than {run.path}"
            f" was trained with ({own[:12]}): prepare it again with --vocab {run.path}"
        )


def choose_phase(config: PretrainConfig, sequence_length: int | None) -> PhaseConfig:
    """The run's last phase, or the one of that sequence length."""
    lengths = {phase.sequence_length: phase for phase in config.phases}
    if sequence_length is None:
        return config.phases[-1]
    if sequence_length not in lengths:
        raise UserError(
            f"--sequence-length {sequence_length} is not one the run was trained at:"
            f" choose one of {', '.join(map(str, lengths))}"
        )
    return lengths[sequence_length]


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


def mlm_report(totals: dict[str, float]) -> dict[str, Any]:
    """Masked LM scores; loss in nats."""
    scores = mean_scores(totals, nsp=False)
    return {
        **scores,
        "mlm_perplexity": math.exp(min(scores["mlm_loss"], 700)),
        "mlm_accuracy_95": wilson_interval(totals["mlm_correct"], totals["mlm_weight"]),
        "masked_tokens": int(totals["mlm_weight"]),
    }


def nsp_report(totals: dict[str, float]) -> dict[str, Any]:
    """Scores of the label of pairs; `is_next_share`: of label 0, which is "in order" where that is predicted."""
    scores = mean_scores(totals, nsp=True)
    return {
        "nsp_loss": scores["nsp_loss"],
        "nsp_accuracy": scores["nsp_accuracy"],
        "nsp_accuracy_95": wilson_interval(totals["nsp_correct"], totals["nsp_weight"]),
        "pairs": int(totals["nsp_weight"]),
        "is_next_share": 1 - totals["not_next"] / totals["nsp_weight"],
    }


def unigram_report(targets: np.ndarray, counts: np.ndarray, tokenizer: Tokenizer) -> dict[str, Any]:
    """What frequencies alone reach on the same masked tokens.

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


def sample_predictions(inference: Inference, examples: Examples) -> list[dict[str, Any]]:
    """Some held-out examples as the model saw them, with what it says of each [MASK] and of the pair."""
    batch = evaluation_batch(examples, min(len(examples), 256), 0)
    lengths = batch["sequence_ids"].sum(1)
    masks = (batch["input_ids"] == inference.tokenizer.mask_id).sum(1)
    shortest, longest = SAMPLE_TOKENS
    rows = np.flatnonzero((lengths >= shortest) & (lengths <= longest) & (masks > 0))[:SAMPLES]
    return [_sample(inference, {name: field[row] for name, field in batch.items()}) for row in rows]


def _sample(inference: Inference, row: dict[str, np.ndarray]) -> dict[str, Any]:
    tokenizer = inference.tokenizer
    length = int(row["sequence_ids"].sum())
    ids, segments = row["input_ids"][:length], row["segment_ids"][:length]
    answers = dict(zip(row["masked_lm_positions"].tolist(), row["masked_lm_ids"].tolist(), strict=True))
    prediction = inference.predict([ids], [segments], top_k=3)[0]
    inner = [int(i) for i in ids[1:-1]]  # without [CLS] and the last [SEP]
    sample: dict[str, Any] = {
        "text": tokenizer.decode(inner),
        "answers": [tokenizer.vocabulary[answers[slot.position]] for slot in prediction.masks],
        "predictions": [[[entry.token, entry.probability] for entry in slot.entries] for slot in prediction.masks],
    }
    words = pair_words(inference.config.objective)
    if words is not None:
        label, guess = words.labels[int(row["next_sentence_labels"][0])], words.labels[prediction.is_next < 0.5]
        probability = max(prediction.is_next, 1 - prediction.is_next)
        sample["pair"] = {"label": label, "prediction": guess, "probability": probability}
    return sample
