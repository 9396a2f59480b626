# SPDX-License-Identifier: Apache-2.0
"""What can be configured: frozen dataclasses, checked on construction.

Every field carries its unit or its trap in `help`; `bert-jax pretrain --help` prints these. `settings.py` reads and
writes them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bert_jax.errors import UserError

HIDDEN_ACTIVATIONS = ("gelu_tanh", "gelu_erf")
OPTIMIZERS = ("adamw_bert", "adamw", "lamb")
COMPUTE_DTYPES = ("auto", "float32", "bfloat16")
REMAT_POLICIES = ("none", "dots", "full")
ATTENTIONS = ("auto", "reference", "xla", "pallas_tpu", "pallas_gpu", "cudnn")
FREEZES = ("none", "embeddings", "encoder")
MOST_LAYERS = 1_000  # of a model
MASKINGS = ("token", "whole_word", "span")
PACKINGS = ("padded", "packed", "buckets")


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default and the line that `--help` prints for it."""
    return dataclasses.field(default=default, metadata={"help": help})


def _require_positive(section: str, config: Any, name: str) -> None:
    value = getattr(config, name)
    if not 0 < value < math.inf:
        finite = " and finite" if value == math.inf else ""
        raise UserError(f"{dotted(section, name)}={value} must be more than 0{finite}")


def _require_not_negative(section: str, config: Any, name: str) -> None:
    if not 0 <= getattr(config, name) < math.inf:
        raise UserError(f"{dotted(section, name)}={getattr(config, name)} is not possible: use 0 or more")


def require_update(section: str, config: Any) -> None:
    """Refuse what no update of the parameters can be made with; pre-training and fine-tuning have these settings both.

    Args:
      section: that they stand in, so that they are named as the user gave them.
      config: has weight_decay, clip_norm, layer_decay and freeze.
    """
    for name in ("weight_decay", "clip_norm"):
        _require_not_negative(section, config, name)
    if not 0 < config.layer_decay <= 1:
        raise UserError(f"{dotted(section, 'layer_decay')}={config.layer_decay} must be more than 0 and at most 1")
    if config.freeze not in FREEZES and not config.freeze.isdecimal():
        raise UserError(
            f"{dotted(section, 'freeze')}={config.freeze} is not known: use {', '.join(FREEZES)} or a number of layers"
        )


def _require_share(section: str, config: Any, name: str, below_one: bool = False) -> None:
    value = getattr(config, name)
    if not (0 <= value < 1 or (value == 1 and not below_one)):
        bound = "at least 0 and less than 1" if below_one else "from 0 to 1"
        raise UserError(f"{dotted(section, name)}={value} must be {bound}")


def _require_choice(section: str, config: Any, name: str, choices: Sequence[str]) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise UserError(f"{dotted(section, name)}={value} is not known: choose one of {', '.join(choices)}")


def dotted(section: str, name: str) -> str:
    """`section.name`, or `name` alone in the outermost section."""
    return f"{section}.{name}" if section else name


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a BERT encoder; the names are those of Google's bert_config.json. Defaults: BERT-base, uncased."""

    vocab_size: int = setting(30_522, "rows of the word embedding; at least the entries of the vocabulary")
    hidden_size: int = setting(768, "features; divisible by num_attention_heads")
    num_hidden_layers: int = setting(12, f"layers, {MOST_LAYERS:,} at most")
    num_attention_heads: int = setting(12, "heads; the head size is hidden_size / num_attention_heads")
    intermediate_size: int = setting(3_072, "features inside the feed-forward layer; 4 x hidden_size in the paper")
    max_position_embeddings: int = setting(512, "rows of the position table; the longest sequence, in tokens")
    type_vocab_size: int = setting(2, "rows of the segment (token type) table")
    hidden_act: str = setting(
        "gelu_tanh", "gelu_tanh (google-research/bert) or gelu_erf (Hugging Face's 'gelu'); they differ by up to 5e-4"
    )
    hidden_dropout_prob: float = setting(0.1, "dropout of embeddings and of each sub-layer's output")
    attention_probs_dropout_prob: float = setting(0.1, "dropout of attention probabilities")
    initializer_range: float = setting(0.02, "standard deviation of the truncated normal that weights start from")
    layer_norm_eps: float = setting(1e-12, "epsilon of LayerNorm, inside the square root")
    tie_word_embeddings: bool = setting(True, "use the word embedding as the MLM output matrix")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            _require_positive("model", self, name)
        for name in ("max_position_embeddings", "type_vocab_size", "initializer_range", "layer_norm_eps"):
            _require_positive("model", self, name)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            _require_share("model", self, name, below_one=True)
        _require_choice("model", self, "hidden_act", HIDDEN_ACTIVATIONS)
        if self.num_hidden_layers > MOST_LAYERS:
            raise UserError(f"model.num_hidden_layers={self.num_hidden_layers} is more than {MOST_LAYERS:,}: use fewer")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model.hidden_size={self.hidden_size} is not divisible by"
                f" model.num_attention_heads={self.num_attention_heads}: change one of them"
            )

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def require_segments(self, segments: int, what: str, remedy: str) -> None:
        """Refuse rows of more segments than the table has rows: a look-up beyond its end would give the last one's.

        Args:
          segments: that the rows have.
          what: they are, and has them ("train.tsv, line 2").
          remedy: what the user can do at this place.

        Raises:
          UserError: there are more than `type_vocab_size`.
        """
        if segments > self.type_vocab_size:
            raise UserError(
                f"{what} has {segments} segments, and the model knows {self.type_vocab_size}"
                f" (type_vocab_size={self.type_vocab_size}): {remedy}"
            )


def _shape(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }


MODEL_SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _shape(2, 128, 2),
    "mini": _shape(4, 256, 4),
    "small": _shape(4, 512, 8),
    "medium": _shape(8, 512, 8),
    "base": _shape(12, 768, 12),
    "large": _shape(24, 1024, 16),
    # The size table of the paper (its table 6), written layers x hidden x heads.
    "3x768x12": _shape(3, 768, 12),
    "6x768x3": _shape(6, 768, 3),
    "6x768x12": _shape(6, 768, 12),
    "12x768x12": _shape(12, 768, 12),
    "12x1024x16": _shape(12, 1024, 16),
    "24x1024x16": _shape(24, 1024, 16),
}


class Objective(NamedTuple):
    """A row of the table of objectives."""

    examples: str  # which examples of the prepared data it trains on; see `bert_jax.prepare.instances`
    pair_label: str | None  # what the label of a pair says, where it is predicted


OBJECTIVES: Mapping[str, Objective] = {
    "mlm_nsp": Objective("nsp", "next sentence"),  # BERT
    "mlm_pairs": Objective("nsp", None),  # "No NSP" of the paper's ablation: the same rows, their label not predicted
    "mlm_sop": Objective("sop", "sentence order"),  # ALBERT (1909.11942)
    "mlm_full_sentences": Objective("full_sentences", None),  # RoBERTa (1907.11692), rows go across documents
    "mlm_document": Objective("document", None),  # RoBERTa's doc-sentences: rows stay inside a document
}


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is predicted. Of the picked tokens `mask_share` become [MASK], `random_share` a random id, the rest stay."""

    name: str = setting(
        "mlm_nsp", "mlm_nsp, mlm_pairs (NSP's rows, label not predicted), mlm_sop, mlm_full_sentences or mlm_document"
    )
    masking: str = setting("token", "what is picked as one: token, whole_word, or span of words (geometric lengths)")
    mlm_probability: float = setting(0.15, "share of tokens that are picked and predicted")
    mlm_probability_end: float | None = setting(
        None, "none: that share stays; a number: it goes there in a straight line, reached at the last step of the run"
    )
    mask_share: float = setting(0.8, "share of picked tokens replaced by [MASK]")
    random_share: float = setting(0.1, "share of picked tokens replaced by a random entry of the vocabulary")
    span_end_probability: float = setting(
        0.2, "masking=span: probability that a span ends after a word (SpanBERT: 0.2)"
    )
    longest_span: int = setting(10, "masking=span: words of a span at most (SpanBERT: 10)")

    def __post_init__(self) -> None:
        _require_choice("objective", self, "name", tuple(OBJECTIVES))
        _require_choice("objective", self, "masking", MASKINGS)
        for name in ("mlm_probability", "mask_share", "random_share", "span_end_probability"):
            _require_share("objective", self, name)
        if self.mlm_probability_end is not None:
            _require_share("objective", self, "mlm_probability_end")
            _require_positive("objective", self, "mlm_probability_end")
        for name in ("mlm_probability", "span_end_probability", "longest_span"):
            _require_positive("objective", self, name)
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise UserError(
                f"objective.mask_share={self.mask_share} and objective.random_share={self.random_share} add up to"
                " more than 1: lower one of them"
            )

    @property
    def examples(self) -> str:
        """Which examples of the prepared data are trained on."""
        return OBJECTIVES[self.name].examples

    @property
    def nsp(self) -> bool:
        """Whether the label of a pair is predicted: next sentence (NSP) or sentence order (SOP)."""
        return OBJECTIVES[self.name].pair_label is not None

    @property
    def highest_probability(self) -> float:
        """The largest share of tokens that is picked in the course of the run."""
        return max(self.mlm_probability, self.mlm_probability_end or 0.0)

    def probability_at(self, step: float, total_steps: int) -> float:
        """The share of tokens that is picked in step `step` (from 0) of the run."""
        if self.mlm_probability_end is None:
            return self.mlm_probability
        progress = step / max(total_steps - 1, 1)
        return self.mlm_probability + (self.mlm_probability_end - self.mlm_probability) * progress


@dataclass(frozen=True)
class PhaseConfig:
    """A stretch of training at one sequence length."""

    sequence_length: int = setting(128, "tokens in a row")
    steps: int = setting(900_000, "optimizer steps")
    batch_size: int = setting(256, "global batch, in sequences; divisible by micro_batches x data x fsdp")
    max_predictions_per_seq: int = setting(20, "masked positions kept in a row; at least mlm_probability x length")
    learning_rate: float | None = setting(None, "none: the schedule goes on; a number: it starts anew at this peak")
    warmup_steps: int | None = setting(None, "steps of warm-up where the schedule starts anew")

    def __post_init__(self) -> None:
        for name in ("sequence_length", "steps", "batch_size", "max_predictions_per_seq"):
            _require_positive("phases", self, name)
        if self.sequence_length < 8:
            raise UserError(f"phases.sequence_length={self.sequence_length} is too short: use at least 8")
        if (self.learning_rate is None) != (self.warmup_steps is None):
            raise UserError("phases.learning_rate and phases.warmup_steps go together: set both or neither")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"phases.learning_rate={self.learning_rate} must be more than 0 and finite")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise UserError(f"phases.warmup_steps={self.warmup_steps} is negative: use 0 or more")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule: linear warm-up from 0, then linear decay to 0 at the last step."""

    name: str = setting(
        "adamw_bert", "adamw_bert (no bias correction, as the original), adamw (with bias correction) or lamb"
    )
    learning_rate: float = setting(1e-4, "peak")
    warmup_steps: int = setting(10_000, "steps")
    weight_decay: float = setting(0.01, "decoupled; not applied to LayerNorm and biases")
    b1: float = setting(0.9, "decay of the first moment")
    b2: float = setting(0.999, "decay of the second moment")
    eps: float = setting(1e-6, "added to the square root of the second moment")
    clip_norm: float = setting(1.0, "largest global norm of the gradient; 0: no clipping")
    layer_decay: float = setting(
        1.0, "what the rate of a layer is multiplied by for each layer above it; 1: all learn alike"
    )
    freeze: str = setting(
        "none", "none, embeddings, encoder, or a number: the embeddings and as many of the lowest layers"
    )

    def __post_init__(self) -> None:
        _require_choice("optimizer", self, "name", OPTIMIZERS)
        for name in ("learning_rate", "eps"):
            _require_positive("optimizer", self, name)
        for name in ("b1", "b2"):
            _require_share("optimizer", self, name, below_one=True)
        _require_not_negative("optimizer", self, "warmup_steps")
        require_update("optimizer", self)


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; one of them may be -1: all devices that are left."""

    data: int = setting(-1, "copies of the parameters, each on its own rows of the batch")
    fsdp: int = setting(1, "parameters, optimizer state and rows cut over this many devices")
    tensor: int = setting(1, "heads, feed-forward features and vocabulary cut over this many devices")
    dcn: int = setting(1, "slices or nodes joined by a slower network: as `data`, and the outermost axis")

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise UserError(f"mesh sizes {self} are not possible: use numbers from 1, and -1 at most once")

    def __str__(self) -> str:
        """As on the command line; `dcn` where it is used."""
        sizes = {"data": self.data, "fsdp": self.fsdp, "tensor": self.tensor}
        if self.dcn != 1:
            sizes = {"dcn": self.dcn, **sizes}
        return ", ".join(f"{axis}={size}" for axis, size in sizes.items())


@dataclass(frozen=True)
class SchedulePart:
    """A warm-up to `learning_rate` and the decay after it."""

    begin: int  # first step
    steps: int
    learning_rate: float  # peak
    warmup_steps: int


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run. Defaults: BERT-base with the paper's recipe."""

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    phases: tuple[PhaseConfig, ...] = (
        PhaseConfig(sequence_length=128, steps=900_000, max_predictions_per_seq=20),
        PhaseConfig(sequence_length=512, steps=100_000, max_predictions_per_seq=77),
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    seed: int = setting(0, "of initial weights, order of examples, masks and dropout")
    packing: str = setting(
        "padded",
        "padded (an example a row), packed (several a row, apart in attention) or buckets (rows of like length)",
    )
    examples_per_row: int = setting(4, "packing=packed: examples in a row at most")
    buckets: int = setting(4, "packing=buckets: row lengths that are compiled for, evenly up to sequence_length")
    micro_batches: int = setting(1, "parts a batch is computed in, one after the other, to save memory")
    compute_dtype: str = setting(
        "auto",
        "float32, bfloat16, or auto: bfloat16 on TPU and GPU; parameters, softmax, LayerNorm and loss stay float32",
    )
    remat: str = setting("none", "recompute in the backward pass: none, dots (all but matrix products), full (a layer)")
    scan_layers: bool = setting(True, "compile one layer and loop (false: unroll, slower to compile)")
    attention: str = setting("auto", f"implementation of attention: {', '.join(ATTENTIONS)}")
    log_every: int = setting(100, "steps between two lines of metrics.jsonl")
    eval_every: int = setting(10_000, "steps between two evaluations on held-out data; 0: at the end only")
    eval_batches: int = setting(50, "batches of an evaluation at most")
    save_every: int = setting(1_000, "steps between two checkpoints; the last step is always saved")
    keep_checkpoints: int = setting(3, "newest checkpoints that are kept")

    def __post_init__(self) -> None:
        if not self.phases:
            raise UserError("phases is empty: a run needs at least one phase")
        for name in ("micro_batches", "log_every", "eval_batches", "save_every", "keep_checkpoints"):
            _require_positive("", self, name)
        for name in ("examples_per_row", "buckets"):
            _require_positive("", self, name)
        _require_choice("", self, "packing", PACKINGS)
        _require_choice("", self, "compute_dtype", COMPUTE_DTYPES)
        _require_choice("", self, "remat", REMAT_POLICIES)
        _require_choice("", self, "attention", ATTENTIONS)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} is out of range: use 0 to 4294967295")
        if self.eval_every < 0:
            raise UserError(f"eval_every={self.eval_every} is negative: use 0 or more")
        for number, phase in enumerate(self.phases):
            self._check_phase(number, phase)
        for part in self.schedule_parts():
            if part.warmup_steps >= part.steps:
                raise UserError(
                    f"a warm-up of {part.warmup_steps} steps never ends in the {part.steps} steps of its schedule: lower"
                    " optimizer.warmup_steps (or phases.N.warmup_steps)"
                )

    def schedule_parts(self) -> list["SchedulePart"]:
        """The stretches that the learning rate rises and falls over: one, or more where phases start it anew."""
        optimizer = self.optimizer
        parts = [SchedulePart(0, 0, optimizer.learning_rate, optimizer.warmup_steps)]
        for phase in self.phases:
            last = parts[-1]
            if phase.learning_rate is not None:
                last = SchedulePart(last.begin + last.steps, 0, phase.learning_rate, phase.warmup_steps or 0)
                parts.append(last)
            parts[-1] = dataclasses.replace(last, steps=last.steps + phase.steps)
        return [part for part in parts if part.steps]

    def _check_phase(self, number: int, phase: PhaseConfig) -> None:
        if phase.sequence_length > self.model.max_position_embeddings:
            raise UserError(
                f"phases.{number}.sequence_length={phase.sequence_length} is beyond the position table of"
                f" model.max_position_embeddings={self.model.max_position_embeddings}: shorten the sequences or"
                f" set model.max_position_embeddings={phase.sequence_length}"
            )
        if phase.batch_size % self.micro_batches:
            raise UserError(
                f"phases.{number}.batch_size={phase.batch_size} is not divisible by"
                f" micro_batches={self.micro_batches}: change one of them"
            )
        share = self.objective.highest_probability
        needed = round(share * phase.sequence_length)
        why = ""
        if self.packing == "packed":
            # Each example's count is rounded by itself, and is at least 1.
            needed = math.ceil(share * phase.sequence_length) + self.examples_per_row
            why = f" in up to {self.examples_per_row} examples"
        if not min(needed, phase.sequence_length) <= phase.max_predictions_per_seq <= phase.sequence_length:
            raise UserError(
                f"phases.{number}.max_predictions_per_seq={phase.max_predictions_per_seq} does not hold the"
                f" {share:.0%} of phases.{number}.sequence_length={phase.sequence_length} that are predicted{why}: set"
                f" phases.{number}.max_predictions_per_seq={min(max(needed, 1), phase.sequence_length)}"
            )

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[int, int]:
        """The phase that step `step` (from 0) belongs to, and the step that phase begins with."""
        begin = 0
        for number, phase in enumerate(self.phases):
            if step < begin + phase.steps:
                return number, begin
            begin += phase.steps
        raise ValueError(f"step {step} is beyond the last step of the run, {self.total_steps - 1}")
