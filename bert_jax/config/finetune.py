# SPDX-License-Identifier: Apache-2.0
"""Settings of fine-tuning. Defaults: the paper's recipe; `none` stands for what the task's table says."""

import dataclasses
import re
from dataclasses import dataclass
from typing import Self

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.description import COMBINATIONS, FUSIONS
from bert_jax.config.fields import require_choice, require_not_negative, require_positive, setting, with_default
from bert_jax.config.model import ModelConfig
from bert_jax.config.training import OptimizerConfig, OptimizerSettings, RunConfig, TrainingConfig

TOO_LONG = ("error", "truncate", "windows")
NORMALISATIONS = ("nbest", "window", "question")
PACKINGS = ("packed", "buckets")
# Kinds of task whose rows may hold several examples.
PACKED = ("classification", "multi_label", "regression", "tagging")
BROKEN_TAGS = ("repair", "refuse")
UNKNOWN_LABELS = ("refuse", "error", "ignore")
# Settings that act in some kinds of task only; in the others they are refused where they are set.
ACTS_IN = {
    "unknown_labels": ("classification", "tagging"),
    "fusion": ("classification", "multi_label", "regression"),
    **dict.fromkeys(("max_query_length", "max_answer_length", "n_best", "normalisation"), ("span",)),
    **dict.fromkeys(("broken_tags", "tag_scheme", "constrained"), ("tagging",)),
}
# Settings that stood by themselves before they were those of pre-training: finetune.json of earlier runs has them so.
OPTIMIZER_SETTINGS = ("learning_rate", "warmup_share", "weight_decay", "clip_norm", "layer_decay", "freeze")
# How pre-training calls a setting, every number a 0 -> how fine-tuning does.
PRETRAINING_NAMES = {
    "eval_every": "evals_per_epoch",
    **dict.fromkeys(
        (f"distill.{name}" for name in ("hidden", "hidden_size", "relations", "relation_heads")), "distill.soft"
    ),
    "model": "--model",
    "phases.0.batch_size": "batch_size",
    "phases.0.sequence_length": "max_length",
    "phases.0.steps": "epochs",
    "phases.0.learning_rate": "optimizer.learning_rate",
    "phases.0.warmup_steps": "optimizer.warmup_steps",
}


@dataclass(frozen=True)
class FinetuneConfig(TrainingConfig):
    """One fine-tuned run: task, data and first weights are named apart from it."""

    # Adam with bias correction: without it small tasks fail more often (2006.05987, section 4).
    optimizer: OptimizerSettings = OptimizerSettings(
        name="adamw", learning_rate=None, warmup_steps=None, warmup_share=0.1
    )
    batch_size: int | None = setting(None, "examples of a step; rows of questions and of tagging (none: the task's)")
    epochs: float | None = setting(None, "times that every example is seen (none: the task's)")
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
    scan_layers: bool | None = with_default(TrainingConfig, "scan_layers", None)
    packing: str | None = setting(
        None,
        "packed (several examples in a row, each by itself) or buckets (none: packed where the task's head allows it)",
    )
    buckets: int = setting(4, "of packing=buckets: row lengths that are compiled for, chosen so that little is padded")
    log_every: int = with_default(TrainingConfig, "log_every", 50)
    evals_per_epoch: int = setting(1, "evaluations of the dev split in an epoch")
    save_every: int | None = with_default(TrainingConfig, "save_every", None)
    keep_checkpoints: int = with_default(TrainingConfig, "keep_checkpoints", 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batch_size", "epochs", "stride"):
            if getattr(self, name) is not None:
                require_positive("", self, name)
        for name in ("max_query_length", "max_answer_length", "n_best", "buckets", "evals_per_epoch"):
            require_positive("", self, name)
        if self.max_length is not None and self.max_length < 8:
            raise UserError(f"max_length={self.max_length} is too short: use at least 8")
        require_not_negative("", self, "lstm")
        require_choice("", self, "too_long", (*TOO_LONG, None))
        require_choice("", self, "normalisation", NORMALISATIONS)
        require_choice("", self, "broken_tags", BROKEN_TAGS)
        require_choice("", self, "unknown_labels", UNKNOWN_LABELS)
        require_choice("", self, "packing", (*PACKINGS, None))
        require_choice("", self, "combine", COMBINATIONS)
        require_choice("", self, "fusion", FUSIONS)
        _ = self.chosen_layers  # refuses what is no list of numbers

    @classmethod
    def spelling(cls, key: str) -> str | None:
        """Return how fine-tuning calls a setting of pre-training, or one of its own that stood elsewhere before."""
        if key == "bias_correction":
            return "optimizer.name=adamw (with) or adamw_bert (without)"
        plain = re.sub(r"\.\d+\.", ".0.", key)
        if plain in PRETRAINING_NAMES:
            return PRETRAINING_NAMES[plain]
        names = {field.name for field in dataclasses.fields(OptimizerSettings)}
        return f"optimizer.{key}" if key in names else None

    def require_effect(self, kind: str) -> None:
        """Refuse settings that would do nothing in a task of this kind.

        Raises:
          UserError: names one.
        """
        changed = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default}
        for name, kinds in ACTS_IN.items():
            if name in changed and kind not in kinds:
                raise UserError(f"{name} is for {', '.join(kinds)} and does nothing in {kind}: leave it out")
        windows = self.too_long == "windows" or (self.too_long is None and kind in ("span", "tagging"))
        for name in ("stride", "fusion"):
            if name in changed and not windows:
                raise UserError(f"{name} is of windows, and long texts are not cut into such: add too_long=windows")
        if self.packing == "packed" and kind not in PACKED:
            raise UserError(
                f"packing=packed is for {', '.join(PACKED)}, and a row of {kind} is by itself: leave it out"
            )
        if "buckets" in changed and self.packing != "buckets" and kind in PACKED:
            raise UserError(
                "buckets is of rows of like length, and here a row holds several examples: add packing=buckets"
            )
        if "combine" in changed and not self.chosen_layers:
            raise UserError("combine is of several layers, and none are named: add layers=-4,-3,-2,-1")

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


@dataclass(frozen=True)
class FinetuneRecipe:
    """A recipe in configs/finetune.py: what `bert-jax finetune NAME` fine-tunes on, and with which settings.

    task: a name of the table of tasks, or "own", whose files options describe.
    note: what was measured with it, a line of `bert-jax finetune --help`.
    """

    task: str
    config: FinetuneConfig = FinetuneConfig()
    note: str = ""


def current_settings(values: JsonObject) -> JsonObject:
    """Return the settings that a finetune.json holds under their present names, whichever version wrote it."""
    values = {"packing": "buckets"} | values  # all that there was
    if "optimizer" in values:
        return values
    current = {name: value for name, value in values.items() if name not in (*OPTIMIZER_SETTINGS, "bias_correction")}
    optimizer = {name: values[name] for name in OPTIMIZER_SETTINGS if name in values}
    name = "adamw" if values.get("bias_correction", True) else "adamw_bert"
    default = dataclasses.asdict(FinetuneConfig().optimizer)
    return {**current, "optimizer": {**default, "name": name, **optimizer}}


def current_assignment(assignment: str) -> str:
    """Return KEY=VALUE as scripts for earlier versions have it under its present name; any other as it is."""
    key, _, value = assignment.partition("=")
    if key in OPTIMIZER_SETTINGS:
        return f"optimizer.{assignment}"
    if key == "bias_correction" and value.lower() in ("true", "false"):
        return f"optimizer.name={'adamw' if value.lower() == 'true' else 'adamw_bert'}"
    return assignment


@dataclass(frozen=True)
class ResolvedConfig(FinetuneConfig, RunConfig):
    """A fine-tuned run with everything known that the task, the data and the model fill in."""

    optimizer: OptimizerConfig = OptimizerConfig()
    model: ModelConfig = ModelConfig()
    epochs: float = with_default(FinetuneConfig, "epochs", 3.0)
    steps_per_epoch: int = 1

    @classmethod
    def of(cls, settings: FinetuneConfig, model: ModelConfig, steps_per_epoch: int = 1) -> Self:
        """Return these settings, which have the task's numbers by now, for a model and the steps of an epoch."""
        known = {
            "optimizer": OptimizerConfig.of(settings.optimizer),
            "model": model,
            "steps_per_epoch": steps_per_epoch,
        }
        return cls(**(vars(settings) | known))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run, as run_classifier.py counts them: int(steps of an epoch * epochs)."""
        return max(1, int(self.steps_per_epoch * self.epochs))

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations."""
        return max(1, -(-self.steps_per_epoch // self.evals_per_epoch))
