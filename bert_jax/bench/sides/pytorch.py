# SPDX-License-Identifier: Apache-2.0
"""The peers in PyTorch transformers: a step of pre-training, vectors of sentences, the collator for masked words, Trainer.

It runs under a Python that has torch, transformers and, for Trainer, accelerate; nothing of ours is imported.
Modes of a step: `eager`; `compile`: torch.compile with SDPA. Both compute in bfloat16 by autocast on a GPU, in float32
on a CPU.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from child import cpu_seconds, Figures, metered, stay_on_one_core, versions

transformers.logging.set_verbosity_error()


# TrainingArguments of a Trainer that saves, scores, logs and shows nothing itself.
QUIET = {
    "use_cpu": True,
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def hello() -> Figures:
    """Return the versions of the libraries and the device."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {"versions": versions("torch", "transformers", "accelerate", "tokenizers", "numpy"), "device": device}


# ---- a step of pre-training ------------------------------------------------------------------------------------------


class PeerModel:
    """BertForPreTraining, AdamW and one batch."""

    def __init__(self, model: dict[str, Any], batch: str, mode: str, threads: int):
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.on_gpu = self.device.type == "cuda"
        config = transformers.BertConfig(**model)
        if mode == "compile":
            config._attn_implementation = "sdpa"
        self.model = transformers.BertForPreTraining(config).to(self.device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=self.on_gpu
        )
        self.batch = {name: torch.from_numpy(field).to(self.device) for name, field in np.load(batch).items()}
        self.forward = torch.compile(self.model) if mode == "compile" else self.model

    def step(self) -> torch.Tensor:
        """Forward, backward, clip, update; return the loss."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu):
            loss = self.forward(**self.batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()


_pretraining: list[PeerModel] = []  # the one that is built, if any


def build(model: dict[str, Any], batch: str, mode: str, threads: int) -> Figures:
    """Build a model of these sizes for the batch in a file (.npz)."""
    _pretraining[:] = [built := PeerModel(model, batch, mode, threads)]
    return {
        "attention": built.model.config._attn_implementation,
        "dtype": "bfloat16" if built.on_gpu else "float32",
        "parameters": sum(parameter.numel() for parameter in built.model.parameters()),
    }


def step(count: int) -> Figures:
    """Run steps; return the seconds of one of them, and the last one's loss."""
    (built,) = _pretraining
    built.wait()
    begin = time.perf_counter()
    for _ in range(count):
        loss = built.step()
    built.wait()
    return {"seconds": (time.perf_counter() - begin) / count, "loss": float(loss)}


def drop() -> Figures:
    """Free the model that was built."""
    _pretraining.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {}


# ---- vectors of sentences --------------------------------------------------------------------------------------------

_encoders: dict[str, Any] = {}


def open_encoder(model: str, pooling: str, normalize: bool, threads: int) -> Figures:
    """Load a directory's encoder on the CPU, with sentence vectors as `bert-jax embed` makes them."""
    torch.set_num_threads(threads)
    network = transformers.BertModel.from_pretrained(model, add_pooling_layer=pooling == "pooled").eval()
    _encoders.update(network=network, pooling=pooling, normalize=normalize)
    return {"attention": network.config._attn_implementation}


def give_rows(rows: str, vectors: str) -> Figures:
    """Take the rows to encode from a file (.npz), and write their vectors into another (.npy)."""
    _encoders["rows"] = {name: torch.from_numpy(field) for name, field in np.load(rows).items()}
    np.save(vectors, _sentence_vectors().numpy())
    return {}


def encode(count: int) -> Figures:
    """Encode the rows some times; return the seconds of one of them."""
    begin = time.perf_counter()
    for _ in range(count):
        _sentence_vectors()
    return {"seconds": (time.perf_counter() - begin) / count}


@torch.inference_mode()
def _sentence_vectors() -> torch.Tensor:
    """[B, D]."""
    rows, pooling = _encoders["rows"], _encoders["pooling"]
    output = _encoders["network"](**rows)
    tokens, valid = output.last_hidden_state, rows["attention_mask"][:, :, None] > 0
    if pooling in ("cls", "pooled"):
        vectors = tokens[:, 0] if pooling == "cls" else output.pooler_output
    elif pooling == "max":
        vectors = tokens.masked_fill(~valid, -torch.inf).amax(1)
    else:
        vectors = (tokens * valid).sum(1) / valid.sum(1)
    return torch.nn.functional.normalize(vectors) if _encoders["normalize"] else vectors


# ---- the collator ----------------------------------------------------------------------------------------------------

_loaders: dict[str, Any] = {}


def open_collator(vocab: str, rows_file: str, rows: int, mlm_probability: float) -> Figures:
    """Make DataLoaders without workers over rows that are tokenised already, [N, S] in a file; stay on one core.

    `lists`: four columns of Python integers, as the examples of transformers (run_mlm.py) store them. `tensors`: bare
    tensors of the ids, the fastest input we found that the collator takes; there is no attention mask then, so it
    serves rows without padding only.
    """
    stay_on_one_core()
    torch.set_num_threads(1)
    tokenizer = tokenizer_of(vocab)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=mlm_probability)
    ids = np.load(rows_file)
    columns = {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "attention_mask": np.ones_like(ids),
        "special_tokens_mask": np.isin(ids, [tokenizer.cls_token_id, tokenizer.sep_token_id]).astype(np.int64),
    }
    lists = [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]
    for name, rows_of in {"lists": lists, "tensors": list(torch.from_numpy(ids))}.items():
        loader = torch.utils.data.DataLoader(rows_of, batch_size=rows, shuffle=True, num_workers=0, collate_fn=collator)
        masked = next(iter(loader))
        assert (masked["labels"] >= 0).any(), "the collator masks nothing"
        _loaders[name] = loader
    return {"vocabulary": len(tokenizer), "versions": hello()["versions"]}


def collate(name: str) -> Figures:
    """Make all batches of one of the loaders."""
    with metered() as figures:
        tokens = sum(batch["input_ids"].numel() for batch in _loaders[name])
    return figures | {"tokens": tokens}


def tokenizer_of(vocab: str) -> Any:
    """Return the lower-casing tokenizer of a vocabulary file; releases 4 and 5 name the argument differently."""
    tokenizer = transformers.BertTokenizerFast(vocab)
    with open(vocab, encoding="utf-8") as file:
        lines = sum(1 for _ in file)
    assert len(tokenizer) == lines, f"{vocab} has {lines} entries, and transformers reads {len(tokenizer)}"
    return tokenizer


# ---- Trainer ---------------------------------------------------------------------------------------------------------


class EpochClock(transformers.TrainerCallback):
    """The wall time and CPU-seconds at which epochs begin and end."""

    def __init__(self) -> None:
        self.begins: list[tuple[float, float]] = []
        self.ends: list[tuple[float, float]] = []

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        """Note the beginning."""
        self.begins.append((time.monotonic(), cpu_seconds()))

    def on_epoch_end(self, *_: object, **__: object) -> None:
        """Note the end."""
        self.ends.append((time.monotonic(), cpu_seconds()))


def finetune(data: str, model: str, config: Mapping[str, Any], prediction_batch_size: int, sampling: str) -> Figures:
    """Fine-tune BertForSequenceClassification by Trainer on a CPU; rows are as long as the longest of their batch.

    Args:
      data: the folder of train.tsv, which has lines TEXT, tab, CLASS below a head.
      model: a directory of Hugging Face's.
      config: epochs, batch_size, max_length; of optimizer, learning_rate, weight_decay, warmup_share.
      prediction_batch_size: rows of a batch of predictions.
      sampling: Trainer's train_sampling_strategy, "random" or "group_by_length".
    """
    rows = _rows(f"{data}/train.tsv", tokenizer := tokenizer_of(f"{model}/vocab.txt"), config["max_length"])
    arguments = _training_arguments(config, len(rows), prediction_batch_size, sampling)
    clock, network = EpochClock(), transformers.BertForSequenceClassification.from_pretrained(model)
    collator = transformers.DataCollatorWithPadding(tokenizer)
    trainer = transformers.Trainer(network, arguments, data_collator=collator, train_dataset=rows, callbacks=[clock])
    result = trainer.train()
    for _ in range(2):  # the first warms up
        with metered() as predicting:
            trainer.predict(rows)
    wall, cpu = (end - begin for begin, end in zip(clock.begins[-1], clock.ends[-1], strict=True))
    return {
        "training": {
            "examples_per_second": len(rows) / wall,
            "examples_per_cpu_second": len(rows) / cpu,
            "valid_share": _valid_share(trainer.get_train_dataloader()),
            "loss": result.training_loss,  # of all epochs
        },
        "prediction": {
            "examples_per_second": len(rows) / predicting["wall_seconds"],
            "examples_per_cpu_second": len(rows) / predicting["cpu_seconds"],
            "valid_share": _valid_share(trainer.get_test_dataloader(rows)),
        },
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "settings": {"optimizer": str(arguments.optim.value), "threads": torch.get_num_threads()},
        "versions": hello()["versions"],
    }


def _training_arguments(
    config: Mapping[str, Any], examples: int, prediction_batch_size: int, sampling: str
) -> transformers.TrainingArguments:
    """Return the recipe as Trainer takes it; nothing is saved, scored or logged."""
    steps = config["epochs"] * -(-examples // config["batch_size"])
    return transformers.TrainingArguments(
        output_dir="peer",
        num_train_epochs=config["epochs"],
        per_device_train_batch_size=config["batch_size"],
        per_device_eval_batch_size=prediction_batch_size,
        learning_rate=config["optimizer"]["learning_rate"],
        weight_decay=config["optimizer"]["weight_decay"],
        warmup_steps=int(config["optimizer"]["warmup_share"] * steps),
        train_sampling_strategy=sampling,
        **QUIET,
    )


def _rows(data: str, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Read and tokenise the examples of train.tsv."""
    with open(data, encoding="utf-8") as file:
        _, *lines = file.read().rstrip("\n").split("\n")
    texts, labels = zip(*(line.split("\t") for line in lines), strict=True)
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)
    return [
        {**{name: values[number] for name, values in encoded.items()}, "labels": int(label)}
        for number, label in enumerate(labels)
    ]


def _valid_share(batches: Iterable[Mapping[str, torch.Tensor]]) -> float:
    """Return the share of the batches' tokens that are not padding."""
    masks = [batch["attention_mask"] for batch in batches]
    return float(sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))
