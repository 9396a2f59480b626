# SPDX-License-Identifier: Apache-2.0
"""Whether a classifier is as often right as it says: the reliability picture, and what the temperature mends."""

import numpy as np

from bert_jax.pages.chart import Axis, between, Chart, Curve, percent_text
from bert_jax.pages.page import Grid, Panel, Section
from bert_jax.pages.wording import count, decimal, percent
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import number
from bert_jax.tasks.scoring.calibration import BINS, calibration_error, reliability, ReliabilityBin, tempered

_SMALLEST = 1e-7  # stands for a probability that was written as 0: six digits are kept


def calibration_sections(run: FinetunedRun) -> list[Section]:
    """The section of a classification whose labelled predictions have probabilities; else none."""
    records = [record for record in run.labelled if record.get("probabilities")]
    if run.kind != "classification" or not records:
        return []
    gold = np.array([record["label"] for record in records])
    probabilities = np.array([record["probabilities"] for record in records])
    measured = {"as trained": reliability(probabilities, gold)}
    temperature = number(run.record.get("found"), "temperature")
    if temperature is not None:
        logits = np.log(np.maximum(probabilities, _SMALLEST))  # but for a constant, which changes nothing
        measured["with the temperature"] = reliability(tempered(logits, temperature), gold)
    return [Section("calibration", "Calibration", [Grid([_panel(run, measured, temperature, len(records))])])]


def _panel(
    run: FinetunedRun, measured: dict[str, list[ReliabilityBin]], temperature: float | None, examples: int
) -> Panel:
    styles = dict(zip(measured, ("training", "held-out"), strict=False))
    lowest = min(one.low for found in measured.values() for one in found)
    x = between(lowest, 1.0, percent_text)
    chart = Chart(
        "The share that is right, against the probability of the class that is predicted",
        x=Axis(x.low, x.high, x.ticks, "probability of the class that is predicted"),
        y=between(0.0, 1.0, percent_text),
        curves=[
            Curve([(lowest, lowest), (1.0, 1.0)], "mean"),
            *(
                Curve([(one.confidence, one.accuracy) for one in found], styles[name], marked=True)
                for name, found in measured.items()
            ),
        ],
    )
    readings = [(f"ECE {name}", percent(calibration_error(found)), styles[name]) for name, found in measured.items()]
    note = f"{count(examples)} examples of {run.split} in {BINS} bins of probability; on the dashed line a model is as often"
    note += " right as it says. ECE: the mean distance from it over examples."
    if temperature is not None:
        note += (
            f" The temperature {decimal(temperature)} was found on these examples, so its error here is a little low; bert-jax"
            " predict --calibrated uses it."
        )
    return Panel("Right, of those predicted with a probability", run.split, chart, readings, note)
