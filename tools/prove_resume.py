# SPDX-License-Identifier: Apache-2.0
"""Prove on your own configuration that a killed run ends as an uninterrupted one does, bit for bit.

    python -m bert_jax.tools.prove_resume CONFIG --data DATA --output DIR [--kills 2] [KEY=VALUE ...]

Trains DIR/straight to the end, then DIR/killed, which gets SIGKILL at random moments and is started again each time,
and compares all parameters, both moments, the step and the metrics of the two. Exit status 0 only if all are equal.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoint import Checkpoints
from bert_jax.run_directory import open_run, RunDirectory
from bert_jax.sharding import make_mesh
from bert_jax.train_state import Training


def main(argv: Sequence[str] | None = None) -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=2, help="how often the second run is killed (default: 2)")
    arguments = parser.parse_intermixed_args(argv)
    straight, killed = arguments.output / "straight", arguments.output / "killed"
    command = [sys.executable, "-m", "bert_jax.cli", "pretrain", arguments.config, *arguments.settings]
    command += ["--data", str(arguments.data), "--output"]
    begin = time.monotonic()
    subprocess.run([*command, str(straight)], check=True)
    seconds = time.monotonic() - begin
    for number in range(arguments.kills):
        moment = random.uniform(0.2, 0.9) * seconds / (number + 1)
        print(
            f"SIGKILL after {moment:.1f} s: {'killed' if kill_after([*command, str(killed)], moment) else 'was done'}"
        )
    subprocess.run([*command, str(killed)], check=True)
    different = compare(open_run(straight), open_run(killed))
    print("\n".join(different) or "equal bit for bit: parameters, moments, step, metrics")
    return 1 if different else 0


def kill_after(command: Sequence[str], seconds: float) -> bool:
    """Start a command and kill it; False if it had ended by itself."""
    process = subprocess.Popen(command)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def compare(one: RunDirectory, other: RunDirectory) -> list[str]:
    """What differs between the final states and metrics of two runs."""
    first, second = (jax.tree_util.tree_leaves_with_path(final_state(run)) for run in (one, other))
    different = [
        f"{jax.tree_util.keystr(path)}: largest difference {np.abs(a - b).max()}"
        for (path, a), (_, b) in zip(first, second, strict=True)
        if not np.array_equal(a, b)
    ]
    print(f"compared {len(first)} arrays of {sum(leaf.size for _, leaf in first):,} numbers")
    return different + ([] if metrics(one) == metrics(other) else ["metrics.jsonl differs"])


def final_state(run: RunDirectory) -> Any:
    """All arrays of the newest checkpoint, as NumPy."""
    config = run.config()
    state = Training(config, make_mesh(config.mesh)).abstract_state
    checkpoints = Checkpoints(run.checkpoints)
    items = {"params": state.params, "optimizer": (state.opt_state, state.step)}
    restored = checkpoints.restore(checkpoints.latest or 0, items)
    checkpoints.close()
    return jax.tree.map(np.asarray, {name: restored[name] for name in items})


def metrics(run: RunDirectory) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


if __name__ == "__main__":
    sys.exit(main())
