# SPDX-License-Identifier: Apache-2.0
"""Prove on your own configuration that a killed run ends as an uninterrupted one does, bit for bit.

    python -m bert_jax.tools.prove_resume CONFIG --data DATA --output DIR [--kills 2] [KEY=VALUE ...]

Trains DIR/straight to the end, then DIR/killed, which gets SIGKILL at random moments within its steps and is started
again each time, and compares all parameters, both moments, the step and the metrics of the two. Exit status 0 only if
every kill has hit a run that was under way and all are equal.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.mesh.sharding import make_mesh
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.directory import open_run, RunDirectory
from bert_jax.train.state import Training


def main(argv: Sequence[str] | None = None) -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=2, help="how often the second run is killed (default: 2)")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.kills < 1:
        parser.error(f"--kills {arguments.kills} proves nothing: at least 1")
    if arguments.output.exists():
        parser.error(f"{arguments.output} is there already, and a run in it may be done: choose another --output")
    straight, killed = arguments.output / "straight", arguments.output / "killed"
    command = [sys.executable, "-m", "bert_jax.cli", "pretrain", arguments.config, *arguments.settings]
    command += ["--data", str(arguments.data), "--output"]
    subprocess.run([*command, str(straight)], check=True)
    try:
        moments = draw_moments(open_run(straight), arguments.kills)
    except UserError as error:
        parser.error(str(error))
    hits = [kill_at([*command, str(killed)], RunDirectory(killed), moment) for moment in moments]
    for moment, hit in zip(moments, hits, strict=True):
        print(f"SIGKILL after step {moment.step:,}: {'killed' if hit else 'the run was done before'}")
    subprocess.run([*command, str(killed)], check=True)
    if not all(hits):
        print(
            f"{sum(hits)} of {arguments.kills} kills hit a run that was under way: nothing is proven", file=sys.stderr
        )
        return 1
    different = compare(open_run(straight), open_run(killed))
    print("\n".join(different) or "equal bit for bit: parameters, moments, step, metrics")
    return 1 if different else 0


@dataclass(frozen=True)
class Moment:
    """The moment of a kill: so many seconds after `step` has its line of metrics; the next line is not there by then."""

    step: int
    seconds: float


def draw_moments(run: RunDirectory, kills: int) -> list[Moment]:
    """`kills` moments within the steps of a run like this one, by its lines of metrics; the later ones at later steps.

    Raises:
      UserError: there are too few lines.
    """
    lines = [line for line in all_metrics(run) if line["kind"] == "train"]
    if len(lines) <= kills:
        raise UserError(
            f"--kills {kills} needs more lines of training than that in metrics.jsonl, and there are {len(lines)}: set"
            " log_every lower"
        )
    chosen = sorted(random.sample(range(len(lines) - 1), kills))
    return [Moment(lines[n]["step"], random.uniform(0.0, 0.5) * lines[n + 1]["seconds"]) for n in chosen]


def kill_at(command: Sequence[str], run: RunDirectory, moment: Moment) -> bool:
    """Start a command and kill it when its run has come to a moment; False if it had ended by itself."""
    process = subprocess.Popen(command)
    while process.poll() is None:
        if last_step(run) >= moment.step:
            time.sleep(moment.seconds)
            process.kill()
            return process.wait() == -signal.SIGKILL
        time.sleep(0.005)
    return False


def last_step(run: RunDirectory) -> int:
    """The newest step in metrics.jsonl; -1 before there is one, and while a line is being written."""
    try:
        return max((line["step"] for line in all_metrics(run)), default=-1)
    except (FileNotFoundError, json.JSONDecodeError):
        return -1


def compare(one: RunDirectory, other: RunDirectory) -> list[str]:
    """Return the differences between the final states and metrics of two runs."""
    first, second = (jax.tree_util.tree_leaves_with_path(final_state(run)) for run in (one, other))
    different = [
        f"{jax.tree_util.keystr(path)}: largest difference {np.abs(a - b).max()}"
        for (path, a), (_, b) in zip(first, second, strict=True)
        if not np.array_equal(a, b)
    ]
    print(f"compared {len(first)} arrays of {sum(leaf.size for _, leaf in first):,} numbers")
    return different + ([] if metrics(one) == metrics(other) else ["metrics.jsonl differs"])


def final_state(run: RunDirectory) -> PyTree:
    """All arrays of the newest checkpoint, as NumPy."""
    config = run.config()
    state = Training(config, make_mesh(config.mesh)).abstract_state
    checkpoints = Checkpoints(run.checkpoints)
    items = {"params": state.params, "optimizer": (state.opt_state, state.step)}
    restored = checkpoints.restore(checkpoints.latest or 0, items)
    checkpoints.close()
    return jax.tree.map(np.asarray, {name: restored[name] for name in items})


def all_metrics(run: RunDirectory) -> list[JsonObject]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]


def metrics(run: RunDirectory) -> list[JsonObject]:
    """The lines of metrics.jsonl without what depends on the clock."""
    return [{name: value for name, value in line.items() if "second" not in name} for line in all_metrics(run)]


if __name__ == "__main__":
    sys.exit(main())
