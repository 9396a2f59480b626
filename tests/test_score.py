# SPDX-License-Identifier: Apache-2.0
"""`bert-jax score`: files in, official figures and names out, one line for what is wrong."""

import json

import pytest
from conftest import refusal_of

from bert_jax.cli import main

DATA = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "c",
                    "qas": [
                        {"id": "a", "question": "?", "answers": [{"text": "光荣", "answer_start": 0}]},
                        {"id": "b", "question": "?", "answers": [{"text": "the end", "answer_start": 0}]},
                    ],
                }
            ]
        }
    ]
}
COLA = 'gj04\t1\t\tHe said "no.\ngj04\t0\t*\tThem slept.\ngj04\t1\t\tShe "slept" here.\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a file of questions and one of CoLA, which has no header and quotes that are text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.json").write_text(json.dumps(DATA), encoding="utf-8")
    (tmp_path / "dev.tsv").write_text(COLA, encoding="utf-8")
    return tmp_path


def written(folder, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


def score(capsys, command: str) -> tuple[str, str]:
    """What the stage prints on stdout and stderr."""
    assert main(["score", *command.split()]) == 0
    return capsys.readouterr()


# ---- squad -------------------------------------------------------------------------------------------------


def test_squad_prints_the_official_names_and_tells_what_was_missing(folder, capsys):
    written(folder, "p.json", '{"b": "end", "c": "x", "d": "y"}')
    out, err = score(capsys, "squad --version 1.1 --data data.json --predictions p.json --json")
    assert json.loads(out) == {"exact_match": 50.0, "f1": 50.0}
    assert err.splitlines() == [
        "questions without prediction, which are scored 0: 1 (a)",
        "predictions for no question of the file, which are not counted: 2 (c, d)",
    ]


def test_squad_2_0_searches_thresholds_when_there_are_probabilities(folder, capsys):
    written(folder, "p.json", '{"a": "", "b": "end"}')
    written(folder, "na.json", '{"a": 0.9, "b": 0.25}')
    command = "squad --version 2.0 --data data.json --predictions p.json --na-probs na.json"
    out, _ = score(capsys, f"{command} --na-threshold 0.2 --json")
    found = json.loads(out)
    assert (found["exact"], found["best_exact"], found["best_exact_thresh"]) == (0.0, 50.0, 0.25)
    out, _ = score(capsys, command)
    assert "HasAns_exact" in out
    assert "50.0000" in out


def test_chinese_scores_are_printed_as_the_official_program_prints_them(folder, capsys):
    written(folder, "p.json", '{"a": "光荣。", "b": "end"}')
    out, _ = score(capsys, "squad --version cmrc --data data.json --predictions p.json --json")
    expected = {"AVERAGE": "66.667", "F1": "83.333", "EM": "50.000", "TOTAL": 2, "SKIP": 0, "FILE": "p.json"}
    assert json.loads(out) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--version 1.1 --predictions other.json", "none of the 1 predictions is for one of the 2 questions"),
        ("--version 1.1 --predictions p.json --na-probs p.json", "belong to --version 2.0"),
        ("--version 2.0 --predictions p.json --na-threshold 0.5", "give --na-probs FILE"),
        ("--version 2.0 --predictions p.json --na-probs p.json --na-threshold nan", "nan is no probability"),
        ("--version 2.0 --predictions absent.json", "absent.json cannot be read: No such file or directory"),
    ],
)
def test_squad_s_errors_are_one_line(folder, capsys, options, message):
    written(folder, "p.json", '{"a": "光荣", "b": "end"}')
    written(folder, "other.json", '{"z": "x"}')
    assert message in refusal_of(capsys, "score", *f"squad --data data.json {options}".split())


# ---- conll -------------------------------------------------------------------------------------------------


def test_conll_prints_the_lines_of_conlleval(folder, capsys):
    written(folder, "tagged.txt", "a B-PER B-PER\nb I-PER I-PER\n\nc B-LOC O\n")
    out, err = score(capsys, "conll tagged.txt")
    assert out.splitlines() == [
        "processed 3 tokens with 2 phrases; found: 1 phrases; correct: 1.",
        "accuracy:  66.67%; precision: 100.00%; recall:  50.00%; FB1:  66.67",
        "              LOC: precision:   0.00%; recall:   0.00%; FB1:   0.00  0",
        "              PER: precision: 100.00%; recall: 100.00%; FB1: 100.00  1",
    ]
    assert err == ""
    out, _ = score(capsys, "conll tagged.txt --json")
    assert json.loads(out)["types"]["PER"]["FB1"] == 100.0


def test_conll_warns_of_a_scheme_that_conlleval_does_not_know(folder, capsys):
    written(folder, "tagged.txt", "a S-PER S-PER\nb S-PER S-PER\n")
    out, err = score(capsys, "conll tagged.txt")
    assert "with 1 phrases" in out  # as conlleval, though there are two
    assert "make both columns IOB2 before" in err


def test_conll_refuses_a_file_without_words(folder, capsys):
    assert "has no word to score" in refusal_of(capsys, "score", *f"conll {written(folder, 'empty.txt', '')}".split())
    odd = written(folder, "odd.txt", "a O O\nb O\n")
    assert "line 2 has 2 items, the lines before have 3" in refusal_of(capsys, "score", *f"conll {odd}".split())


# ---- glue --------------------------------------------------------------------------------------------------


def test_glue_reads_official_files_and_prints_the_official_names(folder, capsys):
    written(folder, "p.tsv", "index\tprediction\n0\t1\n1\t0\n2\t0\n")
    out, _ = score(capsys, "glue --task CoLA --data dev.tsv --predictions p.tsv --json")
    assert json.loads(out) == {"matthews_correlation": pytest.approx(0.5), "accuracy": pytest.approx(2 / 3)}
    written(folder, "words.txt", "acceptable\nunacceptable\nunacceptable\n")
    out, _ = score(capsys, "glue --task cola --data . --predictions words.txt")
    assert out.splitlines()[0] == "CoLA, dev, 3 examples, x 100"
    assert "50.00" in out
    assert "66.67" in out


def test_a_constant_prediction_is_said(folder, capsys):
    written(folder, "p.txt", "1\n1\n1\n")
    out, err = score(capsys, "glue --task cola --data dev.tsv --predictions p.txt")
    assert "0.00" in out
    assert "all 3 predictions are 1" in err


def test_a_correlation_that_is_not_defined_is_said_and_is_null(folder, capsys):
    columns = [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ]
    lines = [columns, ["0", "", "", "", "", "", "", "a", "b", "1.5"], ["1", "", "", "", "", "", "", "a", "b", "4"]]
    written(folder, "sts.tsv", "".join("\t".join(line) + "\n" for line in lines))
    written(folder, "p.txt", "2.5\n2.5\n")
    out, err = score(capsys, "glue --task sts-b --data sts.tsv --predictions p.txt --json")
    assert json.loads(out) == {"spearmanr": None, "pearson": None}
    assert "of a constant is not defined" in err
    out, _ = score(capsys, "glue --task sts-b --data sts.tsv --predictions p.txt")
    assert "not defined" in out
    assert "nan" not in out.lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n0\n", "has 2 predictions for 3 examples"),
        ("1\nmaybe\n0\n", "line 2: 'maybe' is no label of the task"),
        ("", "is empty"),
    ],
)
def test_glue_s_errors_are_one_line(folder, capsys, text, message):
    written(folder, "p.txt", text)
    assert message in refusal_of(
        capsys, "score", *["glue", "--task", "cola", "--data", "dev.tsv", "--predictions", "p.txt"]
    )


def test_tasks_of_other_scorers_and_files_without_labels_are_refused(folder, capsys):
    written(folder, "p.txt", "1\n")
    error = refusal_of(capsys, "score", "glue", "--task", "squad1", "--data", "data.json", "--predictions", "p.txt")
    assert "use bert-jax score squad" in error
    written(folder, "test.tsv", "index\tsentence\n0\tHe slept.\n")
    error = refusal_of(capsys, "score", "glue", "--task", "cola", "--data", "test.tsv", "--predictions", "p.txt")
    assert "has no label to score against" in error


NLI = "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\tneutral\n1\ta\tb\tentailment\n"
GLUE_FILES = {
    "CoLA/dev.tsv": COLA,
    "MNLI/dev_matched.tsv": NLI,
    "MNLI/dev_mismatched.tsv": NLI,
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n1\ta\tb\tentailment\n",
}
GLUE_PREDICTIONS = {
    "CoLA.tsv": "1\n0\n1\n",
    "MNLI-m.tsv": "index\tprediction\n0\tneutral\n1\tneutral\n",
    "MNLI-mm.tsv": "index\tprediction\n0\tneutral\n1\tentailment\n",
    "RTE.tsv": "1\n0\n",
}


def test_all_tasks_are_scored_from_a_folder_laid_out_as_a_submission(folder, capsys):
    for name, text in GLUE_FILES.items():
        (folder / "glue" / name).parent.mkdir(parents=True, exist_ok=True)
        written(folder / "glue", name, text)
    (folder / "submission").mkdir()
    for name, text in GLUE_PREDICTIONS.items():
        written(folder / "submission", name, text)
    out, err = score(capsys, "glue --task all --data glue --predictions submission --json")
    assert json.loads(out) == {
        "tasks": {
            "cola": {"matthews_correlation": 1.0, "accuracy": 1.0},
            "mnli": {"accuracy": 0.5},
            "mnli_mismatched": {"accuracy": 1.0},
            "rte": {"accuracy": 1.0},
        },
        "averages": {},
    }
    assert "paper's average (nine figures, MNLI-m and MNLI-mm apart, without WNLI) lacks qqp (f1)" in err
    out, _ = score(capsys, "glue --task all --data glue --predictions submission")
    assert out.splitlines()[1].split() == ["MNLI,", "dev", "2", "examples", "accuracy", "50.00"]
