# SPDX-License-Identifier: Apache-2.0
"""Google's bert_config.json and Hugging Face's config.json, to and from a description of the model.

What is easily wrong: "gelu" is the tanh form in google-research/bert (modeling.py since 2019) and the erf form in Hugging
Face's library, which calls the tanh form "gelu_new". A config of Google's cannot name the erf form; `gelu_form` is an
entry of ours in it, which Google's code reads over.
"""

import dataclasses
from pathlib import Path

from bert_jax.base import files
from bert_jax.base.errors import listed, UserError
from bert_jax.base.types import JsonObject
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.config.fields import build
from bert_jax.config.model import ModelConfig

GOOGLE_CONFIG, HUGGING_FACE_CONFIG = "bert_config.json", "config.json"
GELU_FORM = "gelu_form"
_SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
_INTEGERS = frozenset(_SHARED[:7])
# Hugging Face's activations -> ours; the last three names are one formula.
_FORMS = {"gelu": "gelu_erf", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh"}
_ARCHITECTURES = {
    "classification": "BertForSequenceClassification",
    "multi_label": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "choice": "BertForMultipleChoice",
    "span": "BertForQuestionAnswering",
    "tagging": "BertForTokenClassification",
}
_KINDS = {
    name.replace("Bert", family): kind
    for kind, name in reversed(_ARCHITECTURES.items())
    for family in ("Bert", "Electra")
}
# transformers' problem_type, by which it takes the softmax of a text's scores, the sigmoid of each, or none.
_PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
LABELLED = ("classification", "multi_label", "regression", "tagging")  # kinds whose outputs have names that are shown
_RELATIVES = {
    "roberta": "positions count from 2, there is one segment, and its heads and vocabulary are others",
    "xlm-roberta": "positions count from 2, there is one segment, and its heads and vocabulary are others",
    "camembert": "positions count from 2, there is one segment, and its heads and vocabulary are others",
    "distilbert": "it has no segments and no pooler",
    "albert": "its layers share their parameters and its embedding is cut in two",
    "deberta": "its attention counts relative positions",
    "deberta-v2": "its attention counts relative positions",
    "mpnet": "its attention counts relative positions",
    "modernbert": "its attention counts rotary positions and its layers are others",
}


def read_json(path: Path) -> JsonObject:
    """A JSON object.

    Raises:
      UserError: it is missing or is none.
    """
    try:
        return files.read_json(path, "restore the file")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it says what shape the model has; put it beside the checkpoint") from None


def _shape(path: Path, values: JsonObject, hidden_act: str, **others: bool | float) -> ModelConfig:
    """The settings that both dialects share; those with a default may be missing."""
    found: JsonObject = {}
    for name in _SHARED:
        if name not in values:
            if name in _INTEGERS and name != "type_vocab_size":
                raise UserError(f"{path} does not say {name}: it is no config of a BERT, or was cut")
            continue
        value = values[name]
        right = type(value) is int if name in _INTEGERS else type(value) in (int, float)
        if not right:
            raise UserError(f"{path} says {name}={str(value)[:40]!r}, which is no number: restore the file")
        found[name] = value
    with files.reading(path, "restore the file"):
        return build(ModelConfig, {**found, "hidden_act": hidden_act, **others})


def _switch(path: Path, values: JsonObject, name: str, usual: bool) -> bool:
    """A setting that is true or false; null is false, as transformers takes it."""
    value = values.get(name, usual)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path} says {name}={str(value)[:40]!r}, which is neither true nor false: restore the file")
    return bool(value)


# ---- google-research/bert ------------------------------------------------------------------------------------------


def read_google(path: Path, gelu_form: str | None = None) -> tuple[ModelConfig, list[str]]:
    """bert_config.json -> the model's shape, and what was decided on the way.

    Args:
      path: the file.
      gelu_form: gelu_tanh or gelu_erf, where it is asked for.
    """
    values = read_json(path)
    activation = values.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(f"{path} says hidden_act={activation}: only models with gelu can be converted")
    form = gelu_form or values.get(GELU_FORM) or "gelu_tanh"
    decided = "as asked" if gelu_form else f"as its {GELU_FORM} says" if GELU_FORM in values else ""
    why = decided or "as google-research/bert computes it now; give --gelu gelu_erf for its form of 2018"
    tied = _switch(path, values, "tie_word_embeddings", True)
    model = _shape(path, values, form, tie_word_embeddings=tied)
    return model, [f"hidden_act=gelu is taken for {form}, {why}"]


def google_config(description: ModelDescription) -> tuple[JsonObject, list[str]]:
    """bert_config.json for a model, and what it cannot say."""
    model = description.model
    if model.causal:
        raise UserError(
            f"a left-to-right model has no place in {GOOGLE_CONFIG}: google-research/bert always sees both sides; convert it"
            " --to huggingface"
        )
    if is_electra(description):
        raise UserError(
            f"google-research/bert has no place for {description.summary()}: it is an ELECTRA; convert it --to huggingface"
        )
    values: JsonObject = {name: getattr(model, name) for name in _SHARED} | {"hidden_act": "gelu"}
    notes = []
    if model.hidden_act != "gelu_tanh":
        values[GELU_FORM] = model.hidden_act
        notes.append(
            "google-research/bert computes gelu by tanh, this model by erf: its outputs there differ by up to 5e-4 a layer"
        )
    if model.layer_norm_eps != ModelConfig.layer_norm_eps:
        raise UserError(
            f"layer_norm_eps={model.layer_norm_eps} has no place in {GOOGLE_CONFIG}, where it is always 1e-12"
        )
    if not model.tie_word_embeddings:
        values["tie_word_embeddings"] = False
        notes.append(
            "google-research/bert knows no output matrix of its own: cls/predictions/output_weights is our name"
        )
    task = description.task
    if task is not None and task.labels:
        notes.append(f"the labels {listed(task.labels)} are left out: a TF1 checkpoint has no place for them")
    if task is not None and task.kind not in ("classification", "span"):
        notes.append(f"nothing there says what the head is for: it is read again by --kind {task.kind}")
    return values, notes


# ---- Hugging Face --------------------------------------------------------------------------------------------------


def read_hugging_face(path: Path, gelu_form: str | None = None) -> ModelConfig:
    """config.json -> the model's shape.

    Raises:
      UserError: it is another kind of model, named with the reason.
    """
    values = read_json(path)
    kind = values.get("model_type", "bert")
    if kind not in ("bert", "electra"):
        relative = _RELATIVES.get(str(kind))
        reason = f" ({relative})" if relative else ""
        raise UserError(
            f"{path} is the config of a {kind!s:.80} model, which is no BERT{reason}: it cannot be converted"
        )
    for name, wanted in (
        ("position_embedding_type", "absolute"),
        ("add_cross_attention", False),
        ("is_encoder_decoder", False),
        ("pruned_heads", {}),
    ):
        if values.get(name) not in (wanted, None):
            raise UserError(
                f"{path} says {name}={values[name]!s:.80}: only models with {name}={wanted} can be converted"
            )
    activation = str(values.get("hidden_act", "gelu"))
    if activation not in _FORMS:
        raise UserError(f"{path} says hidden_act={activation:.80}: only models with gelu can be converted")
    epsilon = values.get("layer_norm_eps", 1e-12)
    tied = _switch(path, values, "tie_word_embeddings", True)
    causal = _switch(path, values, "is_decoder", False)  # the mask of a decoder; its cross attention is refused above
    form = gelu_form or _FORMS[activation]
    model = _shape(path, values, form, tie_word_embeddings=tied, layer_norm_eps=epsilon, causal=causal)
    return model if kind == "bert" else _of_electra(path, values, model)


def _of_electra(path: Path, values: JsonObject, model: ModelConfig) -> ModelConfig:
    """The same layers on tables of their own size; whatever hidden_act says, transformers' heads have the erf form."""
    if model.causal:
        raise UserError(
            f"{path} is the config of an ELECTRA that says is_decoder=true: only those that see both sides can be converted"
        )
    if model.hidden_act != "gelu_erf":
        raise UserError(
            f"{path} is the config of an ELECTRA with hidden_act={values.get('hidden_act')}: only those with gelu (erf) can"
            " be converted, as the heads have it"
        )
    size = values.get("embedding_size", 128)
    if type(size) is not int:
        raise UserError(f"{path} says embedding_size={str(size)[:40]!r}, which is no number: restore the file")
    return dataclasses.replace(model, embedding_size=size, pooler_act="gelu")


def task_of(values: JsonObject, outputs: int, span: bool, path: Path) -> TaskHead | None:
    """Return the head with `outputs` outputs that config.json, of `path`, describes; None where it does not say.

    Raises:
      UserError: it contradicts itself, or says what no head of ours is.
    """
    if span:
        return TaskHead("span", outputs)
    kinds = {_KINDS[name] for name in _architectures(values, path) if name in _KINDS}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind == "classification":
        kind = _kind_of_text(values.get("problem_type"), outputs, path)
    try:
        return TaskHead(kind, outputs, labels_of(values, outputs) if kind in LABELLED else ())
    except UserError as error:
        raise UserError(f"{path} says {kind} of {outputs} outputs, which cannot be converted: {error}") from None


def _architectures(values: JsonObject, path: Path) -> list[str]:
    names = values.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} says architectures={names!r:.80}, which is no list of names: correct it")
    return names


def _kind_of_text(problem: object, outputs: int, path: Path) -> str:
    """Return the kind of a head on a whole text: to transformers problem_type decides, or else the number of outputs."""
    if problem is None:
        return "regression" if outputs == 1 else "classification"
    kind = next((kind for kind, name in _PROBLEMS.items() if name == problem), None)
    if kind is None:
        known = ", ".join(_PROBLEMS.values())
        raise UserError(
            f"{path} says problem_type={problem!r:.80}, which transformers does not know: use one of {known}"
        )
    if kind == "classification" and outputs == 1:
        raise UserError(
            f"{path} says problem_type={problem} of 1 output, which is no choice: write regression or"
            f" {_PROBLEMS['multi_label']}"
        )
    return kind


def labels_of(values: JsonObject, outputs: int) -> tuple[str, ...]:
    """The names that config.json gives the outputs; none where it does not name each."""
    names = values.get("id2label")
    numbers = [str(number) for number in range(outputs)]
    if not isinstance(names, dict) or set(names) != set(numbers):
        return ()
    return tuple(str(names[number]) for number in numbers)


def hugging_face_shape(model: ModelConfig) -> JsonObject:
    """A model's shape in the words of `transformers.BertConfig`, or of `ElectraConfig` where it has tables of another size."""
    return {
        **{name: getattr(model, name) for name in _SHARED},
        "hidden_act": "gelu" if model.hidden_act == "gelu_erf" else "gelu_new",
        "layer_norm_eps": model.layer_norm_eps,
        "tie_word_embeddings": model.tie_word_embeddings,
        **({"is_decoder": True} if model.causal else {}),
    }


def hugging_face_config(description: ModelDescription, pad_id: int) -> JsonObject:
    """config.json for a model."""
    model, task = description.model, description.task
    electra = is_electra(description)
    values: JsonObject = {
        "architectures": [_electra_class(description) if electra else _architecture(description)],
        "model_type": "electra" if electra else "bert",
        **hugging_face_shape(model),
        **({"embedding_size": model.table_size} if electra else {}),
        "position_embedding_type": "absolute",
        "pad_token_id": pad_id,
        "torch_dtype": "float32",
    }
    if task is not None and task.kind != "choice":
        names = list(task.labels or (f"LABEL_{number}" for number in range(task.outputs)))
        values["id2label"] = {str(number): name for number, name in enumerate(names)}
        values["label2id"] = {name: number for number, name in enumerate(names)}
    if task is not None and task.kind in _PROBLEMS:
        values["problem_type"] = _PROBLEMS[task.kind]
    return values


def _architecture(description: ModelDescription) -> str:
    if description.task is not None:
        return _ARCHITECTURES[description.task.kind]
    if description.mlm and description.model.causal:
        return "BertLMHeadModel"
    heads = description.mlm, description.nsp
    names = {(True, True): "BertForPreTraining", (True, False): "BertForMaskedLM"}
    return names.get(heads, "BertForNextSentencePrediction" if description.nsp else "BertModel")


def is_electra(description: ModelDescription) -> bool:
    """Whether transformers has a place for the model as an ELECTRA alone, and not as a BERT."""
    return description.rtd or description.model.is_projected or description.model.pooler_act == "gelu"


def _electra_class(description: ModelDescription) -> str:
    """Return the class of transformers that holds the model.

    Raises:
      UserError: none does.
    """
    task = description.task
    if description.model.causal:
        raise UserError(
            f"a left-to-right model that is built as an ELECTRA ({description.summary()}) has no place there: use the run as it"
            " is"
        )
    if description.model.hidden_act != "gelu_erf":
        raise UserError(
            f"hidden_act={description.model.hidden_act}: the heads of transformers' ELECTRA have gelu_erf, so its outputs would"
            " be others"
        )
    if description.nsp or (task is not None and task.kind == "choice"):
        raise UserError(f"transformers' ELECTRA has no place for {description.summary()}")
    if task is not None:
        return _ARCHITECTURES[task.kind].replace("Bert", "Electra")
    if description.rtd:
        return "ElectraForPreTraining"
    return "ElectraForMaskedLM" if description.mlm else "ElectraModel"


def with_vocab_size(description: ModelDescription, size: int) -> ModelDescription:
    """The same with another number of entries."""
    generator = description.generator and dataclasses.replace(description.generator, vocab_size=size)
    model = dataclasses.replace(description.model, vocab_size=size)
    return dataclasses.replace(description, model=model, generator=generator)
