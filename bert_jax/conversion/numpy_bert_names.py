# SPDX-License-Identifier: Apache-2.0
"""The names and orientations of a BERT's tensors as google-research/bert and Hugging Face have them, for `numpy_bert`; of
Hugging Face's ELECTRA too.

A restatement on purpose: it shares nothing with the table of names that conversions go by.

Shapes: D features, O outputs, V vocabulary, C classes.
"""

from collections.abc import Mapping
from typing import NamedTuple

# A fine-tuned head -> how many classes it has; None: as many as are stored.
TASKS: Mapping[str, int | None] = {
    **dict.fromkeys(("classification", "multi_label", "regression", "tagging")),
    "choice": 1,
    "span": 2,
}


class Names(NamedTuple):
    """One side's names. Several names for one tensor: the first that is there counts."""

    prefixes: Mapping[str, str]  # what may stand before the encoder's names -> before the heads' names
    word: str
    position: str
    segment: str
    embeddings_norm: str
    layer: str  # before the names of layer {}
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str
    pooler: str
    kernel: str  # after the name of a dense layer
    bias: str
    kernel_is_transposed: bool  # stored as [O, D], not [D, O]
    scale: tuple[str, ...]  # after the name of a LayerNorm
    shift: tuple[str, ...]
    mlm: str  # before all names of the MLM head
    transform: str
    transform_norm: str
    decoder: str  # [V, D], where the output matrix is not the word embedding
    decoder_bias: tuple[str, ...]
    nsp: tuple[str, str]  # [2, D] and [2] on both sides
    tasks: Mapping[str, tuple[str, str]]  # [C, D] and [C] on both sides
    projection: str = ""  # of ELECTRA: from the tables to the layers
    first_token: str = ""  # of ELECTRA: what a head has in the place of the pooler, with GELU
    replaced: str = ""  # of ELECTRA: the two dense layers of its discriminator's head
    replaced_output: str = ""


# Both sides name their layers alike, parted by dots or by slashes.
_LAYERS = {
    "embeddings_norm": "embeddings.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
    "pooler": "pooler.dense",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
}

_HUGGING_FACE = Names(
    prefixes={"bert.": "", "": "", "module.bert.": "module.", "module.": "module."},
    word="embeddings.word_embeddings.weight",
    position="embeddings.position_embeddings.weight",
    segment="embeddings.token_type_embeddings.weight",
    layer="encoder.layer.{}.",
    kernel=".weight",
    bias=".bias",
    kernel_is_transposed=True,
    scale=(".weight", ".gamma"),
    shift=(".bias", ".beta"),
    mlm="cls.predictions.",
    decoder="cls.predictions.decoder.weight",
    # The decoder's own is the one that is added. Where they are tied, or written by transformers 4, they are the same.
    decoder_bias=("cls.predictions.decoder.bias", "cls.predictions.bias"),
    nsp=("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
    tasks={
        **dict.fromkeys(TASKS, ("classifier.weight", "classifier.bias")),
        "span": ("qa_outputs.weight", "qa_outputs.bias"),
    },
    **_LAYERS,
)

_ELECTRA = _HUGGING_FACE._replace(
    prefixes={"electra.": "", "": ""},
    mlm="generator_",
    transform="generator_predictions.dense",
    transform_norm="generator_predictions.LayerNorm",
    decoder="generator_lm_head.weight",
    decoder_bias=("generator_lm_head.bias",),
    tasks={
        **dict.fromkeys(
            ("classification", "multi_label", "regression"), ("classifier.out_proj.weight", "classifier.out_proj.bias")
        ),
        "tagging": ("classifier.weight", "classifier.bias"),
        "span": ("qa_outputs.weight", "qa_outputs.bias"),
    },
    projection="embeddings_project",
    first_token="classifier.dense",
    replaced="discriminator_predictions.dense",
    replaced_output="discriminator_predictions.dense_prediction",
)

_TF1 = Names(
    prefixes={"bert/": ""},
    word="embeddings/word_embeddings",
    position="embeddings/position_embeddings",
    segment="embeddings/token_type_embeddings",
    layer="encoder/layer_{}/",
    kernel="/kernel",
    bias="/bias",
    kernel_is_transposed=False,
    scale=("/gamma",),
    shift=("/beta",),
    mlm="cls/predictions/",
    decoder="cls/predictions/output_weights",  # not Google's: theirs is always the word embedding
    decoder_bias=("cls/predictions/output_bias",),
    nsp=("cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias"),
    tasks={
        **dict.fromkeys(TASKS, ("output_weights", "output_bias")),
        "span": ("cls/squad/output_weights", "cls/squad/output_bias"),
    },
    **{layer: name.replace(".", "/") for layer, name in _LAYERS.items()},
)

NAMES = {"hugging_face": _HUGGING_FACE, "tf1": _TF1, "electra": _ELECTRA}
NAMINGS = ("hugging_face", "tf1")  # of BERT
