# SPDX-License-Identifier: Apache-2.0
"""`bert-jax sweep`: settings with several values -> which combination has the lowest held-out loss, by successive halving."""

import shlex
from collections.abc import Sequence

from bert_jax.pipelines import _bucket_options, _options

from bert_jax.base.paths import any_path, any_text
from bert_jax.config.pretrain import PretrainConfig


def make_parser() -> _options.StageParser:
    """The options of the stage."""
    parser = _options.StageParser(
        prog="bert-jax sweep",
        description="Compare settings of pre-training by successive halving: every combination runs for a little compute, the"
        " better half for twice as much, until two have run as long as CONFIG. The runs of a rung take the same FLOPs. The"
        " same command goes on where it was stopped. Exit status 1: a run failed.",
        epilog="bert-jax sweep demo --data DATA --output OUT optimizer.learning_rate=5e-4,1e-3,2e-3 optimizer.name=adamw,muon",
    )
    option = parser.add_argument
    recipe = "a name in configs/ (demo, base, ...), a .py file or a run's config.json"
    option("config", type=any_text, metavar="CONFIG", help=recipe)
    several = "settings of all runs, and with several values (KEY=V1,V2) those that are compared"
    option("settings", nargs="*", metavar="KEY=VALUE", help=several)
    option(
        "--data", type=any_path, required=True, metavar="DATA", help="made by bert-jax prepare, with a held-out part"
    )
    option("--output", type=any_path, required=True, metavar="PATH", help="the folder of all runs and of the page")
    option("--seeds", type=int, default=1, metavar="N", help="runs of each combination (default: 1)")
    compute = "compute of all runs together, in runs of CONFIG (default: what it takes until two ran as long as CONFIG)"
    option("--compute", type=float, metavar="RUNS", help=compute)
    _bucket_options.add_bucket_options(parser)
    parser.config = PretrainConfig()
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit status."""
    arguments = make_parser().parse_with_settings(argv)
    from bert_jax.study.sweep import make_sweep, run_sweep

    place = arguments.data, arguments.output
    plan = make_sweep(arguments.config, arguments.settings, arguments.compute, arguments.seeds, *place)
    for rung in plan.rungs:
        steps = plan.config(plan.combinations[0], rung, 0).total_steps
        print(
            f"rung {rung.number + 1}: {rung.combinations} x {plan.seeds} runs, {steps:,} steps of {plan.combinations[0][0]}"
        )
    record = run_sweep(plan, resume_command=f"bert-jax sweep {shlex.join(argv)}")
    for run in record["rungs"][-1]["runs"]:
        print(
            f"held-out loss {run['mean']:.4f}  {' '.join(run['settings'])}" if run["mean"] is not None else run["name"]
        )
    for name, why in record["failed"].items():
        print(f"failed: {name}: {why}")
    print(f"written: {arguments.output / 'report.html'}")
    return 1 if record["failed"] else 0
