# SPDX-License-Identifier: Apache-2.0
"""Models with fewer segments than the data uses: refused by name at every door, with the way; a single one on request.

A look-up beyond the end of the segment table would give its last row, and say nothing.
"""

from dataclasses import replace

import numpy as np
import pytest
from finetune_samples import MODEL, SETTINGS, tokenizer, write_model, write_squad, write_sst2, write_stsb, write_swag

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.objective import ObjectiveConfig, OBJECTIVES
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import override
from bert_jax.feed.kinds import require_segments
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
from bert_jax.use.fill_mask import encode

ONE = replace(MODEL, type_vocab_size=1)
PAIRS = {"stsb": write_stsb, "swag": write_swag, "squad1": lambda folder: write_squad(folder, "1.1")}
PLACES = {"stsb": "train.tsv, line 2", "swag": "train.csv, line 2", "squad1": "train-v1.1.json, data"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with one segment and the files of four tasks."""
    folder = tmp_path_factory.mktemp("segments")
    write_model(folder / "one", ONE)
    write_sst2(folder / "sst2")
    for task, write in PAIRS.items():
        write(folder / task)
    return folder


def prepared(folder, task: str, *more: str) -> FinetuneSetup:
    config = override(FinetuneConfig(), [*SETTINGS, *(["max_query_length=4"] if task == "squad1" else []), *more])
    return FinetuneSetup(Wanted(task, str(folder / task), folder / "one", config))


@pytest.mark.parametrize("task", PAIRS)
def test_fine_tuning_refuses_pairs_choices_and_questions_by_name(folder, task):
    with pytest.raises(UserError) as refusal:
        prepared(folder, task)
    said = str(refusal.value)
    assert PLACES[task] in said
    assert "(train) has 2 segments, and the model knows 1 (type_vocab_size=1)" in said
    assert "single_segment=true" in said


@pytest.mark.parametrize("task", [*PAIRS, "sst2"])
def test_a_single_segment_on_request_and_where_there_is_one(folder, task):
    """The rows are those of two segments otherwise: [SEP] parts the texts."""
    made = prepared(folder, task, *(["single_segment=true"] if task in PAIRS else []))
    for split in (made.train_split, *made.dev_splits):
        assert not split.units.table.segments.any()
        assert (split.units.table.ids == tokenizer().sep_id).sum() >= len(split.units.table) * (1 + (task in PAIRS))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pre_training_and_its_scores_refuse_pairs(objective):
    model = replace(PretrainConfig().model, type_vocab_size=1)
    config = PretrainConfig(model=model, objective=ObjectiveConfig(objective))
    if OBJECTIVES[objective].examples in ("nsp", "sop"):
        with pytest.raises(UserError, match=f"a pair of objective.name={objective} has 2 segments.*: do this"):
            require_segments(config, "do this")
    else:
        require_segments(config, "do this")
    require_segments(replace(config, model=replace(config.model, type_vocab_size=2)), "do this")


def test_fill_mask_refuses_a_second_segment(folder):
    model = bert_jax.load(folder / "one")
    with pytest.raises(UserError, match=r"'the \[MASK\] \[SEP\] film' has 2 segments.*: remove the \[SEP\]"):
        encode(model, "the [MASK] [SEP] film")


def test_a_loaded_model_refuses_pairs_and_batches(folder):
    model = bert_jax.load(folder / "one")
    with pytest.raises(UserError, match=r"the pair of 'the film' has 2 segments.*: single_segment=True parts both by"):
        model.encode([("the film", "was good")])
    encoded = model.encode([("the film", "was good")], single_segment=True)
    assert [tokenizer().vocabulary[token] for token in encoded.tokens[0]].count("[SEP]") == 2
    fields = {name: np.zeros((1, 8), np.int32) for name in ("input_ids", "segment_ids", "sequence_ids", "position_ids")}
    fields["segment_ids"][0, 4:] = 1
    with pytest.raises(UserError, match="the batch has 2 segments, and the model knows 1"):
        model(fields)
