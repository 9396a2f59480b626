# SPDX-License-Identifier: Apache-2.0
"""The shape of a BERT encoder, and the published sizes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bert_jax.base.errors import UserError
from bert_jax.config.fields import require_choice, require_positive, require_share, setting

MOST_LAYERS = 1_000
HIDDEN_ACTIVATIONS = ("gelu_tanh", "gelu_erf")
POOLERS = ("tanh", "gelu")


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
    position_initializer_range: float | None = setting(
        None, "the same of the position table: by Muon attention forms sooner if larger (none: initializer_range)"
    )
    layer_norm_eps: float = setting(1e-12, "epsilon of LayerNorm, inside the square root")
    tie_word_embeddings: bool = setting(True, "use the word embedding as the MLM output matrix")
    embedding_size: int | None = setting(
        None, "features of the tables; other than hidden_size: a dense layer leads to the layers (none: hidden_size)"
    )
    pooler_act: str = setting(
        "tanh", "activation on the [CLS] that tasks read: tanh (BERT), or gelu as hidden_act (ELECTRA)"
    )
    causal: bool = setting(
        False, "attention sees the past only, as in GPT; objective=ltr sets it, no other objective takes it"
    )
    lstm_units: int | None = setting(
        None,
        "units of each LSTM of a biLM, whose layers are LSTMs of hidden_size / 2 features forward and backward; objective=bilm"
        " sets it (to 4 x hidden_size, ELMo's 4096), no other objective takes it",
    )

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            require_positive("model", self, name)
        for name in ("max_position_embeddings", "type_vocab_size", "initializer_range", "layer_norm_eps"):
            require_positive("model", self, name)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            require_share("model", self, name, below_one=True)
        require_choice("model", self, "hidden_act", HIDDEN_ACTIVATIONS)
        require_choice("model", self, "pooler_act", POOLERS)
        for name in ("position_initializer_range", "embedding_size"):
            if getattr(self, name) is not None:
                require_positive("model", self, name)
        self._check_lstm()
        if self.num_hidden_layers > MOST_LAYERS:
            raise UserError(f"model.num_hidden_layers={self.num_hidden_layers} is more than {MOST_LAYERS:,}: use fewer")
        if not self.is_recurrent and self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model.hidden_size={self.hidden_size} is not divisible by"
                f" model.num_attention_heads={self.num_attention_heads}: change one of them"
            )

    def _check_lstm(self) -> None:
        if self.lstm_units is None:
            return
        require_positive("model", self, "lstm_units")
        if self.hidden_size % 2:
            raise UserError(
                f"model.hidden_size={self.hidden_size} is odd, and a biLM has half of it in each direction: make it even"
            )
        for name in ("causal", "embedding_size"):
            if value := getattr(self, name):
                raise UserError(
                    f"model.{name}={value} has no meaning in a biLM (model.lstm_units={self.lstm_units}): leave it out"
                )

    @property
    def is_recurrent(self) -> bool:
        """Whether it is a biLM: its layers are LSTMs in both directions and know no attention, positions or segments."""
        return self.lstm_units is not None

    @property
    def head_size(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def table_size(self) -> int:
        """Features of the word, position and segment tables; of a biLM those of one direction."""
        if self.is_recurrent:
            return self.hidden_size // 2
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    @property
    def is_projected(self) -> bool:
        """Whether a dense layer stands between the tables and the layers."""
        return self.table_size != self.hidden_size and not self.is_recurrent

    def narrowed(self, share: float) -> "ModelConfig":
        """Return the shape of an encoder on the same tables, its layers a share as wide: the generator of ELECTRA.

        Raises:
          UserError: the share leaves no whole number of heads of the same size.
        """
        heads = self.num_attention_heads * share
        if heads < 1 - 1e-3 or abs(heads - round(heads)) > 1e-3:
            raise UserError(
                f"objective.generator_share={share:g} of {self.num_attention_heads} heads is no whole number: use a multiple of"
                f" 1/{self.num_attention_heads}, such as {1 / self.num_attention_heads:.4f}"
            )
        width = round(heads) * self.head_size
        inner = round(self.intermediate_size * round(heads) / self.num_attention_heads)
        return dataclasses.replace(
            self,
            hidden_size=width,
            num_attention_heads=round(heads),
            intermediate_size=inner,
            embedding_size=self.table_size,
        )

    def require_pooling(self, pooling: str | None) -> None:
        """Refuse to take the vector of a text from a token that has not seen it.

        Raises:
          UserError: "cls" of a left-to-right model, "cls" or "last" of a biLM.
        """
        if pooling == "cls" and self.causal:
            raise UserError("--pooling cls: this model is left to right, and its [CLS] sees no word: use last or mean")
        if pooling in ("cls", "last") and self.is_recurrent:
            raise UserError(
                f"--pooling {pooling}: of this model, a biLM, no token sees both sides of a text in full: use mean or max"
            )

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
