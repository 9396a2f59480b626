# SPDX-License-Identifier: Apache-2.0
"""Can one batch be learned by heart (`bert-jax doctor --overfit`)? If not, something is wrong between text and update."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.paths import any_path
from bert_jax.checks import rules
from bert_jax.checks.findings import Finding, PROBLEM
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import load_config
from bert_jax.config.training import MeshConfig, RunConfig, TrainingConfig
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.sharding import put_on_mesh
from bert_jax.rerun.opening import open_again, open_pretraining, Opened
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import CONFIG_FILE
from bert_jax.train.bad_steps import total_loss
from bert_jax.train.state import Training
from bert_jax.train.step import compile_train_step

SECONDS, MOST_STEPS = 120.0, 2_000
WARM_UP = 10  # steps
TOKENS = 2_048  # of the batch at most
LEARNED = 0.02  # of the first loss: there is no more to see
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Overfit:
    """The course of learning one batch."""

    rows: int
    losses: Sequence[float]  # nats, of every step
    seconds: float
    rate: float  # learning rate

    def finding(self) -> Finding:
        """Return the judge's verdict."""
        first, last = self.losses[0], float(np.median(self.losses[-3:]))
        bad = next((step for step, loss in enumerate(self.losses, 1) if not math.isfinite(loss)), None)
        if bad is not None:
            return rules.OVERFIT.found(PROBLEM, f"the loss of {self.rows} rows is not finite at step {bad}")
        share = last / max(first, 1e-9)
        seen = (
            f"the loss of {self.rows} rows went from {first:.3f} to {last:.3f} nats, {share:.0%} of it, in"
            f" {len(self.losses)} steps and {self.seconds:.0f} s at a rate of {self.rate:g}"
        )
        return rules.OVERFIT.judge(share, seen, ": the batch is not learned by heart")

    def curve(self, width: int = 60) -> str:
        """Return the losses as a line of bars, the highest full."""
        parts = np.array_split(np.nan_to_num(np.asarray(self.losses), posinf=0.0), min(width, len(self.losses)))
        means = [float(part.mean()) for part in parts]
        top = max(max(means), 1e-9)
        return "".join(BARS[min(int(mean / top * len(BARS)), len(BARS) - 1)] for mean in means)


def overfit(path: Path, data: str | None = None, seconds: float = SECONDS) -> Overfit:
    """Train on the first batch of a run or a configuration alone, without dropout, at its highest rate held constant.

    Args:
      path: a run of any kind, or a configuration of pre-training: a name in configs/ or a .py file.
      data: where the data lies; of a run None: where it lay.

    Raises:
      UserError: neither a run nor a configuration, or its data is not there.
    """
    use_compilation_cache()
    opened = _open(path, data)
    given = opened.objective.training
    description = given.described
    still = None if description is None else replace(description, model=_without_dropout(description.model))
    training = Training(_constant(given.config), given.mesh, still)
    batch = _one_batch(opened)
    step = compile_train_step(training, opened.objective.loss, batch)
    state, arrays = opened.objective.initial_state(), put_on_mesh(training.mesh, batch)
    losses: list[float] = []
    begin = time.perf_counter()
    with tqdm(total=MOST_STEPS, unit="step", desc="one batch", leave=False, disable=None) as bar:
        while len(losses) < MOST_STEPS and time.perf_counter() - begin < seconds:
            state, sums = step(state, arrays)
            read = {name: float(value) for name, value in jax.device_get(sums).items()}
            losses.append(total_loss(read, training.config))
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            if not math.isfinite(losses[-1]) or losses[-1] < LEARNED * losses[0]:
                break
    rate = training.config.schedule_parts()[0].learning_rate
    return Overfit(len(batch["input_ids"]), losses, time.perf_counter() - begin, rate)


def _open(path: Path, data: str | None) -> Opened:
    if (path / CONFIG_FILE).is_file():
        return open_again(path, data, _on_one_device)
    config = load_config(str(path))
    if data is None:
        raise UserError(f"--overfit {path}: a configuration says nothing of data: name it with --data")
    return open_pretraining(RunDirectory(path), _on_one_device(config), any_path(data))


def _on_one_device(config: TrainingConfig) -> TrainingConfig:
    return replace(config, mesh=MeshConfig(data=1), micro_batches=1, profile=None, on_bad_step="stop")


def _constant(config: RunConfig) -> RunConfig:
    """Return a configuration with its rate held constant after a short warm-up, and without dropout."""
    optimizer = replace(config.optimizer, schedule="constant", warmup_steps=WARM_UP, warmup_share=None)
    changes: dict[str, object] = {"optimizer": optimizer, "model": _without_dropout(config.model)}
    if isinstance(config, PretrainConfig):
        changes["phases"] = (replace(config.phases[0], steps=MOST_STEPS, learning_rate=None, warmup_steps=None),)
    return replace(config, **changes)  # type: ignore[arg-type]


def _without_dropout(model: ModelConfig) -> ModelConfig:
    return replace(model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def _one_batch(opened: Opened) -> dict[str, np.ndarray]:
    """Return the first batch; of many rows that stand for themselves the first ones."""
    span = opened.objective.spans()[0]
    feed = opened.objective.batches(span, span.begin)
    batch = dict(next(feed))
    feed.close()
    rows, width = batch["input_ids"].shape
    if len({len(field) for field in batch.values()}) > 1:
        return batch
    return {name: field[: max(1, min(rows, TOKENS // width))] for name, field in batch.items()}
