# SPDX-License-Identifier: Apache-2.0
"""Task files in their official layouts -> examples; what is wrong in them is named with its line.

The lines are written for these tests in the layouts of the official files; real files are read where they are.
"""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import real_data

from bert_jax.base.errors import UserError
from bert_jax.tasks.columns import read_examples, with_labels
from bert_jax.tasks.examples import ChoiceExample, Sentence, TextExample
from bert_jax.tasks.own import own_task
from bert_jax.tasks.table import find_task, Task
from bert_jax.text.streams import read_text


def written(folder: Path, name: str, *lines: str, end: str = "\n") -> Path:
    """A file of the lines. `|` in a line of a TSV stands for a tab."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = end.join(line.replace("|", "\t") if name.endswith((".tsv", ".txt")) else line for line in lines)
    path.write_bytes((text + end).encode())
    return path


def read(task: Task | str, split: str, path: Path | str) -> list[Any]:
    """The examples of a file of which nothing is left out."""
    examples, notes = read_examples(find_task(task) if isinstance(task, str) else task, split, path)
    assert notes == []
    return examples


def refusal(task: Task | str, split: str, path: Path | str) -> str:
    """What is said of a file that is refused: one line."""
    with pytest.raises(UserError) as caught:
        read(task, split, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- the real files ------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    return real_data(f"glue/{name}")


@pytest.mark.parametrize(
    ("task", "train", "dev", "test"),
    [("CoLA", 8_551, 1_043, 1_063), ("SST-2", 67_349, 872, 1_821), ("STS-B", 5_749, 1_500, 1_379)],
)
def test_real_files_have_their_official_numbers_of_examples(task, train, dev, test):
    folder = real(task)
    for split, count in (("train", train), ("dev", dev), ("test", test)):
        examples = read(task, split, folder)
        assert len(examples) == count
        assert all(len(example.texts) == (2 if task == "STS-B" else 1) for example in examples)
        assert {example.label is None for example in examples} == {split == "test"}
    assert read(task, "dev", folder.parent) == read(task, "dev", folder)  # the folder of all tasks will do


def test_real_shares_of_classes():
    """CoLA: 70.4 % of the training sentences are acceptable. SST-2: 444 of the 872 of dev are positive."""
    assert sum(example.label for example in read("cola", "train", real("CoLA"))) == 6_023
    assert sum(example.label for example in read("sst2", "dev", real("SST-2"))) == 444


def test_the_real_diagnostic():
    examples = read("ax", "test", real("AX.tsv"))
    assert len(examples) == 1_104
    assert examples[0].texts == ("The cat sat on the mat.", "The cat did not sit on the mat.")


# ---- the layouts of the official files -------------------------------------------------------------------------


def test_cola_has_a_header_in_test_only(tmp_path):
    written(tmp_path, "train.tsv", "gj04|1||They sat.", "bc01|0|*|Sat they the.")
    written(tmp_path, "test.tsv", "index|sentence", "0|She sleeps.")
    assert read("cola", "train", tmp_path) == [
        TextExample("0", ("They sat.",), 1, "train.tsv, line 1"),
        TextExample("1", ("Sat they the.",), 0, "train.tsv, line 2"),
    ]
    assert read("cola", "test", tmp_path) == [TextExample("0", ("She sleeps.",), None, "test.tsv, line 2")]


def test_sst2_has_other_columns_in_test(tmp_path):
    """Trailing spaces belong to the text and to no label; classes may be in words."""
    written(tmp_path, "train.tsv", "sentence|label", "good fun |1", "dull |0 ", "bright|positive")
    written(tmp_path, "test.tsv", "index|sentence", "7|a joy")
    assert [(example.texts[0], example.label) for example in read("sst2", "train", tmp_path)] == [
        ("good fun ", 1),
        ("dull ", 0),
        ("bright", 1),
    ]
    assert read("sst2", "test", tmp_path)[0].name == "7"
    assert read("sst2", "test", tmp_path)[0].texts == ("a joy",)


def test_mrpc_of_glue_and_of_microsoft(tmp_path):
    """With a byte order mark, and Windows' line ends. A quote that is not closed is a character."""
    header = "\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String"
    lines = ('1|10|11|He said " no .|" No , he said .', "0|12|13|A b .|C d .")
    written(tmp_path / "glue", "train.tsv", header, *lines)
    written(tmp_path / "glue", "test.tsv", "index|#1 ID|#2 ID|#1 String|#2 String", "0|1|2|A .|B .")
    written(tmp_path / "own", "msr_paraphrase_train.txt", header, *lines, end="\r\n")
    written(tmp_path / "own", "msr_paraphrase_test.txt", header, *lines, end="\r\n")
    examples = read("mrpc", "train", tmp_path / "glue")
    assert [example.texts for example in examples] == [('He said " no .', '" No , he said .'), ("A b .", "C d .")]
    assert [example.label for example in examples] == [1, 0]
    assert [example.texts for example in read("mrpc", "train", tmp_path / "own")] == [part.texts for part in examples]
    assert [example.label for example in read("mrpc", "test", tmp_path / "own")] == [1, 0]
    assert read("mrpc", "test", tmp_path / "glue") == [TextExample("0", ("A .", "B ."), None, "test.tsv, line 2")]


def test_stsb_is_rated(tmp_path):
    header = "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2"
    written(tmp_path, "train.tsv", f"{header}|score", "5|main|MSR|2012|1|none|none|A cat.|A dog.|3.800")
    written(tmp_path, "test.tsv", header, "6|main|MSR|2012|1|none|none|A cat.|A dog.")
    assert read("stsb", "train", tmp_path) == [TextExample("5", ("A cat.", "A dog."), 3.8, "train.tsv, line 2")]
    assert read("stsb", "test", tmp_path)[0].label is None


QQP = ("id|qid1|qid2|question1|question2|is_duplicate", '1|3|4|What is "x|Is x?|1', "2|5|6|Cut", "3|7|8|A?|B?|0", "4")


def test_lines_of_qqp_that_lack_columns_are_left_out_and_named(tmp_path):
    written(tmp_path, "train.tsv", *QQP)
    examples, notes = read_examples(find_task("qqp"), "train", tmp_path)
    assert [(example.name, example.texts, example.label) for example in examples] == [
        ("1", ('What is "x', "Is x?"), 1),
        ("3", ("A?", "B?"), 0),
    ]
    assert notes == ["train.tsv: 2 lines lack columns and are left out: 3, 5"]


def test_no_line_of_a_test_file_is_left_out(tmp_path):
    """GLUE wants a prediction for each."""
    written(tmp_path, "test.tsv", "id|question1|question2", "0|A?|B?", "1|A?")
    assert refusal("qqp", "test", tmp_path) == "test.tsv, line 3 has 2 columns, and the first line has 3"


def test_mnli_has_two_sets_to_develop_on(tmp_path):
    columns = "index|promptID|pairID|genre|s1b|s2b|s1p|s2p|sentence1|sentence2|label1|gold_label"
    for name, label in (("train", "neutral"), ("dev_matched", "contradiction"), ("dev_mismatched", "entailment")):
        written(tmp_path, f"{name}.tsv", columns, f"3|1|1n|fiction|(|(|(|(|A {name}.|B.|neutral|{label}")
    found = {split: read("mnli", split, tmp_path)[0] for split in ("train", "dev", "dev_mismatched")}
    assert {split: example.label for split, example in found.items()} == {"train": 2, "dev": 0, "dev_mismatched": 1}
    assert found["dev"].texts == ("A dev_matched.", "B.")
    assert found["dev"].name == "3"


def test_qnli_rte_wnli(tmp_path):
    written(tmp_path, "QNLI/dev.tsv", "index|question|sentence|label", "0|Who?|He.|not_entailment")
    written(tmp_path, "RTE/dev.tsv", "index|sentence1|sentence2|label", "0|A.|B.|entailment")
    written(tmp_path, "WNLI/dev.tsv", "index|sentence1|sentence2|label", "0|A.|B.|1")
    assert [read(task, "dev", tmp_path)[0].label for task in ("qnli", "rte", "wnli")] == [1, 0, 1]


SWAG = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3"


def test_swag_has_the_quoting_of_csv(tmp_path):
    line = '4,v1,17,"A ""man"", old. He","A ""man"", old.",He,gold,"sits, then",runs.,"a, b",d.'
    written(tmp_path, "val.csv", f"{SWAG},label", f"{line},2", "9" + line[1:] + ",0")
    written(tmp_path, "test.csv", SWAG, line)
    endings = ("He sits, then", "He runs.", "He a, b", "He d.")
    pairs = tuple(('A "man", old.', ending) for ending in endings)
    assert read("swag", "dev", tmp_path) == [
        ChoiceExample("4", pairs, 2, "val.csv, line 2"),
        ChoiceExample("9", pairs, 0, "val.csv, line 3"),
    ]
    assert read("swag", "test", tmp_path)[0].label is None


# ---- your own data ---------------------------------------------------------------------------------------------


def test_the_same_examples_from_tsv_csv_and_json_lines(tmp_path):
    task = own_task("classification", ["body"], label="topic", id="key", labels=["sport", "news"])
    written(tmp_path, "train.tsv", "key|topic|body", "a|news|Say, hi", "b|sport|中文")
    written(tmp_path, "train.csv", "topic,key,body", 'news,a,"Say, hi"', "sport,b,中文")
    records = [{"key": "a", "topic": "news", "body": "Say, hi"}, {"body": "中文", "topic": "sport", "key": "b"}]
    written(tmp_path, "train.jsonl", *map(json.dumps, records))
    expected = [("a", ("Say, hi",), 1), ("b", ("中文",), 0)]
    for name in ("train.tsv", "train.csv", "train.jsonl"):
        found = read(task, "train", tmp_path / name)
        assert [(example.name, example.texts, example.label) for example in found] == expected
    assert read(task, "train", tmp_path)[0].place == "train.tsv, line 2"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "dev.tsv.gz").write_bytes(gzip.compress((tmp_path / "train.tsv").read_bytes()))
    assert len(read(task, "dev", tmp_path / "packed")) == 2


def test_lines_of_csv_are_counted_as_an_editor_does(tmp_path):
    task = own_task("classification", ["body"], label="topic", labels=["a", "b"])
    long = "x" * 200_000  # the csv module's own limit is 131,072
    written(tmp_path, "train.csv", "body,topic", '"two\nlines",a', f"{long},b", "x,c")
    assert "train.csv, line 5: label c is not one of a, b" in refusal(task, "train", tmp_path)
    written(tmp_path, "train.csv", "body,topic", '"two\nlines",a', f"{long},b")
    assert [len(example.texts[0]) for example in read(task, "train", tmp_path)] == [9, 200_000]
    written(tmp_path, "train.csv", "body,topic", "x,a", '"x,a')
    assert "train.csv, line 3: the quoting is broken" in refusal(task, "train", tmp_path)


def test_files_without_a_header_have_numbered_columns(tmp_path):
    written(tmp_path, "train.tsv", "1.5|A.|B.", "-2|C.|D.")
    task = own_task("regression", [1, 2], label=0)
    assert [(example.texts, example.label) for example in read(task, "train", tmp_path)] == [
        (("A.", "B."), 1.5),
        (("C.", "D."), -2.0),
    ]
    missing = refusal(own_task("regression", [1, 3], label=0), "train", tmp_path)
    assert missing == "train.tsv has no column 3: its first line has 3 columns, numbered from 0"


def test_labels_are_found_in_the_training_file(tmp_path):
    """By number if they are numbers: 10 comes after 9."""
    task = own_task("classification", ["text"], label="label")
    written(tmp_path, "train.tsv", "text|label", *[f"x|{label}" for label in (10, 9, 10, 1)])
    assert with_labels(task, tmp_path).labels == ("1", "9", "10")
    written(tmp_path, "train.tsv", "text|label", "x|spam", "x|ham ", "x|spam")
    found = with_labels(task, tmp_path)
    assert found.labels == ("ham", "spam")
    assert [example.label for example in read(found, "train", tmp_path)] == [1, 0, 1]
    written(tmp_path, "train.jsonl", *(json.dumps({"text": "x", "label": label}) for label in (True, False, True)))
    assert with_labels(task, tmp_path / "train.jsonl").labels == ("false", "true")
    with pytest.raises(ValueError, match="call with_labels"):
        read(task, "train", tmp_path)
    assert with_labels(find_task("sst2"), tmp_path) is find_task("sst2")


@pytest.mark.parametrize(
    ("train", "dev", "labels", "numbers"),
    [
        (["0.0", "1.0"], ["1", "0", "1.00"], ("0.0", "1.0"), [1, 0, 1]),
        (["10.0", "2.5", "9"], ["10", "2.50", "9.0"], ("2.5", "9", "10.0"), [2, 0, 1]),  # by value, not by alphabet
        (["1", "1.0", "2"], ["1.0", "2.", "+1"], ("1", "2"), [0, 1, 0]),
        (["-1", "0", "1e0"], ["-1.0", "-0", "1"], ("-1", "0", "1e0"), [0, 1, 2]),
        (["3.0", "unknown", "1"], ["3", "unknown", "1.0"], ("1", "3.0", "unknown"), [1, 2, 0]),
        (["01", "1", "10"], ["01", "1.0", "10"], ("01", "1", "10"), [0, 1, 2]),  # a code is no number
        (["9007199254740993", "9007199254740992"], ["9007199254740993"], None, [1]),  # beyond what a float holds
    ],
)
def test_numbers_as_labels_compare_as_numbers(tmp_path, train, dev, labels, numbers):
    """A program writes 1 and another 1.0: they are one label, in training and in any split after it."""
    written(tmp_path, "train.tsv", "text|label", *[f"x|{label}" for label in train])
    written(tmp_path, "dev.tsv", "text|label", *[f"x|{label}" for label in dev])
    task = with_labels(own_task("classification", ["text"], label="label"), tmp_path)
    assert labels in (None, task.labels)
    assert [example.label for example in read(task, "dev", tmp_path)] == numbers


def test_labels_that_are_none_are_refused(tmp_path):
    task = own_task("classification", ["text"], label="label")
    written(tmp_path, "train.tsv", "text|label", "x|a", "y|a")
    with pytest.raises(UserError, match=r"train.tsv: every example has the label a: nothing can be learned"):
        with_labels(task, tmp_path)
    written(tmp_path, "train.tsv", "text|label", *[f"x|{number}" for number in range(1001)])
    with pytest.raises(UserError, match="the column label has 1001 different values, which are no classes"):
        with_labels(task, tmp_path)


def test_numbers_of_classes_may_be_written_as_numbers(tmp_path):
    task = own_task("classification", ["text"], label="label", labels=["0", "1"])
    written(tmp_path, "train.tsv", "text|label", "x|1.0", "y|0.0")
    assert [example.label for example in read(task, "train", tmp_path)] == [1, 0]
    written(tmp_path, "dev.jsonl", *(json.dumps({"text": "x", "label": label}) for label in (1, 0.0, "1")))
    assert [example.label for example in read(task, "dev", tmp_path)] == [1, 0, 1]


@pytest.mark.parametrize("nothing", ["\\N", "", " ", "-1"])
def test_labels_that_a_test_file_does_not_tell(tmp_path, nothing):
    """An empty cell, a database's NULL, and the -1 of hidden labels; elsewhere they are errors."""
    lines = ("sentence|label", f"x|{nothing}")
    assert read("sst2", "test", written(tmp_path, "test.tsv", *lines))[0].label is None
    said = refusal("sst2", "dev", written(tmp_path, "dev.tsv", *lines))
    if nothing == "-1":
        assert said == "dev.tsv, line 2: label -1 is not one of 0, 1, negative, positive: mend the file"
    else:
        assert said == "dev.tsv, line 2 has no label: add it or leave the line out"


def test_choices_of_ones_own(tmp_path):
    columns = own_task("choice", ["start"], label="right", choices=["a", "b"])
    written(tmp_path, "train.csv", "start,a,b,right", "S,x,y,1")
    assert read(columns, "train", tmp_path) == [ChoiceExample("0", (("S", "x"), ("S", "y")), 1, "train.csv, line 2")]
    lists = own_task("choice", ["start"], label="right", choices=["all"])
    path = tmp_path / "dev.jsonl"
    written(tmp_path, path.name, *(json.dumps({"start": "S", "all": list("xyz")[:n], "right": n - 1}) for n in (2, 3)))
    assert [(len(example.pairs), example.label) for example in read(lists, "dev", path)] == [(2, 1), (3, 2)]
    for record, words in (
        ({"start": "S", "all": ["x", "y"], "right": 2}, "label 2 is none of its 2 choices, which are numbered from 0"),
        ({"start": "S", "all": ["x"], "right": 0}, "has 1 choices"),
        ({"start": "S", "all": "xy", "right": 0}, "all is 'xy', and must be a list of texts"),
    ):
        written(tmp_path, path.name, json.dumps(record))
        said = refusal(lists, "dev", path)
        assert said.startswith("dev.jsonl, line 1")
        assert words in said


def test_tagged_words(tmp_path):
    task = own_task("tagging", ["words"], label="tags", id="key")
    records = [{"key": 5, "words": ["Ann", "sat"], "tags": ["B-PER", "O"]}, {"words": ["So"], "tags": ["O"]}]
    path = written(tmp_path, "train.jsonl", *map(json.dumps, records))
    assert read(task, "train", tmp_path) == [
        Sentence("5", ("Ann", "sat"), ("B-PER", "O"), 0, "train.jsonl, line 1"),
        Sentence("1", ("So",), ("O",), 1, "train.jsonl, line 2"),
    ]
    written(tmp_path, "test.jsonl", json.dumps({"words": ["So"]}))
    assert read(task, "test", tmp_path)[0].tags is None
    for record, words in (
        ({"words": ["a", "b"], "tags": ["O"]}, "line 1 has 2 words and 1 tags"),
        ({"words": "a b", "tags": ["O", "O"]}, "line 1: words is 'a b', and must be a list of texts"),
        ({"words": [], "tags": []}, "line 1: words is [], and must be a list of texts"),
        ({"words": ["a"], "tags": None}, "line 1 has no tags: train needs them"),
    ):
        written(tmp_path, "train.jsonl", json.dumps(record))
        assert words in refusal(task, "train", path)


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "lines", "words"),
    [
        ("sst2", ("text|label", "x|1"), "train.tsv has no column sentence: its columns are text, label"),
        ("sst2", ("sentence|mark", "x|1"), "no column label, and train needs labels: its columns are sentence, mark"),
        ("sst2", ("sentence|label", "x|1", "y|2"), "train.tsv, line 3: label 2 is not one of 0, 1, negative, positive"),
        ("mnli", ("index|sentence1|sentence2|gold_label", "0|a|b|-"), "line 2: label - is not one of contradiction"),
        ("mnli", ("index|sentence1|sentence2|gold_label", "0|a|b|0"), "line 2: label 0 is not one of contradiction"),
        ("sst2", ("sentence|label", "x|1", "y"), "train.tsv, line 3 has 1 columns, and the first line has 2"),
        ("sst2", ("sentence|label", "x|1|z"), "train.tsv, line 2 has 3 columns, and the first line has 2"),
        ("sst2", ("sentence|label|label", "x|1|0"), "train.tsv has the column label twice"),
        ("qqp", (*QQP[:2], "3|7|8|A?|B?|0|more"), "train.tsv, line 3 has 7 columns, and the first line has 6"),
        ("cola", ("gj04|1", "gj04|1"), "train.tsv has no column 3: its first line has 2 columns, numbered from 0"),
        ("stsb", ("sentence1|sentence2|score", "a|b|good"), "line 2: 'good' stands where a number must be"),
        ("stsb", ("sentence1|sentence2|score", "a|b|nan"), "line 2: the rating nan is not from 0 to 5"),
        ("stsb", ("sentence1|sentence2|score", "a|b|5.01"), "line 2: the rating 5.01 is not from 0 to 5"),
        ("stsb", ("sentence1|sentence2|score", "a|b|"), "train.tsv, line 2 has no label: add it"),
        ("sst2", ("",), "train.tsv is empty"),
        ("sst2", ("sentence|label",), "train.tsv has no examples"),
    ],
)
def test_bad_lines_are_named(tmp_path, task, lines, words):
    written(tmp_path, "train.tsv", *lines)
    assert words in refusal(task, "train", tmp_path)


def test_any_finite_number_is_a_rating_where_no_range_is_known(tmp_path):
    task = own_task("regression", ["text"], label="score")
    written(tmp_path, "train.tsv", "text|score", "x|-1e3", "y|inf")
    assert "train.tsv, line 3: the rating inf is not a finite number" in refusal(task, "train", tmp_path)


def test_a_column_of_labels_must_be_named_to_train(tmp_path):
    task = own_task("classification", ["text"], labels=["a", "b"])
    written(tmp_path, "train.tsv", "text|label", "x|a")
    assert "train.tsv is read as train, which needs labels: name their column" in refusal(task, "train", tmp_path)
    assert read(task, "test", tmp_path / "train.tsv")[0].label is None


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\nx\t1\ncaf\xe9\t0\n")
    assert refusal("sst2", "train", tmp_path).startswith(
        f"{tmp_path}/train.tsv, line 3: is not UTF-8 at its byte 3 (0xe9): convert the file"
    )


def test_missing_files_are_told_with_what_is_there(tmp_path):
    written(tmp_path, "test.tsv", "index|sentence", "0|x")
    (tmp_path / "old").mkdir()
    assert refusal("sst2", "train", tmp_path) == (
        f"{tmp_path} has no train.tsv, which is train of SST-2: {tmp_path} holds old, test.tsv"
    )
    assert refusal("sst2", "train", tmp_path / "old").endswith("old holds nothing")
    assert refusal("sst2", "train", tmp_path / "dev.tsv") == (
        f"{tmp_path / 'dev.tsv'} is missing: {tmp_path} holds old, test.tsv"
    )
    assert "there is no folder" in refusal("sst2", "train", tmp_path / "a" / "b")
    assert "AX has no split train: it has test" in refusal("ax", "train", tmp_path)
    assert "CoLA has no split validation: it has train, dev, test" in refusal("cola", "validation", tmp_path)
    written(tmp_path, "data.parquet", "x")
    assert "the ending .parquet is not known" in refusal("sst2", "train", tmp_path / "data.parquet")
    (tmp_path / "dev.tsv.gz").write_bytes(gzip.compress(b"sentence\tlabel\nx\t1\n")[:-9])
    assert "dev.tsv.gz is cut short" in refusal("sst2", "dev", tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"sentence": "x"', "line 2 is not JSON"),
        ('["x", 1]', "line 2 is not JSON of use here: it is a list, not an object (['x', 1])"),
        ('{"text": "x", "label": 1}', "line 2 has no sentence: it has text, label"),
        ('{"sentence": 5, "label": 1}', "line 2: 5 stands where a text must be"),
        ('{"sentence": "\\ud800", "label": 1}', "line 2 is not JSON of use here: sentence holds half a character"),
        ('{"sentence": "x", "label": 1, "more": [{"a": "b\\uDfff"}]}', "use here: more[0].a holds half a character"),
        ('{"sentence": "x", "label": 1, "\\ud9ab": 1}', "use here: it holds half a character, \\ud9ab"),
        ('{"sentence": "x\\u0000", "label": 1}', "line 2 is not JSON of use here: sentence holds NUL"),
        ('{"sentence": "x", "label": 1, "label": 0}', "line 2 is not JSON of use here: 'label' is in one object twice"),
        ('{"sentence": "x", "label": [1]}', "line 2: [1] stands where a label must be"),
        ('{"sentence": "x"}', "line 2 has no label"),
    ],
)
def test_bad_json_lines_are_named(tmp_path, line, words):
    whole = '{"sentence": "x", "label": 1}'
    path = written(tmp_path, "train.jsonl", whole, line, whole)
    assert words in refusal("sst2", "train", path)


# ---- TFDS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as TFDS_DATA_DIR names it, with `glue/mnli` in it as TFDS has it: classes in its own order, hidden in test."""
    tfds = pytest.importorskip("tensorflow_datasets")

    # TFDS's own `glue` may be imported by another test of this process.
    with tfds.core.registered.skip_registration():

        class Glue(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("2.0.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="mnli")]  # noqa: RUF012

            def _info(self) -> Any:
                features = {
                    "premise": tfds.features.Text(),
                    "hypothesis": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=["entailment", "neutral", "contradiction"]),
                    "idx": np.int32,
                    "words": tfds.features.Sequence(tfds.features.Text()),
                    "spans": tfds.features.Sequence({"text": tfds.features.Text(), "begin": np.int32}),
                }
                return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {
                    "train": self._examples([0, 1, 2]),
                    "validation_matched": self._examples([2]),
                    "test_matched": self._examples([-1]),
                }

            def _generate_examples(self) -> Any:
                raise NotImplementedError

            def _examples(self, labels: list[int]) -> Any:
                for number, label in enumerate(labels):
                    yield (
                        number,
                        {
                            "premise": f"A {label} “中”.",
                            "hypothesis": "B.",
                            "label": label,
                            "idx": number,
                            "words": ["a", "b"],
                            "spans": [{"text": "a", "begin": 0}, {"text": "b", "begin": 2}],
                        },
                    )

    folder = tmp_path_factory.mktemp("tfds")
    Glue(config="mnli", data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf, inside TFDS
def test_examples_of_tfds(tfds_folder, monkeypatch):
    """Classes are found by their words: their order in TFDS is another."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder))
    examples = read("mnli", "train", "tfds:")
    assert sorted((example.texts[0], example.label) for example in examples) == [
        ("A 0 “中”.", 1),
        ("A 1 “中”.", 2),
        ("A 2 “中”.", 0),
    ]
    assert all(example.name == str(example.texts[0][2]) for example in examples)
    assert examples[0].place == "tfds:glue/mnli/train, example 0"
    assert [example.label for example in read("mnli", "dev", "tfds:glue/mnli:2.0.0")] == [0]
    assert [example.label for example in read("mnli", "test", "tfds:")] == [None]
    own = with_labels(own_task("classification", ["hypothesis"], label="label"), "tfds:glue/mnli")
    assert own.labels == ("contradiction", "entailment", "neutral")
    tagged = own_task("tagging", ["words"], label="words")
    assert read(tagged, "train", "tfds:glue/mnli")[0].tags == ("a", "b")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_tfds_does_not_have_is_refused(tfds_folder, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder))
    assert "glue/sst2 is not prepared in" in refusal("sst2", "train", "tfds:")
    assert "there is no split validation_mismatched" in refusal("mnli", "dev_mismatched", "tfds:")
    assert "there is no field sentence" in refusal("sst2", "train", "tfds:glue/mnli")
    assert "tfds:glue/mnli/train[:1]:premise is not of the form" in refusal(
        "mnli", "x", "tfds:glue/mnli/train[:1]:premise"
    )
    assert "SWAG has no data set in TFDS of its own" in refusal("swag", "train", "tfds:")
    unlabelled = own_task("classification", ["premise"], label="topic", labels=["a", "b"])
    assert "has no column topic, and train needs labels" in refusal(unlabelled, "train", "tfds:glue/mnli")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nested_fields_of_tfds_are_plain(tfds_folder, monkeypatch):
    from bert_jax.text.tfds_source import read_records

    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder))
    data = read_records("tfds:glue/mnli", "validation_matched", ["spans", "words"], ["idx", "nothing"])
    assert data.fields == ("spans", "words", "idx")
    expected = {"spans": {"text": ["a", "b"], "begin": [0, 2]}, "words": ["a", "b"], "idx": 0}
    assert list(data.records) == [("tfds:glue/mnli/validation_matched, example 0", expected)]


# ---- lines that are skipped, and limits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "skipped"),
    [
        ("train.tsv", "sentence\tlabel\n\nx\t1\n  \ny\t0\n\n", "2, 4, 6"),
        ("train.jsonl", '\n{"sentence": "x", "label": 1}\r\n\r\n{"sentence": "y", "label": 0}\n', "1, 3"),
    ],
)
def test_empty_lines_are_skipped_and_counted(tmp_path, name, content, skipped):
    """The numbers of the other lines, and of the examples, are not moved."""
    (tmp_path / name).write_text(content, newline="")
    examples, [note] = read_examples(find_task("sst2"), "train", tmp_path / name)
    assert note == f"{name}: {len(skipped.split(','))} empty lines are skipped: {skipped}"
    assert [(one.name, one.texts, one.label) for one in examples] == [("0", ("x",), 1), ("1", ("y",), 0)]
    assert examples[1].place == f"{name}, line {4 if name == 'train.jsonl' else 5}"


def test_empty_lines_of_csv_are_skipped_but_not_those_in_quotes(tmp_path):
    task = own_task("classification", ["text"], label="label", labels=["a", "b"])
    (tmp_path / "dev.csv").write_text('text,label\n\n"two\n\nlines",a\n \nx,b\n')
    examples, [note] = read_examples(task, "dev", tmp_path)
    assert [(one.texts, one.place) for one in examples] == [
        (("two\n\nlines",), "dev.csv, line 3"),
        (("x",), "dev.csv, line 7"),
    ]
    assert note == "dev.csv: 2 empty lines are skipped: 2, 6"


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_are_told_by_their_bytes(tmp_path, packed):
    (tmp_path / "dev.tsv.gz").write_bytes(packed(b"sentence\tlabel\nx\t1\n"))
    assert len(read("sst2", "dev", tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("dev.tsv", "sentence\tlabel\n{long}\t1\n", "dev.tsv, line 2 is longer than"),
        ("dev.jsonl", '{{"sentence": "{long}", "label": 1}}\n', "dev.jsonl, line 1 is longer than"),
        ("dev.csv", 'sentence,label\n"{half}\n{half}",1\n', "a cell has more than"),  # of lines that are short enough
    ],
)
def test_lines_and_cells_have_a_limit(tmp_path, monkeypatch, name, content, words):
    monkeypatch.setattr("bert_jax.base.lines.LONGEST_LINE", 2**20)
    monkeypatch.setattr("bert_jax.tasks.records.LONGEST_LINE", 2**20)
    (tmp_path / name).write_text(content.format(long="x" * 2**20, half="x" * (2**19 + 9)))
    assert words in refusal("sst2", "dev", tmp_path / name)


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    """A small file of zeros holds gigabytes."""
    monkeypatch.setattr("bert_jax.text.streams.LARGEST_TEXT", 2**20)
    (tmp_path / "dev.txt.gz").write_bytes(gzip.compress(b"a O\n\n" * 2**18))
    with pytest.raises(UserError, match=r"dev.txt.gz holds more than 1 MiB: divide it"):
        read_text(tmp_path / "dev.txt.gz")
