# SPDX-License-Identifier: Apache-2.0
"""A run computed again and compared with what it left (`bert-jax reproduce`), killed on the way too."""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json
from bert_jax.base.paths import on_bucket
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.training import TrainingConfig
from bert_jax.conversion.finished import CERTIFICATE
from bert_jax.feed.shards import open_data
from bert_jax.finetuning.directory import open_finetuned
from bert_jax.finetuning.prepared import FinetuneSetup
from bert_jax.finetuning.run import Finetuning
from bert_jax.finetuning.run import open_run_directory as open_finetuning
from bert_jax.mesh.distributed import say
from bert_jax.rerun.opening import DATA, open_again, Opened, wanted_of
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.cost import without_clock
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.reading import read_metrics, Record
from bert_jax.train.pretraining import attention_case, open_run_directory, Pretraining
from bert_jax.train.run import locked_by_main, train_run

NO_CAUSE = ("started", DATA, "peak_flops_per_device", "peak_source")  # of environment.json
TRIES = 3  # of a series of kills, where one missed


@dataclass(frozen=True)
class Reproduction:
    """A run beside what came of computing it again."""

    steps: int
    data: str  # in words
    lines: int  # of metrics that were compared
    metrics: str  # what differs first; empty: nothing
    checkpoint: int | None  # the step whose parameters were compared; None: the run keeps none of these steps
    arrays: Sequence[str]  # what differs
    causes: Sequence[str]  # what is another one than it was: name, then, now

    @property
    def equal(self) -> bool:
        """Whether all that was compared is the same, to the bit."""
        return not self.metrics and not self.arrays


def reproduce(path: Path, output: Path, data: str | None = None, steps: int | None = None) -> Reproduction:
    """Compute a run again in another folder, or go on with that, and compare.

    Args:
      path: the run.
      output: the folder of the second one.
      data: where its data lies, if not where it lay.
      steps: the first ones alone; None: all.

    Raises:
      UserError: the run cannot be opened, was not finished as far, or began with weights that are gone; there is nothing to
        compare; `output` is the run itself.
    """
    if not on_bucket(path) and output.exists() and path.exists() and output.samefile(path):
        raise UserError(f"--output {output}: is the run itself, and equals itself whatever it is: name another folder")
    original = open_again(path, data)
    total = original.objective.training.config.total_steps
    wanted = total if steps is None else steps
    done = max((line["step"] for line in read_metrics(original.run.metrics_file)[0]), default=0)
    if not 1 <= wanted <= min(total, done):
        raise UserError(
            f"{path}: --steps {wanted}: there is something to compare with from 1 to {min(total, done)} steps"
        )
    _require_comparable(original.run, wanted)
    words = _check_data(original)
    again = _train(original, output, data, wanted if wanted < total else None)
    first, second = (_lines(run, wanted) for run in (original.run, again))
    checkpoint = _common_checkpoint(original.run, again, wanted)
    return Reproduction(
        wanted,
        words,
        len(first),
        _first_difference(first, second),
        checkpoint,
        _different_arrays(original, again, checkpoint) if checkpoint is not None else (),
        list(_causes(original.run, again)),
    )


def _require_comparable(run: RunDirectory, steps: int) -> None:
    """Refuse first steps of which the run has left neither a line of metrics nor, of the last one, a checkpoint."""
    lines = without_clock(read_metrics(run.metrics_file)[0])
    first = min((line["step"] for line in lines if line["step"] > 0), default=None)
    if (first is None or steps < first) and not (run.checkpoints / str(steps)).is_dir():
        more = "" if first is None else f": name {first} or more"
        raise UserError(f"{run.path}: --steps {steps}: there is nothing to compare with yet after so many{more}")


def _check_data(original: Opened) -> str:
    """Return in words that the data is what it was; a run that other data is named for was refused on opening."""
    if not isinstance(original.objective, Pretraining):
        return "the examples and the first weights have the digests in finetune.json"
    if (original.run.path / CERTIFICATE).is_file():  # trained on in its own directory, by an earlier version
        raise UserError(f"{original.run.path}: began with a converted checkpoint, and those weights are gone")
    folder = original.objective.data.directory
    shards = [
        shard
        for split in open_data(folder, verify_hashes=True).manifest["splits"].values()
        for shard in split["shards"]
    ]
    return f"{len(shards)} shards of {folder} have the sha256 in passport.json"


def _train(original: Opened, output: Path, data: str | None, until: int | None) -> RunDirectory:
    """Train in another folder, or go on there."""
    objective, command = original.objective, f"bert-jax reproduce {original.run.path} --output {output}"
    if isinstance(objective, Pretraining):
        with locked_by_main(output, "reproduce"):
            parts, models = (objective.data, objective.tokenizer), (objective.beginning, objective.teacher)
            run = open_run_directory(output, objective.config, *parts, *models)
            again = Pretraining(objective.training, *parts, run, *models)
            train_run(again, run, attention_case(objective.training), resume_command=command, until=until)
        return run
    with locked_by_main(output, "reproduce"):
        prepared = FinetuneSetup(wanted_of(open_finetuned(original.run.path), data, _same))
        tuned = open_finetuning(output, prepared, prepared.record())
        case = prepared.training.attention_case(prepared.schedule.widths)
        train_run(Finetuning(prepared, tuned), tuned, case, resume_command=command, until=until)
    return tuned


def _same(config: TrainingConfig) -> TrainingConfig:
    return config


# ---- comparison ----------------------------------------------------------------------------------------------------


def _lines(run: RunDirectory, steps: int) -> list[JsonObject]:
    return without_clock([line for line in read_metrics(run.metrics_file)[0] if line["step"] <= steps])


def _first_difference(first: Sequence[JsonObject], second: Sequence[JsonObject]) -> str:
    """Return the first line in which two runs differ, in words; empty where none does."""
    for one, other in zip(first, second, strict=False):
        if one != other:
            names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
            shown = ", ".join(f"{name} {one.get(name)!r} then, {other.get(name)!r} now" for name in names[:3])
            return f"step {one['step']:,}, {one['kind']}: {shown}"
    if len(first) != len(second):
        longer = max(first, second, key=len)[min(len(first), len(second))]
        return f"step {longer['step']:,}: {len(first)} lines then, {len(second)} now"
    return ""


def _common_checkpoint(first: RunDirectory, second: RunDirectory, steps: int) -> int | None:
    """Return the newest step that both keep a checkpoint of."""
    kept = [
        {int(place.name) for place in run.checkpoints.glob("[0-9]*") if place.name.isdecimal()}
        for run in (first, second)
    ]
    return max((step for step in kept[0] & kept[1] if step <= steps), default=None)


def _different_arrays(original: Opened, again: RunDirectory, step: int) -> list[str]:
    """Return the arrays of a checkpoint that differ, with the largest difference."""
    trees = [jax.tree_util.tree_leaves_with_path(_arrays(original, run, step)) for run in (original.run, again)]
    say(f"compared {len(trees[0])} arrays of {sum(leaf.size for _, leaf in trees[0]):,} numbers at step {step:,}")
    return [
        f"{jax.tree_util.keystr(path)}: largest difference {np.abs(one - other).max():.3g}"
        for (path, one), (_, other) in zip(*trees, strict=True)
        if not np.array_equal(one, other)
    ]


def _arrays(original: Opened, run: RunDirectory, step: int) -> PyTree:
    state = original.objective.training.abstract_state
    with Checkpoints(run.checkpoints) as checkpoints:
        items = {"params": state.params}
        if checkpoints.has(step, "optimizer"):
            items["optimizer"] = (state.opt_state, state.step)
        restored = checkpoints.restore(step, items)
    return jax.tree.map(np.asarray, {name: restored[name] for name in items})


def _causes(first: RunDirectory, second: RunDirectory) -> list[str]:
    """Return what the environments of two runs have unlike: what may explain a difference."""
    try:
        then, now = (read_json(run.environment_file, "remove it") for run in (first, second))
    except FileNotFoundError:
        return ["the run has no environment.json: it is not known what computed it"]
    names = [name for name in {**then, **now} if name not in NO_CAUSE and then.get(name) != now.get(name)]
    return [f"{name}: {then.get(name, 'not recorded')} then, {now.get(name)} now" for name in names]


def report(found: Reproduction) -> str:
    """Return the comparison for people."""
    lines = [f"data         {found.data}"]
    lines.append(f"metrics      {found.metrics or f'{found.lines} lines up to step {found.steps:,} are equal'}")
    if found.checkpoint is None:
        lines.append(
            f"parameters   not compared: the run keeps no checkpoint of a step up to {found.steps:,} that this one has too"
        )
    elif found.arrays:
        lines += [f"parameters   {line}" for line in found.arrays[:5]]
        lines += [f"             and {len(found.arrays) - 5} more arrays"] if len(found.arrays) > 5 else []
    else:
        lines.append(f"parameters   equal bit for bit at step {found.checkpoint:,}, moments too where both keep them")
    if not found.equal:
        lines += [f"may explain  {cause}" for cause in found.causes]
        lines += [] if found.causes else ["may explain  nothing that is recorded: processor and versions are the same"]
    return "\n".join(lines)


# ---- kills -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """The moment of a kill: so many seconds after `step` has its line of metrics; the next line is not there by then."""

    step: int
    seconds: float


def kill_on_the_way(
    command: Sequence[str], original: RunDirectory, output: Path, kills: int, steps: int | None
) -> list[Moment]:
    """Compute a run in another folder and kill that within its steps so many times; it is left where the last kill hit.

    Raises:
      UserError: too few lines of metrics to draw from, kills that missed the run in every try, or a run that failed.
    """
    for _ in range(TRIES):
        moments = draw_moments(read_metrics(original.metrics_file)[0], kills, steps)
        if all(kill_at(command, RunDirectory(output), moment) for moment in moments):
            return moments
        say("a kill came when the run had ended: once more from the beginning")
        shutil.rmtree(output)
    raise UserError(
        f"{TRIES} times a kill missed the run, which ends too soon: nothing is proven: set log_every lower or train longer"
    )


def draw_moments(lines: Sequence[Record], kills: int, steps: int | None = None) -> list[Moment]:
    """Return moments within the steps of a run with these lines of metrics, the later ones at later steps.

    Raises:
      UserError: there are too few lines.
    """
    clock = [line for line in lines if line["kind"] == "clock" and line["step"] <= (steps or line["step"])]
    known = {line["step"]: line["steps"] + line["data_wait"] for line in clock if line["step"] > 0}
    places = list(known)
    if len(places) <= kills:
        raise UserError(
            f"--kills {kills} needs more lines of training than that in metrics.jsonl, and there are {len(places)}: set"
            " log_every lower"
        )
    chosen = sorted(random.sample(range(len(places) - 1), kills))
    seconds = [known[places[n + 1]] - known[places[n]] for n in chosen]
    return [Moment(places[n], random.uniform(0.0, 0.5) * took) for n, took in zip(chosen, seconds, strict=True)]


def kill_at(command: Sequence[str], run: RunDirectory, moment: Moment) -> bool:
    """Start a command and kill it when its run has come to a moment; False if it had ended by itself.

    Raises:
      UserError: it failed before.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if last_step(run) >= moment.step:
                time.sleep(moment.seconds)
                process.kill()
                hit = process.wait() == -signal.SIGKILL
                say(f"SIGKILL after step {moment.step:,}: {'killed' if hit else 'the run was done before'}")
                return hit
            time.sleep(0.005)
    finally:  # asked to stop by a signal that this process alone has got: nobody would end the other one
        process.kill()
        process.wait()
    if process.returncode:
        raise UserError(f"the run that was to be killed failed with status {process.returncode}, and why stands above")
    return False


def last_step(run: RunDirectory) -> int:
    """The newest step in metrics.jsonl; -1 before there is one, and while a line is being written."""
    try:
        lines = run.metrics_file.read_text(encoding="utf-8").splitlines()
        return max((json.loads(line)["step"] for line in lines), default=-1)
    except (FileNotFoundError, json.JSONDecodeError):
        return -1
