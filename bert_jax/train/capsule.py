# SPDX-License-Identifier: Apache-2.0
"""Capsules of bad steps, which `bert-jax replay` can take again anywhere: an object in a file of `bad_steps/`.

The batch is a function of (seed, step), so its examples are named and not copied. The state before the step is that of a
checkpoint, which is kept beside the capsule when the run deletes its own, and the steps since.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bert_jax.base.errors import UserError
from bert_jax.base.files import own_folder, read_json, reading, write_json
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.mesh.distributed import is_main
from bert_jax.mesh.sharding import parameter_path
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import CHECKPOINTS
from bert_jax.train.bad_steps import written
from bert_jax.train.optimizer import STACKED

# Of a capsule's file: its step, and its batch where that differs.
_NAME = re.compile(r"step-(\d+)(?:-batch-(\d+))?\.json")


class BadStep(NamedTuple):
    """A step that did not count."""

    step: int
    why: str
    sums: Mapping[str, float]
    moved: int  # batches that were passed over before it
    examples: JsonObject  # of its batch


def write_capsule(
    run: RunDirectory, bad: BadStep, seed: int, action: str, norms: JsonObject, checkpoints: Checkpoints
) -> Path:
    """Write what is known of a bad step; keep the checkpoint before it where the run goes on. Of several processes all call.

    Args:
      norms: of the parameters after the newest step that was begun, by `layer_norms`.
    """
    checkpoints.wait()
    batch = bad.step + bad.moved
    # After a rollback the same step may be bad with another batch.
    file = run.bad_steps / (f"step-{bad.step:08}-batch-{batch}.json" if bad.moved else f"step-{bad.step:08}.json")
    if is_main():
        folder, before = own_folder(run.bad_steps), checkpoints.latest
        if before is not None and action != "stop":
            checkpoints.keep(before, own_folder(folder / CHECKPOINTS))
        content = {
            "step": bad.step,
            "why": bad.why,
            "action": action,
            "seed": seed,
            "batch": batch,
            "moved": bad.moved,
            "examples": bad.examples,
            "sums": written(bad.sums),
            "checkpoint": before,
            "parameter_norms": norms,
        }
        write_json(file, content)
    return file


def stopped(step: int, why: str, run: RunDirectory, remedy: str) -> UserError:
    """Return the error that a run stops with at a bad step.

    Args:
      remedy: which of the stage's settings to change.
    """
    return UserError(
        f"step {step}: {why}: the run stops and nothing is overwritten; what {run.checkpoints} holds is of before: look at the"
        f" step with bert-jax replay {run.path}, go on with on_bad_step=skip or rollback, or {remedy} in a new run"
    )


def layer_norms(params: PyTree, mesh: Mesh) -> JsonObject:
    """Return the norm of each parameter by its path, of stacked layers one for each; not finite ones are words.

    Of several processes all call: each has parts of the parameters, and all get the norms.
    """

    def norm(path: jax.tree_util.KeyPath, leaf: jax.Array) -> jax.Array:
        first = 1 if STACKED.search(parameter_path(path)) else 0
        return jnp.sqrt(jnp.square(leaf).sum(tuple(range(first, leaf.ndim))))

    everywhere = NamedSharding(mesh, P())
    norms = jax.jit(lambda tree: jax.tree_util.tree_map_with_path(norm, tree), out_shardings=everywhere)(params)
    found = jax.device_get(norms)
    leaves = {parameter_path(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(found)}
    return {path: _words(leaf) for path, leaf in leaves.items()}


def _words(norms: np.ndarray) -> object:
    values = [round(float(norm), 6) if np.isfinite(norm) else str(norm) for norm in norms.ravel()]
    return values if norms.ndim else values[0]


def read_capsule(run: RunDirectory, step: int | None) -> JsonObject | None:
    """Return the capsule of a step, or the newest one (`step` None); None where there is none.

    Batches are never gone back to, as steps are after a rollback: the newest capsule is that of the last batch.

    Raises:
      UserError: the file is broken.
    """
    named = [(file, found) for file in run.bad_steps.glob("step-*.json") if (found := _NAME.fullmatch(file.name))]
    batches = {int(found[2] or found[1]): file for file, found in named if step in (None, int(found[1]))}
    if not batches:
        return None
    file, remedy = batches[max(batches)], "remove it"
    try:
        content: JsonObject = read_json(file, remedy)
    except FileNotFoundError:
        raise UserError(f"{file} has gone: try again") from None
    with reading(file, remedy):
        numbers = (content["step"], content["moved"], content["checkpoint"] or 0)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"step, moved and checkpoint are {', '.join(map(repr, numbers)):.80}")
        _ = str(content["why"])
    return content
