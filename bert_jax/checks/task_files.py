# SPDX-License-Identifier: Apache-2.0
"""The files of a task in a folder beside the official ones: which are there, counts and hashes, and the known traps."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bert_jax.base.errors import listed, UserError
from bert_jax.checks import rules
from bert_jax.checks.examination import Examination
from bert_jax.checks.findings import Finding, NOTE, OK, PROBLEM, WARNING
from bert_jax.tasks.columns import read_examples
from bert_jax.tasks.conll import read_conll
from bert_jax.tasks.examples import ChoiceExample, Question, Sentence, TextExample
from bert_jax.tasks.official import OFFICIAL, OfficialFile
from bert_jax.tasks.questions import read_questions
from bert_jax.tasks.table import find_task, is_test, Task
from bert_jax.tasks.task_files import find_file, plain_suffix
from bert_jax.text.streams import open_stream

# A text as a CSV writer quotes it: quotes at both ends, and two in the place of each inside.
_CSV_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"', re.DOTALL)

Example = TextExample | ChoiceExample | Sentence | Question


def check_task_files(folder: Path, name: str) -> Examination:
    """Look at the files of a task.

    Args:
      folder: with the task's files, or its folder in GLUE's layout.
      name: of a task of the table.

    Raises:
      UserError: there is no such task or folder.
    """
    task = find_task(name)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one that has the files of {task.title}")
    splits = OFFICIAL[task.name]
    findings = [finding.at(split) for split in splits for finding in _check_split(task, split, folder)]
    return Examination(folder, "task", f"files of {task.title}: {', '.join(splits)}", findings)


def _check_split(task: Task, split: str, folder: Path) -> Iterator[Finding]:
    official = OFFICIAL[task.name][split]
    wanted = " or ".join(task.files[split])
    try:
        path = find_file(task, split, folder)
    except UserError:
        severity = NOTE if is_test(split) else PROBLEM
        seen = f"no {wanted} (officially {official.examples:,} examples)"
        yield rules.TASK_FILE.found(severity, seen, remedy=f"put the file into {folder}, under its official name")
        return
    yield from _check_hash(path, official)
    try:
        examples, notes = _read(task, split, path)
    except UserError as error:  # what fine-tuning would refuse
        yield rules.TASK_FILE.found(PROBLEM, str(error), causes=rules.TASK_LINES.causes)
        return
    yield _count_finding(split, path, official, len(examples))
    yield from (Finding(NOTE, rules.TASK_LINES.subject, note) for note in notes)
    yield from _traps(task, split, path, examples)


def _read(task: Task, split: str, path: Path) -> tuple[Sequence[Example], list[str]]:
    """The examples of a split, and notes of its reader; whatever fine-tuning refuses is refused."""
    if task.kind == "span":
        return read_questions(path, labelled=not is_test(split)), []
    if task.kind == "tagging":
        notes: list[str] = []
        return read_conll(path, may_lack_tags=is_test(split), notes=notes), notes
    return read_examples(task, split, path)


def _check_hash(path: Path, official: OfficialFile) -> Iterator[Finding]:
    digest = hashlib.sha256()
    with open_stream(path) as file:
        while piece := file.read(2**20):
            digest.update(piece)
    found = digest.hexdigest()
    if official.sha256 is None:
        yield Finding(OK, "Hash", f"{path.name} has sha256 {found}; none is published to compare with")
    elif found == official.sha256:
        yield Finding(OK, "Hash", f"{path.name} is the official file, byte for byte (sha256 {found[:16]}...)")
    else:
        seen = f"{path.name} has sha256 {found[:16]}..., and the official file {official.sha256[:16]}..."
        yield rules.TASK_HASH.found(WARNING, seen)


def _count_finding(split: str, path: Path, official: OfficialFile, found: int) -> Finding:
    if found == official.examples:
        return rules.TASK_LINES.fine(f"{path.name} has all of its {found:,} examples", found)
    severity = PROBLEM if is_test(split) or split.startswith("dev") else WARNING
    seen = f"{path.name} has {found:,} examples, and officially there are {official.examples:,}"
    return rules.TASK_LINES.found(severity, seen, value=found, threshold=official.examples)


# ---- traps ---------------------------------------------------------------------------------------------------------


def _traps(task: Task, split: str, path: Path, examples: Sequence[Example]) -> Iterator[Finding]:
    texts = [example for example in examples if isinstance(example, TextExample)]
    if texts and plain_suffix(path) == ".tsv":
        yield from _quoted(path, texts)
    if split in task.submissions:
        yield from _ordered(path, examples)
    yield from _one_class(task, split, texts)
    questions = [example for example in examples if isinstance(example, Question)]
    astray = [one for one in questions if any(not _stands(one, place) for place in range(len(one.answers)))]
    if astray:
        told = f"{len(astray):,} of {len(questions):,}"
        seen = f"{told} questions have an answer that does not stand where it is said to"
        yield rules.TASK_ANSWERS.found(NOTE, f"{seen}: {listed(one.name for one in astray)}", value=len(astray))


def _quoted(path: Path, examples: Sequence[TextExample]) -> Iterator[Finding]:
    quoted = [one for one in examples if any(_CSV_QUOTED.fullmatch(text) for text in one.texts)]
    if quoted:
        seen = f"{len(quoted):,} texts of {path.name} are quoted as by a program that writes CSV, the first at"
        yield rules.TASK_QUOTES.found(WARNING, f"{seen} {quoted[0].place}", value=len(quoted))


def _ordered(path: Path, examples: Sequence[Example]) -> Iterator[Finding]:
    """The site of GLUE goes by the numbers in the test file."""
    names = [example.name for example in examples]
    if names == [str(number) for number in range(len(names))]:
        return
    numbers = {str(number) for number in range(len(names))}
    shuffled = set(names) == numbers
    first = next(place for place, name in enumerate(names) if name != str(place))
    what = "are in another order" if shuffled else f"are not 0 to {len(names) - 1:,}"
    seen = f"the ids of {path.name} {what}, from {examples[first].place} on, which is {names[first]}"
    yield rules.TASK_IDS.found(WARNING if shuffled else PROBLEM, seen)


def _one_class(task: Task, split: str, examples: Sequence[TextExample]) -> Iterator[Finding]:
    labels = {example.label for example in examples}
    if task.kind == "classification" and not is_test(split) and examples and len(labels) == 1:
        word = (task.labels or ())[int(next(iter(labels)))]  # type: ignore[arg-type]  # a class has a number
        yield rules.TASK_LABELS.found(PROBLEM, f"every one of {len(examples):,} examples has the label {word}")


def _stands(question: Question, place: int) -> bool:
    answer = question.answers[place]
    return question.context.startswith(answer.text, answer.begin) if answer.begin >= 0 else False
