# SPDX-License-Identifier: Apache-2.0
"""`bert-jax senses`: marks, cosines and principal components by hand, vectors beside another reader, and what is refused."""

import json

import numpy as np
import pytest
from conftest import refusal_of, run_stage
from finetune_samples import VOCABULARY, write_model

import bert_jax
from bert_jax.base.errors import UserError
from bert_jax.use import senses
from bert_jax.use.senses import cosines, likeness, marked_line, principal_components, read_marked

LINES = [
    "the *film* was good .\tone",
    "a good *film* .\tone",
    "the *film* is bad\ttwo",
    "a bad *film* and a plot .\ttwo",
    "the *actor* was good .\tone",
    "a bad *actor* .\ttwo",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("senses") / "model")


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.tsv"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def test_a_mark_is_taken_out():
    line = marked_line("We sat on the *Bank* of the river.\triver ", "here")
    assert (line.text, line.word, line.sense) == ("We sat on the Bank of the river.", "bank", "river")
    assert line.text[line.begin : line.end] == "Bank"
    assert marked_line("放下*包袱*。", "here").word == "包袱"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no mark here", "has no word marked"),
        ("*one* and *two*\ta", "4 signs"),
        ("only *one", "1 signs"),
        ("an *empty* sense\t ", "empty sense"),
        ("**", "2 signs"),
    ],
)
def test_marks_that_are_refused(text, message):
    with pytest.raises(UserError, match=message) as error:
        marked_line(text, "lines.txt, line 3")
    assert str(error.value).startswith("lines.txt, line 3: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a *b* c\tone\na *b*\tone\n", r"all 2 lines with \*b\* have the sense one"),
        ("a *b* c\tone\na *b*\n", "line 2: has no sense, and 1 other lines have one"),
        ("a *b* c\n", r"the only line with \*b\*"),
        ("\n\n", "has no lines"),
    ],
)
def test_files_that_are_refused(tmp_path, text, message):
    (tmp_path / "lines").write_text(text)
    with pytest.raises(UserError, match=message):
        read_marked(tmp_path / "lines")


def test_cosines_by_hand():
    """Two lines of sense a at right angles, one of b along the first; another word opposite to it."""
    vectors = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])
    found = likeness(cosines(vectors), ["w", "w", "w", "v"], ["a", "a", "b", "b"], "w")
    assert found.within == pytest.approx(0)
    assert found.between == pytest.approx(0.5)  # 1 and 0
    assert found.others == pytest.approx(-2 / 3)  # -1, 0, -1
    assert found.nearest == 1  # the second line is as near to both: the first of them, of its sense
    without = likeness(cosines(vectors), ["w"] * 4, [None] * 4, "w")
    assert (without.between, without.others, without.nearest) == (None, None, None)
    assert without.within == pytest.approx((0 + 1 - 1 + 0 + 0 - 1) / 6)


def test_principal_components_are_those_of_the_covariance():
    """By the eigenvectors of the covariance, up to sign; the sign is always the same one."""
    vectors = np.random.default_rng(0).normal(size=(12, 5)) * [5, 3, 1, 1, 1]
    places, shares = principal_components(vectors)
    values, axes = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum())
    expected = (vectors - vectors.mean(0)) @ axes[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-9)
    again, _ = principal_components(vectors[::-1])
    np.testing.assert_allclose(again[::-1], places, atol=1e-9)


def test_of_two_lines_there_is_one_component():
    places, shares = principal_components(np.array([[0.0, 1.0], [0.0, 3.0]]))
    np.testing.assert_allclose(np.abs(places), [[1, 0], [1, 0]], atol=1e-12)
    np.testing.assert_allclose(shares, [1, 0])


def test_vectors_are_those_of_the_words_pieces(model, lines):
    """The last layer beside `encode`; the static one beside the table, the mean over two pieces."""
    loaded = bert_jax.load(model)
    read = [*read_marked(lines), marked_line("a good *actors* .", "here")]
    static, vectors = senses.word_vectors(loaded, read)
    table = np.asarray(loaded.params["encoder"]["embeddings"]["word"])
    film = VOCABULARY.index("film")
    np.testing.assert_array_equal(static[0], table[film])
    np.testing.assert_allclose(
        static[-1], (table[VOCABULARY.index("actor")] + table[VOCABULARY.index("##s")]) / 2, rtol=1e-6
    )
    outputs = loaded.encode([line.text for line in read]).sequence_output
    np.testing.assert_allclose(vectors[-1][0], outputs[0][2], rtol=1e-5, atol=1e-6)  # [CLS] the film
    np.testing.assert_allclose(vectors[-1][-1], outputs[-1][3:5].mean(0), rtol=1e-5, atol=1e-6)


def test_the_stage_writes_a_record_and_a_page(model, lines, tmp_path, capsys):
    run_stage("senses", model, "--input", lines, "--output", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "senses.json").read_text())
    assert [word["word"] for word in record["words"]] == ["film", "actor"]
    film = record["words"][0]
    static = film["by_layer"][0]
    assert static["layer"] == "table"
    assert (static["within"], static["between"]) == (pytest.approx(1), pytest.approx(1))
    assert [row["layer"] for row in film["by_layer"]] == ["table", "0", "1", "2"]
    assert film["by_layer"][-1]["between"] < 0.9999
    assert np.shape(film["points"]) == (4, 2)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "film (one, two): layer" in capsys.readouterr().out
    assert "is there already" in refusal_of(capsys, "senses", model, "--input", lines, "--output", tmp_path / "out")


def test_lines_without_senses_are_compared_all_with_all(model, tmp_path, capsys):
    path = tmp_path / "lines"
    path.write_text("".join(line.split("\t")[0] + "\n" for line in LINES))
    run_stage("senses", model, "--input", path, "--output", tmp_path / "out")
    assert "film: 4 lines, layer 2: mean cosine" in capsys.readouterr().out
    assert "no senses named" in (tmp_path / "out" / "report.html").read_text()


def test_a_word_of_another_language_is_refused(model, tmp_path, capsys):
    path = tmp_path / "lines"
    path.write_text("a *zebra* .\nthe *zebra* is .\n")
    error = refusal_of(capsys, "senses", model, "--input", path, "--output", tmp_path / "out")
    assert "has no pieces for 'zebra'" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "words"), [("english", ["bank", "mouse", "stick"]), ("chinese", ["包袱", "苹果"])])
def test_the_lines_that_come_along(name, words):
    """Each word with two senses, four lines each."""
    lines = read_marked(senses.example_file(name))
    found = senses.by_word(lines)
    assert list(found) == words
    for own in found.values():
        named = [line.sense for line in own]
        assert sorted(named.count(sense) for sense in set(named)) == [4, 4]
