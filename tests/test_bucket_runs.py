# SPDX-License-Identifier: Apache-2.0
"""The main job with everything on a bucket: the same bytes and bits as on a disk, also of a run that was killed."""

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from bucket_emulator import BUCKET
from conftest import made_up_text, run_stage, small_config
from finetune_samples import command, write_sst2
from test_multihost import finish, start_all
from test_study import make_small

from bert_jax.base.bucket_output import outputs_folder
from bert_jax.base.paths import any_path
from bert_jax.cli import main
from bert_jax.config.settings import to_dict
from bert_jax.config.training import MeshConfig
from bert_jax.mesh.sharding import make_mesh
from bert_jax.rerun.finite import REGIONS
from bert_jax.runs.checkpoint import Checkpoints, COMMITTED
from bert_jax.runs.cost import without_clock
from bert_jax.train.pretraining import pretrain
from bert_jax.train.state import Training

HERE = f"gs://{BUCKET}/job"
_MODEL = replace(small_config().model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
_PHASES = (replace(small_config().phases[0], steps=8),)
CONFIG = small_config(model=_MODEL, phases=_PHASES, save_every=2, log_every=1, keep_checkpoints=2, eval_every=0)

RUN = """
import json, sys
from bert_jax.base.paths import any_path
from bert_jax.config.settings import from_dict
from bert_jax.train.pretraining import pretrain
pretrain(from_dict(json.loads(sys.argv[1])), any_path(sys.argv[2]), any_path(sys.argv[3]), resume_command="")
"""


@pytest.fixture(scope="module")
def data(emulator):
    """Text, vocabulary and data on the bucket, made by the stages with the options of the fixture `prepared`."""
    text = any_path(f"{HERE}/text.txt")
    text.write_bytes(made_up_text(200).encode())
    run_stage("vocab", "--input", text, "--output", f"{HERE}/vocab", "--size", 100)
    lengths = ("--sequence-length", 16, 32)
    options = ("--objective", "mlm_nsp", *lengths, "--shard-size", 20_000, "--workers", 1)
    run_stage("prepare", "--input", text, "--vocab", f"{HERE}/vocab", "--output", f"{HERE}/data", *options)
    return any_path(f"{HERE}/data")


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory) -> Path:
    """The uninterrupted run, on the disk."""
    run = tmp_path_factory.mktemp("straight") / "run"
    pretrain(CONFIG, data, run, resume_command="")
    return run


@pytest.fixture(scope="module")
def run(data, straight):
    """The run on the bucket, killed after its first save and resumed; its programs are compiled in `straight`."""
    path = any_path(f"{HERE}/run")
    command = [sys.executable, "-c", RUN, json.dumps(to_dict(CONFIG)), str(data), str(path)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while not (path / "checkpoints" / "2" / COMMITTED).exists():
            assert process.poll() is None, "the run ended before its first save"
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    for name in ("config.json", "vocab.txt", "metrics.jsonl", "lock"):
        assert (path / name).is_file()
    # What a save leaves that was cut off when its arrays came; whatever this kill has met.
    for name in (path / "checkpoints" / "2").objects():
        if COMMITTED not in name:
            (path / "checkpoints" / "7" / name).write_bytes((path / "checkpoints" / "2" / name).read_bytes())
    pretrain(CONFIG, data, path, resume_command="")
    return path


def lines_of(run) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    return without_clock([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def final_state(run, config=CONFIG) -> dict:
    abstract = Training(config, make_mesh(config.mesh)).abstract_state
    with Checkpoints(run / "checkpoints") as checkpoints:
        assert checkpoints.latest == config.total_steps
        items = {"params": abstract.params, "optimizer": (abstract.opt_state, abstract.step)}
        restored = checkpoints.restore(config.total_steps, items)
    del restored["record"]
    return jax.tree.map(np.asarray, restored)


def test_vocabulary_and_data_are_the_same_as_on_a_disk(data, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(made_up_text(200), encoding="utf-8")
    modified = any_path(f"{HERE}/text.txt").about()["mtime"].timestamp()
    os.utime(text, (modified, modified))  # which the records have
    run_stage("vocab", "--input", text, "--output", tmp_path / "vocab", "--size", 100)
    lengths = ("--sequence-length", 16, 32)
    options = ("--objective", "mlm_nsp", *lengths, "--shard-size", 20_000, "--workers", 1)
    run_stage("prepare", "--input", text, "--vocab", tmp_path / "vocab", "--output", tmp_path / "data", *options)
    for folder, on_bucket in ((tmp_path / "vocab", data.parent / "vocab"), (tmp_path / "data", data)):
        assert sorted(path.name for path in folder.iterdir()) == sorted(on_bucket.objects())
        for path in (path for path in folder.iterdir() if path.suffix != ".html"):  # which names its folder
            assert path.read_bytes() == (on_bucket / path.name).read_bytes(), path.name


def test_what_was_made_is_recognised(data, capsys):
    run_stage("vocab", "--input", f"{HERE}/text.txt", "--output", f"{HERE}/vocab", "--size", 100)
    assert "already has this vocabulary" in capsys.readouterr().out
    lengths = ("--sequence-length", 16, 32)
    options = ("--objective", "mlm_nsp", *lengths, "--shard-size", 20_000, "--workers", 1)
    run_stage("prepare", "--input", f"{HERE}/text.txt", "--vocab", f"{HERE}/vocab", "--output", str(data), *options)
    assert "nothing to do" in capsys.readouterr().out
    assert (
        main(["prepare", "--input", f"{HERE}/text.txt", "--vocab", f"{HERE}/vocab", "--output", f"{HERE}/vocab"]) == 2
    )


def test_a_killed_run_ends_bit_for_bit_like_one_on_a_disk(run, straight):
    ours, theirs = final_state(run), final_state(straight)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert lines_of(run) == lines_of(straight)
    assert any((run / "tensorboard").glob("events*"))


def test_a_run_that_is_killed_ten_times_at_random_moments_ends_bit_for_bit_like_a_straight_one(
    data, emulator, tmp_path
):
    """A moment is a number of requests that the bucket has answered, up to a quarter more than a start needs for its next
    save, and up to 50 ms: in the start, the restore, the steps, and any part of a save, however fast the machine is."""
    config = replace(CONFIG, phases=(replace(_PHASES[0], steps=160),))
    path, alone, rng = any_path(f"{HERE}/ten"), tmp_path / "alone", np.random.default_rng(0)
    pretrain(config, data, alone, resume_command="")
    command = [sys.executable, "-c", RUN, json.dumps(to_dict(config)), str(data), str(path)]
    killed_when(command, lambda: complete_steps(path), wait=0.3)
    begun, saved = len(emulator.seen), complete_steps(path)
    killed_when(command, lambda: complete_steps(path) > saved, wait=0.3)  # seldom asked: this asks the bucket too
    needed = len(emulator.seen) - begun
    print(f"a save of a run that goes on is complete after {needed} requests")
    for requests in rng.integers(1, needed + needed // 4, 10).tolist():
        end = len(emulator.seen) + requests
        killed_when(command, lambda end=end: len(emulator.seen) >= end, rng.uniform(0, 0.05))
        print(f"killed after {requests} requests; the newest complete step is {max(complete_steps(path))}")
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    jax.tree.map(np.testing.assert_array_equal, final_state(path, config), final_state(alone, config))
    assert lines_of(path) == lines_of(alone)


def killed_when(command: list[str], reached: Callable[[], object], pause: float = 0.0, wait: float = 0.002) -> None:
    """Start a run and kill it when something is reached, before its end."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while not reached():
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(wait)
        time.sleep(pause)
        assert process.poll() is None, "the run ended before it was killed"
    finally:
        process.kill()
        process.wait()


def complete_steps(run) -> list[int]:
    folder = run / "checkpoints"
    return sorted(int(step.name) for step in folder.iterdir() if (step / COMMITTED).exists()) if folder.exists() else []


@pytest.mark.filterwarnings("ignore:Sending a large body")  # aiohttp's word on what gcsfs does
def test_a_checkpoint_is_kept_for_a_capsule_and_a_trace_is_put(run, data):
    kept = run / "bad_steps"
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.keep(CONFIG.total_steps, kept / "checkpoints")
        checkpoints.keep(CONFIG.total_steps, kept / "checkpoints")
    jax.tree.map(np.testing.assert_array_equal, final_state(kept), final_state(run))
    traced = any_path(f"{HERE}/traced")
    phases = (replace(CONFIG.phases[0], steps=3),)
    pretrain(replace(CONFIG, profile="2:2", phases=phases), data, traced, resume_command="")
    [trace] = [name for name in (traced / "profile").objects() if name.endswith(".xplane.pb")]
    content = (traced / "profile" / trace).read_bytes()
    assert [region for region in REGIONS if not re.search(rf"\b{region}[)/]".encode(), content)] == []


def test_a_save_that_was_cut_off_is_removed_and_old_ones_go(run):
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"6", "8"}
    assert not (run / "lock").exists()


def test_a_finished_run_is_used_from_the_bucket(run, straight, data, capsys):
    """evaluate, report, doctor and fill-mask: the numbers are those of the run on the disk."""
    scores = []
    for path in (run, straight):
        run_stage("evaluate", path, "--data", data, "--json")
        scores.append({name: value for name, value in json.loads(capsys.readouterr().out).items() if name != "run"})
    assert scores[0]["mlm_loss"] == scores[1]["mlm_loss"]
    assert (run / "evaluation.json").is_file()
    run_stage("report", run)
    assert capsys.readouterr().out.strip() == f"{run}/report.html"
    assert (run / "report.html").read_bytes().startswith(b"<!")
    main(["doctor", str(run)])
    assert str(run) in capsys.readouterr().out
    run_stage("fill-mask", run, "the ship of the [MASK] is near the wave .")
    assert "[MASK]" in capsys.readouterr().out
    pretrain(CONFIG, data, run, resume_command="")
    assert "has finished its 8 steps" in capsys.readouterr().err


def test_a_run_that_is_there_is_not_begun_anew(run, data):
    """Fails where a bucket's folder is taken for empty."""
    assert main(["pretrain", "tiny", "--data", str(data), "--output", str(run)]) == 2


def test_fine_tuning_prediction_and_vectors(run, emulator, tmp_path, capsys):
    """A run on the bucket is fine-tuned into a run on the bucket, with its data there; and used."""
    files = write_sst2(tmp_path / "sst2")
    for path in files.iterdir():
        any_path(f"{HERE}/sst2/{path.name}").write_bytes(path.read_bytes())
    tuned = f"{HERE}/tuned"
    run_stage(*command("sst2", f"{HERE}/sst2", run, tuned, "epochs=1"))
    run_stage(*command("sst2", files, run, tmp_path / "tuned", "epochs=1"))
    theirs = json.loads((tmp_path / "tuned" / "scores.json").read_text())
    ours = json.loads(any_path(f"{tuned}/scores.json").read_text())
    assert ours["scores"] == theirs["scores"]
    run_stage("report", tuned)
    run_stage("predict", tuned, "--data", f"{HERE}/sst2", "--split", "dev")
    name = "predictions/dev.jsonl"
    run_stage("predict", tmp_path / "tuned", "--data", files, "--split", "dev")
    assert any_path(f"{tuned}/{name}").read_bytes() == (tmp_path / "tuned" / name).read_bytes()
    run_stage("compare", tuned, tmp_path / "tuned")
    any_path(f"{tuned}/predictions/submission/CoLA.tsv").write_bytes(b"index\tprediction\n")  # as predict of 1,063 rows
    run_stage("predict", tuned, "--data", f"{HERE}/sst2", "--split", "dev", "--zip", f"{HERE}/all.zip")
    assert zipfile.is_zipfile(io.BytesIO(any_path(f"{HERE}/all.zip").read_bytes()))
    assert main(["data", "check", f"{HERE}/sst2", "--task", "sst2"]) == 1  # not the official sizes
    any_path(f"{HERE}/labels.txt").write_bytes(b"1\n" * 24)
    run_stage(
        "score", "glue", "--task", "sst2", "--data", f"{HERE}/sst2/dev.tsv", "--predictions", f"{HERE}/labels.txt"
    )
    embed = ("embed", run, "--input", f"{HERE}/text.txt", "--output", f"{HERE}/vectors", "--shard-vectors", "500")
    embed += ("--too-long", "truncate")
    run_stage(*embed)
    assert any_path(f"{HERE}/vectors/embeddings.json").is_file()
    capsys.readouterr()
    run_stage(*embed)
    assert "holds these vectors already" in capsys.readouterr().out


def test_requests_that_fail_while_a_run_trains(data, straight, emulator):
    """Uploads and reads are answered with 503 now and then, and new objects appear late: the run is the same."""
    path = any_path(f"{HERE}/unlucky")
    written = emulator.fail(503, 4, methods="POST PUT", name="unlucky")
    read = emulator.fail(503, 4, methods="GET", name="unlucky")
    with written as failed, read, emulator.hide("unlucky/checkpoints/2/params/manifest", 3):
        pretrain(replace(CONFIG, keep_checkpoints=1), data, path, resume_command="")
    assert failed
    jax.tree.map(np.testing.assert_array_equal, final_state(path), final_state(straight))


def test_a_conversion_there_and_back(run, straight, capsys):
    """To Hugging Face's format and back, both on the bucket; each certificate holds, and is found again."""
    for source, name, to in ((run, "hf", "huggingface"), (f"{HERE}/hf", "ours", "bert-jax")):
        rows = ("--padding-rows", "drop") if to == "bert-jax" else ()
        run_stage("convert", source, f"{HERE}/{name}", "--to", to, *rows)
        assert any_path(f"{HERE}/{name}/conversion.json").is_file()
        run_stage("convert", source, f"{HERE}/{name}", "--to", to, *rows)
        assert "holds this conversion already" in capsys.readouterr().out
    run_stage("fill-mask", f"{HERE}/ours", "the ship of the [MASK] is near the wave .")


def test_stages_that_take_a_model_and_write_a_folder(run, data, tmp_path, capsys):
    """senses, probe and export with all they read and write on the bucket; tokenize and plan too."""
    any_path(f"{HERE}/lines.tsv").write_bytes(
        b"the *ship* is near\tone\na *ship* of the wave\tone\nthe *ship* is a\ttwo\nof *ship* the\ttwo\n"
    )
    for path in write_sst2(tmp_path / "sst2").iterdir():
        any_path(f"{HERE}/probed/{path.name}").write_bytes(path.read_bytes())
    commands = {
        "senses": ("senses", run, "--input", f"{HERE}/lines.tsv"),
        "probe": ("probe", run, "--task", "sst2", "--data", f"{HERE}/probed", "--seeds", 2),
        "export": ("export", run, "--to", "stablehlo", "--for", "fill-mask"),
    }
    for name, words in commands.items():
        run_stage(*words, "--output", f"{HERE}/{name}")
        assert f"{name}.json" in any_path(f"{HERE}/{name}").objects()
        assert not list(outputs_folder().rglob("*.json"))
        assert main([*map(str, words), "--output", f"{HERE}/{name}"]) == 2  # it holds something
    capsys.readouterr()
    run_stage("tokenize", run, "the ship")
    assert "ship" in capsys.readouterr().out
    run_stage("plan", run / "config.json", "--topology", "local", "--quick", "--output", f"{HERE}/plan.json")
    assert json.loads(any_path(f"{HERE}/plan.json").read_text())["fits"]


def test_a_study_has_all_it_reads_and_writes_there(prepared, emulator, tmp_path, monkeypatch):
    make_small(monkeypatch)
    for path in prepared.data.iterdir():
        any_path(f"{HERE}/prepared/{path.name}").write_bytes(path.read_bytes())
    for path in (files := write_sst2(tmp_path / "sst2")).iterdir():
        any_path(f"{HERE}/studied/{path.name}").write_bytes(path.read_bytes())
    records = []
    for place, data, task in (
        (tmp_path, prepared.data, files),
        (any_path(HERE), f"{HERE}/prepared", f"{HERE}/studied"),
    ):
        words = ("study", "small", "--budget", "smoke", "--data", data, "--tasks", f"sst2={task}")
        run_stage(*words, "--output", place / "study")
        records.append((place / "study" / "study.json").read_text())
        run_stage(*words, "--output", place / "study")  # finished
    assert records[0] == records[1]
    assert any_path(f"{HERE}/study/report.html").is_file()


def test_two_processes_write_one_run(data, straight, emulator, tmp_path):
    """Every process writes its part of a checkpoint into the bucket; what comes out is the run of one process, to rounding."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(to_dict(replace(CONFIG, mesh=MeshConfig(data=2, fsdp=2)))))
    path = any_path(f"{HERE}/together")
    arguments = ["pretrain", str(config), "--data", str(data), "--output", str(path)]
    assert finish(start_all(arguments, tmp_path / "run"), tmp_path / "run") == [0, 0]
    ours, theirs = final_state(path), final_state(straight)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-5), ours["params"], theirs["params"])
    for found, expected in zip(lines_of(path), lines_of(straight), strict=True):
        assert {name: value for name, value in found.items() if "loss" in name} == pytest.approx(
            {name: value for name, value in expected.items() if "loss" in name}, rel=1e-5, abs=1e-5
        )
    assert not (path / "lock").exists()
