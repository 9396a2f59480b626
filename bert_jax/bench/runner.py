# SPDX-License-Identifier: Apache-2.0
"""Runs the subjects one after the other and keeps what they say: bench.json and bench.md are whole after every record, and
duel.html where there is a duel.

bench.json holds

format      FORMAT
command     how to run it again
conditions  the machine, versions and settings (conditions.py), and the sizes of what is measured
asked       subjects that were asked for
subjects    name -> records (see subjects/), the seconds they took, the load average after them; error, where the
            subject failed as a whole
"""

import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bert_jax.base.files import complete_or_absent, write_json
from bert_jax.base.types import JsonObject
from bert_jax.bench.conditions import conditions
from bert_jax.bench.report import as_markdown, DUEL_FILE, failures, FORMAT
from bert_jax.bench.subjects import SUBJECTS
from bert_jax.bench.suite import is_of_bench, Suite, suite_for, suite_of, suite_with
from bert_jax.bench.workbench import BenchInputs, one_line, Workbench
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import override, to_dict
from bert_jax.pages.duel import duel_page
from bert_jax.pages.template import write


def make_suite(platform: str, devices: int, named: tuple[str, PretrainConfig] | None, settings: Sequence[str]) -> Suite:
    """Return the platform's sizes, with the models of a configuration in their place if one is named, and settings changed.

    Raises:
      UserError: an unknown setting or value.
    """
    suite = suite_for(platform, devices)
    if named is None:
        return suite_with(suite, settings)
    # Of the configuration before its phases become cases, which have names by its sizes and one phase each.
    name, config = named
    of_config = [one for one in settings if not is_of_bench(one)]
    suite = suite_of(suite, name, override(config, of_config))
    return suite_with(suite, [one for one in settings if is_of_bench(one)])


def run_bench(
    suite: Suite,
    subjects: Sequence[str],
    output: Path | None,
    inputs: BenchInputs = BenchInputs(),  # noqa: B008  # frozen
    command: str = "",
) -> JsonObject:
    """Measure the subjects; those that fail are recorded with their error, and the others go on.

    Args:
      suite: the sizes.
      subjects: of `SUBJECTS`.
      output: folder for bench.json and bench.md; None: nothing is written.
      inputs: texts and peers.
      command: how to run this again.

    Returns:
      What bench.json holds.
    """
    asked = [name for name in SUBJECTS if name in subjects]
    default = to_dict(FinetuneConfig())
    finetune = {name: value for name, value in to_dict(suite.finetune).items() if value != default[name]}
    found = conditions() | {"sizes": to_dict(suite.sizes), "finetune": finetune}
    report: JsonObject = {"format": FORMAT, "command": command, "conditions": found, "asked": asked, "subjects": {}}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="bert_jax_bench_") as folder,
        tqdm(total=len(asked), unit="subject", dynamic_ncols=True, file=sys.stderr) as bar,
    ):
        bench = Workbench(suite, Path(folder), inputs, bar)
        for name in asked:
            bar.set_description_str(name)
            _measure(bench, name, report, output)
            bar.update(1)
    return report


def _measure(bench: Workbench, name: str, report: JsonObject, output: Path | None) -> None:
    """Measure one subject, into the report and the files."""
    entry: JsonObject = {"records": [], "seconds": None}
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


def _write(report: JsonObject, output: Path | None) -> None:
    """Write bench.json and bench.md; each is replaced when the new one is complete."""
    if output is not None:
        write_json(output / "bench.json", report)
        with complete_or_absent(output / "bench.md") as file:
            file.write(as_markdown(report).encode())
        for record in report["subjects"].get("duel", {"records": []})["records"]:
            if record.get("kind") == "duel":
                write(duel_page(record, report["conditions"], report["command"]), output / DUEL_FILE)
