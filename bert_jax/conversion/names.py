# SPDX-License-Identifier: Apache-2.0
"""One table: what a tensor is called here, by Hugging Face, and by google-research/bert, and how it lies there.

Here a dense layer's kernel is [in, out] and layers are stacked along a leading axis; in this table a layer's tensors stand
for themselves, `{n}` being its number from 0. Hugging Face (modeling_bert.py) keeps a dense layer as PyTorch does,
[out, in]. google-research/bert (modeling.py, run_pretraining.py, run_classifier.py, run_squad.py) keeps [in, out], except
for the matrices that it makes by hand, which are called `output_weights` and are [out, in].

transformers' ELECTRA has the layers of BERT under names of its own, which `canonical` reads and `electra_name` writes.

Shapes: V vocabulary, P positions, G segments, E features of the tables, D features, F features of the feed-forward layer,
C outputs; d and f as D and F of a generator; U units of a biLM.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.model import ModelConfig

BERT_JAX, HUGGING_FACE, TF1 = FORMATS = ("bert-jax", "huggingface", "tf1")
LAYER = "encoder/layers/{n}/"
GENERATOR = "generator/"  # before the names of what is a generator's alone

# Of a TF1 checkpoint that training can go on from; published weights have neither.
SLOTS = ("adam_m", "adam_v")  # Adam's first and second moment of a variable are called <variable>/<slot>
GLOBAL_STEP = "global_step"  # optimizer steps done


class NameRow(NamedTuple):
    """A tensor of ours and its counterparts."""

    ours: str
    huggingface: str
    tf1: str
    shape: tuple[str, ...]  # here; letters as in this file's legend
    huggingface_transposed: bool = False
    tf1_transposed: bool = False

    def name(self, format: str) -> str:
        """Return its name in `format`."""
        return {BERT_JAX: self.ours, HUGGING_FACE: self.huggingface, TF1: self.tf1}[format]

    def is_transposed(self, format: str) -> bool:
        """Whether `format` keeps it with its two axes swapped."""
        return {BERT_JAX: False, HUGGING_FACE: self.huggingface_transposed, TF1: self.tf1_transposed}[format]


def _dense(ours: str, huggingface: str, tf1: str, shape: str) -> list[NameRow]:
    inputs, outputs = shape[0], shape[1]
    kernel = NameRow(f"{ours}/kernel", f"{huggingface}.weight", f"{tf1}/kernel", (inputs, outputs), True)
    return [kernel, NameRow(f"{ours}/bias", f"{huggingface}.bias", f"{tf1}/bias", (outputs,))]


def _norm(ours: str, huggingface: str, tf1: str, shape: str = "D") -> list[NameRow]:
    scale = NameRow(f"{ours}/scale", f"{huggingface}.weight", f"{tf1}/gamma", (shape,))
    return [scale, NameRow(f"{ours}/bias", f"{huggingface}.bias", f"{tf1}/beta", (shape,))]


def _output(ours: str, huggingface: str, tf1: str, outputs: str, inputs: str = "D") -> list[NameRow]:
    """A dense layer that google-research/bert makes by hand."""
    kernel = NameRow(f"{ours}/kernel", f"{huggingface}.weight", f"{tf1}output_weights", (inputs, outputs), True, True)
    return [kernel, NameRow(f"{ours}/bias", f"{huggingface}.bias", f"{tf1}output_bias", (outputs,))]


EMBEDDINGS = [
    NameRow("encoder/embeddings/word", "bert.embeddings.word_embeddings.weight", "bert/embeddings/word_embeddings", ("V", "E")),
    NameRow("encoder/embeddings/position", "bert.embeddings.position_embeddings.weight",
        "bert/embeddings/position_embeddings", ("P", "E")),
    NameRow("encoder/embeddings/segment", "bert.embeddings.token_type_embeddings.weight",
        "bert/embeddings/token_type_embeddings", ("G", "E")),
    *_norm("encoder/embeddings/norm", "bert.embeddings.LayerNorm", "bert/embeddings/LayerNorm", "E"),
]  # fmt: skip
PROJECTION = _dense("encoder/embeddings_project", "bert.embeddings_project", "bert/embeddings_project", "ED")


def _layer() -> list[NameRow]:
    rows = []
    theirs = (
        ("attention/query", "attention.self.query", "DD"),
        ("attention/key", "attention.self.key", "DD"),
        ("attention/value", "attention.self.value", "DD"),
        ("attention/output", "attention.output.dense", "DD"),
        ("attention_norm", "attention.output.LayerNorm", ""),
        ("feed_forward/intermediate", "intermediate.dense", "DF"),
        ("feed_forward/output", "output.dense", "FD"),
        ("feed_forward_norm", "output.LayerNorm", ""),
    )
    for ours, name, shape in theirs:
        names = (
            f"{LAYER}{ours}",
            f"bert.encoder.layer.{{n}}.{name}",
            f"bert/encoder/layer_{{n}}/{name.replace('.', '/')}",
        )
        rows += _dense(*names, shape) if shape else _norm(*names)
    return rows


LAYERS = _layer()
# Of a biLM, for which no other format has a place.
TOKENS = EMBEDDINGS[:1]
LSTM_LAYERS = [
    NameRow(f"{LAYER}{name}", f"bilm.layer.{{n}}.{name.replace('/', '.')}", f"bilm/layer_{{n}}/{name}", shape)
    for direction in ("forward", "backward")
    for name, shape in (
        (f"{direction}/input", ("E", "4U")),
        (f"{direction}/recurrent", ("E", "4U")),
        (f"{direction}/bias", ("4U",)),
        (f"{direction}/projection", ("U", "E")),
    )
]
POOLER = _dense("encoder/pooler", "bert.pooler.dense", "bert/pooler/dense", "DD")
MLM = [
    *_dense("mlm/transform", "cls.predictions.transform.dense", "cls/predictions/transform/dense", "DE"),
    *_norm("mlm/norm", "cls.predictions.transform.LayerNorm", "cls/predictions/transform/LayerNorm", "E"),
    NameRow("mlm/bias", "cls.predictions.bias", "cls/predictions/output_bias", ("V",)),
]
# google-research/bert knows the tied matrix only; the name is ours, in its manner.
UNTIED = [NameRow("mlm/decoder", "cls.predictions.decoder.weight", "cls/predictions/output_weights", ("V", "E"))]
RTD = [
    *_dense("rtd/transform", "discriminator_predictions.dense", "discriminator_predictions/dense", "DD"),
    *_dense(
        "rtd/output", "discriminator_predictions.dense_prediction", "discriminator_predictions/dense_prediction", "D1"
    ),
]
# As in TinyBERT's own checkpoints (1909.10351); it is of use to training alone.
TEACHER_PROJECTION = _dense("teacher_projection", "fit_dense", "fit_dense", "DT")
NSP = _output("nsp", "cls.seq_relationship", "cls/seq_relationship/", "2")
CLASSIFIER = _output("task", "classifier", "", "C", inputs="W")
SPAN = _output("task", "qa_outputs", "cls/squad/", "C", inputs="W")


def _features(task: TaskHead) -> list[NameRow]:
    """Return the tensors below a head's dense layer (see `TaskHead.is_plain`), for which no other format has a place."""

    def row(name: str, *shape: str) -> NameRow:
        return NameRow(f"features/{name}", f"features.{name}".replace("/", "."), f"features/{name}", shape)

    mixed = [row("mix/weights", "K"), row("mix/scale")] if task.layers and task.combine == "mix" else []
    directions = ("forward", "backward") if task.lstm else ()
    lstm = [
        row(f"lstm/{direction}/{name}", *shape)
        for direction in directions
        for name, *shape in (("input", "I", "4"), ("recurrent", "H", "4"), ("bias", "4"))
    ]
    fused = [row("fusion/query", "W")] if task.is_pooled and task.fusion == "attention" else []
    return [*mixed, *lstm, *fused]


def rows_of(description: ModelDescription) -> list[NameRow]:
    """All tensors of a model, each layer's with its number."""
    task, generator = description.task, description.generator
    own = MLM[-1:] if description.model.is_recurrent else MLM
    mlm = [*own, *([] if description.model.tie_word_embeddings else UNTIED)] if description.mlm else []
    return [
        *(TOKENS if description.model.is_recurrent else EMBEDDINGS),
        *_layers_of(description.model),
        *(POOLER if description.pooler else []),
        *(mlm if generator is None else map(_of_generator, [*_layers_of(generator), *mlm])),
        *(RTD if description.rtd else []),
        *(NSP if description.nsp else []),
        *(TEACHER_PROJECTION if description.teacher_size else []),
        *(_features(task) if task else []),
        *((SPAN if task.kind == "span" else CLASSIFIER) if task else []),
    ]


def _layers_of(model: ModelConfig) -> list[NameRow]:
    layers = LSTM_LAYERS if model.is_recurrent else LAYERS
    numbered = [_numbered(row, n) for n in range(model.num_hidden_layers) for row in layers]
    return [*(PROJECTION if model.is_projected else []), *numbered]


def _of_generator(row: NameRow) -> NameRow:
    """The same tensor of a generator, of whose sizes the letters are small; no other format has both models in one."""
    shape = tuple(letter.lower() if letter in "DF" else letter for letter in row.shape)
    return row._replace(ours=GENERATOR + row.ours, huggingface=f"generator.{row.huggingface}", shape=shape)


def _numbered(row: NameRow, n: int) -> NameRow:
    return row._replace(**{key: getattr(row, key).format(n=n) for key in ("ours", "huggingface", "tf1")})


def shape_of(row: NameRow, description: ModelDescription) -> tuple[int, ...]:
    """A tensor's shape here."""
    model, task = description.model, description.task
    generator = description.generator or model
    sizes = {
        "V": model.vocab_size,
        "P": model.max_position_embeddings,
        "G": model.type_vocab_size,
        "E": model.table_size,
        "U": model.lstm_units or 0,
        "4U": 4 * (model.lstm_units or 0),
        "D": model.hidden_size,
        "d": generator.hidden_size,
        "f": generator.intermediate_size,
        "T": description.teacher_size,
        "1": 1,
        "F": model.intermediate_size,
        "C": task.outputs if task else 0,
        "W": task.width(model.hidden_size) if task else 0,
        "K": len(task.layers) if task else 0,
        "I": task.lstm_inputs(model.hidden_size) if task else 0,
        "H": task.lstm if task else 0,
        "4": 4 * task.lstm if task else 0,
        "2": 2,
    }
    return tuple(sizes[letter] for letter in row.shape)


# ---- names that mean the same --------------------------------------------------------------------------------------

_OLD_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


# With this name every encoder has one tensor; what stands before it stands before all names of the model.
_ANCHORS = {HUGGING_FACE: "embeddings.word_embeddings.weight", TF1: "bert/embeddings/word_embeddings"}


def prefix_of(names: Iterable[str], format: str) -> str:
    """Return the prefix of all names of a model, such as `_orig_mod.` or `module.`; "" where there is none, or no single one.

    Hugging Face's `bert.`, which stands before the names of the encoder alone, is not a part of it.
    """
    anchor = _ANCHORS.get(format)
    prefixes = {name.removesuffix(anchor) for name in names if anchor and name.endswith(anchor)}
    if len(prefixes) != 1:
        return ""
    prefix = prefixes.pop()
    prefix = prefix.removesuffix("bert.").removesuffix("electra.") if format == HUGGING_FACE else prefix
    return prefix if prefix.endswith((".", "/")) else ""


def canonical(names: list[str], format: str) -> dict[str, str]:
    """Names as a checkpoint has them, without a prefix of all -> names as the table has them.

    Hugging Face's: `bert.` is put before an encoder's where it is missing, and the older LayerNorm.gamma and .beta become
    .weight and .bias. ELECTRA's names become those of the table.
    """
    return dict(_canonical_hugging_face(names)) if format == HUGGING_FACE else {name: name for name in names}


def _canonical_hugging_face(names: list[str]) -> Iterator[tuple[str, str]]:
    bare = not any(name.startswith(("bert.", "electra.")) for name in names)
    of_encoder = ("embeddings.", "embeddings_project.", "encoder.", "pooler.")
    for name in names:
        own = f"bert.{name}" if bare and name.startswith(of_encoder) else name
        for theirs, ours in ELECTRA_NAMES:
            if own.startswith(theirs):
                own = ours + own.removeprefix(theirs)
                break
        for old, new in _OLD_ENDINGS.items():
            own = own.removesuffix(old) + new if own.endswith(old) else own
        yield name, own


# transformers' ELECTRA -> the table: what stands at the beginning of a name. The first that fits counts, both ways.
ELECTRA_NAMES = (
    ("classifier.dense.", "bert.pooler.dense."),
    ("classifier.out_proj.", "classifier."),
    ("generator_predictions.dense.", "cls.predictions.transform.dense."),
    ("generator_predictions.LayerNorm.", "cls.predictions.transform.LayerNorm."),
    ("generator_lm_head.bias", "cls.predictions.bias"),
    ("generator_lm_head.", "cls.predictions.decoder."),
    ("electra.", "bert."),
)


def electra_name(name: str, pooled: bool) -> str:
    """Return transformers' name in an ELECTRA for a name of the table; `pooled`: its head stands on the pooler."""
    for theirs, ours in ELECTRA_NAMES:
        if name.startswith(ours) and (pooled or not theirs.startswith("classifier.")):
            return theirs + name.removeprefix(ours)
    return name


# Hugging Face's second names: what they are equal to where the output matrix is tied. Where it is not, transformers adds
# the decoder's bias, and the other one is there but not used.
SECOND_NAMES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
POSITION_IDS = "bert.embeddings.position_ids"
OUTPUT_BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"


# ---- tensors that are not part of a model --------------------------------------------------------------------------


def reason_to_skip(name: str, format: str) -> str | None:
    """Why a tensor that is not in the table may be left out; None: it may not. For an optimizer's see slots.py."""
    for fits, reason in _SKIPPED[format]:
        if fits(name):
            return reason
    return None


OPTIMIZER_STATE = "optimizer state"  # of which `optimizer_for` tells

_TO_TEACHER = "a projection to a teacher's features, of use to training alone"
_SKIPPED: dict[str, list[tuple[Callable[[str], bool], str]]] = {
    # Earlier versions kept them in runs without the labels of pairs; see `RunDirectory.description`.
    BERT_JAX: [
        (lambda name: name.startswith(("encoder/pooler/", "nsp/")), "no loss of the run has ever reached it"),
        (lambda name: name.startswith("teacher_projection/"), _TO_TEACHER),
    ],
    HUGGING_FACE: [
        (lambda name: name.startswith("fit_dense."), _TO_TEACHER),
        (lambda name: name == POSITION_IDS, "a buffer of 0, 1, 2, ..."),
        (lambda name: name == "bert.embeddings.token_type_ids", "a buffer of zeros"),
    ],
    TF1: [],
}
