# SPDX-License-Identifier: Apache-2.0
"""The page of `bert-jax probe`: scores of linear probes over the layers of one model or several, beside a control task."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bert_jax.base.types import JsonObject
from bert_jax.pages.chart import around, Axis, Chart, Curve, Level, percent_text
from bert_jax.pages.finetune_curves import score_axis, score_height
from bert_jax.pages.metric_words import metric_name, score_text, title_name
from bert_jax.pages.page import Bar, Bars, Card, Grid, Page, Panel, Section, Table, Tile
from bert_jax.pages.wording import counted, percent, SPACE
from bert_jax.runs.names import CHECKPOINTS
from bert_jax.tasks.scoring.chance import Spread, spread_of

MIX = "learned mix"
Spreads = Sequence[Spread | None]  # of each layer over the seeds; None where no seed has a value


def probe_page(record: JsonObject) -> Page:
    """The page of probe.json."""
    models = record["models"]
    names = model_names(models)
    settings = record["settings"]
    about = (
        f"A linear probe for each layer, {settings['seeds']} seeds: each draws its own sample of the training examples. Bands"
        f" and intervals: 95{SPACE}%, of the mean over seeds, from Student's t."
    )
    sections = [_checkpoints(record, names)] if len(models) > 1 else []
    sections += [_model_section(record, model, name) for model, name in zip(models, names, strict=True)]
    return Page(
        title=f"{record['title']}: layers probed",
        eyebrow="What a linear function reads from each layer, bert_jax",
        name=f"{record['title']}, layer by layer",
        facts=_facts(record),
        tiles=[_best_tile(record, model, name) for model, name in zip(models, names, strict=True)],
        tiles_note=about,
        sections=sections,
        footer="Everything here stands in probe.json, of every seed, for programs.",
    )


def model_names(models: Sequence[JsonObject]) -> list[str]:
    """Return short names that tell the models apart: the last folder, the step where it is known, or the whole path."""
    paths = [Path(model["model"]) for model in models]
    short = [(path.parents[1] if path.parent.name == CHECKPOINTS else path).name for path in paths]
    names = [
        f"{name}, step {model['step']:,}" if model["step"] is not None else name
        for name, model in zip(short, models, strict=True)
    ]
    return names if len(set(names)) == len(names) else [str(model["model"]) for model in models]


def spreads(by_seed: Sequence[Sequence[float | None]]) -> list[Spread | None]:
    """Mean and interval of each layer, from scores [Z][K]."""
    return [spread_of([value for value in column if value is not None]) for column in zip(*by_seed, strict=True)]


def best_layer(scores: Spreads) -> int | None:
    """The layer with the highest mean, the mix left out."""
    known = [(one.mean, -number) for number, one in enumerate(scores[:-1]) if one is not None]
    return -max(known)[1] if known else None


def _facts(record: JsonObject) -> list[tuple[str, str]]:
    first = record["models"][0]
    things = "words" if record["kind"] == "tagging" else "examples"
    train, split = first["features"]["train"], record["split"]
    of = (
        "first piece of each word"
        if record["kind"] == "tagging"
        else f"{record['settings']['pooling'] or 'mean'} of the tokens"
    )
    return [
        ("Score", f"{_metric(record)} of {split}"),
        ("Probes read", of),
        ("Trained on", f"{train:,} {things}"),
        ("Scored on", f"{first['features'][split]:,} {things}"),
        ("Data", record["data"]),
    ]


def _metric(record: JsonObject) -> str:
    of = f" of {record['f1_of']}" if record["metric"] == "f1" and record["f1_of"] else ""
    return f"{metric_name(record['metric'])}{of}"


def _per_cent(record: JsonObject) -> bool:
    return record["kind"] == "tagging"  # conlleval's scores


def _best_tile(record: JsonObject, model: JsonObject, name: str) -> Tile:
    scores = spreads(model["scores"])
    best = best_layer(scores)
    if best is None:
        return Tile(name, "not defined", note="no probe has a score")
    value = scores[best]
    assert value is not None
    mix = "not defined" if scores[-1] is None else score_text(record["metric"], scores[-1].mean, _per_cent(record))
    words = score_text(record["metric"], value.mean, _per_cent(record))
    return Tile(name, f"{best}", unit=f"of layers 0 to {model['layers']}", note=f"best: {words}; {MIX}: {mix}")


# ---- one model ------------------------------------------------------------------------------------------------------


def _model_section(record: JsonObject, model: JsonObject, name: str) -> Section:
    scores, plain, control = (spreads(model[key]) for key in ("scores", "plain", "control"))
    panels = Grid([_score_panel(record, model, scores), _control_panel(record, model, plain, control)])
    details = Grid(
        [Card([_table(record, scores, plain, control)]), Card([_weights(model)], "Weights of the learned mix")]
    )
    return Section(f"model-{name}", name, [panels, details])


def _layer_axis(layers: int) -> Axis:
    every = -(-(layers + 1) // 13)
    return Axis(0, layers, [(layer, str(layer)) for layer in range(0, layers + 1, every)], "layer (0: embeddings)")


def _curve(values: Spreads, height: Callable[[float], float], style: str, name: str) -> Curve:
    points = [(layer, height(one.mean)) for layer, one in enumerate(values[:-1]) if one is not None]
    band = [
        (layer, height(one.interval[0]), height(one.interval[1]))
        for layer, one in enumerate(values[:-1])
        if one is not None and one.interval is not None
    ]
    return Curve(points, style, name, band, marked=True)


def _score_panel(record: JsonObject, model: JsonObject, scores: Spreads) -> Panel:
    metric, per_cent = record["metric"], _per_cent(record)

    def height(value: float) -> float:
        return score_height(metric, value, per_cent)

    curve = _curve(scores, height, "held-out", "")
    chance = record["always_the_commonest"]
    level = None if chance is None else Level(height(chance), "always the commonest label")
    mix = scores[-1]
    drawn = [*(y for point in curve.band for y in point[1:]), *(y for _, y in curve.points)]
    drawn += [height(one) for one in ([chance] if chance is not None else [])] + ([height(mix.mean)] if mix else [])
    mixed = (
        Curve([(0, height(mix.mean)), (model["layers"], height(mix.mean))], "training dashed", "mix") if mix else None
    )
    chart = Chart(
        f"{title_name(metric)} of a linear probe over the layers",
        x=_layer_axis(model["layers"]),
        y=score_axis(metric, drawn),
        curves=[one for one in (curve, mixed) if one is not None and one.points],
        level=level,
    )
    note = f"Dashed: a probe on a {MIX} of all layers." if mixed else ""
    return Panel(title_name(_metric(record)), record["split"], chart, note=note)


def _control_panel(record: JsonObject, model: JsonObject, plain: Spreads, control: Spreads) -> Panel:
    what = plain_metric(record)

    def height(value: float) -> float:
        return value

    both = _curve(plain, height, "held-out", "task"), _curve(control, height, "training dashed", "control")
    curves = [curve for curve in both if curve.points]
    drawn = [y for curve in curves for _, y in curve.points] + [
        y for curve in curves for p in curve.band for y in p[1:]
    ]
    is_correlation = record["kind"] == "regression"
    y = around(drawn) if is_correlation else around(drawn, percent_text)
    chart = Chart(f"{what} on the task and on random labels", _layer_axis(model["layers"]), y, curves=curves)
    note = "Control: random labels for each type of word, of a text for its first; the gap is the selectivity (1909.03368)."
    return Panel(what, record["split"], chart, note=note)


def plain_metric(record: JsonObject) -> str:
    """The measure that task and control are compared by, as a heading."""
    if record["kind"] == "regression":
        return "Spearman correlation"
    return "Accuracy of words" if record["kind"] == "tagging" else "Accuracy"


def _table(record: JsonObject, scores: Spreads, plain: Spreads, control: Spreads) -> Table:
    metric, per_cent = record["metric"], _per_cent(record)
    best = best_layer(scores)
    rows = []
    for number, (score, own, other) in enumerate(zip(scores, plain, control, strict=True)):
        name = MIX if number == len(scores) - 1 else f"{number}" + (" (embeddings)" if number == 0 else "")
        gap = None if own is None or other is None else own.mean - other.mean
        rows.append((name, _mean(metric, score, per_cent), _interval(score, per_cent), _figure(record, gap)))
    head = ["Layer", title_name(metric), f"95{SPACE}%", "Selectivity"]
    return Table(head, rows, marked={} if best is None else {best: "ours"})


def _mean(metric: str, spread: Spread | None, per_cent: bool) -> str:
    return "not defined" if spread is None else score_text(metric, spread.mean, per_cent)


def _interval(spread: Spread | None, per_cent: bool) -> str:
    if spread is None or spread.interval is None:
        return ""
    scale = 1 if per_cent else 100
    return " to ".join(f"{scale * end:.2f}" for end in spread.interval)


def _figure(record: JsonObject, gap: float | None) -> str:
    if gap is None:
        return "not defined"
    return f"{100 * gap:.1f}" if record["kind"] == "regression" else percent(gap)


def _weights(model: JsonObject) -> Bars:
    """The weights of the mix, their mean over seeds; they add up to 1."""
    means = [sum(column) / len(column) for column in zip(*model["mix"], strict=True)]
    names = ["0 (embeddings)", *map(str, range(1, len(means)))]
    return Bars([Bar(name, share, percent(share)) for name, share in zip(names, means, strict=True)])


# ---- several models -------------------------------------------------------------------------------------------------


def _checkpoints(record: JsonObject, names: Sequence[str]) -> Section:
    """The best layer and the mix of each model, in the order that they were named."""
    metric, per_cent = record["metric"], _per_cent(record)
    rows, best_points, mix_points = [], [], []
    for place, (model, name) in enumerate(zip(record["models"], names, strict=True)):
        scores = spreads(model["scores"])
        best = best_layer(scores)
        top = None if best is None else scores[best]
        rows.append(
            (name, "" if best is None else str(best), _mean(metric, top, per_cent), _mean(metric, scores[-1], per_cent))
        )
        if top is not None:
            best_points.append((float(place), score_height(metric, top.mean, per_cent)))
        if scores[-1] is not None:
            mix_points.append((float(place), score_height(metric, scores[-1].mean, per_cent)))
    values = [y for _, y in (*best_points, *mix_points)]
    last = len(names) - 1
    chart = Chart(
        f"{title_name(metric)} of the best layer and of the mix, model by model",
        Axis(
            -0.2, last + 0.2, [(float(place), str(place + 1)) for place in range(len(names))], "model, as in the table"
        ),
        score_axis(metric, values or [0.0]),
        curves=[
            Curve(best_points, "held-out", "best", marked=True),
            Curve(mix_points, "training dashed", "mix", marked=True),
        ],
    )
    head = ["Model", "Best layer", title_name(metric), "Mix"]
    numbered = [(f"{place + 1}. {row[0]}", *row[1:]) for place, row in enumerate(rows)]
    panel = Panel(f"{title_name(metric)} of {counted(len(names), 'model')}", record["split"], chart)
    return Section("models", "Models", [Grid([panel, Card([Table(head, numbered)])])])
