# SPDX-License-Identifier: Apache-2.0
"""Is A better than B? Against SciPy's exact tests, formulas of textbooks, and the official scorers on resampled examples."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import refusal_of
from page_parts import rows
from scipy import stats

from bert_jax.base.errors import UserError
from bert_jax.cli import main
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.settings import to_dict
from bert_jax.pages.comparison import comparison_lines, verdict
from bert_jax.pages.several_tasks import tasks_page
from bert_jax.runs.comparison import _scorers, compare_runs
from bert_jax.runs.finetuned import load_finetuned
from bert_jax.tasks.schemes import in_iob
from bert_jax.tasks.scoring import cmrc, conll, glue, multi_label, squad, tags
from bert_jax.tasks.scoring.chance import difference_of, spread_of

RNG = np.random.default_rng(0)
Line = dict[str, Any]


def write_run(folder: Path, records: list[Line], scores: dict[str, float], **changes: Any) -> Path:
    """What a fine-tuned run leaves, as far as it is compared."""
    record = {
        "task": {"name": "sst2"},
        "title": "SST-2",
        "kind": "classification",
        "metrics": list(scores),
        "labels": ["0", "1"],
        "settings": to_dict(FinetuneConfig()),
        "source": {},
        "examples": {},
        "counts": {},
        "total_steps": 8,
        **changes,
    }
    (folder / "predictions").mkdir(parents=True)
    (folder / "finetune.json").write_text(json.dumps(record))
    (folder / "predictions" / "dev.jsonl").write_text("".join(json.dumps(line) + "\n" for line in records))
    metric, value = next(iter(scores.items()))
    outcome = {
        "scores": {"dev": scores},
        "main": {"metric": metric, "split": "dev", "value": value},
        "degenerate": None,
    }
    (folder / "scores.json").write_text(json.dumps(outcome))
    return folder


def classified(predicted: np.ndarray, gold: np.ndarray) -> list[Line]:
    return [
        {"name": str(number), "text": f"text {number}", "label": int(label), "predicted": int(found)}
        for number, (label, found) in enumerate(zip(gold, predicted, strict=True))
    ]


def sst2_run(folder: Path, gold: np.ndarray, wrong: np.ndarray, **changes: Any) -> Path:
    """A run that is wrong where `wrong` says so, [N] bool."""
    records = classified(np.where(wrong, 1 - gold, gold), gold)
    return write_run(folder, records, {"accuracy": float((~wrong).mean())}, **changes)


def write_seeds(folder: Path, runs: list[np.ndarray], gold: np.ndarray, collapsed: int = 0) -> Path:
    entries = []
    for seed, wrong in enumerate(runs):
        sst2_run(folder / f"seed-{seed}", gold, wrong)
        entries.append({"seed": seed, "folder": f"seed-{seed}", "value": float((~wrong).mean()), "settings": {}})
    for entry in entries[:collapsed]:
        entry["degenerate"] = {"kind": "one class", "explanation": "all are 0"}
    record = {"task": "sst2", "title": "SST-2", "metric": "accuracy", "split": "dev", "runs": entries}
    (folder / "seeds.json").write_text(json.dumps(record))
    return folder


# ---- the statistics ------------------------------------------------------------------------------------------------


def test_of_few_examples_the_permutation_is_the_exact_sign_test():
    """McNemar's exact test: under the null each of the discordant examples is a fair coin."""
    first = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0])
    second = np.array([1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0])
    right = np.concatenate([first, second]).astype(float)
    found = difference_of(lambda places: right[places].mean(), 11, (1, 1))
    assert found.difference == pytest.approx((9 - 4) / 11)
    assert found.p_examples == pytest.approx(stats.binomtest(6, 7).pvalue)


def test_the_bootstrap_has_the_standard_error_of_a_mean_of_paired_differences():
    right = (RNG.random((2, 800)) < [[0.9], [0.8]]).astype(float)
    found = difference_of(lambda places: right.ravel()[places].mean(), 800, (1, 1))
    expected = (right[0] - right[1]).std(ddof=1) / np.sqrt(800)
    assert found.standard_error == pytest.approx(expected, rel=0.03)
    normal = found.difference + np.array([-1.96, 1.96]) * expected
    assert found.of_examples == pytest.approx(tuple(normal), abs=0.004)
    assert found.decided
    assert found.interval == found.of_examples
    assert found.p_examples < 0.001


def test_seeds_alone_give_the_interval_of_welch():
    """Where all examples are alike, only seeds differ."""
    scores = np.array([0.91, 0.93, 0.90, 0.92, 0.85, 0.90, 0.80])
    found = difference_of(lambda places: scores[places[0] // 9], 9, (4, 3), resamples=99)
    expected = stats.ttest_ind(scores[:4], scores[4:], equal_var=False).confidence_interval()
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.p_seeds == pytest.approx(
        stats.permutation_test([scores[:4], scores[4:]], lambda a, b: a.mean() - b.mean()).pvalue
    )
    assert found.p_examples is None  # 4 and 3 runs have no pairs
    deviations = scores[:4].std(ddof=1), scores[4:].std(ddof=1)

    def decided(seeds: int) -> bool:
        sides = [deviation**2 / seeds for deviation in deviations]  # each has its own variance, as in the interval
        freedom = sum(sides) ** 2 / sum(side**2 / (seeds - 1) for side in sides)
        return stats.t.ppf(0.975, freedom) * np.sqrt(sum(sides)) < found.difference

    assert found.seeds_needed == next(seeds for seeds in range(2, 99) if decided(seeds))
    assert not decided(found.seeds_needed - 1)


def test_no_number_of_seeds_decides_what_the_examples_leave_open():
    right = (RNG.random((4, 40)) < 0.8).astype(float)
    right[2:] = right[:2]
    right[2, 0] = 1 - right[2, 0]
    found = difference_of(lambda places: right.ravel()[places].mean(), 40, (2, 2), resamples=499)
    assert not found.decided
    assert found.seeds_needed is None
    assert "1,000 seeds of each would not do" in verdict(found)


def test_of_the_same_predictions_nothing_is_better():
    right = np.tile(np.array([1.0, 0, 1, 1]), 2)
    found = difference_of(lambda places: right[places].mean(), 4, (1, 1))
    assert (found.difference, found.interval, found.p_examples, found.decided) == (0, (0, 0), 1, False)


# ---- every metric is the official scorer's -------------------------------------------------------------------------

WORDS = ["ann", "rome", "the film", "a plot", "actor", ""]


def _choice(options: list[Any]) -> Any:
    return options[RNG.integers(len(options))]


def _texts() -> tuple[list[Line], list[Line]]:
    gold, found = RNG.integers(0, 3, 30), RNG.integers(0, 3, (2, 30))
    return classified(found[0], gold), classified(found[1], gold)


def _made(make: Any) -> tuple[list[Line], list[Line]]:
    """30 examples with the predictions of two runs; `make`: () -> a label or a prediction."""
    gold = [make() for _ in range(30)]
    sides = [
        [{"name": str(n), "text": f"text {n}", "label": label, "predicted": make()} for n, label in enumerate(gold)]
        for _ in range(2)
    ]
    return sides[0], sides[1]


def _tags() -> list[str]:
    return [_choice(["O", "B-PER", "I-PER", "B-LOC"]) for _ in range(6)]


def _sets() -> list[int]:
    return np.flatnonzero(RNG.random(3) < 0.5).tolist()


def _official_tags(gold: list[Any], found: list[Any]) -> dict[str, float | None]:
    whole = conll.scores(*([in_iob(tags, "IOB2") for tags in side] for side in (gold, found)))
    return {
        "f1": whole["FB1"],
        "precision": whole["precision"],
        "recall": whole["recall"],
        "accuracy": whole["accuracy"],
    }


def _official_answers(version: str, gold: list[Any], found: list[Any]) -> dict[str, float]:
    names = [str(number) for number in range(len(gold))]
    score = {"1.1": squad.scores_v1, "2.0": squad.scores_v2, "cmrc": cmrc.scores_cmrc}[version]
    return score(dict(zip(names, gold, strict=True)), dict(zip(names, found, strict=True)))


def _answers(empty: bool) -> tuple[list[Line], list[Line]]:
    sides = _made(lambda: _choice(WORDS if empty else WORDS[:-1]))
    for side in sides:
        for line, other in zip(side, sides[0], strict=True):
            line["label"] = (
                [other["label"]] if isinstance(other["label"], str) and other["label"] else other["label"] or []
            )
    return sides


GLUE = ("macro_f1", "accuracy", "mcc")
SETS = ("micro_f1", "macro_f1", "subset_accuracy")


def _official_sets(gold: list[Any], found: list[Any]) -> dict[str, float | None]:
    return multi_label.scores(SETS, *(multi_label.indicators(side, 3) for side in (gold, found)))


# kind -> predictions of two runs, metrics, and the official scorer of labels and predictions
KINDS: dict[str, tuple[Any, tuple[str, ...], Any]] = {
    "classification": (_texts, GLUE, lambda *sides: glue.scores(GLUE, *sides, 3)),
    "regression": (
        lambda: _made(lambda: float(RNG.random())),
        ("spearman", "pearson"),
        lambda *sides: glue.scores(("spearman", "pearson"), *sides),
    ),
    "multi_label": (lambda: _made(_sets), SETS, _official_sets),
    "tagging": (lambda: _made(_tags), ("f1", "precision", "recall", "accuracy"), _official_tags),
    "span, 1.1": (lambda: _answers(False), ("exact_match", "f1"), lambda *sides: _official_answers("1.1", *sides)),
    "span, 2.0": (lambda: _answers(True), ("exact", "f1"), lambda *sides: _official_answers("2.0", *sides)),
    "span, cmrc": (lambda: _answers(False), ("EM", "F1"), lambda *sides: _official_answers("cmrc", *sides)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_resampled_examples_are_scored_as_by_the_official_scorer(tmp_path, kind):
    make, metrics, official = KINDS[kind]
    sides = make()
    settings = to_dict(FinetuneConfig()) | ({"tag_scheme": "IOB2"} if kind == "tagging" else {})
    told = {"kind": kind.split(",")[0], "labels": ["0", "1", "2"], "settings": settings, "title": kind}
    runs = [
        load_finetuned(write_run(tmp_path / name, side, dict.fromkeys(metrics, 0.5), **told))
        for name, side in zip("ab", sides, strict=True)
    ]
    scorers = _scorers(runs, sides)
    drawn = RNG.integers(0, 30, 30)
    for side, records in enumerate(sides):
        chosen = [records[place] for place in drawn]
        wanted = official([line["label"] for line in chosen], [line["predicted"] for line in chosen])
        assert {name: scorers[name](drawn + 30 * side) for name in metrics} == pytest.approx(
            {name: wanted[name] for name in metrics}
        )


def test_sets_are_compared_whatever_the_order_of_the_classes(tmp_path):
    """The numbers of the second run are its own."""
    sides = _made(_sets)
    orders = ["a", "b", "c"], ["c", "a", "b"]
    other = [
        {**record, "predicted": [orders[1].index(orders[0][n]) for n in record["predicted"]]} for record in sides[0]
    ]
    runs = [
        load_finetuned(
            write_run(tmp_path / name, side, dict.fromkeys(SETS, 0.5), kind="multi_label", labels=labels, title="",
                      settings=to_dict(FinetuneConfig()))
        )
        for name, side, labels in zip("ab", (sides[0], other), orders, strict=True)
    ]  # fmt: skip
    scorers = _scorers(runs, [sides[0], other])
    for score in scorers.values():
        assert score(np.arange(30)) == score(np.arange(30, 60))


def test_counts_of_sentences_add_up_to_the_scores_of_tags():
    """With classes beside O, and words that are not scored."""
    classes = ["O", "PER", "LOC"]
    gold, found = ([[_choice(classes) for _ in range(5)] for _ in range(9)] for _ in range(2))
    scored = [[bool(RNG.random() < 0.8) for _ in range(5)] for _ in range(9)]
    counts = [tags.count_tags(*sentence, classes) for sentence in zip(gold, found, scored, strict=True)]
    assert tags.scores_of_counts(np.sum(counts, axis=0), classes) == tags.tag_scores(gold, found, scored, classes)


# ---- runs ----------------------------------------------------------------------------------------------------------

GOLD = np.arange(200) % 2


def test_two_runs_are_compared_on_the_command_line(tmp_path, capsys):
    first = sst2_run(tmp_path / "a", GOLD, np.arange(200) < 10)
    # Its classes are numbered the other way round.
    records = classified(np.where(np.arange(200) < 60, GOLD, 1 - GOLD), 1 - GOLD)
    second = write_run(tmp_path / "b", records, {"accuracy": 0.7}, labels=["1", "0"])
    assert main(["compare", str(first), str(second), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]["accuracy"]
    assert found["difference"] == pytest.approx(0.25)
    assert found["decided"]
    lines = list(comparison_lines(compare_runs(first, second, resamples=99)))
    assert lines[-2].split()[:4] == ["Accuracy", "95.00", "70.00", "+25.00"]
    assert lines[-1].startswith("Accuracy: A is better, of these two runs")


def test_seeds_are_taken_in_and_collapsed_ones_are_not(tmp_path):
    draws = [RNG.random(200) < 0.1 for _ in range(6)]
    collapsed = np.ones(200, bool)
    first = write_seeds(tmp_path / "a", [collapsed, *draws[:3]], GOLD, collapsed=1)
    second = write_seeds(tmp_path / "b", draws[3:], GOLD)
    found = compare_runs(first, second, resamples=199).differences["accuracy"]
    values = [[float((~wrong).mean()) for wrong in part] for part in (draws[:3], draws[3:])]
    assert found.sides == (spread_of(values[0]), spread_of(values[1]))
    assert found.p_examples is not None
    assert not found.decided


def test_a_folder_of_runs_of_one_task_tells_whether_the_best_is_better(tmp_path):
    for name, wrong in (("a", 10), ("b", 12), ("c", 90)):
        sst2_run(tmp_path / name, GOLD, np.roll(np.arange(200) < wrong, 50 if name == "b" else 0))
    made = rows(tasks_page(tmp_path, [tmp_path / name for name in "abc"]))
    said = {name: cells[-1] for name, cells in made.items() if "A a, B" in name}
    assert [words.partition(",")[0].partition(";")[0] for words in said.values()] == ["not decided", "A is better"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "predictions/dev.jsonl").unlink(), "has no predictions of dev"),
        (lambda run: (run / "scores.json").unlink(), "has no scores yet"),
        (lambda run: _change(run, "finetune.json", title="CoLA"), "only runs of one task can be compared"),
        (lambda run: _change(run, "finetune.json", labels=["0", "2"]), "with other labels"),
        (lambda run: _change(run, "scores.json", scores={"dev": {"accuracy": 0.99}}), "scores.json says 0.99"),
        (lambda run: _drop_line(run), "199 examples"),
        (lambda run: _rename_line(run), "another example at line 1"),
        (lambda run: _foreign_line(run), "dev.jsonl, line 201: is no prediction"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, spoil, message):
    first, second = (sst2_run(tmp_path / name, GOLD, np.arange(200) < 10) for name in "ab")
    spoil(second)
    with pytest.raises(UserError, match=message):
        compare_runs(first, second)


@pytest.mark.parametrize(
    ("kind", "labels", "gold", "other"),
    [
        ("classification", ["0", "1"], [0, 1], [1, 0]),
        ("regression", [], [0.5, 1.0], [0.5, 2.0]),
        ("multi_label", ["a", "b"], [[0], [1]], [[0], [0, 1]]),
        ("span", [], [["rome"], ["rome"]], [["rome"], ["paris"]]),
        ("tagging", ["O", "B-PER"], [["O", "B-PER"]] * 2, [["B-PER", "O"]] * 2),
    ],
)
def test_runs_with_other_labels_for_the_same_texts_are_refused(tmp_path, kind, labels, gold, other):
    """One side was scored on the other's labels, and the difference called decided."""
    tags = {"settings": to_dict(FinetuneConfig(tag_scheme="IOB2"))} if kind == "tagging" else {}
    paths = []
    for name, own in (("a", gold), ("b", other)):
        predicted = [one[0] for one in own] if kind == "span" else own
        records = [
            {"name": str(number), "text": "text", "label": label, "predicted": found}
            for number, (label, found) in enumerate(zip(own, predicted, strict=True))
        ]
        paths.append(write_run(tmp_path / name, records, {"f1": 1.0}, kind=kind, labels=labels, **tags))
    with pytest.raises(UserError, match="another label at line"):
        compare_runs(*paths)


def test_words_that_one_run_leaves_out_are_not_compared(tmp_path):
    """Of identical predictions the side that ignores a foreign tag looked better."""
    records = [
        {"name": str(n), "text": "a b", "label": ["B-PER", "B-X"], "predicted": ["B-PER", "O"]} for n in range(9)
    ]
    first, second = (
        write_run(
            tmp_path / unknown,
            records,
            {"f1": 100.0},
            kind="tagging",
            labels=["O", "B-PER"],
            settings=to_dict(FinetuneConfig(tag_scheme="IOB2", unknown_labels=unknown)),
        )
        for unknown in ("ignore", "error")
    )
    with pytest.raises(UserError, match=r"another word scored \(unknown_labels\) at line 1"):
        compare_runs(first, second)


def test_one_example_has_no_difference(tmp_path):
    """SciPy's traceback ended the report of a whole folder."""
    first, second = (sst2_run(tmp_path / name, GOLD[:1], np.array([name == "b"])) for name in "ab")
    with pytest.raises(UserError, match="dev has one example"):
        compare_runs(first, second)
    assert rows(tasks_page(tmp_path, [first, second]))


def test_a_sweep_is_no_sample(tmp_path):
    folder = write_seeds(tmp_path / "a", [np.arange(200) < 10] * 2, GOLD)
    record = json.loads((folder / "seeds.json").read_text())
    record["runs"][0]["settings"] = {"epochs": 2}
    (folder / "seeds.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is a sweep, whose runs differ in settings: name one of its folders, such as"):
        compare_runs(folder, folder)


def _change(run: Path, name: str, **values: Any) -> None:
    content = json.loads((run / name).read_text()) | values
    (run / name).write_text(json.dumps(content))


def _foreign_line(run: Path) -> None:
    with (run / "predictions/dev.jsonl").open("ab") as file:
        file.write(b"\xe9\n")


def _drop_line(run: Path) -> None:
    lines = (run / "predictions/dev.jsonl").read_text().splitlines(keepends=True)
    (run / "predictions/dev.jsonl").write_text("".join(lines[:-1]))


def _rename_line(run: Path) -> None:
    file = run / "predictions/dev.jsonl"
    file.write_text(file.read_text().replace('"text 0"', '"text zero"'))


@pytest.mark.parametrize(
    ("kind", "label", "predicted"),
    [
        ("classification", 1, "x"),
        ("classification", {}, 1),
        ("classification", 1, None),
        ("regression", "x", 0.5),
        ("regression", 0.5, math.nan),
        ("multi_label", [0], [-1]),
        ("span", ["a"], 1),
        ("span", "a", "a"),
        ("tagging", ["O"], [0]),
    ],
)
def test_predictions_that_are_none_of_their_kind_are_named_by_their_line(tmp_path, capsys, kind, label, predicted):
    """The bug: a traceback, or one line without the file."""
    sound = {"span": (["a"], "a"), "tagging": (["O"], ["O"]), "multi_label": ([0], [0])}.get(kind, (1, 1))
    for folder, (truth, answer) in (("a", sound), ("b", (label, predicted))):
        records = [
            {"name": "0", "label": sound[0], "predicted": sound[1]},
            {"name": "1", "label": truth, "predicted": answer},
        ]
        write_run(tmp_path / folder, records, {"accuracy": 1.0}, kind=kind)
    error = refusal_of(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert f"{tmp_path / 'b' / 'predictions' / 'dev.jsonl'}, line 2: is no prediction" in error
