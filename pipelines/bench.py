# SPDX-License-Identifier: Apache-2.0
"""`bert-jax bench`: how fast this machine trains, against what it could do and against a peer."""

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.config.settings import load_config
from bert_jax.errors import UserError

FAILED = 1  # exit status: something could not be measured


def make_parser(subjects: dict[str, str], default: Sequence[str]) -> argparse.ArgumentParser:
    """The command line."""
    listed = "\n".join(f"  {name:<11} {text}" for name, text in subjects.items())
    parser = argparse.ArgumentParser(
        prog="bert-jax bench",
        description="Measure this machine on made-up data. Prints tables; --output keeps every sample and a page.",
        epilog=f"subjects:\n{listed}\n\nexit status: 0 all measured, {FAILED} something failed (it is named, the rest is"
        " measured)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="measure this configuration's model and phases")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="changed settings of what is measured, such as attention=xla"
    )
    parser.add_argument("--only", nargs="+", choices=list(subjects), metavar="SUBJECT", help=f"not {' '.join(default)}")
    parser.add_argument("--all", action="store_true", help="every subject")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for bench.json and bench.html")
    parser.add_argument(
        "--peer-python", type=Path, metavar="FILE", help="a Python that has torch and transformers, for the peer"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    from bert_jax.bench.subjects import DEFAULT, SUBJECTS

    arguments = make_parser(SUBJECTS, DEFAULT).parse_intermixed_args(argv)
    if arguments.all and arguments.only:
        raise UserError("--all and --only: one at a time")
    subjects = list(SUBJECTS) if arguments.all else arguments.only or list(DEFAULT)
    name, settings = split_config(arguments.config, arguments.settings)
    if arguments.peer_python is not None and "peer" not in subjects:
        raise UserError(
            "--peer-python is for the subject peer, which is not measured: add it to --only, or leave it out"
        )
    if arguments.peer_python is not None and not arguments.peer_python.is_file():
        raise UserError(f"--peer-python {arguments.peer_python}: no such file: name the Python of an environment")
    if "peer" in subjects:  # both sides share the memory of a GPU
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    import jax

    from bert_jax.bench.results import failures
    from bert_jax.bench.runner import make_suite, run_bench

    config = None if name is None else (name, load_config(name))
    suite = make_suite(jax.local_devices()[0].platform, jax.local_device_count(), config, settings)
    command = f"bert-jax bench {shlex.join(argv)}".strip()
    report = run_bench(suite, subjects, arguments.output, peer_python=arguments.peer_python, command=command)
    print_report(report)
    failed = failures(report)
    for what, error in failed:
        print(f"bert-jax bench: {what} could not be measured: {error}", file=sys.stderr)
    if arguments.output is not None:
        print(f"\nbenched: {arguments.output / 'bench.json'}, {arguments.output / 'bench.html'}")
    return FAILED if failed else 0


def print_report(report: Mapping[str, Any]) -> None:
    """The tables of every subject, and which peers are absent."""
    from bert_jax.bench.tables import tables_of

    for subject, entry in report["subjects"].items():
        for table in tables_of(subject, entry):
            print(f"\n{table.as_text()}")
        for record in entry["records"]:
            if "absent" in record:
                print(f"\n{record['name']}: absent: {record['absent']}")


def split_config(config: str | None, settings: Sequence[str]) -> tuple[str | None, list[str]]:
    """The first argument may be a setting: without a configuration, the platform's own sizes are changed."""
    if config is not None and "=" in config:
        return None, [config, *settings]
    return config, list(settings)
