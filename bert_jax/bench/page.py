# SPDX-License-Identifier: Apache-2.0
"""Fills the template: bench.json -> the page."""

from collections.abc import Mapping
from typing import Any

from bert_jax.bench.charts import panels_of
from bert_jax.bench.results import failures, Report
from bert_jax.bench.tables import flop_rate, tables_of, times
from bert_jax.pages.template import fill
from bert_jax.pages.wording import counted, decimal, duration, moment, percent

TITLES = {
    "ceiling": ("Ceiling", "What one device can do at most, measured here."),
    "kernels": (
        "Kernels",
        "Each implementation of attention against the reference: largest difference over largest value, of the output and"
        " of each gradient, on packed rows with padding and with the same dropout bits.",
    ),
    "step": (
        "Train step",
        "Forward, backward, clipping, optimizer. Tokens and FLOPs count valid tokens only; a sequence is an example, of"
        " which a packed row holds several. In the training loop, fed and logged, the device is idle from the end of a"
        " step until the next is dispatched. Slower is what such a step takes longer than one dispatched right behind"
        " another; less than 0 is noise.",
    ),
    "attention": ("Attention", "Forward, and forward with the gradients of queries, keys and values."),
    "feed": ("Feed", "Masking, packing and layout in NumPy on one thread, without TensorFlow."),
    "checkpoint": ("Checkpoint", "How long training stands still for a save that is written behind its back."),
    "memory": ("Memory", "What the compiler planned, and what the device's allocator told."),
    "train": ("Training", "A small model on a made-up language, in both types of number, from the same seed."),
    "peer": ("Peer", "PyTorch transformers on the same batch, in turn with ours, step by step."),
}


def render(report: Report) -> str:
    """The page as text."""
    return fill(
        "bench/bench.html.jinja",
        title=machine_name(report["conditions"]),
        open=[name for name in report["asked"] if name not in report["subjects"]],
        failures=failures(report),
        facts=facts(report),
        tiles=tiles(report),
        sections=[section(name, entry) for name, entry in report["subjects"].items()],
        machine=machine(report["conditions"]),
        command=report["command"],
    )


def machine_name(conditions: Mapping[str, Any]) -> str:
    """The devices, or a CPU's own name."""
    if conditions["platform"] == "cpu":
        return f"{conditions['cpu']}, {counted(conditions['cores'], 'core')}"
    return f"{conditions['device_count']} x {conditions['device_kind']}"


def section(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """One subject: words, tables, charts, what is absent."""
    title, lede = TITLES[name]
    return {
        "name": name,
        "title": title,
        "lede": lede,
        "tables": tables_of(name, entry),
        "panels": panels_of(name, entry),
        "absent": [f"{one['name']}: {one['absent']}" for one in entry["records"] if "absent" in one],
        "versions": [words(one["versions"]) for one in entry["records"] if one.get("kind") == "versions"],
        "time": "" if entry["seconds"] is None else duration(entry["seconds"]),
    }


def facts(report: Report) -> list[tuple[str, str]]:
    """The head of the page."""
    found = report["conditions"]
    spent = sum(entry["seconds"] or 0 for entry in report["subjects"].values())
    return [
        ("Date", moment(found["date"])),
        (
            "Devices",
            f"{found['device_count']} x {found['device_kind']}; {found['cpu']}, {counted(found['cores'], 'core')}",
        ),
        ("bert_jax", found["versions"]["bert_jax"]),
        ("JAX", found["versions"]["jax"]),
        ("Time taken", duration(spent)),
    ]


def tiles(report: Report) -> list[dict[str, str]]:
    """The figures to see first, of what was measured."""
    makers = (_utilisation_tile, _peer_tile, _idle_tile, _agreement_tile)
    return [tile for make in makers if (tile := make(report)) is not None]


def _records(report: Report, subject: str, kind: str) -> list[Mapping[str, Any]]:
    entry = report["subjects"].get(subject, {"records": []})
    return [record for record in entry["records"] if record.get("kind") == kind and "error" not in record]


def _tile(label: str, value: str, unit: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "unit": unit, "note": note}


def _utilisation_tile(report: Report) -> dict[str, str] | None:
    if not (steps := _records(report, "step", "step")):
        return None
    best = max(steps, key=lambda record: record["utilisation"])
    note = f"{best['name']}: {flop_rate(best['flops_per_second'])} of model FLOPs"
    return _tile("Best FLOP utilisation", percent(best["utilisation"]), "of the ceiling", note)


def _peer_tile(report: Report) -> dict[str, str] | None:
    if not (contests := _records(report, "peer", "peer")):
        return None
    ratios = ", ".join(f"{record['name'].partition(',')[0]} {times(record['ratio'])}" for record in contests)
    lowest = min(record["ratio"] for record in contests)
    return _tile("Faster than PyTorch", times(lowest), "at least", ratios)


def _idle_tile(report: Report) -> dict[str, str] | None:
    loops = [record for record in _records(report, "step", "step") if "loop" in record]
    if not loops:
        return None
    worst = max(loops, key=lambda record: record["loop"]["idle_share"]["median"])
    note = f"{worst['name']}: from the end of a step until the next is dispatched"
    return _tile("Device idle", percent(worst["loop"]["idle_share"]["median"], 2), "of the training loop", note)


def _agreement_tile(report: Report) -> dict[str, str] | None:
    if not (runs := _records(report, "train", "train")):
        return None
    gap = max(record["largest_smoothed_difference"] for record in runs)
    note = f"largest gap of the loss curves, means of {runs[0]['window']} steps"
    return _tile("bfloat16 beside float32", decimal(gap, 4), "nats", note)


def machine(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows of the table of conditions."""
    return [
        ("Devices", f"{conditions['device_count']} x {conditions['device_kind']} ({conditions['platform']})"),
        ("CPU", f"{conditions['cpu']}, {conditions['cores']} cores for this process"),
        ("System", f"{conditions['system']}, Python {conditions['python']}"),
        ("Versions", words(conditions["versions"])),
        ("Load before", ", ".join(f"{value:.2f}" for value in conditions["load_average"])),
        ("Environment", words(conditions["environment"]) or "nothing set"),
    ]


def words(pairs: Mapping[str, Any]) -> str:
    """name value, name value, ..."""
    return ", ".join(f"{name} {value}" for name, value in pairs.items())
