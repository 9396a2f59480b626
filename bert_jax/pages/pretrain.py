# SPDX-License-Identifier: Apache-2.0
"""The page of a pre-training run."""

import math

import markupsafe

from bert_jax.checks.examination import run_findings
from bert_jax.checks.findings import serious
from bert_jax.config.objective import ObjectiveConfig, pair_words
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import to_dict
from bert_jax.pages.chart import MOST_POINTS
from bert_jax.pages.cost import cost_section
from bert_jax.pages.curves import panels
from bert_jax.pages.notices import notices
from bert_jax.pages.page import Card, Grid, Page, Paragraph, Part, Section, Table
from bert_jax.pages.pretrain_curves import (
    lines_of,
    optimizer_measures,
    pair_measures,
    replaced_measures,
    taught_measures,
    token_measures,
)
from bert_jax.pages.pretrain_data import data_section
from bert_jax.pages.pretrain_evaluation import evaluation_section, samples_section
from bert_jax.pages.pretrain_summary import facts, status_words, tiles
from bert_jax.pages.settings import setting_groups
from bert_jax.pages.wording import millions, moment, percent, picked_words, plain, teraflops
from bert_jax.runs.reading import mean_share, number, Run

MACHINE_NAMES = {
    "bert_jax": "bert_jax",
    "jax": "JAX",
    "jaxlib": "jaxlib",
    "optax": "Optax",
    "numpy": "NumPy",
    "xla_flags": "Flags of XLA",
    "started": "Last started",
    "peak_flops_per_device": "Peak of a device",
    "peak_source": "Source of the peak",
}


def page_of(run: Run) -> Page:
    """The page of a run."""
    name = run.directory.resolve().name
    return Page(
        title=f"{name}: pre-training report",
        eyebrow="BERT pre-training with bert_jax",
        name=name,
        status=status_words(run),
        state="" if run.finished else "open",
        progress=min(run.last_step / run.config.total_steps, 1.0),
        facts=facts(run),
        findings=[*serious(run_findings(run)), *notices(run)],
        tiles=tiles(run),
        tiles_note=untrained_words(run),
        sections=[
            _token_section(run),
            *_replaced_section(run),
            *_taught_section(run),
            _pair_section(run),
            Section("optimizer", "Optimizer and speed", [Grid(panels(optimizer_measures(run), lines_of(run)))]),
            *cost_section(run.cost),
            evaluation_section(run),
            samples_section(run),
            data_section(run),
            _configuration_section(run),
        ],
        footer="Losses are in nats for each predicted token or pair. Accuracy is counted on what is predicted.",
    )


def untrained_words(run: Run) -> str:
    """Return which heads have no part in the loss; empty where all have."""
    pair = pair_words(run.config.objective)
    names = {run.tokens.term: run.tokens.short, "nsp": "" if pair is None else pair.short}
    untrained = " and ".join(names[term] for term in run.config.untrained)
    return untrained and (
        f"Not trained (distill.labels=0): {untrained}, whose scores say nothing of the model; what is learned is the teacher's."
    )


def _token_section(run: Run) -> Section:
    curves: list[Part] = [*panels(token_measures(run), lines_of(run)), _how_to_read(run)]
    return Section(run.tokens.term, _model_title(run.config.objective), [Grid(curves)])


def _model_title(objective: ObjectiveConfig) -> str:
    if objective.is_backward:
        return "Language models in both directions"
    return "Masked language model" if objective.masks else "Left-to-right language model"


def _how_to_read(run: Run) -> Card:
    objective, model = run.config.objective, run.config.model
    has_dropout = model.hidden_dropout_prob or model.attention_probs_dropout_prob
    trained, scored = (", with dropout", ", without dropout") if has_dropout else ("", "")
    words = _masked_words(run) if objective.masks else _both_words() if objective.is_backward else _next_token_words()
    swatches = (
        ("training", f"training text{trained}, mean of each logged interval"),
        ("held-out", f"held-out text{scored}"),
        ("dashed", "what can be had without reading the context"),
    )
    legend = markupsafe.Markup('<span class="swatch {}"></span>{}')
    parts: list[Part] = [Paragraph(words), *(Paragraph(legend.format(*swatch), "key") for swatch in swatches)]
    if len(run.train) > MOST_POINTS:
        averaged = f"Curves of more than {MOST_POINTS} points are averaged over neighbours; the pale band spans their lowest to"
        parts.append(Paragraph(f"{averaged} highest."))
    return Card(parts, "How to read these curves", style="note")


def _masked_words(run: Run) -> str:
    measured = picked_tokens(run)
    here = f", here {measured}" if measured else ""
    return (
        f"Only the picked tokens enter the MLM loss: {picked_words(run.config.objective, 0)} of them by configuration{here}."
        " The rest of the text is context. Each step therefore learns from fewer predictions than a left-to-right model"
        " makes of the same text, and the loss falls more slowly; in return every prediction sees both sides."
    )


def _next_token_words() -> str:
    return (
        "Every token but the last of its example predicts the next one, from those before it alone. So each step learns from"
        " nearly all of its tokens, and perplexity is that of the text, by the chain rule, for each word piece; it is not to"
        " be compared with that of a masked model, which sees both sides."
    )


def _both_words() -> str:
    return (
        "One model reads from left to right (LTR) and predicts each next token, another from right to left (RTL) and predicts"
        " each token before; they share the table of word pieces and the softmax, and neither sees what the other has read. The"
        " loss is their sum. Each perplexity is that of the text, by the chain rule, for each word piece."
    )


def picked_tokens(run: Run) -> str:
    """How much of the text has entered the MLM loss; empty where nothing is logged."""
    tokens = math.fsum(number(record, "valid_tokens") or 0 for record in run.train)
    measured = mean_share(run.train, "picked_share")
    if measured is None:
        return ""
    return f"{millions(measured * tokens)} predictions from {millions(tokens)} tokens ({percent(measured, 2)})"


def _replaced_section(run: Run) -> list[Section]:
    measures = replaced_measures(run)
    if not measures:
        return []
    lede = (
        "A small generator, whose masked language model is above, fills the masked places with samples of what it predicts."
        " Which tokens are they? A sample that equals the text's own token counts as the text's."
    )
    curves = Grid(panels(measures, lines_of(run)))
    return [Section("replaced", "Replaced tokens", [Paragraph(lede, "lede"), curves])]


def _taught_section(run: Run) -> list[Section]:
    measures = taught_measures(run)
    if not measures:
        return []
    lede = (
        "A teacher, which is not trained, reads the same rows. These are means over the predicted tokens, or over all valid"
        f" ones; how much each counts in the loss that is minimised: {run.config.distill.words}."
    )
    return [Section("teacher", "The teacher", [Paragraph(lede, "lede"), Grid(panels(measures, lines_of(run)))])]


def _pair_section(run: Run) -> Section:
    words = pair_words(run.config.objective)
    if words is None:
        absent = (
            f"The objective of this run, {run.config.objective.name}, predicts no label of sentence pairs: there is no loss or"
            " accuracy of them."
        )
        return Section("pairs", "Sentence pairs", [Paragraph(absent, "card absent")])
    curves = Grid(panels(pair_measures(run), lines_of(run)))
    return Section("pairs", words.task.capitalize(), [Paragraph(words.question, "lede"), curves])


def _configuration_section(run: Run) -> Section:
    settings = setting_groups(to_dict(run.config), PretrainConfig(), "no such phase")
    rows = machine(run)
    missing = Paragraph("environment.json is missing from the run directory.", "muted")
    environment = Card([Table(["Environment", ""], rows, "words") if rows else missing])
    return Section("configuration", "Configuration and environment", [Card([settings], style="settings"), environment])


def machine(run: Run) -> list[tuple[str, str]]:
    """Return the entries of environment.json: name and words."""
    rows = []
    for key, value in (run.environment or {}).items():
        text = moment(value) if key == "started" else plain(value)
        if key == "peak_flops_per_device":
            text = teraflops(value) if value else "not known"
        rows.append((MACHINE_NAMES.get(key, key.replace("_", " ").capitalize()), text))
    return rows
