# SPDX-License-Identifier: Apache-2.0
"""Experiment trackers beside TensorBoard (`tracker=wandb`, `mlflow`, `trackio`). The only importer of these three.

A line of metrics reaches a tracker when a checkpoint of its step, or of a later one, is complete. So a resumed run goes on with
the same tracked run and has nothing to take back: what it computes again was never handed over. `tracker.json` in the run
directory says which tracked run it is and how many lines it has; it is written after them, so a kill in between repeats these
few, the same. Projects, servers and offline modes are those of each tracker's own environment variables.

Trackers are on the way of nothing: all of it happens in a thread, and what fails is said once, counted, and tried again.
"""

import importlib.util
import itertools
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from bert_jax.base.errors import UserError
from bert_jax.base.files import own_folder, read_json, write_json
from bert_jax.base.host import cache_folder
from bert_jax.base.paths import on_bucket
from bert_jax.base.types import JsonObject
from bert_jax.config.settings import flatten
from bert_jax.runs.directory import RunDirectory
from bert_jax.runs.names import TRACKER_FILE
from bert_jax.runs.reading import read_metrics, Record

PROJECT = "bert_jax"
LONGEST_WAIT = 60  # seconds, for a tracker at the end of a run
NO_CURVES = ("step", "phase", "first", "last")


class TrackedRun(Protocol):
    """A run as a tracker has it."""

    id: str

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Add points: (step, values by name), in the order of the steps."""

    def close(self) -> None:
        """End it; the same id can be opened again."""


class _Wandb:
    def __init__(self, run: RunDirectory, known: str | None, config: JsonObject):
        import wandb

        self.id = known or secrets.token_hex(4)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = wandb.init(
            project=project, id=self.id, name=run.path.resolve().name, resume="allow", dir=_local(run), config=config
        )

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in points:
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _local(run: RunDirectory) -> str:
    """Return the folder for files that wait for their server: the run's, or of a run on a bucket the user's cache."""
    return str(own_folder(cache_folder() / "trackers") if on_bucket(run.path) else run.path)


class _Mlflow:
    def __init__(self, run: RunDirectory, known: str | None, config: JsonObject):
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self.id = known or self._create(run, config)

    def _create(self, run: RunDirectory, config: JsonObject) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        made = self._client.create_run(experiment, run_name=run.path.resolve().name).info.run_id
        for key, value in flatten(config):
            self._client.log_param(made, key, value)
        return str(made)

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for step, values in points for name, value in values.items()]
        for part in itertools.batched(metrics, 1000):  # the most that a server takes at once
            self._client.log_batch(self.id, metrics=list(part))

    def close(self) -> None:
        self._client.set_terminated(self.id)


class _Trackio:
    def __init__(self, run: RunDirectory, known: str | None, config: JsonObject):
        import trackio

        self._trackio = trackio
        self.id = known or f"{run.path.resolve().name}-{secrets.token_hex(4)}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        trackio.init(project=project, name=self.id, resume="allow", config=dict(flatten(config)))

    def log(self, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, values in points:
            self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


# name of `config.training.TRACKERS` -> (run, id of the tracked run or None, configuration) -> tracked run
OPENED: Mapping[str, Callable[[RunDirectory, str | None, JsonObject], TrackedRun]] = {
    "wandb": _Wandb,
    "mlflow": _Mlflow,
    "trackio": _Trackio,
}


def require_installed(name: str | None) -> None:
    """Refuse a tracker that is not installed.

    Raises:
      UserError: names the extra.
    """
    if name is not None and importlib.util.find_spec(name) is None:
        raise UserError(f"tracker={name}: is not installed: pip install 'bert-jax[{name}]', or leave the setting out")


class Tracking:
    """The lines of a run on their way to a tracker, for the main process."""

    def __init__(self, name: str, run: RunDirectory, config: JsonObject, say: Callable[[str], None]):
        self.name, self.run, self.config = name, run, config
        self.failures = 0
        self._say = say
        self._tracked: TrackedRun | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tracker")
        self._last: Future[None] | None = None

    def hand_over(self, step: int) -> None:
        """Give the tracker the lines up to a step that is saved, behind the work of the run."""
        self._last = self._thread.submit(self._safely, lambda: self._send(step))

    def close(self) -> None:
        """Wait for the tracker, for LONGEST_WAIT at most, and say what it did not get."""
        self._last = self._thread.submit(self._safely, self._close)
        with suppress(TimeoutError):
            self._last.result(LONGEST_WAIT)
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self.failures or not self._last.done():
            self._say(
                f"tracker={self.name}: failed {self.failures} times; metrics.jsonl has every line, and the run's next start"
                " hands over what is missing"
            )

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # whatever a tracker raises: a run does not stop for it
            self.failures += 1
            if self.failures == 1:
                reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
                self._say(f"tracker={self.name}: {reason[0]}: the run goes on without it, and tries again at each save")

    def _send(self, step: int) -> None:
        known = self._known()
        sent = known.get("lines", 0)
        lines = read_metrics(self.run.metrics_file)[0][sent:]
        ready = list(itertools.takewhile(lambda line: line["step"] <= step, lines))
        if self._tracked is None:
            self._tracked = OPENED[self.name](self.run, known.get("id"), self.config)
            self._note(sent)
        if ready:
            self._tracked.log([(line["step"], curves(line)) for line in ready])
            self._note(sent + len(ready))

    def _close(self) -> None:
        if self._tracked is not None:
            self._tracked.close()

    def _known(self) -> JsonObject:
        try:
            known: JsonObject = read_json(
                self.run.path / TRACKER_FILE, "remove it: the run is then tracked as a new one"
            )
        except FileNotFoundError:
            return {}
        return known if known.get("tracker") == self.name else {}

    def _note(self, lines: int) -> None:
        assert self._tracked is not None
        write_json(self.run.path / TRACKER_FILE, {"tracker": self.name, "id": self._tracked.id, "lines": lines})


def curves(line: Record) -> dict[str, float]:
    """Return the numbers of a line of metrics under the names of their curves, such as `train/loss`."""
    numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
    return {f"{line['kind']}/{name}": value for name, value in numbers.items() if name not in NO_CURVES}
