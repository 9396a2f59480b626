# SPDX-License-Identifier: Apache-2.0
"""BERT in JAX: pre-training from raw text, fine-tuning, evaluation and checkpoint conversion."""

from pathlib import Path
from typing import Any, TYPE_CHECKING

from bert_jax.base.host import __version__

if TYPE_CHECKING:
    from bert_jax.use.model import Pretrained


__all__ = ["__version__", "load"]


def load(path: str | Path, **options: Any) -> "Pretrained":
    """A model and its tokenizer from a run, a directory of Hugging Face's or a TF1 checkpoint: see `use.model.load`."""
    from bert_jax.use import model  # JAX is imported where it is used: `bert-jax --help` answers at once

    return model.load(path, **options)
