# SPDX-License-Identifier: Apache-2.0
"""Intrinsic scores of a pre-trained run on any text, beside n-gram models on the same tokens.

Two questions are asked of a masked LM, and their perplexities are not to be compared with each other:

- Masked tokens: examples are made of the text and masked as held-out data is (evaluation.py), some tokens of each at once.
- Pseudo-perplexity: each token of a sentence is masked in turn and predicted from all others (pseudo_likelihood.py), and of all
  sentences exp(-(sum of PLL) / (sum of tokens)).

The n-gram models (data/ngrams.py) see nothing or the token before, the masked LM both sides and far: one that is no better
than they are has learned little of the text.

Shapes: B rows, S tokens in a row, M predicted positions in a row, V vocabulary, T tokens of the text, N sentences, K masked
tokens.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from bert_jax.config.pretrain import PretrainConfig
from bert_jax.conversion.own_format import restore_parameters
from bert_jax.errors import Interrupted, listed, UserError
from bert_jax.feed.batch import Batch
from bert_jax.feed.examples import evaluation_batch, EVALUATION_SEED, Examples, make_examples
from bert_jax.feed.feed import plain_feed
from bert_jax.feed.kinds import PAIRS
from bert_jax.feed.order import examples_at
from bert_jax.feed.shards import DataDirectory, open_data, Split
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.model.encoder import Compute
from bert_jax.prepare.preparation import prepare
from bert_jax.prepare.request import PrepareSettings
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import RunDirectory
from bert_jax.train.evaluation import add_sums, read_behind
from bert_jax.train.state import COMPUTE_DTYPES, resolve_compute_dtype
from bert_jax.use.evaluation import check_vocabulary, choose_phase, mlm_report, nsp_report, treatment_counts
from bert_jax.use.model import Pretrained, TOKENS_AT_ONCE
from bert_jax.use.ngrams import contexts_of, fit_ngrams, NgramModels
from bert_jax.use.pseudo_likelihood import choose_sentences, head_scores, pseudo_log_likelihoods

SCORES_FILE = "evaluation-text.json"  # of a run; evaluation.json is for its held-out data
MOST_UNKNOWN = 0.2  # share of [UNK]; the vocabulary of a text leaves less than 0.001
NO_PAIRS = "mlm_full_sentences"  # the objective that a model without an NSP head, or a second segment, is asked about

_REMADE = ("short_seq_prob", "random_next_prob", "seed", "splitter", "segmenter")  # settings of the run's own data


@dataclass(frozen=True)
class TextSettings:
    """How a text is read and scored."""

    sequence_length: int | None = None  # of the masked examples; None: that of the run's last phase
    pseudo_perplexity: int = 100  # sentences at most, evenly chosen
    lines: str = "sentences"  # as of `bert-jax prepare`, for the baseline's text too
    json_field: str = "text"
    errors: str = "strict"
    text_format: str = "auto"

    def __post_init__(self) -> None:
        if self.pseudo_perplexity < 0:
            raise UserError(f"--pseudo-perplexity {self.pseudo_perplexity} is not possible: use 0 for none, or more")


def evaluate_text(
    run: RunDirectory,
    texts: Sequence[str | Path],
    settings: TextSettings = TextSettings(),
    *,
    data: DataDirectory | None = None,
    baseline_texts: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Score the run's newest checkpoint on texts.

    Args:
      run: pre-trained here, or converted with an MLM head.
      texts: as `bert-jax prepare` takes its --input.
      data: its training split is what the n-gram models are made of.
      baseline_texts: the same from text; None of either: no n-gram models.

    Returns:
      The record that is written: scores, counts, settings, and `warnings` for people.

    Raises:
      UserError: text that cannot be used, a run without an MLM head or checkpoint, other data than the run's.
    """
    use_compilation_cache()
    if data is not None and baseline_texts:
        raise UserError("--data and --baseline-text both name the text of the n-gram models: give one of them")
    config = _asked_objective(run)
    phase = choose_phase(config, settings.sequence_length)
    tokenizer = run.tokenizer()
    made = _prepare_settings(run, settings, config.objective.examples, phase.sequence_length)
    baseline = _baseline(run, data, baseline_texts, made)
    ngrams = None if baseline is None else baseline.models
    with prepared_text(texts, "--text", run, made) as text:
        model, step = open_masked_model(run, config)
        examples = make_examples(
            text.split("train"), tokenizer, config, phase, max(1, TOKENS_AT_ONCE // phase.sequence_length)
        )
        words = SplitTokens.of(examples.split, tokenizer.vocab_size)
        record = {"step": step, "text": _text_record(text), **_masked_record(model, examples, words, ngrams)}
        if settings.pseudo_perplexity:
            longest = max(phase.sequence_length for phase in config.phases)
            record["pseudo"] = _pseudo_record(model, words, settings.pseudo_perplexity, longest, ngrams)
        if baseline is not None:
            record["ngrams"] = baseline.models.described() | {"text": baseline.name}
        record["settings"] = asdict(settings) | {name: getattr(made, name) for name in _REMADE}
        record["warnings"] = _warnings(run, text, baseline, record["text"]["unknown_share"])
    return record


# ---- the text -------------------------------------------------------------------------------------------------------


@contextmanager
def prepared_text(
    inputs: Sequence[str | Path], option: str, run: RunDirectory, settings: PrepareSettings
) -> Iterator[DataDirectory]:
    """Text as `bert-jax prepare` makes it with the run's tokenizer, all of it as the `train` split, in a folder that goes
    at the end of the block.

    Raises:
      UserError: text that cannot be used; `option` is what named it.
    """
    with tempfile.TemporaryDirectory(prefix="bert-jax-evaluate-") as folder:
        output = Path(folder) / "data"
        try:
            prepare(inputs, run.tokenizer(), output, settings)
        except UserError as error:
            # `prepare` names its own options.
            message = str(error).replace("--input", option).replace(f", or use --objective {NO_PAIRS}", "")
            raise UserError(message.replace("--vocab", f"the vocabulary of {run.path}")) from None
        except Interrupted as stop:
            raise Interrupted("interrupted before anything was scored", stop.signal_number) from None
        yield open_data(output, verify_hashes=False)


def _prepare_settings(run: RunDirectory, settings: TextSettings, kind: str, length: int) -> PrepareSettings:
    """As the run's own data was made, where it has any."""
    manifest: Mapping[str, Any] = run.manifest() if run.data_file.is_file() else {}
    return PrepareSettings(
        kinds=(kind,),
        sequence_lengths=(length,),
        held_out=0.0,
        lines=settings.lines,
        json_field=settings.json_field,
        errors=settings.errors,
        text_format=settings.text_format,
        **{name: manifest[name] for name in _REMADE if name in manifest},
    )


def _text_record(text: DataDirectory) -> dict[str, Any]:
    record = text.manifest["splits"]["train"]
    counts = {name: record[name] for name in ("documents", "sentences", "tokens")}
    return {
        "files": [{"file": name, "sha256": digest} for name, digest in _files(text.manifest)],
        **counts,
        "unknown_share": record["unknown_tokens"] / record["tokens"],
    }


def _warnings(run: RunDirectory, text: DataDirectory, baseline: "Baseline | None", unknown: float) -> list[str]:
    warnings = []
    if unknown > MOST_UNKNOWN:
        warnings.append(
            f"{unknown:.1%} of the text's tokens are [UNK], which are easy to predict: the text is of another script or"
            f" language than the vocabulary of {run.path}, and these scores say little"
        )
    trained = _hashes(run.manifest()) if run.data_file.is_file() else frozenset()
    for name, digest in _files(text.manifest):
        if digest in trained:
            warnings.append(f"{name} is a file that the run was trained on: these are no scores of held-out text")
        if baseline is not None and digest in baseline.hashes:
            warnings.append(f"{name} is a file that the n-gram models are made of: their perplexities are too low")
    return warnings


def _files(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and sha256 of the files that data was made of; files of different folders may have one name."""
    return [(file["file"], file["sha256"]) for source in manifest["sources"] for file in source["files"]]


def _hashes(manifest: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(digest for _, digest in _files(manifest))


class SplitTokens(NamedTuple):
    """The tokens of a split, its shards one after the other."""

    tokens: np.ndarray  # [T]
    contexts: np.ndarray  # [T], see `ngrams.contexts_of`
    starts: np.ndarray  # [N + 1] of sentences

    @classmethod
    def of(cls, split: Split, vocab_size: int) -> "SplitTokens":
        """Read them all: six to eight bytes a token."""
        tokens = np.concatenate([shard.tokens for shard in split.shards])
        lengths = np.concatenate([np.diff(shard.sentence_starts) for shard in split.shards])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return cls(tokens, contexts_of(tokens, starts, vocab_size), starts)


# ---- the model ------------------------------------------------------------------------------------------------------


def _asked_objective(run: RunDirectory) -> PretrainConfig:
    """The run's configuration, its objective without pairs where it has no head for them or no second segment.

    Raises:
      UserError: it has no MLM head.
    """
    config, description = run.config(), run.description()
    if not description.mlm:
        raise UserError(
            f"{run.path}: holds {description.summary()}, and a masked LM is scored by its MLM head: convert a checkpoint"
            " that has one"
        )
    one_segment = description.model.type_vocab_size == 1 and config.objective.examples in PAIRS
    if one_segment or (config.objective.nsp and not description.nsp):
        config = replace(config, objective=replace(config.objective, name=NO_PAIRS))
    return config


def open_masked_model(run: RunDirectory, config: PretrainConfig) -> tuple[Pretrained, int]:
    """The run's newest checkpoint on the first device, with whatever heads it has, and its step.

    Raises:
      UserError: there is no checkpoint.
    """
    with Checkpoints(run.checkpoints) as checkpoints:
        step = checkpoints.latest
    if step is None:
        raise UserError(f"{run.path}: has no complete checkpoint: go on with bert-jax pretrain")
    description = run.description()
    dtype = COMPUTE_DTYPES[resolve_compute_dtype(config.compute_dtype, jax.devices()[0].platform)]
    return Pretrained(description, restore_parameters(run.path, description), run.tokenizer(), Compute(dtype)), step


# ---- masked tokens --------------------------------------------------------------------------------------------------


class MaskedScores(NamedTuple):
    """Sums over the masked tokens of a split, and where these stand in its text."""

    totals: dict[str, float]  # as of `evaluation.ScorePass`, and the counts of `treatment_counts`
    offsets: np.ndarray  # [K] into `SplitTokens.tokens`


def _masked_record(
    model: Pretrained, examples: Examples, words: SplitTokens, ngrams: NgramModels | None
) -> dict[str, Any]:
    objective = examples.objective
    totals, offsets = score_masked(model, examples)
    return {
        "objective": objective.name,
        "sequence_length": examples.shape.sequence_length,
        "masking": objective.masking,
        "mlm_probability": objective.mlm_probability,
        **mlm_report(totals),
        **_ngram_scores(ngrams, words, offsets),
        **(nsp_report(totals) if objective.nsp else {}),
        "mask_histogram": {name: int(totals[name]) for name in ("mask", "random", "kept")},
        "picked_share": totals["mlm_weight"] / totals["valid_tokens"],
    }


def score_masked(model: Pretrained, examples: Examples) -> MaskedScores:
    """One pass over all examples, masked as held-out data is."""
    rows = examples.shape.rows
    count = -(-len(examples) // rows)
    batches = plain_feed(partial(evaluation_batch, examples, rows), 0, count)
    totals: dict[str, float] = {}
    segments, offsets = segments_of(examples), []
    begun = ((pair, head_scores(model, pair[1])) for pair in enumerate(batches))
    with tqdm(read_behind(begun), total=count, unit="batch", desc="masked tokens", dynamic_ncols=True) as bar:
        for (number, batch), scores in bar:
            for head, part in scores.items():
                add_sums(totals, {f"{head}_{name}": value for name, value in _sums(batch, head, *part)})
            add_sums(totals, treatment_counts(batch, examples.special.mask))
            offsets.append(text_offsets(segments, number, batch))
    return MaskedScores(totals, np.concatenate(offsets))


_WEIGHTS = {"mlm": "masked_lm_weights", "nsp": "next_sentence_weights"}


def _sums(batch: Batch, head: str, logs: np.ndarray, right: np.ndarray) -> Iterator[tuple[str, float]]:
    counted = batch[_WEIGHTS[head]] > 0
    yield "loss", -float(logs[counted].sum(dtype=np.float64))
    yield "correct", float(right[counted].sum())
    yield "weight", float(counted.sum())


def segments_of(examples: Examples) -> np.ndarray:
    """Of each example (a_start, a_length, b_start), int64; starts are offsets into the tokens of all shards, one shard
    after the other."""
    first, segments = 0, []
    for shard, table in zip(examples.split.shards, examples.tables, strict=True):
        segments.append(table[:, :3].astype(np.int64) + np.array([[first, 0, first]]))
        first += len(shard.tokens)
    return np.concatenate(segments)


def text_offsets(segments: np.ndarray, number: int, batch: Batch) -> np.ndarray:
    """Where the masked tokens of batch `number` of `evaluation_batch` stand in the text, [K] in the order of rows and
    slots."""
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    places = batch["masked_lm_positions"][rows, slots].astype(np.int64)
    indices = examples_at(number * len(batch["input_ids"]) + rows, len(segments), EVALUATION_SEED)[1]
    a_starts, a_lengths, b_starts = segments[indices].T
    return np.where(places <= a_lengths, a_starts + places - 1, b_starts + places - a_lengths - 2)  # [CLS] A [SEP] B


# ---- pseudo-perplexity ----------------------------------------------------------------------------------------------


def _pseudo_record(
    model: Pretrained, words: SplitTokens, most: int, longest: int, ngrams: NgramModels | None
) -> dict[str, Any]:
    lengths = np.diff(words.starts)
    chosen = choose_sentences(lengths, most, longest - 2)
    sentences = [words.tokens[words.starts[number] : words.starts[number + 1]] for number in chosen]
    record: dict[str, Any] = {
        "sentences": len(chosen),
        "sentences_of_text": len(lengths),
        "too_long": int((lengths > longest - 2).sum()),
        "longest_tokens": longest - 2,
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
    run: RunDirectory, data: DataDirectory | None, texts: Sequence[str | Path], made: PrepareSettings
) -> Baseline | None:
    if data is not None:
        check_vocabulary(run, data)
        return _fitted(data, f"training split of {data.directory.name}", str(data.directory))
    if not texts:
        return None
    with prepared_text(texts, "--baseline-text", run, replace(made, kinds=("full_sentences",))) as text:
        return _fitted(text, listed(name for name, _ in _files(text.manifest)), "--baseline-text")


def _fitted(data: DataDirectory, name: str, place: str) -> Baseline:
    models = fit_ngrams(data.split("train").shards, data.vocab_size, place)
    return Baseline(models, name, _hashes(data.manifest))


def _ngram_scores(ngrams: NgramModels | None, words: SplitTokens, offsets: np.ndarray) -> dict[str, float]:
    """Losses (nats) and perplexities of both models on the tokens at these offsets."""
    if ngrams is None:
        return {}
    tokens = words.tokens[offsets]
    losses = {
        "unigram": -float(ngrams.unigram(tokens).mean()),
        "bigram": -float(ngrams.bigram(words.contexts[offsets], tokens).mean()),
    }
    return {
        key: value
        for name, loss in losses.items()
        for key, value in ((f"{name}_loss", loss), (f"{name}_perplexity", _exp(loss)))
    }


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700))
