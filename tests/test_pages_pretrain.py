# SPDX-License-Identifier: Apache-2.0
"""The page of a pre-training run: figures come from the files, and what is missing is said."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import refusal_of
from page_parts import Html, panels, parts, plain, readings, rows, section, tiles

from bert_jax.cli import main
from bert_jax.config.description import ModelDescription
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import flatten, to_dict
from bert_jax.config.training import OptimizerConfig
from bert_jax.pages.any_run import write_any
from bert_jax.pages.chart import Level, Upright
from bert_jax.pages.page import Page, Paragraph, Sample, Settings
from bert_jax.pages.pretrain import page_of
from bert_jax.pages.pretrain_summary import parameter_count
from bert_jax.pages.several_tasks import pretrained_page
from bert_jax.runs.reading import load_run
from bert_jax.tokenization import WordPieceTokenizer

CONFIG = PretrainConfig(
    model=ModelConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64),
    phases=(PhaseConfig(16, 60, 4, 3), PhaseConfig(32, 40, 4, 5)),
    optimizer=OptimizerConfig(warmup_steps=10),
    compute_dtype="float32",  # a run writes down what `auto` stood for
    log_every=10,
    eval_every=50,
)
CHARTS = [
    "MLM loss",
    "MLM accuracy",
    "Perplexity",
    "NSP accuracy",
    "NSP loss",
    "Learning rate",
    "Gradient norm",
    "Throughput",
    "FLOP utilisation",
]


def train_line(step: int, **changes: Any) -> dict[str, Any]:
    """A training line of metrics.jsonl."""
    loss = 4.0 * math.exp(-step / 60) + 0.5
    nsp = {"nsp_loss": 0.61, "nsp_accuracy": 0.66, "is_next_share": 0.512}
    speed = {
        "seconds": 2.0,
        "tokens_per_second": 1234.0,
        "sequences_per_second": 80.0,
        "model_flops_per_second": 3e9,
    }
    masks = {"picked_share": 0.1503, "mask_share": 0.7912, "random_share": 0.1034, "kept_share": 0.1054}
    scores = {
        "loss": loss + 0.61,
        "mlm_loss": loss,
        "mlm_accuracy": 0.3,
        "grad_norm": 0.8,
        "learning_rate": 2.5e-4,
    }
    line = {"kind": "train", "step": step, "phase": int(step > 60), "valid_tokens": 560}
    return {**line, **scores, **nsp, **speed, **masks, **changes}


def eval_line(step: int) -> dict[str, Any]:
    """A held-out line of metrics.jsonl."""
    scores = {"mlm_loss": 1.625, "mlm_accuracy": 0.27, "nsp_loss": 0.64, "nsp_accuracy": 0.63}
    return {"kind": "eval", "step": step, **scores, "masked_tokens": 900, "pairs": 300}


def table_of(kind: str, length: int, examples: int, share: float, valid: float) -> dict[str, Any]:
    """What the passport says of one table of examples."""
    label = {"nsp": {"is_next_share": share}, "sop": {"in_order_share": share}}.get(kind, {})
    return {"kind": kind, "sequence_length": length, "examples": examples, "valid_token_share": valid, **label}


def data_line(phase: int, **changes: Any) -> dict[str, Any]:
    """What metrics.jsonl says of the first batches of a phase."""
    rows = {"sequence_length": 16 * (phase + 1), "batches": 7, "rows": 28, "examples": 31, "examples_per_row": 1.107}
    picked = {"picked": 431, "picked_share": 0.1511, "valid_token_share": 0.8765, "p_value": 0.4321, "units": 300}
    shown = {"treatment": {"mask": 344, "random": 44, "kept": 43}, "whole_word_share": 1.0, "is_next_share": 0.4839}
    units = {"mean_unit_length": 1.437, "mean_unit_words": 1.021, "warnings": []}
    return {"kind": "data", "step": 0, "phase": phase, **rows, **picked, **shown, **units, **changes}


def split_of(documents: int) -> dict[str, Any]:
    """One split of the passport."""
    tables = [table_of("nsp", 16, 480, 0.507, 0.871), table_of("nsp", 32, 320, 0.493, 0.912)]
    tables += [table_of("sop", 16, 470, 0.511, 0.861), table_of("sop", 32, 310, 0.489, 0.902)]
    tables += [table_of("full_sentences", 16, 300, 0, 0.98), table_of("full_sentences", 32, 160, 0, 0.99)]
    return {
        "documents": documents, "sentences": 2345, "tokens": 34567, "unknown_tokens": 89,
        "unigram_entropy": 3.456,
        "commonest_token": 4, "commonest_token_share": 0.0613,
        "tables": {f"{table['kind']}_{table['sequence_length']}": table for table in tables},
        "shards": [],
    }  # fmt: skip


def sources_of(*files: tuple[str, int]) -> list[dict[str, Any]]:
    """The passport's entry of one source."""
    return [{"source": "text", "files": [{"file": name, "bytes": size, "sha256": "0"} for name, size in files]}]


TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "[MASK]"], lowercase=True)
PASSPORT = {
    "format": 2, "tokenizer": TOKENIZER.fingerprint, "vocab_size": 50, "seed": 0,
    "short_seq_prob": 0.1, "random_next_prob": 0.5,
    "kinds": ["nsp", "sop", "full_sentences"], "sequence_lengths": [16, 32], "held_out": 0.05, "licence": "CC0-1.0",
    "sources": sources_of(("own.txt", 7654321)),
    "warnings": ["own.txt: 40 % of the lines <b>repeat</b>"],
    "splits": {"train": split_of(321), "validation": split_of(17)},
}  # fmt: skip

ENVIRONMENT = {
    "jax": "0.12.0", "devices": "2 x cpu", "platform": "cpu", "device_count": 2, "started":
    "2026-03-04T05:06:07+00:00",
    "peak_flops_per_device": 1e10, "peak_source": "measured: fp32 matrix product",
}  # fmt: skip

EVALUATION = {
    "step": 100, "split": "validation", "objective": "mlm_nsp", "sequence_length": 32, "mlm_loss": 1.6, "mlm_perplexity": 4.953,
    "mlm_accuracy": 0.2777, "mlm_accuracy_95": [0.2611, 0.2943], "masked_tokens": 2801, "unigram_entropy":
    3.456,
    "unigram_loss": 3.512, "commonest_token": "the", "commonest_token_accuracy": 0.0555, "nsp_accuracy":
    0.6543,
    "nsp_accuracy_95": [0.6321, 0.6765], "nsp_loss": 0.6222, "pairs": 1777, "is_next_share": 0.5123,
    "mask_histogram": {"mask": 800, "random": 90, "kept": 110}, "picked_share": 0.1499,
    "samples": [
        {
            "text": "the [MASK] is <read> from [MASK] [SEP] it ends", "answers": ["value", "file"],
            "predictions": [[["value", 0.41], ["data", 0.2]], [["disk", 0.62], ["tape", 0.11]]],
            "pair": {"label": "IsNext", "prediction": "NotNext", "probability": 0.71},
        }
    ],
}  # fmt: skip


def write_run(directory: Path, **files: Any) -> Path:
    """A made-up run; a file given as None is left out. `metrics` is text or a list of lines."""
    lines = [
        line for step in range(10, 101, 10) for line in [train_line(step), eval_line(step)][: 1 + (step % 50 == 0)]
    ]
    contents = {"config": to_dict(CONFIG), "passport": PASSPORT, "environment": ENVIRONMENT, "evaluation": EVALUATION}
    contents = {**contents, "metrics": lines, **files}
    metrics = contents.pop("metrics")
    directory.mkdir(exist_ok=True)
    TOKENIZER.save(directory)
    for name, value in contents.items():
        if value is not None:
            (directory / f"{name}.json").write_text(json.dumps(value))
    if metrics is not None:
        text = metrics if isinstance(metrics, str) else "".join(json.dumps(line) + "\n" for line in metrics)
        (directory / "metrics.jsonl").write_text(text)
    return directory


def page(directory: Path) -> Page:
    """The page of a run directory."""
    return page_of(load_run(directory))


def words_of(item: Page, name: str) -> list[str]:
    """The paragraphs of a section."""
    return [plain(part.words) for part in parts(section(item, name)) if isinstance(part, Paragraph)]


def seen(item: Page) -> dict[str, list[tuple[str, str, str]]]:
    """The findings by subject: severity, what was seen, command."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for finding in item.findings:
        found.setdefault(finding.subject, []).append((finding.severity, finding.placed, finding.command))
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "first-run")


# ---- the whole page --------------------------------------------------------------------------------------------------


def test_command_writes_the_page_and_prints_its_path(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    written = (run / "report.html").read_bytes()
    assert b"<h1>first-run</h1>" in written
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]
    write_any(run)
    assert (run / "report.html").read_bytes() == written


def test_page_stands_alone_with_every_chart_and_section(run: Path) -> None:
    made = page(run)
    html = Html(made)
    assert html.stands_alone()
    assert "http" not in html.source
    assert list(panels(made)) == CHARTS
    assert html.tags.count("svg") == len(CHARTS)
    names = ["mlm", "pairs", "optimizer", "evaluation", "samples", "data", "configuration"]
    assert [part.name for part in made.sections] == names
    assert len(html.source.encode()) < 200_000


def test_long_run_stays_small_and_says_that_it_averages(tmp_path: Path) -> None:
    lines = [train_line(step, grad_norm=0.5 + step % 7) for step in range(1, 1001)]
    config = to_dict(CONFIG) | {"phases": [to_dict(CONFIG)["phases"][0] | {"steps": 1000}]}
    made = page(write_run(tmp_path / "long", metrics=lines, config=config))
    assert len(Html(made).source.encode()) < 400_000
    assert any("more than 300 points are averaged" in words for words in words_of(made, "mlm"))


# ---- numbers come from the files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change", "place", "cells"),
    [
        ("evaluation", {"mlm_loss": 1.23456}, "MLM loss", ["1.2346 nats"]),
        ("evaluation", {"mlm_perplexity": 4.567}, "MLM perplexity", ["4.57"]),
        ("evaluation", {"mlm_accuracy": 0.4321}, "MLM accuracy", ["43.21 %"]),
        ("evaluation", {"nsp_accuracy": 0.8765}, "NSP accuracy", ["87.65 %", "63.21 to 67.65 %"]),
        ("evaluation", {"nsp_accuracy_95": [0.8, 0.9]}, "NSP accuracy", ["65.43 %", "80.00 to 90.00 %"]),
        ("evaluation", {"is_next_share": 0.4}, "Sentence pairs", ["1,777", "", "IsNext 40.0 %, NotNext 60.0 %"]),
        (
            "evaluation",
            {"mask_histogram": {"mask": 70, "random": 20, "kept": 10}},
            "Picked tokens",
            ["14.99 %", "", "[MASK] 70.0 %, random 20.0 %, kept 10.0 %"],
        ),
        ("environment", {"devices": "16 x TPU v5e"}, "Devices", ["16 x TPU v5e"]),
        ("environment", {"started": "2026-07-08T12:00:00+02:00"}, "Last started", ["2026-07-08 10:00 UTC"]),
        ("passport", {"sources": sources_of(("other.txt", 1234567))}, "other.txt", ["1,234,567"]),
        (
            "passport",
            {"sources": [{"source": "tfds:own/train:text", "files": []}]},
            "tfds:own/train:text",
            ["not recorded"],
        ),
        ("passport", {"splits": {"train": split_of(98765)}}, "Documents", ["98,765"]),
    ],
)
def test_changed_number_changes_its_cell(
    run: Path, file: str, change: dict[str, Any], place: str, cells: list[str]
) -> None:
    def now() -> list[str]:
        return rows(page(run)).get(place, [])[: len(cells)]

    assert now() != cells
    before = json.loads((run / f"{file}.json").read_text())
    (run / f"{file}.json").write_text(json.dumps(before | change))
    assert now() == cells


@pytest.mark.parametrize(
    ("change", "label", "value", "note"),
    [
        ({"mlm_loss": 1.256}, "Below unigram entropy", "2.20", "3.456 nats"),
        ({"mlm_loss": 3.51}, "Above unigram entropy", "0.05", "3.456 nats"),
        ({"mlm_accuracy_95": [0.1234, 0.5432]}, "MLM accuracy", "27.8", "95 % interval 12.3 to 54.3"),
        ({"commonest_token_accuracy": 0.02}, "MLM accuracy", "27.8", "13.9 times as often right as always “the”"),
    ],
)
def test_key_figures_of_an_evaluation(run: Path, change: dict[str, Any], label: str, value: str, note: str) -> None:
    (run / "evaluation.json").write_text(json.dumps(EVALUATION | change))
    found = tiles(page(run))[label]
    assert found[0] == value
    assert note in found[2]


@pytest.mark.parametrize(
    ("change", "title", "reading"),
    [
        ({"mlm_loss": 2.3456}, "MLM loss", "2.346"),
        ({"mlm_loss": 2.3456}, "Perplexity", "10.4"),
        ({"nsp_accuracy": 0.7531}, "NSP accuracy", "75.3 %"),
        ({"grad_norm": 3.21}, "Gradient norm", "3.21"),
        ({"learning_rate": 1.7e-5}, "Learning rate", "1.7e-05"),
        ({"tokens_per_second": 9876.0}, "Throughput", "9,876"),
        ({"model_flops_per_second": 1.5e10}, "FLOP utilisation", "75.0 %"),
    ],
)
def test_curves_end_at_the_last_line(tmp_path: Path, change: dict[str, Any], title: str, reading: str) -> None:
    lines = [train_line(10), train_line(100) | change]
    panel = panels(page(write_run(tmp_path / "run", metrics=lines)))[title]
    assert list(readings(panel).values()) == [reading]
    assert panel.chart is not None
    assert [step for step, _ in panel.chart.curves[0].points] == [10, 100]


def test_masks_and_labels_stand_beside_what_is_configured(tmp_path: Path) -> None:
    """15 %, and 80/10/10 of it; shares are weighted by the tokens they are of."""
    lines = [train_line(10, mask_share=0.5, valid_tokens=100), train_line(20, mask_share=0.9, valid_tokens=300)]
    objective = {"mlm_probability": 0.15, "mask_share": 0.8, "random_share": 0.1}
    config = to_dict(CONFIG) | {"objective": objective}
    found = rows(section(page(write_run(tmp_path / "run", metrics=lines, config=config)), "data"))
    assert found["Picked and predicted, of all tokens"] == ["15.03 % of 15.0 % configured"]
    assert found["Picked: replaced by [MASK]"] == ["80.00 % of 80.0 % configured"]
    assert found["Picked: replaced by a random token"] == ["10.34 % of 10.0 % configured"]
    assert found["Picked: kept as it is"] == ["10.54 % of 10.0 % configured"]
    assert found["Pairs: IsNext, the rest NotNext"] == ["51.20 % of 50.0 % configured"]


def test_first_batches_are_shown_phase_by_phase(tmp_path: Path) -> None:
    lines = [data_line(0), data_line(1, p_value=1e-9), train_line(10)]
    found = rows(section(page(write_run(tmp_path / "run", metrics=lines)), "data"))
    assert found["Picked tokens"] == ["431", "431"]
    assert found["Not padding"] == ["87.6 %"] * 2
    assert found["Examples a row"] == ["1.11"] * 2
    assert found["Shown as [MASK] / random / kept"] == ["79.8 / 10.2 / 10.0 %"] * 2
    assert found["Chi-square p of these"] == ["0.43", "1e-09"]
    assert found["Tokens picked as one"] == ["1.44"] * 2
    assert found["IsNext, of all pairs"] == ["48.4 %"] * 2


def test_note_says_what_enters_the_loss(run: Path) -> None:
    words = words_of(page(run), "mlm")[0]
    assert "15 % of them by configuration, here 842 predictions from 5.6 k tokens (15.03 %)" in words


@pytest.mark.parametrize(("rate", "said"), [(0.1, True), (0.0, False)])
def test_curves_have_dropout_where_the_run_has(tmp_path: Path, rate: float, said: bool) -> None:
    model = replace(CONFIG.model, hidden_dropout_prob=rate, attention_probs_dropout_prob=0.0)
    words = words_of(page(write_run(tmp_path / "run", config=to_dict(replace(CONFIG, model=model)))), "mlm")
    assert any("training text, with dropout" in word for word in words) == said
    assert any("dropout" in word for word in words) == said


def test_epochs_are_counted_by_phase(tmp_path: Path) -> None:
    """60 steps x 4 rows of 480 examples, then 20 of 40 steps x 4 rows of 320."""
    lines = [train_line(step) for step in range(10, 81, 10)]
    found = rows(page(write_run(tmp_path / "run", metrics=lines, evaluation=None)))
    assert found["Phase 0"] == ["0.50", "60 of 60", "16", "4", "240", "1.00", "480"]
    assert found["Phase 1"] == ["0.25", "20 of 40", "32", "4", "80", "1.00", "320"]
    assert found["All"][:2] == ["0.75", "80 of 100"]


def test_epochs_of_packed_rows_count_examples(tmp_path: Path) -> None:
    """60 steps x 4 rows with 2.5 examples each, of 480 examples."""
    lines = [train_line(step, examples_per_row=2 + step % 20 / 10) for step in range(10, 61, 10)]
    config = to_dict(CONFIG) | {"packing": "packed", "examples_per_row": 3}
    config["phases"] = [phase | {"max_predictions_per_seq": 16} for phase in config["phases"]]
    found = rows(page(write_run(tmp_path / "run", config=config, metrics=lines, evaluation=None)))
    assert found["Phase 0"] == ["1.25", "60 of 60", "16", "4", "240", "2.50", "480"]
    assert found["Phase 1"][0] == "not recorded"


def test_samples_show_truth_and_predictions(run: Path) -> None:
    sample = next(part for part in parts(page(run)) if isinstance(part, Sample))
    first, second = sample.slots
    assert [piece if isinstance(piece, str) else None for piece in sample.pieces] == [
        "the ", None, " is <read> from ", None, " ", None, " it ends",
    ]  # fmt: skip
    assert (first.answer, first.rank, first.guesses) == ("value", 1, [("value", 0.41), ("data", 0.2)])
    assert (second.answer, second.rank) == ("file", None)
    assert plain(sample.pair) == "The pair: predicted NotNext with probability 0.71; in truth IsNext."


def test_configuration_is_complete_and_marks_what_is_not_the_default(run: Path) -> None:
    settings = next(part for part in parts(page(run)) if isinstance(part, Settings))
    found = {f"{group}.{row.name}": row for group, members in settings.groups.items() for row in members}
    assert len(found) == len(list(flatten(to_dict(CONFIG))))
    assert (found["model.hidden_size"].value, found["model.hidden_size"].default) == ("32", "768")
    assert found["model.hidden_act"].default is None
    assert found["phases.1.steps"].default == "100,000"
    assert found["run.log_every"].help == "steps between two lines of metrics.jsonl"


def test_phases_and_reference_lines_are_marked(run: Path) -> None:
    found = panels(page(run))
    charts = {title: panel.chart for title, panel in found.items() if panel.chart}
    assert all(chart.uprights == [Upright(60, "phase 1: 32 tokens")] for chart in charts.values())
    levels = {title: (chart.level.value, plain(chart.level.label)) for title, chart in charts.items() if chart.level}
    assert levels == {
        "MLM loss": (3.456, "unigram entropy 3.46"),
        "MLM accuracy": (0.0613, "always “the” 6.1 %"),
        "Perplexity": (pytest.approx(math.exp(3.456)), "unigram model 31.7"),
        "NSP accuracy": (0.5, "guessing 50 %"),
        "NSP loss": (pytest.approx(math.log(2)), "guessing ln 2 = 0.693"),
        "Gradient norm": (1.0, "clipped above 1"),
    }
    assert charts["MLM loss"].level == Level(3.456, "unigram entropy 3.46")


# ---- what is missing -------------------------------------------------------------------------------------------------


def test_torn_last_line_is_said_and_left_out(tmp_path: Path) -> None:
    text = json.dumps(train_line(10)) + "\n" + json.dumps(train_line(20)) + "\n" + json.dumps(train_line(30))[:57]
    run = write_run(tmp_path / "run", metrics=text, evaluation=None)
    made = page(run)
    assert [line["step"] for line in load_run(run).train] == [10, 20]
    assert "1 torn line (3)" in seen(made)["Metrics"][0][1]
    assert (made.status, made.state) == ("stopped at step 20 of 100", "open")


def test_missing_evaluation_names_its_command(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=None)
    made, command = page(run), f"bert-jax evaluate {run} --data DATA"
    assert command in words_of(made, "evaluation")[0]
    assert command in words_of(made, "samples")[0]
    assert seen(made)["Evaluation"][0][2] == command
    assert tiles(made)["MLM loss"] == ("1.625", "nats", "held-out, step 100")
    assert "no interval before an evaluation" in tiles(made)["MLM accuracy"][2]


def test_old_evaluation_is_said(run: Path) -> None:
    (run / "evaluation.json").write_text(json.dumps(EVALUATION | {"step": 50}))
    assert seen(page(run))["Evaluation"][0][1] == "the evaluation is of step 50, the run is at step 100"


def test_before_any_held_out_line_scores_are_called_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metrics=[train_line(10, mlm_loss=3.111)], evaluation=None)
    assert tiles(page(run))["MLM loss"] == ("3.111", "nats", "training text, step 10")


@pytest.mark.parametrize("metrics", [None, "", "\n", '{"kind": "train", "st'])
def test_run_without_a_step(tmp_path: Path, metrics: str | None) -> None:
    run = write_run(tmp_path / "run", metrics=metrics, evaluation=None)
    made = page(run)
    assert made.status == "no step logged yet"
    assert seen(made)["Progress"][0][2] == f"bert-jax pretrain {run}/config.json --data DATA --output {run}"
    assert all(panel.chart is None and panel.missing for panel in panels(made).values())
    assert "svg" not in Html(made).tags


def with_objective(name: str, **changes: Any) -> dict[str, Any]:
    return to_dict(CONFIG) | {"objective": {"name": name}, **changes}


@pytest.mark.parametrize("name", ["mlm_pairs", "mlm_full_sentences"])
def test_run_without_pairs(tmp_path: Path, name: str) -> None:
    def without(line: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in line.items() if not key.startswith(("nsp", "is_next")) and key != "pairs"}

    lines = [without(train_line(10)), without(eval_line(100))]
    scores = without(EVALUATION) | {"objective": name}
    made = page(write_run(tmp_path / "run", config=with_objective(name), metrics=lines, evaluation=scores))
    assert name in words_of(made, "pairs")[0]
    assert not any("NSP" in label or label.startswith("Pairs:") for label in rows(made))
    assert list(panels(made)) == [title for title in CHARTS if "NSP" not in title]


def test_a_text_that_was_named_is_shown_with_its_floors(run: Path) -> None:
    assert not any("unigram, " in label for label in rows(page(run)))
    scores = {
        "step": 100, "mlm_loss": 2.5, "mlm_perplexity": 12.1825, "masked_tokens": 1234,
        "unigram_loss": 3.5, "unigram_perplexity": 33.1155, "backward_five_gram_loss": 2.25,
        "backward_five_gram_perplexity": 9.4877,
        "text": {"files": [{"file": "held.txt", "sha256": "e" * 64}], "documents": 9, "sentences": 77, "tokens": 999},
        "pseudo": {"sentences": 5, "tokens": 80, "loss": 2.75, "perplexity": 15.6426, "bigram_loss": 3.0,
                   "bigram_perplexity": 20.0855},
        "ngrams": {"text": "training split of data", "counted_tokens": 5000},
    }  # fmt: skip
    (run / "evaluation-text.json").write_text(json.dumps(scores))
    made = page(run)
    found = rows(made)
    assert found["MLM, 1,234 masked tokens"] == ["12.18", "2.5000 nats"]
    assert found["unigram, the same tokens"] == ["33.12", "3.5000 nats"]
    assert found["backward five-gram, the same tokens"] == ["9.49", "2.2500 nats"]
    assert found["pseudo-perplexity, 80 tokens, each masked in turn"] == ["15.64", "2.7500 nats"]
    assert found["bigram, the same tokens"] == ["20.09", "3.0000 nats"]
    assert any("77 sentences, held.txt, at step 100" in words for words in words_of(made, "evaluation"))


def test_sentence_order_is_not_called_next_sentence(tmp_path: Path) -> None:
    """Objective mlm_sop: headings, charts, tables and samples speak of order; the figures are those of its examples."""
    sample = EVALUATION["samples"][0] | {"pair": {"label": "swapped", "prediction": "in order", "probability": 0.6}}
    evaluation = EVALUATION | {"objective": "mlm_sop", "samples": [sample]}
    made = page(write_run(tmp_path / "run", config=with_objective("mlm_sop"), evaluation=evaluation))
    text = Html(made).text.partition("Configuration and environment")[0]
    assert not any(word in text for word in ("NSP", "IsNext", "NotNext"))
    assert section(made, "pairs").title == "Sentence order"
    assert readings(panels(made)["SOP accuracy"])["training"] == "66.0 %"
    found = rows(made)
    assert found["SOP accuracy"][0] == "65.43 %"
    assert found["Sentence pairs"][2] == "in order 51.2 %, swapped 48.8 %"
    assert found["In order / swapped, 16 tokens"] == ["51.1 / 48.9 %"] * 2
    assert found["Examples of 16 tokens"] == ["470", "470"]
    assert found["Pairs: in order, the rest swapped"] == ["51.20 % of 50.0 % configured"]
    assert "predicted in order with probability 0.60; in truth swapped" in text
    assert dict(made.facts)["Objective"].replace("\xa0", " ") == "mlm_sop, 15 % picked by token; rows padded"


def test_objective_and_rows_stand_at_the_top(tmp_path: Path) -> None:
    objective = {"name": "mlm_full_sentences", "masking": "whole_word", "mlm_probability_end": 0.3}
    config = with_objective("", objective=objective, packing="packed", examples_per_row=3)
    config["phases"] = [phase | {"max_predictions_per_seq": 16} for phase in config["phases"]]
    made = page(write_run(tmp_path / "run", config=config))
    words = "mlm_full_sentences, 15 to 30 % picked by whole word; rows packed, up to 3 examples a row"
    assert plain(dict(made.facts)["Objective"]) == words
    assert rows(made)["Picked and predicted, of all tokens"] == ["15.03 % of 15.0 to 30.0 % configured"]


def test_unknown_peak_is_said(tmp_path: Path) -> None:
    environment = ENVIRONMENT | {"peak_flops_per_device": None, "peak_source": None}
    found = panels(page(write_run(tmp_path / "run", environment=environment)))
    assert "FLOP utilisation" not in found
    assert readings(found["Model FLOPs"]) == {"newest": "0.003 TFLOP/s"}
    assert "No peak known" in found["Model FLOPs"].note


@pytest.mark.parametrize("file", ["passport", "environment"])
def test_missing_file_is_said(tmp_path: Path, file: str) -> None:
    made = page(write_run(tmp_path / "run", **{file: None}))
    assert f"{file}.json is missing" in seen(made)[file.capitalize()][0][1]


def test_loss_that_is_not_a_number_is_said(tmp_path: Path) -> None:
    bad = train_line(20, loss=math.nan, mlm_loss=math.nan, grad_norm=math.inf)
    made = page(write_run(tmp_path / "run", metrics=[train_line(10), bad, train_line(30)]))
    severity, words, _ = seen(made)["Curves"][0]
    assert (severity, "step 20" in words) == ("problem", True)
    assert Html(made).text.index(words) < Html(made).text.index("Perplexity")


# ---- several runs ----------------------------------------------------------------------------------------------------


def test_a_folder_of_runs_says_in_what_they_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    lower = to_dict(CONFIG) | {"seed": 7}
    lower["optimizer"] = lower["optimizer"] | {"learning_rate": 3e-5}
    bad = [train_line(10, loss=math.nan, mlm_loss=math.nan)]
    write_run(tmp_path / "b", config=lower, metrics=bad, evaluation=None)
    write_any(tmp_path)
    made = pretrained_page(tmp_path, [load_run(tmp_path / name) for name in "ab"])
    found = rows(made)
    assert found["a"][-1] == f"optimizer.learning_rate {CONFIG.optimizer.learning_rate}, seed 0"
    assert found["b"][-1] == "optimizer.learning_rate 3e-05, seed 7"
    assert found["a"][2:5] == ["1.600", "27.8 %", "validation, step 100"]
    assert [finding.where.split(":")[0] for finding in made.findings] == ["b"]
    links = Html(made).links
    assert links == ["a/report.html", "b/report.html"]
    assert all((tmp_path / link).is_file() for link in links)


# ---- refusals --------------------------------------------------------------------------------------------------------


def spoil(name: str, content: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(content)


def change(name: str, record: dict[str, Any], **values: Any) -> Callable[[Path], object]:
    return spoil(name, json.dumps(record | values))


SAMPLE = EVALUATION["samples"][0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "config.json").unlink(), "is not a run directory"),
        (spoil("config.json", "{"), "config.json is not JSON of use here"),
        (spoil("config.json", '{"sed": 1}'), "unknown setting 'sed'"),
        (spoil("evaluation.json", '{"step": 1'), "evaluation.json is not JSON of use here"),
        (spoil("passport.json", "[]"), "passport.json is not JSON of use here: it is a list"),
        (
            change("evaluation.json", EVALUATION, mlm_loss="low"),
            "evaluation.json holds other values than it should (mlm_loss",
        ),
        (change("evaluation.json", EVALUATION, mlm_accuracy_95={"low": 1}), "(mlm_accuracy_95"),
        (
            change("evaluation-text.json", {}, text="long"),
            "evaluation-text.json holds other values than it should (text",
        ),
        (change("evaluation-text.json", {}, step=1), "evaluation-text.json lacks"),
        (change("evaluation.json", EVALUATION, samples={"0": SAMPLE}), "(samples"),
        (change("evaluation.json", EVALUATION, samples=[SAMPLE | {"predictions": [[["a"]]]}]), "evaluation.json"),
        (change("evaluation.json", EVALUATION, samples=[SAMPLE | {"predictions": [[["a", "b"]]]}]), "evaluation.json"),
        (change("evaluation.json", EVALUATION, samples=[SAMPLE | {"pair": {"label": "x"}}]), "evaluation.json lacks"),
        (change("evaluation.json", EVALUATION, mask_histogram={"mask": [1]}), "(mask_histogram.mask"),
        (change("environment.json", ENVIRONMENT, device_count="two"), "environment.json holds other values"),
        (change("environment.json", ENVIRONMENT, peak_flops_per_device=[1]), "(peak_flops_per_device"),
        (change("passport.json", PASSPORT, splits=[1]), "passport.json holds other values than it should (splits"),
        (change("passport.json", PASSPORT, sources=[{"files": [3]}]), "(sources[0].files[0]"),
        (change("passport.json", PASSPORT, sources=[None]), "(sources[0] is null"),
        (change("passport.json", PASSPORT, kinds=7), "(kinds"),
        (
            change("passport.json", PASSPORT, splits={"train": {"tables": {"nsp_16": [0]}}}),
            "(splits.train.tables.nsp_16",
        ),
    ],
)
def test_refusals_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], words: str
) -> None:
    damage(run)
    assert main(["report", str(run)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("bert-jax report: ")
    assert words in captured.err
    assert not (run / "report.html").exists()


def test_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing: is not a run directory" in refusal_of(capsys, "report", tmp_path / "nothing")


def test_parameters_of_the_published_sizes() -> None:
    """BERT-base and BERT-large, uncased, as published: encoder and pooler."""
    assert parameter_count(ModelDescription(ModelConfig())) == 109_482_240
    large = ModelConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    assert parameter_count(ModelDescription(large)) == 335_141_888
    no_pairs = ModelDescription(ModelConfig(), pooler=False, nsp=False)
    assert parameter_count(no_pairs) == 108_891_648
