# SPDX-License-Identifier: Apache-2.0
"""ONNX and StableHLO: run by ONNX Runtime and by the loader that is written, against the NumPy referee of conversions.

Also: what a format has no place for, and int8 that fails its gate.
"""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from conftest import refusal_of
from conversion_samples import KINDS, MODEL, VOCABULARY, write_hugging_face
from finetune_samples import command, write_model, write_sst2
from test_sentence_files import embedded, TEXTS, write_modules

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.description import ModelDescription, TaskHead
from bert_jax.conversion import numpy_bert
from bert_jax.conversion.certificate import example_inputs
from bert_jax.conversion.checkpoints import open_checkpoint
from bert_jax.conversion.names import shape_of
from bert_jax.conversion.own_format import config_for, write_run
from bert_jax.conversion.sentence_files import read_sentence_files, SentenceVectors, Served
from bert_jax.export.export import certify, export
from bert_jax.export.purpose import purpose_of, require_single_rows, trimmed
from bert_jax.export.runtime import OnnxModel
from bert_jax.export.stablehlo import StableHloModel
from bert_jax.tokenization import WordPieceTokenizer

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# (kind of checkpoint, what for, pooling) -> our names of the referee's outputs
CASES = [
    ("pretraining", "embed", None),
    ("pretraining, erf", "embed", "cls"),
    ("pretraining", "embed", "max"),
    ("encoder and pooler", "embed", "pooled"),
    ("pretraining", "fill-mask", None),
    ("untied", "fill-mask", None),
    ("mlm", "fill-mask", None),
    ("classification", None, None),
    ("regression", None, None),
    ("choice", None, None),
    ("span", None, None),
    ("tagging", None, None),
]


def referee(folder, inputs):
    """The outputs of the checkpoint by the forward pass in NumPy, which shares nothing with the graph nor with our model."""
    opened = open_checkpoint(folder)
    task = opened.description.task
    return numpy_bert.forward(
        opened.tensors, "hugging_face", opened.description.model, inputs, task=task.kind if task else None
    )


def expected_outputs(found, purpose, pooling, kind, mask):
    """What an export of that kind must give, by its own names."""
    if purpose == "embed":
        tokens = found["sequence_output"]
        weights = mask[:, :, None]
        sentence = {
            "mean": (tokens * weights).sum(1) / weights.sum(1),
            "cls": tokens[:, 0],
            "max": np.where(weights > 0, tokens, -np.inf).max(1),
            "pooled": found.get("pooled_output"),
        }[pooling or "mean"]
        return {"last_hidden_state": tokens, "sentence_embedding": sentence}
    if purpose == "fill-mask":
        pairs = {"seq_relationship_logits": found["nsp_logits"]} if "nsp_logits" in found else {}
        return {"logits": found["mlm_logits"], **pairs}
    if kind == "span":
        return {"start_logits": found["task_logits"][..., 0], "end_logits": found["task_logits"][..., 1]}
    return {"logits": found["task_logits"]}


def assert_close(outputs, wanted, mask):
    assert outputs.keys() == wanted.keys()
    for name, value in outputs.items():
        by_tokens = wanted[name].shape[:2] == mask.shape and name not in ("sentence_embedding",)
        ours, theirs = (side[mask == 1] if by_tokens else side for side in (value, wanted[name]))
        np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("kind", "purpose", "pooling"), CASES)
def test_onnx_gives_what_the_referee_does(tmp_path, kind, purpose, pooling):
    write_hugging_face(tmp_path / "model", KINDS[kind])
    exported = export(tmp_path / "model", tmp_path / "out", "onnx", purpose, Served(pooling))
    inputs = dict(example_inputs(MODEL))
    wanted = expected_outputs(
        referee(tmp_path / "model", inputs), exported.purpose.name, pooling, kind, inputs["input_mask"]
    )
    given = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["input_mask"],
        "token_type_ids": inputs["segment_ids"],
    }
    assert_close(OnnxModel(tmp_path / "out" / "model.onnx")(given), wanted, inputs["input_mask"])
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert all(one["holds"] for one in record["differences"])
    assert record["outputs"].keys() == wanted.keys()
    assert {"vocab.txt", "tokenizer.json", "config.json", "model.onnx"} <= record["files"].keys()


@pytest.mark.parametrize(
    ("kind", "purpose", "pooling"),
    [("pretraining", "embed", None), ("pretraining", "fill-mask", None), ("span", None, None)],
)
def test_the_loader_runs_stablehlo_with_jax_and_tokenizers_alone(tmp_path, kind, purpose, pooling):
    """In a process of its own that refuses to import anything of ours, for batches and lengths that no program was made for."""
    write_hugging_face(tmp_path / "model", KINDS[kind])
    exported = export(tmp_path / "model", tmp_path / "out", "stablehlo", purpose, Served(pooling))
    script = """
import sys
for name in ("bert_jax", "flax", "onnx"):
    sys.modules[name] = None
import numpy as np
import load
for number, texts in enumerate([["a b c the of", "z"], [("the a", "of b"), "c", "d e f g"]]):
    rows = load.tokenizer.encode_batch(texts)
    ids = {f"{field}": np.array([getattr(row, field) for row in rows]) for field in ("ids", "attention_mask", "type_ids")}
    np.savez(f"{number}.npz", **load.run(texts), **ids)
try:
    load.run(["a " * 30])
except ValueError:
    pass
else:
    raise SystemExit("a text beyond the positions was taken")
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "out", check=True)
    for number, rows in ((0, 2), (1, 3)):
        outputs = dict(np.load(tmp_path / "out" / f"{number}.npz"))
        ids, mask, segments = (outputs.pop(name) for name in ("ids", "attention_mask", "type_ids"))
        assert len(ids) == rows
        found = referee(tmp_path / "model", {"input_ids": ids, "input_mask": mask, "segment_ids": segments})
        assert_close(outputs, expected_outputs(found, exported.purpose.name, pooling, kind, mask), mask)


def test_the_program_is_for_every_platform(tmp_path):
    import jax.export

    write_hugging_face(tmp_path / "model", KINDS["encoder"])
    assert main(["export", str(tmp_path / "model"), "--to", "stablehlo", "--output", str(tmp_path / "out")]) == 0
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "program.bin").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    assert [str(size) for size in program.in_avals[-1].shape] == ["batch", "sequence"]


def test_a_graph_that_differs_is_refused(tmp_path):
    """The certificate can fail: a model whose segments are swapped."""
    write_hugging_face(tmp_path / "model", KINDS["encoder"])
    export(tmp_path / "model", tmp_path / "out", "onnx")
    session = OnnxModel(tmp_path / "out" / "model.onnx")
    checkpoint = open_checkpoint(tmp_path / "model")
    purpose = purpose_of(checkpoint, None, Served())
    certify(trimmed(checkpoint, purpose), purpose, session)
    with pytest.raises(UserError, match="the exported sequence_output differs from the model's by"):
        certify(
            trimmed(checkpoint, purpose),
            purpose,
            lambda inputs: session({**inputs, "token_type_ids": 1 - np.asarray(inputs["token_type_ids"])}),
        )


@pytest.mark.parametrize(
    ("to", "options", "vectors"),
    [
        ("onnx", [], SentenceVectors("max", True, 12)),
        ("onnx", ["--pooling", "mean"], SentenceVectors("mean", True, 12)),
        ("onnx", ["--pooling", "pooled", "--normalize"], None),
        ("stablehlo", ["--no-normalize"], SentenceVectors("max", False, 12)),
    ],
)
def test_vectors_are_those_of_embed_as_the_directory_says_or_as_asked(tmp_path, capsys, to, options, vectors):
    """From the text on: by the tokenizer and the model that are written, beside `bert-jax embed` with the same options."""
    folder = write_hugging_face(tmp_path / "model", KINDS["pretraining"])
    write_modules(folder, "Transformer", "Pooling", "Normalize", max_tokens=True, longest=12)
    wanted, out = embedded(folder, tmp_path, *options), tmp_path / "out"
    capsys.readouterr()
    assert main(["export", str(folder), "--to", to, "--output", str(out), *options]) == 0
    printed = capsys.readouterr().out
    made, says = vectors or SentenceVectors("pooled", True, 12), "and the options say" if options else "says"
    assert f"{folder / 'modules.json'} {says}: {made}" in printed
    assert f"sentence_embedding is made by {made}, of texts of at most 12 tokens" in printed
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(TEXTS)
    given = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    inputs = {name: np.array([getattr(row, field) for row in rows]) for name, field in given.items()}
    run = OnnxModel(out / "model.onnx") if to == "onnx" else StableHloModel(out)
    np.testing.assert_allclose(run(inputs)["sentence_embedding"], wanted, rtol=0, atol=1e-5)
    record = json.loads((out / "export.json").read_text())
    (found,) = (one for one in record["differences"] if one["output"] == "sentence_embedding")
    assert found["tolerance"] == 1e-5 * max(1, found["largest_value"])
    assert record["vectors"]["pooling"] == (vectors.pooling if vectors else "pooled")
    if to == "onnx":  # what sentence-transformers and servers read beside model.onnx
        assert read_sentence_files(out) == vectors
        longest = json.loads((out / "tokenizer_config.json").read_text())["model_max_length"]
        assert longest == 12


def test_vectors_have_a_tolerance_of_their_own(tmp_path):
    write_hugging_face(tmp_path / "model", KINDS["encoder"])
    export(tmp_path / "model", tmp_path / "out", "onnx", served=Served(normalize=True))
    session, checkpoint = OnnxModel(tmp_path / "out" / "model.onnx"), open_checkpoint(tmp_path / "model")
    purpose = purpose_of(checkpoint, None, Served(normalize=True))

    def moved(inputs):
        found = session(inputs)
        return found | {"sentence_embedding": found["sentence_embedding"] + np.float32(2e-5)}

    with pytest.raises(UserError, match=r"sentence_embedding differs from the model's by 2.*, and at most 1e-05 is"):
        certify(trimmed(checkpoint, purpose), purpose, moved)


# ---- what is refused -----------------------------------------------------------------------------------------------


def write_head(folder, head):
    """A run of ours with that head, and weights of zeros and ones."""
    folder.mkdir()
    description = ModelDescription(MODEL, mlm=False, nsp=False, task=head)
    WordPieceTokenizer(VOCABULARY, lowercase=True).save(folder)
    write_run(
        folder,
        description,
        lambda row: np.full(shape_of(row, description), row.ours.endswith("scale"), np.float32),
        config_for(description),
        0,
        None,
    )
    return folder


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (TaskHead("classification", 2, layers=(-1, -2)), "layers=[-1, -2]"),
        (TaskHead("tagging", 2, lstm=8), "lstm=8"),
    ],
)
def test_a_head_that_the_format_does_not_know_is_refused_by_name(tmp_path, capsys, head, named):
    run = write_head(tmp_path / "run", head)
    said = refusal_of(capsys, "export", run, "--to", "onnx", "--output", tmp_path / "out")
    assert f"its head for {head.kind} is more than a dense layer" in said
    assert named in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_stablehlo_takes_every_head(tmp_path):
    """It is our own program: a BiLSTM too."""
    run = write_head(tmp_path / "run", TaskHead("tagging", 2, lstm=8))
    exported = export(run, tmp_path / "out", "stablehlo")
    assert [one.output for one in exported.differences] == ["task_logits"]


def test_a_head_that_fuses_windows_is_refused_by_name(tmp_path):
    description = ModelDescription(MODEL, mlm=False, nsp=False, task=TaskHead("classification", 2))
    with pytest.raises(UserError, match=r"fuses the windows of a text \(too_long=windows, fusion=mean\)"):
        require_single_rows(tmp_path, description, "windows")
    require_single_rows(tmp_path, description, "truncate")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("encoder", ["--for", "fill-mask"], "--for fill-mask: "),
        ("encoder", ["--for", "predict"], "--for predict: "),
        ("encoder", ["--pooling", "pooled"], "this checkpoint has no pooler"),
        ("left to right", ["--for", "fill-mask"], "a left-to-right model is not exported: bert-jax convert"),
        ("tagging", ["--pooling", "cls"], "--pooling cls is of embeddings"),
        ("tagging", ["--no-normalize"], "--normalize is of embeddings"),
        ("encoder", ["--int8"], "--int8 needs --data"),
        ("encoder", ["--int8", "--data", "EMPTY"], "has no text"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path, capsys, kind, options, message):
    kinds = KINDS | {"left to right": ModelDescription(replace(MODEL, causal=True), pooler=False, nsp=False)}
    write_hugging_face(tmp_path / "model", kinds[kind])
    (tmp_path / "EMPTY").write_text("\n")
    options = [str(tmp_path / part) if part == "EMPTY" else part for part in options]
    error = refusal_of(capsys, "export", tmp_path / "model", "--to", "onnx", "--output", tmp_path / "out", *options)
    assert message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMPTY", "model"]


# ---- int8 ----------------------------------------------------------------------------------------------------------


def test_int8_of_embeddings_is_measured_and_refused_beyond_the_stated_loss(tmp_path, capsys):
    write_hugging_face(tmp_path / "model", KINDS["encoder"])
    (tmp_path / "text").write_text(f"a b c\nthe of d\n\n{'x y z ' * 9}\n")  # the last is beyond the positions
    options = ["--to", "onnx", "--output", str(tmp_path / "out"), "--int8", "--data", str(tmp_path / "text")]
    error = refusal_of(capsys, "export", tmp_path / "model", *options, "--loss", "1e-9")
    assert "nothing was written; leave out --int8" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "text"]
    assert main(["export", str(tmp_path / "model"), *options, "--loss", "0.1"]) == 0
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["weights"] == "int8"
    assert record["quality"]["examples"] == 3
    assert record["quality"]["measure"] == "mean cosine to the float32 vectors, 1 of the texts cut"
    assert 1e-9 < record["quality"]["loss"] < 0.1
    assert b"MatMulInteger" in (tmp_path / "out" / "model.onnx").read_bytes()


def test_int8_of_a_fine_tuned_run_is_held_to_its_score(tmp_path, capsys):
    """The run decides by one word; the float32 graph gives its predictions to the last, int8 keeps its score."""
    write_model(tmp_path / "model")
    write_sst2(tmp_path / "sst2", train=96)
    assert main(command("sst2", tmp_path / "sst2", tmp_path / "model", tmp_path / "run", "epochs=8")) == 0
    score = json.loads((tmp_path / "run" / "scores.json").read_text())["main"]["value"]
    options = ["--to", "onnx", "--output", str(tmp_path / "out"), "--int8", "--data", str(tmp_path / "sst2")]
    assert main(["export", str(tmp_path / "run"), *options, "--loss", "0.2"]) == 0
    quality = json.loads((tmp_path / "out" / "export.json").read_text())["quality"]
    assert (quality["measure"], quality["before"]) == ("accuracy of dev", score)
    assert quality["after"] >= score - 0.2
    capsys.readouterr()
    (tmp_path / "sst2" / "dev.tsv").rename(tmp_path / "sst2" / "test.tsv")
    assert (
        main(["export", str(tmp_path / "run"), *options[:3], str(tmp_path / "other"), *options[4:], "--split", "none"])
        == 2
    )
    assert "has no split none" in capsys.readouterr().err
    assert not list(tmp_path.glob("other*"))
