# SPDX-License-Identifier: Apache-2.0
"""Studies: the table against the paper's figures, signs against numbers made by hand, a whole study killed and gone on with."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import made_up_text, Prepared, refusal_of
from finetune_samples import MODEL, write_model

from bert_jax.base import stopping
from bert_jax.base.errors import Interrupted, UserError
from bert_jax.cli import main
from bert_jax.config.description import ModelDescription
from bert_jax.config.settings import load_config
from bert_jax.feed.shards import open_data
from bert_jax.model.accounting import run_flops
from bert_jax.pages.study import study_page
from bert_jax.study import judging, running, table
from bert_jax.study.judging import NO_SIGN, RowDifference, sign
from bert_jax.study.row_settings import pretrain_config, settings_of
from bert_jax.study.running import Job, make_plan, open_output, run_jobs, StudyPlan
from bert_jax.study.table import BudgetPhase, BUDGETS, Column, STUDIES, Study, StudyRow
from bert_jax.train.loop import listen_for_stop

# A pre-trained model with two ways to fine-tune it, a floor, and a column of each kind.
SMALL = Study(
    "Small",
    "1810.04805, table 0",
    {"perplexity": Column("Perplexity", rows=("ltr", "n-grams")), "sst2": Column("SST-2", "sst2", "accuracy")},
    {
        "ltr": StudyRow("LTR", {"sst2": 92.1}, ("objective=ltr",)),
        "slow": StudyRow(
            "LTR, slowly fine-tuned", {"sst2": 91.6}, finetune=("optimizer.learning_rate=1e-5",), model="ltr"
        ),
        "n-grams": StudyRow("Trigrams", model="ltr", ngrams=3),
    },
    [("ltr", "slow")],
    scaled={"optimizer.learning_rate=1e-5": ("optimizer.learning_rate=2e-5",)},
)
SHAPE = (
    "model.num_hidden_layers=1",
    "model.hidden_size=16",
    "model.num_attention_heads=2",
    "model.intermediate_size=32",
)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Have the study `small`, and a budget of one layer of 16."""
    budget = BUDGETS["smoke"]
    patch.setitem(table.STUDIES, "small", SMALL)
    patch.setitem(
        table.BUDGETS,
        "smoke",
        replace(budget, phases=(BudgetPhase(4, 16),), pretrain=(*budget.pretrain, *SHAPE, "save_every=2")),
    )


@pytest.fixture(scope="module")
def sst2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2 of 64 + 24 examples in the words of the prepared text."""
    folder = tmp_path_factory.mktemp("sst2")
    lines = [line for line in made_up_text(40).splitlines() if line]
    for name, chosen in {"train": lines[:64], "dev": lines[64:88]}.items():
        rows = [f"{line}\t{int('rose' in line or 'ship' in line)}" for line in chosen]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return folder


def command(prepared: Prepared, output: Path, *more: object, name: str = "small") -> list[str]:
    words = ["study", name, "--budget", "smoke", "--data", prepared.data, "--output", output, *more]
    return [str(word) for word in words]


# ---- the table -------------------------------------------------------------------------------------------------------

# 1810.04805, as printed: rows of tables 5, 6 and 8, their columns in the paper's order.
PRINTED = {
    ("ablation", "base"): (84.4, 88.4, 86.7, 92.7, 88.5),
    ("ablation", "ltr"): (82.1, 84.3, 77.5, 92.1, 77.8),
    ("sizes", "12x768x12"): (3.99, 84.4, 86.7, 92.9),
    ("sizes", "24x1024x16"): (3.23, 86.6, 87.8, 93.7),
    ("masking", "0-20-80"): (83.7, 94.8, 94.6),
    ("systems", "elmo"): (76.4, 64.8, 79.8, 90.4, 36.0, 73.3, 84.9, 56.8),
}


@pytest.mark.parametrize(("study", "row"), PRINTED)
def test_figures_are_the_papers(study, row):
    """The bug: a figure in another column."""
    entry = STUDIES[study]
    printed = [column for column in entry.columns if study == "sizes" or column != "perplexity"]
    assert tuple(entry.rows[row].published[column] for column in printed) == PRINTED[study, row]


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_rows_differ_in_what_is_compared_and_in_nothing_else(name, budget):
    """The bug: a row with other steps, or a setting of a small budget that the full one's does not reach."""
    study = STUDIES[name]
    own = {row: entry for row, entry in study.rows.items() if not entry.model}
    teacher = ModelDescription(load_config("tiny").model)
    taught_by = {row: teacher if entry.is_taught else None for row, entry in own.items()}
    configs = {
        row: pretrain_config(study, entry, BUDGETS[budget], 4_096, 32, taught_by[row]) for row, entry in own.items()
    }
    if study.equal_compute:
        assert [run_flops(config, taught_by[row]) for row, config in configs.items()] == pytest.approx(
            [run_flops(configs["mlm"])] * len(configs), rel=0.05
        )
        assert len({config.total_steps for config in configs.values()}) > 2
    else:
        assert len({config.phases for config in configs.values()}) == 1
        assert len({config.optimizer for config in configs.values()}) == 1
    assert len({config.seed for config in configs.values()}) == 1
    compared = {
        str((own[row].is_taught, config.model, config.objective, config.optimizer)) for row, config in configs.items()
    }
    assert len(compared) == len(own)
    assert study.scaled.keys() <= {
        setting
        for entry in (*study.rows.values(), *study.columns.values())
        for setting in (*study.pretrain, *getattr(entry, "pretrain", ()), *entry.finetune)
    }
    for pair in study.comparisons:
        assert {*pair} <= study.rows.keys()
    assert all(row.model in (*own, "") and row.published.keys() <= study.columns.keys() for row in study.rows.values())


SIZE = {"vocab_size": 104, "hidden_size": 128, "intermediate_size": 512}  # the rows' own, in small budgets


def test_a_row_learns_from_a_teacher_where_one_is_given(prepared, sst2, tmp_path, monkeypatch, capsys):
    model, other = (write_model(tmp_path / name, replace(MODEL, **SIZE)) for name in ("teacher", "other"))
    for file in prepared.vocab.iterdir():
        shutil.copy(file, model)
    place = prepared.data, {"sst2": str(sst2)}, tmp_path
    assert "distilled" not in make_plan("ladder", "smoke", *place).study.rows
    plan = make_plan("ladder", "smoke", *place, model)
    assert ("mlm", "distilled") in plan.study.comparisons
    assert plan.configs["distilled"].total_steps < plan.configs["mlm"].total_steps
    assert plan.record()["teacher"]
    error = refusal_of(capsys, *command(prepared, tmp_path / "out", "--teacher", model, name="sizes"))
    assert f"--teacher {model}: no row of study sizes has a teacher" in error
    with pytest.raises(UserError, match=f"--teacher {other}: has another vocabulary"):
        make_plan("ladder", "smoke", *place, other)
    asked = []
    monkeypatch.setattr(running, "pretrain", lambda config, data, path, **given: asked.append((path.name, given)))
    for job in running.jobs_of(plan, ""):
        if job.kind == "pretrain":
            job.run()
    assert [name for name, given in asked if given["teacher"] is not None] == ["distilled"]


def test_the_masks_are_the_rows():
    config = pretrain_config(STUDIES["masking"], STUDIES["masking"].rows["80-20-0"], BUDGETS["full"], 30_522, 128)
    assert (config.objective.mask_share, config.objective.random_share) == (0.8, 0.0)
    assert config.total_steps == 1_000_000
    assert settings_of(STUDIES["masking"], BUDGETS["full"], ("lstm=768",)) == ["lstm=768"]


def test_a_recipe_that_was_changed_is_refused_and_another_task_is_not(prepared, tmp_path, monkeypatch):
    """The bug: rows that were fine-tuned before and after the change, compared as if nothing but the row differed."""

    def plan(*tasks: str) -> StudyPlan:
        return StudyPlan("systems", "smoke", open_data(prepared.data), dict.fromkeys(tasks, "FOLDER"), tmp_path)

    open_output(plan("sst2"))
    open_output(plan("mnli"))
    assert json.loads((tmp_path / "plan.json").read_text())["recipes"].keys() == {"sst2", "mnli"}
    before = running.load_recipe("sst2")
    changed = replace(before, config=replace(before.config, batch_size=8))
    monkeypatch.setattr(running, "load_recipe", lambda task: changed)
    with pytest.raises(UserError, match=r"another study \(recipes.sst2: "):
        open_output(plan("sst2"))


@pytest.mark.parametrize(("budget", "large", "small"), [("hour", 1, 10), ("night", 2, 10), ("smoke", 0.02, 0.02)])
def test_small_budgets_go_over_small_tasks_more_often(prepared, tmp_path, budget, large, small):
    tasks = dict.fromkeys(("sst2", "mnli", "stsb", "cola", "mrpc", "rte"), "FOLDER")
    plan = StudyPlan("systems", budget, open_data(prepared.data), tasks, tmp_path)
    epochs = {task: {one.config.epochs for one in plan.wanted("bert", task)} for task in tasks}
    assert epochs == {task: {large if task in ("sst2", "mnli") else small} for task in tasks}
    ladder = StudyPlan(
        "ladder", budget, open_data(prepared.data), tasks, tmp_path
    )  # whose table has no RTE and no MRPC
    assert {one.config.epochs for task in ("rte", "mrpc") for one in ladder.wanted("mlm", task)} == {small}


def test_features_of_four_layers_have_one_row_twice_and_say_so():
    """The last four of four layers are all of them: in small budgets the two weighted sums are one."""
    study = STUDIES["features"]
    layers = []
    for row in ("sum-last-four", "sum-all"):
        (setting,) = (own for own in settings_of(study, BUDGETS["hour"], study.rows[row].finetune) if "layers=" in own)
        layers.append([int(layer) % 5 for layer in setting.removeprefix("layers=").split(",")])
    assert layers[0] == layers[1] == [1, 2, 3, 4]
    assert "the two weighted sums are one row there" in " ".join(study.notes)


# ---- signs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "value", "interval", "expected"),
    [
        (0.5, 2.0, (1.0, 3.0), "right"),
        (-0.5, -2.0, (-3.0, -1.0), "right"),
        (0.5, -2.0, (-3.0, -1.0), "wrong"),
        (-0.5, 2.0, (1.0, 3.0), "wrong"),
        (0.5, 2.0, (-0.1, 4.1), "not decided"),
        (0.5, 2.0, (0.0, 4.0), "not decided"),  # an interval that ends at 0 holds it
        (0.5, 2.0, None, "not decided"),
        (0.0, 2.0, (1.0, 3.0), "no sign in the paper"),
        (None, 2.0, (1.0, 3.0), "no sign in the paper"),
    ],
)
def test_signs(published, value, interval, expected):
    assert sign(published, RowDifference(value, interval)) == expected


def test_a_sign_is_missing_where_a_run_is():
    assert sign(0.5, None) == "missing"
    assert sign(None, None) == "no sign in the paper"


def test_perplexities_are_compared_by_batches(monkeypatch):
    """Losses of 2 and 1 nats a token on batches of 10 tokens: the difference is 1, whatever both share."""
    losses = {"a": [(20.0, 10.0), (50.0, 10.0), (31.0, 10.0)], "b": [(10.0, 10.0), (40.0, 10.0), (20.0, 10.0)]}
    monkeypatch.setattr(judging, "_losses", lambda plan, row: losses[row])
    found = judging._perplexity_difference(None, ("a", "b"))  # type: ignore[arg-type]
    assert found is not None
    assert found.value == pytest.approx((1.0 + 1.0 + 1.1) / 3)
    # Student's t of two degrees of freedom, 4.3027, times the standard error of 1, 1, 1.1.
    half = 4.3027 * (0.1**2 / 3) ** 0.5 / 3**0.5
    assert found.interval == pytest.approx((found.value - half, found.value + half), abs=1e-4)


def test_what_is_missing_is_said_and_what_a_row_costs(prepared, sst2, tmp_path):
    """Before the first run: no cell has a figure, signs are missing, tasks are left out; compute is known."""
    plan = make_plan("systems", "smoke", prepared.data, {"sst2": str(sst2)}, tmp_path / "out")
    record = judging.record_of(plan, {"pretrain/gpt": "the made-up failure"})
    assert [one["sign"] for one in record["comparisons"] if one["column"] == "sst2"] == [*["missing"] * 3, NO_SIGN]
    assert record["absent"] == ["mnli", "qqp", "qnli", "cola", "stsb", "mrpc", "rte"]
    flops = {name: row["flops"] for name, row in record["rows"].items()}
    assert flops.pop("n-grams") is None
    assert flops == {name: run_flops(config) for name, config in plan.configs.items()}
    assert flops["elmo"] > flops["bert"]  # at equal steps
    page = study_page(record)
    assert [finding.subject for finding in page.findings] == ["Failed run", *["Task left out"] * 7]
    (table,) = (part for section in page.sections[:1] for card in section.parts for part in card.parts)
    assert [row[-1] for row in table.rows] == [*(f"{value:.3g}" for value in flops.values()), "–"]
    assert [tile.label for tile in page.tiles][:2] == ["Signs right", "Signs wrong"]


def test_a_study_of_no_paper_counts_what_is_decided(prepared, sst2, tmp_path):
    record = judging.record_of(make_plan("ladder", "smoke", prepared.data, {"sst2": str(sst2)}, tmp_path / "out"), {})
    assert {one["sign"] for one in record["comparisons"]} == {NO_SIGN}
    for one, interval in zip(record["comparisons"], [(0.1, 2.0), (-3.0, -1.0), (-0.004, 1.0)], strict=False):
        one["interval"] = interval
    next(iter(record["rows"].values()))["cells"]["sst2"] |= {"mean": -0.004, "deviation": None}
    page = study_page(record)
    shown = str(page).replace("−", "-")
    assert "-3.00" in shown
    assert "-0.00" not in shown  # a zero has no sign of its own
    assert [(tile.label, tile.value) for tile in page.tiles] == [("Decided", "2"), ("Not decided", "3")]
    assert page.tiles_note == "Of 5 differences, none of them in a paper."


# ---- whole studies ---------------------------------------------------------------------------------------------------


def test_a_study_from_end_to_end(prepared, sst2, tmp_path, monkeypatch, capsys):
    """A run fails and is named, the others go on; the same command runs that alone, and a third nothing at all."""
    make_small(monkeypatch)
    line = command(prepared, tmp_path / "study", "--tasks", f"sst2={sst2}")
    real, ran, failing = running.finetune, [], [True]

    def finetune(wanted, folder, **more):
        ran.append(str(folder.relative_to(tmp_path / "study")))
        if failing and failing.pop():
            raise UserError("the made-up failure")
        return real(wanted, folder, **more)

    monkeypatch.setattr(running, "finetune", finetune)
    assert main(line) == 1
    out, err = capsys.readouterr()
    assert "failed: finetune/ltr/sst2/seed-0: the made-up failure" in out
    assert re.search("run 3 of 7: finetune/ltr/sst2/seed-0; at least .* left", err)  # no fine-tuning was timed
    record = json.loads((tmp_path / "study/study.json").read_text())
    assert record["rows"]["ltr"]["cells"]["sst2"]["runs"] == 1
    assert record["failed"] == {"finetune/ltr/sst2/seed-0": "the made-up failure"}
    assert "the made-up failure" in (tmp_path / "study/report.html").read_text()

    ran.clear()
    assert main(line) == 0
    assert ran == ["finetune/ltr/sst2/seed-0"]
    record = json.loads((tmp_path / "study/study.json").read_text())
    assert [one["sign"] for one in record["comparisons"]] == ["not decided"]
    assert record["rows"]["slow"]["settings"] == ["optimizer.learning_rate=2e-5"], "those of a small budget"
    cells = {name: row["cells"] for name, row in record["rows"].items()}
    assert cells["ltr"]["sst2"]["runs"] == cells["slow"]["sst2"]["runs"] == 2
    assert 1 < cells["n-grams"]["perplexity"]["mean"] < cells["ltr"]["perplexity"]["mean"] < 200
    page = (tmp_path / "study/report.html").read_bytes()

    ran.clear()
    monkeypatch.setattr(running, "pretrain", None)
    assert main(line) == 0
    assert ran == []
    assert main(["report", str(tmp_path / "study")]) == 0
    assert (tmp_path / "study/report.html").read_bytes() == page

    shutil.copytree(sst2, tmp_path / "moved")
    moved = command(prepared, tmp_path / "study", "--tasks", f"sst2={tmp_path / 'moved'}")
    for other in ([*line[:1], "masking", *line[2:]], moved):
        capsys.readouterr()
        assert main(other) == 2
        assert "holds another study" in capsys.readouterr().err.splitlines()[-1]


def test_a_stop_that_a_run_was_too_short_for_ends_the_study():
    """A signal after a run's last step is heard by that run alone, which then ends as if none had come."""
    ran = []

    def run():
        ran.append(1)
        with listen_for_stop():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)

    jobs = [Job(name, "any", "", lambda: False, run) for name in "ab"]
    with stopping.watching(), pytest.raises(Interrupted, match="go on with: again"):
        run_jobs(jobs, "again")
    assert ran == [1]


SCRIPT = """
import sys
import pytest, test_study
from bert_jax.cli import main
with pytest.MonkeyPatch.context() as patch:
    test_study.make_small(patch)
    sys.exit(main(sys.argv[1:]))
"""


def test_a_study_that_is_killed_ends_with_the_same_page(prepared, sst2, tmp_path):
    """Killed in pre-training and between fine-tuned runs, or at random moments: the page is that of one never stopped."""

    def begin(name: str) -> subprocess.Popen:
        line = command(prepared, tmp_path / name, "--tasks", f"sst2={sst2}")
        # As a worker, which leaves the folder of compiled programs as it is.
        own = os.environ | {"PYTEST_XDIST_WORKER": "child"}
        return subprocess.Popen([sys.executable, "-c", SCRIPT, *line], cwd=Path(__file__).parent, env=own)

    assert begin("whole").wait() == 0
    for seen in ("pretrain/ltr/checkpoints/2", "perplexity/ltr.json", "finetune/ltr/sst2/seed-0/scores.json"):
        kill_when(begin("killed"), (tmp_path / "killed" / seen).exists)
    assert begin("killed").wait() == 0

    # A moment is a number of files that are there, and up to half a second, however fast the machine is.
    rng, made = np.random.default_rng(0), number_of_files(tmp_path / "whole")
    for moment in sorted(rng.choice(made - 10, 6, replace=False).tolist()):
        kill_when(
            begin("at random"),
            lambda moment=moment: number_of_files(tmp_path / "at random") > moment,
            rng.uniform(0, 0.5),
        )
        print(f"killed with {moment} of {made} files")
    assert begin("at random").wait() == 0
    for name, other in itertools.product(("study.json", "report.html"), ("killed", "at random")):
        assert (tmp_path / other / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def number_of_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def kill_when(process: subprocess.Popen, reached: Callable[[], object], pause: float = 0.0) -> None:
    """Kill a study when something is reached, before its end."""
    while not reached():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(pause)
    process.kill()
    assert process.wait() == -signal.SIGKILL


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("maskin", (), "there is no study maskin: did you mean masking?"),
        ("masking", ("--budget", "day"), "there is no budget day"),
        ("masking", (), "no task is given"),
        ("masking", ("--tasks", "sst2"), "--tasks sst2: write TASK=FOLDER"),
        ("masking", ("--tasks", "sst3=FOLDER"), "sst3"),
        ("masking", ("--tasks", "sst2=FOLDER"), "FOLDER"),
        ("masking", ("--tasks", "sst2=a", "sst2=b"), "--tasks names sst2 twice"),
        ("masking", ("--tasks", "sst2=s3://bucket/name"), "s3://bucket/name"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(name, more, said, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    assert said in refusal_of(capsys, *command(prepared, Path("out"), *more, name=name))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_and_data_without_an_objective(prepared, sst2, tmp_path, monkeypatch, capsys):
    make_small(monkeypatch)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letter.txt").write_text("mine")
    error = refusal_of(capsys, *command(prepared, tmp_path / "out", "--tasks", f"sst2={sst2}"))
    assert "is not empty and holds no study" in error
    bare = ["--vocab", prepared.vocab, "--output", tmp_path / "bare", "--objective", "mlm_nsp", "--sequence-length", 16]
    assert main([str(word) for word in ("prepare", "--input", prepared.text, *bare, "--workers", 1)]) == 0
    capsys.readouterr()
    line = command(replace(prepared, data=tmp_path / "bare"), tmp_path / "new", "--tasks", f"sst2={sst2}")
    assert "bert-jax prepare" in refusal_of(capsys, *line)
    assert not (tmp_path / "new").exists()
