# SPDX-License-Identifier: Apache-2.0
"""Text -> vectors: one for each line of a file, from any layers of any checkpoint, in shards.

Shapes: N texts, B rows, S tokens, D features, K chosen layers.
"""

import functools
import hashlib
import json
import re
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from bert_jax.base.bucket_cache import local_copy
from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent, write_json
from bert_jax.base.lines import grouped
from bert_jax.base.output_lock import LOCK_FILE
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.conversion.own_format import flat
from bert_jax.feed.batch import Batch, batch_of_packed_rows
from bert_jax.feed.examples import EMPTY
from bert_jax.feed.packing import fill_rows, in_batches
from bert_jax.mesh.dealing import dealt_out
from bert_jax.mesh.distributed import all_or_none, is_main, of_main, require_same
from bert_jax.model.encoder import Compute, EncoderOutput
from bert_jax.model.forward import Inputs, model_graph, require_finite
from bert_jax.train.run import locked_by_main
from bert_jax.use.model import Pretrained, Row, SHOWN, TOKENS_AT_ONCE
from bert_jax.use.pooling import pooled_texts, scaled

RECORD = "embeddings.json"
_LEFT_BEHIND = re.compile(r"embeddings-\d{5,}\.npy(\.partial)?|embeddings\.json\.partial")  # before there is a record
_WIDTH = 128  # tokens of a row that short texts share; such have half as many at most
_MOST_IN_A_ROW = 32
_BLOCK = 4096  # texts that are sorted by length and kept in memory at once
_BLOCK_CHARACTERS = 2**22  # held at once, and one line more


@dataclass(frozen=True)
class EmbedSettings:
    """The layers and tokens that a vector is made of, and the files that vectors are written to."""

    # mean or max: of tokens, [CLS] and [SEP] among them; cls: the first; last: the last; pooled: the pooler's output
    pooling: str = "mean"
    normalize: bool = False  # divide each vector by its length
    longest: int | None = None  # tokens of a text that are read; None: as many as the model was trained on
    layers: tuple[int, ...] = (-1,)  # 0: the embeddings, 1: the first layer, -1: the last
    combine: str = "concat"  # of layers; or sum, mean
    too_long: str = "error"  # or truncate
    dtype: str = "float32"
    shard_size: int = 100_000  # vectors in a file


def check(settings: EmbedSettings, model: Pretrained) -> None:
    """Refuse what the model cannot give.

    Raises:
      UserError: naming the option.
    """
    layers = model.description.model.num_hidden_layers
    wrong = [layer for layer in settings.layers if not -layers - 1 <= layer <= layers]
    if wrong:
        raise UserError(
            f"--layers {wrong[0]}: the model has layers 1 to {layers} (-1 is the last); 0 is the output of its embeddings"
        )
    model.description.model.require_pooling(settings.pooling)
    if settings.pooling == "pooled" and not model.description.pooler:
        raise UserError(f"--pooling pooled: {model.origin.path} has no pooler{_why(model)}: use mean, cls or last")
    if settings.pooling == "pooled" and settings.layers != (-1,):
        raise UserError("--pooling pooled stands on the last layer: leave out --layers")
    if settings.shard_size < 1:
        raise UserError(f"--shard-vectors {settings.shard_size} must be at least 1")


def _why(model: Pretrained) -> str:
    """Return why a run of pre-training has no pooler."""
    run, objective = model.origin.run, model.origin.config.objective
    if run is None or objective.nsp or not run.data_file.is_file():
        return ""
    return f", because objective={objective.name} predicts no label of pairs, which alone would have trained it"


def width_of(settings: EmbedSettings, model: Pretrained) -> int:
    """Numbers in a vector."""
    parts = len(settings.layers) if settings.combine == "concat" and settings.pooling != "pooled" else 1
    return parts * model.description.model.hidden_size


# ---- vectors -------------------------------------------------------------------------------------------------------


def embed(
    texts: Sequence[str], model: Pretrained, settings: EmbedSettings, place: str = "text", first: int = 0
) -> tuple[np.ndarray, int]:
    """Vectors of texts, [N, width], in their order, and how many texts were cut.

    Args:
      texts: each its own row.
      model: whatever `bert_jax.load` gives.
      settings: what a vector is made of.
      place, first: what a text is called in a message, by its number, the first being `first`: "lines.txt, line", 1.

    Raises:
      UserError: a text is too long, and `too_long` is error.
    """
    rows, cut = rows_of(texts, model, settings, place, first)
    vectors = np.empty((len(rows), width_of(settings, model)), settings.dtype)
    for batch in _batches(rows, model):
        found = np.asarray(vectors_of(batch.fields, model, settings), np.float32)[batch.places]
        require_finite(found, model.params)
        if np.abs(found).max(initial=0) > np.finfo(vectors.dtype).max:
            raise UserError(f"--dtype {settings.dtype}: a vector holds {np.abs(found).max():.4g}: give --dtype float32")
        vectors[batch.numbers] = found
    return vectors, cut


class _Batch(NamedTuple):
    numbers: list[int]  # of texts
    places: np.ndarray  # of their vectors, among all that the batch gives
    fields: Batch


def _batches(rows: Sequence[Row], model: Pretrained) -> Iterator[_Batch]:
    """Every text once: short ones share rows of one size where they fill a batch of such, others have a row each."""
    width = min(_WIDTH, model.description.model.max_position_embeddings)
    short = [number for number, (ids, _) in enumerate(rows) if 2 * len(ids) <= width]
    size = TOKENS_AT_ONCE // width
    held = np.zeros((0, _MOST_IN_A_ROW), np.int64)
    if sum(len(rows[number][0]) for number in short) >= size * width // 2:
        held = fill_rows(np.array([len(rows[number][0]) for number in short]), width, _MOST_IN_A_ROW)
        held = np.where(held == EMPTY, EMPTY, np.array(short)[held])
    for part in in_batches(held, size):
        places = np.flatnonzero(part != EMPTY)
        yield _Batch(part.reshape(-1)[places].tolist(), places, batch_of_packed_rows(rows, part, width))
    others = sorted(set(range(len(rows))) - set(held[held != EMPTY].tolist()))
    for batch in model.batches([rows[number] for number in others]):
        places = np.arange(len(batch.numbers))
        yield _Batch([others[number] for number in batch.numbers], places, batch.fields)


def rows_of(
    texts: Sequence[str], model: Pretrained, settings: EmbedSettings, place: str = "text", first: int = 0
) -> tuple[list[tuple[list[int], list[int]]], int]:
    """Return ids and segments of each text, and how many texts were cut; see `embed`."""
    longest, reach, cut, rows = model.longest, f"the model {model.reach}", 0, []
    if settings.longest is not None and settings.longest < longest:
        longest, reach = settings.longest, f"{model.origin.path} says that {settings.longest} are read"
    for number, text in enumerate(texts, start=first):
        ids, segments = model.ids(text)
        if len(ids) > longest:
            if settings.too_long == "error":
                raise UserError(
                    f"{place} {number}: {text[:SHOWN]!r} is {len(ids)} tokens long, and {reach}: shorten it, or"
                    " give --too-long truncate"
                )
            ids, segments, cut = [*ids[: longest - 1], ids[-1]], segments[:longest], cut + 1
        rows.append((ids, segments))
    return rows, cut


def vectors_of(batch: Batch, model: Pretrained, settings: EmbedSettings) -> jax.Array:
    """Return [B, width] of a batch with a text a row, of packed rows [B * E, width]."""
    return _compiled_vectors(model.description, model.compute, settings)(model.params, dict(batch))


@functools.lru_cache(maxsize=2)
def _compiled_vectors(
    description: ModelDescription, compute: Compute, settings: EmbedSettings
) -> Callable[[PyTree, Inputs], jax.Array]:
    """Compile network and pooling as one program: pooled apart, one text takes half as long again on two cores."""
    graph = model_graph(description, compute)

    def vectors(params: PyTree, batch: Inputs) -> jax.Array:
        last_alone = settings.pooling == "pooled" or settings.layers == (-1,)
        return _vectors(nnx.merge(graph, params)(batch, all_layers=not last_alone).encoder, batch, settings)

    return jax.jit(vectors)


def _vectors(encoded: EncoderOutput, batch: Inputs, settings: EmbedSettings) -> jax.Array:
    if settings.pooling == "pooled":
        assert encoded.pooled_output is not None  # `check` has seen to it
        return scaled(encoded.pooled_output.reshape(-1, encoded.pooled_output.shape[-1]), settings.normalize)
    each = encoded.sequence_output[None] if encoded.all_layers is None else encoded.all_layers
    chosen = each[jnp.asarray(settings.layers)].astype(jnp.float32)  # [K, B, S, D]
    pooled = pooled_texts(chosen, batch, settings.pooling)
    if settings.combine == "concat":
        return scaled(jnp.concatenate(list(pooled), axis=-1), settings.normalize)
    return scaled(pooled.sum(0) if settings.combine == "sum" else pooled.mean(0), settings.normalize)


# ---- files ---------------------------------------------------------------------------------------------------------


def embed_lines(
    lines: Iterable[str],
    total: int,
    model: Pretrained,
    settings: EmbedSettings,
    output: Path,
    name: str = "input",
    input_sha256: str | None = None,
) -> JsonObject:
    """Vectors of lines into an .npz file or a directory of .npy shards; returns its record.

    Several processes deal the lines out in blocks; the main one writes, and its record alone names the shards.

    Args:
      lines: texts, one a line; an empty one has a vector too, so that line n is vector n.
      total: bytes of all lines, for the progress bar.
      output: a name that ends in .npz (arrays `embeddings` [N, width] and `record`, its JSON, in one file), or a directory
        (embeddings-00000.npy, ... of `shard_size` vectors, and embeddings.json, written last), which is new, empty, or
        what a start that was cut off has left: then it is begun anew.
      name: of the lines' file, for messages.
      input_sha256: of that file; with it a finished result of the same is recognised: its record is returned, with
        `made_before`, and nothing is written.

    Raises:
      UserError: as `check` and `embed`; `output` is there already and of something else, or another process writes there.
    """
    check(settings, model)
    request = None
    if input_sha256 is not None:
        request = {"settings": asdict(settings), "input": input_sha256, "weights": _weights_sha256(model)}
        require_same({name: json.dumps(value) for name, value in request.items()})
        with all_or_none():
            made = _made_before(output, request) if is_main() else None
        if of_main(made is not None):
            return (made or {}) | {"made_before": True}
    with nullcontext() if output.suffix == ".npz" else locked_by_main(output, "embed"):
        return _embed_lines(lines, total, model, settings, output, name, request)


def _embed_lines(
    lines: Iterable[str],
    total: int,
    model: Pretrained,
    settings: EmbedSettings,
    output: Path,
    name: str,
    request: JsonObject | None,
) -> JsonObject:
    with all_or_none():
        if is_main():
            _clear(output)
    counts = {"texts": 0, "truncated": 0}

    def work(blocks: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[np.ndarray, int, int]]:
        for first, block in blocks:
            vectors, cut = embed(block, model, settings, f"{name}, line", first)
            yield vectors, cut, sum(len(line.encode()) + 1 for line in block)

    def told(found: Iterable[tuple[np.ndarray, int, int]]) -> Iterator[np.ndarray]:
        hidden = None if is_main() else True
        with tqdm(total=total, unit="B", unit_scale=True, desc="embed", disable=hidden) as bar:
            for vectors, cut, size in found:
                counts["texts"] += len(vectors)
                counts["truncated"] += cut
                bar.update(size)
                bar.set_postfix_str(f"{counts['texts']:,} texts", refresh=False)
                yield vectors

    width = width_of(settings, model)
    record = {"settings": asdict(settings), "width": width, "model": model.description.to_dict(), "request": request}
    with dealt_out(_numbered(lines), work, "vectors", at_once=1) as found:
        blocks = told(found)
        if not is_main():
            deque(blocks, maxlen=0)
        elif output.suffix == ".npz":
            everything = np.concatenate([*blocks, np.empty((0, width), settings.dtype)])
            with complete_or_absent(output) as file:
                np.savez(file, embeddings=everything, record=np.array(json.dumps(record | counts)))
        else:
            output.mkdir(exist_ok=True)
            shards = enumerate(_shards(blocks, settings))
            record["shards"] = [_write_shard(output, number, shard) for number, shard in shards]
            write_json(output / RECORD, record | counts)
    return record | counts


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Blocks of lines, each with the number of its first line, from 1."""
    first = 1
    for block in grouped(lines, _BLOCK_CHARACTERS, _BLOCK):
        yield first, block
        first += len(block)


def _weights_sha256(model: Pretrained) -> str:
    """A hash of all that decides about a vector of the model: parameters and tokenizer."""
    digest = hashlib.sha256(model.tokenizer.fingerprint.encode())
    for path, leaf in sorted(flat(model.params).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def _made_before(output: Path, request: JsonObject) -> JsonObject | None:
    """The record of a result that is there, if it is of the same texts, weights and settings, and its files are whole."""
    try:
        output = local_copy(output)
        if output.suffix == ".npz":
            with np.load(output, allow_pickle=False) as arrays:
                record = json.loads(str(arrays["record"]))
                arrays["embeddings"]  # has a checksum in the archive
        else:
            record = json.loads((output / RECORD).read_bytes())
        if json.loads(json.dumps(request)) != record["request"]:
            return None
        for shard in record.get("shards", []):
            vectors = np.load(output / shard["file"], allow_pickle=False)
            if hashlib.sha256(vectors).hexdigest() != shard["sha256"]:
                raise UserError(
                    f"{output / shard['file']} was changed since it was made: remove {output} to do it again"
                )
        return record
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None  # nothing there, or something else, which `_clear` names


def _clear(output: Path) -> None:
    """See that there is room for the result: shards without their record are those of a start that was cut off."""
    if output.suffix != ".npz" and output.is_dir():
        files = [file for file in output.iterdir() if file.name != LOCK_FILE]
        if not all(_LEFT_BEHIND.fullmatch(file.name) for file in files):  # which the record is not
            raise UserError(f"{output} is there already: choose another --output")
        if files:
            tqdm.write(f"{output} was cut off before its end: begun anew", file=sys.stderr)
        for file in files:
            file.unlink()
    elif output.exists():
        raise UserError(f"{output} is there already: choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)


def _shards(blocks: Iterable[np.ndarray], settings: EmbedSettings) -> Iterator[np.ndarray]:
    """Blocks -> arrays of exactly `shard_size` vectors, the last one of what is left."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        while count >= settings.shard_size:
            together = np.concatenate(held)
            yield together[: settings.shard_size]
            held, count = [together[settings.shard_size :]], count - settings.shard_size
    if count:
        yield np.concatenate(held)


def _write_shard(folder: Path, number: int, vectors: np.ndarray) -> JsonObject:
    name = f"embeddings-{number:05}.npy"
    with complete_or_absent(folder / name) as file:
        np.save(file, vectors)
    return {"file": name, "vectors": len(vectors), "sha256": hashlib.sha256(vectors).hexdigest()}
