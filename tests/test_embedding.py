# SPDX-License-Identifier: Apache-2.0
"""`bert-jax embed`: what a vector is made of, and the files."""

import gzip
import json

import numpy as np
import pytest
from conftest import refusal_of
from conversion_samples import KINDS, PRETRAINING, sample_weights, write_hugging_face

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.use import embedding
from bert_jax.use.embedding import embed, EmbedSettings

TEXTS = ["a b c", "", "the of the", "z"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hugging_face(tmp_path_factory.mktemp("models") / "huggingface", PRETRAINING)


@pytest.fixture(scope="module")
def model(folder):
    return bert_jax.load(folder)


def all_layers(model, text: str) -> np.ndarray:
    """[L + 1, S, D] of one text without padding."""
    ids, segments = model.ids(text)
    row = {"input_ids": ids, "segment_ids": segments, "sequence_ids": [1] * len(ids), "position_ids": range(len(ids))}
    fields = {name: np.array([list(values)], np.int32) for name, values in row.items()}
    fields |= {"cls_positions": np.zeros((1, 1), np.int32), "masked_lm_positions": np.zeros((1, 1), np.int32)}
    return np.asarray(model(fields, all_layers=True).encoder.all_layers)[:, 0]


EXPECTED = {
    "mean of the last": (EmbedSettings(), lambda layers: layers[-1].mean(0)),
    "first token": (EmbedSettings(pooling="cls"), lambda layers: layers[-1][0]),
    "two layers side by side": (
        EmbedSettings(layers=(-2, -1)),
        lambda layers: np.concatenate([layers[-2].mean(0), layers[-1].mean(0)]),
    ),
    "sum with the embeddings": (
        EmbedSettings(pooling="cls", layers=(0, 2), combine="sum"),
        lambda layers: layers[0][0] + layers[2][0],
    ),
    "mean of layers": (EmbedSettings(layers=(1, 2), combine="mean"), lambda layers: layers[1:3].mean((0, 1))),
}


@pytest.mark.parametrize(("settings", "expected"), EXPECTED.values(), ids=EXPECTED)
def test_a_vector_is_what_it_says(model, settings, expected):
    vectors, cut = embed(TEXTS, model, settings)
    assert cut == 0
    for text, vector in zip(TEXTS, vectors, strict=True):
        np.testing.assert_allclose(vector, expected(all_layers(model, text)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last", "pooled"])
def test_texts_that_share_rows_have_the_vectors_that_they_have_alone(model, monkeypatch, pooling):
    """Three batches of rows of 16 tokens, several texts in each; a text of more than 8 has a row by itself."""
    monkeypatch.setattr(embedding, "_WIDTH", 16)
    monkeypatch.setattr(embedding, "TOKENS_AT_ONCE", 64)
    texts = ["a b c" if number % 3 else "the of the z " * (1 + number % 4) for number in range(40)] + [""]
    settings = EmbedSettings(pooling=pooling, layers=(-1,) if pooling == "pooled" else (-2, -1))
    packed = list(embedding._batches(embedding.rows_of(texts, model, settings)[0], model))
    assert sum(batch.fields["cls_positions"].shape[1] > 1 for batch in packed) > 1
    assert packed[-1].fields["cls_positions"].shape[1] == 1
    vectors, _ = embed(texts, model, settings)
    alone = np.stack([embed([text], model, settings)[0][0] for text in texts])
    np.testing.assert_allclose(vectors, alone, rtol=0, atol=1e-5)


def test_pooled_is_the_pooler(model):
    vectors, _ = embed(TEXTS, model, EmbedSettings(pooling="pooled"))
    np.testing.assert_allclose(vectors, model.encode(TEXTS).pooled_output, rtol=0, atol=1e-6)


def test_shards_hold_what_one_file_holds(tmp_path, folder, monkeypatch):
    """Line n is vector n, whatever the blocks and the shards are."""
    monkeypatch.setattr(embedding, "_BLOCK", 3)
    lines = [" ".join("abc"[: number % 3 + 1] * (1 + number % 5)) for number in range(11)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    command = ["embed", str(folder), "--input", str(tmp_path / "lines.txt"), "--dtype", "float16", "--output"]
    assert main([*command, str(tmp_path / "all.npz")]) == 0
    assert main([*command, str(tmp_path / "shards"), "--shard-vectors", "4"]) == 0
    whole = np.load(tmp_path / "all.npz")["embeddings"]
    record = json.loads((tmp_path / "shards" / "embeddings.json").read_text())
    shards = [np.load(tmp_path / "shards" / shard["file"]) for shard in record["shards"]]
    assert [len(shard) for shard in shards] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(shards), whole)
    assert (whole.dtype, whole.shape, record["texts"]) == (np.float16, (11, 24), 11)
    alone = bert_jax.load(folder)
    np.testing.assert_allclose(
        whole[4], embed([lines[4]], alone, EmbedSettings())[0][0], atol=2e-3
    )  # float16 in the file
    assert main([*command, str(tmp_path / "all.npz")]) == 0, "the same again is recognised"
    (tmp_path / "lines.txt").write_text("another line\n")
    assert main([*command, str(tmp_path / "all.npz")]) == 2
    np.testing.assert_array_equal(np.load(tmp_path / "all.npz")["embeddings"], whole)


def test_long_texts_are_refused_or_cut_and_counted(model):
    texts = ["a", "b " * 30]
    with pytest.raises(UserError, match=r"is 32 tokens long, and the model has 20 positions: .*--too-long truncate"):
        embed(texts, model, EmbedSettings())
    vectors, cut = embed(texts, model, EmbedSettings(too_long="truncate"))
    assert cut == 1
    np.testing.assert_allclose(vectors[1], embed(["b " * 18], model, EmbedSettings())[0][0], rtol=0, atol=1e-6)


def test_a_line_that_is_too_long_is_named_by_its_number(tmp_path, folder, monkeypatch, capsys):
    """Whichever block of lines it is in."""
    monkeypatch.setattr(embedding, "_BLOCK", 2)
    (tmp_path / "lines.txt").write_text("a\nb\nc\n" + "b " * 30 + "\n")
    error = refusal_of(capsys, "embed", folder, "--input", tmp_path / "lines.txt", "--output", tmp_path / "x.npz")
    assert "lines.txt, line 4: 'b b b" in error


def test_an_empty_file_is_a_file_that_is_there(tmp_path, folder, capsys):
    """NumPy has an exception of its own for one."""
    (tmp_path / "lines.txt").write_text("a\n")
    (tmp_path / "empty.npz").touch()
    command = ["embed", str(folder), "--input", str(tmp_path / "lines.txt"), "--output", str(tmp_path / "empty.npz")]
    assert "is there already: choose another --output" in refusal_of(capsys, *command)


def test_what_was_cut_off_is_begun_anew_and_what_is_whole_is_kept(tmp_path, folder, capsys):
    """A directory without its record holds the shards of a start that was killed; nothing else is removed, ever."""
    (tmp_path / "lines.txt").write_text("a\nb\nc\n")
    output = tmp_path / "shards"
    command = ["embed", str(folder), "--input", str(tmp_path / "lines.txt"), "--output", str(output)]
    output.mkdir()
    for name in ("embeddings-00000.npy", "embeddings-00007.npy", "embeddings-00008.npy.partial"):
        (output / name).write_bytes(b"of an earlier start")
    assert main(command) == 0
    assert "shards was cut off before its end: begun anew" in capsys.readouterr().err
    assert sorted(file.name for file in output.iterdir()) == ["embeddings-00000.npy", "embeddings.json"]
    whole = (output / "embeddings-00000.npy").read_bytes()
    assert main(command) == 0
    assert "holds these vectors already: 3 of 24" in capsys.readouterr().out
    assert "is there already: choose another --output" in refusal_of(capsys, *command, "--pooling", "cls")
    assert (output / "embeddings-00000.npy").read_bytes() == whole
    (output / "embeddings-00000.npy").write_bytes(whole[:-1] + b"\x01")
    assert "embeddings-00000.npy was changed since it was made" in refusal_of(capsys, *command)
    (output / "embeddings-00000.npy").write_bytes(whole)
    (output / "embeddings.json").rename(output / "mine.json")
    assert main(command) == 2
    assert (output / "embeddings-00000.npy").read_bytes() == whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EmbedSettings(layers=(3,)), r"--layers 3: the model has layers 1 to 2"),
        (EmbedSettings(pooling="pooled", layers=(1,)), "--pooling pooled stands on the last layer"),
        (EmbedSettings(shard_size=0), "--shard-vectors 0 must be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model, settings, message):
    with pytest.raises(UserError, match=message):
        embedding.check(settings, model)


def test_what_float16_does_not_hold_is_refused(tmp_path):
    weights = sample_weights(PRETRAINING)
    weights["bert.encoder.layer.1.output.LayerNorm.weight"][:] = 1e6
    model = bert_jax.load(write_hugging_face(tmp_path / "large", PRETRAINING, weights))
    assert embed(["a b"], model, EmbedSettings())[0].max() > 1e5
    with pytest.raises(UserError, match=r"--dtype float16: a vector holds \d.*: give --dtype float32"):
        embed(["a b"], model, EmbedSettings(dtype="float16"))


def test_no_pooler_no_pooled_vectors(tmp_path):
    model = bert_jax.load(write_hugging_face(tmp_path / "encoder", KINDS["encoder"]))
    with pytest.raises(UserError, match="has no pooler"):
        embedding.check(EmbedSettings(pooling="pooled"), model)


def test_a_line_that_is_not_utf_8_is_named(tmp_path, folder, capsys):
    (tmp_path / "lines.txt").write_bytes(b"a\nb\xff\n")
    error = refusal_of(capsys, "embed", folder, "--input", tmp_path / "lines.txt", "--output", tmp_path / "x")
    assert "lines.txt, line 2: is not UTF-8 at its byte 1" in error


def test_lines_are_read_as_everywhere(tmp_path, folder, capsys):
    """Packed files, byte order marks and ends of Windows' lines; an empty line keeps its vector; other encodings."""
    plain, packed = tmp_path / "plain.txt", tmp_path / "packed.txt"
    plain.write_bytes(b"a b\n\nc\n")
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbfa b\r\n\r\nc\r\n"))
    vectors = []
    for path in (plain, packed):
        output = tmp_path / f"{path.stem}.npz"
        assert main(["embed", str(folder), "--input", str(path), "--output", str(output)]) == 0
        vectors.append(np.load(output)["embeddings"])
    assert len(vectors[0]) == 3
    np.testing.assert_array_equal(*vectors)
    plain.write_bytes("a".encode("utf-16"))
    error = refusal_of(capsys, "embed", folder, "--input", plain, "--output", tmp_path / "x")
    assert "plain.txt is UTF-16: convert it" in error
