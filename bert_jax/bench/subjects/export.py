# SPDX-License-Identifier: Apache-2.0
"""Vectors of sentences by `bert-jax embed`, ONNX Runtime in float32 and in int8, and PyTorch transformers, in turn.

All sides get the same rows of made-up ids and as many threads as there are cores, and pool as the directory of the model says.
Before anything is timed their vectors are compared. Tokenising is left out on all sides.

Shapes: B rows, D features.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.host import usable_cores
from bert_jax.base.types import PyTree
from bert_jax.bench.measure import alternate, compared, Side, summaries, timed
from bert_jax.bench.side_process import find_peer, side_process, SideError, SideProcess
from bert_jax.bench.subjects.peer import peer_side
from bert_jax.bench.suite import parse_size
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.conversion.checkpoints import detect
from bert_jax.conversion.convert import convert
from bert_jax.conversion.names import HUGGING_FACE
from bert_jax.conversion.sentence_files import SentenceVectors
from bert_jax.export.export import export, ONNX, ONNX_FILE
from bert_jax.export.purpose import EMBED, VECTORS
from bert_jax.export.quality import inputs_of
from bert_jax.export.runtime import OnnxModel, quantize
from bert_jax.feed.batch import Batch, batch_of_rows
from bert_jax.use.embedding import EmbedSettings, vectors_of
from bert_jax.use.model import load, Pretrained, row_of

OURS, FLOAT32, INT8, PEER = "bert-jax embed", "ONNX Runtime", "ONNX Runtime, int8", "PyTorch transformers"
MOST_DIFFERENCE = 1e-4  # of a float32 side from ours, times the largest value where that is more than 1
LEAST_COSINE = 0.95  # of int8 to ours, on ids without meaning: below it more than rounding is wrong
REST = 0.05  # seconds in which the threads of the side before fall asleep


class Encoders(NamedTuple):
    """One model, loaded by every side."""

    ours: Pretrained
    settings: EmbedSettings
    onnx: dict[str, OnnxModel]
    peer: SideProcess | None


def measure(bench: Workbench) -> Iterator[Record]:
    """Yield a record of each size of batch; or the one that says why there is none."""
    if bench.inputs.model is None or not bench.on_cpu:
        lacking = ("a model", "--model") if bench.on_cpu else ("the CPU for all sides", "JAX_PLATFORMS=cpu")
        yield bench.absent("vectors of sentences", *lacking)
        return
    python = find_peer(bench.inputs.peer_python)
    if python is None:
        yield bench.absent(PEER, "a Python that has it", "--peer-python")
    with ExitStack() as stack:
        peer = None if python is None else stack.enter_context(side_process("pytorch", python))
        encoders = open_encoders(bench, bench.inputs.model, peer)
        shapes = bench.suite.sizes.export_rows.split(",")
        yield from bench.each(shapes, partial(measure_rows, bench, encoders))


def open_encoders(bench: Workbench, model: Path, peer: SideProcess | None) -> Encoders:
    """Export the model, and load it on every side."""
    folder = bench.folder / "export"
    vectors = export(model, folder, ONNX, EMBED).purpose.vectors
    files = {FLOAT32: folder / ONNX_FILE, INT8: bench.folder / ONNX_FILE}
    quantize(files[FLOAT32], files[INT8])
    if peer is not None:
        place = model
        if detect(model)[0] != HUGGING_FACE:
            convert(model, place := bench.folder / "huggingface", HUGGING_FACE)
        how = {"pooling": vectors.pooling, "normalize": vectors.normalize, "threads": usable_cores()}
        peer.ask("open_encoder", model=str(place), **how)
    onnx = {name: OnnxModel(file, usable_cores()) for name, file in files.items()}
    return Encoders(load(model), EmbedSettings(vectors.pooling, vectors.normalize, vectors.longest), onnx, peer)


def measure_rows(bench: Workbench, encoders: Encoders, shape: str) -> Record:
    """Compare the vectors of a batch, ROWSxTOKENS, then time all sides in turn."""
    batch = made_up_rows(encoders, *parse_size(shape, "export_rows", "ROWSxTOKENS"))
    inputs = inputs_of(batch)
    calls: dict[str, Callable[[], PyTree]] = {OURS: partial(vectors_of, batch, encoders.ours, encoders.settings)}
    calls |= {name: partial(_onnx_vectors, model, inputs) for name, model in encoders.onnx.items()}
    vectors = {name: np.asarray(call()) for name, call in calls.items()}
    if encoders.peer is not None:
        vectors[PEER] = _peer_vectors(bench, encoders.peer, inputs)
    agreement = {name: agreement_of(name, found, vectors[OURS]) for name, found in vectors.items() if name != OURS}
    sides = {name: timed(call, bench.suite.shortest) for name, call in calls.items()}
    if encoders.peer is not None:
        sides[PEER] = peer_side(bench, encoders.peer, "encode")
    samples = alternate({name: partial(_rested, side) for name, side in sides.items()}, bench.suite.sizes.rounds)
    rows = len(batch["input_ids"])
    return compared(
        shape,
        "texts/s",
        {name: [rows / seconds for seconds in found] for name, found in samples.items()},
        [OURS],
        seconds=summaries(samples),
        valid_share=float((batch["sequence_ids"] > 0).mean()),
        threads=usable_cores(),
        vectors=str(SentenceVectors(encoders.settings.pooling, encoders.settings.normalize)),
        agreement=agreement,
        versions={"ours": encoders.onnx[FLOAT32].ran} | ({"peer": encoders.peer.ask("hello")} if encoders.peer else {}),
    )


def made_up_rows(encoders: Encoders, rows: int, tokens: int) -> Batch:
    """Return rows of ids without meaning; the first is as long as `tokens`, the others half of it at least.

    Raises:
      UserError: the model reads fewer tokens.
    """
    model, rng = encoders.ours, np.random.default_rng(0)
    longest = min(encoders.settings.longest or model.longest, model.longest)
    if not (rows and 3 <= tokens <= longest):
        raise UserError(f"bench.export_rows={rows}x{tokens}: give 1 row or more, of 3 to {longest} tokens")
    lengths = [tokens, *rng.integers(max(tokens // 2, 3), tokens + 1, rows - 1)]
    pieces = (rng.integers(0, model.tokenizer.vocab_size, length - 2).tolist() for length in lengths)
    return batch_of_rows([row_of(model.tokenizer, [one]) for one in pieces], rows, tokens)


def agreement_of(name: str, vectors: np.ndarray, ours: np.ndarray) -> Record:
    """Return the largest difference of a side's vectors from ours and their mean cosine.

    Raises:
      SideError: they are other vectors.
    """
    largest = float(np.abs(vectors - ours).max())
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(ours, axis=1)
    cosine = float(((vectors * ours).sum(1) / lengths).mean())
    alike = cosine >= LEAST_COSINE if name == INT8 else largest <= MOST_DIFFERENCE * max(1.0, float(np.abs(ours).max()))
    if not alike:
        raise SideError(f"the vectors of {name} differ from ours by {largest:.2g}, their mean cosine is {cosine:.4f}")
    return {"errors": largest, "cosine": cosine}


def _onnx_vectors(model: OnnxModel, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return model(inputs)[VECTORS]


def _peer_vectors(bench: Workbench, peer: SideProcess, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Give the peer its rows; return its vectors of them, [B, D]."""
    rows, vectors = bench.folder / "rows.npz", bench.folder / "vectors.npy"
    np.savez(rows, **{name: field.astype(np.int64) for name, field in inputs.items()})  # type: ignore[arg-type]
    peer.ask("give_rows", rows=str(rows), vectors=str(vectors))
    return np.load(vectors)


def _rested(side: Side) -> float:
    time.sleep(REST)
    return side()
