# SPDX-License-Identifier: Apache-2.0
"""The one table of studies and of their budgets. A new study is an entry of `STUDIES`.

Figures are those of the BERT paper (Devlin et al. 2018, 1810.04805): tables 1, 5, 6, 7 and 8.
"""

import difflib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from bert_jax.base.errors import UserError

type Settings = tuple[str, ...]  # KEY=VALUE, as on the command line

PERPLEXITY = "perplexity"  # the column of no task: the language model's, on the held-out part of the prepared data


@dataclass(frozen=True)
class Column:
    """A measure: of a task, or the perplexity.

    task: of the table of tasks; "" of the perplexity. metric: None: the task's main one.
    finetune: settings of its fine-tuned runs.
    rows: that have it; None: all.
    is_small: whether the task has a few thousand examples, which a small budget goes over more often.
    """

    title: str
    task: str = ""
    metric: str | None = None
    finetune: Settings = ()
    rows: tuple[str, ...] | None = None
    is_small: bool = False


@dataclass(frozen=True)
class StudyRow:
    """A system that is compared.

    published: the paper's figures by column.
    pretrain, finetune: settings of its runs.
    model: the row whose pre-trained model it takes; "": one of its own.
    ngrams: tokens of the n-grams of a row that is such a model, of what the row `model` predicts; 0: it is none.
    is_taught: whether it learns from the teacher of the study; without one it is left out.
    """

    title: str
    published: Mapping[str, float] = field(default_factory=dict)
    pretrain: Settings = ()
    finetune: Settings = ()
    model: str = ""
    ngrams: int = 0
    is_taught: bool = False


@dataclass(frozen=True)
class Study:
    """A table of the paper.

    comparisons: pairs of rows whose differences the paper draws conclusions from.
    pretrain: settings of all its pre-training.
    scaled: what stands for a setting in budgets that shrink the model.
    notes: in what it differs from the paper's.
    equal_compute: whether rows have equal FLOPs, as many as the first one's steps take, and not equal steps.
    """

    title: str
    source: str
    columns: Mapping[str, Column]
    rows: Mapping[str, StudyRow]
    comparisons: Sequence[tuple[str, str]]
    pretrain: Settings = ()
    scaled: Mapping[str, Settings] = field(default_factory=dict)
    notes: Sequence[str] = ()
    equal_compute: bool = False

    @property
    def takes_teacher(self) -> bool:
        """Whether a row learns from a teacher."""
        return any(row.is_taught for row in self.rows.values())

    def untaught(self) -> Self:
        """Return the study without what needs a teacher."""
        rows = {name: row for name, row in self.rows.items() if not row.is_taught}
        return replace(self, rows=rows, comparisons=[pair for pair in self.comparisons if {*pair} <= rows.keys()])


class BudgetPhase(NamedTuple):
    """A phase of a small budget."""

    steps: int
    batch_size: int
    length: int | None = None  # tokens of a row; None: the data's shortest


@dataclass(frozen=True)
class Budget:
    """How much is computed, the same for every row.

    config: the recipe of pre-training in configs/.
    phases: instead of the recipe's own.
    finetune: settings of every fine-tuned run; small_tasks: of those on small tasks too. seeds: of each.
    """

    help: str
    config: str
    phases: tuple[BudgetPhase, ...] = ()
    pretrain: Settings = ()
    finetune: Settings = ()
    small_tasks: Settings = ()
    seeds: int = 5

    @property
    def scaled(self) -> bool:
        """Whether models are smaller than the paper's."""
        return bool(self.phases)


_SMALL_RATE = (
    "optimizer.learning_rate=5e-4"  # two layers of 128 need larger rates than the paper's (configs/finetune.py)
)
_SMALL_TASKS = ("epochs=10", "optimizer.name=muon", "optimizer.learning_rate=1e-3")  # AdamW seldom learns STS-B
_ADAMW = "optimizer.name=adamw_bert"  # the paper's, which configs/demo.py has not
_MUON = "optimizer.name=muon"
BUDGETS: Mapping[str, Budget] = {
    "smoke": Budget(
        "seconds a run: whether all of it works",
        "demo",
        (BudgetPhase(20, 16),),
        (_ADAMW, "log_every=10", "save_every=10", "eval_batches=4"),
        (_SMALL_RATE, "epochs=0.02"),
        seeds=2,
    ),
    # In rows of 128 alone two layers learn hardly more than the words' frequencies in as many steps (configs/demo.py).
    "hour": Budget(
        "models of 1 to 8 layers, 2,800 steps of 2,048 or 4,096 tokens in rows of 32 and 128, one epoch, ten of small tasks",
        "demo",
        (BudgetPhase(1_200, 64, 32), BudgetPhase(150, 32, 128), BudgetPhase(1_000, 64, 32), BudgetPhase(450, 32, 128)),
        ("save_every=500", "eval_every=500"),
        (_SMALL_RATE, "epochs=1"),
        _SMALL_TASKS,
        3,
    ),
    "night": Budget(
        "the same models, 22,000 such steps, two epochs, ten of small tasks",
        "demo",
        tuple(
            phase
            for short, long in ((1_000, 150), (2_000, 350), (3_000, 500), (4_000, 1_000), (7_000, 3_000))
            for phase in (BudgetPhase(short, 64, 32), BudgetPhase(long, 32, 128))
        ),  # long rows in turn with short ones, as in configs/tiny_cpu.py
        ("save_every=1000", "eval_every=5000"),
        (_SMALL_RATE, "epochs=2"),
        _SMALL_TASKS,
        3,
    ),
    "full": Budget("the paper's: 1,000,000 steps of 256 rows of BERT-base", "base"),
}

# ---- the studies ----------------------------------------------------------------------------------------------------

_MNLI, _QNLI = Column("MNLI-m", "mnli", "accuracy"), Column("QNLI", "qnli", "accuracy")
_MRPC, _SST2 = Column("MRPC", "mrpc", "accuracy", is_small=True), Column("SST-2", "sst2", "accuracy")
_STSB, _COLA = Column("STS-B", "stsb", "spearman", is_small=True), Column("CoLA", "cola", "mcc", is_small=True)
_SQUAD, _NER = Column("SQuAD 1.1", "squad1", "f1"), Column("CoNLL-2003", "conll2003", "f1")
_BERT = "model=base"
_FOUR_LAYERS: Settings = ("model.num_hidden_layers=4",)
_LAST_FOUR = "layers=-4,-3,-2,-1"
_ALL_LAYERS = "layers=1,2,3,4,5,6,7,8,9,10,11,12"
# Features for a BiLSTM, the encoder being frozen; the paper gives no rate, and a head drawn anew needs a larger one.
_FROZEN: Settings = ("optimizer.freeze=encoder", "optimizer.learning_rate=1e-3", "lstm=768")
_ELMO: Settings = ("model.hidden_size=1024", "model.num_hidden_layers=2", "model.lstm_units=4096")
_ONE_LSTM = "The BiLSTM is of one layer; the paper's table 7 has two."


def _published(columns: str, *figures: float) -> Mapping[str, float]:
    return dict(zip(columns.split(), figures, strict=True))


def _masking(mask: float, same: float, random: float, *figures: float) -> StudyRow:
    """A row of table 8: the shares of picked tokens that are masked, stay, and become random ones."""
    title = f"{mask:.0%} mask, {same:.0%} same, {random:.0%} random"
    settings = (f"objective.mask_share={mask}", f"objective.random_share={random}")
    return StudyRow(title, _published("mnli conll2003 features", *figures), settings)


def _size(layers: int, hidden: int, heads: int, *figures: float) -> StudyRow:
    """A row of table 6."""
    published = _published(f"{PERPLEXITY} mnli mrpc sst2", *figures)
    return StudyRow(f"{layers} layers of {hidden}, {heads} heads", published, (f"model={layers}x{hidden}x{heads}",))


def _scaled_size(layers: int, hidden: int, heads: int) -> tuple[str, Settings]:
    """A shape of table 6, and one with a third of its layers, an eighth of its width and a quarter of its heads."""
    width = hidden // 8
    shape = {"num_hidden_layers": layers // 3, "hidden_size": width, "intermediate_size": 4 * width}
    shape |= {"num_attention_heads": max(1, heads // 4)}
    return f"model={layers}x{hidden}x{heads}", tuple(f"model.{name}={value}" for name, value in shape.items())


def _against(first: str, others: Sequence[str]) -> list[tuple[str, str]]:
    return [(first, other) for other in others]


_RTD: Settings = (
    "objective=rtd",
    "objective.mask_share=0.85",
    "objective.random_share=0.0",
    f"objective.generator_share={1 / 3}",
)
_SMALL_GENERATOR = {f"objective.generator_share={1 / 3}": ("objective.generator_share=0.5",)}
_FULL = "objective=mlm_full_sentences"  # the rows that RTD has too
_ABLATION = "mnli qnli mrpc sst2 squad1"
_SIZES = (
    ("3x768x12", _size(3, 768, 12, 5.84, 77.9, 79.8, 88.4)),
    ("6x768x3", _size(6, 768, 3, 5.24, 80.6, 82.2, 90.7)),
    ("6x768x12", _size(6, 768, 12, 4.68, 81.9, 84.8, 91.3)),
    ("12x768x12", _size(12, 768, 12, 3.99, 84.4, 86.7, 92.9)),
    ("12x1024x16", _size(12, 1024, 16, 3.54, 85.7, 86.9, 93.3)),
    ("24x1024x16", _size(24, 1024, 16, 3.23, 86.6, 87.8, 93.7)),
)
_MASKINGS = {
    "80-10-10": _masking(0.8, 0.1, 0.1, 84.2, 95.4, 94.9),
    "100-0-0": _masking(1.0, 0.0, 0.0, 84.3, 94.9, 94.0),
    "80-0-20": _masking(0.8, 0.0, 0.2, 84.1, 95.2, 94.6),
    "80-20-0": _masking(0.8, 0.2, 0.0, 84.4, 95.2, 94.7),
    "0-20-80": _masking(0.0, 0.2, 0.8, 83.7, 94.8, 94.6),
    "0-0-100": _masking(0.0, 0.0, 1.0, 83.6, 94.9, 94.6),
}
_FEATURES = {
    "embeddings": (91.0, "Embeddings", ("layers=0",)),
    "second-to-last": (95.6, "Second-to-last hidden", ("layers=-2",)),
    "last": (94.9, "Last hidden", ("layers=-1",)),
    "sum-last-four": (95.9, "Weighted sum of the last four", (_LAST_FOUR, "combine=mix")),
    "concat-last-four": (96.1, "The last four beside each other", (_LAST_FOUR, "combine=concat")),
    "sum-all": (95.5, "Weighted sum of all layers", (_ALL_LAYERS, "combine=mix")),
}
_TEST = "mnli qqp qnli sst2 cola stsb mrpc rte"

STUDIES: Mapping[str, Study] = {
    "ablation": Study(
        "Pre-training tasks",
        "1810.04805, table 5",
        {"mnli": _MNLI, "qnli": _QNLI, "mrpc": _MRPC, "sst2": _SST2, "squad1": _SQUAD},
        {
            "base": StudyRow("BERT", _published(_ABLATION, 84.4, 88.4, 86.7, 92.7, 88.5)),
            "no-nsp": StudyRow("No NSP", _published(_ABLATION, 83.9, 84.9, 86.5, 92.6, 87.9), ("objective=mlm_pairs",)),
            "ltr": StudyRow("LTR & No NSP", _published(_ABLATION, 82.1, 84.3, 77.5, 92.1, 77.8), ("objective=ltr",)),
            "ltr-bilstm": StudyRow(
                "+ BiLSTM", _published(_ABLATION, 82.1, 84.1, 75.7, 91.6, 84.9), finetune=("lstm=768",), model="ltr"
            ),
        },
        [("base", "no-nsp"), ("no-nsp", "ltr"), ("ltr", "ltr-bilstm"), ("base", "ltr")],
        scaled={"lstm=768": ("lstm=64",)},
        notes=["Left to right, rows are whole sentences of one segment; the paper's keep the rows of pairs."],
    ),
    "sizes": Study(
        "Model sizes",
        "1810.04805, table 6",
        {PERPLEXITY: Column("LM perplexity"), "mnli": _MNLI, "mrpc": _MRPC, "sst2": _SST2},
        dict(_SIZES),
        [(larger, smaller) for (smaller, _), (larger, _) in itertools.pairwise(_SIZES)],
        scaled=dict(_scaled_size(*map(int, name.split("x"))) for name, _ in _SIZES),
    ),
    "features": Study(
        "Features beside fine-tuning",
        "1810.04805, table 7",
        {"conll2003": _NER},
        {
            "fine-tuning": StudyRow("Fine-tuning", {"conll2003": 96.4}),
            **{
                name: StudyRow(title, {"conll2003": figure}, finetune=(*_FROZEN, *settings), model="fine-tuning")
                for name, (figure, title, settings) in _FEATURES.items()
            },
        },
        [*_against("fine-tuning", list(_FEATURES)), ("concat-last-four", "last"), ("last", "embeddings")],
        pretrain=(_BERT,),
        scaled={
            _BERT: _FOUR_LAYERS,
            "lstm=768": ("lstm=64",),
            _ALL_LAYERS: ("layers=1,2,3,4",),
        },
        notes=[
            _ONE_LSTM,
            "All rows stand on one pre-trained model. Budgets but `full` have four layers, of which the last four are all: the"
            " two weighted sums are one row there.",
        ],
    ),
    "masking": Study(
        "Masking",
        "1810.04805, table 8",
        {
            "mnli": _MNLI,
            "conll2003": _NER,
            "features": replace(_NER, title="CoNLL-2003, features", finetune=(*_FROZEN, _LAST_FOUR, "combine=concat")),
        },
        _MASKINGS,
        _against("80-10-10", list(_MASKINGS)[1:]),
        pretrain=(_BERT,),
        scaled={_BERT: _FOUR_LAYERS, "lstm=768": ("lstm=64",)},
        notes=[_ONE_LSTM],
    ),
    "systems": Study(
        "Systems",
        "1810.04805, table 1",
        {
            PERPLEXITY: Column("Perplexity, next token", rows=("gpt", "elmo", "n-grams")),
            "mnli": _MNLI,
            "qqp": Column("QQP", "qqp", "f1"),
            "qnli": _QNLI,
            "sst2": _SST2,
            "cola": _COLA,
            "stsb": _STSB,
            "mrpc": replace(_MRPC, metric="f1"),
            "rte": Column("RTE", "rte", "accuracy", is_small=True),
        },
        {
            "bert": StudyRow("BERT", _published(_TEST, 84.6, 71.2, 90.5, 93.5, 52.1, 85.8, 88.9, 66.4)),
            "gpt": StudyRow(
                "GPT", _published(_TEST, 82.1, 70.3, 87.4, 91.3, 45.4, 80.0, 82.3, 56.0), ("objective=ltr",)
            ),
            "elmo": StudyRow(
                "ELMo-like",
                _published(_TEST, 76.4, 64.8, 79.8, 90.4, 36.0, 73.3, 84.9, 56.8),
                ("objective=bilm", *_ELMO),
                (*_FROZEN, "layers=0,1,2", "combine=mix"),
            ),
            "electra": StudyRow("ELECTRA", pretrain=_RTD),
            "n-grams": StudyRow("5-grams (Kneser-Ney)", model="gpt", ngrams=5),
        },
        [("bert", "gpt"), ("gpt", "elmo"), ("bert", "elmo"), ("electra", "bert")],
        scaled={
            **_SMALL_GENERATOR,
            **dict(zip(_ELMO, ((), (), ("model.lstm_units=512",)), strict=True)),  # two layers of 128 as they are
            "lstm=768": ("lstm=64",),
        },
        notes=[
            "The paper's figures are of the hidden test sets, ours of dev. ELECTRA (2003.10555) is later than the paper, so"
            " there is no sign to compare with.",
            "All have the rows, steps and vocabulary of BERT here, not those that they were published with; a step of ELMo-like"
            " is other arithmetic than one of BERT.",
            "ELMo-like is used as features: its three layers are mixed with learned weights under a BiLSTM of one layer, and"
            " stay as they are. The paper's row has attention between two texts too; ELMo reads characters, not word pieces.",
        ],
    ),
    "ladder": Study(
        "Recipes at equal compute",
        "no table of the paper, but what came after it: 2003.10555, 2202.08005",
        {
            "sst2": _SST2,
            "stsb": _STSB,
            "cola": _COLA,
            "mnli": _MNLI,
            "squad1": _SQUAD,
        },
        {
            "mlm": StudyRow("MLM, 15 %", pretrain=(_FULL,)),
            "mlm-muon": StudyRow("MLM, 15 %, Muon", pretrain=(_FULL, _MUON)),
            "mlm-30": StudyRow("MLM, 30 %", pretrain=(_FULL, "objective.mlm_probability=0.3")),
            "whole-words": StudyRow("MLM, whole words", pretrain=(_FULL, "objective.masking=whole_word")),
            "rtd": StudyRow("Replaced tokens", pretrain=_RTD),
            "rtd-muon": StudyRow("Replaced tokens, Muon", pretrain=(*_RTD, _MUON)),
            "distilled": StudyRow("MLM, distilled", pretrain=(_FULL,), is_taught=True),
        },
        [*_against("mlm", ["mlm-muon", "mlm-30", "whole-words", "rtd", "distilled"]), ("rtd", "rtd-muon")],
        pretrain=(_ADAMW,),
        scaled={
            **_SMALL_GENERATOR,
            _ADAMW: (_ADAMW, "optimizer.learning_rate=2e-3"),  # as configs/electra_tiny.py
            _MUON: (_MUON, "optimizer.learning_rate=4e-3"),  # as configs/demo.py
        },
        notes=[
            "All rows have the FLOPs of the first one's steps, by formula, so that a step that costs more is taken less often;"
            " of the distilled row they count its teacher's forward pass.",
        ],
        equal_compute=True,
    ),
}


SMALL_TASKS = {column.task for study in STUDIES.values() for column in study.columns.values() if column.is_small}


def find_study(name: str) -> Study:
    """Return a study of the table.

    Raises:
      UserError: there is none of that name.
    """
    return _entry(STUDIES, "study", name)


def find_budget(name: str) -> Budget:
    """Return a budget of the table.

    Raises:
      UserError: there is none of that name.
    """
    return _entry(BUDGETS, "budget", name)


def _entry[E](table: Mapping[str, E], what: str, name: str) -> E:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no {what} {name}: {hint}Choose one of {', '.join(table)}")
    return table[name]
