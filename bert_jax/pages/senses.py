# SPDX-License-Identifier: Apache-2.0
"""The page of `bert-jax senses`: cosines of a word's vectors within and between senses over the layers, and a picture."""

from collections.abc import Sequence
from pathlib import Path

from bert_jax.base.types import JsonObject
from bert_jax.pages.chart import around, Axis, Chart, Curve, Dot
from bert_jax.pages.page import Card, Grid, Page, Panel, Paragraph, Part, Section, Table, Tile
from bert_jax.pages.wording import counted, decimal, percent

# How the senses of a word are drawn, in the order that they come in the file.
MARKS = (("training", False), ("held-out", False), ("training", True), ("held-out", True))
ABOUT = (
    "The table of word pieces has one vector for a word, whatever is meant: its cosines are 1. Each layer has one for each"
    " line. Vectors of deep layers point in like directions whatever they are of, so the cosine with lines of other words"
    " stands beside."
)


def senses_page(record: JsonObject) -> Page:
    """The page of senses.json."""
    name = Path(record["model"]).name
    step = "" if record["step"] is None else f", step {record['step']:,}"
    lines = sum(len(word["lines"]) for word in record["words"])
    return Page(
        title=f"{name}: senses of words",
        eyebrow="One word, many lines: its vectors compared, bert_jax",
        name=f"{name}{step}",
        facts=[
            ("Words", str(len(record["words"]))),
            ("Lines", str(lines)),
            ("Layers", f"0 (embeddings) to {record['layers']}"),
        ],
        tiles=[_tile(word) for word in record["words"]],
        tiles_note=ABOUT,
        sections=[_section(word) for word in record["words"]],
        footer="Everything here stands in senses.json, for programs.",
    )


def _tile(word: JsonObject) -> Tile:
    best = next(row for row in word["by_layer"] if row["layer"] == str(word["best_layer"]))
    count = len(word["lines"])
    if best["nearest"] is None:
        return Tile(word["word"], decimal(best["within"]), note=f"mean cosine of {count} lines, layer {best['layer']}")
    note = f"lines are nearest to one of their own sense, layer {best['layer']}"
    return Tile(word["word"], f"{best['nearest']}", unit=f"of {count}", note=note)


def _section(word: JsonObject) -> Section:
    senses = ", ".join(word["senses"]) or "no senses named"
    parts: list[Part] = [
        Paragraph(f"{counted(len(word['lines']), 'line')}; {senses}.", "lede"),
        Grid([_cosine_panel(word), _picture(word)]),
        Grid([Card([_table(word)]), Card([_lines(word)])]),
    ]
    return Section(f"word-{word['word']}", word["word"], parts)


def _cosine_panel(word: JsonObject) -> Panel:
    rows = word["by_layer"][1:]  # the first is the table of word pieces
    named = {
        "within": ("held-out", "within"),
        "between": ("training", "between"),
        "others": ("training dashed", "other"),
    }
    if not word["senses"]:
        named["within"] = ("held-out", "all")
    curves = []
    for key, (style, name) in named.items():
        points = [(float(place), row[key]) for place, row in enumerate(rows) if row[key] is not None]
        if points:
            curves.append(Curve(points, style, name, marked=True))
    every = -(-len(rows) // 13)
    x = Axis(
        0, max(len(rows) - 1, 1), [(place, str(place)) for place in range(0, len(rows), every)], "layer (0: embeddings)"
    )
    y = around([height for curve in curves for _, height in curve.points])
    note = "Within: pairs of one sense. Between: of different senses. Other: with lines of the other words."
    return Panel("Mean cosine", "", Chart("Mean cosines over the layers", x, y, curves=curves), note=note)


def _picture(word: JsonObject) -> Panel:
    senses = word["senses"] or [None]
    dots = []
    for (x, y), line in zip(word["points"], word["lines"], strict=True):
        place = senses.index(line["sense"])
        if place < len(MARKS):
            style, cross = MARKS[place]
            dots.append(Dot(x, y, style, cross))
    left, up = ([point[axis] for point in word["points"]] for axis in (0, 1))
    shares = word["shares"]
    x, y = around(left), around(up)
    chart = Chart(
        f"Vectors of {word['word']} on their first two principal components",
        Axis(x.low, x.high, x.ticks, f"first component, {percent(shares[0], 0)} of the variance"),
        Axis(y.low, y.high, y.ticks, f"second, {percent(shares[1], 0)}"),
        dots=dots,
    )
    readings = [
        (f"{'×' if cross else '●'} {sense}", "", style)
        for sense, (style, cross) in zip(word["senses"], MARKS, strict=False)
    ]
    left_out = len(word["senses"]) - len(MARKS)
    note = f"{counted(left_out, 'further sense')} not drawn." if left_out > 0 else ""
    return Panel("Principal components", f"layer {word['best_layer']}", chart, readings=readings, note=note)


def _table(word: JsonObject) -> Table:
    rows = []
    for row in word["by_layer"]:
        layer = {"table": "table of pieces", "0": "0 (embeddings)"}.get(row["layer"], row["layer"])
        nearest = "" if row["nearest"] is None else f"{row['nearest']} of {len(word['lines'])}"
        rows.append((layer, *(_cosine(row[key]) for key in ("within", "between", "others")), nearest))
    return Table(["Layer", "Within", "Between", "Other words", "Nearest is of the sense"], rows)


def _cosine(value: float | None) -> str:
    return "none" if value is None else decimal(value)


def _lines(word: JsonObject) -> Table:
    rows: Sequence[tuple[str, str]] = [(line["text"], line["sense"] or "") for line in word["lines"]]
    return Table(["Line", "Sense"], rows, "words")
