# SPDX-License-Identifier: Apache-2.0
"""Runs the subjects one after the other and keeps what they say: bench.json and bench.html are whole after every record."""

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bert_jax.bench.conditions import conditions
from bert_jax.bench.results import failures, FORMAT, Report
from bert_jax.bench.subjects import SUBJECTS
from bert_jax.bench.suite import Suite, suite_for, suite_of, suite_with
from bert_jax.bench.workbench import one_line, Workbench
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.files import write_json


def make_suite(platform: str, devices: int, named: tuple[str, PretrainConfig] | None, settings: Sequence[str]) -> Suite:
    """The platform's sizes, with the models of a configuration in their place if one is named, and settings changed.

    Raises:
      UserError: an unknown setting or value.
    """
    suite = suite_for(platform, devices)
    if named is not None:
        suite = suite_of(suite, *named)
    return suite_with(suite, settings)


def run_bench(
    suite: Suite, subjects: Sequence[str], output: Path | None, *, peer_python: Path | None = None, command: str = ""
) -> Report:
    """Measure the subjects; those that fail are recorded with their error, and the others go on.

    Args:
      suite: the sizes.
      subjects: of `SUBJECTS`.
      output: folder for bench.json and bench.html; None: nothing is written.
      peer_python: a Python with torch and transformers.
      command: how to run this again.
    """
    wanted = [name for name in SUBJECTS if name in subjects]
    report: Report = {"format": FORMAT, "command": command, "conditions": conditions(), "asked": wanted, "subjects": {}}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(wanted), unit="subject", dynamic_ncols=True, file=sys.stderr) as bar:
        bench = Workbench(suite, peer_python, bar)
        for name in wanted:
            bar.set_description_str(name)
            _measure(bench, name, report, output)
            bar.update(1)
    return report


def _measure(bench: Workbench, name: str, report: Report, output: Path | None) -> None:
    """One subject, into the report and the files."""
    entry: dict[str, Any] = {"records": [], "seconds": None}
    report["subjects"][name] = entry
    begin = time.perf_counter()
    try:
        subject = importlib.import_module(f"bert_jax.bench.subjects.{name}")
        for record in subject.measure(bench):
            entry["records"].append(record)
            _write(report, output)
    except Exception as error:
        entry["error"] = one_line(error)
    entry["seconds"] = time.perf_counter() - begin
    entry["load_average"] = conditions()["load_average"]
    for failed, reason in failures({"subjects": {name: entry}}):
        bench.say(f"{failed}: {reason}")
    _write(report, output)


def _write(report: Report, output: Path | None) -> None:
    """bench.json, and the page drawn from it; each is replaced when the new one is complete."""
    if output is None:
        return
    from bert_jax.bench.page import render  # matplotlib: only where there is something to draw
    from bert_jax.pages.template import save_page

    write_json(output / "bench.json", report)
    save_page(render(report), output / "bench.html")
