# SPDX-License-Identifier: Apache-2.0
"""The peer of a duel: Trainer pre-trains on full rows of masked words, on a CPU, and is stopped by the clock.

The rows are made as transformers' run_mlm.py makes them: texts are tokenised whole, joined and cut. It runs under a Python that
has torch, transformers and accelerate; nothing of ours is imported.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from child import Figures, metered
from pytorch import hello, QUIET, tokenizer_of

TEXTS_AT_ONCE = 1000  # as datasets' map
ENDLESS, PACE_STEPS = 10**9, 20  # of a run that the clock ends; in which the pace is taken, at least


def group(text: str, vocab: str, length: int, rows: str) -> Figures:
    """Tokenise a text of one document a line, and write full rows of all of it to a file (.npy), [N, S] int32."""
    tokenizer = tokenizer_of(vocab)
    with metered() as figures:
        documents = Path(text).read_bytes().decode().rstrip("\n").split("\n")
        parts = []
        for begin in range(0, len(documents), TEXTS_AT_ONCE):
            encoded = tokenizer(documents[begin : begin + TEXTS_AT_ONCE], verbose=False)["input_ids"]
            parts += [np.asarray(ids, np.int32) for ids in encoded]
        ids = np.concatenate(parts)
        whole = len(ids) // length
        np.save(rows, ids[: whole * length].reshape(whole, length))
    return figures | {"documents": len(documents), "rows": whole, "tokens": len(ids)}


class FullRows(torch.utils.data.Dataset):
    """Full rows as the examples of transformers: columns of Python integers."""

    def __init__(self, file: str, special: Sequence[int]):
        self.ids = np.load(file)
        self.special = np.isin(self.ids, special).astype(np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        ids, special = self.ids[number].tolist(), self.special[number].tolist()
        return {
            "input_ids": ids,
            "token_type_ids": [0] * len(ids),
            "attention_mask": [1] * len(ids),
            "special_tokens_mask": special,
        }


class Clock(transformers.TrainerCallback):
    """Ends a training by its own time, and saves the model at some moments; what saving takes is not counted."""

    def __init__(self, seconds: float, least_steps: int = 1, moments: Sequence[float] = (), folder: str = ""):
        self.seconds, self.least_steps = seconds, least_steps
        self.moments, self.folder = list(moments), folder
        self.ends: list[float] = []  # of steps, in seconds of training
        self.points: list[Figures] = []
        self.begin = time.monotonic()

    def on_step_end(self, _: object, state: Any, control: Any, model: Any = None, **__: object) -> None:
        """Note the end, save where it is due, and ask for the end of the training."""
        now = time.monotonic() - self.begin
        self.ends.append(now)
        over = now >= self.seconds and len(self.ends) >= self.least_steps
        last = over or state.global_step >= state.max_steps
        if self.folder and (last or (self.moments and now >= self.moments[0])):
            self.moments = [moment for moment in self.moments if moment > now]
            self._save(now, state.global_step, model)
            self.begin = time.monotonic() - now
        control.should_training_stop = last

    def _save(self, now: float, step: int, model: Any) -> None:
        """Segment B, which no row of these had, is given the vector of segment A, so that pairs can be scored."""
        segments = model.bert.embeddings.token_type_embeddings.weight.data
        segments[1:] = segments[0]
        folder = f"{self.folder}/{step}"
        model.save_pretrained(folder)
        self.points.append({"step": step, "seconds": now, "model": folder})


def pretrain(
    rows: str,
    vocab: str,
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
    warmup_share: float,
    seconds: float,
    pace_seconds: float,
    moments: Sequence[float],
    folder: str,
    seed: int,
    threads: int,
) -> Figures:
    """Pre-train BertForMaskedLM by Trainer for so many seconds; how many steps that makes is found out before.

    Args:
      rows: the file of `group`.
      vocab: the vocabulary file.
      model: settings of BertConfig.
      recipe: settings of TrainingArguments; Trainer's own defaults where it says nothing.
      warmup_share: of the steps.
      seconds: of training.
      pace_seconds: of the steps before at least, which count neither in time nor in the model.
      moments: seconds at which the model is saved, beside the end.
      folder: for the saved models.
      seed: of the first weights, the order and the masks.
      threads: of PyTorch.
    """
    torch.set_num_threads(threads)
    tokenizer = tokenizer_of(vocab)
    data = FullRows(rows, [tokenizer.cls_token_id, tokenizer.sep_token_id])
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)

    def train(steps: int, clock: Clock) -> transformers.TrainingArguments:
        transformers.set_seed(seed)
        network = transformers.BertForMaskedLM(transformers.BertConfig(**model))
        arguments = _training_arguments(steps, int(warmup_share * steps), seed, recipe)
        trainer = transformers.Trainer(
            network, arguments, data_collator=collator, train_dataset=data, callbacks=[clock]
        )
        clock.begin = time.monotonic()
        trainer.train()
        return arguments

    train(ENDLESS, pace := Clock(pace_seconds, PACE_STEPS))
    steps = max(1, round(seconds * steps_per_second(pace.ends)))
    arguments = train(steps, clock := Clock(seconds, moments=moments, folder=folder))
    return {
        "planned_steps": steps,
        "steps": len(clock.ends),
        "seconds": clock.ends[-1],
        "points": clock.points,
        "batch_size": arguments.per_device_train_batch_size,
        "learning_rate": arguments.learning_rate,
        "warmup_steps": int(arguments.warmup_steps),
        "optimizer": str(arguments.optim.value),
        "versions": hello()["versions"],
    }


def steps_per_second(ends: Sequence[float]) -> float:
    """Return the pace of the second half of the steps; the first one warms up."""
    half = len(ends) // 2
    return (len(ends) - half) / (ends[-1] - ends[half - 1])


def _training_arguments(
    steps: int, warmup_steps: int, seed: int, recipe: Mapping[str, Any]
) -> transformers.TrainingArguments:
    """Return the recipe as Trainer takes it; it saves, scores, logs and shows nothing itself."""
    return transformers.TrainingArguments(
        output_dir="peer",
        max_steps=steps,
        warmup_steps=warmup_steps,
        seed=seed,
        **QUIET,
        **recipe,
    )
