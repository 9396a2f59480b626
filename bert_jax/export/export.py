# SPDX-License-Identifier: Apache-2.0
"""A checkpoint of any format -> a folder that others run: the model, its tokenizer, and a certificate.

The folder is written beside its place, read back and run on the same inputs as the model here, and takes its place when both
agree; otherwise nothing is left.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, file_sha256, write_json
from bert_jax.base.host import __version__
from bert_jax.config.description import ModelDescription
from bert_jax.conversion.certificate import as_json, Difference, differences, example_inputs, run_ours
from bert_jax.conversion.checkpoints import Asked, Checkpoint, open_checkpoint
from bert_jax.conversion.config_files import HUGGING_FACE_CONFIG, hugging_face_config
from bert_jax.conversion.electra import half_of
from bert_jax.conversion.heads import require_plain_head
from bert_jax.conversion.names import BERT_JAX
from bert_jax.conversion.places import beside, free_place, put_in_place
from bert_jax.conversion.sentence_files import POOLINGS, Served, write_sentence_files
from bert_jax.conversion.vocabularies import write_hugging_face_tokenizer
from bert_jax.export.purpose import (
    as_ours,
    EMBED,
    FILL_MASK,
    INPUTS,
    Outputs,
    PREDICT,
    Purpose,
    purpose_of,
    require_single_rows,
    sentence_vectors,
    trimmed,
    VECTORS,
)
from bert_jax.export.quality import Judged, Quality, quality_of
from bert_jax.finetuning.directory import is_finetuned, open_finetuned
from bert_jax.runs.directory import RunDirectory
from bert_jax.tasks.table import find_task

ONNX, STABLEHLO = ("onnx", "stablehlo")
ONNX_FILE, RECORD = "model.onnx", "export.json"
VECTOR_TOLERANCE = 1e-5  # of sentence vectors, times the largest value where that is more than 1
SHORT = 5  # tokens of a second row, by which it shows that lengths are free

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]  # INPUTS [B, S] -> the outputs


@dataclass(frozen=True)
class Exported:
    """The result of an export: what was written, and how far it is from the model here."""

    purpose: Purpose
    description: ModelDescription
    ran: str  # what ran the exported model
    differences: list[Difference]
    quality: Quality | None  # of int8
    notes: list[str]

    def lines(self) -> list[str]:
        """Return what is to be said, as lines for people."""
        outputs = ", ".join(f"{one.output} {one.largest_difference:.1e}" for one in self.differences)
        certificate = f"certificate holds: largest differences: {outputs} ({self.ran})"
        return [*self.notes, certificate, *([self.quality.line()] if self.quality else [])]


def export(
    model: Path,
    output: Path,
    to: str,
    name: str | None = None,
    served: Served = Served(),  # noqa: B008  # frozen
    int8: Judged | None = None,
    task: str | None = None,
    asked: Asked = Asked(),  # noqa: B008  # frozen
) -> Exported:
    """Export, prove, and put the result in its place.

    Args:
      model: a checkpoint of any format; of a folder of several fine-tuned runs the best.
      output: a directory that does not exist, or is empty.
      to: onnx or stablehlo.
      name: what for, one of those of purpose.py; None: its fine-tuned head, or else embeddings.
      served: how embeddings are made.
      int8: of ONNX: matrix products of int8, and what their quality is judged on.
      task: whose files `int8.data` has, of a fine-tuned checkpoint that was made elsewhere.
      asked: what files do not say.

    Raises:
      UserError: what cannot be exported, by name; a result that differs from the model, or has lost more than allowed.
    """
    if to == ONNX:
        from bert_jax.export.runtime import require_onnx

        require_onnx()
    output, too_long = free_place(output), None
    if is_finetuned(model):
        if task is not None:
            raise UserError(
                f"--task {task}: {model} is a run, which says itself what it predicts: leave the option out"
            )
        run = open_finetuned(model)
        model, too_long = run.path, run.settings().too_long
    kind = asked.task if task is None else find_task(task).kind
    asked = replace(asked, task=kind, head=name in (None, PREDICT))
    opened = open_checkpoint(model, asked)
    if opened.description.generator is not None:
        opened = half_of(opened, generator=name == FILL_MASK)
    purpose = purpose_of(opened, name, served)
    checkpoint = trimmed(opened, purpose)
    if to == ONNX:
        require_plain_head(model, checkpoint.description)
    require_single_rows(model, checkpoint.description, too_long)
    with beside(output) as folder:
        notes, ran, run_model = _written(checkpoint, purpose, to, folder, _longest(opened, purpose))
        found = certify(checkpoint, purpose, run_model)
        quality = None
        if int8 is not None:
            quality = _narrowed(folder / ONNX_FILE, model, purpose, int8, task, asked)
        exported = Exported(purpose, checkpoint.description, ran, found, quality, notes)
        _record(exported, opened, to, folder)
        put_in_place(folder, output)
    return exported


def _longest(checkpoint: Checkpoint, purpose: Purpose) -> int:
    """Tokens of the longest text: as `bert-jax embed` and `fill-mask` take it, of a fine-tuned head all positions."""
    positions = checkpoint.description.model.max_position_embeddings
    if purpose.name == PREDICT:
        return positions
    trained = RunDirectory(checkpoint.path).longest() if checkpoint.format == BERT_JAX else positions
    return min(purpose.vectors.longest or trained, trained)


def _written(
    checkpoint: Checkpoint, purpose: Purpose, to: str, folder: Path, longest: int
) -> tuple[list[str], str, Run]:
    """Write model and tokenizer; returns notes, what runs it, and the model read back."""
    if checkpoint.tokenizer is None:
        raise UserError(f"{checkpoint.path} has no vocabulary to go with the model: name one with --vocab")
    notes = [*purpose.notes, *write_hugging_face_tokenizer(checkpoint.tokenizer, folder, longest)]
    if purpose.name == EMBED:
        notes.append(f"sentence_embedding is made by {purpose.vectors}, of texts of at most {longest} tokens")
    if to == STABLEHLO:
        from bert_jax.export.stablehlo import StableHloModel, write_program

        write_program(checkpoint, purpose, folder)
        program = StableHloModel(folder)
        return notes, program.ran, program
    from bert_jax.export.onnx_graph import onnx_model
    from bert_jax.export.runtime import OnnxModel

    with complete_or_absent(folder / ONNX_FILE) as file:
        file.write(onnx_model(checkpoint, purpose).SerializeToString())
    write_json(folder / HUGGING_FACE_CONFIG, hugging_face_config(checkpoint.description, checkpoint.tokenizer.pad_id))
    if purpose.name == EMBED and purpose.vectors.pooling in POOLINGS:
        write_sentence_files(folder, purpose.vectors, checkpoint.description.model.hidden_size, longest)
    session = OnnxModel(folder / ONNX_FILE)
    return notes, session.ran, session


def certify(checkpoint: Checkpoint, purpose: Purpose, run: Run) -> list[Difference]:
    """Run both sides on rows of several lengths, and on a single short one.

    Raises:
      UserError: they differ by more than the tolerance.
    """
    inputs = example_inputs(checkpoint.description.model)
    alone = {name: values[:1, : min(SHORT, values.shape[1])] for name, values in inputs.items()}
    alone["input_mask"] = np.ones_like(alone["input_mask"])
    found = []
    for one in (inputs, alone):
        expected = _expected(checkpoint, purpose, one)
        given = dict(zip(INPUTS, (one["input_ids"], one["input_mask"], one["segment_ids"]), strict=True))
        each = differences(expected, as_ours(run(given), purpose), one["input_mask"] == 1)
        found.append([_as_vectors(output) if output.output == VECTORS else output for output in each])
    worst = [max(pair, key=lambda one: one.largest_difference / one.tolerance) for pair in zip(*found, strict=True)]
    wrong = [one for one in worst if not one.holds]
    if wrong:
        raise UserError(
            f"{checkpoint.path}: the exported {wrong[0].output} differs from the model's by"
            f" {wrong[0].largest_difference:.3g}, and at most {wrong[0].tolerance:.3g} is allowed: nothing was written; this is"
            " a fault of the export, or of what runs it here"
        )
    return worst


def _as_vectors(found: Difference) -> Difference:
    """Hold the vectors of sentences to their own tolerance."""
    return replace(found, tolerance=VECTOR_TOLERANCE * max(1.0, found.largest_value))


def _expected(checkpoint: Checkpoint, purpose: Purpose, inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Our model's outputs under the names of `as_ours`."""
    outputs = run_ours(checkpoint, inputs)
    if purpose.name == EMBED:
        arrays = jax.tree.map(jnp.asarray, outputs)
        pooled, mask = arrays.get("pooled_output"), jnp.asarray(inputs["input_mask"])
        vectors = sentence_vectors(arrays["sequence_output"], pooled, mask, purpose)
        return {"sequence_output": outputs["sequence_output"], VECTORS: np.asarray(vectors)}
    return {name: value for name, value in outputs.items() if name.endswith("logits")}


def _narrowed(path: Path, model: Path, purpose: Purpose, judged: Judged, task: str | None, asked: Asked) -> Quality:
    """Put the int8 model in the place of the float32 one, if its quality holds."""
    from bert_jax.export.runtime import OnnxModel, quantize

    narrow = path.with_suffix(".int8")
    quantize(path, narrow)
    quality = quality_of(model, OnnxModel(narrow), purpose, judged, task, asked)
    narrow.replace(path)
    return quality


def _record(exported: Exported, source: Checkpoint, to: str, folder: Path) -> None:
    """export.json: the certificate, and what the files are."""
    purpose = exported.purpose
    record = {
        "bert_jax": __version__,
        "to": to,
        "for": purpose.name,
        "vectors": asdict(purpose.vectors) if purpose.name == EMBED else None,
        "weights": "int8" if exported.quality else "float32",
        "source": {"format": source.format, "path": source.path.name, "step": source.step},
        "model": exported.description.to_dict(),
        "inputs": {name: ["batch", "sequence"] for name in INPUTS},
        "outputs": {name: list(axes) for name, axes in purpose.outputs(exported.description).items()},
        "ran": exported.ran,
        "differences": as_json(exported.differences),
        "quality": exported.quality.to_dict() if exported.quality else None,
        "notes": exported.notes,
        "files": {
            file.relative_to(folder).as_posix(): file_sha256(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }
    write_json(folder / RECORD, record)
