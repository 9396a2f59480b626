# SPDX-License-Identifier: Apache-2.0
"""A model's forward pass as a compiled function of parameters and batch: what every use of a loaded checkpoint runs."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.base.errors import UserError
from bert_jax.base.types import PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.model.encoder import Compute
from bert_jax.model.heads import BertModel, BertOutput

Inputs = Mapping[str, np.ndarray]  # those of a batch that the model reads


def model_graph(description: ModelDescription, compute: Compute) -> nnx.GraphDef:
    """Return the static side of a model: `nnx.merge(graph, params)` gives the module back. Nothing is allocated."""
    return nnx.split(nnx.eval_shape(lambda: BertModel(description, compute, rngs=nnx.Rngs(0))))[0]


@functools.lru_cache(maxsize=2)
def compiled_forward(description: ModelDescription, compute: Compute) -> Callable[[PyTree, Inputs, bool], BertOutput]:
    """Return the forward pass without dropout, compiled once for each shape of batch.

    Its arguments are the parameters, a batch with the inputs of `bert_jax.feed.batch`, and whether the output of every
    layer is wanted. Two checkpoints of one model share it.
    """
    graph = model_graph(description, compute)

    def forward(params: PyTree, batch: Inputs, all_layers: bool) -> BertOutput:
        return nnx.merge(graph, params)(batch, all_layers=all_layers)

    return jax.jit(forward, static_argnums=2)


def require_finite(outputs: np.ndarray, params: PyTree) -> None:
    """Refuse outputs that are NaN or infinite although every weight is finite: a damaged weight, or diverged training.

    Args:
      outputs: of texts, without padding.
      params: of the model.

    Raises:
      UserError: naming the largest weight.
    """
    if np.isfinite(outputs).all():
        return
    largest = {path: float(jnp.abs(leaf).max()) for path, leaf in jax.tree.leaves_with_path(params)}
    path = max(largest, key=largest.__getitem__)
    raise UserError(
        f"the model computes NaN or infinity from weights that are finite (the largest is {largest[path]:.3g}, in"
        f" {jax.tree_util.keystr(path, simple=True, separator='/')}): it is damaged, or its training diverged: copy it again,"
        " or take an earlier checkpoint"
    )
