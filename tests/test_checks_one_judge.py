# SPDX-License-Identifier: Apache-2.0
"""Doctor, report and the stages say the same of the same data and runs: they share one table of thresholds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import CONFIG, data_line, lines, passport, write_run
from test_pages_finetune import write_run as write_finetuned

from bert_jax.checks import rules
from bert_jax.checks.examination import examine
from bert_jax.checks.findings import Finding, NOTE, OK, PROBLEM, serious, WARNING
from bert_jax.checks.first_batches import doubts
from bert_jax.checks.passport import warnings
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.shards import MANIFEST, read_manifest
from bert_jax.finetuning.degenerate import judge
from bert_jax.finetuning.split import Outcome
from bert_jax.pages import finetune, pretrain
from bert_jax.pages.passport import page_of as passport_page
from bert_jax.runs.finetuned import load_finetuned
from bert_jax.runs.reading import load_run


def grave(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(found.severity, found.subject, found.seen) for found in serious(findings)]


def test_prepare_doctor_and_the_passports_page_agree(tmp_path: Path) -> None:
    def spoil(made):
        made["vocab_size"] = 100
        made["text"]["sentences"]["repeated_share"] = 0.5
        made["splits"]["train"]["tables"]["nsp_128"].update(is_next_share=0.02, cut_token_share=0.2)
        for split in made["splits"].values():
            split["shards"] = []  # none lies beside it

    (tmp_path / MANIFEST).write_text(json.dumps(passport(spoil)), encoding="utf-8")
    found = serious(examine(tmp_path).findings)
    assert {finding.subject for finding in found} == {"Vocabulary", "Repeated lines", "Pair labels", "Cut sentences"}
    assert warnings(read_manifest(tmp_path)) == [finding.line() for finding in found]
    page = passport_page(tmp_path, read_manifest(tmp_path), [])
    assert grave(list(page.findings)) == grave(found)


def test_first_batches_doctor_and_the_runs_page_agree(tmp_path: Path) -> None:
    objective = ObjectiveConfig(masking="whole_word")
    record = data_line(
        0, units=20_000, whole_word_share=1.0, p_value=0.0, treatment={"mask": 20_000, "random": 0, "kept": 0}
    )
    at_start = [finding.at("phase 0") for finding in doubts(record, objective, 0.15)]
    assert [finding.severity for finding in at_start] == [PROBLEM, WARNING]
    config = dataclasses.replace(CONFIG, objective=objective)
    run = write_run(tmp_path / "run", [record, *lines(mlm_loss=9.5, grad_norm=5.0)[2:]], config)
    found = examine(run).findings
    assert [finding for finding in found if finding.subject == "First batches"] == at_start
    page = pretrain.page_of(load_run(run))
    assert grave(list(page.findings)) == grave(found)
    assert ("problem", "Learning from context") in [one[:2] for one in grave(found)]


def test_a_fine_tuned_runs_judgement_is_what_doctor_and_its_page_say(tmp_path: Path) -> None:
    gold = np.arange(200) % 2
    outcome = Outcome({}, gold, np.zeros_like(gold), [], lambda folder: [])
    judged = judge("classification", outcome, FinetuneConfig(), 100, 0.3)
    assert judged.degenerate is not None
    run = write_finetuned(tmp_path / "run", degenerate=judged.degenerate.to_dict())
    [found] = examine(run).findings
    assert found.severity == PROBLEM
    assert judged.degenerate.kind in found.seen
    assert found in finetune.page_of(load_finetuned(run)).findings


@pytest.mark.parametrize(
    ("rule", "value", "severity", "threshold"),
    [
        (rules.UNKNOWN, 0.01, OK, 0.01),
        (rules.UNKNOWN, 0.02, WARNING, 0.01),
        (rules.UNKNOWN, 0.2, PROBLEM, 0.1),
        (rules.DOCUMENTS, 10, OK, 10),
        (rules.DOCUMENTS, 9, WARNING, 10),
        (rules.FILLED, 0.7, NOTE, 0.8),
        (rules.MASKS, 1e-9, PROBLEM, 1e-6),
    ],
)
def test_a_threshold_is_passed_beyond_it(rule: rules.Rule, value: float, severity: str, threshold: float) -> None:
    assert rule.passed(value) == (severity, threshold)
    found = rule.judge(value, "seen", " and worse", command=lambda: "the command")
    assert (found.severity, found.value, found.threshold) == (severity, value, threshold)
    assert (found.seen, found.command) == (("seen", "") if severity == OK else ("seen and worse", "the command"))
