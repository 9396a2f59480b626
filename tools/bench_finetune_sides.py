# SPDX-License-Identifier: Apache-2.0
"""The work that `bench_finetune` measures, ours and the peer's: one function a side, run in a process of its own.

    python bench_finetune_sides.py SIDE '{"setting": value, ...}'

As `bench_data_sides`, which lies beside it: a side loads what it needs, works, and prints what it found as a line of JSON.
The peer's needs torch, transformers and accelerate, and nothing of ours.

Both train on the same texts from the same weights, at the same rate. The first epoch warms up (programs, allocators,
caches), the last one is measured: from its first batch being asked for to its last step's end. Then the same texts are
predicted twice, and the second time is measured.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Figures = dict[str, Any]

LEARNING_RATE, WEIGHT_DECAY, WARMUP_SHARE, DROPOUT = 2e-5, 0.01, 0.1, 0.1


def ours(data: str, model: str, epochs: int, batch_size: int, max_length: int, options: dict[str, Any]) -> Figures:
    """`bert-jax finetune` as the command runs it, in a folder without a dev split: nothing is scored."""
    from bert_jax.host import keep_freed_memory

    keep_freed_memory()  # as the command does
    from bench_data_sides import cpu_seconds, metered, versions  # type: ignore[import-not-found,unused-ignore]

    from bert_jax.config.finetune import FinetuneConfig
    from bert_jax.config.training import OptimizerSettings
    from bert_jax.finetuning import prediction
    from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
    from bert_jax.finetuning.run import finetune
    from bert_jax.train import session

    examples = len(_texts(data))
    config = FinetuneConfig(
        optimizer=OptimizerSettings(
            "adamw",
            learning_rate=LEARNING_RATE,
            warmup_steps=None,
            warmup_share=WARMUP_SHARE,
            weight_decay=WEIGHT_DECAY,
        ),
        batch_size=batch_size,
        epochs=epochs,
        max_length=max_length,
        log_every=-(-examples // batch_size),  # a line of metrics.jsonl for each epoch
        **options,
    )
    wanted = Wanted("sst2", data, Path(model), config)
    compiling = _watch(session, "compile_train_step", time.monotonic)
    compiling_predictions = _watch(prediction, "compile_prediction", time.monotonic)
    writing = _watch(session, "append_metrics", cpu_seconds)  # at the end of each epoch
    finetune(wanted, Path("run"), resume_command="")
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if line["kind"] == "train"][-1]

    prepared = FinetuneSetup(wanted)
    predictor, units = prediction.Predictor(prepared.training), prepared.train_split.units
    params = prepared.initial_state().params
    for _ in range(2):
        with metered() as predicting:
            predictor.outputs(params, units)
    return {
        "training": {
            "examples_per_second": last["examples_per_second"],
            "valid_share": last["valid_token_share"],
            "loss": last["loss"],
            "examples_per_cpu_second": examples / (writing[-1].begin - writing[-2].end),
            "compilation_seconds": _total(compiling),
            "programs": len(compiling),
        },
        "prediction": {
            "examples_per_second": examples / predicting["wall_seconds"],
            "valid_share": _valid_share_of_a_pass(units, config.buckets, max_length),
            "examples_per_cpu_second": examples / predicting["cpu_seconds"],
            "compilation_seconds": _total(compiling_predictions),
            "programs": len(compiling_predictions),
        },
        "tokens": int(units.table.lengths.sum()),
        "versions": versions("bert-jax", "jax", "jaxlib", "numpy"),
    }


class Call(NamedTuple):
    """What a clock said before and after."""

    begin: float
    end: float


def _watch(module: Any, name: str, clock: Callable[[], float]) -> list[Call]:
    """From now on, when the calls of a module's function begin and end."""
    function, calls = getattr(module, name), []

    def watched(*arguments: Any) -> Any:
        begin = clock()
        result = function(*arguments)
        calls.append(Call(begin, clock()))
        return result

    setattr(module, name, watched)
    return calls


def _total(calls: list[Call]) -> float:
    return sum(call.end - call.begin for call in calls)


def _valid_share_of_a_pass(units: Any, buckets: int, longest: int) -> float:
    """Valid tokens among those of the batches that the predictor makes."""
    from bert_jax.finetuning.batches import choose_widths, passes, TOKENS_AT_ONCE_ON_CPU

    draws = list(passes(units, choose_widths(units.lengths, buckets, longest), tokens_at_once=TOKENS_AT_ONCE_ON_CPU))
    return float(units.table.lengths.sum() / sum(draw.shape.rows * draw.shape.width for draw in draws))


def hugging_face_trainer(
    data: str, model: str, epochs: int, batch_size: int, max_length: int, prediction_batch_size: int, sampling: str
) -> Figures:
    """BertForSequenceClassification under Trainer: texts tokenised before, rows as long as the longest of their batch.

    Args:
      sampling: Trainer's train_sampling_strategy, "random" or "group_by_length".
    """
    import torch  # type: ignore[import-not-found,unused-ignore]
    import transformers  # type: ignore[import-not-found,unused-ignore]
    from bench_data_sides import cpu_seconds, metered, versions  # type: ignore[import-not-found,unused-ignore]

    begins: list[tuple[float, float]] = []  # of epochs: wall time, CPU-seconds
    ends: list[tuple[float, float]] = []

    class Clock(transformers.TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            begins.append((time.monotonic(), cpu_seconds()))

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            ends.append((time.monotonic(), cpu_seconds()))

    examples = _texts(data)
    tokenizer = transformers.BertTokenizerFast(str(Path(model) / "vocab.txt"))
    encoded = tokenizer([text for text, _ in examples], truncation=True, max_length=max_length)
    rows = [
        {**{name: values[number] for name, values in encoded.items()}, "labels": label}
        for number, (_, label) in enumerate(examples)
    ]
    settings = transformers.TrainingArguments(
        output_dir="peer",
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=prediction_batch_size,
        learning_rate=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=int(WARMUP_SHARE * epochs * -(-len(rows) // batch_size)),
        train_sampling_strategy=sampling,
        use_cpu=True,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    network = transformers.BertForSequenceClassification.from_pretrained(model)
    collator = transformers.DataCollatorWithPadding(tokenizer)
    trainer = transformers.Trainer(network, settings, data_collator=collator, train_dataset=rows, callbacks=[Clock()])
    result = trainer.train()
    for _ in range(2):
        with metered() as predicting:
            trainer.predict(rows)
    return {
        "training": {
            "examples_per_second": len(rows) / (ends[-1][0] - begins[-1][0]),
            "examples_per_cpu_second": len(rows) / (ends[-1][1] - begins[-1][1]),
            "valid_share": _valid_share(trainer.get_train_dataloader()),
            "loss": result.training_loss,  # of all epochs
        },
        "prediction": {
            "examples_per_second": len(rows) / predicting["wall_seconds"],
            "examples_per_cpu_second": len(rows) / predicting["cpu_seconds"],
            "valid_share": _valid_share(trainer.get_test_dataloader(rows)),
        },
        "tokens": sum(map(len, encoded["input_ids"])),
        "settings": {"optimizer": str(settings.optim.value), "threads": torch.get_num_threads()},
        "versions": versions("torch", "transformers", "accelerate", "tokenizers", "numpy"),
    }


def _valid_share(batches: Any) -> float:
    masks = [batch["attention_mask"] for batch in batches]
    return float(sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))


def _texts(data: str) -> list[tuple[str, int]]:
    """Texts and classes of train.tsv."""
    _, *lines = (Path(data) / "train.tsv").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return [(text, int(label)) for text, label in (line.split("\t") for line in lines)]


SIDES: dict[str, Callable[..., Figures]] = {side.__name__: side for side in (ours, hugging_face_trainer)}

if __name__ == "__main__":
    print("\n" + json.dumps(SIDES[sys.argv[1]](**json.loads(sys.argv[2]))))
