# SPDX-License-Identifier: Apache-2.0
"""The report of a run: what is on the page comes from the files, and what is missing is said."""

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import jinja2
import numpy as np
import pytest
from matplotlib import rcParams

from bert_jax.cli import main
from bert_jax.config.model import ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import flatten, to_dict
from bert_jax.config.training import OptimizerConfig
from bert_jax.pages import charts, panels, pretrain_data
from bert_jax.pages import pretrain_tables as tables
from bert_jax.pages.drawing import blank_chart, spread, Steps, svg, thin
from bert_jax.pages.pretrain import write_report
from bert_jax.pages.pretrain_summary import parameter_count
from bert_jax.pages.template import fill, save_page
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
    "mlm-loss",
    "mlm-accuracy",
    "perplexity",
    "pair-accuracy",
    "pair-loss",
    "learning-rate",
    "gradient-norm",
    "throughput",
    "utilisation",
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


class _Texts(HTMLParser):
    """Visible text, opened tags, and what is left unclosed."""

    VOID = ("meta", "br", "hr", "link")

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [(name, value or "") for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def parse(page: str) -> _Texts:
    parser = _Texts()
    parser.feed(page)
    parser.close()
    return parser


def page_of(directory: Path) -> str:
    """The run's report with empty drawings: what the words say does not need them, and drawing is slow."""
    drawings = {name: lambda *_, **__: "<svg></svg>" for name in vars(panels) if name.endswith("_chart")}
    with mock.patch.multiple(panels, **drawings):
        return write_report(directory).read_text(encoding="utf-8")


def text_of(directory: Path) -> str:
    """The visible text of the run's report, white space made single."""
    return parse(page_of(directory)).text


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, flags=re.DOTALL)
    assert found is not None
    return parse(found[0]).text


@pytest.fixture(scope="module")
def drawn_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the made-up run with its charts."""
    return write_report(write_run(tmp_path_factory.mktemp("drawn") / "run")).read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "first-run")


# ---- the whole page ----------------------------------------------------------------------------------------


def test_command_writes_the_page_and_prints_its_path(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert "<h1>first-run</h1>" in (run / "report.html").read_text()
    assert [path.name for path in run.iterdir() if "report" in path.name] == ["report.html"]


def test_every_chart_and_section_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = charts.svg
    monkeypatch.setattr(charts, "svg", lambda figure, name, text: drawn.append(name) or original(figure, name, text))
    page = write_report(run).read_text(encoding="utf-8")
    assert drawn == CHARTS
    assert page.count("<svg") == len(CHARTS)
    for name in ("mlm", "pairs", "optimizer", "evaluation", "samples", "data", "configuration"):
        assert section(page, name)


def test_page_is_well_formed_and_loads_nothing(drawn_page: str) -> None:
    parsed = parse(drawn_page)
    assert parsed.open == []
    assert all(value.startswith("#") for _, value in parsed.links)
    assert not {"script", "img", "iframe", "link", "object"} & set(parsed.tags)
    assert "http" not in drawn_page
    assert "@import" not in drawn_page
    assert "url(" not in drawn_page.replace("url(#", "")
    assert len(drawn_page.encode()) < 600_000


def test_names_within_the_page_meet(drawn_page: str) -> None:
    """Charts are inlined into one document: what one refers to must exist, and exist once."""
    names = re.findall(r'\bid="([^"]+)"', drawn_page)
    assert len(names) == len(set(names))
    assert set(re.findall(r"url\(#([^)]+)\)", drawn_page)) | set(re.findall(r'href="#([^"]+)"', drawn_page)) <= set(
        names
    )


def test_colours_of_charts_follow_the_page(drawn_page: str) -> None:
    """A fixed colour in a chart would be unreadable in dark mode."""
    for chart in re.findall(r"<svg.*?</svg>", drawn_page, flags=re.DOTALL):
        assert not re.findall(r"(?:fill|stroke): ?(?:#|rgb|black)", chart)
        assert "var(--training)" in chart
        assert "<style" not in chart  # would apply to the whole page


def test_made_again_is_the_same_and_leaves_matplotlib_alone(run: Path, drawn_page: str) -> None:
    before = dict(rcParams)
    again = write_report(run).read_text(encoding="utf-8")
    assert re.findall(r"<svg.*?</svg>", again) == re.findall(r"<svg.*?</svg>", drawn_page)
    assert dict(rcParams) == before


def test_long_run_stays_small_and_says_that_it_averages(tmp_path: Path) -> None:
    lines = [train_line(step, grad_norm=0.5 + step % 7) for step in range(1, 5001)]
    config = to_dict(CONFIG) | {"phases": [to_dict(CONFIG)["phases"][0] | {"steps": 5000}]}
    page = write_report(write_run(tmp_path / "long", metrics=lines, config=config)).read_text()
    assert len(page.encode()) < 600_000
    assert "Curves of more than 300 points are averaged" in page


@pytest.mark.parametrize("page", ["pages/pretrain", "pages/passport"])
def test_a_value_that_is_not_given_is_an_error(page: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        fill(f"{page}.html.jinja")


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = save_page("first é", tmp_path / "page.html")
    with pytest.raises(UnicodeEncodeError):
        save_page("\ud800", path)
    assert path.read_text(encoding="utf-8") == "first é"
    assert list(tmp_path.iterdir()) == [path]


# ---- numbers come from the files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("evaluation", {"mlm_loss": 1.23456}, "1.2346 nats"),
        ("evaluation", {"mlm_loss": 1.256}, "Below unigram entropy 2.20 nats"),
        ("evaluation", {"mlm_perplexity": 4.567}, "MLM perplexity 4.57"),
        ("evaluation", {"mlm_accuracy": 0.4321}, "MLM accuracy 43.21 %"),
        ("evaluation", {"mlm_accuracy_95": [0.1234, 0.5432]}, "95 % interval 12.3 to 54.3"),
        ("evaluation", {"commonest_token_accuracy": 0.02}, "13.9 times as often right as always “the”"),
        ("evaluation", {"nsp_accuracy": 0.8765}, "NSP accuracy 87.65 %"),
        ("evaluation", {"nsp_accuracy_95": [0.8, 0.9]}, "80.00 to 90.00 %"),
        ("evaluation", {"unigram_loss": 4.321}, "same tokens 4.321"),
        ("evaluation", {"is_next_share": 0.4}, "IsNext 40.0 %, NotNext 60.0 %"),
        ("evaluation", {"mask_histogram": {"mask": 70, "random": 20, "kept": 10}}, "[MASK] 70.0 %, random"),
        ("environment", {"devices": "16 x TPU v5e"}, "16 x TPU v5e, float32, JAX 0.12.0"),
        ("environment", {"peak_flops_per_device": 3e9}, "50.0 % of peak"),
        ("environment", {"started": "2026-07-08T12:00:00+02:00"}, "started 2026-07-08 10:00 UTC"),
        ("passport", {"sources": sources_of(("other.txt", 1234567))}, "other.txt 1,234,567"),
        ("passport", {"sources": sources_of(("a", 1), ("b", 2))}, "34,567 tokens for training, from 2 files"),
        ("passport", {"sources": [{"source": "tfds:own/train:text", "files": []}]}, "tfds:own/train:text"),
        ("passport", {"licence": "CC-BY-SA-4.0"}, "licence of the text: CC-BY-SA-4.0"),
        ("passport", {"splits": {"train": split_of(98765)}}, "Training Documents 98,765 Sentences"),
    ],
)  # fmt: skip
def test_changed_number_changes_the_page(run: Path, file: str, change: dict[str, Any], words: str) -> None:
    assert words not in text_of(run)
    before = json.loads((run / f"{file}.json").read_text())
    (run / f"{file}.json").write_text(json.dumps(before | change))
    assert words in text_of(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mlm_loss": 2.3456}, "training 2.346"),
        ({"mlm_loss": 2.3456}, "training 10.4"),  # perplexity
        ({"nsp_accuracy": 0.7531}, "training 75.3 %"),
        ({"grad_norm": 3.21}, "newest 3.21"),
        ({"learning_rate": 1.7e-5}, "newest 1.7e-05"),
        ({"tokens_per_second": 9876.0}, "newest 9,876"),
        ({"model_flops_per_second": 1.5e10}, "newest 75.0 %"),
    ],
)
def test_changed_last_line_changes_the_page(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    lines = [train_line(10), train_line(100)]
    assert words not in text_of(write_run(tmp_path / "run", metrics=lines))
    assert words in text_of(write_run(tmp_path / "run", metrics=[lines[0], lines[1] | change]))


def test_curves_come_from_the_lines(tmp_path: Path) -> None:
    lines = [train_line(10, mlm_loss=3.0), train_line(20, mlm_loss=2.0)]
    before = panels.mlm_panels(load_run(write_run(tmp_path / "run", metrics=lines)))
    lines[1]["mlm_loss"] = 2.5
    after = panels.mlm_panels(load_run(write_run(tmp_path / "run", metrics=lines)))
    assert [old.svg == new.svg for old, new in zip(before, after, strict=True)] == [False, True, False]


def test_masks_and_labels_stand_beside_what_is_configured(tmp_path: Path) -> None:
    """15 %, and 80/10/10 of it; shares are weighted by the tokens they are of."""
    lines = [
        train_line(10, mask_share=0.5, valid_tokens=100),
        train_line(20, mask_share=0.9, valid_tokens=300),
    ]
    objective = {"mlm_probability": 0.15, "mask_share": 0.8, "random_share": 0.1}
    config = to_dict(CONFIG) | {"objective": objective}
    text = section(page_of(write_run(tmp_path / "run", metrics=lines, config=config)), "data")
    assert "Picked and predicted, of all tokens 15.03 % of 15.0 % configured" in text
    assert "Picked: replaced by [MASK] 80.00 % of 80.0 % configured" in text
    assert "Picked: replaced by a random token 10.34 % of 10.0 % configured" in text
    assert "Picked: kept as it is 10.54 % of 10.0 % configured" in text
    assert "Pairs: IsNext, the rest NotNext 51.20 % of 50.0 % configured" in text


def test_first_batches_are_shown_phase_by_phase(tmp_path: Path) -> None:
    """Measured before the first step, and a doubt is a warning at the top."""
    doubt = "picked tokens are shown as [MASK]/random/kept 100.0/0.0/0.0 %: masking is broken"
    lines = [data_line(0), data_line(1, p_value=1e-9, warnings=[doubt]), train_line(10)]
    page = page_of(write_run(tmp_path / "run", metrics=lines))
    text = section(page, "data")
    assert "Before the first step measured on the first batches of each phase Phase 0 Phase 1" in text
    assert "Picked tokens 431 431 Not padding 87.6 % 87.6 % Examples a row 1.11 1.11" in text
    assert "Shown as [MASK] / random / kept 79.8 / 10.2 / 10.0 %" in text
    assert "Chi-square p of these 0.43 1e-09" in text
    assert "Tokens picked as one 1.44 1.44 Words picked as one 1.02 1.02" in text
    assert "Picked tokens in whole words 100.0 % 100.0 % IsNext, of all pairs 48.4 % 48.4 %" in text
    assert f"Warning. First batches of phase 1: {doubt}" in parse(page).text
    assert "First batches of phase 0" not in parse(page).text


def test_note_says_what_enters_the_loss(run: Path) -> None:
    """Only masked positions enter the loss."""
    text = section(page_of(run), "mlm")
    assert "Only the picked tokens enter the MLM loss: 15 % of them by configuration" in text
    assert "here 842 predictions from 5.6 k tokens (15.03 %)" in text


def test_epochs_are_counted_by_phase(tmp_path: Path) -> None:
    """Epochs over the corpus. 60 steps x 4 rows of 480 examples, then 20 of 40 steps x 4 rows of 320."""
    lines = [train_line(step) for step in range(10, 81, 10)]
    run = load_run(write_run(tmp_path / "run", metrics=lines, evaluation=None))
    rows = [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in pretrain_data.passes(run)]
    assert rows[0] == ["Phase 0", "0.50", "60 of 60", "16", "4", "240", "1.00", "480"]
    assert rows[1] == ["Phase 1", "0.25", "20 of 40", "32", "4", "80", "1.00", "320"]
    assert rows[2][:3] == ["All", "0.75", "80 of 100"]


def test_samples_show_truth_and_predictions(run: Path) -> None:
    """The next sentence is told in words."""
    page = page_of(run)
    text = section(page, "samples")
    assert "the value 1 is <read> from file 2 it ends" in text
    assert "1. value ranked 1 value 41.0 % data 20.0 %" in text
    assert "2. file not among the first 2 disk 62.0 % tape 11.0 %" in text
    assert "predicted NotNext with probability 0.71; in truth IsNext" in text
    assert '<span class="mask right">value' in page
    assert '<span class="mask">file' in page


def test_configuration_is_complete_and_marks_what_is_not_the_default(run: Path) -> None:
    found = tables.settings(load_run(run).config)
    rows = {f"{section}.{row['name']}": row for section, rows in found["sections"].items() for row in rows}
    assert len(rows) == found["count"] == len(list(flatten(to_dict(CONFIG))))
    assert (rows["model.hidden_size"]["value"], rows["model.hidden_size"]["changed"]) == ("32", True)
    assert rows["model.hidden_size"]["default"] == "768"
    assert rows["model.hidden_act"]["changed"] is False
    assert rows["phases.1.steps"]["default"] == "100,000"
    assert rows["run.log_every"]["help"] == "steps between two lines of metrics.jsonl"
    assert "hidden_size 32 default 768 features; divisible by" in section(page_of(run), "configuration")


def test_phase_changes_are_marked(run: Path, drawn_page: str) -> None:
    assert panels.steps_axis(load_run(run)) == Steps(100, ((60, "phase 1: 32 tokens"),))
    assert drawn_page.count(">phase 1: 32 tokens</text>") == len(CHARTS)


def test_reference_lines_are_labelled(drawn_page: str) -> None:
    page = drawn_page.replace("\N{NO-BREAK SPACE}", " ")
    for label in ("unigram entropy 3.46", "unigram model 31.7", "always “the” 6.1 %", "guessing 50 %"):
        assert f">{label}</text>" in page
    assert ">clipped above 1</text>" in page


# ---- what is missing ---------------------------------------------------------------------------------------


def test_torn_last_line_is_said_and_left_out(tmp_path: Path) -> None:
    text = json.dumps(train_line(10)) + "\n" + json.dumps(train_line(20)) + "\n" + json.dumps(train_line(30))[:57]
    run = write_run(tmp_path / "run", metrics=text, evaluation=None)
    assert [line["step"] for line in load_run(run).train] == [10, 20]
    assert "metrics.jsonl: line 3 is torn" in text_of(run)
    assert "stopped at step 20 of 100" in text_of(run)


def test_missing_evaluation_names_its_command(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=None)
    page = page_of(run)
    assert f"bert-jax evaluate {run} --data DIR" in section(page, "evaluation")
    assert f"bert-jax evaluate {run} --data DIR" in section(page, "samples")
    text = parse(page).text
    assert "MLM loss 1.625 nats held-out, step 100" in text
    assert "no interval before an evaluation" in text


def test_old_evaluation_is_said(run: Path) -> None:
    (run / "evaluation.json").write_text(json.dumps(EVALUATION | {"step": 50}))
    assert "The evaluation is of step 50, the run is at step 100." in text_of(run)


def test_before_any_held_out_line_scores_are_called_training(tmp_path: Path) -> None:
    lines = [train_line(10, mlm_loss=3.111)]
    text = text_of(write_run(tmp_path / "run", metrics=lines, evaluation=None))
    assert "MLM loss 3.111 nats training text, step 10" in text


@pytest.mark.parametrize("metrics", [None, "", "\n", '{"kind": "train", "st'])
def test_run_without_a_step(tmp_path: Path, metrics: str | None) -> None:
    run = write_run(tmp_path / "run", metrics=metrics, evaluation=None)
    text = text_of(run)
    assert "no step logged yet" in text
    assert f"bert-jax pretrain {run}/config.json --data DIR --output {run}" in text
    assert "<svg" not in (run / "report.html").read_text()


def with_objective(name: str, **changes: Any) -> dict[str, Any]:
    return to_dict(CONFIG) | {"objective": {"name": name}, **changes}


@pytest.mark.parametrize("name", ["mlm_pairs", "mlm_full_sentences"])
def test_run_without_pairs(tmp_path: Path, name: str) -> None:
    def without(line: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in line.items() if not key.startswith(("nsp", "is_next")) and key != "pairs"}

    lines = [without(train_line(10)), without(eval_line(100))]
    scores = without(EVALUATION) | {"objective": name}
    run = write_run(tmp_path / "run", config=with_objective(name), metrics=lines, evaluation=scores)
    page = page_of(run)
    assert f"The objective of this run, {name}, predicts masked tokens only" in section(page, "pairs")
    assert "NSP" not in section(page, "evaluation")
    assert "Pairs:" not in section(page, "data")
    assert page.count("<svg") == len(CHARTS) - 2


def test_sentence_order_is_not_called_next_sentence(tmp_path: Path) -> None:
    """Objective mlm_sop: headings, charts, tables and samples speak of order; the figures are those of its examples."""
    sample = EVALUATION["samples"][0] | {"pair": {"label": "swapped", "prediction": "in order", "probability": 0.6}}
    run = write_run(
        tmp_path / "run",
        config=with_objective("mlm_sop"),
        evaluation=EVALUATION | {"objective": "mlm_sop", "samples": [sample]},
    )
    page = page_of(run)
    text = parse(page).text
    assert not re.search(r"NSP|IsNext|NotNext|[Nn]ext sentence(?! with probability)", section(page, "pairs"))
    assert section(page, "pairs").startswith("Sentence order Do sentences A and B stand in the order of the text")
    assert "SOP accuracy of pairs training 66.0 %" in section(page, "pairs")
    assert "SOP accuracy 65.43 %" in section(page, "evaluation")
    assert "in order 51.2 %, swapped 48.8 %" in section(page, "evaluation")
    assert "predicted in order with probability 0.60; in truth swapped" in section(page, "samples")
    assert "In order / swapped, 16 tokens 51.1 / 48.9 %" in section(page, "data")
    assert "Examples of 16 tokens 470 470" in section(page, "data")
    assert "Pairs: in order, the rest swapped 51.20 % of 50.0 % configured" in section(page, "data")
    assert "Objective mlm_sop, 15 % picked by token; rows padded" in text


def test_objective_and_rows_stand_at_the_top(tmp_path: Path) -> None:
    objective = {"name": "mlm_full_sentences", "masking": "whole_word", "mlm_probability_end": 0.3}
    config = with_objective("", objective=objective, packing="packed", examples_per_row=3)
    config["phases"] = [phase | {"max_predictions_per_seq": 16} for phase in config["phases"]]
    text = text_of(write_run(tmp_path / "run", config=config))
    words = "mlm_full_sentences, 15 to 30 % picked by whole word; rows packed, up to 3 examples a row"
    assert f"Objective {words}" in text
    assert "15.03 % of 15.0 to 30.0 % configured" in text


def test_epochs_of_packed_rows_count_examples(tmp_path: Path) -> None:
    """60 steps x 4 rows with 2.5 examples each, of 480 examples."""
    lines = [train_line(step, examples_per_row=2 + step % 20 / 10) for step in range(10, 61, 10)]
    config = to_dict(CONFIG) | {"packing": "packed", "examples_per_row": 3}
    config["phases"] = [phase | {"max_predictions_per_seq": 16} for phase in config["phases"]]
    run = load_run(write_run(tmp_path / "run", config=config, metrics=lines, evaluation=None))
    assert pretrain_data.passes(run)[0][1:] == ("1.25", "60 of 60", "16", "4", "240", "2.50", "480")
    assert pretrain_data.passes(run)[1][1] == "not recorded"


def test_unknown_peak_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", environment=ENVIRONMENT | {"peak_flops_per_device": None, "peak_source": None})
    text = text_of(run)
    assert "No peak known for this device" in text
    assert "newest 0.003 TFLOP/s" in text
    assert "FLOP utilisation" not in text


@pytest.mark.parametrize("file", ["passport", "environment"])
def test_missing_file_is_said(tmp_path: Path, file: str) -> None:
    assert f"{file}.json is missing" in text_of(write_run(tmp_path / "run", **{file: None}))


def test_data_warnings_are_shown_before_anything_else(run: Path) -> None:
    page = page_of(run)
    assert "Warning. Data: own.txt: 40 % of the lines <b>repeat</b>" in parse(page).text
    assert "<b>repeat</b>" not in page
    assert page.index("40 % of the lines") < page.index('class="tiles"')


def test_loss_that_is_not_a_number_is_said(tmp_path: Path) -> None:
    lines = [
        train_line(10),
        train_line(20, loss=math.nan, mlm_loss=math.nan, grad_norm=math.inf),
        train_line(30),
    ]
    assert "The training loss is not a number at step 20" in text_of(write_run(tmp_path / "run", metrics=lines))


def test_loss_at_the_unigram_entropy_is_said(run: Path) -> None:
    assert "has not learned from context" not in text_of(run)
    (run / "evaluation.json").write_text(json.dumps(EVALUATION | {"mlm_loss": 3.51}))
    text = text_of(run)
    assert "has not learned from context" in text
    assert "Above unigram entropy 0.05 nats" in text


# ---- refusals ----------------------------------------------------------------------------------------------


def spoil(name: str, content: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "config.json").unlink(), "is not a run directory"),
        (spoil("config.json", "{"), "config.json is not JSON of use here"),
        (spoil("config.json", '{"sed": 1}'), "unknown setting 'sed'"),
        (spoil("evaluation.json", '{"step": 1'), "evaluation.json is not JSON of use here"),
        (spoil("passport.json", "[]"), "passport.json is not JSON of use here: it is a list"),
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
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "nothing: is not a run directory" in capsys.readouterr().err


# ---- parts -------------------------------------------------------------------------------------------------


def test_parameters_of_the_published_sizes() -> None:
    """BERT-base and BERT-large, uncased, as published: encoder and pooler."""
    assert parameter_count(ModelConfig()) == 109_482_240
    large = ModelConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    assert parameter_count(large) == 335_141_888


def test_thin_keeps_extremes_and_means() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    step, mean, low, high = thin(list(enumerate(values)), most=100)
    assert len(step) == len(mean) == 100
    np.testing.assert_allclose(mean, values.reshape(100, 10).mean(1))
    assert (low.min(), high.max()) == (values.min(), values.max())
    assert np.isnan(thin([(0, 1.0), (1, math.inf)], most=1)[1]).all()


def test_spread_moves_labels_apart_and_no_further() -> None:
    assert spread([10.0, 12.0], gap=14.0) == [4.0, 18.0]
    assert spread([10.0, 40.0], gap=14.0) == [10.0, 40.0]


@pytest.mark.parametrize("points", [[(10, 1.0)], [(10, 0.0), (20, 0.0)], [(10, math.nan)], [(5, 1e-9), (9, 1e9)]])
def test_charts_bear_few_and_odd_points(points: list[tuple[float, float]]) -> None:
    """Warnings are errors here: equal limits or a logarithm of 0 would fail."""
    steps = Steps(10)
    for drawing in (
        charts.mlm_loss_chart(points, [], None, steps),
        charts.mlm_accuracy_chart([], points, ("$x_{", 0.1), steps),
        charts.perplexity_chart(points, points, 800.0, steps),
        charts.pair_accuracy_chart(points, [], steps),
        charts.gradient_norm_chart(points, 0.0, steps),
        charts.single_chart(points, "throughput", "Tokens a second", steps),
    ):
        assert drawing.endswith("</svg>\n")


def test_other_scripts_are_drawn_without_warnings():
    """Text stays text in the page; matplotlib's own font need not have it (warnings are errors here)."""
    figure, axes = blank_chart(Steps(3), names=False)
    axes.annotate("，的", (1, 0.5))
    assert "，的" in svg(figure, "name", "description")
