# SPDX-License-Identifier: Apache-2.0
"""Our side of fine-tuning. Imports stand in the function, because `keep_freed_memory` goes before NumPy's threads."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TYPE_CHECKING

from bert_jax.base.host import keep_freed_memory
from bert_jax.base.types import JsonObject
from bert_jax.bench.sides.child import cpu_seconds, Figures, metered, versions

if TYPE_CHECKING:
    from bert_jax.finetuning.batches import Units
    from bert_jax.finetuning.prepared import FinetuneSetup


def finetune(data: str, model: str, config: JsonObject) -> Figures:
    """Run `bert-jax finetune` on SST-2's train.tsv in a folder without a dev split, so that nothing is scored.

    The first epoch warms up, the last one is measured: from its first batch being asked for to its last step's end. Then the
    texts are predicted twice, and the second time is measured.
    """
    keep_freed_memory()  # as the command does
    from bert_jax.config.fields import build
    from bert_jax.config.finetune import FinetuneConfig
    from bert_jax.finetuning import prediction
    from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
    from bert_jax.finetuning.run import finetune as run_finetune
    from bert_jax.train import log, session

    wanted = Wanted("sst2", data, Path(model), build(FinetuneConfig, config))
    compiling = _watch(session, "compile_train_step", time.monotonic)
    compiling_predictions = _watch(prediction, "compile_prediction", time.monotonic)
    writing = _watch(log, "append_metrics", cpu_seconds)  # of each line
    run_finetune(wanted, Path("run"), resume_command="")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [(call, line) for call, line in zip(writing, lines, strict=True) if line["kind"] == "train"]  # of epochs
    (before, _), (end, last) = ends[-2:]

    units, predicting, share = _predict_twice(FinetuneSetup(wanted))
    return {
        "training": {
            "examples_per_second": last["examples_per_second"],
            "examples_per_cpu_second": len(units) / (end.begin - before.end),
            "valid_share": last["valid_token_share"],
            "loss": last["loss"],
            "compilation_seconds": _total(compiling),
            "programs": len(compiling),
        },
        "prediction": {
            "examples_per_second": len(units) / predicting["wall_seconds"],
            "examples_per_cpu_second": len(units) / predicting["cpu_seconds"],
            "valid_share": share,
            "compilation_seconds": _total(compiling_predictions),
            "programs": len(compiling_predictions),
        },
        "tokens": int(units.table.lengths.sum()),
        "versions": versions("bert-jax", "jax", "jaxlib", "numpy"),
    }


def _predict_twice(setup: "FinetuneSetup") -> tuple["Units", Figures, float]:
    """Predict the training texts; return them, the seconds of the second pass, and the share of valid tokens in it."""
    from bert_jax.finetuning.prediction import Predictor

    predictor, units = Predictor(setup.training), setup.train_split.units
    params = setup.initial_state().params
    for _ in range(2):
        with metered() as predicting:
            predictor.outputs(params, units)
    places = sum(draw.shape.rows * draw.shape.width for draw in predictor.draws(units))
    return units, predicting, float(units.table.lengths.sum() / places)


class Call(NamedTuple):
    """The readings of a clock before and after a call."""

    begin: float
    end: float


def _watch(module: ModuleType, name: str, clock: Callable[[], float]) -> list[Call]:
    """Note from now on when the calls of a module's function begin and end."""
    function, calls = getattr(module, name), []

    def watched(*arguments: object) -> object:
        begin = clock()
        result = function(*arguments)
        calls.append(Call(begin, clock()))
        return result

    setattr(module, name, watched)
    return calls


def _total(calls: list[Call]) -> float:
    return sum(call.end - call.begin for call in calls)
