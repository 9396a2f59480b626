# SPDX-License-Identifier: Apache-2.0
"""The model as a program of StableHLO by `jax.export`: for CPU, CUDA and TPU, with rows and tokens of any number.

The program takes the weights as arguments, which lie beside it, so that it is small and its weights are read as they are.

Shapes: B rows, S tokens.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.base.files import complete_or_absent
from bert_jax.config.description import ModelDescription
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.own_format import flat, nested
from bert_jax.export.purpose import EMBED, FILL_MASK, INPUTS, Purpose, sentence_vectors, VECTORS
from bert_jax.model.encoder import Compute
from bert_jax.model.forward import model_graph

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM_FILE, WEIGHTS_FILE, LOADER_FILE = "program.bin", "weights.npz", "load.py"
LOADER = Path(__file__).with_name("loader.py")

Weights = dict[str, jax.Array]
Program = Callable[[Weights, jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]


def write_program(checkpoint: Checkpoint, purpose: Purpose, folder: Path) -> None:
    """Write the program, its weights and the loader; the checkpoint has the heads of the purpose alone."""
    weights = {name: np.asarray(value) for name, value in flat(checkpoint.parameters()).items()}
    exported = jax.export.export(jax.jit(program(checkpoint.description, purpose)), platforms=PLATFORMS)(
        jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), weights),
        *_arguments(checkpoint.description.model.max_position_embeddings),
    )
    with complete_or_absent(folder / PROGRAM_FILE) as file:
        file.write(exported.serialize())
    with complete_or_absent(folder / WEIGHTS_FILE) as file:
        np.savez(file, **weights)  # type: ignore[arg-type]  # its own options come by name too
    with complete_or_absent(folder / LOADER_FILE) as file:
        file.write(LOADER.read_bytes())


def _arguments(positions: int) -> list[jax.ShapeDtypeStruct]:
    """Ids, mask and segments [B, S] of any B and of an S that the positions reach."""
    shape = jax.export.symbolic_shape("batch, sequence", constraints=[f"sequence <= {positions}"])
    return [jax.ShapeDtypeStruct(shape, jnp.int32) for _ in INPUTS]


def program(description: ModelDescription, purpose: Purpose) -> Program:
    """Return (weights by our names, ids, mask, segments) -> the outputs of `Purpose.outputs`."""
    # "auto" would choose for this machine, and the program is for others too.
    graph = model_graph(description, Compute(attention="reference"))

    def run(
        weights: Weights, input_ids: jax.Array, attention_mask: jax.Array, token_type_ids: jax.Array
    ) -> dict[str, jax.Array]:
        rows, width = input_ids.shape
        positions = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32)[None], (rows, width))
        batch = {
            "input_ids": input_ids,
            "segment_ids": token_type_ids,
            "sequence_ids": attention_mask,
            "position_ids": positions,
            "cls_positions": jnp.zeros((rows, 1), jnp.int32),
            "masked_lm_positions": positions,
        }
        output = nnx.merge(graph, nested(weights))(batch)
        if purpose.name == EMBED:
            tokens, pooled = output.encoder.sequence_output, output.encoder.pooled_output
            pooled = None if pooled is None else pooled[:, 0]
            sentence = sentence_vectors(tokens, pooled, attention_mask, purpose)
            return {"last_hidden_state": tokens, VECTORS: sentence}
        if purpose.name == FILL_MASK:
            pairs = {} if output.nsp_logits is None else {"seq_relationship_logits": output.nsp_logits[:, 0]}
            return {"logits": output.mlm_logits, **pairs}
        logits, task = output.task_logits, description.task
        assert task is not None  # `purpose_of` has seen to it
        if task.kind == "span":
            return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}
        return {"logits": logits[:, 0] if task.is_pooled else logits}

    return run


class StableHloModel:
    """The files of a program, read back and run as the loader runs them."""

    def __init__(self, folder: Path):
        """Read them."""
        self._program = jax.export.deserialize(bytearray((folder / PROGRAM_FILE).read_bytes()))
        with np.load(folder / WEIGHTS_FILE, allow_pickle=False) as file:
            self._weights = jax.device_put(dict(file))
        self.ran = f"StableHLO on {jax.devices()[0].device_kind}"

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by its name, from `purpose.INPUTS` [B, S] of any whole numbers."""
        return jax.device_get(
            self._program.call(self._weights, *(np.asarray(inputs[name], np.int32) for name in INPUTS))
        )
