# SPDX-License-Identifier: Apache-2.0
"""Further pre-training: a checkpoint of any format as the beginning of a run, on any text, under any recipe.

The model gives its shape, its vocabulary and every weight that the run's network has too; what it lacks (a head, entries
of another vocabulary) is drawn anew, and that is said. The run keeps a record of the model and never needs it again.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import optax

from bert_jax.base.errors import UserError
from bert_jax.base.files import reading
from bert_jax.base.paths import absolute, any_path
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import override_around
from bert_jax.conversion import names
from bert_jax.conversion.checkpoints import Asked, Checkpoint, open_checkpoint
from bert_jax.conversion.convert import weights_sha256
from bert_jax.conversion.entry_map import EntryMap, map_entries
from bert_jax.conversion.names import BERT_JAX
from bert_jax.conversion.optimizer_state import optimizer_for, OptimizerState
from bert_jax.conversion.own_format import filled, flat, nested, stacked_shapes
from bert_jax.feed.shards import read_manifest
from bert_jax.mesh.distributed import all_or_none, say
from bert_jax.mesh.sharding import put_whole
from bert_jax.runs.directory import RunDirectory
from bert_jax.tokenization import load_tokenizer, Tokenizer, WordPieceTokenizer
from bert_jax.train.distillation import Teacher
from bert_jax.train.optimizer import MomentsState
from bert_jax.train.pretraining import pretrain
from bert_jax.train.state import INITIAL_WEIGHTS, Training, TrainState

_OF_MLM = ("mlm/decoder", "mlm/bias")
_ROWS_OF_ENTRIES = ("encoder/embeddings/word", *_OF_MLM, *(names.GENERATOR + name for name in _OF_MLM))


@dataclass(frozen=True)
class Start:
    """A request for a run that begins with a model: which one, and what is taken of it."""

    model: Path  # a checkpoint of any format
    # Of the model's own training: "moments", which are Adam's; "step": these, and its place in the schedule.
    keep: str | None = None
    map_vocabulary: bool = False  # rows go by the text of their pieces, to data of another vocabulary
    asked: Asked = Asked(head=False)  # noqa: RUF009  # frozen


def pretrain_further(
    recipe: PretrainConfig,
    settings: Sequence[str],
    start: Start,
    data: Path,
    output: Path,
    *,
    resume_command: str,
    teacher: Teacher | None = None,
) -> RunDirectory:
    """Pre-train a model further in a run of its own, from the run's newest checkpoint if there is one.

    Args:
      recipe: objective, schedule and the like; of its model only dropout and the range of new weights count.
      settings: `KEY=VALUE`, over the recipe.
      start: the model, which need not be there any more where the run has begun.
      data: made by `bert-jax prepare`.
      output: the run directory.
      resume_command: printed when the run is interrupted.
      teacher: another model, which the run learns from.

    Raises:
      UserError: as `train.pretraining.pretrain`; a model, a vocabulary or moments that the run cannot begin with.
      Interrupted: asked to stop; the state is saved.
    """
    run, model = RunDirectory(output), None
    with all_or_none():
        record = run.source() if run.config_file.is_file() else None
        if record is not None:
            _require_same_start(run, record, start)
            config = override_around(recipe, settings, run.stored().model, start.model)
        else:
            model = open_checkpoint(start.model, start.asked)
            read_manifest(data)  # refuses what is no prepared data
            tokenizer = load_tokenizer(data)
            entries = _entry_map(model, start, tokenizer, data)
            shape = model.description.model
            shape = shape if entries is None else replace(shape, vocab_size=tokenizer.vocab_size)
            config = override_around(recipe, settings, shape, start.model)
            record = _record(model, start, config, entries)
    beginning = StartingModel(start, record, model)
    return pretrain(config, data, output, resume_command=resume_command, beginning=beginning, teacher=teacher)


def _require_same_start(run: RunDirectory, record: JsonObject, start: Start) -> None:
    """Refuse to go on with a run that another model began; what lies at its place now does not count."""
    given = {"path": absolute(start.model), "keep": start.keep, "map_vocab": start.map_vocabulary}
    with reading(run.source_file, "restore the file"):
        began = {"path": record["path"], "keep": record["keep"], "map_vocab": record["entries"] is not None}
    changed = [f"{name}: {began[name]} -> {given[name]}" for name in given if given[name] != began[name]]
    if changed:
        raise UserError(
            f"{run.path}: holds a run that began with another --from ({'; '.join(changed)}): take it back, or choose"
            " another --output"
        )


# ---- the vocabulary ------------------------------------------------------------------------------------------------


def _entry_map(model: Checkpoint, start: Start, tokenizer: Tokenizer, data: Path) -> EntryMap | None:
    """Return where the rows of the data's entries come from; None where the data has the model's own vocabulary.

    Raises:
      UserError: it has another one, and that was not said, or it cannot be matched.
    """
    own = model.tokenizer
    if own is None:
        raise UserError(f"{start.model} has no vocabulary: put its vocab.txt beside it, or name one with --vocab")
    if own.fingerprint == tokenizer.fingerprint:
        if start.map_vocabulary:
            raise UserError(f"--map-vocab: {data} has the vocabulary of {start.model}: leave the option out")
        return None
    if not start.map_vocabulary:
        common = len(set(own.vocabulary) & set(tokenizer.vocabulary))
        raise UserError(
            f"{data}: was prepared with another vocabulary ({tokenizer.vocab_size:,} entries,"
            f" {tokenizer.fingerprint[:12]}) than that of {start.model} ({own.vocab_size:,} entries,"
            f" {own.fingerprint[:12]}; {common:,} are in both): prepare it with --vocab {start.model}, or give --map-vocab,"
            " by which rows go to the pieces of the same text"
        )
    if not isinstance(own, WordPieceTokenizer) or not isinstance(tokenizer, WordPieceTokenizer):
        raise UserError(
            f"--map-vocab: {start.model} has a {own.kind} vocabulary and {data} a {tokenizer.kind} one: only pieces of two"
            f" WordPiece vocabularies can be matched: prepare the data with --vocab {start.model}"
        )
    return map_entries(own, tokenizer)


# ---- what is taken of the model ------------------------------------------------------------------------------------


def _record(model: Checkpoint, start: Start, config: PretrainConfig, entries: EntryMap | None) -> JsonObject:
    """Return what the run keeps of the model, where it can begin with it."""
    _require_same_layers(model, start, config)
    _require_same_generator(model, start, config)
    _kept_optimizer(model, start, config)
    assert model.tokenizer is not None
    shape, own = model.description.model, model.format == BERT_JAX
    ours, theirs = stacked_shapes(config.description), stacked_shapes(model.description)
    return {
        "path": absolute(start.model),
        "format": model.format,
        "step": model.step,
        "summary": model.description.summary(),
        "weights_sha256": weights_sha256(model, model),
        "vocabulary": model.tokenizer.fingerprint,
        "longest": RunDirectory(start.model).longest() if own else shape.max_position_embeddings,
        "keep": start.keep,
        "entries": None if entries is None else entries.counts(),
        "asked": {name: value for name, value in _answers(start.asked).items() if value},
        "drawn": _parts(ours.keys() - theirs.keys()),
        "left_out": _parts(theirs.keys() - ours.keys()),
    }


def _answers(asked: Asked) -> JsonObject:
    vocabulary = None if asked.vocabulary is None else absolute(asked.vocabulary)
    return {
        "gelu": asked.gelu,
        "vocabulary": vocabulary,
        "padding_rows": asked.padding_rows,
        "skip": list(asked.skip),
    }


def beginning_of(run: RunDirectory) -> "StartingModel | None":
    """Return the model that a run began with, to begin with it again; None: its weights were drawn.

    Raises:
      UserError: the record cannot be read.
    """
    record = run.source()
    if record is None:
        return None
    with reading(run.source_file, "restore the file"):
        given = {"gelu": None, "vocabulary": None, "padding_rows": None, "skip": (), **record.get("asked", {})}
        vocabulary = None if given["vocabulary"] is None else any_path(given["vocabulary"])
        asked = Asked(given["gelu"], None, vocabulary, given["padding_rows"], tuple(given["skip"]), head=False)
        start = Start(any_path(record["path"]), record["keep"], record["entries"] is not None, asked)
    return StartingModel(start, record)


def _require_same_layers(model: Checkpoint, start: Start, config: PretrainConfig) -> None:
    """Refuse layers of attention for a biLM; those of LSTMs for another model are refused by the configuration."""
    if config.model.is_recurrent and not model.description.model.is_recurrent:
        raise UserError(
            f"{start.model}: has layers of attention, with which a run of objective={config.objective.name} cannot begin: train"
            " a biLM from its first step, without --from"
        )


def _require_same_generator(model: Checkpoint, start: Start, config: PretrainConfig) -> None:
    """Refuse a generator of another width than that of the model, where both have one."""
    ours, theirs = config.description.generator, model.description.generator
    if ours is not None and theirs is not None and ours.hidden_size != theirs.hidden_size:
        share = theirs.hidden_size / model.description.model.hidden_size
        raise UserError(
            f"objective.generator_share={config.objective.generator_share:g} makes a generator of {ours.hidden_size}, and that"
            f" of {start.model} has {theirs.hidden_size}: give objective.generator_share={share:.4g}"
        )


def _parts(parameters: set[str]) -> list[str]:
    """Return the parts of the network that parameters belong to, such as "pooler" and "mlm"."""
    return sorted({name.removeprefix("encoder/").split("/")[0] for name in parameters})


def _kept_optimizer(model: Checkpoint, start: Start, config: PretrainConfig) -> OptimizerState | None:
    """Return the optimizer's state that is asked for; None where none is.

    Raises:
      UserError: there is none, the run's optimizer cannot go on with it, or no step of the run is left.
    """
    if start.keep is None:
        return None
    place, kind = f"--keep {start.keep}", config.optimizer.kind
    if start.map_vocabulary:
        raise UserError(f"{place}: moments do not fit the rows of another vocabulary: leave out --keep")
    state, notes = optimizer_for(model, BERT_JAX)
    if state is None:
        raise UserError(
            f"{place}: {start.model} has no moments of an optimizer{''.join(f' ({n})' for n in notes)}: leave it out"
        )
    own = RunDirectory(start.model).config().optimizer if model.format == BERT_JAX else None
    family, name = ("adam", "Adam") if own is None else (own.kind.family, own.name)
    if not kind.keeps_moments or kind.family != family:
        raise UserError(
            f"{place}: the moments of {start.model} are those of {name}, and optimizer.name={config.optimizer.name} cannot go"
            " on with them: leave out --keep, or take an optimizer of its kind"
        )
    if start.keep == "step" and state.step >= config.total_steps:
        raise UserError(
            f"{place}: {start.model} is at step {state.step:,}, and this configuration ends at {config.total_steps:,}: raise"
            " phases.0.steps, or give --keep moments to begin at step 0"
        )
    return state


class StartingModel:
    """The model that a run begins with, as `train.pretraining.Beginning`."""

    def __init__(self, start: Start, record: JsonObject, model: Checkpoint | None = None):
        """Take what is recorded; `model` is opened where that was not done yet and its weights are needed."""
        self.start, self.record, self._model = start, record, model

    def state(self, training: Training[PretrainConfig], tokenizer: Tokenizer) -> TrainState:
        """Return the first state: the model's weights, drawn ones where it has none, and the moments that are kept.

        Raises:
          UserError: the model is gone, or not what it was when the run directory was made.
        """
        model = self._model or open_checkpoint(self.start.model, self.start.asked)
        entries = _entry_map(model, self.start, tokenizer, self.start.model)
        if self._model is None and weights_sha256(model, model) != self.record["weights_sha256"]:
            raise UserError(f"{self.start.model}: was changed since the run was begun: choose another --output")
        state, weights = training.initial_state(), flat(model.parameters())
        if entries is not None:
            for name in weights.keys() & set(_ROWS_OF_ENTRIES):
                weights[name] = entries.rows(np.asarray(weights[name]), _drawn(training, name, tokenizer.vocab_size))
        self._say(turned=training.config.model.causal and not model.description.model.causal)
        state = state.beginning_with(_replaced(state.params, weights))
        kept = _kept_optimizer(model, self.start, training.config)
        return state if kept is None else _with_moments(state, model, kept, self.start.keep == "step")

    def _say(self, turned: bool) -> None:
        record = self.record
        parts = [f"begins with the weights of {self.start.model} ({record['summary']})"]
        parts += [f"{what}: {', '.join(record[key])}" for key, what in _TOLD.items() if record[key]]
        if record["entries"] is not None:
            kept, means, drawn = (record["entries"][name] for name in ("kept", "means", "drawn"))
            parts.append(f"of the entries {kept:,} keep their rows, {means:,} are means of pieces, {drawn:,} are drawn")
        if record["keep"] is not None:
            parts.append("with the optimizer's moments" + (" at its step" if record["keep"] == "step" else ""))
        if turned:
            parts.append("it was bidirectional and goes on left to right: attention sees the past only from here on")
        say("; ".join(parts))


_TOLD = {"drawn": "drawn anew", "left_out": "left out, as this objective does not train them"}


def _drawn(training: Training[PretrainConfig], name: str, entries: int) -> np.ndarray:
    """Rows for new entries, [V, E], as `encoder.initial_weights` draws them; of the bias [V] zeros."""
    model = training.config.model
    if name.endswith("bias"):
        return np.zeros(entries, np.float32)
    key = jax.random.fold_in(training.key(INITIAL_WEIGHTS), zlib.crc32(name.encode()))
    draw = jax.nn.initializers.truncated_normal(model.initializer_range)
    return np.array(draw(key, (entries, model.table_size), np.float32))


def _replaced(tree: PyTree, arrays: Mapping[str, jax.Array | np.ndarray]) -> PyTree:
    """Return the tree with those of its arrays that are given, on the devices where they belong."""

    def of(name: str, leaf: jax.Array) -> jax.Array:
        return put_whole(np.asarray(arrays[name]), leaf.sharding) if name in arrays else leaf  # type: ignore[arg-type]

    return nested({name: of(name, leaf) for name, leaf in flat(tree).items()})


def _with_moments(state: TrainState, model: Checkpoint, kept: OptimizerState, at_step: bool) -> TrainState:
    """Return the state with moments, of what the model has, and at its step."""
    first = filled(model.description, lambda row: kept.moments(row)[0])
    second = filled(model.description, lambda row: kept.moments(row)[1])

    def count(leaf: jax.Array) -> jax.Array:
        return jax.device_put(np.asarray(kept.step, np.int32), leaf.sharding)

    def of(part: PyTree) -> PyTree:
        if isinstance(part, MomentsState):
            return MomentsState(count(part.updates), _replaced(part.mu, first), _replaced(part.nu, second))
        return part._replace(count=count(part.count)) if at_step and _counts(part) else part

    moved = jax.tree.map(of, state.opt_state, is_leaf=lambda part: isinstance(part, MomentsState) or _counts(part))
    return state._replace(opt_state=moved, step=count(state.step) if at_step else state.step)


def _counts(part: object) -> bool:
    return isinstance(part, optax.ScaleByScheduleState)
