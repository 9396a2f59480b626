# SPDX-License-Identifier: Apache-2.0
"""The page of a fine-tuned run."""

from bert_jax.base.files import reading
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.pages.answer_tables import answer_parts
from bert_jax.pages.calibration import calibration_sections
from bert_jax.pages.class_tables import class_parts, Classes
from bert_jax.pages.cost import cost_section
from bert_jax.pages.finetune_curves import curve_panels
from bert_jax.pages.finetune_summary import facts, findings, status, tiles
from bert_jax.pages.glue_table import glue_sections, task_scores
from bert_jax.pages.hardest import hardest_parts
from bert_jax.pages.multi_label_tables import multi_label_parts
from bert_jax.pages.page import Bar, Bars, Card, Grid, Page, Paragraph, Part, Section, Table
from bert_jax.pages.rating_tables import rating_parts
from bert_jax.pages.settings import setting_groups
from bert_jax.pages.tag_tables import tag_parts
from bert_jax.pages.wording import count, decimal, percent
from bert_jax.runs.finetuned import FinetunedRun, prediction_fields
from bert_jax.runs.names import PREDICTIONS

BREAKDOWN_TITLES = {"span": "Answers by length", "tagging": "Tags", "regression": "Ratings"}
CLASS_LEDE = "Support is how many are of the class, predicted how many are called so."


def page_of(run: FinetunedRun) -> Page:
    """The page of a run."""
    name = run.directory.resolve().name
    words, state = status(run)
    with reading(
        run.directory / PREDICTIONS / f"{run.split}.jsonl", "remove it and make it again with bert-jax predict"
    ):
        curves = Section("curves", "Curves", [Grid(curve_panels(run))])
        examples = [_breakdown_section(run), *calibration_sections(run), _hardest_section(run)]
    return Page(
        title=f"{run.title}, {name}: fine-tuning report",
        eyebrow=f"BERT fine-tuned with bert_jax, run {name}",
        name=run.title,
        status=words,
        state=state,
        facts=facts(run),
        findings=findings(run),
        tiles=tiles(run),
        sections=[
            curves,
            *examples,
            *_mix_section(run),
            *glue_sections(name, task_scores([run]), "one run"),
            *cost_section(run.cost),
            _settings_section(run),
        ],
        footer="Scores are those of the official programs. Everything here stands in finetune.json, scores.json, metrics.jsonl"
        " and predictions/, for programs.",
    )


def _breakdown_section(run: FinetunedRun) -> Section:
    title = BREAKDOWN_TITLES.get(run.kind, "Classes")
    absent = Paragraph(f"No labelled predictions of {run.split}.", "card absent")
    return Section("breakdown", title, breakdown(run) if run.labelled else [absent])


def breakdown(run: FinetunedRun) -> list[Part]:
    """The tables that the kind of task has of its labelled predictions."""
    by_kind = {"span": answer_parts, "tagging": tag_parts, "regression": rating_parts}
    if run.kind in by_kind:
        return by_kind[run.kind](run)
    if run.kind == "multi_label":
        any_number = "each of any number of classes; a class is predicted from a probability of 0.5 on"
        return [Paragraph(f"Examples of {run.split}, {any_number}. {CLASS_LEDE}", "lede"), *multi_label_parts(run)]
    gold, predicted = prediction_fields(run.labelled)
    classes = Classes(gold, predicted, run.class_words, len(run.record["labels"]))
    lede = Paragraph(f"Examples of {run.split}. {CLASS_LEDE}", "lede")
    return [lede, *class_parts(classes, "Examples by true and predicted class")]


def _hardest_section(run: FinetunedRun) -> Section:
    words = "Every example is right." if run.labelled else "No labelled predictions."
    return Section("hardest", "Hardest examples", hardest_parts(run) or [Paragraph(words, "card absent")])


def _mix_section(run: FinetunedRun) -> list[Section]:
    mix = (run.outcome or {}).get("mix")
    if not mix:
        return []
    lede = (
        f"The head reads a sum of these layers with learned weights, times {decimal(mix['scale'])}, which is learned too"
        " (1802.05365, equation 1). The weights add up to 1, and were equal to begin with."
    )
    names = ["0 (embeddings)" if layer == 0 else str(layer) for layer in mix["layers"]]
    shares = zip(names, mix["weights"], strict=True)
    bars = Bars([Bar(name, share, percent(share)) for name, share in shares])
    return [Section("mix", "Mix of layers", [Paragraph(lede, "lede"), Card([bars])])]


def _settings_section(run: FinetunedRun) -> Section:
    parts: list[Part] = []
    if rows := count_rows(run):
        parts.append(Card([Table(["Split", "Number"], rows)]))
    if found := run.record.get("found"):
        tuned = ", ".join(f"{name.replace('_', ' ')} {decimal(value)}" for name, value in found.items())
        parts.append(Paragraph(f"Tuned on dev and kept with the model: {tuned}.", "card footnote"))
    # A default of none stands for the task's own value.
    settings = setting_groups(run.settings, FinetuneConfig(), None)
    return Section("settings", "Data and settings", [*parts, Card([settings], style="settings")])


def count_rows(run: FinetunedRun) -> list[tuple[str, str]]:
    """How many examples became what: (split and what, how many)."""
    splits = run.record.get("counts") or {}
    return [
        (f"{split}, {what}", count(times) if isinstance(times, int | float) else str(times))
        for split, counts in splits.items()
        for what, times in counts.items()
    ]
