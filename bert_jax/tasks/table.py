# SPDX-License-Identifier: Apache-2.0
"""One table of the tasks: their files and columns, labels, metrics and the paper's hyper-parameters. Adding one is an entry.

"The paper" is Devlin et al. 2018, https://arxiv.org/abs/1810.04805.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bert_jax.config.description import TASKS as KINDS
from bert_jax.errors import UserError
from bert_jax.tasks.scoring.labels import distinct_labels, label_key

# Appendix A.3: what the authors searched on every task. Section 4.1 has 4e-5 too, for GLUE.
LEARNING_RATES = (5e-5, 3e-5, 2e-5)
BATCH_SIZES = (16, 32)
EPOCHS = (2, 3, 4)

Column = str | int  # its name in the header, or its number from 0 in a file without one
CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")  # columns of CoNLL-U


@dataclass(frozen=True)
class Columns:
    """Where the parts of an example stand in its line.

    text: a text or the two of a pair; of a choice the context and, where the file has one, the common beginning of the
      continuations; of tagging the list of words.
    label: may be absent from a file to be predicted. id: where the file has none, examples are numbered from 0.
    choices: a column each, or one column with a list of them.
    flags: of multi_label without `label`: a column of 0 and 1 for each class, in the order of their numbers.
    separator: of multi_label: what stands between the classes of the label's column; None: it holds lists.
    """

    text: tuple[Column, ...]
    label: Column | None = None
    id: Column | None = None
    choices: tuple[Column, ...] = ()
    flags: tuple[Column, ...] = ()
    separator: str | None = None

    @property
    def optional(self) -> tuple[Column, ...]:
        """Those that a file may lack."""
        return (*(column for column in (self.label, self.id) if column is not None), *self.flags)

    @property
    def needed(self) -> tuple[Column, ...]:
        """Those without which there is no example."""
        return (*self.text, *self.choices)

    @property
    def header(self) -> bool:
        """Whether the first line names the columns."""
        return all(isinstance(column, str) for column in self.needed)


@dataclass(frozen=True)
class Submission:
    """A file that the GLUE site takes."""

    file: str
    examples: int  # of the official test file; the site refuses any other number


@dataclass(frozen=True)
class TfdsSource:
    """A data set of TFDS, and what its fields are called there."""

    name: str
    columns: Columns
    splits: Mapping[str, str] = field(default_factory=dict)  # where they differ from `TFDS_SPLITS`


TFDS = "tfds:"
TFDS_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
SQUAD_FIELDS = Columns(("question", "context"), "answers", "id")  # of TFDS's SQuAD and of the sets that are like it


@dataclass(frozen=True)
class Task:
    """What there is to know about a task.

    labels: the classes in the order of their numbers, as files and submissions spell them; None: those of the training file.
    meanings: the same classes in words, which files may use too.
    rating: lowest and highest, of a regression; None: any number.
    files: for each split the names that its file may have, the first that is there is taken.
    columns: for all splits, or for each.
    metrics: the first is the main one; of more than two classes F1 is their mean, macro_f1.
    positive: the class that F1 is of where there are two; None: the second.
    learning_rate, batch_size, epochs: of one run; `LEARNING_RATES`, `BATCH_SIZES` and `EPOCHS` are the grid of a sweep.
    """

    name: str
    title: str  # and the name of its folder in GLUE
    kind: str  # one of description.TASKS
    metrics: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...] | None = None
    meanings: tuple[str, ...] | None = None
    rating: tuple[float, float] | None = None
    columns: Columns | Mapping[str, Columns] | None = None  # None: the format has no columns (SQuAD, CoNLL)
    skips_short_lines: bool = False  # lines that lack columns are left out and named, and are no error
    trains_with: str | None = None  # the task whose training file it uses: it has none
    max_length: int = 128  # tokens of a row: run_classifier.py
    stride: int = 128  # tokens between the beginnings of windows: run_squad.py
    learning_rate: float = 2e-5
    batch_size: int = 32  # section 4.1
    epochs: int = 3  # section 4.1
    submissions: Mapping[str, Submission] = field(default_factory=dict)
    tfds: TfdsSource | None = None
    positive: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"{self.kind} is no kind of task: choose one of {', '.join(KINDS)}")

    def with_classes(self, labels: Sequence[str]) -> "Task":
        """Return the task with these classes and the F1 that they have.

        Raises:
          UserError: the positive class is none of them, or there is no such thing.
        """
        if self.kind == "multi_label":
            return replace(self, labels=tuple(labels))
        keys = [label_key(label) for label in labels]
        if self.positive is not None and (len(labels) != 2 or label_key(self.positive) not in keys):
            classes = f"the {len(labels)} classes are {', '.join(labels[:12])}{' ...' if len(labels) > 12 else ''}"
            remedy = "name one of them" if len(labels) == 2 else "F1 of more than two is their mean: leave it out"
            raise UserError(f"--positive {self.positive}: {classes}: {remedy}")
        of_these = "f1" if len(labels) == 2 else "macro_f1"
        metrics = (of_these if metric in ("f1", "macro_f1") else metric for metric in self.metrics)
        return replace(self, labels=tuple(labels), metrics=tuple(metrics))

    @property
    def positive_class(self) -> int:
        """The number of the class that F1 is of where there are two."""
        keys = [label_key(label) for label in self.labels or ()]
        return 1 if self.positive is None else keys.index(label_key(self.positive))

    @property
    def f1_of(self) -> str | None:
        """The class that F1 is of, in words; None where F1 is of no class alone."""
        if self.kind != "classification" or "f1" not in self.metrics or not self.labels:
            return None
        return (self.meanings or self.labels)[self.positive_class]

    def columns_of(self, split: str) -> Columns:
        """Of the split's file."""
        if self.columns is None:
            raise ValueError(f"{self.name} has no columns")
        return self.columns if isinstance(self.columns, Columns) else self.columns[split]


def is_conll_column(column: Column) -> bool:
    """Whether a column can be meant of a CoNLL file: a number, or a name of CoNLL-U, perhaps with a feature behind it."""
    return isinstance(column, int) or column.partition(":")[0] in CONLLU


def is_test(split: str) -> bool:
    """Whether a split may come without labels."""
    return split.startswith("test")


def tfds_place(task: Task, split: str, source: str) -> tuple[str, str]:
    """The data set `tfds:NAME[/CONFIG][:VERSION]` and what the split is called there; `tfds:` alone is the task's own.

    Raises:
      UserError: the task has none of its own.
    """
    name, splits = source.removeprefix(TFDS), TFDS_SPLITS
    if task.tfds is not None:
        name, splits = name or task.tfds.name, {**TFDS_SPLITS, **task.tfds.splits}
    if not name:
        raise UserError(f"{task.title} has no data set in TFDS of its own: name one, tfds:NAME")
    return f"{TFDS}{name}", splits.get(split, split)


# ---- GLUE (section 4.1) ----------------------------------------------------------------------------------------
# Labels are in the order of google-research/bert's run_classifier.py and, for the tasks that it lacks, of the GLUE
# processors of transformers 4. AX is predicted by the classifier of MNLI.


def _tsv(*splits: str) -> dict[str, tuple[str, ...]]:
    """GLUE's names of files; train, dev and test where no others are given."""
    return {split: (f"{split}.tsv",) for split in splits or ("train", "dev", "test")}


def _pair(first: str, second: str, label: str = "label", id: str = "index") -> Columns:
    return Columns((first, second), label, id)


_SENTENCES = _pair("sentence1", "sentence2")
_COLA_WITHOUT_HEADER = Columns((3,), label=1)
_TFDS_PAIR = _pair("sentence1", "sentence2", id="idx")
_TFDS_NLI = _pair("premise", "hypothesis", id="idx")
_BINARY = ("0", "1")
_NLI = ("contradiction", "entailment", "neutral")
_ENTAILMENT = ("entailment", "not_entailment")

_GLUE = (
    Task(
        "cola",
        "CoLA",
        "classification",
        ("mcc", "accuracy"),
        _tsv(),
        labels=_BINARY,
        meanings=("unacceptable", "acceptable"),
        columns={
            "train": _COLA_WITHOUT_HEADER,
            "dev": _COLA_WITHOUT_HEADER,
            "test": Columns(("sentence",), "label", "index"),
        },
        submissions={"test": Submission("CoLA.tsv", 1_063)},
        tfds=TfdsSource("glue/cola", Columns(("sentence",), "label", "idx")),
    ),
    Task(
        "sst2",
        "SST-2",
        "classification",
        ("accuracy",),
        _tsv(),
        labels=_BINARY,
        meanings=("negative", "positive"),
        columns=Columns(("sentence",), "label", "index"),
        submissions={"test": Submission("SST-2.tsv", 1_821)},
        tfds=TfdsSource("glue/sst2", Columns(("sentence",), "label", "idx")),
    ),
    Task(
        "mrpc",
        "MRPC",
        "classification",
        ("f1", "accuracy"),
        # Microsoft's own file of training pairs has those of GLUE's dev.tsv in it, and its test file has labels.
        {
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "dev": ("dev.tsv",),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
        labels=_BINARY,
        meanings=("not_equivalent", "equivalent"),
        columns=_pair("#1 String", "#2 String", "Quality"),
        submissions={"test": Submission("MRPC.tsv", 1_725)},
        tfds=TfdsSource("glue/mrpc", _TFDS_PAIR),
    ),
    Task(
        "stsb",
        "STS-B",
        "regression",
        ("spearman", "pearson"),  # section 4.1 prints Spearman's
        _tsv(),
        rating=(0, 5),
        columns=_pair("sentence1", "sentence2", "score"),
        submissions={"test": Submission("STS-B.tsv", 1_379)},
        tfds=TfdsSource("glue/stsb", _TFDS_PAIR),
    ),
    Task(
        "qqp",
        "QQP",
        "classification",
        ("f1", "accuracy"),
        _tsv(),
        labels=_BINARY,
        meanings=("not_duplicate", "duplicate"),
        columns=_pair("question1", "question2", "is_duplicate", "id"),
        skips_short_lines=True,  # the official train.tsv has a few
        submissions={"test": Submission("QQP.tsv", 390_965)},
        tfds=TfdsSource("glue/qqp", _pair("question1", "question2", id="idx")),
    ),
    Task(
        "mnli",
        "MNLI",
        "classification",
        ("accuracy",),
        {
            "train": ("train.tsv",),
            "dev": ("dev_matched.tsv",),
            "dev_mismatched": ("dev_mismatched.tsv",),
            "test": ("test_matched.tsv",),
            "test_mismatched": ("test_mismatched.tsv",),
        },
        labels=_NLI,
        columns=_pair("sentence1", "sentence2", "gold_label"),
        submissions={"test": Submission("MNLI-m.tsv", 9_796), "test_mismatched": Submission("MNLI-mm.tsv", 9_847)},
        tfds=TfdsSource(
            "glue/mnli",
            _TFDS_NLI,
            {
                "dev": "validation_matched",
                "dev_mismatched": "validation_mismatched",
                "test": "test_matched",
                "test_mismatched": "test_mismatched",
            },
        ),
    ),
    Task(
        "qnli",
        "QNLI",
        "classification",
        ("accuracy",),
        _tsv(),
        labels=_ENTAILMENT,
        columns=_pair("question", "sentence"),
        submissions={"test": Submission("QNLI.tsv", 5_463)},
        tfds=TfdsSource("glue/qnli", _pair("question", "sentence", id="idx")),
    ),
    Task(
        "rte",
        "RTE",
        "classification",
        ("accuracy",),
        _tsv(),
        labels=_ENTAILMENT,
        columns=_SENTENCES,
        submissions={"test": Submission("RTE.tsv", 3_000)},
        tfds=TfdsSource("glue/rte", _TFDS_PAIR),
    ),
    Task(  # the paper leaves it out: footnote 4 of section 4.1
        "wnli",
        "WNLI",
        "classification",
        ("accuracy",),
        _tsv(),
        labels=_BINARY,
        meanings=("not_entailment", "entailment"),
        columns=_SENTENCES,
        submissions={"test": Submission("WNLI.tsv", 146)},
        tfds=TfdsSource("glue/wnli", _TFDS_PAIR),
    ),
    Task(
        "ax",
        "AX",
        "classification",
        ("mcc",),
        {"test": ("AX.tsv", "diagnostic.tsv", "diagnostic/diagnostic.tsv")},
        labels=_NLI,
        columns=_SENTENCES,
        trains_with="mnli",
        submissions={"test": Submission("AX.tsv", 1_104)},
        tfds=TfdsSource("glue/ax", _TFDS_NLI),
    ),
)

# ---- questions (sections 4.2, 4.3), choices (4.4), names (5.3) -----------------------------------------------------

_OTHERS = (
    Task(
        "squad1",
        "SQuAD 1.1",
        "span",
        ("f1", "exact_match"),
        {"train": ("train-v1.1.json",), "dev": ("dev-v1.1.json",)},
        max_length=384,  # run_squad.py
        learning_rate=5e-5,
        tfds=TfdsSource("squad/v1.1", SQUAD_FIELDS),
    ),
    Task(
        "squad2",
        "SQuAD 2.0",
        "span",
        ("f1", "exact"),
        {"train": ("train-v2.0.json",), "dev": ("dev-v2.0.json",)},
        max_length=384,
        learning_rate=5e-5,
        batch_size=48,
        epochs=2,
        tfds=TfdsSource("squad/v2.0", SQUAD_FIELDS),
    ),
    Task(
        "cmrc",
        "CMRC 2018",
        "span",
        ("f1", "exact_match"),
        {
            "train": ("cmrc2018_train.json", "train.json"),
            "dev": ("cmrc2018_dev.json", "dev.json"),
            "test": ("cmrc2018_trial.json", "trial.json"),
        },
        max_length=512,
        learning_rate=3e-5,
        epochs=2,
    ),
    Task(
        "drcd",
        "DRCD",
        "span",
        ("f1", "exact_match"),
        {
            "train": ("DRCD_training.json", "train.json"),
            "dev": ("DRCD_dev.json", "dev.json"),
            "test": ("DRCD_test.json", "test.json"),
        },
        max_length=512,
        learning_rate=3e-5,
        epochs=2,
    ),
    Task(
        "swag",
        "SWAG",
        "choice",
        ("accuracy",),
        {"train": ("train.csv",), "dev": ("val.csv",), "test": ("test.csv",)},
        labels=("0", "1", "2", "3"),
        # The first column, which has no name, is the number of the example.
        columns=Columns(("sent1", "sent2"), "label", "", choices=("ending0", "ending1", "ending2", "ending3")),
        batch_size=16,
    ),
    Task(
        "conll2003",
        "CoNLL-2003 NER",
        "tagging",
        ("f1", "precision", "recall"),
        {
            "train": ("eng.train", "train.txt"),
            "dev": ("eng.testa", "valid.txt", "dev.txt"),
            "test": ("eng.testb", "test.txt"),
        },
        learning_rate=5e-5,
        tfds=TfdsSource("conll2003/conll2003", Columns(("tokens",), "ner"), {"dev": "dev"}),
    ),
    Task(
        "weibo",
        "Weibo NER",
        "tagging",
        ("f1", "precision", "recall"),
        {split: (f"weiboNER_2nd_conll.{split}", f"weiboNER.conll.{split}") for split in ("train", "dev", "test")},
        max_length=192,
        learning_rate=5e-5,
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in (*_GLUE, *_OTHERS)}
GLUE: tuple[str, ...] = tuple(task.name for task in _GLUE)


def find_task(name: str) -> Task:
    """The task of that name; case, "-" and "_" do not count: SST-2 is sst2.

    Raises:
      UserError: there is none.
    """

    def plain(text: str) -> str:
        return re.sub(r"[\W_]", "", text).lower()

    spellings = {plain(word): task for task in TASKS.values() for word in (task.title, task.name)}
    if (task := spellings.get(plain(name))) is not None:
        return task
    near = difflib.get_close_matches(plain(name), spellings, n=1)
    hint = f"did you mean {spellings[near[0]].name}? " if near else ""
    raise UserError(f"there is no task {name}: {hint}The tasks are {', '.join(TASKS)}; your own data is --task own")


# ---- your own data ---------------------------------------------------------------------------------------------

_OWN_METRICS = {
    "classification": ("accuracy", "mcc", "f1"),
    "multi_label": ("micro_f1", "macro_f1", "subset_accuracy"),
    "regression": ("pearson", "spearman"),
    "choice": ("accuracy",),
    "span": ("f1", "exact_match"),
    "tagging": ("f1", "precision", "recall"),
}
_OWN_SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
CONLL_ENDINGS = ("conll", "conllu", "txt")
_OWN_ENDINGS = {"span": ("json",), "tagging": CONLL_ENDINGS}


def own_task(
    kind: str,
    text: Sequence[Column] = (),
    label: Column | None = None,
    id: Column | None = None,
    labels: Sequence[str] | None = None,
    choices: Sequence[Column] = (),
    positive: str | None = None,
    separator: str | None = None,
) -> Task:
    """A task on files of one's own, whose columns are named.

    TSV has no quoting, CSV has; the ending of the file decides. Columns are given by name, or all by number for files
    without a header. Tagging has CoNLL files, of which columns may be named (see `conll.read_conll`), or JSON lines with a
    list of words and a list of tags, whose fields must be named.

    Args:
      kind: one of description.TASKS.
      text: one text or two; choice: the context (and the common beginning of the continuations); tagging: the words.
      labels: the classes in the order of their numbers, of tagging also the types of its phrases (see
        `schemes.named_labels`); None: those of the training file.
      choices: a column for each, or one with a list.
      positive: the class that F1 is of where there are two; None: the second.
      separator: multi_label: what stands between the classes in the column `label`; None: it holds lists. Without
        `label` each of `labels` is the name of a column of 0 and 1.

    Raises:
      UserError: columns that do not fit together or the kind.
    """
    given = bool(text) or label is not None or id is not None or bool(choices)
    columns = Columns(tuple(text), label, id, tuple(choices)) if given else None
    if kind == "multi_label":
        columns = _multi_label_columns(columns or Columns(()), labels, separator)
    elif separator is not None:
        raise UserError(
            f"--separator belongs to multi_label, whose examples have several classes: {kind} has none such"
        )
    endings = _OWN_ENDINGS.get(kind, ("tsv", "csv", "jsonl"))
    if columns is not None and kind == "tagging":
        of_conll = all(map(is_conll_column, columns.text))
        endings = (*CONLL_ENDINGS, "jsonl") if of_conll else ("jsonl", *CONLL_ENDINGS)
    task = Task(
        "own",
        "own data",
        kind,
        _OWN_METRICS.get(kind, ()),
        {split: tuple(f"{name}.{end}" for end in endings for name in names) for split, names in _OWN_SPLITS.items()},
        labels=None if labels is None else tuple(labels),
        columns=columns,
        max_length=384 if kind == "span" else 128,
        positive=positive,
    )
    _check_own(kind, columns, task.labels)
    if kind == "choice" and task.labels is None and len(choices) > 1:
        task = replace(task, labels=tuple(str(number) for number in range(len(choices))))
    if positive is not None and kind != "classification":
        raise UserError(f"--positive belongs to classification, whose F1 is of one class: {kind} has none such")
    return task.with_classes(labels) if labels is not None and kind == "classification" else task


def with_columns(
    name: str, text: Sequence[Column], label: Column | None = None, labels: Sequence[str] | None = None
) -> Task:
    """A task of tagging of the table on files with other columns, or with labels that its training file lacks.

    Raises:
      UserError: it is no task of tagging, whose files alone come in many layouts, or columns that do not fit together.
    """
    task = find_task(name)
    if task.kind != "tagging":
        raise UserError(f"--task {task.name} has its own columns and labels: describe your own data with --task own")
    columns = Columns(tuple(text), label) if text or label is not None else None
    _check_own(task.kind, columns, labels)
    tfds = task.tfds if task.tfds is None or columns is None else replace(task.tfds, columns=columns)
    return replace(task, columns=columns, labels=None if labels is None else tuple(labels), tfds=tfds)


def _multi_label_columns(columns: Columns, labels: Sequence[str] | None, separator: str | None) -> Columns:
    if columns.label is not None:
        if separator == "":
            raise UserError("--separator '' parts nothing: name what stands between classes, such as ';'")
        return replace(columns, separator=separator)
    if separator is not None or not labels:
        raise UserError(
            "multi_label needs --label, the column that lists the classes, or --labels, each the name of a column of 0 and 1"
        )
    return replace(columns, flags=tuple(labels))


def _check_own(kind: str, columns: Columns | None, labels: Sequence[str] | None) -> None:
    if labels is not None:
        if len(distinct_labels(labels)) != len(labels):
            raise UserError(f"--labels {' '.join(labels)}: one is given twice")
        if kind in ("regression", "span"):
            found = "a regression has numbers" if kind == "regression" else "answers are pieces of their context"
            raise UserError(f"--labels belongs to classification, choice and tagging: {found}")
    if columns is None and kind in _OWN_ENDINGS:
        return
    if kind == "span":
        raise UserError("span has no columns: its files are as SQuAD's, name them with --data alone")
    columns = columns or Columns(())
    given = [*columns.needed, *columns.optional]
    if kind != "tagging" and len({type(column) for column in given}) > 1:
        raise UserError(f"columns {given} are given by name and by number: a file has a header or it has none")
    allowed = (1,) if kind == "tagging" else (1, 2)
    if len(columns.text) not in allowed:
        raise UserError(
            f"{len(columns.text)} columns are named as text, and {kind} has {' or '.join(map(str, allowed))}: name"
            " them with --text"
        )
    if bool(columns.choices) != (kind == "choice"):
        raise UserError(
            f"{kind} with {len(columns.choices)} columns of choices: --choices belongs to choice, which needs it"
        )
