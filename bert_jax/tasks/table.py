# SPDX-License-Identifier: Apache-2.0
"""One table of the tasks: their files and columns, labels, metrics and the paper's hyper-parameters. Adding one is an entry.

"The paper" is Devlin et al. 2018, https://arxiv.org/abs/1810.04805.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bert_jax.base.errors import UserError
from bert_jax.config.description import TASKS as KINDS
from bert_jax.tasks.scoring.labels import label_key

# Appendix A.3: what the authors searched on every task. Section 4.1 has 4e-5 too, for GLUE.
LEARNING_RATES = (5e-5, 3e-5, 2e-5)
BATCH_SIZES = (16, 32)
EPOCHS = (2, 3, 4)

SQUAD, CMRC = "squad", "cmrc"  # scoring/squad.py, which compares words, and scoring/cmrc.py, which compares characters

Column = str | int  # its name in the header, or its number from 0 in a file without one
CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")  # columns of CoNLL-U


@dataclass(frozen=True)
class Columns:
    """The columns of a line that hold the parts of an example.

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
        """The columns that a file may lack."""
        return (*(column for column in (self.label, self.id) if column is not None), *self.flags)

    @property
    def needed(self) -> tuple[Column, ...]:
        """The columns without which there is no example."""
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
    """A task: its files, labels, metrics and hyper-parameters.

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
    question_scorer: str = SQUAD  # the official scorer of questions

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
        """Return the columns of a split's file.

        Raises:
          UserError: the task has no such split, and its files differ in their columns.
        """
        if self.columns is None:
            raise ValueError(f"{self.name} has no columns")
        if isinstance(self.columns, Columns):
            return self.columns
        if split not in self.columns:
            raise UserError(f"{self.title} has no split {split}: it has {', '.join(self.files)}")
        return self.columns[split]


def is_conll_column(column: Column) -> bool:
    """Return whether a column can be one of a CoNLL file: a number, or a name of CoNLL-U, perhaps with a feature behind it."""
    return isinstance(column, int) or column.partition(":")[0] in CONLLU


def is_test(split: str) -> bool:
    """Return whether a split may come without labels."""
    return split.startswith("test")


def tfds_place(task: Task, split: str, source: str) -> tuple[str, str]:
    """Return the data set `tfds:NAME[/CONFIG][:VERSION]` and what the split is called there; `tfds:` alone is the task's own.

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


def _glue(name: str, title: str, test_examples: int, tfds: Columns) -> Task:
    """Return a task as most of GLUE's are: classes, a TSV file for each split, one file to submit.

    Args:
      test_examples: of the official test file.
      tfds: what the fields are called in TFDS.
    """
    return Task(
        name=name,
        title=title,
        kind="classification",
        metrics=("accuracy",),
        files={split: (f"{split}.tsv",) for split in ("train", "dev", "test")},
        submissions={"test": Submission(f"{title}.tsv", test_examples)},
        tfds=TfdsSource(f"glue/{name}", tfds),
    )


def _pair(first: str, second: str, label: str = "label", id: str = "index") -> Columns:
    return Columns((first, second), label, id)


_SENTENCE = Columns(("sentence",), "label", "index")
_SENTENCES = _pair("sentence1", "sentence2")
_COLA_WITHOUT_HEADER = Columns((3,), label=1)
_TFDS_SENTENCE = Columns(("sentence",), "label", "idx")
_TFDS_PAIR = _pair("sentence1", "sentence2", id="idx")
_TFDS_NLI = _pair("premise", "hypothesis", id="idx")
_BINARY = ("0", "1")
_NLI = ("contradiction", "entailment", "neutral")
_ENTAILMENT = ("entailment", "not_entailment")

_GLUE = (
    replace(
        _glue("cola", "CoLA", 1_063, _TFDS_SENTENCE),
        metrics=("mcc", "accuracy"),
        labels=_BINARY,
        meanings=("unacceptable", "acceptable"),
        columns={"train": _COLA_WITHOUT_HEADER, "dev": _COLA_WITHOUT_HEADER, "test": _SENTENCE},
    ),
    replace(
        _glue("sst2", "SST-2", 1_821, _TFDS_SENTENCE),
        labels=_BINARY,
        meanings=("negative", "positive"),
        columns=_SENTENCE,
    ),
    replace(
        _glue("mrpc", "MRPC", 1_725, _TFDS_PAIR),
        metrics=("f1", "accuracy"),
        # Microsoft's own file of training pairs has those of GLUE's dev.tsv in it, and its test file has labels.
        files={
            "train": ("train.tsv", "msr_paraphrase_train.txt"),
            "dev": ("dev.tsv",),
            "test": ("test.tsv", "msr_paraphrase_test.txt"),
        },
        labels=_BINARY,
        meanings=("not_equivalent", "equivalent"),
        columns=_pair("#1 String", "#2 String", "Quality"),
    ),
    replace(
        _glue("stsb", "STS-B", 1_379, _TFDS_PAIR),
        kind="regression",
        metrics=("spearman", "pearson"),  # section 4.1 prints Spearman's
        rating=(0, 5),
        columns=_pair("sentence1", "sentence2", "score"),
    ),
    replace(
        _glue("qqp", "QQP", 390_965, _pair("question1", "question2", id="idx")),
        metrics=("f1", "accuracy"),
        labels=_BINARY,
        meanings=("not_duplicate", "duplicate"),
        columns=_pair("question1", "question2", "is_duplicate", "id"),
        skips_short_lines=True,  # the official train.tsv has a few
    ),
    replace(
        _glue("mnli", "MNLI", 9_796, _TFDS_NLI),
        files={
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
    replace(
        _glue("qnli", "QNLI", 5_463, _pair("question", "sentence", id="idx")),
        labels=_ENTAILMENT,
        columns=_pair("question", "sentence"),
    ),
    replace(_glue("rte", "RTE", 3_000, _TFDS_PAIR), labels=_ENTAILMENT, columns=_SENTENCES),
    replace(  # the paper leaves it out: footnote 4 of section 4.1
        _glue("wnli", "WNLI", 146, _TFDS_PAIR),
        labels=_BINARY,
        meanings=("not_entailment", "entailment"),
        columns=_SENTENCES,
    ),
    replace(
        _glue("ax", "AX", 1_104, _TFDS_NLI),
        metrics=("mcc",),
        files={"test": ("AX.tsv", "diagnostic.tsv", "diagnostic/diagnostic.tsv")},
        labels=_NLI,
        columns=_SENTENCES,
        trains_with="mnli",
    ),
)

# ---- questions (sections 4.2, 4.3), choices (4.4), names (5.3) -----------------------------------------------------

_CMRC = Task(
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
    question_scorer=CMRC,
)

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
    _CMRC,
    replace(
        _CMRC,
        name="drcd",
        title="DRCD",
        files={
            "train": ("DRCD_training.json", "train.json"),
            "dev": ("DRCD_dev.json", "dev.json"),
            "test": ("DRCD_test.json", "test.json"),
        },
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
    """Return the task of that name; case, "-" and "_" do not count: SST-2 is sst2.

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
    raise UserError(
        f"there is no task {name}: {hint}The tasks are {', '.join(TASKS)}; your own data is bert-jax finetune own"
    )
