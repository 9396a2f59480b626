# SPDX-License-Identifier: Apache-2.0
"""Recipes by successive halving: every combination of settings for a little compute, the better half for twice as much.

The runs of a rung take the same FLOPs, whatever their model and batch, and each has a whole schedule of its own length: a run
that is cut off in the middle of a schedule says little of its end. (Jamieson and Talwalkar, 1502.07943, go on with the same
run instead.) The held-out loss decides.

OUTPUT/plan.json                    which sweep
OUTPUT/rung-N/COMBINATION/seed-S    a run of pre-training
OUTPUT/sweep.json, report.html      what came out
"""

import itertools
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.base.types import JsonObject
from bert_jax.config.objective import token_words
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import load_config, override, to_dict
from bert_jax.feed.shards import DataDirectory, open_data, VALIDATION
from bert_jax.mesh.distributed import say
from bert_jax.model.accounting import run_flops
from bert_jax.pages.sweep import sweep_page
from bert_jax.pages.template import write
from bert_jax.pages.wording import counted
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import METRICS_FILE, REPORT_FILE, SWEEP_FILE
from bert_jax.runs.reading import number, read_metrics
from bert_jax.study.running import Job, open_plan, pretraining_job, run_jobs
from bert_jax.train.evaluation import MOST_ROWS
from bert_jax.train.pretraining import check_examples
from bert_jax.train.run import locked_by_main

FINALISTS = 2  # that run at the whole length
# Settings of all runs alone: key -> what to do instead of varying it.
NOT_VARIED = {
    "seed": "runs that differ in the seed alone are told apart by nothing else: give --seeds N, and seed=FIRST for all",
    "eval_batches": "losses of different held-out text cannot be compared: give one number for all",
}


@dataclass(frozen=True)
class Rung:
    """A number of combinations that run together, each for a share of the compute of the last rung's."""

    number: int
    combinations: int
    share: float


@dataclass(frozen=True)
class SweepPlan:
    """A sweep with everything that is known before its first run.

    recipe: its name or file. settings: as they are given. varied: values by key.
    asked: compute of all in runs of the recipe; None: as much as it takes.
    """

    recipe: str
    settings: tuple[str, ...]
    varied: Mapping[str, tuple[str, ...]]
    asked: float | None
    seeds: int
    data: DataDirectory
    output: Path

    @cached_property
    def base(self) -> PretrainConfig:
        """The recipe, with the settings of all and the data's vocabulary."""
        return self._recipe_with(self.fixed)

    def _recipe_with(self, settings: Sequence[str]) -> PretrainConfig:
        config = load_config(self.recipe)
        config = replace(config, model=replace(config.model, vocab_size=self.data.vocab_size))
        return override(config, settings)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The settings of all runs."""
        return tuple(one for one in self.settings if key_of(one) not in self.varied)

    def settings_with(self, combination: tuple[str, ...]) -> list[str]:
        """The settings of a combination's runs in the order they are given, in which `pretrain` takes them: model=SIZE before
        model.num_hidden_layers=N."""
        chosen = {key_of(one): one for one in combination}
        return [chosen.get(key_of(one), one) for one in self.settings]

    @cached_property
    def combinations(self) -> tuple[tuple[str, ...], ...]:
        """Settings of each combination, in the order of the values."""
        each = [[f"{key}={value}" for value in values] for key, values in self.varied.items()]
        return tuple(itertools.product(*each))

    @cached_property
    def rungs(self) -> tuple[Rung, ...]:
        """Halving from all combinations to the finalists."""
        counts = [len(self.combinations)]
        while counts[-1] > FINALISTS:
            counts.append(max(FINALISTS, math.ceil(counts[-1] / 2)))
        return tuple(Rung(n, count, 0.5 ** (len(counts) - 1 - n)) for n, count in enumerate(counts))

    @property
    def compute(self) -> float:
        """The compute of all, in runs of the recipe, where the last rung's are as long as it."""
        return self.seeds * sum(rung.combinations * rung.share for rung in self.rungs)

    def config(self, combination: tuple[str, ...], rung: Rung, seed: int) -> PretrainConfig:
        """Return the configuration of a run: phases as long as its compute allows, their shares and the warm-up's kept.

        Raises:
          UserError: a phase has less than half a step.
        """
        config = self._recipe_with(self.settings_with(combination))
        length = 1.0 if self.asked is None else self.asked / self.compute
        factor = length * rung.share * run_flops(self.base) / run_flops(config)
        for place, phase in enumerate(config.phases):
            if not round(factor * phase.steps):
                raise UserError(
                    f"phases.{place} of {phase.steps:,} steps would have none in rung {rung.number + 1} of {len(self.rungs)}:"
                    " give more --compute or fewer values, or leave the phase out"
                )
        batches = max(round(_evaluated_rows(self.base) / _batch_rows(config)), 1)
        return replace(config.scaled(factor), seed=self.base.seed + seed, eval_batches=batches)

    def folder(self, combination: tuple[str, ...], rung: Rung, seed: int) -> Path:
        """The folder of a run."""
        return self.output / f"rung-{rung.number}" / folder_name(combination) / f"seed-{self.base.seed + seed}"

    def record(self) -> JsonObject:
        """Return the content of plan.json."""
        return {
            "sweep": to_dict(self.base),
            "varied": {key: list(values) for key, values in self.varied.items()},
            "compute": self.asked,
            "seeds": self.seeds,
            "data": self.data.fingerprint,
        }


def key_of(setting: str) -> str:
    """Return the key of KEY=VALUE."""
    return setting.partition("=")[0]


def folder_name(combination: Sequence[str]) -> str:
    """Return the settings as a name: `learning_rate=1e-3,model=mini`."""
    parts = (setting.partition("=") for setting in combination)
    return ",".join(f"{key.rpartition('.')[2]}={value.replace('/', '_')}" for key, _, value in parts)


def make_sweep(
    recipe: str, settings: Sequence[str], compute: float | None, seeds: int, data: Path, output: Path
) -> SweepPlan:
    """Return the plan of a sweep, with everything refused that can be before the first run.

    Args:
      recipe: a configuration of pre-training, by name or file.
      settings: KEY=VALUE for all runs, KEY=V1,V2 to be compared.
      compute: of all runs together, in runs of the recipe; None: the last rung's are as long as the recipe.
      seeds: runs of each combination.
      data: made by `bert-jax prepare`.
      output: the sweep's folder.

    Raises:
      UserError: nothing to compare, or a key twice; combinations whose losses cannot be compared; a phase of less than half
        a step.
    """
    varied = {
        key: tuple(value.split(",")) for key, _, value in (one.partition("=") for one in settings) if "," in value
    }
    for key in varied:
        if len(given := [one for one in settings if key_of(one) == key]) > 1:
            raise UserError(f"{' '.join(given)}: give {key} once, with all of its values")
    plan = SweepPlan(recipe, tuple(settings), varied, compute, seeds, open_data(data), output)
    for key in NOT_VARIED.keys() & varied.keys():
        raise UserError(f"{key}={','.join(varied[key])}: {NOT_VARIED[key]}")
    if not varied:
        raise UserError("nothing to compare: give a setting several values, such as optimizer.learning_rate=5e-4,1e-3")
    if seeds < 1 or (compute is not None and not compute > 0):
        raise UserError("--seeds and --compute must be above 0")
    plan.data.split(VALIDATION)  # refused where it has none
    configs = [plan.config(combination, plan.rungs[0], 0) for combination in plan.combinations]
    for combination, config in zip(plan.combinations, configs, strict=True):
        if _measure(config) != _measure(configs[0]):
            raise UserError(
                f"{' '.join(combination)}: its held-out loss is of other tokens than that of {' '.join(plan.combinations[0])}:"
                " compare objectives and lengths by a task (bert-jax study, bert-jax probe), and take batches whose rows"
                f" divide the {_evaluated_rows(plan.base):,} that are scored (eval_batches)"
            )
        for place in range(len(config.phases)):
            check_examples(config, plan.data, place)
    names = [folder_name(combination) for combination in plan.combinations]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"two combinations are both called {twice[0]}: leave a value out, or vary one of the keys alone"
        )
    return plan


def _measure(config: PretrainConfig) -> tuple[object, ...]:
    """Return which tokens the held-out loss of a configuration is of."""
    last = config.phases[-1]
    return config.objective, last.sequence_length, config.predictions(last), _evaluated_rows(config)


def _evaluated_rows(config: PretrainConfig) -> int:
    """Return the rows of an evaluation in the last phase, of held-out text that has so many."""
    return config.eval_batches * _batch_rows(config)


def _batch_rows(config: PretrainConfig) -> int:
    return min(config.phases[-1].batch_size, MOST_ROWS)


# ---- the runs -------------------------------------------------------------------------------------------------------


def run_sweep(plan: SweepPlan, *, resume_command: str) -> JsonObject:
    """Run what is not finished of a sweep, and write sweep.json and a page after every rung; returns the record.

    Raises:
      UserError: `output` holds something else; no run of a rung has an end.
      Interrupted: asked to stop; the same command goes on.
    """
    with locked_by_main(plan.output, "sweep"):
        open_plan(plan.output, plan.record(), "another sweep")
        alive, rungs = plan.combinations, []
        failed: dict[str, str] = {}
        for rung in plan.rungs:
            say(f"rung {rung.number + 1} of {len(plan.rungs)}: {counted(len(alive), 'combination')}")
            jobs = [_job(plan, one, rung, seed, resume_command) for one in alive for seed in range(plan.seeds)]
            failed |= run_jobs(jobs, resume_command)
            losses = {one: _losses(plan, one, rung) for one in alive}
            ranked = sorted(alive, key=lambda one: _mean(losses[one]))
            if not math.isfinite(_mean(losses[ranked[0]])):
                raise UserError(f"{plan.output}: no run of rung {rung.number + 1} has a loss: {first_of(failed)}")
            kept = 0 if rung is plan.rungs[-1] else plan.rungs[rung.number + 1].combinations
            rungs.append(_rung_record(plan, rung, ranked, losses, kept))
            alive = tuple(ranked[:kept])
            record = _record(plan, rungs, failed)
            write_json(plan.output / SWEEP_FILE, record)
            write(sweep_page(record), plan.output / REPORT_FILE)
    return record


def first_of(failed: Mapping[str, str]) -> str:
    """Return the first failure in words."""
    return next((f"{name}: {why}" for name, why in failed.items()), "their losses are not finite")


def _job(plan: SweepPlan, combination: tuple[str, ...], rung: Rung, seed: int, again: str) -> Job:
    path, config = plan.folder(combination, rung, seed), plan.config(combination, rung, seed)
    return pretraining_job(str(path.relative_to(plan.output)), config, plan.data, path, again)


def _losses(plan: SweepPlan, combination: tuple[str, ...], rung: Rung) -> list[float | None]:
    """Return the held-out loss at the end of each seed's run; None: it has no end."""
    return [_last_loss(plan.folder(combination, rung, seed)) for seed in range(plan.seeds)]


def _last_loss(path: Path) -> float | None:
    run = RunDirectory(path)
    if not (path / METRICS_FILE).is_file():
        return None
    config = run.config()
    lines, _ = read_metrics(run.metrics_file)
    last = [line for line in lines if line["kind"] == "eval" and line["step"] == config.total_steps]
    return number(last[-1], f"{token_words(config.objective).term}_loss") if last else None


def _mean(losses: Sequence[float | None]) -> float:
    """Return the mean over seeds; infinite where one of them has no finite loss."""
    known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    return statistics.fmean(known) if len(known) == len(losses) else math.inf


# ---- what came out --------------------------------------------------------------------------------------------------


def _rung_record(
    plan: SweepPlan,
    rung: Rung,
    ranked: Sequence[tuple[str, ...]],
    losses: Mapping[tuple[str, ...], Sequence[float | None]],
    kept: int,
) -> JsonObject:
    runs = []
    for place, combination in enumerate(ranked):
        config, mean = plan.config(combination, rung, 0), _mean(losses[combination])
        runs.append(
            {
                "settings": list(combination),
                "name": folder_name(combination),
                "steps": config.total_steps,
                "losses": list(losses[combination]),
                "mean": mean if math.isfinite(mean) else None,
                "kept": place < kept,
            }
        )
    return {"number": rung.number, "flops": run_flops(plan.config(ranked[0], rung, 0)), "runs": runs}


def _record(plan: SweepPlan, rungs: Sequence[JsonObject], failed: Mapping[str, str]) -> JsonObject:
    """Return sweep.json: no time is in it, so that it is the same whatever stood between its runs."""
    best = rungs[-1]["runs"][0]
    return {
        "recipe": plan.recipe,
        "fixed": list(plan.fixed),
        "varied": {key: list(values) for key, values in plan.varied.items()},
        "seeds": plan.seeds,
        "compute": plan.compute if plan.asked is None else plan.asked,
        "rungs": list(rungs),
        "planned": len(plan.rungs),
        "best": best["settings"],
        "command": "bert-jax pretrain "
        + shlex.join([plan.recipe, "--data", "DATA", "--output", "RUN", *plan.settings_with(tuple(best["settings"]))]),
        "failed": dict(failed),
    }
