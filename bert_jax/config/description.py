# SPDX-License-Identifier: Apache-2.0
"""The description of a model: the encoder's shape and the heads on it. Kept as model.json beside a checkpoint."""

from dataclasses import dataclass

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.fields import build, to_dict
from bert_jax.config.model import ModelConfig

# What a head predicts, and from what: the [CLS] of an example through the pooler, or every token.
TASKS = {
    "classification": "pooled",
    "multi_label": "pooled",  # any number of the classes is right: a sigmoid for each
    "regression": "pooled",
    "choice": "pooled",  # a score for each choice; the choices of a question are examples of their own
    "span": "tokens",  # scores of a token as the first and as the last of an answer
    "tagging": "tokens",
}


COMBINATIONS = ("concat", "sum", "mean", "mix")
FUSIONS = ("mean", "max", "attention")


@dataclass(frozen=True)
class TaskHead:
    """A fine-tuned head: a dense layer on the encoder, and what may stand between."""

    kind: str  # one of TASKS
    outputs: int  # regression, choice: 1; span: 2
    labels: tuple[str, ...] = ()  # names of the outputs, where they have names
    layers: tuple[int, ...] = ()  # that it reads: 0 the embeddings, -1 the last; (): the last, or the pooler's output
    combine: str = "concat"  # of several layers; mix: a sum with learned weights (ELMo, 1802.05365, equation 1)
    lstm: int = 0  # features of each direction of a BiLSTM before the dense layer; 0: none
    fusion: str = "mean"  # of the windows of a text; attention: a mean with learned weights

    def __post_init__(self) -> None:
        if self.kind not in TASKS:
            raise UserError(f"task.kind={self.kind} is not known: choose one of {', '.join(TASKS)}")
        fixed = {"regression": 1, "choice": 1, "span": 2}.get(self.kind)
        if self.outputs < 1 or (fixed is not None and self.outputs != fixed):
            raise UserError(
                f"task.outputs={self.outputs} is not possible for {self.kind}: it has {fixed or '1 or more'}"
            )
        if self.labels and len(self.labels) != self.outputs:
            raise UserError(f"task.labels names {len(self.labels)} outputs, and task.outputs={self.outputs}")
        for name, value, choices in (("combine", self.combine, COMBINATIONS), ("fusion", self.fusion, FUSIONS)):
            if value not in choices:
                raise UserError(f"task.{name}={value} is not known: choose one of {', '.join(choices)}")
        if self.lstm < 0:
            raise UserError(f"task.lstm={self.lstm} is negative: use 0 for none")

    @property
    def is_pooled(self) -> bool:
        """Whether it predicts of an example, not of tokens."""
        return TASKS[self.kind] == "pooled"

    @property
    def needs_pooler(self) -> bool:
        """Whether it reads the pooler's output."""
        return self.is_pooled and not self.layers and not self.lstm

    def lstm_inputs(self, hidden_size: int) -> int:
        """Features that the BiLSTM, or without one the dense layer, reads of a token."""
        return hidden_size * (len(self.layers) if self.layers and self.combine == "concat" else 1)

    def width(self, hidden_size: int) -> int:
        """Features that the dense layer reads."""
        return 2 * self.lstm or self.lstm_inputs(hidden_size)

    @property
    def is_plain(self) -> bool:
        """Whether it is a dense layer alone, which other formats have too."""
        return not self.layers and not self.lstm and not (self.is_pooled and self.fusion == "attention")


@dataclass(frozen=True)
class ModelDescription:
    """The encoder and its heads."""

    model: ModelConfig
    pooler: bool = True
    mlm: bool = True
    nsp: bool = True
    task: TaskHead | None = None
    rtd: bool = False  # tells tokens that were replaced (ELECTRA's discriminator)
    generator: ModelConfig | None = None  # of the tokens that replace, on the same tables; the MLM head is its
    teacher_size: int = 0  # features that a projection makes of each layer's for a teacher, in training alone; 0: none

    def __post_init__(self) -> None:
        self._check_layers()
        if self.generator is not None and not (self.rtd and self.mlm):
            raise UserError("a generator has an MLM head, and stands beside a head for replaced tokens")
        needs = [name for name, has in (("nsp", self.nsp), (self._pooled_task(), self.task)) if has and name]
        if needs and not self.pooler:
            raise UserError(f"the head {needs[0]} stands on the pooler, and there is none")

    def _check_layers(self) -> None:
        last = self.model.num_hidden_layers
        wrong = [layer for layer in (self.task.layers if self.task else ()) if not -last - 1 <= layer <= last]
        if wrong:
            raise UserError(
                f"layers: the head is to read {wrong[0]}, and the model has 1 to {last} (-1 is the last); 0 is the output of"
                " its embeddings"
            )

    def _pooled_task(self) -> str | None:
        return self.task.kind if self.task is not None and self.task.needs_pooler else None

    def to_dict(self) -> JsonObject:
        """Return what model.json holds; `description_from` inverts it."""
        return to_dict(self)

    def summary(self) -> str:
        """Return in words what it holds: "12 layers of 768, 30,522 entries, with pooler, MLM and NSP heads"."""
        model = self.model
        tokens = "LM" if model.is_recurrent else "MLM"
        parts = [name for name, has in (("pooler", self.pooler), (tokens, self.mlm), ("NSP", self.nsp)) if has]
        parts += ["replaced-token head"] if self.rtd else []
        parts += [self.task.kind] if self.task else []
        heads = f"with {', '.join(parts)}" if parts else "encoder alone"
        layers = f"LSTM layers of 2 x {model.table_size}" if model.is_recurrent else f"layers of {model.hidden_size}"
        size = f"{model.num_hidden_layers} {layers}, {model.vocab_size:,} entries"
        direction = ", left to right" if model.causal else ", forward and backward" if model.is_recurrent else ""
        beside = f", a generator of {self.generator.hidden_size} beside" if self.generator else ""
        return f"{size}{direction}, {heads}{beside}"


def description_from(values: JsonObject) -> ModelDescription:
    """Return the description that JSON holds; whoever has read the file wraps this in `files.reading`.

    Raises:
      UserError, TypeError, KeyError: it is none.
    """
    task, model = values.pop("task", None), build(ModelConfig, values.pop("model"))
    generator, teacher_size = values.pop("generator", None), values.pop("teacher_size", 0)
    if type(teacher_size) is not int:
        raise TypeError(f"teacher_size is {teacher_size!r}")
    wrong = [name for name, value in values.items() if type(value) is not bool]
    if wrong:
        raise TypeError(f"{wrong[0]} is {values[wrong[0]]!r}")
    return ModelDescription(
        model,
        task=None if task is None else build(TaskHead, task),
        generator=None if generator is None else build(ModelConfig, generator),
        teacher_size=teacher_size,
        **values,
    )
