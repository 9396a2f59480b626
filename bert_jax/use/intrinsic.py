# SPDX-License-Identifier: Apache-2.0
"""Intrinsic scores of a model on any text, beside n-gram models on the same tokens.

Two questions are asked of a masked LM, and their perplexities are not to be compared with each other or with a left-to-right
model's, of which there is one, of the text by the chain rule:

- Masked tokens: examples are made of the text and masked as held-out data is (evaluation.py), some tokens of each at once.
- Pseudo-perplexity: each token of a sentence is masked in turn and predicted from all others (pseudo_likelihood.py), and of all
  sentences exp(-(sum of PLL) / (sum of tokens)).
- Next tokens, left to right: each token of a row, and the [SEP] at its end, from those before it. A biLM has a second such
  perplexity: each token, and the [CLS] in front, from those behind it.

The n-gram models (ngrams.py) see nothing, the token before, or a few before or behind; the masked LM sees both sides and
far: one that is no better than they are has learned little of the text.

Shapes: B rows, S tokens in a row, M predicted positions in a row, V vocabulary, T tokens of the text, N sentences, K masked
tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import listed, UserError
from bert_jax.base.types import JsonObject
from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, OK, WARNING
from bert_jax.config.objective import token_words
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import EVALUATION_SEED, Examples, scoring_seed
from bert_jax.feed.order import examples_at
from bert_jax.feed.shards import DataDirectory, Split
from bert_jax.feed.tokenised import ExampleSettings
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.text.documents import ReadingOptions
from bert_jax.train.evaluation import add_sums
from bert_jax.use.evaluation import (
    check_vocabulary,
    scored_batches,
    ScoredObjective,
    text_objective,
    token_report,
    without_pairs,
)
from bert_jax.use.model import Pretrained
from bert_jax.use.ngrams import fit_ngrams, NAMES, NgramModels
from bert_jax.use.pseudo_likelihood import choose_sentences, pseudo_log_likelihoods
from bert_jax.use.text import read_text, TokenisedText


@dataclass(frozen=True)
class TextSettings:
    """How a text is read and scored."""

    sequence_length: int | None = None  # of the masked examples; None: that of the run's last phase
    pseudo_perplexity: int = 100  # sentences at most, evenly chosen
    lines: str = "sentences"  # as of `bert-jax prepare`, for the baseline's text too
    json_field: str = "text"
    errors: str = "strict"
    text_format: str = "auto"
    order: int | None = None  # tokens of the longest n-gram models beside it; None: bigrams, forward alone

    def __post_init__(self) -> None:
        if self.order is not None and self.order not in NAMES:
            raise UserError(
                f"--order {self.order} is not possible: use {min(NAMES)} to {max(NAMES)}, the tokens of an n-gram"
            )
        if self.pseudo_perplexity < 0:
            raise UserError(f"--pseudo-perplexity {self.pseudo_perplexity} is not possible: use 0 for none, or more")

    def reading(self, option: str) -> ReadingOptions:
        """Return how the text that an option names is to be read."""
        return ReadingOptions(self.json_field, self.lines, self.errors, self.text_format, option)


def evaluate_text(
    model: Pretrained,
    texts: Sequence[str | Path],
    settings: TextSettings = TextSettings(),
    *,
    data: DataDirectory | None = None,
    baseline_texts: Sequence[str | Path] = (),
) -> JsonObject:
    """Score a loaded model on texts.

    Args:
      model: with an MLM head.
      texts: as `bert-jax prepare` takes its --input.
      data: its training split is what the n-gram models are made of.
      baseline_texts: the same from text; None of either: no n-gram models.

    Returns:
      The record that is written: scores, counts, settings, and `warnings` for people.

    Raises:
      UserError: text that cannot be used, a model without an MLM head, data of another vocabulary.
    """
    use_compilation_cache()
    if settings.order is not None and data is None and not baseline_texts:
        raise UserError(
            "--order is of n-gram models: name the text that they are made of, with --data or --baseline-text"
        )
    if data is not None and baseline_texts:
        raise UserError("--data and --baseline-text both name the text of the n-gram models: give one of them")
    model.require_token_head("scoring tokens")
    phase = model.phase(settings.sequence_length)
    recipe = _recipe(model)
    baseline = _baseline(model, data, baseline_texts, settings, recipe)
    ngrams = None if baseline is None else baseline.models
    text = read_text(texts, model.tokenizer, settings.reading("--text"), recipe)
    examples, objective = _examples(model, text, phase, recipe)
    words = SplitTokens.of(examples.split)
    text_record, masked = _text_record(model, text), _masked_record(model, examples, objective, words, ngrams)
    record: JsonObject = {"step": model.origin.step, "weights": model.origin.weights, "text": text_record, **masked}
    if settings.pseudo_perplexity and objective.config.masks:
        record["pseudo"] = _pseudo_record(model, words, settings.pseudo_perplexity, ngrams)
    if baseline is not None:
        record["ngrams"] = baseline.models.described() | {"text": baseline.name}
    record["settings"] = asdict(settings) | asdict(recipe)
    doubts = _doubts(model, text, baseline, text_record["unknown_share"])
    record["warnings"] = [finding.line() for finding in doubts]
    return record


# ---- the text -------------------------------------------------------------------------------------------------------


def _examples(
    model: Pretrained, text: TokenisedText, phase: PhaseConfig, recipe: ExampleSettings
) -> tuple[Examples, ScoredObjective]:
    """Return the masked examples of a text, on whole sentences where it has no pairs."""

    def made(objective: ScoredObjective) -> Examples:
        split = text.split(recipe, objective.config.examples, phase.sequence_length)
        return objective.examples(model, split, phase)

    objective = text_objective(model, text.documents)
    examples = made(objective)
    if not len(examples):
        objective = without_pairs(objective.config, "each document of the text is a single sentence, which has no pair")
        examples = made(objective)
    return examples, objective


def _text_record(model: Pretrained, text: TokenisedText) -> JsonObject:
    return {
        "files": [file._asdict() for file in text.files],
        "documents": text.documents,
        "sentences": text.sentences,
        "tokens": text.tokens,
        "unknown_share": text.count(model.tokenizer.unk_id) / text.tokens,
    }


def _doubts(model: Pretrained, text: TokenisedText, baseline: "Baseline | None", unknown: float) -> Iterator[Finding]:
    """Findings about a text whose scores say little, or more than they should."""
    if rules.UNKNOWN_SCORED.passed(unknown)[0] != OK:
        seen = f"{unknown:.1%} of the text's tokens are [UNK], which are easy to predict"
        script = f": the text is of another script or language than the vocabulary of {model.origin.path}"
        yield rules.UNKNOWN_SCORED.judge(unknown, seen, f"{script}, and these scores say little")
    trained = _hashes(_manifest(model))
    for name, digest in text.files:
        if digest in trained:
            yield Finding(WARNING, "Held-out text", "the run was trained on this file: its scores are too good").at(
                name
            )
        if baseline is not None and digest in baseline.hashes:
            seen = "the n-gram models are made of this file: their perplexities are too low"
            yield Finding(WARNING, "N-gram models", seen).at(name)


def _manifest(model: Pretrained) -> JsonObject:
    """Return the manifest of the data that the model was trained on, as far as it is known."""
    run = model.origin.run
    return run.manifest() if run is not None and run.data_file.is_file() else {}


def _recipe(model: Pretrained) -> ExampleSettings:
    """Return the settings by which the model's own data was made; `prepare`'s defaults where they are not known."""
    manifest = _manifest(model)
    return ExampleSettings(**{one.name: manifest[one.name] for one in fields(ExampleSettings) if one.name in manifest})


def _hashes(manifest: JsonObject) -> frozenset[str]:
    return frozenset(file["sha256"] for source in manifest.get("sources", ()) for file in source["files"])


class SplitTokens(NamedTuple):
    """The tokens of a split, its shards one after the other."""

    tokens: np.ndarray  # [T]
    starts: np.ndarray  # [N + 1] of sentences

    @classmethod
    def of(cls, split: Split) -> "SplitTokens":
        """Read them all: two to four bytes a token."""
        tokens = np.concatenate([shard.tokens for shard in split.shards])
        lengths = np.concatenate([np.diff(shard.sentence_starts) for shard in split.shards])
        return cls(tokens, np.concatenate([[0], np.cumsum(lengths)]))


# ---- predicted tokens -----------------------------------------------------------------------------------------------


def _masked_record(
    model: Pretrained, examples: Examples, objective: ScoredObjective, words: SplitTokens, ngrams: NgramModels | None
) -> JsonObject:
    totals: dict[str, float] = {}
    predicted, masks, offsets = token_words(objective.config).predicted, objective.config.masks, []
    seed = scoring_seed(examples.split)
    kept = partial(text_offsets, segments_of(examples), next_tokens=not masks, seed=seed)
    for sums, places in scored_batches(model, examples, predicted, kept):
        add_sums(totals, sums)
        offsets.append(places)
    return {
        "objective": objective.config.name,
        "sequence_length": examples.shape.sequence_length,
        **(_masking(objective) if masks else {}),
        **token_report(totals, objective.config),
        **_ngram_scores(ngrams, words, np.concatenate(offsets)),
        **objective.report(totals),
    }


def _masking(objective: ScoredObjective) -> JsonObject:
    return {"masking": objective.config.masking, "mlm_probability": objective.config.mlm_probability}


def segments_of(examples: Examples) -> np.ndarray:
    """Return (a_start, a_length, b_start) of each example, [K, 3] int64.

    Starts are offsets into the tokens of all shards, one shard after the other.
    """
    first, segments = 0, []
    for shard, table in zip(examples.split.shards, examples.tables, strict=True):
        segments.append(table[:, :3].astype(np.int64) + np.array([[first, 0, first]]))
        first += len(shard.tokens)
    return np.concatenate(segments)


def text_offsets(
    segments: np.ndarray, number: int, batch: Batch, next_tokens: bool = False, seed: int = EVALUATION_SEED
) -> np.ndarray:
    """Return where the predicted tokens of batch `number` of `evaluation_batch` stand in the text, [K] in the order of rows and
    slots; of next tokens without the [SEP] at the end of a row, which is not of the text."""
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    places = batch["masked_lm_positions"][rows, slots].astype(np.int64)
    if next_tokens:  # one segment a row
        inside = places + 1 < batch["sequence_ids"].sum(1)[rows] - 1
        rows, places = rows[inside], places[inside] + 1
    indices = examples_at(number * len(batch["input_ids"]) + rows, len(segments), seed)[1]
    a_starts, a_lengths, b_starts = segments[indices].T
    return np.where(places <= a_lengths, a_starts + places - 1, b_starts + places - a_lengths - 2)  # [CLS] A [SEP] B


# ---- pseudo-perplexity ----------------------------------------------------------------------------------------------


def _pseudo_record(model: Pretrained, words: SplitTokens, most: int, ngrams: NgramModels | None) -> JsonObject:
    lengths, longest = np.diff(words.starts), model.longest - 2  # without [CLS] and [SEP]
    chosen = choose_sentences(lengths, most, longest)
    sentences = [words.tokens[words.starts[number] : words.starts[number + 1]] for number in chosen]
    record: JsonObject = {
        "sentences": len(chosen),
        "sentences_of_text": len(lengths),
        "too_long": int((lengths > longest).sum()),
        "longest_tokens": longest,
        "tokens": int(lengths[chosen].sum()),
    }
    if not len(chosen):
        return record
    loss = -float(pseudo_log_likelihoods(model, sentences).sum()) / record["tokens"]
    offsets = np.concatenate([np.arange(words.starts[number], words.starts[number + 1]) for number in chosen])
    return record | {"loss": loss, "perplexity": _exp(loss), **_ngram_scores(ngrams, words, offsets)}


# ---- n-gram models --------------------------------------------------------------------------------------------------


class Baseline(NamedTuple):
    """N-gram models and what they are made of."""

    models: NgramModels
    name: str
    hashes: frozenset[str]  # of its files


def _baseline(
    model: Pretrained,
    data: DataDirectory | None,
    texts: Sequence[str | Path],
    settings: TextSettings,
    recipe: ExampleSettings,
) -> Baseline | None:
    size = model.tokenizer.vocab_size
    if data is not None:
        check_vocabulary(model, data)
        models = fit_ngrams(data.split("train").shards, size, str(data.directory), settings.order)
        return Baseline(models, f"training split of {data.directory.name}", _hashes(dict(data.manifest)))
    if not texts:
        return None
    option = "--baseline-text"
    text = read_text(texts, model.tokenizer, settings.reading(option), recipe)
    models = fit_ngrams(text.split(recipe).shards, size, option, settings.order)
    return Baseline(models, listed(file.file for file in text.files), frozenset(file.sha256 for file in text.files))


def _ngram_scores(ngrams: NgramModels | None, words: SplitTokens, offsets: np.ndarray) -> dict[str, float]:
    """Losses (nats) and perplexities of the models on the tokens at these offsets."""
    losses = {} if ngrams is None else ngrams.losses(words.tokens, words.starts, offsets)
    return {
        key: value
        for name, loss in losses.items()
        for key, value in ((f"{name}_loss", loss), (f"{name}_perplexity", _exp(loss)))
    }


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700))
