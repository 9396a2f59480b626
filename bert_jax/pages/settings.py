# SPDX-License-Identifier: Apache-2.0
"""Every setting of a run with its meaning, for its page; and in which settings several runs differ."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import documented, flatten, to_dict
from bert_jax.pages.page import Setting, Settings
from bert_jax.pages.wording import plain
from bert_jax.runs.reading import Record

type Config = PretrainConfig | FinetuneConfig


def setting_groups(values: Record, default: Config, absent: str | None) -> Settings:
    """Every setting by section, marked where it is not the default.

    Args:
      values: the settings of a run, nested as in its JSON file.
      default: the configuration whose values are the defaults, a dataclass.
      absent: what stands for the default of a setting that `default` does not have; None leaves it unmarked.
    """
    defaults = dict(flatten(to_dict(default)))
    helps = {key: words for key, _, words in documented(default)}
    groups: dict[str, list[Setting]] = {}
    for key, value in flatten(values):
        section, _, name = key.rpartition(".")
        known = defaults.get(key, absent)
        shown = None if value == known or (known is None and absent is None) else plain(known)
        words = helps.get(re.sub(r"\.\d+\.", ".0.", key), "")
        groups.setdefault(section or "run", []).append(Setting(name, plain(value), shown, words))
    return Settings(groups)


def by_last_name(values: Record) -> Record:
    """The settings of a run by the last part of their dotted names, which are not grouped in runs of earlier versions."""
    return {key.rpartition(".")[2]: value for key, value in flatten(values)}


@dataclass(frozen=True)
class Trait:
    """Something that may set a run apart: what is compared, and how it is written."""

    compared: object
    words: str


def setting_traits(settings: Record) -> dict[str, Trait]:
    """Every setting of a run as a trait."""
    return {name: Trait(value, plain(value)) for name, value in flatten(settings)}


def differences(runs: Sequence[Mapping[str, Trait]]) -> list[str]:
    """Return for each of several runs the traits in which they differ: "learning_rate 3e-05, seed 1"."""
    values: dict[str, list[Trait]] = {}
    for run in runs:
        for name, trait in run.items():
            values.setdefault(name, []).append(trait)
    differing = [name for name, traits in values.items() if any(t.compared != traits[0].compared for t in traits)]
    return [", ".join(f"{name} {run[name].words}" for name in differing if name in run) for run in runs]
