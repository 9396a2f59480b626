# SPDX-License-Identifier: Apache-2.0
"""`bert-jax embed`: a vector for every line of a file, from a checkpoint of any format."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options, _processes

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path
from bert_jax.base.serving import HELP, serve, texts_of
from bert_jax.base.types import JsonObject

if TYPE_CHECKING:
    from bert_jax.use.embedding import EmbedSettings
    from bert_jax.use.model import Pretrained

SHARD_SIZE = 100_000
POOLINGS = ("mean", "cls", "max", "last", "pooled")


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    _processes.join_processes(arguments)
    if not arguments.serve and not arguments.input.is_file():
        raise UserError(f"--input {arguments.input} is missing: give a file with one text a line")
    from bert_jax.mesh.distributed import all_or_none, is_main

    with all_or_none():
        model, settings = _open(arguments)
    if arguments.serve:
        serve(lambda request: _answer(model, settings, request), sys.stdin.buffer, sys.stdout)
        return 0
    _processes.require_same_work(arguments, {"step": str(model.origin.step)})
    record = _embed(model, settings, arguments)
    with all_or_none():
        if is_main():
            print(_described(record, model, settings, arguments.output))
    return 0


def _open(arguments: argparse.Namespace) -> "tuple[Pretrained, EmbedSettings]":
    """The model, and what its vectors are made of.

    Raises:
      UserError: naming the option that would do nothing, or that the model cannot give.
    """
    from bert_jax.conversion.sentence_files import followed, Served
    from bert_jax.mesh.distributed import say
    from bert_jax.train.state import COMPUTE_DTYPES
    from bert_jax.use.embedding import check, EmbedSettings
    from bert_jax.use.model import load

    vectors, said = followed(arguments.model, Served(arguments.pooling, arguments.normalize))
    for line in said:
        say(line)
    settings = EmbedSettings(
        pooling=vectors.pooling,
        normalize=vectors.normalize,
        longest=vectors.longest,
        layers=tuple(arguments.layers),
        combine=arguments.combine,
        too_long=arguments.too_long,
        dtype=arguments.dtype,
        shard_size=arguments.shard_size,
    )
    if settings.combine != EmbedSettings.combine and len(settings.layers) < 2:
        raise UserError(
            f"--combine {settings.combine} is of several layers: name them (--layers -4 -3 -2 -1), or leave it out"
        )
    one_file = arguments.output is not None and arguments.output.suffix == ".npz"
    if one_file and settings.shard_size != EmbedSettings.shard_size:
        raise UserError(
            f"--shard-vectors: {arguments.output} is one file; leave it out, or name a directory for shards"
        )
    asked = _checkpoint_options.asked(arguments, kind=arguments.kind)
    model = load(arguments.model, dtype=COMPUTE_DTYPES[arguments.compute_dtype], asked=asked)
    check(settings, model)
    return model, settings


def _embed(model: "Pretrained", settings: "EmbedSettings", arguments: argparse.Namespace) -> JsonObject:
    from bert_jax.base.bucket_cache import local_copy
    from bert_jax.base.files import file_sha256
    from bert_jax.text.streams import read_lines
    from bert_jax.use.embedding import embed_lines

    source = local_copy(arguments.input)
    lines = (line.rstrip("\r") for _, line in read_lines(source))
    size, digest = source.stat().st_size, file_sha256(source)
    return embed_lines(lines, size, model, settings, arguments.output, str(arguments.input), digest)


def _described(record: JsonObject, model: "Pretrained", settings: "EmbedSettings", output: Path) -> str:
    """Say what was made, or was there already."""
    if record.get("made_before"):
        return f"{output} holds these vectors already: {record['texts']:,} of {record['width']}"
    cut = f", {record['truncated']:,} of them cut to {min(model.longest, settings.longest or model.longest)} tokens"
    made = f"{output}: {record['texts']:,} vectors of {record['width']}{cut if record['truncated'] else ''}"
    return f"{made}\n{json.dumps(record['settings'])}"


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that would do nothing."""
    if not arguments.serve:
        if arguments.input is None or arguments.output is None:
            raise UserError("give --input TEXT and --output PATH, or --serve to answer lines of standard input")
        return
    _processes.refuse_process_options(arguments, "--input")
    given: dict[str, tuple[object, object]] = {
        "input": (arguments.input, None),
        "output": (arguments.output, None),
        "dtype": (arguments.dtype, "float32"),
        "shard-vectors": (arguments.shard_size, SHARD_SIZE),
    }
    idle = [name for name, (value, default) in given.items() if value != default]
    if idle:
        raise UserError(f"--{idle[0]} is of files, and --serve writes none: leave it out")


def _answer(model: "Pretrained", settings: "EmbedSettings", request: JsonObject) -> JsonObject:
    """The vector for a request of --serve."""
    from bert_jax.use.embedding import embed

    vectors, cut = embed(texts_of(request, ("text",)), model, settings)
    longest = min(model.longest, settings.longest or model.longest)
    return {"vector": vectors[0].tolist()} | ({"notes": [f"cut to {longest} tokens"]} if cut else {})


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = _options.StageParser(prog="bert-jax embed", description="Write a vector for every line of a file.")
    option = result.add_argument
    option("model", type=any_path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    lines = "a file with one text a line, also packed; vector n is of line n"
    option("--input", type=any_path, metavar="TEXT", help=lines)
    option("--serve", action="store_true", help=HELP % '"text": ...')
    option("--output", type=any_path, metavar="PATH", help="FILE.npz, or a new directory for shards (.npy)")
    pooling = (
        "mean, max, first (cls) or last one of the tokens, or the pooler's output (pooled); left to right the last one has"
        " seen all (default: as MODEL's modules.json says, else mean)"
    )
    option("--pooling", choices=POOLINGS, metavar="POOLING", help=pooling)
    normalize = "divide vectors by their length (default: as MODEL's modules.json says, else not)"
    option("--normalize", action=argparse.BooleanOptionalAction, default=None, help=normalize)
    option(
        "--layers",
        type=int,
        nargs="+",
        default=[-1],
        metavar="N",
        help="0: embeddings, 1 ... L, -1: the last (default)",
    )
    option("--combine", choices=("concat", "sum", "mean"), default="concat", help="of several layers (default: concat)")
    option(
        "--too-long",
        choices=("error", "truncate"),
        default="error",
        help="a text beyond the rows the model was trained on (default: error)",
    )
    stored = "number format of the vectors in the files: float32 (default) or float16"
    option("--dtype", choices=("float32", "float16"), default="float32", metavar="DTYPE", help=stored)
    computed = "number format that the network computes in: float32 (default) or bfloat16"
    option("--compute-dtype", choices=("float32", "bfloat16"), default="float32", metavar="DTYPE", help=computed)
    vectors = "vectors in a shard (default: %(default)s)"
    option("--shard-vectors", type=int, default=SHARD_SIZE, dest="shard_size", metavar="N", help=vectors)
    option("--shard-size", type=int, dest="shard_size", action=_options.Former, now="--shard-vectors")
    _checkpoint_options.add_checkpoint_options(result)
    _processes.add_process_options(result)
    return result
