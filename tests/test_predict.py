# SPDX-License-Identifier: Apache-2.0
"""`predict` and `evaluate` of a fine-tuned run: the same predictions as at its end, from files and from lines."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from bucket_emulator import BUCKET
from conftest import refusal_of
from finetune_samples import command, read_lines, write_conll, write_model, write_squad, write_sst2
from safetensors.numpy import load_file, save_file

from bert_jax.cli import main
from bert_jax.conversion.convert import convert


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, SST-2 and a run that has learned it."""
    folder = tmp_path_factory.mktemp("predict")
    write_model(folder / "model")
    write_sst2(folder / "sst2", train=96)
    assert main(command("sst2", folder / "sst2", folder / "model", folder / "run", "epochs=8")) == 0
    return folder


@pytest.fixture(scope="module")
def published(folder):
    """The same model as others have it: in Hugging Face's format, its outputs named and the other way round."""
    convert(folder / "run", folder / "published", "huggingface")
    weights = load_file(folder / "published" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][::-1].copy()
    save_file(weights, folder / "published" / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "published" / "config.json").read_text())
    config |= {"id2label": {"0": "POSITIVE", "1": "NEGATIVE"}, "label2id": {"POSITIVE": 0, "NEGATIVE": 1}}
    (folder / "published" / "config.json").write_text(json.dumps(config))
    return folder / "published"


def lines_in(monkeypatch, text: bytes) -> None:
    """Standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text), encoding="utf-8"))


def test_evaluate_gives_the_scores_of_the_run_and_a_confusion_matrix(folder, capsys):
    assert main(["evaluate", str(folder / "run"), "--data", str(folder / "sst2")]) == 0
    out = capsys.readouterr().out
    assert "dev accuracy  1.0000" in out
    gold = [line["label"] for line in read_lines(folder / "run" / "predictions" / "dev.jsonl")]
    rows = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert rows == [["negative", str(gold.count(0)), "0"], ["positive", "0", str(gold.count(1))]]
    record = json.loads((folder / "run" / "evaluation-dev.json").read_text(encoding="utf-8"))
    assert record["scores"] == json.loads((folder / "run" / "scores.json").read_text())["scores"]["dev"]


def test_no_score_is_lost_for_want_of_a_folder(tmp_path, capsys, emulator):
    """It is asked for before anything is computed, of whatever model; a bucket needs none."""
    command = ["evaluate", str(tmp_path), "--task", "sst2", "--data", "DATA", "--output"]
    assert "--output no/such/x.json: there is no folder" in refusal_of(capsys, *command, "no/such/x.json")
    assert main([*command, f"gs://{BUCKET}/no/such/x.json"]) == 2  # the model is none
    assert "there is no folder" not in capsys.readouterr().err


def test_predict_repeats_the_predictions_of_the_run(folder, tmp_path):
    split = ["--data", str(folder / "sst2"), "--split", "dev"]
    assert main(["predict", str(folder / "run"), *split, "--output", str(tmp_path)]) == 0
    assert read_lines(tmp_path / "dev.jsonl") == read_lines(folder / "run" / "predictions" / "dev.jsonl")


def test_a_run_keeps_the_predictions_that_its_scores_are_of(folder, tmp_path, capsys):
    """Those of another dev split under the same name were shown by its page and compared as its own."""
    own = folder / "run" / "predictions" / "dev.jsonl"
    before = own.read_bytes()
    write_sst2(tmp_path / "other", train=96)
    other = (tmp_path / "other" / "dev.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "other" / "dev.tsv").write_text("".join([*other[:-2], other[-1]]), encoding="utf-8")
    split = ["--data", str(tmp_path / "other"), "--split", "dev"]
    assert main(["predict", str(folder / "run"), *split]) == 2
    assert f"its dev split has other examples than that of which {own} and" in capsys.readouterr().err
    assert own.read_bytes() == before
    assert main(["predict", str(folder / "run"), *split, "--output", str(tmp_path)]) == 0
    own.unlink()
    assert main(["predict", str(folder / "run"), "--data", str(folder / "sst2"), "--split", "dev"]) == 0
    assert own.read_bytes() == before


def test_lines_are_predicted_as_the_same_texts_of_a_file(folder, capsys, monkeypatch):
    known = read_lines(folder / "run" / "predictions" / "dev.jsonl")
    lines_in(monkeypatch, "".join(f"{line['text']}\n" for line in known).encode())
    capsys.readouterr()
    assert main(["predict", str(folder / "run")]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["text"] for one in told] == [line["text"] for line in known]
    assert [one["predicted"] for one in told] == [("negative", "positive")[line["predicted"]] for line in known]
    for one, line in zip(told, known, strict=True):
        assert list(one["probabilities"].values()) == pytest.approx(line["probabilities"], abs=2e-6)


def test_requests_are_answered_as_lines_are_predicted(folder, capsys, monkeypatch):
    known = read_lines(folder / "run" / "predictions" / "dev.jsonl")[:3]
    requests = [{"id": line["name"], "text": line["text"]} for line in known] + [{"id": "x", "texts": "a"}]
    lines_in(monkeypatch, "".join(json.dumps(request) + "\n" for request in requests).encode())
    capsys.readouterr()
    assert main(["predict", str(folder / "run"), "--serve"]) == 0
    *told, refused = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["id"] for one in told] == [line["name"] for line in known]
    assert [one["predicted"] for one in told] == [("negative", "positive")[line["predicted"]] for line in known]
    for one, line in zip(told, known, strict=True):
        assert list(one["probabilities"].values()) == pytest.approx(line["probabilities"], abs=2e-6)
    assert 'has no "text"' in refused["error"]


def test_calibrated_probabilities_are_those_of_the_temperature_of_dev(folder, capsys, monkeypatch):
    """p to the power of 1 / T, normalised: what softmax(logits / T) is of softmax(logits)."""
    record = json.loads((folder / "run" / "finetune.json").read_text())
    monkeypatch.setitem(record["found"], "temperature", 2.5)
    spoilt = folder / "warm"
    shutil.copytree(folder / "run", spoilt)
    (spoilt / "finetune.json").write_text(json.dumps(record))
    known = read_lines(folder / "run" / "predictions" / "dev.jsonl")
    lines_in(monkeypatch, "".join(f"{line['text']}\n" for line in known).encode())
    capsys.readouterr()
    before = (spoilt / "predictions" / "dev.jsonl").read_bytes()
    split = ["--data", str(folder / "sst2"), "--split", "dev"]
    assert main(["predict", str(spoilt), *split, "--calibrated"]) == 0
    assert (spoilt / "predictions" / "dev.jsonl").read_bytes() == before, "which the page shows as trained"
    assert (spoilt / "predictions" / "dev_calibrated.jsonl").is_file()
    capsys.readouterr()
    assert main(["predict", str(spoilt), "--calibrated"]) == 0
    for line, wanted in zip(capsys.readouterr().out.splitlines(), known, strict=True):
        powers = np.array(wanted["probabilities"]) ** (1 / 2.5)
        assert list(json.loads(line)["probabilities"].values()) == pytest.approx(
            (powers / powers.sum()).tolist(), abs=1e-3
        )


def test_the_temperature_is_found_on_dev_and_missing_ones_are_refused(folder, published, capsys):
    assert 0.05 <= json.loads((folder / "run" / "finetune.json").read_text())["found"]["temperature"] <= 20
    assert "no temperature was kept with" in refusal_of(capsys, "predict", published, "--calibrated")


def test_a_published_model_predicts_what_the_run_does(folder, published, tmp_path, capsys, monkeypatch):
    """From lines under the names of its outputs; from the task's files with its classes in the model's order."""
    known = read_lines(folder / "run" / "predictions" / "dev.jsonl")
    lines_in(monkeypatch, "".join(f"{line['text']}\n" for line in known).encode())
    capsys.readouterr()
    assert main(["predict", str(published)]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["predicted"] for one in told] == [("NEGATIVE", "POSITIVE")[line["predicted"]] for line in known]
    for one, line in zip(told, known, strict=True):
        assert list(one["probabilities"].values())[::-1] == pytest.approx(line["probabilities"], abs=2e-6)
    split = ["--data", str(folder / "sst2"), "--split", "dev", "--task", "sst2"]
    assert main(["predict", str(published), *split, "--output", str(tmp_path)]) == 0
    records = read_lines(tmp_path / "dev.jsonl")
    assert [1 - record["predicted"] for record in records] == [line["predicted"] for line in known]
    capsys.readouterr()
    assert main(["evaluate", str(published), *split, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scores"] == json.loads((folder / "run" / "scores.json").read_text())["scores"]["dev"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "DATA"], "--data: name the task whose files it has, for which"),
        (["--data", "DATA", "--task", "sst2"], "is no run that could keep predictions: name a folder with --output"),
        (["--data", "DATA", "--task", "qnli"], "and the head of"),
        (["--data", "DATA", "--task", "squad1"], "--kind span: "),
    ],
)
def test_what_a_published_model_cannot_predict_is_refused(folder, published, capsys, arguments, message):
    arguments = [str(folder / "sst2") if part == "DATA" else part for part in arguments]
    assert message in refusal_of(capsys, "predict", published, *arguments)


def test_no_class_is_read_from_nan(folder, published, tmp_path, capsys):
    """The first class had the predictions of a damaged model, and a score like chance."""
    shutil.copytree(published, tmp_path / "damaged")
    weights = load_file(published / "model.safetensors")
    weights["bert.encoder.layer.0.output.LayerNorm.weight"][:] = 1e38
    save_file(weights, tmp_path / "damaged" / "model.safetensors", {"format": "pt"})
    split = ["--task", "sst2", "--data", str(folder / "sst2"), "--split", "dev", "--output", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "damaged"), *split]) == 2
    assert "computes NaN or infinity from weights that are finite" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


def test_the_zip_of_glue_tells_what_is_not_in_it(folder, tmp_path, capsys):
    """A file for the site has as many examples as GLUE's test set: 24 of ours make none."""
    options = ["--data", str(folder / "sst2"), "--output", str(tmp_path), "--zip", str(tmp_path / "all.zip")]
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "CoLA.tsv").write_text("index\tprediction\n0\t1\n")
    assert main(["predict", str(folder / "run"), *options]) == 0
    assert "not in it yet: SST-2.tsv" in capsys.readouterr().err
    assert zipfile.ZipFile(tmp_path / "all.zip").namelist() == ["CoLA.tsv"]
    rows = (tmp_path / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 25


@pytest.mark.parametrize(
    ("arguments", "text", "message"),
    [
        (["--split", "dev"], b"", "--split goes with --data: leave it out, or name the data"),
        ([], b"a film\na film\tgood\n", "line 2 has 2 texts (between tabs), and the first line 1"),
        ([], b"a film\nbad \xff\n", "standard input, line 2: is not UTF-8 at its byte 4 (0xff): convert"),
        (["--data", "DATA", "--task", "stsb"], b"", "--task stsb: "),
        (["--data", "nowhere"], b"", "nowhere is missing"),
    ],
)
def test_what_cannot_be_predicted_is_refused(folder, capsys, monkeypatch, arguments, text, message):
    lines_in(monkeypatch, text)
    arguments = [str(folder / "sst2") if part == "DATA" else part for part in arguments]
    assert message in refusal_of(capsys, "predict", folder / "run", *arguments)


def test_lines_have_as_many_texts_as_the_first_of_all(folder, capsys, monkeypatch):
    """A pair behind 1,024 single texts was predicted as one, in silence."""
    monkeypatch.setattr("bert_jax.pipelines.predict.LINES_AT_ONCE", 2)
    lines_in(monkeypatch, b"a film\na film\na film\tgood\n")
    assert "line 3 has 2 texts (between tabs), and the first line 1" in refusal_of(capsys, "predict", folder / "run")


def test_lines_that_are_cut_are_told(folder, capsys, monkeypatch):
    lines_in(monkeypatch, b"good\n" + b"good " * 300 + b"\n")
    assert main(["predict", str(folder / "run")]) == 0
    assert "from line 1 on, lines: 1 of 2 rows are cut to max_length=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "is a fine-tuned run, and nothing to score: give --data with its task's files, and --split"),
        (["--data", "DATA", "--text", "a.txt"], "is a fine-tuned run, and --text is for pre-trained runs"),
        (["--data", "DATA", "--split", "test"], "has no labels to score with: bert-jax predict writes predictions"),
    ],
)
def test_what_cannot_be_scored_is_refused(folder, capsys, arguments, message):
    arguments = [str(folder / "sst2") if part == "DATA" else part for part in arguments]
    assert message in refusal_of(capsys, "evaluate", folder / "run", *arguments)


def test_words_are_tagged_from_lines(tmp_path, capsys, monkeypatch):
    write_model(tmp_path / "model")
    data = write_conll(tmp_path / "ner")
    assert main(command("conll2003", data, tmp_path / "model", tmp_path / "run", "epochs=1")) == 0
    lines_in(monkeypatch, b"ann is in rome\ngood\n")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run")]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["text"], len(one["predicted"])) for one in told] == [("ann is in rome", 4), ("good", 1)]


def test_questions_are_answered_from_json_lines(tmp_path, capsys, monkeypatch):
    """As those of a file; ids may be missing or equal, and a line that is none is named."""
    write_model(tmp_path / "model")
    data = write_squad(tmp_path / "squad", "1.1")
    short = ("epochs=1", "max_query_length=4")
    assert main(command("squad1", data, tmp_path / "model", tmp_path / "run", *short)) == 0
    known = read_lines(tmp_path / "run" / "predictions" / "dev.jsonl")
    asked = [
        {"question": entry["qas"][0]["question"], "context": entry["context"], "id": "same"}
        for article in json.loads((data / "dev-v1.1.json").read_text())["data"]
        for entry in article["paragraphs"]
    ]
    del asked[2]["id"]
    lines_in(monkeypatch, "\n".join(map(json.dumps, asked)).encode())
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run")]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["predicted"] for one in told] == [record["predicted"] for record in known]
    assert [one["id"] for one in told[:4]] == ["same", "same", "3", "same"]
    asked.append(asked[0] | {"is_impossible": False})  # switched "no answer" on for every line
    lines_in(monkeypatch, "\n".join(map(json.dumps, asked)).encode())
    assert main(["predict", str(tmp_path / "run")]) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert again[:-1] == told
    assert again[-1]["candidates"] == told[0]["candidates"]
    lines_in(monkeypatch, b'{"question": "who?", "context": "ann"}\n\n{"question": "who?"}\n')
    assert "bert-jax predict: line 3 has no 'context'" in refusal_of(capsys, "predict", tmp_path / "run")
