# SPDX-License-Identifier: Apache-2.0
"""Each finding of the doctor, from a run with one thing spoiled; a healthy run gives none that matters."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
from conftest import Prepared, refusal_of
from made_up_runs import (
    CONFIG,
    data_line,
    ENTROPY,
    eval_line,
    lines,
    masks_of,
    mlm_loss,
    passport,
    train_line,
    write_run,
)

from bert_jax.base.errors import UserError
from bert_jax.checks.configuration import recipe_rate
from bert_jax.checks.examination import examine
from bert_jax.checks.findings import Finding, NOTE, OK, PROBLEM, WARNING
from bert_jax.checks.printing import as_text
from bert_jax.cli import main
from bert_jax.config.distill import PretrainDistillConfig
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig
from bert_jax.config.settings import override
from bert_jax.config.training import OptimizerConfig
from bert_jax.pages.pretrain import page_of
from bert_jax.runs.reading import load_run
from bert_jax.tokenization import SPECIAL_TOKENS, WordPieceTokenizer

TINY = ModelConfig(**MODEL_SIZES["tiny"])


def changed(**changes):
    return dataclasses.replace(CONFIG, **changes)


def finding(tmp_path, subject, metrics=None, config=CONFIG, data=None):
    """The gravest finding about a subject."""
    found = [f for f in examine(write_run(tmp_path, metrics, config, data)).findings if f.subject == subject]
    assert found, f"nothing is said of {subject}"
    return min(found, key=lambda f: (PROBLEM, WARNING, NOTE, OK).index(f.severity))


def check(found, severity, *words):
    assert found.severity == severity, found
    text = " ".join([found.placed, found.causes, found.remedy, found.command])
    for word in words:
        assert word in text, (word, text)


# ---- nothing wrong ---------------------------------------------------------------------------------------------------


def test_a_healthy_run_gives_no_problem_warning_or_note(tmp_path):
    examination = examine(write_run(tmp_path))
    assert [found for found in examination.findings if found.severity != OK] == []
    assert not examination.problem
    subjects = {found.subject for found in examination.findings}
    assert subjects >= {
        "Learning from context", "Stability", "Held-out loss", "Next sentence", "Gradient norm", "Throughput", "Masks",
        "Picked tokens", "First batches", "Learning rate", "Warm-up", "Initial weights", "Text for the steps",
        "Held-out text", "Padding", "Seeds", "Vocabulary", "Repeated lines", "Pair labels",
    }  # fmt: skip


def test_a_run_that_has_logged_nothing_is_told_to_wait(tmp_path):
    check(finding(tmp_path, "Curves", []), NOTE, "no step is logged yet", "every 100 steps")


def test_a_loss_that_is_no_number(tmp_path):
    metrics = [train_line(100), train_line(200, loss=math.nan, mlm_loss=math.nan)]
    check(
        finding(tmp_path, "Curves", metrics), PROBLEM, "step 200: the loss is not a number", "optimizer.learning_rate="
    )


# ---- the unigram floor --------------------------------------------------------------------------------------


def stuck(step):
    return ENTROPY + 3 * math.exp(-step / 150)


def test_a_loss_at_the_unigram_floor_is_found_with_the_step_it_began(tmp_path):
    found = finding(tmp_path, "Learning from context", lines(mlm_loss=stuck))
    check(found, PROBLEM, "MLM loss 7.20 nats", "word frequencies alone give 7.20", "since step 400, for 21,600 steps")


def test_a_loss_that_reached_the_floor_lately_is_no_problem_yet(tmp_path):
    found = finding(tmp_path, "Learning from context", lines(last=2_000, mlm_loss=stuck))
    check(found, NOTE, "since step 400, for 1,600 steps", "wait until about step 6,400")


def test_a_loss_that_topic_explains_is_warned_of_at_the_end(tmp_path):
    def topic(step):
        return stuck(step) - 0.5 * (1 - math.exp(-step / 3_000))

    check(finding(tmp_path, "Learning from context", lines(mlm_loss=topic)), WARNING, "0.50 less, which topic alone")


def test_a_loss_above_the_floor(tmp_path):
    check(finding(tmp_path, "Learning from context", lines(mlm_loss=9.5)), PROBLEM, "not even those are learned")
    check(finding(tmp_path, "Learning from context", lines(500, mlm_loss=9.5)), NOTE, "not even those are learned")


@pytest.mark.parametrize(("soft", "judged"), [(0.0, set()), (1.0, {"Learning from context"})])
def test_a_head_that_is_not_trained_is_not_judged(tmp_path, soft, judged):
    """As in MiniLM: the relations of a teacher are all that is learned, and the MLM loss rises."""
    taught = changed(distill=PretrainDistillConfig(labels=0.0, soft=soft, relations=1.0))
    run = write_run(tmp_path, lines(mlm_loss=9.5), taught)
    subjects = {"Learning from context", "Next sentence", "Stability", "Held-out loss"}
    told = {found.subject for found in examine(run).findings if found.severity != OK}
    assert told & subjects == judged
    page = page_of(load_run(run))
    words = "NSP" if soft else "MLM and NSP"
    assert page.tiles_note.startswith(f"Not trained (distill.labels=0): {words}, whose scores say nothing of the model")


@pytest.mark.parametrize(
    ("config", "spoil", "words"),
    [
        (changed(model=TINY), None, ["keeps attention flat", "model.initializer_range=0.088"]),
        (
            changed(optimizer=dataclasses.replace(CONFIG.optimizer, learning_rate=5e-3)),
            None, ["above a tenfold of the recipe's", "optimizer.learning_rate=0.0001"],
        ),
        (CONFIG, lambda p: p["text"]["sentences"].update(repeated_share=0.35), ["35% of the sentences are repeated lines"]),
        (CONFIG, lambda p: p["splits"]["train"].update(unknown_tokens=12_000_000), ["20% of the tokens are [UNK]"]),
        (CONFIG, lambda p: p.update(vocab_size=104), ["a vocabulary of 104 entries"]),
        (CONFIG, None, ["more steps, another rate", "optimizer.learning_rate="]),
    ],
)  # fmt: skip
def test_causes_of_the_floor_are_those_that_the_run_shows(tmp_path, config, spoil, words):
    data = passport(spoil) if spoil else None
    found = finding(tmp_path, "Learning from context", lines(mlm_loss=stuck), config, data)
    check(found, PROBLEM, *words)
    others = {"keeps attention flat", "above a tenfold", "repeated lines", "are [UNK]", "a vocabulary of"}
    assert [other for other in others if other in found.causes] == [other for other in others if other in words[0]]


# ---- other curves ----------------------------------------------------------------------------------------------------


def test_a_loss_that_rises_again(tmp_path):
    def diverging(step):
        return mlm_loss(step) + (2.0 if step > 15_000 and step <= 20_000 else 0)

    metrics = lines(last=20_000, mlm_loss=diverging)
    check(
        finding(tmp_path, "Stability", metrics),
        PROBLEM,
        "risen by 1.89",
        "at step 15,000",
        "optimizer.learning_rate=3e-05",
    )


def test_noise_is_no_rise(tmp_path):
    """A mean of three lines in the place of a twentieth of them warned of it."""
    noise = np.random.default_rng(1).normal(0, 0.3, 1_001)
    metrics = lines(last=100_000, mlm_loss=lambda step: 2.0 + noise[step // 100])
    check(finding(tmp_path, "Stability", metrics), OK)


def test_another_sequence_length_is_no_divergence(tmp_path):
    def longer_rows_are_harder(step):
        return mlm_loss(step) + (2.0 if step > 20_000 else 0)

    assert finding(tmp_path, "Stability", lines(mlm_loss=longer_rows_are_harder)).severity == OK


def test_learning_by_heart(tmp_path):
    metrics = [line for line in lines(last=20_000) if line["kind"] != "eval"]
    metrics += [eval_line(step, mlm_loss=4.0 + abs(step - 12_000) / 20_000) for step in range(1_000, 20_001, 1_000)]
    found = finding(tmp_path, "Held-out loss", metrics)
    check(found, WARNING, "at best 4.000 at step 12,000", "4.400", "by heart", "13 passes", "more text")


def test_held_out_loss_that_rises_with_the_training_loss_is_no_learning_by_heart(tmp_path):
    def rising(step):
        return 4.0 + step / 20_000

    metrics = [line for line in lines(last=20_000, mlm_loss=rising) if line["kind"] != "eval"]
    metrics += [eval_line(step, mlm_loss=rising(step)) for step in range(1_000, 20_001, 1_000)]
    assert finding(tmp_path, "Held-out loss", metrics).severity == OK


def test_noise_of_a_small_evaluation_is_no_learning_by_heart(tmp_path):
    metrics = [line for line in lines(last=20_000) if line["kind"] != "eval"]
    noisy = {8_000: 4.0, 12_000: 4.2, 16_000: 4.3}
    metrics += [eval_line(step, mlm_loss=loss, masked_tokens=400) for step, loss in noisy.items()]
    assert finding(tmp_path, "Held-out loss", metrics).severity == OK


@pytest.mark.parametrize(
    ("last", "accuracy", "share", "severity"),
    [
        (22_000, 0.512, 0.49, WARNING),
        (22_000, 0.70, 0.30, WARNING),
        (1_000, 0.512, 0.49, NOTE),
        (22_000, 0.75, 0.3, OK),
    ],
)
def test_pairs_told_no_better_than_by_the_commoner_label(tmp_path, last, accuracy, share, severity):
    metrics = lines(last=last, nsp_accuracy=accuracy, is_next_share=share)
    found = finding(tmp_path, "Next sentence", metrics)
    check(found, severity, f"always saying NotNext gives {1 - share:.1%}")


def test_a_phase_that_has_just_begun_does_not_decide_on_pairs(tmp_path):
    """Its first lines are few, and its labels may be less uneven: each line is compared with its own phase's."""
    metrics = lines(20_100, nsp_accuracy=lambda step: 0.75 if step <= 20_000 else 0.52)
    for line in metrics[2:]:
        if line["kind"] == "train":
            line["is_next_share"] = 0.3 if line["step"] <= 20_000 else 0.49
    assert finding(tmp_path, "Next sentence", metrics).severity == OK


def test_sentence_order_has_its_own_words_and_mlm_only_none(tmp_path):
    sop = changed(objective=ObjectiveConfig(name="mlm_sop"))
    metrics = lines(nsp_accuracy=0.5, is_next_share=0.52)
    check(finding(tmp_path, "Sentence order", metrics, sop), WARNING, "SOP accuracy 50.0%", "always saying in order")
    alone = examine(write_run(tmp_path, lines(), changed(objective=ObjectiveConfig(name="mlm_pairs"))))
    assert "Next sentence" not in {found.subject for found in alone.findings}


# ---- gradients and speed ---------------------------------------------------------------------------------------------


def test_spikes_of_the_gradient(tmp_path):
    def spiky(step):
        return 40.0 if step == 9_000 else 0.8

    found = finding(tmp_path, "Gradient norm", lines(grad_norm=spiky))
    check(found, NOTE, "1 spikes", "at step 9,000 40.0, 50 times")
    metrics = lines(grad_norm=spiky, mlm_loss=lambda step: mlm_loss(step) + (step == 9_000))
    check(finding(tmp_path, "Gradient norm", metrics), WARNING, "lower the rate", "optimizer.learning_rate=5e-05")


def test_a_gradient_that_is_always_clipped(tmp_path):
    check(finding(tmp_path, "Gradient norm", lines(grad_norm=5.0)), NOTE, "100% of the logged steps after warm-up")


def test_a_run_that_slows_down(tmp_path):
    slow = lines(last=20_000, tokens_per_second=lambda step: 100_000.0 if step > 17_000 else 290_000.0)
    check(finding(tmp_path, "Throughput", slow), WARNING, "100,000 tokens/s now, 290,000 at the median", "66% slower")
    uneven = lines(tokens_per_second=lambda step: 100_000.0 if step % 700 == 0 else 290_000.0)
    check(finding(tmp_path, "Throughput", uneven), NOTE, "16% of the logged intervals")


def test_longer_rows_are_not_a_slower_run(tmp_path):
    metrics = lines(tokens_per_second=lambda step: 100_000.0 if step > 20_000 else 290_000.0)
    assert finding(tmp_path, "Throughput", metrics).severity == OK


# ---- masks -----------------------------------------------------------------------------------------------------------


def test_masks_that_are_not_as_configured(tmp_path):
    """80/10/10, over all logged steps."""
    metrics = lines(mask_share=0.9, random_share=0.05, kept_share=0.05)
    check(
        finding(tmp_path, "Masks", metrics),
        PROBLEM,
        "90.00% / 5.00% / 5.00%",
        "80.0% / 10.0% / 10.0%",
        "mask, random, kept",
    )


def test_chance_is_no_fault_of_the_masks(tmp_path):
    """Few tokens vary more; and another configured split is not a fault."""
    few = lines(last=300, mask_share=0.81, random_share=0.095, kept_share=0.095, valid_tokens=20_000)
    assert finding(tmp_path, "Masks", few).severity == OK
    other = changed(objective=ObjectiveConfig(mask_share=0.9, random_share=0.05))
    metrics = lines(mask_share=0.9, random_share=0.05, kept_share=0.05)
    assert finding(tmp_path, "Masks", metrics, other).severity == OK


def test_share_of_picked_tokens(tmp_path):
    check(
        finding(tmp_path, "Picked tokens", lines(picked_share=0.1)),
        WARNING,
        "10.00% of the tokens",
        "max_predictions_per_seq=",
    )
    check(finding(tmp_path, "Picked tokens", lines(picked_share=0.3)), WARNING, "rows of a few tokens")
    schedule = changed(objective=ObjectiveConfig(mlm_probability=0.15, mlm_probability_end=0.1))
    longer = lines(picked_share=lambda step: 0.15 - 0.05 * step / 22_000, valid_tokens=lambda step: step)
    check(
        finding(tmp_path, "Picked tokens", longer, schedule),
        OK,
        "11.66% of the tokens were picked, 11.66% are configured",
    )
    falling = lines(picked_share=lambda step: 0.15 - 0.05 * step / 22_000)
    check(finding(tmp_path, "Picked tokens", falling, schedule), OK, "12.49% are configured")


def test_whole_words_that_are_single_tokens(tmp_path):
    """huggingface/transformers#11768: whole-word masking that masked tokens, for weeks. In the words of the run's own
    measurement before its first step."""
    objective = ObjectiveConfig(masking="whole_word")
    record = data_line(0, picked=20_000, units=20_000, whole_word_share=1.0)
    metrics = [record, *lines()[2:]]
    found = finding(tmp_path, "First batches", metrics, changed(objective=objective))
    check(found, WARNING, "picks single tokens only", "--segmenter jieba")


def test_broken_masks_of_the_first_batches(tmp_path):
    record = data_line(0, p_value=0.0, treatment={"mask": 20_000, "random": 0, "kept": 0})
    metrics = [record, *lines()[2:]]
    check(finding(tmp_path, "First batches", metrics), PROBLEM, "masking is broken")


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_recipe_rate_is_the_papers_for_the_papers_model():
    assert recipe_rate(768, 256) == pytest.approx(1e-4)
    assert recipe_rate(384, 256) == pytest.approx(2e-4)
    assert recipe_rate(768, 1024) == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("rate", "width", "severity", "words"),
    [
        (1e-4, "base", OK, "1.0 times the paper's recipe"),
        (6e-4, "tiny", OK, "1.0 times"),
        (2e-3, "base", NOTE, "too high"),
        (1e-2, "base", WARNING, "optimizer.learning_rate=0.0001"),
        (1e-6, "base", WARNING, "1/100 times"),
        (6e-6, "tiny", WARNING, "optimizer.learning_rate=0.0006"),
    ],
)
def test_learning_rate_against_the_recipe_relative_to_the_width(tmp_path, rate, width, severity, words):
    optimizer = dataclasses.replace(CONFIG.optimizer, learning_rate=rate)
    config = changed(model=ModelConfig(**MODEL_SIZES[width]), optimizer=optimizer)
    check(finding(tmp_path, "Learning rate", config=config), severity, words)


def test_the_rate_of_a_later_phase_is_its_own(tmp_path):
    phases = (CONFIG.phases[0], dataclasses.replace(CONFIG.phases[1], learning_rate=0.1, warmup_steps=100))
    check(finding(tmp_path, "Learning rate", config=changed(phases=phases)), WARNING, "phases.1.learning_rate=0.0001")


def test_commands_name_the_settings_of_the_phase_that_they_are_about(tmp_path):
    phases = (
        dataclasses.replace(CONFIG.phases[0], learning_rate=0.2, warmup_steps=50),
        dataclasses.replace(CONFIG.phases[1], learning_rate=0.1, warmup_steps=100),
    )
    config = changed(phases=phases)
    rates = [f.command.split()[-1] for f in examine(write_run(tmp_path, config=config)).findings if "rate" in f.command]
    assert rates == ["phases.0.learning_rate=0.0001", "phases.1.learning_rate=0.0001"]
    metrics = lines(mlm_loss=lambda step: 3.0 if step < 21_000 else 5.0, last=22_000)
    later = finding(tmp_path, "Stability", metrics, config)
    assert later.command.endswith("phases.1.learning_rate=0.03 phases.1.warmup_steps=200")


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_other_optimizers_have_another_recipe(tmp_path, name):
    """Muon trains best at 13 times the rate of Adam's recipe (configs/demo.py): nothing is to be mended there."""
    other = changed(optimizer=OptimizerConfig(name=name, learning_rate=6e-3, warmup_steps=1_000))
    assert finding(tmp_path, "Learning rate", config=other).severity == OK


def test_warm_up(tmp_path):
    none = changed(optimizer=dataclasses.replace(CONFIG.optimizer, warmup_steps=0))
    check(finding(tmp_path, "Warm-up", config=none), WARNING, "0 of 22,000 steps", "optimizer.warmup_steps=220")
    check(finding(tmp_path, "Warm-up", lines(last=500)), NOTE, "the run has done 500 steps of it", "wait")


def test_narrow_models_need_larger_initial_weights(tmp_path):
    check(
        finding(tmp_path, "Initial weights", config=changed(model=TINY)), NOTE,
        "initializer_range 0.02 at width 128", "attention stays flat", "model.initializer_range=0.088",
    )  # fmt: skip
    muon = changed(model=TINY, optimizer=OptimizerConfig(name="muon", warmup_steps=1))
    assert "model.position_initializer_range=0.088" in finding(tmp_path, "Initial weights", config=muon).command
    wide = dataclasses.replace(TINY, initializer_range=0.12)
    assert finding(tmp_path, "Initial weights", config=changed(model=wide)).severity == OK
    positions = dataclasses.replace(TINY, position_initializer_range=0.12)
    found = finding(tmp_path, "Initial weights", config=changed(model=positions))
    assert found.severity == OK
    assert "position_initializer_range 0.12 at width 128" in found.seen
    small = changed(model=dataclasses.replace(TINY, initializer_range=0.12, position_initializer_range=0.02))
    assert "model.position_initializer_range=0.088" in finding(tmp_path, "Initial weights", config=small).command
    for size in ("base", "large"):
        model = ModelConfig(**MODEL_SIZES[size])
        assert finding(tmp_path, "Initial weights", config=changed(model=model)).severity == OK


def test_more_passes_than_the_paper_made(tmp_path):
    found = finding(tmp_path, "Text for the steps", config=changed(phases=(PhaseConfig(128, 200_000, 256, 20),)))
    check(
        found, WARNING, "200,000 steps are 128.0 passes over 60,000,000", "192,000,000 tokens", "phases.0.steps=62500"
    )


def test_fewer_steps_are_fewer_in_every_phase(tmp_path):
    phases = (PhaseConfig(128, 200_000, 256, 20), PhaseConfig(512, 200_000, 256, 80, 1e-4, 2_000))
    config = changed(phases=phases)
    found = finding(tmp_path, "Text for the steps", config=config)
    shorter = override(config, [word for word in found.command.split() if "=" in word])
    factor = 40 / found.value
    assert [phase.steps for phase in shorter.phases] == [int(200_000 * factor)] * 2
    assert shorter.optimizer.warmup_steps == int(1_000 * factor)
    assert shorter.phases[1].warmup_steps == int(2_000 * factor)


MODEL = {
    "path": "/models/my bert",
    "format": "huggingface",
    "summary": "BERT",
    "weights_sha256": "0",
    "vocabulary": "1",
}


def test_commands_name_the_models_that_a_run_was_given(tmp_path):
    """And nothing is said of weights that were not drawn, nor of positions that were trained before."""
    run = write_run(tmp_path, lines(mlm_loss=stuck), changed(model=TINY))
    asked = {"gelu": "gelu_tanh", "vocabulary": None, "skip": ["a", "b"]}
    source = MODEL | {"keep": "optimizer", "longest": 512, "entries": {"kept": 1}, "asked": asked}
    (run / "source.json").write_text(json.dumps(source))
    (run / "teacher.json").write_text(json.dumps(MODEL | {"path": "teacher"}))
    findings = examine(run).findings
    commands = [found.command for found in findings if found.command.startswith("bert-jax pretrain")]
    assert commands
    options = (
        "--map-vocab --from '/models/my bert' --keep optimizer --gelu gelu_tanh --skip a --skip b --teacher teacher"
    )
    assert all(options in command for command in commands), commands
    assert not {"Initial weights", "Longer rows"} & {found.subject for found in findings}
    assert not [found for found in findings if "attention flat" in found.causes]


def test_packed_rows_make_more_passes(tmp_path):
    metrics = [data_line(0, examples_per_row=3.0), *lines()[2:]]
    config = changed(phases=CONFIG.phases[:1])
    check(finding(tmp_path, "Text for the steps", metrics, config), OK, "38.4 passes")


def test_no_held_out_text(tmp_path):
    data = passport(lambda made: made["splits"].pop("validation"))
    check(finding(tmp_path, "Held-out text", data=data), WARNING, "no validation split", "--held-out 0.05")
    subjects = [found.subject for found in examine(tmp_path).findings]
    assert subjects.count("Held-out text") == 1


def test_rows_half_empty(tmp_path):
    metrics = [data_line(0, valid_token_share=0.5), *lines()[2:]]
    check(finding(tmp_path, "Padding", metrics), NOTE, "50.0% of the places", "packing=packed")


@pytest.mark.parametrize(
    ("lengths", "steps", "last", "severity", "words"),
    [
        ((128, 512), 2_000, 22_000, OK, "positions 128 to 511 are untrained when it begins at step 20,000"),
        ((64, 96), 300, 20_200, NOTE, "200 of them done"),
        ((64, 96), 300, 20_300, OK, "rows of 96 after rows of at most 64"),
        ((64, 96), 299, 20_000, WARNING, "phases.1.steps=300"),
        ((128, 128), 200, 20_100, None, ""),
        ((128, 64), 200, 20_100, None, ""),
    ],
)
def test_longer_rows_begin_with_untrained_positions(tmp_path, lengths, steps, last, severity, words):
    first, second = (
        dataclasses.replace(phase, sequence_length=n) for phase, n in zip(CONFIG.phases, lengths, strict=True)
    )
    config = changed(phases=(first, dataclasses.replace(second, steps=steps, max_predictions_per_seq=lengths[1])))
    if severity is None:
        findings = examine(write_run(tmp_path, lines(last), config)).findings
        assert "Longer rows" not in {found.subject for found in findings}
    else:
        check(finding(tmp_path, "Longer rows", lines(last), config), severity, words, "5.01 to 5.73 nats")


@pytest.mark.parametrize(("later", "severity"), [(150, OK), (149, WARNING)])
def test_later_phases_of_the_same_rows_train_the_new_positions_too(tmp_path, later, severity):
    short, long = CONFIG.phases
    phases = (short, dataclasses.replace(long, steps=150), short, dataclasses.replace(long, steps=later))
    config = changed(phases=phases)
    check(finding(tmp_path, "Longer rows", lines(config.total_steps), config), severity, f"have {150 + later} steps")


def test_only_the_phase_that_grows_beyond_all_before_it_is_named(tmp_path):
    phases = (*CONFIG.phases, CONFIG.phases[0], CONFIG.phases[1])  # 128, 512, 128, 512
    findings = examine(write_run(tmp_path, config=changed(phases=phases))).findings
    [found] = [found for found in findings if found.subject == "Longer rows"]
    check(found, OK, "phase 1 has rows of 512")


def test_seeds_are_told(tmp_path):
    check(finding(tmp_path, "Seeds", config=changed(seed=17)), OK, "run 17, data 0")


# ---- data of a run ---------------------------------------------------------------------------------------------------


def test_only_tables_that_the_run_trains_on_are_judged(tmp_path):
    def spoil(made):
        tables = made["splits"]["train"]["tables"]
        tables["nsp_32"] = {**tables["nsp_128"], "sequence_length": 32, "is_next_share": 0.1}
        made["masks"]["nsp_32"] = {**masks_of(), "p_value": 0.0}

    findings = examine(write_run(tmp_path, data=passport(spoil))).findings
    assert [found for found in findings if found.severity != OK] == []


def test_a_run_without_its_passport(tmp_path):
    run = write_run(tmp_path)
    (run / "passport.json").unlink()
    [found] = [found for found in examine(run).findings if found.subject == "Passport"]
    check(found, NOTE, "passport.json is missing")


def test_data_is_examined_by_its_passport(tmp_path):
    made = passport(lambda made: made.update(vocab_size=104))
    for split in made["splits"].values():
        split["shards"] = []
    (tmp_path / "passport.json").write_text(json.dumps(made))
    examination = examine(tmp_path)
    assert (examination.kind, examination.problem) == ("data", False)
    assert [found.subject for found in examination.findings if found.severity == WARNING] == ["Vocabulary"]


def test_shards_that_a_copy_lost_or_cut_are_found_without_reading_them(prepared, tmp_path):
    """`pretrain` refused such data, and `doctor`, which is asked first, found nothing wrong."""
    data = shutil.copytree(prepared.data, tmp_path / "data")
    assert not [found for found in examine(data).findings if found.subject == "Shards"]
    first, *others = sorted(data.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    others[0].unlink()
    [found] = [found for found in examine(data).findings if found.subject == "Shards"]
    check(found, PROBLEM, "2 are missing or changed; the first: ", "copy it again, or remove")


def test_older_data_is_judged_by_its_tokenizer(tmp_path):
    """The passport did not say whether accents are stripped; tokenizer_config.json beside it does."""

    def older(made):
        del made["strip_accents"], made["text"]["marks"]
        made["text"]["scripts"] = {"Devanagari": 10**6}

    WordPieceTokenizer([*SPECIAL_TOKENS, "राम"], lowercase=True).save(tmp_path)
    (tmp_path / "passport.json").write_text(json.dumps(passport(older)))
    [found] = [found for found in examine(tmp_path).findings if found.subject == "Accents"]
    check(found, WARNING, "in Devanagari marks are parts of words", "--keep-accents")
    WordPieceTokenizer([*SPECIAL_TOKENS, "राम"], lowercase=True, strip_accents=False).save(tmp_path)
    [found] = [found for found in examine(tmp_path).findings if found.subject == "Accents"]
    check(found, OK, "are kept")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_text_names_the_gravest_first_and_commands_in_one_line(tmp_path, capsys):
    run = write_run(tmp_path, lines(mlm_loss=stuck, grad_norm=5.0), changed(model=TINY))
    assert main(["doctor", str(run)]) == 1
    text = capsys.readouterr().out
    assert (
        text.index("PROBLEM     Learning from context")
        < text.index("NOTE        Gradient norm")
        < text.index("\nin order\n")
    )
    assert f"bert-jax pretrain {run}/config.json --data DATA --output {run}-2 model.initializer_range=0.088" in text
    assert "1 problem" in text.splitlines()[0]


def test_exit_status_says_whether_there_is_a_problem(tmp_path, capsys):
    assert main(["doctor", str(write_run(tmp_path))]) == 0
    assert "nothing to complain of" in capsys.readouterr().out


def test_json_for_programs(tmp_path, capsys):
    assert main(["doctor", "--json", str(write_run(tmp_path, lines(mlm_loss=stuck)))]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["problem"]) == ("run", True)
    names = {"severity", "subject", "seen", "causes", "remedy", "command", "value", "threshold", "where"}
    assert names == set(found["findings"][0])


def test_what_is_neither_data_nor_run_is_refused(tmp_path, capsys):
    error = refusal_of(capsys, "doctor", tmp_path)
    assert "neither prepared data (no passport.json) nor a run (no config.json)" in error
    with pytest.raises(UserError):
        examine(tmp_path / "absent")


def test_commands_of_findings_are_commands_that_are_accepted(tmp_path):
    """The settings that any finding names make another configuration that stands its checks."""
    metrics = [data_line(0, valid_token_share=0.5), *lines(mlm_loss=stuck, picked_share=0.1)[2:]]
    config = changed(model=TINY, phases=(PhaseConfig(128, 200_000, 256, 20),))
    config = dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, warmup_steps=0, learning_rate=0.1)
    )
    findings = examine(write_run(tmp_path, metrics, config)).findings
    commands = [found.command.split() for found in findings if found.command.startswith("bert-jax pretrain")]
    changes = [[word for word in command if "=" in word] for command in commands]
    assert len(changes) >= 6
    for settings in changes:
        assert override(config, settings) != config


def test_long_text_is_wrapped_and_ok_findings_have_a_line_each(tmp_path):
    examination = examine(write_run(tmp_path))
    long = Finding(WARNING, "Something", "word " * 60, "cause " * 40, "do this", "bert-jax " + "x" * 200)
    text = as_text(dataclasses.replace(examination, findings=[long, *examination.findings]), width=80)
    rows = [row for row in text.splitlines()[1:] if not row.strip().startswith("bert-jax")]
    assert max(map(len, rows)) <= 80
    assert "x" * 200 in text
    assert len(text[text.index("\nin order\n") :].strip().splitlines()) == 1 + len(examination.findings)


# ---- real data -------------------------------------------------------------------------------------------------------


def test_prepared_data_of_this_program(prepared: Prepared):
    findings = examine(prepared.data).findings
    assert [found.subject for found in findings if found.severity == WARNING].count("Vocabulary") == 1
    assert {"Masks", "Accents"} <= {found.subject for found in findings if found.severity == OK}
    assert np.all([found.severity != PROBLEM or found.subject != "Masks" for found in findings])
