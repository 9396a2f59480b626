# SPDX-License-Identifier: Apache-2.0
"""Every field of transformers' BertConfig through our format and back: kept, refused, without effect, or named as left out.

The way through ours is model.json alone: arrays have tests of their own.
"""

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conversion_samples import KINDS, MODEL, PRETRAINING, write_hugging_face

from bert_jax.base.errors import UserError
from bert_jax.config.description import description_from, ModelDescription, TaskHead
from bert_jax.conversion import config_fields
from bert_jax.conversion.checkpoints import Asked, open_checkpoint
from bert_jax.conversion.config_files import hugging_face_config, task_of

PEER_PYTHON = "BERT_JAX_PEER_PYTHON"  # a Python with torch and transformers
PATH = Path("config.json")
KEPT, REFUSED, NO_EFFECT, SAID = "kept", "refused", "no effect", "said"

# Field -> another value than the default's, and what becomes of it. The fields are those of transformers 5.24.
FIELDS: dict[str, tuple[Any, str]] = {
    "hidden_act": ("gelu_new", KEPT),
    "hidden_dropout_prob": (0.25, KEPT),
    "attention_probs_dropout_prob": (0.3, KEPT),
    "initializer_range": (0.05, KEPT),
    "layer_norm_eps": (1e-5, KEPT),
    "id2label": ({"0": "north", "1": "south", "2": "west"}, KEPT),
    "label2id": ({"no": 0, "yes": 1, "?": 2}, KEPT),
    "problem_type": ("multi_label_classification", KEPT),
    "architectures": (["BertForSequenceClassification"], KEPT),
    "model_type": ("bert", KEPT),
    "pad_token_id": (0, KEPT),
    "is_decoder": (True, KEPT),
    "add_cross_attention": (True, REFUSED),
    "is_encoder_decoder": (True, REFUSED),
    "position_embedding_type": ("relative_key", REFUSED),
    "pruned_heads": ({"0": [1]}, REFUSED),
    # of the tensors' shapes: a value that is not theirs
    **{name: (getattr(MODEL, name) * 2, REFUSED) for name in
       ("hidden_size", "num_hidden_layers", "intermediate_size", "max_position_embeddings", "type_vocab_size", "vocab_size")},
    "num_attention_heads": (2, KEPT),
    "classifier_dropout": (0.4, SAID),
    "bos_token_id": (3, SAID),
    "eos_token_id": (4, SAID),
    **dict.fromkeys(("use_cache", "return_dict"), (False, NO_EFFECT)),
    **dict.fromkeys(("output_hidden_states", "output_attentions"), (True, NO_EFFECT)),
    "chunk_size_feed_forward": (8, NO_EFFECT),
    "dtype": ("float16", NO_EFFECT),
    "transformers_version": ("5.0.0", NO_EFFECT),
    "_name_or_path": ("somewhere", NO_EFFECT),
    "tie_word_embeddings": (False, KEPT),  # with a tensor more, in a test below
}  # fmt: skip
DESCRIPTION = KINDS["classification"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_hugging_face(tmp_path_factory.mktemp("fields") / "source", DESCRIPTION)


def with_field(source: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    for file in source.iterdir():
        os.link(file, folder / file.name)
    (folder / "config.json").unlink()
    values = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


def there_and_back(description: ModelDescription) -> dict[str, Any]:
    """config.json after model.json."""
    kept = json.loads(json.dumps(description.to_dict()))
    return hugging_face_config(description_from(kept), pad_id=0)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_kept_refused_or_named(source, tmp_path, name):
    """The bug: problem_type was lost under a certificate that held, and so was what nobody had thought of."""
    value, expected = FIELDS[name]
    if name == "tie_word_embeddings":
        source = write_hugging_face(tmp_path / "untied", KINDS["untied"])
    if name == "is_decoder":  # there a pooler has no place
        source = write_hugging_face(tmp_path / "mlm", KINDS["mlm"])
    folder = with_field(source, tmp_path / "changed", **{name: value})
    if expected == REFUSED:
        with pytest.raises(UserError) as caught:
            open_checkpoint(folder)
        assert name in str(caught.value) or f"be [{value}" in str(caught.value) or f"{value}]" in str(caught.value)
        return
    checkpoint = open_checkpoint(folder)
    said = [note for note in checkpoint.notes if f"{name}=" in note]
    assert bool(said) == (expected == SAID)
    if expected == KEPT:
        assert there_and_back(checkpoint.description)[name] == value
    if expected == NO_EFFECT:
        assert not checkpoint.notes
        assert name in config_fields.WITHOUT_EFFECT


def test_a_field_that_nobody_knows_is_named(source, tmp_path):
    folder = with_field(source, tmp_path / "odd", rope_theta=10_000.0, summary_type="first", nothing=None)
    assert list(open_checkpoint(folder).notes) == [
        "left out of config.json, for which there is no place: rope_theta=10000.0, summary_type='first'"
    ]


@pytest.mark.skipif(PEER_PYTHON not in os.environ, reason=f"{PEER_PYTHON} does not name a Python with transformers")
def test_the_fields_are_those_of_transformers():
    code = "import json, transformers; print(json.dumps(sorted(transformers.BertConfig().to_dict())))"
    found = subprocess.run([os.environ[PEER_PYTHON], "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(found.stdout.splitlines()[-1])) <= FIELDS.keys()


# ---- kinds of heads and names of outputs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "outputs", "kind"),
    [
        (None, 3, "classification"),
        (None, 1, "regression"),
        ("single_label_classification", 2, "classification"),
        ("multi_label_classification", 1, "multi_label"),
        ("multi_label_classification", 4, "multi_label"),
        ("regression", 1, "regression"),
    ],
)
def test_problem_type_says_what_scores_mean(problem, outputs, kind):
    values = {"architectures": ["BertForSequenceClassification"], "problem_type": problem}
    head = task_of(values, outputs, False, PATH)
    assert head is not None
    assert (head.kind, head.outputs) == (kind, outputs)
    back = there_and_back(replace(PRETRAINING, mlm=False, nsp=False, task=head))
    again = task_of(back, outputs, False, PATH)
    assert again is not None
    assert again.kind == kind


@pytest.mark.parametrize(
    ("problem", "outputs", "message"),
    [
        ("regression", 3, "config.json says regression of 3 outputs, which cannot be converted"),
        ("single_label_classification", 1, "single_label_classification of 1 output, which is no choice"),
        ("ranking", 2, "problem_type='ranking', which transformers does not know"),
    ],
)
def test_a_problem_type_that_no_head_has_is_refused(problem, outputs, message):
    values = {"architectures": ["BertForSequenceClassification"], "problem_type": problem}
    with pytest.raises(UserError, match=message):
        task_of(values, outputs, False, PATH)


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression", "tagging"])
def test_names_of_outputs_come_back(kind):
    outputs = 1 if kind == "regression" else 2
    head = TaskHead(kind, outputs, ("heat", "cold")[:outputs])
    back = there_and_back(replace(PRETRAINING, mlm=False, nsp=False, task=head))
    assert task_of(back, outputs, False, PATH) == head


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a", "1": "b"}}, "id2label, which names 2 outputs where the head has 3"),
        (
            {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}},
            "id2label, which names 4 outputs where the head has 3",
        ),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "names several outputs alike in id2label"),
        ({"label2id": {"no": 1, "yes": 0, "?": 2}}, "label2id, which is not the inverse of id2label"),
        ({"pad_token_id": 5}, r"pad_token_id=5; \[PAD\] is entry 0"),
    ],
)
def test_names_that_do_not_fit_are_told(source, tmp_path, changes, message):
    folder = with_field(source, tmp_path / "changed", **changes)
    assert re.search(message, " / ".join(open_checkpoint(folder).notes))


def test_task_asked_for_keeps_the_names(source, tmp_path):
    """The bug: --kind of another kind than the config's lost the names of its outputs."""
    folder = with_field(source, tmp_path / "changed", architectures=["BertForNothing"])
    task = open_checkpoint(folder, Asked(task="multi_label")).description.task
    assert task is not None
    assert task.labels == ("no", "yes", "?")
