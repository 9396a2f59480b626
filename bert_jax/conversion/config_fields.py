# SPDX-License-Identifier: Apache-2.0
"""The fate of each field of a configuration that is converted: kept, without effect on any output, or left out and said.

Kept are the fields that `config_files` writes again. Of the others these here, of transformers' BertConfig and of Google's
bert_config.json, change no output; whatever else a file says is named in the certificate.
"""

from collections.abc import Iterator

from bert_jax.base.errors import listed
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.conversion.config_files import GELU_FORM, HUGGING_FACE_CONFIG, LABELLED, labels_of

# Fields by which a model is run, stored or described, not what it computes.
WITHOUT_EFFECT = frozenset({
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "_num_labels",
    "chunk_size_feed_forward", "dtype", "finetuning_task", "gradient_checkpointing", "name_or_path", "num_labels",
    "output_attentions", "output_hidden_states", "output_past", "return_dict", "torch_dtype", "torchscript",
    "transformers_version", "use_bfloat16", "use_cache",
})  # fmt: skip
# Google's names for a pooler of other kinds, which its code does not read.
WITHOUT_EFFECT_OF_GOOGLE = frozenset({
    "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head",
    "pooler_type",
})  # fmt: skip
KEPT_OF_GOOGLE = frozenset({
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "tie_word_embeddings",
    "type_vocab_size", "vocab_size", GELU_FORM,
})  # fmt: skip
KEPT = (KEPT_OF_GOOGLE - {GELU_FORM}) | {
    "architectures", "id2label", "is_decoder", "label2id", "layer_norm_eps", "model_type", "pad_token_id", "problem_type",
}  # fmt: skip
# Kept, or of a head that none of the classes has.
OF_ELECTRA = frozenset({
    "embedding_size", "summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj",
})  # fmt: skip
# Refused where they are not these values, which is done in `read_hugging_face`.
CHECKED = frozenset({
    "add_cross_attention", "is_encoder_decoder", "position_embedding_type", "pruned_heads",
})  # fmt: skip
_SAID = 12  # fields of a line


def not_kept(values: JsonObject, description: ModelDescription, pad_id: int | None) -> Iterator[str]:
    """Yield what a config.json says that the result of a conversion will not, a line each.

    Args:
      values: the file's.
      description: the model that was found.
      pad_id: the id of [PAD], which is written as pad_token_id; None: there is no vocabulary.
    """
    of_electra = OF_ELECTRA if values.get("model_type") == "electra" else frozenset()
    others = values.keys() - KEPT - CHECKED - WITHOUT_EFFECT - WITHOUT_EFFECT_OF_GOOGLE - of_electra
    said = [f"{name}={values[name]!r:.40}" for name in sorted(others) if values[name] is not None]
    if said:
        yield f"left out of {HUGGING_FACE_CONFIG}, for which there is no place: {listed(said, _SAID)}"
    told = values.get("pad_token_id")
    if told is not None and pad_id is not None and told != pad_id:
        yield f"left out of {HUGGING_FACE_CONFIG}: pad_token_id={told!r:.40}; [PAD] is entry {pad_id} of the vocabulary"
    if description.task is not None:
        yield from _labels(values, description.task)


def _labels(values: JsonObject, task: TaskHead) -> Iterator[str]:
    """Names of outputs that cannot be kept."""
    named = values.get("id2label")
    if named is None:
        return
    count = len(named) if isinstance(named, (dict, list)) else 0
    names = labels_of(values, task.outputs)
    if not names:
        yield (
            f"left out of {HUGGING_FACE_CONFIG}: id2label, which names {count} outputs where the head has {task.outputs}: they"
            f" are called LABEL_0 to LABEL_{task.outputs - 1}"
        )
    elif task.kind not in LABELLED and names != tuple(f"LABEL_{number}" for number in range(task.outputs)):
        yield f"left out of {HUGGING_FACE_CONFIG}: id2label ({listed(names)}), as a head for {task.kind} names no outputs"
    inverse = values.get("label2id")
    if names and len(set(names)) < len(names):
        yield f"{HUGGING_FACE_CONFIG} names several outputs alike in id2label ({listed(names)}): label2id keeps the last"
    elif names and inverse is not None and inverse != {name: number for number, name in enumerate(names)}:
        yield f"left out of {HUGGING_FACE_CONFIG}: label2id, which is not the inverse of id2label; written is the inverse"


def not_kept_of_google(values: JsonObject) -> Iterator[str]:
    """Yield what a bert_config.json says that the result of a conversion will not."""
    others = values.keys() - KEPT_OF_GOOGLE - WITHOUT_EFFECT_OF_GOOGLE
    said = [f"{name}={values[name]!r:.40}" for name in sorted(others) if values[name] is not None]
    if said:
        yield f"left out of bert_config.json, for which there is no place: {listed(said, _SAID)}"
