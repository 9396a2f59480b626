# SPDX-License-Identifier: Apache-2.0
"""The proof of a conversion: every tensor bit for bit, and both sides run on the same inputs.

Our side is run by our model in JAX. The other side is run by `numpy_bert`, a forward pass in its own names that knows
neither our table of names nor our model, or by transformers under PyTorch where a Python that has them is given.

Shapes: B rows, S tokens.
"""

import json
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.conversion import names, numpy_bert
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.config_files import is_electra
from bert_jax.conversion.names import BERT_JAX, HUGGING_FACE
from bert_jax.feed.batch import batch_of_rows
from bert_jax.model.encoder import Compute
from bert_jax.model.forward import compiled_forward

TOLERANCE = 1e-4  # of a whole network in float32, times the largest value of the output where that is more than 1
PEER_SCRIPT = Path(__file__).with_name("transformers_forward.py")
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far two sides are apart in one output."""

    output: str
    largest_difference: float
    largest_value: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.largest_difference <= self.tolerance


def example_inputs(model: ModelConfig, ids: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
    """Rows of several lengths, padded, with both segments where there are two: input_ids, segment_ids, input_mask [B, S].

    One row is as long as the positions reach, up to 512. Tokens are drawn from `ids`, or from the whole vocabulary.
    """
    ids = np.arange(model.vocab_size) if ids is None else ids
    size = min(model.max_position_embeddings, 512)
    lengths = sorted({size, max(2, size // 3), min(17, size), 2}, reverse=True)
    rng = np.random.default_rng(0)
    batch = {name: np.zeros((len(lengths), size), np.int32) for name in ("input_ids", "segment_ids", "input_mask")}
    for row, length in enumerate(lengths):
        batch["input_ids"][row, :length] = rng.choice(ids, length)
        batch["input_mask"][row, :length] = 1
        if model.type_vocab_size > 1:
            batch["segment_ids"][row, length // 2 : length] = 1
    return batch


# ---- running a side ------------------------------------------------------------------------------------------------


def run_side(checkpoint: Checkpoint, inputs: Mapping[str, np.ndarray], peer_python: Path | None) -> tuple[str, Outputs]:
    """Run a checkpoint on inputs [B, S].

    Returns:
      What ran it, and of sequence_output, pooled_output, mlm_logits, nsp_logits, task_logits and rtd_logits ([B, S, 1])
      those that it has.
    """
    description = checkpoint.description
    if checkpoint.format == BERT_JAX:
        return f"bert_jax on {jax.devices()[0].device_kind}, float32", run_ours(checkpoint, inputs)
    if checkpoint.format == HUGGING_FACE and peer_python is not None:
        ran, outputs = run_transformers(checkpoint, inputs, peer_python)
        return ran, _without_padding(outputs, description)
    naming = "tf1"
    if checkpoint.format == HUGGING_FACE:
        naming = "electra" if is_electra(description) else "hugging_face"
    task = description.task.kind if description.task else None
    outputs = numpy_bert.forward(checkpoint.tensors, naming, stored_model(checkpoint), inputs, task=task)
    outputs = _without_padding(outputs, description)
    return "a NumPy forward pass in its own names", outputs


def _without_padding(outputs: Outputs, description: ModelDescription) -> Outputs:
    """The logits of entries that there are."""
    size = description.model.vocab_size
    return {name: value[:, :, :size] if name == "mlm_logits" else value for name, value in outputs.items()}


def stored_model(checkpoint: Checkpoint) -> ModelConfig:
    """The model with all rows of its tables that are stored, padding of the vocabulary among them."""
    word = checkpoint.own_names[names.EMBEDDINGS[0].ours]
    return replace(checkpoint.description.model, vocab_size=checkpoint.tensors.entries[word].shape[0])


def run_ours(checkpoint: Checkpoint, inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Our model on the inputs, in float32; outputs at padding are left as they come."""
    description = checkpoint.description
    forward = compiled_forward(description, Compute(jnp.float32))
    output = jax.device_get(forward(checkpoint.parameters(), our_batch(inputs), False))
    found = {
        "sequence_output": output.encoder.sequence_output,
        "pooled_output": None if output.encoder.pooled_output is None else output.encoder.pooled_output[:, 0],
        "mlm_logits": output.mlm_logits,
        "nsp_logits": None if output.nsp_logits is None else output.nsp_logits[:, 0],
        "task_logits": _task_logits(description, output.task_logits),
        "rtd_logits": None if output.rtd_logits is None else output.rtd_logits[..., None],
    }
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def _task_logits(description: ModelDescription, logits: np.ndarray | None) -> np.ndarray | None:
    pooled = description.task is not None and description.task.is_pooled
    return logits[:, 0] if logits is not None and pooled else logits


def our_batch(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the fields of `bert_jax.feed.batch` for inputs [B, S], a row each; every position is predicted."""
    rows, width = inputs["input_ids"].shape
    lengths = inputs["input_mask"].sum(1)
    texts = zip(inputs["input_ids"], inputs["segment_ids"], lengths, strict=True)
    batch = batch_of_rows([(ids[:length], segments[:length]) for ids, segments, length in texts], rows, width)
    return {**batch, "masked_lm_positions": batch["position_ids"]}


def run_transformers(checkpoint: Checkpoint, inputs: Mapping[str, np.ndarray], python: Path) -> tuple[str, Outputs]:
    """Hugging Face's own model, under a Python that has torch and transformers."""
    with tempfile.TemporaryDirectory(prefix="bert_jax_certificate_") as folder:
        given, made = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        place = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        np.savez(given, **dict(inputs))  # type: ignore[arg-type]  # its own options come by name too
        command = [str(python), str(PEER_SCRIPT), str(place), str(given), str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"{python} could not run {checkpoint.path} through transformers: {said}")
        with np.load(made) as file:
            return json.loads(done.stdout.splitlines()[-1])["ran"], dict(file)


# ---- comparing -----------------------------------------------------------------------------------------------------


def differences(source: Outputs, result: Outputs, valid: np.ndarray) -> list[Difference]:
    """The largest difference in every output that both have.

    Args:
      source, result: outputs by name: of tokens [B, S, ...], of which only the valid ones count, or of rows [B, ...].
      valid: [B, S], true at a token.
    """
    found = []
    for name in [name for name in source if name in result]:
        a, b = source[name], result[name]
        if a.ndim == 3:  # by tokens; [B, D] looks like [B, S] where the model has as many features as positions
            a, b = a[valid], b[valid]
        largest = float(np.abs(a).max())
        found.append(Difference(name, float(np.abs(a - b).max()), largest, TOLERANCE * max(1.0, largest)))
    return found


def compare_tensors(source: Checkpoint, result: Checkpoint) -> list[str]:
    """Return the tensors that are not bit for bit the same, each with what the difference looks like."""
    theirs = {row.ours: row for row in result.rows}
    found: dict[str, str] = {}
    for row in source.rows:
        if row.ours in theirs:
            what = _how_it_differs(row.ours, source.weight(row), result.weight(theirs[row.ours]))
            found |= {} if what is None else {row.ours: what}
    return [f"{name}: {what}" for name, what in found.items()] + _swapped_norms(source, result, found.keys())


def _how_it_differs(name: str, a: np.ndarray, b: np.ndarray) -> str | None:
    if a.shape == b.shape and np.array_equal(a, b):
        return None
    if a.ndim == 2 and a.T.shape == b.shape and np.array_equal(a.T, b):
        return "is transposed"
    if a.shape != b.shape:
        return f"is {list(a.shape)} on one side and {list(b.shape)} on the other"
    if name.startswith("nsp/") and np.array_equal(a[..., ::-1], b):
        return "its two columns (IsNext, NotNext) are swapped"
    if name in ("encoder/embeddings/word", "mlm/decoder", "mlm/bias") and _same_rows(a, b):
        return "has the same rows in another order: the vocabularies are ordered differently"
    return f"differs in {int((a != b).sum())} of {a.size} values, by up to {np.abs(a - b).max():.3g}"


def _same_rows(a: np.ndarray, b: np.ndarray) -> bool:
    first, second = (np.sort(x.reshape(len(x), -1).view([("", x.dtype)] * (x.size // len(x))), axis=0) for x in (a, b))
    return np.array_equal(first, second)


def _swapped_norms(source: Checkpoint, result: Checkpoint, different: Collection[str]) -> list[str]:
    """LayerNorms whose scale is the other side's bias, among the tensors that are different."""
    ours = {row.ours: row for row in source.rows}
    theirs = {row.ours: row for row in result.rows}
    found = []
    for name in [name.removesuffix("/scale") for name in different if name.endswith("/scale")]:
        scale, bias = f"{name}/scale", f"{name}/bias"
        if bias not in different:
            continue
        a = source.weight(ours[scale]), source.weight(ours[bias])
        b = result.weight(theirs[scale]), result.weight(theirs[bias])
        if np.array_equal(a[0], b[1]) and np.array_equal(a[1], b[0]):
            found.append(f"{name}: scale and bias are swapped")
    return found


def as_json(found: list[Difference]) -> list[JsonObject]:
    """Return the differences as conversion.json holds them."""
    return [asdict(one) | {"holds": one.holds} for one in found]
