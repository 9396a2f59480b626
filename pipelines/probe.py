# SPDX-License-Identifier: Apache-2.0
"""bert-jax probe: models + a task -> what a linear function reads from each of their layers, and a page of it."""

from collections.abc import Sequence

from bert_jax.pipelines import _checkpoint_options, _options, finetune

from bert_jax.base.bucket_output import staged
from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path, any_text
from bert_jax.tasks.table import TASKS


def make_parser() -> _options.StageParser:
    """The command line."""
    parser = _options.StageParser(
        prog="bert-jax probe",
        description="Train a linear probe on every layer of a model, and one on a learned mix of all layers, and score them on"
        " the dev split: which layer is best for what. Several models, or checkpoints of a run, stand side by side.",
        epilog=f"tasks: {', '.join(TASKS)}, own; of these single texts, pairs and tagging",
    )
    option = parser.add_argument
    option("models", type=any_path, nargs="+", metavar="MODEL", help=_checkpoint_options.ANY_FORMAT)
    option(
        "--task", required=True, metavar="NAME", help="a task of the table, or own: your files, by --kind and columns"
    )
    option(
        "--data",
        type=any_text,
        required=True,
        metavar="DATA",
        help="folder with the task's official files, or tfds:NAME",
    )
    option("--output", type=any_path, required=True, metavar="PATH", help="new folder for probe.json and report.html")
    option("--seeds", type=int, default=5, metavar="N", help="probes of each layer, for intervals (default: 5)")
    option("--train-examples", type=int, metavar="N", help="training examples at most, evenly chosen (default: all)")
    pooling = "mean (default), cls or last of a text's tokens; words of tagging have none"
    option("--pooling", choices=("mean", "cls", "last", "pooled"), metavar="POOLING", help=pooling)
    finetune.add_own_options(parser, "--task own")
    _checkpoint_options.add_checkpoint_options(parser, kind=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_args(argv)
    from bert_jax.finetuning.probe import probe, ProbeSettings, RECORD, Request
    from bert_jax.pages.probe import best_layer, model_names, spreads

    if arguments.pooling == "pooled":
        raise UserError("--pooling pooled stands on the last layer, and every layer is probed: use mean or cls")
    settings = ProbeSettings(arguments.pooling, arguments.seeds, arguments.train_examples)
    task = finetune.own_task_of(arguments, arguments.task)
    asked = _checkpoint_options.asked(arguments, head=False)
    with staged(arguments.output, "probe", RECORD, goes_on=False) as folder:
        record = probe(arguments.models, Request(task, arguments.data, settings, asked), folder)
    for model, name in zip(record["models"], model_names(record["models"]), strict=True):
        scores = spreads(model["scores"])
        best = best_layer(scores)
        words = [
            f"{'mix' if number == model['layers'] + 1 else number} {'none' if one is None else format(one.mean, '.4f')}"
            for number, one in enumerate(scores)
        ]
        print(f"{name}: {record['split']} {record['metric']} by layer: {', '.join(words)}; best layer {best}")
    print(f"written: {arguments.output / 'report.html'}")
    return 0
