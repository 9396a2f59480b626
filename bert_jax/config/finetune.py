# SPDX-License-Identifier: Apache-2.0
"""What can be configured of fine-tuning. Defaults: the paper's recipe; `none` stands for what the task's table says."""

from dataclasses import dataclass, fields

from bert_jax.config.description import COMBINATIONS, FUSIONS
from bert_jax.config.fields import setting
from bert_jax.config.model import ModelConfig
from bert_jax.config.training import (
    ATTENTIONS,
    COMPUTE_DTYPES,
    MeshConfig,
    OptimizerConfig,
    REMAT_POLICIES,
    require_update,
    SchedulePart,
)
from bert_jax.errors import UserError

TOO_LONG = ("error", "truncate", "windows")
NORMALISATIONS = ("nbest", "window", "question")
BROKEN_TAGS = ("repair", "refuse")
UNKNOWN_LABELS = ("refuse", "error", "ignore")
# Settings that act in some kinds of task only; in the others they are refused where they are set.
ACTS_IN = {
    "unknown_labels": ("classification", "tagging"),
    "fusion": ("classification", "multi_label", "regression"),
    **dict.fromkeys(("max_query_length", "max_answer_length", "n_best", "normalisation"), ("span",)),
    **dict.fromkeys(("broken_tags", "tag_scheme", "constrained"), ("tagging",)),
}
UNROLLED_ON_CPU = 6  # layers: 4 of 128 train 1.2 to 1.5 times as fast as in a loop, and compile as long


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuned run: task, data and first weights are named apart from it."""

    seed: int = setting(0, "of the head's first weights, order of examples and dropout")
    learning_rate: float | None = setting(None, "peak (none: the task's)")
    batch_size: int | None = setting(None, "examples of a step; rows of questions and of tagging (none: the task's)")
    epochs: float | None = setting(None, "times that every example is seen (none: the task's)")
    warmup_share: float = setting(0.1, "of all steps, in which the rate rises from 0; it falls to 0 in the others")
    bias_correction: bool = setting(
        True, "Adam as published; false: the original's, which fails on small tasks more often"
    )
    weight_decay: float = setting(0.01, "decoupled; not applied to LayerNorm and biases")
    clip_norm: float = setting(1.0, "largest global norm of the gradient; 0: no clipping")
    layer_decay: float = setting(
        1.0, "what the rate of a layer is multiplied by for each layer above it; 1: all learn alike"
    )
    freeze: str = setting("none", "none, embeddings, encoder (features alone), or a number of the lowest layers")
    max_length: int | None = setting(None, "tokens of a row (none: the task's)")
    too_long: str | None = setting(
        None,
        "error, truncate (counted), or windows that overlap (none: truncate; windows for questions and tagging)",
    )
    single_segment: bool = setting(
        False, "both texts of a pair are segment 0 and [SEP] alone parts them, for a model with type_vocab_size=1"
    )
    stride: int | None = setting(
        None, "tokens between the beginnings of two windows (none: the task's, or half a window)"
    )
    max_query_length: int = setting(64, "tokens of a question; the rest is cut, and counted")
    max_answer_length: int = setting(30, "tokens of an answer")
    n_best: int = setting(20, "answers of a question that are kept")
    normalisation: str = setting(
        "nbest",
        "probabilities of answers: over the listed ones, over each window, or over all windows of a question (trained so too)",
    )
    broken_tags: str = setting(
        "repair", "tags that break their scheme: repair (as conlleval reads them; counted) or refuse"
    )
    unknown_labels: str = setting(
        "refuse",
        "labels and tags that only dev or test has: refuse, error (scored as mistakes), ignore (not scored); both counted",
    )
    tag_scheme: str | None = setting(None, "that the network learns: IOB1, IOB2, IOBES, ... (none: the file's)")
    constrained: bool = setting(False, "tags are decoded so that none breaks the scheme (Viterbi)")
    layers: str = setting("", "that the head reads, such as -4,-3,-2,-1; 0: the embeddings (nothing: the last)")
    combine: str = setting("concat", "of several layers: concat, sum, mean, or mix (a sum with learned weights)")
    lstm: int = setting(0, "features of each direction of a BiLSTM below the head; 0: none")
    fusion: str = setting("mean", "of the windows of a text: mean, max, or attention (a mean with learned weights)")
    mesh: MeshConfig = MeshConfig()  # frozen
    compute_dtype: str = setting("auto", "float32, bfloat16, or auto: bfloat16 on TPU and GPU")
    remat: str = setting("none", "recompute in the backward pass: none, dots (all but matrix products), full (a layer)")
    scan_layers: bool | None = setting(
        None, f"compile one layer and loop; false: unroll (none: false for up to {UNROLLED_ON_CPU} layers on a CPU)"
    )
    attention: str = setting("auto", f"implementation of attention: {', '.join(ATTENTIONS)}")
    buckets: int = setting(4, "row lengths that are compiled for, chosen so that little is padded")
    micro_batches: int = setting(1, "parts a batch is computed in, one after the other, to save memory")
    log_every: int = setting(50, "steps between two lines of metrics.jsonl")
    evals_per_epoch: int = setting(1, "evaluations of the dev split in an epoch")
    save_every: int | None = setting(None, "steps between two checkpoints (none: one at each evaluation)")
    keep_checkpoints: int = setting(1, "newest checkpoints that are kept")

    def __post_init__(self) -> None:
        self._check_numbers()
        choices = {
            "too_long": (*TOO_LONG, None),
            "normalisation": NORMALISATIONS,
            "broken_tags": BROKEN_TAGS,
            "unknown_labels": UNKNOWN_LABELS,
            "compute_dtype": COMPUTE_DTYPES,
            "remat": REMAT_POLICIES,
            "attention": ATTENTIONS,
            "combine": COMBINATIONS,
            "fusion": FUSIONS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                words = ", ".join("none" if choice is None else choice for choice in known)
                raise UserError(f"{name}={getattr(self, name)} is not known: choose one of {words}")
        _ = self.chosen_layers  # refuses what is no list of numbers

    def require_effect(self, kind: str) -> None:
        """Refuse settings that would do nothing in a task of this kind.

        Raises:
          UserError: names one.
        """
        changed = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        for name, kinds in ACTS_IN.items():
            if name in changed and kind not in kinds:
                raise UserError(f"{name} is for {', '.join(kinds)} and does nothing in {kind}: leave it out")
        windows = self.too_long == "windows" or (self.too_long is None and kind in ("span", "tagging"))
        for name in ("stride", "fusion"):
            if name in changed and not windows:
                raise UserError(f"{name} is of windows, and long texts are not cut into such: add too_long=windows")
        if "combine" in changed and not self.chosen_layers:
            raise UserError("combine is of several layers, and none are named: add layers=-4,-3,-2,-1")

    def _check_numbers(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} is out of range: use 0 to 4294967295")
        if not 0 <= self.warmup_share < 1:
            raise UserError(f"warmup_share={self.warmup_share} must be at least 0 and less than 1")
        for name in (
            "learning_rate",
            "batch_size",
            "epochs",
            "stride",
            "max_query_length",
            "max_answer_length",
            "n_best",
            "save_every",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name}={value} must be more than 0")
        for name in ("buckets", "micro_batches", "log_every", "evals_per_epoch", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be at least 1")
        if self.max_length is not None and self.max_length < 8:
            raise UserError(f"max_length={self.max_length} is too short: use at least 8")
        if self.lstm < 0:
            raise UserError(f"lstm={self.lstm} is negative: use 0 for none")
        require_update("", self)

    @property
    def chosen_layers(self) -> tuple[int, ...]:
        """`layers` as numbers.

        Raises:
          UserError: it is no list of numbers.
        """
        try:
            return tuple(int(part) for part in self.layers.replace(",", " ").split())
        except ValueError:
            raise UserError(f"layers={self.layers} is no list of numbers: write -4,-3,-2,-1") from None

    def optimizer_with(self, learning_rate: float) -> OptimizerConfig:
        """The optimizer at a rate. Without bias correction small tasks fail more often: 2006.05987, section 4."""
        return OptimizerConfig(
            name="adamw" if self.bias_correction else "adamw_bert",
            learning_rate=learning_rate,
            warmup_steps=0,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            layer_decay=self.layer_decay,
            freeze=self.freeze,
        )


@dataclass(frozen=True)
class ResolvedConfig:
    """A fine-tuned run with everything known: what `train_state.Training` asks for."""

    settings: FinetuneConfig  # without a `none` that the task's table fills
    model: ModelConfig
    total_steps: int
    steps_per_epoch: int
    compute_dtype: str
    platform: str  # of the devices, as JAX names it

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.settings.seed

    @property
    def micro_batches(self) -> int:
        """See `FinetuneConfig`."""
        return self.settings.micro_batches

    @property
    def log_every(self) -> int:
        """See `FinetuneConfig`."""
        return self.settings.log_every

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations."""
        return max(1, -(-self.steps_per_epoch // self.settings.evals_per_epoch))

    @property
    def save_every(self) -> int:
        """Steps between two checkpoints."""
        return self.settings.save_every or self.eval_every

    @property
    def keep_checkpoints(self) -> int:
        """See `FinetuneConfig`."""
        return self.settings.keep_checkpoints

    @property
    def remat(self) -> str:
        """See `FinetuneConfig`."""
        return self.settings.remat

    @property
    def scan_layers(self) -> bool:
        """See `FinetuneConfig`."""
        if self.settings.scan_layers is not None:
            return self.settings.scan_layers
        return self.platform != "cpu" or self.model.num_hidden_layers > UNROLLED_ON_CPU

    @property
    def attention(self) -> str:
        """See `FinetuneConfig`."""
        return self.settings.attention

    @property
    def optimizer(self) -> OptimizerConfig:
        """See `FinetuneConfig`."""
        assert self.settings.learning_rate is not None
        return self.settings.optimizer_with(self.settings.learning_rate)

    def schedule_parts(self) -> list[SchedulePart]:
        """Warm-up, then linear decay: run_classifier.py's `int(num_train_steps * warmup_proportion)`."""
        rate, warmup = self.optimizer.learning_rate, int(self.total_steps * self.settings.warmup_share)
        return [SchedulePart(0, self.total_steps, rate, warmup)]
