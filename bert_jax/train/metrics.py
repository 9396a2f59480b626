# SPDX-License-Identifier: Apache-2.0
"""Measures of training: sums read from the device, added up on the host, divided once.

The names `nsp_*` and `is_next_share` are those of the label of a pair, whatever it says: with objective mlm_sop they
are scores of sentence order and the share of pairs that stand in order.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from bert_jax.base.types import JsonObject
from bert_jax.config.objective import token_words
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.model.accounting import pretraining_flops
from bert_jax.train.bad_steps import total_loss

TAUGHT = ("soft", "hidden", "relations")  # terms of a teacher
LAST_VALUE = ("grad_norm", "parameter_norm", "learning_rate")  # not summed: the interval's last step speaks


@dataclass
class MetricsInterval:
    """Sums over the steps since the last line of metrics.jsonl; part of a checkpoint, so that a resumed run's lines
    are those of an uninterrupted one."""

    steps: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, sums: Mapping[str, float], seconds: float) -> None:
        """Take in one step."""
        self.steps += 1
        self.seconds += seconds
        for name, value in sums.items():
            self.sums[name] = value if name in LAST_VALUE else self.sums.get(name, 0.0) + value

    def as_record(self) -> JsonObject:
        """Return what a checkpoint keeps; `MetricsInterval(**record)` gives it back."""
        return {"steps": self.steps, "seconds": self.seconds, "sums": self.sums}


def mean_scores(sums: Mapping[str, float], terms: Collection[str]) -> dict[str, float]:
    """Loss (nats) and accuracy of each of the terms from their sums; of replaced tokens what `replaced_scores` says too."""
    scores = {}
    for name in terms:
        weight = max(sums[f"{name}_weight"], 1.0)
        scores[f"{name}_loss"] = sums[f"{name}_loss"] / weight
        scores[f"{name}_accuracy"] = sums[f"{name}_correct"] / weight
    return scores | (replaced_scores(sums) if "rtd" in terms else {})


def taught_scores(sums: Mapping[str, float]) -> dict[str, float]:
    """Losses of the terms that a teacher adds: mean distances over predicted or valid tokens, before their weights."""
    return {
        f"{name}_loss": sums[f"{name}_loss"] / max(sums[f"{name}_weight"], 1.0)
        for name in TAUGHT
        if f"{name}_weight" in sums
    }


def replaced_scores(sums: Mapping[str, float]) -> dict[str, float]:
    """How many of the replaced tokens were found, how many of those found were replaced, and the share of replaced ones.

    One minus that share is the accuracy of always saying that a token is the text's own.
    """
    return {
        "rtd_recall": sums["replaced_correct"] / max(sums["replaced_weight"], 1.0),
        "rtd_precision": sums["flagged_correct"] / max(sums["flagged_weight"], 1.0),
        "replaced_share": sums["replaced_weight"] / max(sums["rtd_weight"], 1.0),
    }


def metrics_line(step: int, phase: int, interval: MetricsInterval, config: PretrainConfig) -> JsonObject:
    """Return the line of metrics.jsonl for the steps of a metrics interval, which end with `step`."""
    sums, objective = interval.sums, config.objective
    predicted, seconds = sums[f"{token_words(objective).term}_weight"], max(interval.seconds, 1e-9)
    scores = mean_scores(sums, objective.terms)
    flops = pretraining_flops(config.description, sums["valid_tokens"], sums["squared_lengths"], predicted)
    shares = _mask_shares(sums, predicted) if objective.masks else {}
    shares["valid_token_share"] = sums["valid_tokens"] / sums["row_tokens"]
    shares["examples_per_row"] = sums["examples"] / sums["rows"]
    if objective.nsp and sums["nsp_weight"]:
        shares["is_next_share"] = 1 - sums["not_next"] / sums["nsp_weight"]
    return {
        "kind": "train",
        "step": step,
        "phase": phase,
        "loss": total_loss(sums, config),
        **scores,
        **taught_scores(sums),
        "grad_norm": sums["grad_norm"],
        "learning_rate": sums["learning_rate"],
        "valid_tokens": int(sums["valid_tokens"]),
        "seconds": seconds,
        "tokens_per_second": sums["valid_tokens"] / seconds,
        "sequences_per_second": sums["examples"] / seconds,
        "model_flops_per_second": flops / seconds,
        **shares,
    }


def _mask_shares(sums: Mapping[str, float], picked: float) -> dict[str, float]:
    return {
        "picked_share": picked / sums["valid_tokens"],
        "mask_share": sums["masked"] / picked,
        "kept_share": sums["kept"] / picked,
        "random_share": 1 - (sums["masked"] + sums["kept"]) / picked,
    }


def wilson_interval(correct: float, total: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) without observations."""
    if total == 0:
        return 0.0, 1.0
    share, scale = correct / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / scale
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / scale
    return max(middle - half, 0.0), min(middle + half, 1.0)
