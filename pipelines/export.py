# SPDX-License-Identifier: Apache-2.0
"""`bert-jax export`: a checkpoint of any format -> ONNX or StableHLO for other programs, with a certificate."""

import argparse
from collections.abc import Sequence

from bert_jax.pipelines import _checkpoint_options, _options

from bert_jax.base.bucket_output import staged
from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text

DESCRIPTION = """\
Export a model for programs that serve it: ONNX (model.onnx, rows and tokens of any number, operator set 17), or a StableHLO
program for CPU, CUDA and TPU with a loader that needs jax and tokenizers alone (load.py). The tokenizer lies beside it. The
result is read back and compared with the model here; export.json says how far they are apart."""


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.int8 and arguments.to != "onnx":
        raise UserError("--int8 is of --to onnx: leave it out")
    idle = [name for name in ("data", "split", "loss", "task") if getattr(arguments, name) is not None]
    if idle and not arguments.int8:
        raise UserError(f"--{idle[0]} is what --int8 is judged by: leave it out, or give --int8")
    if arguments.int8 and arguments.data is None:
        raise UserError("--int8 needs --data to judge its quality on: the task's files, or a file with a text a line")
    if arguments.int8 and arguments.purpose == "fill-mask":
        raise UserError("--int8 is of embeddings and fine-tuned heads: leave it out, or choose another --for")
    from bert_jax.conversion.sentence_files import Served
    from bert_jax.export.export import export, RECORD
    from bert_jax.export.quality import Judged

    given = {"split": arguments.split, "most_loss": arguments.loss}
    judged = Judged(arguments.data, **{name: value for name, value in given.items() if value is not None})
    with staged(arguments.output, "export", RECORD, goes_on=False) as folder:
        exported = export(
            arguments.model,
            folder,
            arguments.to,
            arguments.purpose,
            Served(arguments.pooling, arguments.normalize),
            judged if arguments.int8 else None,
            arguments.task,
            _checkpoint_options.asked(arguments, kind=arguments.kind),
        )
    print(f"{arguments.model}: {exported.description.summary()}, for {exported.purpose.name}")
    print("\n".join(exported.lines()))
    print(f"written: {arguments.output}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = _options.StageParser(
        prog="bert-jax export", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = result.add_argument
    option("model", type=any_path, metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    option("--to", required=True, choices=("onnx", "stablehlo"), metavar="FORMAT", help="onnx or stablehlo")
    option("--output", type=any_path, required=True, metavar="PATH", help="a new directory")
    option(
        "--for",
        dest="purpose",
        choices=("embed", "fill-mask", "predict"),
        help="the stage that does the same (default: predict of a fine-tuned model, embed of others)",
    )
    pooling = (
        "of embed: mean, cls, max or pooled, as of bert-jax embed (default: as MODEL's modules.json says, else mean)"
    )
    option("--pooling", choices=("mean", "cls", "max", "pooled"), metavar="POOLING", help=pooling)
    normalize = "of embed: divide vectors by their length (default: as MODEL's modules.json says, else not)"
    option("--normalize", action=argparse.BooleanOptionalAction, default=None, help=normalize)
    option("--int8", action="store_true", help="matrix products of int8 (dynamic quantisation), if the quality holds")
    option(
        "--data",
        type=any_text,
        metavar="DATA",
        help="of --int8: the task's files, or for embeddings a file with a text a line",
    )
    option("--split", metavar="NAME", help="of --int8: of the task's files (default: dev)")
    option("--loss", type=float, metavar="LOSS", help="of --int8: of score or cosine, 0 to 1, at most (default: 0.01)")
    task = "of --int8: the task whose files --data has, of a fine-tuned checkpoint that was made elsewhere"
    option("--task", metavar="NAME", help=task)
    _checkpoint_options.add_checkpoint_options(result, former_task=False)
    return result
