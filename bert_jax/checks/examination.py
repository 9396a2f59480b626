# SPDX-License-Identifier: Apache-2.0
"""A directory -> findings: prepared data by its passport, a run by its configuration, its data's passport and curves."""

from dataclasses import dataclass
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import reading
from bert_jax.base.types import JsonObject
from bert_jax.checks.configuration import check_plan
from bert_jax.checks.cost import check_bad_steps, check_cost
from bert_jax.checks.findings import Finding, NOTE, Passport, PROBLEM
from bert_jax.checks.finetuned import learning_findings
from bert_jax.checks.losses import check_losses
from bert_jax.checks.passport import check_passport
from bert_jax.checks.signals import check_signals
from bert_jax.feed.shards import MANIFEST, read_manifest, remake, shard_faults, table_name
from bert_jax.runs.finetuned import FinetunedRun, load_finetuned
from bert_jax.runs.names import CONFIG_FILE, FINETUNE_FILE
from bert_jax.runs.reading import load_run, Run
from bert_jax.runs.shapes import PASSPORT, require_shape
from bert_jax.tokenization import load_tokenizer
from bert_jax.tokenization.encoding import TOKENIZER_FILE

ASKED_OF_THE_RUN = {"Held-out text", "Padding"}  # subjects that the run's own checks judge


@dataclass(frozen=True)
class Examination:
    """A directory that was looked at, and what was found."""

    path: Path
    kind: str  # data or run
    heading: str
    findings: list[Finding]

    @property
    def problem(self) -> bool:
        """Whether something is wrong that spoils the result."""
        return any(finding.severity == PROBLEM for finding in self.findings)

    def as_record(self) -> JsonObject:
        """The examination for JSON."""
        findings = [finding.as_record() for finding in self.findings]
        return {"path": str(self.path), "kind": self.kind, "problem": self.problem, "findings": findings}


def examine(path: Path) -> Examination:
    """Look at prepared data or at a run.

    Raises:
      UserError: it is neither, or one of its files cannot be read.
    """
    if (path / FINETUNE_FILE).is_file():
        tuned = load_finetuned(path)
        heading = f"a fine-tuned run on {tuned.title}, step {tuned.last_step:,} of {tuned.total_steps:,}"
        return Examination(path, "run", heading, tuned_findings(tuned))
    if (path / CONFIG_FILE).is_file():
        run = load_run(path)
        return Examination(
            path, "run", f"a run, step {run.last_step:,} of {run.config.total_steps:,}", run_findings(run)
        )
    if (path / MANIFEST).is_file() or (path / "data.json").is_file():
        passport = _with_accents(read_manifest(path), path)
        require_shape(path / MANIFEST, passport, PASSPORT, "prepare the data again")
        with reading(path / MANIFEST, "prepare the data again"):
            train = passport["splits"]["train"]
            heading = f"prepared data, {train['tokens']:,} training tokens in {train['documents']:,} documents"
            return Examination(path, "data", heading, [*_of_shards(path, passport), *check_passport(passport, path)])
    raise UserError(
        f"{path}: is neither prepared data (no {MANIFEST}) nor a run (no config.json): name what bert-jax prepare,"
        " pretrain or finetune wrote"
    )


def run_findings(run: Run) -> list[Finding]:
    """All findings about a pre-training run and the data it is trained on."""
    return [*check_losses(run), *check_signals(run), *check_plan(run), *_counted(run), *_of_data(run)]


def tuned_findings(run: FinetunedRun) -> list[Finding]:
    """All findings about a fine-tuned run."""
    return [*learning_findings(run), *_counted(run)]


def _counted(run: Run | FinetunedRun) -> list[Finding]:
    return [*check_bad_steps(run.bad, run.directory), *check_cost(run.cost)]


def _of_shards(directory: Path, passport: Passport) -> list[Finding]:
    """A finding about files that are missing or cut, which `bert-jax pretrain` refuses; none where all are whole."""
    faults = list(shard_faults(directory, dict(passport)))
    if not faults:
        return []
    seen = f"{len(faults)} {'is' if len(faults) == 1 else 'are'} missing or changed; the first: {faults[0]}"
    causes = "a copy that was cut short; bert-jax data check reads every file to its end"
    return [Finding(PROBLEM, "Shards", seen, causes, remake(directory))]


def _of_data(run: Run) -> list[Finding]:
    """Findings about the data as far as this run uses it."""
    if run.data is None:
        return [Finding(NOTE, "Passport", f"{MANIFEST} is missing from the run", "", "copy it from the data directory")]
    with reading(run.directory / MANIFEST, "copy it from the data directory"):
        passport = _with_accents(used_part(run, run.data), run.directory)
        findings = check_passport(passport, run.directory, data="DATA")
    return [finding for finding in findings if finding.subject not in ASKED_OF_THE_RUN]


def _with_accents(passport: Passport, directory: Path) -> JsonObject:
    """The passport, with whether accents are stripped where an earlier version wrote it: the tokenizer beside it knows."""
    if "strip_accents" in passport or not (directory / TOKENIZER_FILE).is_file():
        return dict(passport)
    return {**passport, "strip_accents": load_tokenizer(directory).strip_accents}


def used_part(run: Run, passport: Passport) -> JsonObject:
    """The passport with the tables that the run trains on alone."""
    used = {table_name(run.config.objective.examples, phase.sequence_length) for phase in run.config.phases}
    splits = {
        name: {**split, "tables": {key: table for key, table in split["tables"].items() if key in used}}
        for name, split in passport["splits"].items()
    }
    masks = {key: value for key, value in passport.get("masks", {}).items() if key in used}
    return {**passport, "splits": splits, "masks": masks}
