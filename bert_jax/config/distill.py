# SPDX-License-Identifier: Apache-2.0
"""Settings of distillation (`--teacher MODEL`): what is learned of the teacher, and how much each part of the loss counts."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from bert_jax.base.errors import UserError
from bert_jax.config.fields import require_not_negative, require_positive, setting

OWN_TERMS = ("mlm", "nsp", "task")  # the losses of the true labels


@dataclass(frozen=True)
class DistillConfig:
    """The teacher's predictions beside the labels. Hinton et al. 2015 (1503.02531), section 2."""

    labels: float = setting(1.0, "weight of the run's own loss, that of the true labels; 0: the teacher's alone")
    soft: float = setting(
        1.0,
        "weight of the distance from the teacher's prediction: KL divergence x temperature squared (ratings: squares)",
    )
    temperature: float = setting(2.0, "distill.soft: what the logits of both are divided by")

    def __post_init__(self) -> None:
        for name in self.weight_fields:
            require_not_negative("distill", self, name)
        require_positive("distill", self, "temperature")
        self._require_effect("temperature", "soft")

    def _require_effect(self, name: str, of: str) -> None:
        """Refuse a setting of a part that has no weight."""
        default = next(field.default for field in dataclasses.fields(self) if field.name == name)
        if not getattr(self, of) and getattr(self, name) != default:
            raise UserError(
                f"distill.{name}={getattr(self, name)} is of distill.{of}, which is 0 here: give it a weight, or leave it out"
            )

    @property
    def weight_fields(self) -> tuple[str, ...]:
        """The names of the weights: of the labels, and of the terms that the teacher adds to the loss."""
        return ("labels", "soft")

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms of the loss that come from the teacher, those with a weight."""
        return tuple(name for name in self.weight_fields if name != "labels" and getattr(self, name))

    @property
    def weights(self) -> Mapping[str, float]:
        """How much the mean of each term of the loss counts."""
        return dict.fromkeys(OWN_TERMS, self.labels) | {name: getattr(self, name) for name in self.terms}

    @property
    def words(self) -> str:
        """Say how the loss is put together: "labels x 1, soft x 1; temperature 2"."""
        parts = [f"labels x {self.labels:g}", *(f"{name} x {getattr(self, name):g}" for name in self.terms)]
        return f"{', '.join(parts)}{f'; temperature {self.temperature:g}' if self.soft else ''}"

    def require_teacher(self) -> None:
        """Refuse what is said of a teacher where there is none.

        Raises:
          UserError: naming the first setting.
        """
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) != field.default:
                raise UserError(
                    f"distill.{field.name}={value} says what is learned of a teacher: name it with --teacher, or leave this out"
                )


@dataclass(frozen=True)
class PretrainDistillConfig(DistillConfig):
    """Settings of pre-training: an encoder's vectors and the relations in its attention are learned too."""

    hidden: float = setting(
        0.0, "weight of the mean squared difference of the vectors that embeddings and layers give (TinyBERT)"
    )
    hidden_size: int | None = setting(
        None,
        "distill.hidden: features of the teacher, which a learned projection gives (none: the model's own, as they are)",
    )
    relations: float = setting(
        0.0,
        "weight of the relations in the last layer: KL divergence of its attention and of values to values (MiniLM)",
    )
    relation_heads: int | None = setting(
        None, "distill.relations: heads that both networks' features are cut into for it (none: their own, if as many)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, of in (("hidden_size", "hidden"), ("relation_heads", "relations")):
            if getattr(self, name) is not None:
                require_positive("distill", self, name)
            self._require_effect(name, of)

    @property
    def weight_fields(self) -> tuple[str, ...]:
        """The names of the weights."""
        return ("labels", "soft", "hidden", "relations")
