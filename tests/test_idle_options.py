# SPDX-License-Identifier: Apache-2.0
"""No option or setting is accepted and ignored: where it would do nothing it is refused, in every stage and kind of task.

A new option has to be entered here: under `ALWAYS` if it acts whatever else is given, else with what makes it idle.
"""

import argparse
import dataclasses
import importlib

import pytest
from conftest import refusal_of

from bert_jax.base.errors import UserError
from bert_jax.cli import STAGES
from bert_jax.config.description import TASKS
from bert_jax.config.finetune import ACTS_IN, FinetuneConfig, PACKED
from bert_jax.tasks.own import own_task, with_columns

PREPARE = "prepare --input FILE --vocab VOCAB --output OUT"
BARE = "--objective mlm_document"
OWN = "finetune own --data FILE --model MODEL --output OUT --kind span"
SST2 = "finetune sst2 --data FILE --model MODEL --output OUT"
VOCAB = "vocab --input FILE --output OUT"

# (stage, option) -> command lines in which it would do nothing.
IDLE = {
    ("bench", "only"): ["bench --all --only feed"],
    ("bench", "all"): ["bench --only feed --all"],
    ("bench", "peer_python"): ["bench --only checkpoint --peer-python FILE"],
    ("bench", "text"): ["bench --only step --text FILE"],
    ("bench", "vocab"): ["bench --only step --vocab FILE"],
    ("bench", "google"): ["bench --only feed --google FOLDER"],
    ("bench", "data"): ["bench --only feed --data FOLDER"],
    ("bench", "model"): ["bench --only feed --model FOLDER"],
    ("convert", "to"): ["convert --compare A B --to tf1"],
    ("convert", "compare"): ["convert A B --compare A B"],
    ("convert", "dtype"): ["convert --compare A B --dtype float16"],
    ("doctor", "data"): ["doctor DATA --data DATA"],
    **{
        ("embed", name): [f"embed MODEL --serve --{name} {value}"]
        for name, value in {"input": "FILE", "output": "OUT", "dtype": "float16"}.items()
    },
    ("convert", "pooling"): ["convert --compare A B --pooling cls"],
    ("convert", "normalize"): ["convert --compare A B --normalize", "convert --compare A B --no-normalize"],
    ("convert", "generator"): ["convert --compare A B --generator"],
    ("embed", "distributed"): ["embed MODEL --serve --distributed"],
    ("embed", "processes"): ["embed MODEL --serve --processes 2"],
    ("embed", "process_id"): ["embed MODEL --serve --process-id 0"],
    ("embed", "coordinator"): ["embed MODEL --serve --coordinator h:1"],
    ("embed", "combine"): ["embed MODEL --input FILE --output OUT --combine sum"],
    ("embed", "shard_vectors"): [
        "embed MODEL --input FILE --output OUT.npz --shard-vectors 4",
        "embed MODEL --serve --shard-vectors 4",
    ],
    ("export", "pooling"): [],  # tests of export: it depends on the checkpoint
    ("export", "normalize"): [],  # the same
    ("export", "int8"): ["export MODEL --to stablehlo --output OUT --int8"],
    **{
        ("export", name): [f"export MODEL --to onnx --output OUT --{name} {value}"]
        for name, value in {"data": "FILE", "split": "dev", "loss": "0.1", "task": "sst2"}.items()
    },
    ("fill-mask", "json"): ["fill-mask MODEL --serve --json"],
    ("evaluate", "processes"): ["evaluate RUN --data DATA --processes 2"],
    ("evaluate", "process_id"): ["evaluate RUN --data DATA --process-id 0"],
    ("evaluate", "coordinator"): ["evaluate RUN --data DATA --coordinator h:1"],
    ("evaluate", "split"): ["evaluate RUN --text FILE --split train"],
    ("evaluate", "unknown_labels"): ["evaluate RUN --data DATA --unknown-labels ignore"],
    **{
        ("evaluate", name.replace("-", "_")): [f"evaluate RUN --data DATA --{name} {value}"]
        for name, value in {
            "baseline-text": "FILE",
            "order": "3",
            "pseudo-perplexity": "3",
            "lines": "sentences",
            "json-field": "a",
            "errors": "strict",
            "text-format": "plain",
        }.items()
    },
    **{
        ("finetune", name.replace("-", "_")): [f"{SST2} --{name} {value}"]
        for name, value in {
            "kind": "tagging",
            "text-column": "a",
            "label-column": "b",
            "id-column": "c",
            "choice-column": "d",
            "positive": "e",
            "separator": ";",
        }.items()
    },
    ("finetune", "labels"): [f"{SST2} --labels a b", f"{OWN} --labels a b"],
    ("finetune", "seeds"): [f"{SST2} --sweep --seeds 2"],
    ("finetune", "sweep"): [f"{SST2} --seeds 2 --sweep"],
    ("finetune", "retries"): [f"{SST2} --seeds 2 --retries 1", f"{SST2} --sweep --retries 1"],
    ("predict", "distributed"): ["predict RUN --distributed"],
    ("predict", "processes"): ["predict RUN --processes 2", "predict RUN --serve --processes 2"],
    ("predict", "process_id"): ["predict RUN --process-id 0"],
    ("predict", "coordinator"): ["predict RUN --coordinator h:1"],
    **{
        ("predict", name): [f"predict RUN --{name.replace('_', '-')} {value}"]
        for name, value in {
            "split": "dev",
            "unknown_labels": "ignore",
            "output": "OUT",
            "zip": "OUT",
        }.items()
    },
    **{
        ("probe", name.replace("-", "_")): [f"probe MODEL --task sst2 --data FILE --output OUT --{name} {value}"]
        for name, value in {
            "kind": "tagging",
            "text-column": "a",
            "label-column": "b",
            "id-column": "c",
            "choice-column": "d",
            "positive": "e",
            "separator": ";",
            "labels": "a b",
        }.items()
    },
    ("generate", "top_k"): ["generate MODEL TEXT --top-k 3"],
    ("generate", "seed"): ["generate MODEL TEXT --seed 3"],
    ("plan", "slices"): ["plan tiny --topology local --slices 2"],
    ("prepare", "runner_options"): [f"{PREPARE} --runner-options=--x=1"],
    ("prepare", "workers"): [f"{PREPARE} --runner DirectRunner --workers 2"],
    ("prepare", "random_next_prob"): [f"{PREPARE} {BARE} --random-next-prob 0.1"],
    ("prepare", "short_seq_prob"): [f"{PREPARE} {BARE} --short-seq-prob 0.2"],
    ("prepare", "json_field"): [f"{PREPARE} --text-format plain --json-field body"],
    ("prepare", "lines"): [f"{PREPARE} --text-format json --lines paragraphs"],
    ("finetune", "processes"): [f"{SST2} --processes 2"],
    ("finetune", "process_id"): [f"{SST2} --process-id 0"],
    ("finetune", "coordinator"): [f"{SST2} --coordinator h:1"],
    ("pretrain", "keep"): ["pretrain tiny --data DATA --output OUT --keep moments"],
    ("pretrain", "map_vocab"): ["pretrain tiny --data DATA --output OUT --map-vocab"],
    ("pretrain", "vocab"): ["pretrain tiny --data DATA --output OUT --vocab VOCAB"],
    ("pretrain", "padding_rows"): ["pretrain tiny --data DATA --output OUT --padding-rows keep"],
    ("pretrain", "gelu"): ["pretrain tiny --data DATA --output OUT --gelu gelu_erf"],
    ("pretrain", "skip"): ["pretrain tiny --data DATA --output OUT --skip cls.*"],
    ("pretrain", "processes"): ["pretrain tiny --data DATA --output OUT --processes 2"],
    ("pretrain", "process_id"): ["pretrain tiny --data DATA --output OUT --process-id 0"],
    ("pretrain", "coordinator"): ["pretrain tiny --data DATA --output OUT --coordinator h:1"],
    ("tokenize", "seed"): ["tokenize VOCAB text --seed 3"],
    ("vocab", "keep_accents"): [f"{VOCAB} --keep-accents --cased", f"{VOCAB} --keep-accents --algorithm bpe"],
    ("vocab", "cased"): ["vocab --input FILE --compare VOCAB VOCAB --cased"],
    ("vocab", "algorithm"): ["vocab --input FILE --compare VOCAB VOCAB --algorithm bpe"],
    ("vocab", "size"): ["vocab --input FILE --compare VOCAB VOCAB --size 99"],
    ("vocab", "min_frequency"): [f"{VOCAB} --algorithm bpe --min-frequency 3"],
    ("vocab", "limit_alphabet"): [f"{VOCAB} --algorithm unigram --limit-alphabet 3"],
    ("vocab", "character_coverage"): [f"{VOCAB} --character-coverage 0.9"],
    ("vocab", "json_field"): [f"{VOCAB} --text-format wiki --json-field body"],
    ("vocab", "lines"): [f"{VOCAB} --text-format json --lines paragraphs"],
    ("vocab extend", "output"): [],
    ("vocab extend", "words"): ["vocab extend MODEL --words FILE"],
    ("vocab extend", "positions"): ["vocab extend MODEL --positions 9"],
    ("vocab extend", "input"): ["vocab extend MODEL --input FILE --output OUT"],
    ("vocab extend", "add"): ["vocab extend MODEL --add 3 --output OUT"],
    ("vocab extend", "keep_unused"): ["vocab extend MODEL --positions 9 --output OUT --keep-unused"],
    ("study", "teacher"): ["study sizes --data FILE --output OUT --teacher FILE"],
    ("senses", "example"): ["senses MODEL --input FILE --example english --output OUT"],
    ("senses", "input"): ["senses MODEL --example english --input FILE --output OUT"],
    ("score squad", "na_probs"): ["score squad --version 1.1 --data FILE --predictions FILE --na-probs FILE"],
    ("score squad", "na_threshold"): ["score squad --version 2.0 --data FILE --predictions FILE --na-threshold 1"],
    ("score conll", "outside"): ["score conll FILE --outside X"],
    ("score glue", "split"): ["score glue --task all --data DATA --predictions DATA --split dev"],
}
# What a checkpoint leaves open: whether it does is known once it is opened (tests of conversion). The cache serves buckets.
CHECKPOINT = {"vocab", "padding_rows", "gelu", "kind", "skip", "cache_size"}
ALWAYS = {
    "bench": {"config", "settings", "output"},
    "compare": {"first", "second", "split", "json"},
    "convert": {"source", "destination", "peer_python"} | CHECKPOINT,
    "corpus": {"output", "megabytes", "seed", "workers"},
    "data": {"command"},
    "data check": {"folder", "task", "json"},
    "describe": {"config", "settings", "json"} | CHECKPOINT,
    "doctor": {"cache_size", "path", "json", "overfit"},
    "embed": {"model", "pooling", "normalize", "layers", "too_long", "compute_dtype", "serve"} | CHECKPOINT,
    "export": {"model", "to", "output", "for"} | CHECKPOINT,
    "evaluate": {"model", "data", "sequence_length", "json", "text", "output", "task", "distributed"}
    | CHECKPOINT - {"kind"},
    "fill-mask": {"model", "texts", "top_k", "serve"} | CHECKPOINT - {"kind"},
    "generate": {"model", "prompts", "tokens", "temperature", "json"} | CHECKPOINT - {"kind"},
    "finetune": {"recipe", "settings", "data", "model", "output", "from_scratch", "distributed", "teacher"}
    | CHECKPOINT - {"kind"},
    "plan": {"config", "settings", "topology", "quick", "flags", "output", "json"},
    "predict": {"model", "data", "task", "serve", "calibrated"} | CHECKPOINT,
    "prepare": {
        "cache_size",
        "input",
        "vocab",
        "output",
        "cased",
        "uncased",
        "errors",
        "text_format",
        "splitter",
        "segmenter",
        "licence",
    }
    | {
        "near_duplicates",
        "evaluation_data",
        "objective",
        "sequence_length",
        "held_out",
        "seed",
        "shard_size",
        "runner",
    },
    "pretrain": {"cache_size", "config", "settings", "data", "output", "distributed", "from", "teacher"},
    "probe": {"models", "task", "data", "output", "seeds", "train_examples", "pooling"} | CHECKPOINT - {"kind"},
    "replay": {"cache_size", "run", "step", "data"},
    "report": {"run"},
    "reproduce": {"cache_size", "run", "steps", "kills", "data", "output"},
    "senses": {"model", "output"} | CHECKPOINT - {"kind"},
    "study": {"cache_size", "name", "data", "output", "tasks", "budget"},
    "sweep": {"cache_size", "config", "settings", "data", "output", "seeds", "compute"},
    "tokenize": {"model", "texts", "mask", "json"},
    "vocab": {"cache_size", "input", "output", "compare", "sample_characters", "errors", "text_format"},
    "vocab extend": {"model"} | CHECKPOINT,
    "score": {"scorer"},
    "score squad": {"version", "data", "predictions", "json"},
    "score conll": {"file", "delimiter", "raw", "json"},
    "score glue": {"task", "data", "predictions", "json"},
}


class _Found(Exception):
    pass


def parser_of(stage: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a stage makes."""
    found: list[argparse.ArgumentParser] = []

    def take(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        found.append(self)
        raise _Found

    name, *rest = stage.split()
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", take)
    with pytest.raises(_Found):
        importlib.import_module(f"bert_jax.pipelines.{name.replace('-', '_')}").main(rest)
    return found[0]


def options_of(parser: argparse.ArgumentParser, stage: str) -> dict[str, set[str]]:
    """The options of a parser and of those below it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    names = {
        action.option_strings[-1].removeprefix("--").removeprefix("no-").replace("-", "_")
        if action.option_strings
        else action.dest
        for action in parser._actions
        if action.help != argparse.SUPPRESS
    }
    found = {stage: names - {"help"}}
    for action in below:
        for name, inner in action.choices.items():
            found |= options_of(inner, f"{stage} {name}")
    return found


@pytest.mark.parametrize("stage", [*STAGES, "vocab extend"])
def test_of_every_option_it_is_said_where_it_acts(stage, monkeypatch):
    for name, options in options_of(parser_of(stage, monkeypatch), stage).items():
        entered = ALWAYS.get(name, set()) | {option for where, option in IDLE if where == name}
        assert options == entered, f"enter the options of {name} in the tables of this file"


@pytest.mark.parametrize(("option", "line"), [(option, line) for (_, option), lines in IDLE.items() for line in lines])
def test_an_option_that_would_do_nothing_is_refused(option, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("some text\n")
    (tmp_path / "VOCAB").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsome\n")
    before = set(tmp_path.iterdir())
    assert f"--{option.replace('_', '-')}" in refusal_of(capsys, *line.split())
    assert set(tmp_path.iterdir()) == before


# ---- settings of fine-tuning, by kind of task --------------------------------------------------------------------

OTHER_VALUES = {
    "unknown_labels": "ignore", "fusion": "max", "max_query_length": 9, "max_answer_length": 9, "n_best": 9,
    "normalisation": "window", "broken_tags": "refuse", "tag_scheme": "IOB2", "constrained": True,
}  # fmt: skip
CONDITIONAL = {"stride", "combine", "packing", "buckets"}  # with too_long=windows, with layers; by the kind of task
IN_EVERY_KIND = {
    "seed", "optimizer", "distill", "batch_size", "epochs", "max_length", "too_long", "layers", "lstm",
    "mesh", "compute_dtype", "remat", "scan_layers",
    "attention", "log_every", "evals_per_epoch", "single_segment", "micro_batches", "save_every", "keep_checkpoints",
    "profile", "tracker", "on_bad_step", "most_bad_steps", "spike",
}  # fmt: skip


def test_of_every_setting_it_is_said_in_which_kinds_it_acts():
    names = {field.name for field in dataclasses.fields(FinetuneConfig)}
    assert names == IN_EVERY_KIND | CONDITIONAL | ACTS_IN.keys()
    assert OTHER_VALUES.keys() == ACTS_IN.keys()


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", ACTS_IN)
def test_a_setting_of_another_kind_is_refused(kind, name):
    config = FinetuneConfig(**{name: OTHER_VALUES[name], "too_long": "windows"})
    if kind in ACTS_IN[name]:
        config.require_effect(kind)
    else:
        with pytest.raises(UserError, match=f"^{name} is for .* and does nothing in {kind}: leave it out"):
            config.require_effect(kind)


@pytest.mark.parametrize("kind", TASKS)
def test_settings_that_need_another_are_refused_without_it(kind):
    with pytest.raises(UserError, match="stride is of windows"):
        FinetuneConfig(stride=9, too_long="truncate").require_effect(kind)
    with pytest.raises(UserError, match="combine is of several layers"):
        FinetuneConfig(combine="sum").require_effect(kind)
    FinetuneConfig(stride=9, too_long="windows", combine="sum", layers="-2,-1").require_effect(kind)


@pytest.mark.parametrize("kind", TASKS)
def test_rows_that_several_examples_share_have_no_buckets_and_others_are_not_packed(kind):
    FinetuneConfig(packing="buckets", buckets=2).require_effect(kind)
    refused = {"buckets": 2} if kind in PACKED else {"packing": "packed"}
    with pytest.raises(UserError, match=f"^{next(iter(refused))}"):
        FinetuneConfig(**refused).require_effect(kind)


NEEDED = {
    "classification": {"text": ["a"], "label": "b"},
    "multi_label": {"text": ["a"], "label": "b"},
    "regression": {"text": ["a"], "label": "b"},
    "choice": {"text": ["a"], "label": "b", "choices": ["c", "d"]},
    "span": {},
    "tagging": {},
}
REFUSED = {
    "classification": {"choices"},
    "multi_label": {"choices"},
    "regression": {"choices", "labels"},
    "choice": set(),
    "span": {"text", "label", "id", "labels", "choices"},
    "tagging": {"id", "choices", "label"},  # without --text
}


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("option", ["text", "label", "id", "labels", "choices"])
def test_options_of_own_data_act_or_are_refused(kind, option):
    value = {"text": ["x"], "label": "y", "id": "z", "labels": ["p", "q"], "choices": ["s", "t"]}[option]
    arguments = NEEDED[kind] | {option: value}
    if option in REFUSED[kind]:
        with pytest.raises(UserError):
            own_task(kind, **arguments)
        return
    task = own_task(kind, **arguments)
    held = {"text": task.columns and task.columns.text, "labels": task.labels}
    held |= {} if task.columns is None else {"label": task.columns.label, "id": task.columns.id}
    held |= {} if task.columns is None else {"choices": task.columns.choices}
    assert held[option] in (value, tuple(value))


def test_columns_of_a_task_of_the_table_are_of_tagging():
    task = with_columns("conll2003", [1], "XPOS", ["A", "B"])
    assert task.columns is not None
    assert (task.columns.text, task.columns.label, task.labels) == ((1,), "XPOS", ("A", "B"))
    assert task.tfds is not None
    assert task.tfds.columns is task.columns, "with --data tfds: they would be ignored"
    with pytest.raises(UserError, match="sst2 has its own columns and labels"):
        with_columns("sst2", ["a"])
