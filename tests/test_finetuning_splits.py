# SPDX-License-Identifier: Apache-2.0
"""Splits of every family: what a batch is trained on, and what made-up outputs of a network are scored as."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finetune_samples import (
    MODEL,
    questions,
    read_lines,
    tokenizer,
    write_conll,
    write_squad,
    write_sst2,
    write_stsb,
    write_swag,
)

from bert_jax.base.errors import UserError
from bert_jax.config.description import TaskHead
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.finetuning.batches import Draw, EpochOrder, NOBODY
from bert_jax.finetuning.directory import write_records
from bert_jax.finetuning.split import SplitRequest, TaskSplit
from bert_jax.finetuning.splits import load_split, resolved
from bert_jax.tasks.own import own_task
from bert_jax.tasks.rows import IGNORE
from bert_jax.tasks.table import find_task

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def source(task: str, data: Path, head: TaskHead, **settings: object) -> SplitRequest:
    found = find_task(task)
    config = resolved(FinetuneConfig(**{"max_length": 16, "max_query_length": 4} | settings), found, 32)
    return SplitRequest(found, data, tokenizer(), config, head, MODEL)


def first_draw(split: TaskSplit, size: int = 5) -> Draw:
    return EpochOrder(split.units, size, [16], seed=0).draw(0)


# ---- texts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sst2(tmp_path):
    return source("sst2", write_sst2(tmp_path / "data"), TaskHead("classification", 2, ("0", "1")))


def test_classes(sst2, tmp_path):
    split = load_split(sst2, "dev")
    gold = np.arange(24) % 2
    draw = first_draw(split)
    np.testing.assert_array_equal(split.labels(draw)["labels"], gold[draw.examples])
    filled = draw._replace(examples=np.array([4, 3, NOBODY, NOBODY, NOBODY]))
    np.testing.assert_array_equal(split.labels(filled)["labels"], [0, 1, 0, 0, 0])

    predicted = gold.copy()
    predicted[[0, 1, 2]] ^= 1  # three are wrong
    logits = [np.array([0.5, -0.5]) if number == 0 else np.array([-0.5, 0.5]) for number in predicted]
    outcome = split.outcome(logits)
    assert outcome.scores == {"accuracy": pytest.approx(21 / 24)}
    share = 1 / (1 + np.exp(-1))
    record = outcome.records[0]
    assert (record["predicted"], record["label"]) == (1, 0)
    assert record["probabilities"] == pytest.approx([1 - share, share], abs=1e-6)
    [path] = outcome.write(tmp_path / "out", "dev")
    assert len(path.read_text(encoding="utf-8").splitlines()) == 25
    # Logits are 1 apart and 21 of 24 are right: likeliest where 1 / temperature is the log of the odds, 21 to 3.
    assert outcome.found == {"temperature": pytest.approx(1 / np.log(7), rel=1e-4)}


def test_a_test_split_has_no_scores(sst2):
    split = load_split(sst2, "test")
    outcome = split.outcome([np.array([0.0, 1.0])] * 24)
    assert (outcome.scores, outcome.gold) == ({}, None)
    assert [record["predicted"] for record in outcome.records] == [1] * 24


def test_cut_texts_are_told(sst2):
    split = load_split(sst2._replace(config=replace(sst2.config, max_length=8)), "dev")
    cut = split.counts["cut"]
    assert 0 < cut < 24
    assert f"dev: {cut} of 24 rows are cut to max_length=8 tokens" in split.notes


def test_long_texts_become_windows(sst2):
    windows = sst2._replace(config=replace(sst2.config, max_length=8, too_long="windows", stride=3))
    split = load_split(windows, "dev")
    assert split.units.is_grouped
    assert len(split.units) == 24 < len(split.units.table)
    assert split.notes == []


def test_text_of_another_script_is_warned_of(sst2, tmp_path):
    (tmp_path / "data" / "dev.tsv").write_text("sentence\tlabel\nдобрый день\t1\nзлой день\t0\n", encoding="utf-8")
    assert "100% of the tokens are [UNK]" in " ".join(load_split(sst2, "dev").notes)


def test_ratings(tmp_path):
    split = load_split(source("stsb", write_stsb(tmp_path / "data"), TaskHead("regression", 1)), "dev")
    draw = first_draw(split)
    gold = 5.0 * (np.arange(24) % 2)
    targets = split.labels(draw)["targets"]
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, gold[draw.examples])
    predicted = gold / 5 + np.random.default_rng(0).normal(0, 0.3, 24)
    scores = split.outcome([np.array([value]) for value in predicted]).scores
    assert scores["pearson"] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])


def test_choices(tmp_path):
    split = load_split(source("swag", write_swag(tmp_path / "data"), TaskHead("choice", 1)), "dev")
    with (tmp_path / "data" / "val.csv").open() as file:
        gold = np.array([int(line["label"]) for line in csv.DictReader(file)])
    draw = first_draw(split)
    assert draw.shape.rows == 4 * 5
    np.testing.assert_array_equal(split.labels(draw)["labels"], gold[draw.examples])
    outcome = split.outcome([np.eye(4)[label] for label in gold])
    assert outcome.scores == {"accuracy": 1.0}


def test_choices_of_different_number_are_refused(tmp_path):
    lines = [{"context": "the film", "ends": [*["a", "b"][: 2 - n], "is"], "label": 0} for n in range(2)]
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = own_task("choice", ("context",), "label", None, None, ("ends",))
    config = resolved(FinetuneConfig(max_length=16), task, 32)
    with pytest.raises(UserError, match=r"dev.jsonl, line 2: 2 choices, and dev.jsonl, line 1 has 3"):
        load_split(SplitRequest(task, tmp_path, tokenizer(), config, TaskHead("choice", 1), MODEL), "dev")


# ---- questions -----------------------------------------------------------------------------------------------------


def right_scores(split: TaskSplit, sure: float = 5.0) -> list[np.ndarray]:
    """Scores of a network that knows: ann where "who" is asked, rome where "where" is, else [CLS]."""
    words = {name: tokenizer().encode(name).ids[0] for name in ("who", "ann", "rome")}
    outputs = []
    for begin, length in zip(split.units.table.begins, split.units.table.lengths, strict=True):
        ids = split.units.table.ids[begin : begin + length]
        places = np.flatnonzero(ids == words["ann" if words["who"] in ids else "rome"])
        row = np.zeros((length, 2))
        row[places[0] if len(places) else 0] = sure
        outputs.append(row)
    return outputs


def test_spans_are_those_of_the_answers(tmp_path):
    split = load_split(source("squad1", write_squad(tmp_path / "data", "1.1"), TaskHead("span", 2)), "train", True)
    draw = first_draw(split, 8)
    for row, (begin, end) in zip(draw.rows, split.labels(draw)["spans"], strict=True):
        ids = split.units.table.ids[split.units.table.begins[row] :][begin : end + 1]
        word = ("ann", "rome")[int(split.units.table.examples[row]) % 2]
        assert ids.tolist() == tokenizer().encode(word).ids
    assert "row_examples" not in split.labels(draw)


def test_answers_of_version_1_1(tmp_path):
    split = load_split(source("squad1", write_squad(tmp_path / "data", "1.1"), TaskHead("span", 2)), "dev")
    outcome = split.outcome(right_scores(split))
    assert outcome.scores == {"exact_match": 100.0, "f1": 100.0}
    assert outcome.found == {}
    written = outcome.write(tmp_path / "out", "dev")
    assert [path.name for path in written] == ["dev_predictions.json", "dev_nbest_predictions.json"]
    assert json.loads(written[0].read_text())["q0"] == "ann"


def test_a_question_without_answer_in_version_1_1(tmp_path):
    """In the split that is scored too: without it nothing would be, and nobody would be told."""
    data = write_squad(tmp_path / "data", "1.1")
    content = questions(4, 1, "1.1")
    content["data"][0]["paragraphs"][2]["qas"][0]["answers"] = []
    (data / "dev-v1.1.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"dev-v1.1.json, data\[0\].paragraphs\[2\].qas\[0\] \('q2'\) has no answer"):
        load_split(source("squad1", data, TaskHead("span", 2)), "dev")


def test_the_threshold_of_version_2_0_is_tuned_once_and_then_kept(tmp_path):
    own = source("squad2", write_squad(tmp_path / "data", "2.0"), TaskHead("span", 2))
    split = load_split(own, "dev")
    # A network that is never sure: without a threshold it would answer everything.
    outputs = right_scores(split, sure=1.0)
    for row in outputs:
        row[0] -= 1.0
    outcome = split.outcome(outputs)
    assert outcome.scores["f1"] == outcome.scores["NoAns_f1"] == outcome.scores["HasAns_f1"] == 100.0
    threshold = outcome.found["null_threshold"]
    assert -4 <= threshold < 0
    kept = load_split(own, "dev", found={"null_threshold": -10.0}).outcome(outputs)
    assert kept.found == {}
    assert {record["predicted"] for record in kept.records} == {""}
    names = [path.name for path in outcome.write(tmp_path / "out", "dev")]
    assert "dev_null_odds.json" in names
    assert "dev_na_probs.json" in names
    assert next(path.name for path in outcome.write(tmp_path / "out", "squad2_dev")) == "squad2_dev_predictions.json"
    of_others = load_split(own, "dev", found={}).outcome(outputs)  # of a model that was trained elsewhere
    assert of_others.found == {}
    assert of_others.scores["NoAns_f1"] < 100.0, "no threshold is chosen on the labels that it is scored by"


def test_the_threshold_holds_for_a_file_that_does_not_tell(tmp_path):
    """A test file has neither answers nor is_impossible: the model knows from training that there may be none."""
    content = questions(6, 1, "1.1")
    for paragraph in content["data"][0]["paragraphs"]:
        del paragraph["qas"][0]["answers"]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(content))
    split = load_split(source("squad2", path, TaskHead("span", 2)), "test", found={"null_threshold": -20.0})
    outcome = split.outcome(right_scores(split))
    assert outcome.scores == {}
    assert {record["predicted"] for record in outcome.records} == {""}


def test_windows_of_a_question_share_a_softmax_if_asked(tmp_path):
    own = source(
        "squad1",
        write_squad(tmp_path / "data", "1.1"),
        TaskHead("span", 2),
        max_length=12,
        stride=3,
        normalisation="question",
    )
    split = load_split(own, "train", training=True)
    assert len(split.units) == 40 < len(split.units.table)
    draw = first_draw(split)
    np.testing.assert_array_equal(split.labels(draw)["row_examples"], draw.row_examples)
    assert load_split(own, "dev").units.counts.max() == 1, "a network that is asked answers of each row"


# ---- tags ----------------------------------------------------------------------------------------------------------


def tag_scores(split: TaskSplit, labels: tuple[str, ...], wrong: str | None = None) -> list[np.ndarray]:
    """Scores of a network that knows ann and rome, but for the word `wrong`."""
    names = {tokenizer().encode("ann").ids[0]: "B-PER", tokenizer().encode("rome").ids[0]: "B-LOC"}
    outputs = []
    for begin, length in zip(split.units.table.begins, split.units.table.lengths, strict=True):
        ids = split.units.table.ids[begin : begin + length]
        tags = ["O" if wrong and token == tokenizer().encode(wrong).ids[0] else names.get(token, "O") for token in ids]
        if labels is not TAGS:
            tags = [tag.replace("B-", "S-") for tag in tags]
        outputs.append(np.array([np.eye(len(labels))[labels.index(tag)] for tag in tags]))
    return outputs


@pytest.mark.parametrize(
    ("scheme", "labels"),
    [("IOB2", TAGS), ("IOBES", ("O", *(f"{way}-{kind}" for kind in ("PER", "LOC") for way in "BIES")))],
)
def test_tags(scheme, labels, tmp_path):
    """Whatever the network learns, scores and files are in IOB."""
    own = source(
        "conll2003", write_conll(tmp_path / "data"), TaskHead("tagging", len(labels), labels), tag_scheme=scheme
    )
    split = load_split(own, "dev")
    draw = first_draw(split)
    found = split.labels(draw)["labels"]
    table = split.units.table
    known = {tokenizer().encode("ann").ids[0]: 1 if labels is TAGS else labels.index("S-PER")}
    for place, row in enumerate(draw.rows):
        ids = table.ids[table.begins[row] :][: table.lengths[row]]
        assert found[place, 0] == found[place, table.lengths[row] - 1] == IGNORE
        assert [found[place, at] for at, token in enumerate(ids) if token in known] == list(known.values())

    outcome = split.outcome(tag_scores(split, labels))
    assert outcome.scores == {"f1": 100.0, "precision": 100.0, "recall": 100.0, "accuracy": 100.0}
    half = split.outcome(tag_scores(split, labels, wrong="rome"))
    assert (half.scores["precision"], half.scores["recall"]) == (100.0, 50.0)
    assert half.scores["f1"] == pytest.approx(200 / 3)
    [path] = half.write(tmp_path / "out", "dev")
    tags = {tuple(line.split()[-2:]) for line in path.read_text().splitlines() if line.startswith("rome ")}
    assert tags == {("B-LOC", "O")}
    write_records(tmp_path / "records.jsonl", half.records)
    assert len(read_lines(tmp_path / "records.jsonl")) == 24


def test_broken_tags_are_repaired_and_counted_or_refused(tmp_path):
    data = write_conll(tmp_path / "data")
    (data / "eng.testa").write_text("ann NN O B-PER\nis NN O O\nrome NN O I-LOC\n\nann NN O B-PER\nrome NN O I-PER\n")
    own = source("conll2003", data, TaskHead("tagging", 5, TAGS), tag_scheme="IOB2")
    split = load_split(own, "dev")
    assert any("broken tags" in note for note in split.notes)
    with pytest.raises(UserError, match=r"eng.testa, line 1, word 3 \(rome\): the tag I-LOC breaks IOB2"):
        load_split(own._replace(config=replace(own.config, broken_tags="refuse")), "dev")


def test_tags_of_another_model_are_refused(tmp_path):
    own = source(
        "conll2003", write_conll(tmp_path / "data"), TaskHead("tagging", 3, ("O", "B-X", "I-X")), tag_scheme="IOB2"
    )
    with pytest.raises(UserError, match="label set of another model"):
        load_split(own, "dev")


def test_a_class_without_an_example_is_said(tmp_path):
    """Macro F1 counts 0 for it, so that a perfect score is below 1."""
    (tmp_path / "dev.tsv").write_text("text\tlabel\nthe film\ta\nthe plot\tc\n")
    task = own_task("classification", ("text",), "label", labels=["a", "b", "c"])
    config, head = resolved(FinetuneConfig(max_length=16), task, 32), TaskHead("classification", 3)
    split = load_split(SplitRequest(task, tmp_path, tokenizer(), config, head, MODEL), "dev")
    assert [note.split(":")[0] for note in split.notes] == ["dev has no example of b"]
    outcome = split.outcome([np.eye(3)[label] for label in (0, 2)])
    assert outcome.scores == pytest.approx({"accuracy": 1.0, "mcc": 1.0, "macro_f1": 2 / 3})


# ---- labels that only dev has ------------------------------------------------------------------------------------


def ner_with(data: Path, dev: str, **settings: object) -> TaskSplit:
    """Dev of CoNLL-2003 whose head knows persons and places."""
    (data / "eng.testa").write_text(dev.replace("|", "\n"))
    return load_split(source("conll2003", data, TaskHead("tagging", 5, TAGS), tag_scheme="IOB2", **settings), "dev")


def test_tags_that_only_dev_has(tmp_path):
    data = write_conll(tmp_path / "data")
    dev = "ann NN O B-PER|is NN O O|rome NN O B-GPE||ann NN O B-PER|"
    with pytest.raises(
        UserError, match=r"eng.testa, line 1, word 3 \(rome\): the tag B-GPE.*name every label with --labels"
    ):
        ner_with(data, dev)
    counted = {}
    for what in ("error", "ignore"):
        split = ner_with(data, dev, unknown_labels=what)
        assert any("1 words have tags that are no labels (B-GPE)" in note for note in split.notes)
        counted[what] = split.outcome(tag_scores(split, TAGS)).scores
    assert counted["error"]["recall"] == pytest.approx(100 * 2 / 3)
    assert counted["error"]["accuracy"] == 75.0
    assert counted["ignore"] == {"f1": 100.0, "precision": 100.0, "recall": 100.0, "accuracy": 100.0}


def test_a_class_that_only_dev_has_is_a_mistake_among_three_classes(tmp_path):
    """Macro F1 is over the classes that the model knows, as scikit-learn's with `labels=`."""
    (tmp_path / "dev.tsv").write_text("text\tlabel\nthe film\ta\nthe plot\tb\nthe end\tc\nthe day\tnew\n")
    task = own_task("classification", ("text",), "label", labels=["a", "b", "c"])
    config, head = (
        resolved(FinetuneConfig(max_length=16, unknown_labels="error"), task, 32),
        TaskHead("classification", 3),
    )
    split = load_split(SplitRequest(task, tmp_path, tokenizer(), config, head, MODEL), "dev")
    outcome = split.outcome([np.eye(3)[label] for label in (0, 1, 2, 0)])
    assert outcome.scores["macro_f1"] == pytest.approx((2 / 3 + 1 + 1) / 3)


@pytest.mark.parametrize(("what", "accuracy", "examples"), [("error", 0.75, 4), ("ignore", 1.0, 3)])
def test_classes_that_only_dev_has(tmp_path, what, accuracy, examples):
    data = write_sst2(tmp_path / "data")
    (data / "dev.tsv").write_text("sentence\tlabel\ngood\t1\nbad\t0\nfilm\tmaybe\ngood\t1\n")
    own = source("sst2", data, TaskHead("classification", 2, ("0", "1")), unknown_labels=what)
    split = load_split(own, "dev")
    assert [note for note in split.notes if "maybe" in note]
    assert len(split.units) == examples
    outputs = [np.eye(2)[int(place != 1)] for place in range(examples)]
    outcome = split.outcome(outputs)
    assert outcome.scores["accuracy"] == accuracy
    outcome.write(tmp_path / "out", "dev")
    with (tmp_path / "out" / "dev.tsv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file, delimiter="\t")]
    assert labels == (["1", "0", "maybe", "1"] if what == "error" else ["1", "0", "1"])


def test_labels_that_are_not_known_are_refused_in_training(tmp_path):
    """What is trained on is never left out, whatever is done with dev."""
    data = write_sst2(tmp_path / "data")
    (data / "train.tsv").write_text("sentence\tlabel\ngood\t1\nfilm\tmaybe\n")
    own = source("sst2", data, TaskHead("classification", 2, ("0", "1")), unknown_labels="ignore")
    with pytest.raises(UserError, match=r"train.tsv, line 3: label maybe is not one of 0, 1, negative, positive"):
        load_split(own, "train", training=True)


def test_classes_beside_o_are_said_and_scored(tmp_path):
    data = write_conll(tmp_path / "data")
    for name in ("eng.train", "eng.testa"):
        (data / name).write_text("ann NN O person-actor\nis NN O O\nrome NN O place-city\n")
    labels = ("O", "person-actor", "place-city")
    own = source("conll2003", data, TaskHead("tagging", 3, labels))
    [note] = load_split(own, "train", training=True).notes
    assert "(person-actor, place-city): each word is scored as a class; neighbours of one class are a phrase" in note
    split = load_split(own, "dev")
    [ids] = [split.units.table.ids[:5].tolist()]
    known = {tokenizer().encode("ann").ids[0]: 1, tokenizer().encode("rome").ids[0]: 2}
    outcome = split.outcome([np.eye(3)[[known.get(token, 0) for token in ids]]])
    assert outcome.scores == dict.fromkeys(("f1", "precision", "recall", "accuracy", "macro_f1"), 100.0)
