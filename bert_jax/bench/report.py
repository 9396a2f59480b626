# SPDX-License-Identifier: Apache-2.0
"""The report of a benchmark as text: bench.json's content -> bench.md."""

from collections.abc import Iterator, Mapping

from bert_jax.base.types import JsonObject
from bert_jax.bench.tables import flop_rate, markdown, tables_of, times
from bert_jax.pages.duel import duel_words, off_pace
from bert_jax.pages.wording import counted, decimal, duration, moment, percent

# FORMAT 2: `feed` has records of kind "compared"; prepare, tokenize and finetune came.
FORMAT = 2
DUEL_FILE = "duel.html"
TITLES = {
    "ceiling": ("Ceiling", "What one device can do at most, measured here."),
    "kernels": (
        "Kernels",
        "Each implementation of attention against the reference: largest difference over largest value, of the output and"
        " of each gradient, on packed rows with padding and with the same dropout bits.",
    ),
    "step": (
        "Train step",
        "Forward, backward, clipping, optimizer. Tokens and FLOPs count valid tokens only, by the formula: nothing recomputed,"
        " no padding, no optimizer; a sequence is an example, of which a packed row holds several. The optimizer is measured"
        " alone, in turn with the whole step. In the training loop, fed and logged, the device is idle from the end of a step"
        " until the next is dispatched. Slower is what such a step takes longer than one dispatched right behind another;"
        " less than 0 is noise.",
    ),
    "attention": ("Attention", "Forward, and forward with the gradients of queries, keys and values."),
    "prepare": (
        "Preparation",
        "`bert-jax prepare` and epochs of padded batches beside google-research/bert's create_pretraining_data.py, whose"
        " dupe_factor is the number of epochs, by CPU-seconds of all processes; then all of the text with one worker and with"
        " two. Memory counts pages that processes share once for each.",
    ),
    "tokenize": ("Tokenisation", "Sentences to ids on one thread; ours are google-research/bert's."),
    "feed": (
        "Feed",
        "Masking, packing and layout in NumPy on one core, by the plain iterator and by tf.data. Only tokens that are not"
        " padding count; the collator gets full rows of the same text.",
    ),
    "checkpoint": ("Checkpoint", "How long training stands still for a save that is written behind its back."),
    "memory": ("Memory", "What the compiler planned, and what the device's allocator told."),
    "train": (
        "Training",
        "A small model on a made-up language, in both types of number, from the same seed and batches;"
        " final losses are means of the last 20 steps.",
    ),
    "peer": ("Peer", "PyTorch transformers on the same batch, in turn with ours, step by step."),
    "finetune": (
        "Fine-tuning",
        "SST-2 on this CPU in float32, from the same weights and texts, by the same recipe. The first epoch warms up, the"
        " second is measured; so are predictions. Compilation is left out of the speed: so many examples pay it back.",
    ),
    "duel": (
        "Duel",
        "Pre-training on this CPU for the same time, in float32: the same documents, vocabulary, shape of model and cores, and"
        " scores by `bert-jax evaluate` on the same held-out masks. Trainer takes its own recipe and ours, and the better one"
        " counts. Ours counts from its start-up on, compilation with it, Trainer from the call that trains; saving and scoring"
        " count on neither side. Text is prepared before; imports come before all of it, but in the preparation of ours.",
    ),
    "export": (
        "Exported models",
        "Vectors of sentences of the same rows of made-up ids, on as many threads for each side; a batch is ROWSxTOKENS."
        " Agreement, largest difference and mean cosine, is with ours and was found before the first sample; tokenising is left"
        " out.",
    ),
}


def failures(report: JsonObject) -> list[tuple[str, str]]:
    """Return (what failed, its error), of whole subjects and of single records."""
    found = []
    for subject, entry in report["subjects"].items():
        found += [(f"{subject}, {record['name']}", record["error"]) for record in entry["records"] if "error" in record]
        if "error" in entry:
            found.append((subject, entry["error"]))
    return found


def as_markdown(report: JsonObject) -> str:
    """Return the whole report: what there is to see first, a section of each subject, and the conditions."""
    conditions = report["conditions"]
    to_come = [name for name in report["asked"] if name not in report["subjects"]]
    spent = sum(entry["seconds"] or 0 for entry in report["subjects"].values())
    state = f"Under way: {', '.join(to_come)} to come." if to_come else ""
    failed = [f"**{what} could not be measured.** {error}" for what, error in failures(report)]
    parts = [
        f"# {machine_name(conditions)}: benchmark",
        f"{moment(conditions['date'])}, bert_jax {conditions['versions']['bert_jax']}, {duration(spent)}. {state}".strip(),
        *failed,
        "\n".join(f"- {line}" for line in highlights(report)),
        *(part for name, entry in report["subjects"].items() for part in section(name, entry)),
        "## Conditions",
        markdown([{"Condition": name, "Here": value} for name, value in machine(conditions)]),
        "Medians and the largest distance of a sample from them; sides that are compared ran in turn, and shares and ratios"
        " are medians over the rounds. Every sample stands in bench.json.",
        f"    {report['command']}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def section(name: str, entry: JsonObject) -> Iterator[str]:
    """Yield the parts of one subject: title, words, tables, what is absent."""
    title, lede = TITLES[name]
    yield f"## {title}" + ("" if entry["seconds"] is None else f" ({duration(entry['seconds'])})")
    versions = [words(one["versions"]) for one in entry["records"] if one.get("kind") == "versions"]
    yield " ".join([lede, *(f"With {one}." for one in versions)])
    tables, missing = tables_of(entry), absent(entry)
    yield from tables
    yield from missing
    if not tables and not missing:
        yield "Nothing was measured."


def absent(entry: JsonObject) -> list[str]:
    """Return a line for each peer or subject that was left out."""
    return [f"{one['name']}: absent: {one['absent']}" for one in entry["records"] if "absent" in one]


def machine_name(conditions: JsonObject) -> str:
    """Return the devices, or a CPU's own name."""
    if conditions["platform"] == "cpu":
        return f"{conditions['cpu']}, {counted(conditions['cores'], 'core')}"
    return f"{conditions['device_count']} x {conditions['device_kind']}"


def highlights(report: JsonObject) -> Iterator[str]:
    """Yield the figures to see first, of what was measured."""
    if steps := _records(report, "step", "step"):
        best = max(steps, key=lambda record: record["utilisation"])
        speed = flop_rate(best["flops_per_second"])
        yield f"Best FLOP utilisation: {percent(best['utilisation'])} of the ceiling ({best['name']}: {speed})"
    if contests := _records(report, "peer", "peer"):
        ratios = ", ".join(f"{record['name'].partition(',')[0]} {times(record['ratio'])}" for record in contests)
        yield f"Faster than PyTorch: at least {times(min(record['ratio'] for record in contests))} ({ratios})"
    for record in _records(report, "duel", "duel"):
        yield f"Duel, {record['name']}: {duel_words(record)}"
        yield from (f"{finding.subject}: {finding.line()}" for finding in off_pace(record))
    if loops := [record for record in steps if "loop" in record]:
        worst = max(loops, key=lambda record: record["loop"]["idle_share"]["median"])
        idle = percent(worst["loop"]["idle_share"]["median"], 2)
        yield f"Device idle: {idle} of the training loop ({worst['name']})"
    if runs := _records(report, "train", "train"):
        gap = decimal(max(record["largest_smoothed_difference"] for record in runs), 4)
        yield f"bfloat16 beside float32: loss curves differ by at most {gap} nats, means of {runs[0]['window']} steps"


def _records(report: JsonObject, subject: str, kind: str) -> list[JsonObject]:
    entry = report["subjects"].get(subject, {"records": []})
    return [record for record in entry["records"] if record.get("kind") == kind and "error" not in record]


def machine(conditions: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield what the figures depend on."""
    yield "Devices", f"{conditions['device_count']} x {conditions['device_kind']} ({conditions['platform']})"
    yield "CPU", f"{conditions['cpu']}, {conditions['cores']} cores for this process"
    yield "System", conditions["system"]
    yield "Versions", words(conditions["versions"])
    yield "Load before", ", ".join(f"{value:.2f}" for value in conditions["load_average"])
    yield "Environment", words(conditions["environment"]) or "nothing set"
    yield "Sizes", words(conditions["sizes"])
    yield "Fine-tuning", words(conditions["finetune"])


def words(pairs: Mapping[str, object]) -> str:
    """Write pairs as: name value, name value, ..."""
    return ", ".join(f"{name} {value}" for name, value in pairs.items())
