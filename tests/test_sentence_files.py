# SPDX-License-Identifier: Apache-2.0
"""Directories as sentence-transformers has them: read with their pooling, written so that it gives the vectors of `embed`."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import real_data
from conversion_samples import KINDS, PRETRAINING, VOCABULARY, write_hugging_face, write_own_run
from made_up_runs import passport

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.conversion.card import _licence
from bert_jax.conversion.convert import convert
from bert_jax.conversion.names import shape_of
from bert_jax.conversion.own_format import config_for, write_run
from bert_jax.conversion.sentence_files import read_sentence_files, SentenceVectors, Served
from bert_jax.tokenization import load_tokenizer, WordPieceTokenizer
from bert_jax.use.embedding import embed, EmbedSettings

PEER_PYTHON = "BERT_JAX_PEER_PYTHON"  # a Python with torch, transformers and sentence-transformers
TEXTS = ["a b c", "the of the", "z", "the quick brown fox of the a b c"]


def write_modules(folder: Path, *kinds: str, longest: int | None = None, **flags: bool) -> Path:
    """The files as sentence-transformers 2 writes them; `flags` by the last part of their names."""
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    modules = [
        {"idx": n, "name": str(n), "path": paths[kind], "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    values = {"word_embedding_dimension": 24} | {f"pooling_mode_{name}": value for name, value in flags.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values))
    if longest is not None:
        (folder / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": longest, "do_lower_case": False})
        )
    return folder


def embedded(model: Path, folder: Path, *options: str) -> np.ndarray:
    """Vectors of TEXTS by `bert-jax embed`."""
    (folder / "lines.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    output = folder / f"vectors-{model.name}{''.join(options)}.npz"
    assert main(["embed", str(model), "--input", str(folder / "lines.txt"), "--output", str(output), *options]) == 0
    return np.load(output)["embeddings"]


def test_what_a_directory_says_is_followed_and_said(tmp_path, capsys):
    folder = write_hugging_face(tmp_path / "model", PRETRAINING)
    write_modules(folder, "Transformer", "Pooling", "Normalize", mean_tokens=False, max_tokens=True)
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    model = bert_jax.load(folder)
    hidden = [model.encode([text]).sequence_output[0] for text in TEXTS]
    largest = np.stack([tokens.max(0) for tokens in hidden])
    lengths = np.sqrt((largest**2).sum(1, keepdims=True))
    np.testing.assert_allclose(embedded(folder, tmp_path), largest / lengths, rtol=0, atol=1e-5)
    said = capsys.readouterr().err
    assert f"{folder / 'modules.json'} says: max pooling, normalised" in said
    assert "sentence-transformers would lower-case every text first" in said
    np.testing.assert_allclose(embedded(folder, tmp_path, "--no-normalize"), largest, rtol=0, atol=1e-5)
    mean = np.stack([tokens.mean(0) for tokens in hidden])
    found = embedded(folder, tmp_path, "--no-normalize", "--pooling", "mean")
    np.testing.assert_allclose(found, mean, rtol=0, atol=1e-5)


def test_texts_are_as_long_as_the_directory_says(tmp_path, capsys):
    """sentence-transformers would cut them in silence."""
    folder = write_hugging_face(tmp_path / "model", PRETRAINING)
    write_modules(folder, "Transformer", "Pooling", mean_tokens=True, longest=8)
    (tmp_path / "lines.txt").write_text("a b c d e f g h\n")
    command = ["embed", str(folder), "--input", str(tmp_path / "lines.txt"), "--output", str(tmp_path / "x.npz")]
    assert main(command) == 2
    assert f"is 10 tokens long, and {folder} says that 8 are read: shorten it, or give" in capsys.readouterr().err
    assert main([*command, "--pooling", "cls", "--normalize"]) == 2  # which say nothing of lengths
    assert "says that 8 are read" in capsys.readouterr().err
    assert main([*command, "--too-long", "truncate"]) == 0
    assert "1 of them cut to 8 tokens" in capsys.readouterr().out
    vectors = np.load(tmp_path / "x.npz")["embeddings"]
    expected, _ = embed(["a b c d e f"], bert_jax.load(folder), EmbedSettings())
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kinds", "flags", "said"),
    [
        (("Transformer", "Pooling", "Dense"), {"mean_tokens": True}, "made by Transformer, Pooling, Dense, and only"),
        (("Transformer", "Pooling"), {"lasttoken": True}, "pools by last token, and only mean, cls, max"),
        (("Transformer", "Pooling"), {"mean_tokens": True, "cls_token": True}, "pools by mean and cls"),
        (("Transformer", "Pooling"), {}, "pools by nothing"),
    ],
)
def test_vectors_that_are_made_otherwise_are_refused(tmp_path, kinds, flags, said):
    folder = write_hugging_face(tmp_path / "model", PRETRAINING)
    write_modules(folder, *kinds, **flags)
    with pytest.raises(UserError, match=said):
        read_sentence_files(folder)
    with pytest.raises(UserError, match=said):
        convert(folder, tmp_path / "no", "huggingface")
    if kinds == ("Transformer", "Pooling"):
        assert read_sentence_files(folder, Served("cls")) == SentenceVectors("cls", False, None)
    served = Served("cls", normalize=True)
    assert convert(folder, tmp_path / "result", "huggingface", served=served).holds
    assert read_sentence_files(tmp_path / "result") == SentenceVectors("cls", True, 20)


def test_broken_files_are_named(tmp_path):
    folder = write_hugging_face(tmp_path / "model", PRETRAINING)
    write_modules(folder, "Transformer", "Pooling", mean_tokens=True, longest=1)
    with pytest.raises(UserError, match=r"sentence_bert_config\.json holds other values .*max_seq_length=1"):
        read_sentence_files(folder)
    (folder / "modules.json").write_text("[1]")
    with pytest.raises(UserError, match=r"modules\.json holds other values"):
        read_sentence_files(folder)


def test_a_result_makes_vectors_as_its_source(tmp_path):
    """From ours as `embed` does, or as asked; from such a directory as it says, through another format too."""
    write_own_run(tmp_path / "run")
    assert convert(tmp_path / "run", tmp_path / "a", "huggingface").holds
    assert read_sentence_files(tmp_path / "a") == SentenceVectors("mean", False, 16)  # rows of the run have 16 tokens
    assert json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())["model_max_length"] == 16
    served = Served("cls", normalize=True)
    assert convert(tmp_path / "run", tmp_path / "b", "huggingface", served=served).holds
    assert read_sentence_files(tmp_path / "b") == SentenceVectors("cls", True, 16)
    assert convert(tmp_path / "b", tmp_path / "c", "huggingface").holds
    assert read_sentence_files(tmp_path / "c") == SentenceVectors("cls", True, 16)
    for name in ("tokenizer.json", "special_tokens_map.json", "vocab.txt", "README.md"):
        assert (tmp_path / "c" / name).is_file()


def test_another_pooling_is_another_conversion(tmp_path, capsys):
    source = write_hugging_face(tmp_path / "source", KINDS["encoder"])
    command = ["convert", str(source), str(tmp_path / "result"), "--to", "huggingface"]
    assert main([*command, "--pooling", "max"]) == 0
    assert main([*command, "--pooling", "max"]) == 0
    assert "holds this conversion already" in capsys.readouterr().out
    assert main([*command, "--pooling", "cls"]) == 2
    assert "holds another conversion (served differ)" in capsys.readouterr().err
    (tmp_path / "result" / "1_Pooling" / "config.json").write_text("{}")
    assert main([*command, "--pooling", "max"]) == 2
    assert "1_Pooling/config.json was changed since" in capsys.readouterr().err


def test_what_makes_no_vectors_has_none(tmp_path):
    tagger = write_hugging_face(tmp_path / "tagger", KINDS["tagging"])
    assert convert(tagger, tmp_path / "result", "huggingface").holds
    assert not (tmp_path / "result" / "modules.json").exists()
    with pytest.raises(UserError, match=r"--pooling is of vectors of sentences, and .* has a head for tagging"):
        convert(tagger, tmp_path / "no", "huggingface", served=Served("mean"))
    plain = write_hugging_face(tmp_path / "plain", PRETRAINING)
    with pytest.raises(UserError, match=r"--normalize is of vectors of sentences, and .* is written for tf1"):
        convert(plain, tmp_path / "no", "tf1", served=Served(normalize=True))


ENCODE = """
import json, sys, numpy, sentence_transformers
model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
numpy.save(sys.argv[3], model.encode(json.load(open(sys.argv[2]))))
"""


def peer_vectors(model: Path, folder: Path) -> np.ndarray:
    """Vectors of TEXTS by sentence-transformers."""
    python = os.environ.get(PEER_PYTHON)
    if python is None or subprocess.run([python, "-c", "import sentence_transformers"], capture_output=True).returncode:
        pytest.skip(f"{PEER_PYTHON} does not name a Python with sentence-transformers")
    (folder / "texts.json").write_text(json.dumps(TEXTS))
    command = [python, "-c", ENCODE, str(model), str(folder / "texts.json"), str(folder / "theirs.npy")]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return np.load(folder / "theirs.npy")


@pytest.mark.parametrize("served", [Served(), Served("cls", normalize=True), Served("max")])
def test_sentence_transformers_gives_the_same_vectors(tmp_path, served):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    assert convert(source, tmp_path / "result", "huggingface", served=served).holds
    theirs = peer_vectors(tmp_path / "result", tmp_path)
    np.testing.assert_allclose(embedded(tmp_path / "result", tmp_path), theirs, rtol=0, atol=1e-5)


def test_of_published_weights_too(tmp_path):
    """all-MiniLM-L6-v2, as it was published and as it is written again."""
    published = real_data("all-minilm-l6-v2")
    theirs = peer_vectors(published, tmp_path)
    np.testing.assert_allclose(embedded(published, tmp_path), theirs, rtol=0, atol=1e-5)
    assert convert(published, tmp_path / "again", "huggingface").holds
    np.testing.assert_allclose(peer_vectors(tmp_path / "again", tmp_path), theirs, rtol=0, atol=1e-6)


# ---- the card ------------------------------------------------------------------------------------------------------


def front_matter(folder: Path) -> dict:
    """The front matter, by a reader of YAML that is not ours."""
    yaml = pytest.importorskip("yaml")
    _, matter, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter)


def test_a_card_says_what_is_recorded(tmp_path):
    """Of the data its licence and figures, of the model that the run began with its name, of the conversion its proof."""
    write_own_run(tmp_path / "run")
    data = passport(lambda made: made.update(tokenizer=load_tokenizer(tmp_path / "run").fingerprint))
    (tmp_path / "run" / "passport.json").write_text(json.dumps(data))
    began = {"path": "/somewhere/MiniLM", "summary": "6 layers", "longest": 20, "drawn": ["mlm"]}
    (tmp_path / "run" / "source.json").write_text(json.dumps(began))
    assert convert(tmp_path / "run", tmp_path / "result", "huggingface").holds
    front = front_matter(tmp_path / "result")
    assert (front["license"], front["base_model"]) == ("cc-by-sa-3.0", "MiniLM")
    assert (front["library_name"], front["pipeline_tag"]) == ("sentence-transformers", "fill-mask")
    assert "language" not in front, "nothing is recorded of it"
    text = (tmp_path / "result" / "README.md").read_text()
    for said in ("| wiki | 1.0 | 21,000 | 63,000,000 |", "Latin 100.0%", "drawn anew: mlm", "certificate holds"):
        assert said in text
    assert json.loads((tmp_path / "result" / "tokenizer_config.json").read_text())["model_max_length"] == 20


@pytest.mark.parametrize(
    ("licence", "front"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("as the owner says", {"license": "other", "license_name": "as the owner says"}),
        ("", {}),
    ],
)
def test_a_licence_is_named_as_the_hub_names_it(licence, front):
    assert _licence(licence) == front


def test_scores_of_a_fine_tuned_model_are_in_its_card(tmp_path):
    head = KINDS["classification"]
    folder = tmp_path / "run"
    WordPieceTokenizer(VOCABULARY, lowercase=True).save(folder)
    write_run(folder, head, lambda row: np.ones(shape_of(row, head), np.float32), config_for(head))
    record = {
        "task": {"name": "sst2"}, "title": "SST-2", "kind": "classification", "metrics": ["accuracy"], "settings": {},
        "source": {"path": "/models/bert-base", "from_scratch": False}, "total_steps": 3, "labels": [],
    }  # fmt: skip
    (folder / "finetune.json").write_text(json.dumps(record))
    scores = {"scores": {"dev": {"accuracy": 0.925}}, "main": {"split": "dev", "metric": "accuracy", "value": 0.925}}
    (folder / "scores.json").write_text(json.dumps(scores))
    certificate = convert(folder, tmp_path / "result", "huggingface")
    assert certificate.holds, certificate.lines()
    front = front_matter(tmp_path / "result")
    (result,) = front["model-index"][0]["results"]
    assert (front["pipeline_tag"], front["base_model"]) == ("text-classification", "bert-base")
    assert result["metrics"] == [{"type": "accuracy", "value": 0.925}]
    assert result["dataset"]["name"] == "SST-2"
    assert "| dev | accuracy | 0.925 |" in (tmp_path / "result" / "README.md").read_text()
    assert not (tmp_path / "result" / "modules.json").exists()


def test_a_card_of_the_source_is_kept(tmp_path):
    source = write_hugging_face(tmp_path / "source", PRETRAINING)
    (source / "README.md").write_text("---\nlicense: mit\n---\nTheir own words.\n")
    certificate = convert(source, tmp_path / "result", "huggingface")
    assert "README.md of the source is kept as it is" in certificate.notes
    assert (tmp_path / "result" / "README.md").read_bytes() == (source / "README.md").read_bytes()
