# SPDX-License-Identifier: Apache-2.0
"""Makes files.tar.xz beside it with the code of an earlier commit; README.md says which, and how to run it."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from bert_jax.data.packing import make_arrangement
from bert_jax.data.shards import open_data
from bert_jax.run_directory import RunDirectory
from bert_jax.session import make_examples

from bert_jax.cli import main

TOPICS = (
    ("ship", "wave", "harbour", "sailor", "storm", "anchor"),
    ("rose", "spade", "seed", "apple", "hedge", "rain"),
    ("street", "tram", "tower", "market", "bridge", "lamp"),
)
MODEL = (
    *("model.vocab_size=104", "model.hidden_size=16", "model.num_hidden_layers=2", "model.num_attention_heads=2"),
    *("model.intermediate_size=32", "model.max_position_embeddings=32", "mesh.data=1"),
)
PRETRAIN = (
    *("phases.0.sequence_length=16", "phases.0.steps=9", "phases.0.batch_size=8", "phases.0.max_predictions_per_seq=3"),
    *("phases.1.sequence_length=32", "phases.1.steps=5", "phases.1.batch_size=4", "phases.1.max_predictions_per_seq=5"),
    *("optimizer.learning_rate=1e-2", "optimizer.warmup_steps=2", "log_every=3", "eval_every=6", "eval_batches=2"),
    *("save_every=5", "keep_checkpoints=1"),
)
FINETUNE = (
    *("--task", "own", "--kind", "classification", "--text", "text", "--label", "label", "--data", "task"),
    *("--model", "converted", "mesh.data=1", "buckets=1", "max_length=16", "learning_rate=1e-2", "batch_size=8"),
    *("log_every=20", "epochs=20"),
)


def stage(*arguments: str, status: int = 0) -> None:
    assert main([str(argument) for argument in arguments]) == status, arguments


def stopped_after(step: int, *arguments: str) -> None:
    """Run a stage in a process that gets SIGTERM in its step `step`."""
    code = (
        "import os, signal, sys, bert_jax.train_loop as loop; from bert_jax.cli import main\n"
        "asked = loop.StopRequest.reached\n"
        "def reached(self, done):\n"
        "    if done == int(sys.argv[1]): self.signal_number = signal.SIGTERM\n"
        "    return asked(self, done)\n"
        "loop.StopRequest.reached = reached\n"
        "sys.exit(main(sys.argv[2:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(step), *arguments])
    assert done.returncode == 128 + signal.SIGTERM, done.returncode


def write_inputs() -> None:
    rng = np.random.default_rng(0)
    lines = []
    for number in range(45):
        words = TOPICS[number % len(TOPICS)]
        for _ in range(rng.integers(6, 13)):
            a, b, c = rng.choice(words, 3, replace=False)
            lines.append(f"the {a} of the {b} is near the {c} .")
        lines.append("")
    Path("text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("task").mkdir()
    for split, count in (("train", 48), ("dev", 24), ("test", 12)):
        rows = ["text\tlabel"]
        for number in range(count):
            words = TOPICS[number % len(TOPICS)]
            rows.append(f"the {' '.join(rng.choice(words, rng.integers(2, 5)))} .\t{words[0]}")
        Path("task", f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_first_batches() -> None:
    """The first batch of each phase, as arrays named by its row length and field."""
    data, run = open_data(Path("data")), RunDirectory(Path("finished"))
    config, arrays = run.config(), {}
    for phase in config.phases:
        examples = make_examples(data.split("train"), run.tokenizer(), config, phase)
        batch = make_arrangement(examples, config.packing, phase.batch_size).batch(config.seed, 0)
        arrays |= {f"{phase.sequence_length}/{name}": array for name, array in batch.items()}
    np.savez_compressed("first_batches.npz", **arrays)


def make() -> None:
    """In the current folder, which is empty."""
    write_inputs()
    stage("vocab", "--input", "text.txt", "--output", "vocab", "--size", 100)
    lengths = ("--sequence-length", 16, 32)
    stage("prepare", "--input", "text.txt", "--vocab", "vocab", "--output", "data", *lengths, "--workers", 1)
    run = ("pretrain", "base", "--data", "data", "--output")
    stopped_after(7, *run, "stopped", *MODEL, *PRETRAIN)
    stage(*run, "finished", *MODEL, *PRETRAIN)
    write_first_batches()
    stage("evaluate", "finished", "--data", "data")
    stage("convert", "finished", "huggingface", "--to", "huggingface")
    stage("convert", "huggingface", "converted", "--to", "bert-jax", "--padding-rows", "drop")
    stopped_after(50, "finetune", *FINETUNE, "--output", "finetuned-stopped")
    stage("finetune", *FINETUNE, "--output", "finetuned")
    stage("predict", "finetuned", "--data", "task")


def pack(target: Path) -> None:
    """Leave out what nothing reads: pages, events of TensorBoard, and of the finished run all but its figures."""

    def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        unread = ("tensorboard", ".html", "finished/checkpoints", "finished/vocab", "finished/passport")
        if any(part in entry.name for part in unread):
            return None
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(target, "w:xz", preset=9) as archive:
        for path in sorted(Path().iterdir()):
            archive.add(path, filter=kept)


if __name__ == "__main__":
    work = Path(sys.argv[1])  # "/tmp/earlier": its name stands in the files
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    target = Path(__file__).resolve().with_name("files.tar.xz")
    os.chdir(work)
    make()
    pack(target)
