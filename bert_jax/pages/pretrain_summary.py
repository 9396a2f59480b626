# SPDX-License-Identifier: Apache-2.0
"""The top of a pre-training run's page: status, facts and key figures."""

import statistics
from collections.abc import Callable
from pathlib import Path

from bert_jax.config.description import ModelDescription
from bert_jax.config.model import MODEL_SIZES
from bert_jax.config.objective import pair_words, TokenWords
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.training import averaged_words
from bert_jax.model.accounting import formula_parameters
from bert_jax.pages.page import Tile
from bert_jax.pages.wording import (
    count,
    counted,
    decimal,
    duration,
    exponential,
    interval,
    millions,
    moment,
    percent,
    perplexity,
    picked_words,
    SPACE,
    teraflops,
)
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.reading import number, Record, Run, series


def facts(run: Run) -> list[tuple[str, str]]:
    """Return the facts of one line each: name and words."""
    return [
        ("Model", model_words(run.config.description)),
        *began_with(run),
        *learned_from(run),
        ("Objective", objective_words(run.config)),
        ("Data", data_words(run)),
        ("Device", device_words(run)),
        ("Time", time_words(run)),
    ]


def began_with(run: Run) -> list[tuple[str, str]]:
    """Return the model whose weights the run began with, and what was drawn; nothing where all were drawn."""
    source = RunDirectory(run.directory).source()
    if source is None:
        return []
    name, drawn = Path(source["path"]).name, ", ".join(source["drawn"])
    return [("Began with", f"{name}, {source['summary']}{f'; drawn anew: {drawn}' if drawn else ''}")]


def learned_from(run: Run) -> list[tuple[str, str]]:
    """Return the run's teacher; nothing where it has none."""
    teacher = RunDirectory(run.directory).teacher()
    return [] if teacher is None else [("Teacher", f"{Path(teacher['path']).name}, {teacher['summary']}")]


def status_words(run: Run) -> str:
    """How far the run is. A run that is still at work reads as stopped: its files do not tell."""
    step, total = count(run.last_step), count(run.config.total_steps)
    if run.finished:
        return f"finished, {total} steps"
    return f"stopped at step {step} of {total}" if run.last_step else "no step logged yet"


def model_words(description: ModelDescription) -> str:
    """Size and shape of a model."""
    model = description.model
    names = [name for name, shape in MODEL_SIZES.items() if all(getattr(model, key) == shape[key] for key in shape)]
    name = f"BERT-{names[0]}, " if names and names[0].isalpha() else ""
    shape = f"{model.num_hidden_layers} layers × {model.hidden_size:,} features"
    parameters = f"{millions(parameter_count(description))} parameters"
    if model.is_recurrent:
        return f"biLM, {model.num_hidden_layers} layers of LSTMs × 2 directions × {model.table_size:,} features, {parameters}"
    return f"{name}{shape}, {model.num_attention_heads} heads, {parameters}"


def objective_words(config: PretrainConfig) -> str:
    """The objective in words, and how rows are filled."""
    objective = config.objective
    rows = f", up to {config.examples_per_row} examples a row" if config.packing == "packed" else ""
    filling = f"rows {config.packing.replace('buckets', 'in buckets')}{rows}"
    if objective.is_backward:
        return f"{objective.name}: each token is predicted from those before it, and from those behind it; {filling}"
    if objective.is_causal:
        return f"{objective.name}, left to right: each token is predicted from those before it; {filling}"
    picked = f"{picked_words(objective, 0)} picked by {objective.masking.replace('_', ' ')}"
    return f"{objective.name}, {picked}; {filling}"


def parameter_count(description: ModelDescription) -> int:
    """Parameters of the encoder without heads: 109,482,240 for BERT-base, with its pooler, where it has one."""
    model = description.model
    hidden, inner, table = model.hidden_size, model.intermediate_size, model.table_size
    if model.is_recurrent:
        return formula_parameters(model) + model.num_hidden_layers * 2 * 4 * (
            model.lstm_units or 0
        )  # gates have a bias
    project = table * hidden + hidden if model.is_projected else 0
    layer_norm = 2 * hidden
    rows = model.vocab_size + model.max_position_embeddings + model.type_vocab_size
    attention = 4 * (hidden * hidden + hidden) + layer_norm
    feed_forward = 2 * hidden * inner + inner + hidden + layer_norm
    pooler = hidden * hidden + hidden if description.pooler else 0
    return rows * table + 2 * table + project + model.num_hidden_layers * (attention + feed_forward) + pooler


def data_words(run: Run) -> str:
    """Size of the training text."""
    if run.data is None:
        return "not recorded: passport.json is missing"
    tokens, files = number(run.train_split, "tokens"), input_files(run.data)
    return f"{count(tokens)} tokens for training, from {counted(len(files), 'file')}"


def input_files(passport: Record) -> list[Record]:
    """The files of all sources; a source that is no file (a TFDS split) stands by its own name."""
    found: list[Record] = []
    for source in passport.get("sources", []):
        found += source.get("files") or [{"file": source.get("source", "")}]
    return found


def device_words(run: Run) -> str:
    """Devices and the version of JAX."""
    if run.environment is None:
        return "not recorded: environment.json is missing"
    devices, version = (run.environment.get(key, "not recorded") for key in ("devices", "jax"))
    return f"{devices}, {run.config.compute_dtype}, JAX {version}"


def time_words(run: Run) -> str:
    """Time in training steps, and when the run started."""
    started = moment((run.environment or {}).get("started", "at a time not recorded"))
    spent = f"{duration(run.seconds)} in training steps, " if run.seconds else ""
    return f"{spent}last started {started}"


# ---- key figures -----------------------------------------------------------------------------------------------------


def newest_scores(run: Run) -> tuple[Record, str]:
    """The best founded scores there are, and where they come from."""
    averaged = averaged_words(run.config.optimizer.average)
    weights = f", {averaged}" if averaged else ""
    if run.evaluation is not None:
        split, step = run.evaluation.get("split", "held-out"), number(run.evaluation, "step")
        return run.evaluation, f"{split}, step {count(step)}{weights}"
    if run.evals:
        return run.evals[-1], f"held-out, step {count(run.evals[-1]['step'])}{weights}"
    if run.train:
        return run.train[-1], f"training text, step {count(run.train[-1]['step'])}"
    return {}, "no value yet"


def tiles(run: Run) -> list[Tile]:
    """The key figures of a run."""
    record, where = newest_scores(run)
    loss = Tile(f"{run.tokens.short} loss", _value(number(record, run.token_loss), decimal), "nats", where)
    perplexities = [_perplexity_tile(run, record, words) for words in run.directions]
    found = [loss, *perplexities, _token_accuracy_tile(run, record)]
    words = pair_words(run.config.objective)
    if words is not None:
        found.append(_pair_tile(record, words.short))
    if run.config.objective.replaces:
        found.append(_replaced_tile(record))
    return [*found, _entropy_tile(run, record), _throughput_tile(run)]


def _value(value: float | None, text: Callable[[float], str]) -> str:
    """A value for a tile, a dash where there is none."""
    return "–" if value is None else text(value)


def _interval(record: Record, key: str) -> str:
    ends = interval(record.get(key), 1)
    return f"95{SPACE}% interval {ends}" if ends else "no interval before an evaluation"


def _perplexity_tile(run: Run, record: Record, words: TokenWords) -> Tile:
    value = number(record, f"{words.term}_perplexity")
    value = exponential(number(record, f"{words.term}_loss")) if value is None else value
    baseline = exponential(number(record, "unigram_loss") or run.unigram_entropy)
    note = f"word frequencies alone: {perplexity(baseline)}" if baseline else ""
    title = "Perplexity" if len(run.directions) == 1 else f"{words.short} perplexity"
    return Tile(title, _value(value, perplexity), "", note)


def _token_accuracy_tile(run: Run, record: Record) -> Tile:
    term = run.tokens.term
    accuracy = number(record, f"{term}_accuracy")
    token, share = run.commonest_token or ("", None)
    token, share = record.get("commonest_token", token), record.get("commonest_token_accuracy", share)
    note = _interval(record, f"{term}_accuracy_95")
    if accuracy is not None and share:
        note += f"; {accuracy / share:.1f} times as often right as always “{token}”"
    return _accuracy_tile(f"{run.tokens.short} accuracy", accuracy, note)


def _pair_tile(record: Record, short: str) -> Tile:
    share = number(record, "is_next_share")
    guess = f"guessing: 50{SPACE}%" if share is None else f"always the commoner label: {percent(max(share, 1 - share))}"
    note = f"{_interval(record, 'nsp_accuracy_95')}; {guess}"
    return _accuracy_tile(f"{short} accuracy", number(record, "nsp_accuracy"), note)


def _replaced_tile(record: Record) -> Tile:
    precision, share = (percent(number(record, key)) for key in ("rtd_precision", "replaced_share"))
    note = f"{precision} of those flagged were replaced; {share} of all tokens are"
    return _accuracy_tile("Replaced tokens found", number(record, "rtd_recall"), note)


def _accuracy_tile(label: str, accuracy: float | None, note: str) -> Tile:
    return Tile(label, _value(accuracy, lambda value: f"{100 * value:.1f}"), "%", note)


def _entropy_tile(run: Run, record: Record) -> Tile:
    loss, entropy = number(record, run.token_loss), number(record, "unigram_entropy") or run.unigram_entropy
    gain = None if loss is None or entropy is None else entropy - loss
    side = "Above" if gain is not None and gain < 0 else "Below"
    note = f"entropy of word frequencies: {decimal(entropy, unit='nats')}"
    return Tile(f"{side} unigram entropy", _value(gain, lambda value: decimal(abs(value), 2)), "nats", note)


def _throughput_tile(run: Run) -> Tile:
    rates = [rate for _, rate in series(run.train, "tokens_per_second")]
    flops = [rate for _, rate in series(run.train, "model_flops_per_second")]
    notes = [f"median of {counted(len(rates), 'interval')}"] if rates else []
    if flops:
        median, peak = statistics.median(flops), run.peak_flops
        notes.append(f"{percent(median / peak)} of peak" if peak else f"{teraflops(median, 3)}, no peak known")
    return Tile("Throughput", _value(statistics.median(rates) if rates else None, count), "tokens/s", "; ".join(notes))
