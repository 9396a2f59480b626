# SPDX-License-Identifier: Apache-2.0
"""The pages of fine-tuned runs: figures are those of the predictions, splits are said, collapsed runs show."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_parts import bars, Html, panels, parts, plain, readings, rows, section, tables, tiles

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.settings import override, to_dict
from bert_jax.pages import several_runs
from bert_jax.pages.any_run import write_any
from bert_jax.pages.class_tables import Classes, MOST_CLASSES
from bert_jax.pages.finetune import page_of
from bert_jax.pages.finetune_curves import chance_loss, score_axis
from bert_jax.pages.finetune_summary import share_interval
from bert_jax.pages.glue_table import PUBLISHED
from bert_jax.pages.metric_words import score_text
from bert_jax.pages.page import Hard, Page, Paragraph, Settings
from bert_jax.pages.rating_tables import error_rows
from bert_jax.pages.several_tasks import differing_words, tasks_page
from bert_jax.pages.tag_tables import Confusion, phrase_confusions, type_rows
from bert_jax.runs.finetuned import load_finetuned, load_several, parts_of
from bert_jax.tasks.scoring import glue
from bert_jax.tasks.scoring.chance import spread_of

Line = dict[str, Any]
RELIABILITY = "Right, of those predicted with a probability"
CONFIG = override(FinetuneConfig(), ["optimizer.learning_rate=5e-5", "batch_size=32", "epochs=3", "max_length=128"])
SETTINGS = to_dict(override(CONFIG, ["optimizer.name=adamw_bert"]))


def at_rate(rate: float) -> dict:
    return to_dict(override(CONFIG, [f"optimizer.learning_rate={rate}"]))


COLLAPSED = {
    "kind": "one class",
    "explanation": "every one of 4 examples is predicted class 1. Set optimizer.name=adamw",
}


def example(name: str, text: str, label: int, predicted: int, confidence: float) -> Line:
    """A prediction for two classes."""
    shares = [1 - confidence, confidence] if predicted else [confidence, 1 - confidence]
    return {"name": name, "text": text, "label": label, "predicted": predicted, "probabilities": shares}


SENTENCES = [
    example("dev-0", "fine, and right", 1, 1, 0.99),
    example("dev-1", "a <script>alert(1)</script> & more", 0, 1, 0.75),
    example("dev-2", "long " * 500 + "THE-END", 1, 0, 0.95),
    example("dev-3", "also right", 0, 0, 0.6),
    example("dev-4", "right too", 1, 1, 0.8),
]


def write_run(folder: Path, **changes: Any) -> Path:
    """A made-up run on SST-2. Changes are keys of finetune.json, and `lines`, `scores`, `predictions`, `degenerate`."""
    lines: list[Line] = [{"kind": "train", "step": step, "loss": 0.5, "accuracy": 0.75, "learning_rate": 5e-5 - step * 1e-7,
              "grad_norm": 1.25, "examples_per_second": 310.0, "valid_token_share": 0.5} for step in (100, 200)]  # fmt: skip
    lines += [{"kind": "dev", "split": "dev", "step": 200, "epoch": 3.0, "accuracy": 0.6, "mcc": None}]
    content: Line = {
        "task": {"name": "sst2"}, "title": "SST-2", "kind": "classification", "metrics": ["accuracy"],
        "labels": ["0", "1"], "settings": SETTINGS, "data": "glue/SST-2", "total_steps": 200, "found": {},
        "source": {"path": "runs/a", "format": "run", "summary": "2 layers of runs/a", "from_scratch": False}, "content": {},
        "examples": {"train": 67349, "dev": 5}, "counts": {"train": {"rows": 67349, "cut": 17}},
    }  # fmt: skip
    given = {
        "lines": lines,
        "scores": {"dev": {"accuracy": 0.6}},
        "predictions": SENTENCES,
        "degenerate": None,
        **changes,
    }
    content |= {name: given.pop(name) for name in list(given) if name in content}
    (folder / "predictions").mkdir(parents=True)
    (folder / "finetune.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in given["lines"]))
    if given["predictions"] is not None:
        text = "".join(json.dumps(line) + "\n" for line in given["predictions"])
        (folder / "predictions" / "dev.jsonl").write_text(text)
    if given["scores"] is not None:
        metric, value = next(iter(given["scores"]["dev"].items()))
        outcome = {"scores": given["scores"], "main": {"metric": metric, "split": "dev", "value": value}}
        outcome |= {
            "degenerate": given["degenerate"],
            "seconds": 61.0,
            "examples_per_second": 300.0,
            "device": "1 x cpu",
        }
        (folder / "scores.json").write_text(json.dumps({**outcome, "seed": 0, "step": 200}))
    return folder


def write_seeds(folder: Path, values: dict[int, float | None], collapsed: tuple[int, ...] = (), **run: Any) -> Path:
    """A folder of seeds with their accuracies; None: not finished."""
    entries = []
    for seed, value in values.items():
        bad = COLLAPSED if seed in collapsed else None
        scores = None if value is None else {"dev": {"accuracy": value}}
        write_run(folder / f"seed-{seed}", **{"scores": scores, "degenerate": bad, **run})
        entry = {"seed": seed, "folder": f"seed-{seed}", "value": value, "degenerate": bad}
        entries.append({**entry, "settings": {"learning_rate": None, "batch_size": 16}})
    record = {"task": "sst2", "title": "SST-2", "metric": "accuracy", "split": "dev", "runs": entries}
    (folder / "seeds.json").write_text(json.dumps(record))
    return folder


def page(directory: Path) -> Page:
    """The page of a run."""
    return page_of(load_finetuned(directory))


def seeds_page(directory: Path) -> Page:
    """The page of several runs."""
    return several_runs.page_of(load_several(directory))


def hardest(made: Page) -> list[Hard]:
    """The hardest examples on a page."""
    return [part for part in parts(section(made, "hardest")) if isinstance(part, Hard)]


def seen(made: Page) -> list[tuple[str, str]]:
    """The findings: subject and what was seen."""
    return [(finding.subject, finding.seen) for finding in made.findings]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_command_draws_a_page_that_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "first")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    made = page(run)
    html = Html(made)
    assert html.source == (run / "report.html").read_text(encoding="utf-8")
    assert html.stands_alone()
    assert "http" not in html.source
    assert list(panels(made)) == [
        "Training loss",
        "Accuracy",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        RELIABILITY,
    ]
    assert made.status == "finished, 200 steps"
    assert tiles(made)["Accuracy, dev"][:2] == ("60.00", "%")
    assert rows(made)["train, cut"] == ["17"]
    assert dict(made.facts)["First weights"] == "2 layers of runs/a"
    assert {"0 negative", "1 positive"} <= rows(made).keys()


def test_seeds_link_to_their_own_pages(tmp_path: Path) -> None:
    folder = write_seeds(tmp_path / "seeds", {0: 0.9, 1: 0.92})
    assert write_any(folder) == folder / "report.html"
    made = seeds_page(folder)
    html = Html(made)
    assert html.links == ["seed-0/report.html", "seed-1/report.html"]
    assert all((folder / link).is_file() for link in html.links)
    dots, over_steps = (panel.chart for panel in panels(made).values())
    assert dots is not None
    assert over_steps is not None
    assert [(dot.y, dot.cross) for dot in dots.dots] == [(0.9, False), (0.92, False)]
    assert [curve.points for curve in over_steps.curves] == [[(200, 0.6)]] * 2


def test_a_folder_without_any_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_any(tmp_path)


def test_a_run_that_is_at_work_has_curves_and_says_what_lacks(tmp_path: Path) -> None:
    made = page(write_run(tmp_path / "run", scores=None, predictions=None, total_steps=900))
    assert (made.status, made.state) == ("stopped at step 200 of 900", "open")
    assert [subject for subject, _ in seen(made)] == ["Progress"]
    assert readings(panels(made)["Accuracy"]) == {"training": "75.0 %", "dev": "60.0 %"}


def test_torn_lines_and_missing_predictions_are_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", predictions=None)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    predictions, metrics = page(run).findings
    assert "predictions/dev.jsonl is missing" in predictions.seen
    assert predictions.command == f"bert-jax predict {run} --data DATA --split dev"
    assert "1 torn line (4)" in metrics.seen


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("predictions/dev.jsonl", json.dumps(SENTENCES[0]) + "\n{}\n", "dev.jsonl, line 2"),
        ("predictions/dev.jsonl", json.dumps(SENTENCES[0] | {"label": "one"}), "dev.jsonl"),
        ("predictions/dev.jsonl", json.dumps(SENTENCES[1] | {"probabilities": 3}), "dev.jsonl"),
        (
            "finetune.json",
            '{"task": {}, "title": "t", "kind": "choice", "metrics": [], "labels": [], "settings": null}',
            "finetune.json",
        ),
        ("scores.json", '{"main": []}', "scores.json holds other values than it should (main"),
        ("scores.json", '{"scores": {"dev": {"accuracy": "high"}}}', "(scores.dev.accuracy"),
    ],
)
def test_odd_shapes_are_one_line(tmp_path: Path, file: str, content: str, words: str) -> None:
    run = write_run(tmp_path / "run")
    (run / file).write_text(content)
    with pytest.raises(UserError, match=re.escape(words)):
        write_any(run)


# ---- units -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "value", "per_cent", "words"),
    [
        ("accuracy", 0.91284, False, "91.28 %"),
        ("mcc", 0.5213, False, "52.13"),
        ("spearman", None, False, "not defined"),
        ("f1", 88.4951, True, "88.50 %"),
    ],
)
def test_scores_are_printed_as_people_know_them(metric: str, value: float | None, per_cent: bool, words: str) -> None:
    assert score_text(metric, value, per_cent).replace("\N{NO-BREAK SPACE}", " ") == words


# ---- classes -----------------------------------------------------------------------------------------------


def test_class_scores_and_matrix_by_hand() -> None:
    # Truth:           a a a a b b b c; of class 1, b, one is called a.
    classes = Classes([0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 1, 0, 0], "abc".__getitem__, 3)
    rows = {row[0]: tuple(cell.replace("\N{NO-BREAK SPACE}", "") for cell in row[1:]) for row in classes.table()}
    assert rows["a"] == ("60.0%", "75.0%", "66.7%", "4", "5")
    assert rows["b"] == ("66.7%", "66.7%", "66.7%", "3", "3")
    assert rows["c"] == ("–", "0.0%", "0.0%", "1", "0")
    macro = glue.macro_f1(np.array([0, 0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 1, 0, 0]), 3)
    assert rows["mean of the classes"][2] == f"{100 * macro:.1f}%"
    assert [[cell.count for cell in cells] for _, cells in classes.drawn("").rows] == [[3, 1, 0], [1, 2, 0], [1, 0, 0]]
    assert [row[:3] for row in classes.confusions()] == [("a", "b", "1"), ("b", "a", "1"), ("c", "a", "1")]


def test_means_are_over_the_classes_of_the_task() -> None:
    """Of four, two occur: all right is a mean of a half, as macro F1 has it."""
    unknown = Classes([0, 0, 0, 1, 1, 1, 2], [0, 0, 0, 1, 1, 0, 1], "abx".__getitem__, 2).table()[-1]
    found = glue.macro_f1(np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 0, 1]), 2)
    assert (unknown[0], unknown[3].replace("\N{NO-BREAK SPACE}", "")) == (
        "mean of the classes",
        f"{100 * found:.1f}%",
    ), "a label that is none of the two"
    absent = Classes([0, 1, 1], [0, 1, 1], "abcd".__getitem__, 4).table()
    assert [row[0] for row in absent] == ["a", "b", "mean of all 4 classes, 2 of them absent"]
    macro = glue.macro_f1(np.array([0, 1, 1]), np.array([0, 1, 1]), 4)
    assert absent[-1][3].replace("\N{NO-BREAK SPACE}", "") == f"{100 * macro:.1f}%" == "50.0%"


def test_very_many_classes_are_folded_and_none_is_lost() -> None:
    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(0, 90, 4000), rng.integers(0, 90, 4000)
    gold[:500] = predicted[:500] = 77
    drawn = Classes(gold.tolist(), predicted.tolist(), lambda place: f"class-{place}").drawn("")
    assert len(drawn.columns) == len(drawn.rows) == MOST_CLASSES
    assert drawn.dense
    assert sum(cell.count for _, cells in drawn.rows for cell in cells) == 4000
    assert drawn.rows[-1][0].endswith("51 others")
    assert any(name.endswith("class-77") for name, _ in drawn.rows)


def test_hardest_examples_are_wrong_surest_first_escaped_and_short(tmp_path: Path) -> None:
    made = page(write_run(tmp_path / "run"))
    first, second = hardest(made)
    assert (first.name, second.name) == ("dev-2", "dev-1")
    assert (first.truth, first.predicted, plain(first.confidence)) == ("1 positive", "0 negative", "with 95.0 %")
    assert first.text[0].endswith(" …")
    assert "THE-END" not in first.text[0]
    assert "2 of 5 examples are wrong" in next(iter(parts(section(made, "hardest")))).words  # type: ignore[union-attr]
    source = Html(made).source
    assert "<script" not in source
    assert "&lt;script&gt;" in source


def test_chance_loss_is_that_of_the_classes_shares(tmp_path: Path) -> None:
    level = chance_loss(load_finetuned(write_run(tmp_path / "run")))
    assert level is not None
    assert level.value == pytest.approx(-(0.6 * np.log(0.6) + 0.4 * np.log(0.4)))


@pytest.mark.parametrize("score", [0.0, 0.0103, 0.0725, 0.95, 1.0])
def test_an_axis_of_shares_holds_a_score_alone_and_ends_at_100_per_cent(score: float) -> None:
    axis = score_axis("f1", [score])
    assert 0 <= axis.low <= score <= axis.high <= 1


def test_weights_of_a_mix_are_drawn_as_parts_of_the_whole(tmp_path: Path) -> None:
    """The bar of a third filled the track, which stands for the whole wherever else there are bars."""
    run = load_finetuned(write_run(tmp_path / "run"))
    run = replace(
        run, outcome={**(run.outcome or {}), "mix": {"scale": 1.0, "layers": [0, 1, 2], "weights": [0.3, 0.3, 0.4]}}
    )
    shown = bars(page_of(run))
    assert [shown[name].share for name in ("0 (embeddings)", "1", "2")] == [0.3, 0.3, 0.4]


def test_interval_of_a_share_is_exact() -> None:
    # The ends are the shares at which as many or more (as few or fewer) are right in one of 40 trials.
    low, high = share_interval(8, 10)
    assert sum(math.comb(10, k) * low**k * (1 - low) ** (10 - k) for k in range(8, 11)) == pytest.approx(0.025)
    assert sum(math.comb(10, k) * high**k * (1 - high) ** (10 - k) for k in range(9)) == pytest.approx(0.025)
    assert share_interval(0, 5)[0] == 0
    assert share_interval(5, 5)[1] == 1


def test_a_degenerate_run_is_marked_and_explained(tmp_path: Path) -> None:
    made = page(write_run(tmp_path / "run", degenerate=COLLAPSED))
    assert (made.status, made.state) == ("degenerate: one class", "problem")
    words = "nothing was learned (one class). Every one of 4 examples is predicted class 1. Set optimizer.name=adamw"
    assert [(finding.severity, finding.seen) for finding in made.findings] == [("problem", words)]


def test_only_what_is_not_the_default_is_marked(tmp_path: Path) -> None:
    settings = next(part for part in parts(page(write_run(tmp_path / "run"))) if isinstance(part, Settings))
    changed = {row.name: (row.value, row.default) for row in settings.rows if row.default is not None}
    assert changed == {"name": ("adamw_bert", "adamw")}, "of the optimizer"


# ---- seeds -------------------------------------------------------------------------------------------------


def test_interval_is_students_t() -> None:
    spread = spread_of([0.90, 0.91, 0.92, 0.93])
    assert spread is not None
    # By hand: standard deviation sqrt(5e-4 / 3), and 3.182 from a table of t, 3 degrees of freedom.
    assert spread.deviation == pytest.approx(0.0129099, rel=1e-5)
    assert spread.interval == pytest.approx((0.915 - 3.1824 * 0.00645497, 0.915 + 3.1824 * 0.00645497), rel=1e-5)
    assert spread_of([0.9]) == (0.9, None, None)
    assert spread_of([]) is None


def test_collapsed_seeds_are_marked_and_not_in_the_mean(tmp_path: Path) -> None:
    made = seeds_page(write_seeds(tmp_path / "seeds", {0: 0.90, 1: 0.50, 2: 0.92, 7: None}, collapsed=(1,)))
    found = tiles(made)
    assert found["Mean accuracy, dev"] == ("91.00", "%", "of 2 seeds")
    assert found["Standard deviation"][:2] == ("1.41", "points")
    assert found["95 % interval of the mean"][2] == "Student's t, 1 degree of freedom"
    assert found["Best accuracy, dev"][0] == "92.00"
    assert found["Best accuracy, dev"][2].startswith("seed 2")
    assert seen(made)[0] == ("Degenerate", "1 of 4 runs collapsed and is not counted")
    assert seen(made)[1][1].startswith("seed 1: nothing was learned (one class). Every one of 4 examples")
    assert seen(made)[2] == ("Progress", "without a score: seed 7")
    assert rows(made)["seed 1"] == ["50.00 %", "collapsed: one class"]
    chart = panels(made)["Accuracy of each run"].chart
    assert chart is not None
    assert [(dot.x, dot.cross) for dot in chart.dots] == [(0, False), (1, True), (2, False)]


def test_all_seeds_collapsed_is_no_mean(tmp_path: Path) -> None:
    made = seeds_page(write_seeds(tmp_path / "seeds", {0: 0.5}, collapsed=(0,), lines=[]))
    assert tiles(made)["Mean accuracy, dev"] == ("–", "", "no run has a score that counts")


def test_a_sweep_has_settings_and_no_interval(tmp_path: Path) -> None:
    folder = write_seeds(tmp_path / "sweep", {0: 0.90, 1: 0.95})
    record = json.loads((folder / "seeds.json").read_text())
    for entry, rate in zip(record["runs"], (5e-5, 2e-5), strict=True):
        entry["settings"] = {"learning_rate": rate, "batch_size": 16}
    (folder / "seeds.json").write_text(json.dumps(record))
    made = seeds_page(folder)
    assert load_several(folder).is_sweep
    assert not any("interval" in label for label in tiles(made))
    table = {name: cells for name, cells in rows(made).items() if name.startswith("seed-")}
    assert list(table.items()) == [
        ("seed-1", ["2e-05", "16", "95.00 %", "best"]),
        ("seed-0", ["5e-05", "16", "90.00 %", ""]),
    ]


# ---- GLUE --------------------------------------------------------------------------------------------------


def test_published_averages_follow_from_published_scores() -> None:
    for row in PUBLISHED.values():
        assert np.mean(row[:9]) == pytest.approx(row[9], abs=0.07)  # one is printed 71.0 and is 70.94


def test_our_row_says_dev_and_theirs_test(tmp_path: Path) -> None:
    made = page(write_run(tmp_path / "mine"))
    found = rows(section(made, "glue"))
    assert found["BERT-large"] == [
        "test",
        "86.7",
        "85.9",
        "72.1",
        "92.7",
        "94.9",
        "60.5",
        "86.5",
        "89.3",
        "70.1",
        "82.1",
    ]
    assert found["mineone run"] == ["DEV", "–", "–", "–", "–", "60.0", "–", "–", "–", "–", "–"]
    own = page(write_run(tmp_path / "own", task={"own": {"kind": "classification"}}))
    assert "glue" not in [part.name for part in own.sections]


def test_a_folder_of_all_tasks_has_both_averages(tmp_path: Path) -> None:
    tasks = {"qqp": "f1", "qnli": "accuracy", "cola": "mcc", "mrpc": "f1", "rte": "accuracy", "wnli": "accuracy"}
    scores: dict[str, dict[str, float]] = {}
    for place, (task, metric) in enumerate(tasks.items()):
        scores[task] = {metric: 0.6 + place / 100} | ({"accuracy": 0.7} if metric == "f1" else {})
        write_run(tmp_path / task, task={"name": task}, scores={"dev": scores[task]})
    write_run(
        tmp_path / "mnli",
        task={"name": "mnli"},
        scores={"dev": {"accuracy": 0.8}, "dev_mismatched": {"accuracy": 0.79}},
    )
    ratings = [{"name": "a", "text": "x", "label": 1.0, "predicted": 2.0}] * 2
    stsb = {"spearman": 0.85, "pearson": 0.86}
    write_run(tmp_path / "stsb", task={"name": "stsb"}, kind="regression", scores={"dev": stsb}, predictions=ratings)
    write_seeds(tmp_path / "sst2", {0: 0.9, 1: 0.94, 2: 0.5}, collapsed=(2,))
    scores |= {
        "mnli": {"accuracy": 0.8},
        "mnli_mismatched": {"accuracy": 0.79},
        "stsb": stsb,
        "sst2": {"accuracy": 0.92},
    }
    found = section(tasks_page(tmp_path, parts_of(tmp_path)), "glue")
    ours = next(cells for cells in rows(found).values() if cells[0] == "DEV")
    average = f"{100 * glue.paper_average(scores):.1f}"
    assert ours[1:] == [*["80.0", "79.0", "60.0", "61.0", "92.0", "62.0", "85.0", "63.0", "64.0"], average]
    notes = [part.words for part in parts(found) if isinstance(part, Paragraph)]
    assert f"{100 * glue.site_average(scores):.1f}" in notes[-1]


# ---- the other kinds ---------------------------------------------------------------------------------------


def question(name: str, gold: list[str], predicted: str, share: float = 0.5) -> Line:
    """A question with its answer."""
    return {"name": name, "text": f"{name}?", "label": gold, "predicted": predicted, "probabilities": [share, 0.1],
            "candidates": [predicted, "else"]}  # fmt: skip


def test_answers_by_length_and_without_answer(tmp_path: Path) -> None:
    predictions = [
        question("one", ["Paris"], "paris", 0.9),
        question("two", ["the Eiffel Tower"], "Eiffel"),  # F1 2/3: "the" does not count
        question("five", ["a b c d e", "b c"], "b c"),
        question("none", [], ""),
        question("surest", [], "made up", 0.97),
    ]
    scores = {"dev": {"f1": 73.33, "exact": 60.0, "total": 5.0}}
    run = write_run(tmp_path / "run", task={"name": "squad2"}, title="SQuAD 2.0", kind="span", labels=[], scores=scores,
                    predictions=predictions, metrics=["f1", "exact"], found={"null_threshold": -1.5})  # fmt: skip
    made = page(run)
    found, impossible = tables(section(made, "breakdown"))
    assert found["no answer"] == ["2", "40.0 %", "50.0 %", "50.0 %", "1.0"]
    assert found["1"] == ["1", "20.0 %", "100.0 %", "100.0 %", "1.0"]
    assert found["all"][:4] == ["5", "100.0 %", "60.0 %", "73.3 %"]
    assert impossible["has an answer"][:2] == ["3", "100.0 %"]
    assert impossible["no answer"][:2] == ["2", "50.0 %"]
    lengths = {plain(bar.label): (bar.share, bar.mark) for bar in bars(made).values()}
    assert lengths["3"] == (pytest.approx(2 / 3), 0.0)
    assert lengths["4 to 5"] == (1.0, 1.0)
    assert any("-1.500, tuned on dev" in part.words for part in parts(made) if isinstance(part, Paragraph))
    first, second = hardest(made)
    assert (first.name, first.truth, first.predicted) == ("surest", "no answer", "made up")
    assert second.name == "two"
    assert tiles(made)["F1, dev"][0] == "73.33"


def sentence(words: str, gold: str, predicted: str) -> Line:
    """A tagged sentence; the last word is the surest."""
    size = len(words.split())
    shares = [0.5 + place / 100 for place in range(size)]
    return {
        "name": words[:3],
        "text": words,
        "label": gold.split(),
        "predicted": predicted.split(),
        "probabilities": shares,
    }


SENTENCE = sentence("Ada Byron met Bob in New York", "B-PER I-PER O B-PER O B-LOC I-LOC", "B-PER O O B-ORG B-PER O O")


def test_what_becomes_of_phrases() -> None:
    found = [confusion for confusion, _ in phrase_confusions(SENTENCE["label"], SENTENCE["predicted"])]
    assert found == [
        Confusion("PER", "PER, other words"),
        Confusion("PER", "ORG"),
        Confusion("LOC", "nothing"),
        Confusion("nothing", "PER"),
    ]


def test_types_of_iobes_are_scored_as_phrases() -> None:
    # Two phrases of one type side by side, which conlleval alone would take for one.
    rows = type_rows([sentence("Ada Bob runs", "S-PER S-PER O", "S-PER O O")])
    assert [cell.replace("\N{NO-BREAK SPACE}", "") for cell in rows[0]] == [
        "PER",
        "100.00%",
        "50.00%",
        "66.67%",
        "2",
        "1",
        "1",
    ]


def test_tags_page(tmp_path: Path) -> None:
    scores = {"dev": {"f1": 12.3456, "precision": 0.0, "recall": 0.0, "accuracy": 42.8571}}
    task = {"name": "conll2003"}
    run = write_run(
        tmp_path / "run", task=task, kind="tagging", scores=scores, predictions=[SENTENCE], metrics=["f1", "precision"]
    )
    made = page(run)
    types, confusions, _ = tables(section(made, "breakdown"))
    assert types["LOC"] == ["0.00 %", "0.00 %", "0.00 %", "1", "0", "0"]
    assert confusions["LOC"] == ["nothing", "1", "New York"]
    lede = next(iter(parts(section(made, "breakdown"))))
    assert isinstance(lede, Paragraph)
    assert "0 of 1 (0.0 %) sentences" in plain(lede.words)
    assert hardest(made)[0].text == ("Ada Byron met Bob in New ", "York", " ")
    assert tiles(made)["F1, dev"][0] == "12.35"


def test_words_that_a_run_leaves_out_are_no_mistakes_on_its_page(tmp_path: Path) -> None:
    """As in scores.json: 100 % of what is scored, though a tag that the model does not know is never predicted."""
    words = sentence("Ada met Nobel Prize men in Rome", "B-PER O B-MISC I-MISC O O B-LOC", "B-PER O B-LOC O O O B-LOC")
    known = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    run = write_run(
        tmp_path / "run", task={"name": "conll2003"}, kind="tagging", predictions=[words], labels=known,
        scores={"dev": {"f1": 100.0}}, settings={**SETTINGS, "unknown_labels": "ignore"},
    )  # fmt: skip
    made = page(run)
    breakdown = section(made, "breakdown")
    assert tables(breakdown)[0]["all"] == ["100.00 %"] * 3 + ["2", "2", "2"]
    lede = next(iter(parts(breakdown)))
    assert isinstance(lede, Paragraph)
    assert "1 of 1 (100.0 %) sentences" in plain(lede.words)
    assert not hardest(made)


def test_tags_without_a_scheme_are_classes_of_words(tmp_path: Path) -> None:
    words = [sentence("the ship sails", "DET NOUN VERB", "DET NOUN NOUN")]
    run = write_run(
        tmp_path / "run", task={"own": {}}, kind="tagging", predictions=words, scores={"dev": {"accuracy": 66.6667}}
    )
    made = page(run)
    assert rows(section(made, "breakdown"))["VERB"] == ["NOUN", "1", "100.0 %"]
    lede = next(iter(parts(section(made, "breakdown"))))
    assert isinstance(lede, Paragraph)
    assert lede.words.startswith("Words of dev.")


def test_errors_of_ratings_by_hand() -> None:
    rows = {row[0]: row[1:] for row in error_rows(np.array([0.0, 5.0, 5.0]), np.array([1.0, 5.0, 3.0]))}
    assert rows["0 to 1"] == ("1", "0.00", "1.00", "1.00", "1.00")
    assert rows["4 to 5"] == ("2", "5.00", "4.00", "1.00", "1.41")
    assert rows["all"] == ("3", "3.33", "3.00", "1.00", "1.29")


def test_a_constant_rating_has_no_correlation_and_a_page(tmp_path: Path) -> None:
    predictions = [{"name": str(n), "text": "a | b", "label": n / 2, "predicted": 2.5} for n in range(11)]
    lines = [{"kind": "dev", "split": "dev", "step": 5, "spearman": None, "pearson": None}]
    scores = {"dev": {"spearman": None, "pearson": None}}
    task = {"name": "stsb"}
    made = page(write_run(tmp_path / "run", task=task, kind="regression", lines=lines, scores=scores, labels=[],
                          predictions=predictions, metrics=["spearman", "pearson"]))  # fmt: skip
    assert tiles(made)["Spearman correlation, dev"] == ("not defined", "", "a correlation with something constant")
    chart = panels(made)["Gold and predicted ratings"].chart
    assert chart is not None
    assert [(dot.x, dot.y) for dot in chart.dots[:2]] == [(0.0, 2.5), (0.5, 2.5)]
    first = hardest(made)[0]
    assert (first.truth, first.predicted, first.confidence) == ("0", "2.50", "which is 2.50 away")


# ---- what differs ----------------------------------------------------------------------------------------------------


def test_runs_of_a_task_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    """Settings, weights and data; by content, where it is known: another spelling of a path is no difference."""
    one = {"path": "m", "digest": "aa"}
    other = {"path": "/abs/m", "digest": "aa"}
    third = {"path": "m", "digest": "bb"}
    runs = [
        write_run(tmp_path / "a", settings=at_rate(1e-5), source=one),
        write_run(tmp_path / "b", settings=at_rate(3e-5), source=other),
        write_run(tmp_path / "c", settings=at_rate(3e-5), source=third),
        write_run(tmp_path / "d", settings=at_rate(9.0), title="QNLI", source=third, data="else"),
    ]
    assert differing_words([load_finetuned(run) for run in runs]) == [
        "optimizer.learning_rate 1e-05, weights m (aa)",
        "optimizer.learning_rate 3e-05, weights /abs/m (aa)",
        "optimizer.learning_rate 3e-05, weights m (bb)",
        "",
    ]
    told = differing_words([load_finetuned(run) for run in runs[:2]])
    assert told == ["optimizer.learning_rate 1e-05", "optimizer.learning_rate 3e-05"]
    other_data = write_run(tmp_path / "e", source=one, settings=SETTINGS, data="v2", content={"train": "x"})
    first = write_run(tmp_path / "f", source=other, settings=SETTINGS, data="v1", content={"train": "y"})
    words = differing_words([load_finetuned(run) for run in (other_data, first)])
    assert words == ["data v2", "data v1"]
    made = rows(section(tasks_page(tmp_path, [other_data, first]), "tasks"))
    assert {name: cells[-1] for name, cells in made.items()} == {"SST-2 e": "data v2", "SST-2 f": "data v1"}
