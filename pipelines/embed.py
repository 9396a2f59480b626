# SPDX-License-Identifier: Apache-2.0
"""`bert-jax embed`: a vector for every line of a file, from a checkpoint of any format."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bert_jax.pipelines import _checkpoint_options, _options  # type: ignore[import-not-found,unused-ignore]

from bert_jax.base.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    if not arguments.input.is_file():
        raise UserError(f"--input {arguments.input} is missing: give a file with one text a line")
    from bert_jax.base.files import file_sha256
    from bert_jax.text.streams import read_lines
    from bert_jax.train.state import COMPUTE_DTYPES
    from bert_jax.use.embedding import embed_lines, EmbedSettings
    from bert_jax.use.model import load

    settings = EmbedSettings(
        pooling=arguments.pooling,
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
    if arguments.output.suffix == ".npz" and settings.shard_size != EmbedSettings.shard_size:
        raise UserError(
            f"--shard-vectors: {arguments.output} is one file; leave it out, or name a directory for shards"
        )
    asked = _checkpoint_options.asked(arguments, kind=arguments.kind)
    model = load(arguments.model, dtype=COMPUTE_DTYPES[arguments.compute_dtype], asked=asked)
    lines = (line.rstrip("\r") for _, line in read_lines(arguments.input))
    size = arguments.input.stat().st_size
    digest = file_sha256(arguments.input)
    record = embed_lines(lines, size, model, settings, arguments.output, str(arguments.input), digest)
    if record.get("made_before"):
        print(f"{arguments.output} holds these vectors already: {record['texts']:,} of {record['width']}")
        return 0
    cut = f", {record['truncated']:,} of them cut to {model.description.model.max_position_embeddings} tokens"
    print(f"{arguments.output}: {record['texts']:,} vectors of {record['width']}{cut if record['truncated'] else ''}")
    print(json.dumps(record["settings"]))
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = _options.StageParser(prog="bert-jax embed", description="Write a vector for every line of a file.")
    option = result.add_argument
    option("model", type=Path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    lines = "a file with one text a line, also packed; vector n is of line n"
    option("--input", type=Path, required=True, metavar="TEXT", help=lines)
    option("--output", type=Path, required=True, metavar="PATH", help="FILE.npz, or a new directory for shards (.npy)")
    option(
        "--pooling",
        choices=("mean", "cls", "pooled"),
        default="mean",
        help="of tokens, or the pooler's output (default: mean)",
    )
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
        help="a text beyond the model's positions (default: error)",
    )
    stored = "number format of the vectors in the files: float32 (default) or float16"
    option("--dtype", choices=("float32", "float16"), default="float32", metavar="DTYPE", help=stored)
    computed = "number format that the network computes in: float32 (default) or bfloat16"
    option("--compute-dtype", choices=("float32", "bfloat16"), default="float32", metavar="DTYPE", help=computed)
    vectors = "vectors in a shard (default: %(default)s)"
    option("--shard-vectors", type=int, default=100_000, dest="shard_size", metavar="N", help=vectors)
    option("--shard-size", type=int, dest="shard_size", action=_options.Former, now="--shard-vectors")
    _checkpoint_options.add_checkpoint_options(result)
    return result
