# SPDX-License-Identifier: Apache-2.0
"""Sides in processes of their own, which answer, fail or are not there. The real peer runs where its Python is given."""

import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conversion_samples import write_own_run

from bert_jax.bench import side_process as processes
from bert_jax.bench.made_up import made_up_arrangement
from bert_jax.bench.report import failures
from bert_jax.bench.runner import run_bench
from bert_jax.bench.side_process import find_peer, fresh_process, side_process, SideError
from bert_jax.bench.subjects.export import agreement_of, INT8
from bert_jax.bench.subjects.peer import computes_same, IGNORED, peer_batch
from bert_jax.bench.suite import BenchSizes, make_case, suite_for
from bert_jax.bench.workbench import BenchInputs
from bert_jax.config.model import ModelConfig
from bert_jax.config.settings import load_config, override
from bert_jax.conversion.config_files import hugging_face_shape
from bert_jax.mesh.sharding import make_mesh
from bert_jax.model.accounting import count_parameters
from bert_jax.train.state import Training

PEER_PYTHON = "BERT_JAX_PEER_PYTHON"  # a Python with torch and transformers


@pytest.mark.parametrize(
    ("name", "settings", "same"),
    [
        ("demo", [], True),
        ("demo", ["objective=mlm_pairs"], False),
        ("gpt_tiny", [], False),
        ("electra_tiny", [], False),
    ],
)
def test_the_peer_is_measured_where_it_computes_the_same(name, settings, same):
    """Masked words and pairs, one example a row; a causal step or two models beside it would say nothing."""
    assert computes_same(override(load_config(name), settings)) == same
    assert not computes_same(make_case("rows of several", "tiny", 4, 32, packed=True).config)


FAKE = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "die":
        sys.exit("no such thing as torch")
    answer = {"error": "asked to fail"} if request["do"] == "fail" else {"seen": request}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "fake_peer.py"
    path.write_text(FAKE, encoding="utf-8")
    return path


def test_requests_are_answered_one_by_one(script):
    with side_process("fake", program=script) as child:
        assert child.ask("step", count=3) == {"seen": {"do": "step", "count": 3}}
        with pytest.raises(SideError, match="asked to fail"):
            child.ask("fail")
        assert child.ask("hello")["seen"] == {"do": "hello"}, "it goes on after an error"


def test_a_peer_that_ends_says_its_last_line(script):
    with side_process("fake", program=script) as child:
        with pytest.raises(SideError, match="status 1 when it was asked to die: no such thing as torch"):
            child.ask("die")
        with pytest.raises(SideError, match="ended"):
            child.ask("hello")


def test_the_peer_is_gone_afterwards(script):
    with side_process("fake", program=script) as child:
        process = child._process
        assert process.poll() is None
    assert process.poll() == 0


def test_the_program_calls_functions_of_its_module_and_goes_on_after_an_error():
    """`json` stands in for a module of sides; what it prints does not mix with the answers."""
    with side_process("json") as child:
        assert child.ask("loads", s='{"a": [1]}') == {"a": [1]}
        with pytest.raises(SideError, match=r"JSONDecodeError: Expecting value"):
            child.ask("loads", s="")
        assert child.ask("loads", s='{"b": 2}') == {"b": 2}
    assert fresh_process("json", "loads", s='{"c": 3}') == {"c": 3}
    with pytest.raises(SideError, match="status 1 when it was asked to x: ModuleNotFoundError"):
        fresh_process("no_such_module", "x")


def test_a_peer_that_is_not_installed_is_absent(monkeypatch):
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    assert find_peer(None) is None
    assert find_peer(Path("/some/python")) == Path("/some/python")
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: "found")
    assert find_peer(None) == Path(sys.executable)


def test_the_peer_gets_the_same_batch():
    """Labels stand at the masked places and nowhere else; padding is masked out."""
    case = make_case("case", "tiny", 8, 64)
    ours = made_up_arrangement(case.config, 1).batch(0, 0)
    theirs = peer_batch(ours)
    assert (theirs["labels"] != IGNORED).sum() == ours["masked_lm_weights"].sum()
    for row in range(8):
        for place, label, weight in zip(
            ours["masked_lm_positions"][row], ours["masked_lm_ids"][row], ours["masked_lm_weights"][row], strict=True
        ):
            assert not weight or theirs["labels"][row, place] == label
    assert (theirs["attention_mask"].sum(1) == (ours["sequence_ids"] > 0).sum(1)).all()
    assert {field.dtype for field in theirs.values()} == {np.dtype(np.int64)}


def test_packed_rows_are_not_given_to_a_peer_that_cannot_keep_examples_apart():
    packed = made_up_arrangement(make_case("case", "tiny", 8, 64, packed=True).config, 1).batch(0, 0)
    with pytest.raises(AssertionError, match="one example a row"):
        peer_batch(packed)


def test_the_form_of_gelu_is_translated():
    """Hugging Face calls the erf form gelu, and google-research/bert's tanh form gelu_new."""
    assert hugging_face_shape(ModelConfig(hidden_act="gelu_tanh"))["hidden_act"] == "gelu_new"
    assert hugging_face_shape(ModelConfig(hidden_act="gelu_erf"))["hidden_act"] == "gelu"


def test_vectors_of_every_side_are_compared_and_timed(tmp_path):
    """A run of ours; the directory that transformers reads is made of it. Nothing of speed is asserted."""
    pytest.importorskip("onnxruntime")
    write_own_run(tmp_path / "run")
    python = os.environ.get(PEER_PYTHON)
    inputs = BenchInputs(model=tmp_path / "run", peer_python=python and Path(python))
    suite = replace(suite_for("cpu"), shortest=0.0, sizes=BenchSizes(rounds=3, export_rows="1x8,3x16,1x17"))
    report = run_bench(suite, ["export"], tmp_path / "out", inputs)
    assert failures(report) == [
        ("export, 1x17", "UserError: bench.export_rows=1x17: give 1 row or more, of 3 to 16 tokens")
    ]
    first, second = [one for one in report["subjects"]["export"]["records"] if one.get("kind") == "compared"]
    assert (first["valid_share"], first["vectors"]) == (1.0, "mean pooling")
    assert second["valid_share"] < 1
    sides = {"ONNX Runtime", "ONNX Runtime, int8"} | ({"PyTorch transformers"} if python else set())
    for record, rows in ((first, 1), (second, 3)):
        assert record["ratios"].keys() == record["agreement"].keys() == sides
        assert record["agreement"]["ONNX Runtime"]["errors"] < 1e-5
        for side, found in record["rates"].items():
            assert found["samples"] == [rows / seconds for seconds in record["seconds"][side]["samples"]]
            assert len(found["samples"]) == 3
    assert "agreement: cosine" in (tmp_path / "out" / "bench.md").read_text(encoding="utf-8")


def test_a_side_that_makes_other_vectors_is_not_timed():
    ours = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    assert agreement_of("PyTorch transformers", ours, ours)["cosine"] == pytest.approx(1)
    with pytest.raises(SideError, match=r"the vectors of PyTorch transformers differ from ours by 0\.01, their mean"):
        agreement_of("PyTorch transformers", ours + np.float32(0.01), ours)
    agreement_of(INT8, ours + np.float32(0.01), ours)
    with pytest.raises(SideError, match="int8 differ from ours"):
        agreement_of(INT8, ours[::-1], ours)


@pytest.mark.skipif(PEER_PYTHON not in os.environ, reason=f"{PEER_PYTHON} does not name a Python with transformers")
def test_transformers_trains_the_same_model(tmp_path):
    """As many parameters as ours, and a first loss of two guesses: ln V for words, ln 2 for the pair."""
    case = make_case("case", "tiny", 8, 32, model={"vocab_size": 200})
    np.savez(tmp_path / "batch.npz", **peer_batch(made_up_arrangement(case.config, 1).batch(0, 0)))
    with side_process("pytorch", Path(os.environ[PEER_PYTHON])) as child:
        assert child.ask("hello")["versions"].keys() >= {"python", "torch", "transformers"}
        batch, model = str(tmp_path / "batch.npz"), hugging_face_shape(case.config.model)
        built = child.ask("build", model=model, batch=batch, mode="eager", threads=1)
        first = child.ask("step", count=1)
    training = Training(case.config, make_mesh(case.config.mesh, jax.devices()[:1]))
    assert built["parameters"] == count_parameters(training.abstract_state.params)
    assert first["loss"] == pytest.approx(math.log(200) + math.log(2), abs=0.3)
    assert first["seconds"] > 0
