# SPDX-License-Identifier: Apache-2.0
"""Several runs of one task: seeds, and the paper's grid. Runs that have learned nothing are counted, never averaged in."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.base.paths import on_bucket
from bert_jax.base.stopping import begin_next
from bert_jax.base.types import JsonObject
from bert_jax.finetuning.prepared import Wanted
from bert_jax.finetuning.run import finetune, Result
from bert_jax.mesh.distributed import all_or_none, is_main, say
from bert_jax.runs.names import SEEDS_FILE
from bert_jax.tasks.scoring.chance import spread_of
from bert_jax.tasks.table import BATCH_SIZES, EPOCHS, find_task, LEARNING_RATES
from bert_jax.train.run import locked_by_main


@dataclass(frozen=True)
class RunEntry:
    """One of several runs."""

    folder: str
    wanted: Wanted


def with_retries(wanted: Wanted, output: Path, retries: int, *, resume_command: str) -> Result:
    """One run; where it has learned nothing, the next seed, at most `retries` times.

    The failed one stays beside it, as OUTPUT-failed-SEED, and is named. Where the same command goes on, it is found there.

    Raises:
      UserError: as `finetune`; another run has the name of a failed one.
    """
    if retries and on_bucket(output):
        raise UserError(
            f"--retries: {output} is on a bucket, where the folder of a failed run cannot be renamed: leave it out"
        )
    for _ in range(retries):
        failed = output.with_name(f"{output.name}-failed-{wanted.config.seed}")
        path = failed if failed.exists() else output
        result = finetune(wanted, path, resume_command=resume_command)
        if result.degenerate is None:
            return result
        with all_or_none():
            if path == output and is_main():
                output.rename(failed)
            begin_next(resume_command)
        say(f"{result.degenerate.kind}: {result.degenerate.explanation}\nkept as {failed}; again with the next seed")
        wanted = replace(wanted, config=replace(wanted.config, seed=wanted.config.seed + 1))
    return finetune(wanted, output, resume_command=resume_command)


def seeds(wanted: Wanted, count: int) -> list[RunEntry]:
    """`count` runs, with the seeds from the configured one on."""
    first = wanted.config.seed
    return [
        RunEntry(f"seed-{seed}", replace(wanted, config=replace(wanted.config, seed=seed)))
        for seed in range(first, first + count)
    ]


def grid(wanted: Wanted) -> list[RunEntry]:
    """The grid of the paper's appendix A.3; what is set on the command line stays as it is."""
    config = wanted.config
    rates = LEARNING_RATES if config.optimizer.learning_rate is None else (config.optimizer.learning_rate,)
    sizes = BATCH_SIZES if config.batch_size is None else (config.batch_size,)
    lengths = EPOCHS if config.epochs is None else (config.epochs,)
    entries = []
    for rate, size, epochs in itertools.product(rates, sizes, lengths):
        optimizer = replace(config.optimizer, learning_rate=rate)
        own = replace(config, optimizer=optimizer, batch_size=size, epochs=float(epochs))
        entries.append(RunEntry(f"rate-{rate:g}-batch-{size}-epochs-{epochs:g}", replace(wanted, config=own)))
    return entries


def run_all(entries: Sequence[RunEntry], output: Path, *, resume_command: str) -> JsonObject:
    """All runs, one after the other; finished ones are recognised. Returns and writes seeds.json.

    Raises:
      UserError, Interrupted: as `finetune`; the runs before are kept, and the same command goes on.
    """
    results: list[Result] = []
    with locked_by_main(output, "finetune"):
        for number, entry in enumerate(entries, start=1):
            with all_or_none():
                begin_next(resume_command)
            say(f"run {number} of {len(entries)}: {entry.folder}")
            results.append(finetune(entry.wanted, output / entry.folder, resume_command=resume_command))
            record = summary(entries[:number], results)
            if is_main():
                write_json(output / SEEDS_FILE, record)
    return record


def summary(entries: Sequence[RunEntry], results: Sequence[Result]) -> JsonObject:
    """Mean, standard deviation, best and how many collapsed, of the runs that have learned something."""
    good = [
        (result.value, result.path.name) for result in results if result.degenerate is None and result.value is not None
    ]
    spread = spread_of([value for value, _ in good])
    task = entries[0].wanted.task
    return {
        "task": task if isinstance(task, str) else "own",
        "title": find_task(task).title if isinstance(task, str) else "own data",
        "metric": results[0].metric,
        "split": results[0].split,
        "runs": [_run_record(entry, result) for entry, result in zip(entries, results, strict=True)],
        "mean": spread.mean if spread else None,
        "standard_deviation": spread.deviation if spread else None,
        "best": max(good)[1] if good else None,
        "collapsed": sum(result.degenerate is not None for result in results),
    }


def _run_record(entry: RunEntry, result: Result) -> JsonObject:
    config = entry.wanted.config
    return {
        "seed": config.seed,
        "folder": result.path.name,
        "value": result.value,
        "degenerate": result.degenerate.to_dict() if result.degenerate else None,
        "undecided": result.undecided,
        "settings": {
            "learning_rate": config.optimizer.learning_rate,
            "batch_size": config.batch_size,
            "epochs": config.epochs,
        },
    }
