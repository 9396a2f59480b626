# SPDX-License-Identifier: Apache-2.0
"""Linear probes on every layer of models, scored by the task's official scorer: which layer is best for what.

Beside them stands a control task (Hewitt and Liang, 1909.03368, section 2): the same probes on labels that were drawn at
random for each type of word. A probe that does well there learns words by heart; what it does better on the task is its
selectivity.

Shapes: Z seeds, K layers, R features, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import write_json
from bert_jax.base.output_lock import LOCK_FILE, locked
from bert_jax.base.types import JsonObject
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.conversion.checkpoints import Asked
from bert_jax.finetuning.directory import OwnTask
from bert_jax.finetuning.layer_features import layer_features, LayerFeatures, MEAN
from bert_jax.finetuning.linear_probes import bootstrap, fit, mix_shares, predict, Standard
from bert_jax.finetuning.prepared import FinetuneSetup, Wanted
from bert_jax.finetuning.run import main_metric
from bert_jax.finetuning.split import Outcome, TaskSplit
from bert_jax.finetuning.tagging_split import TaggingSplit
from bert_jax.mesh.compilation_cache import use_compilation_cache
from bert_jax.mesh.distributed import say
from bert_jax.pages.probe import probe_page
from bert_jax.pages.template import write
from bert_jax.runs.names import REPORT_FILE
from bert_jax.tasks.rows import IGNORE
from bert_jax.tasks.scoring.glue import accuracy, spearman
from bert_jax.tasks.table import find_task

KINDS = ("classification", "regression", "tagging")
RECORD = "probe.json"
CONTROL_SEED = 10_000  # of the random labels: far from the seeds of the probes


@dataclass(frozen=True)
class ProbeSettings:
    """How features are read, and how many probes are trained on them."""

    pooling: str | None = None  # of a text's tokens; None: mean; words of tagging have none; see `layer_features`
    seeds: int = 5
    examples: int | None = None  # of the training split at most, evenly chosen

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise UserError(f"--seeds {self.seeds} has no interval: use 2 or more")
        if self.examples is not None and self.examples < 1:
            raise UserError(f"--train-examples {self.examples} is not possible: use 1 or more")


@dataclass(frozen=True)
class Request:
    """A request for probes: task, data and settings, the same for every model."""

    task: str | OwnTask
    data: str
    settings: ProbeSettings
    asked: Asked = Asked(head=False)  # noqa: RUF009  # frozen


def probe(models: Sequence[Path], request: Request, output: Path) -> JsonObject:
    """Probe every layer of models, and write probe.json and a page into a new folder.

    Args:
      models: of any format, in the order of the page; several checkpoints of one run show how its layers came about.
      request: what is probed for.
      output: new, or empty.

    Returns:
      The record that is written.

    Raises:
      UserError: a task of another kind, with one class, or without a dev split; `output` is there already.
    """
    use_compilation_cache()
    with locked(output, "probe"):
        if any(file.name != LOCK_FILE for file in output.iterdir()):
            raise UserError(f"{output} is there already: choose another --output")
        record: JsonObject = {}
        for model in models:
            setup = _setup(model, request)
            record = record or _task_record(setup, request)
            record["models"].append(_probe_model(setup, model, request.settings))
        write_json(output / RECORD, record)
        write(probe_page(record), output / REPORT_FILE)
    return record


def _setup(model: Path, request: Request) -> FinetuneSetup:
    """Read the task for a model and refuse what has nothing to probe."""
    task = find_task(request.task) if isinstance(request.task, str) else request.task.task()
    kind, data = task.kind, request.data
    if kind not in KINDS:
        raise UserError(f"--task {task.name} is {kind}: probes are for {', '.join(KINDS)}")
    setup = FinetuneSetup(Wanted(request.task, data, model, FinetuneConfig(), asked=request.asked))
    if kind == "tagging" and request.settings.pooling is not None:
        raise UserError(
            "--pooling is of a text's tokens, and words of tagging are read at their first piece: leave it out"
        )
    setup.description.model.require_pooling(request.settings.pooling)
    if not setup.dev_splits:
        raise UserError(f"{data} has no dev split, and probes are scored on one: put it beside the training file")
    for split in (setup.train_split, setup.dev_splits[0]):
        gold = _gold(split)
        alike = len(np.unique(gold[gold != IGNORE] if kind == "tagging" else gold)) < 2
        if alike:
            raise UserError(
                f"{data}, {split.name}: every {_thing(kind)} has the same label, so there is nothing to tell apart: give"
                " data with two labels or more"
            )
        for note in split.notes:
            say(note)
    return setup


def _gold(split: TaskSplit) -> np.ndarray:
    """True classes or ratings of texts [R]; of tagging the labels of all tokens, IGNORE where there is none."""
    if isinstance(split, TaggingSplit):
        return np.concatenate([np.asarray(labels) for labels in split.units.table.labels])
    gold = getattr(split, "gold", None)
    if gold is None:
        raise UserError(f"{split.name} has no labels, and probes are scored by them: give a split that has")
    return np.asarray(gold)


def _thing(kind: str) -> str:
    return "word" if kind == "tagging" else "example"


def _task_record(setup: FinetuneSetup, request: Request) -> JsonObject:
    """Everything of probe.json that is the same for all models."""
    task, split = setup.task, setup.dev_splits[0]
    gold = _gold(setup.train_split)
    constant = np.bincount(gold[gold != IGNORE]).argmax() if task.kind != "regression" else 0
    outputs = np.zeros((len(split.units), _classes(setup)), np.float32)
    if task.kind == "regression":
        outputs[:] = gold.mean()
    else:
        outputs[:, constant] = 1
    lengths = split.units.table.lengths
    rows = [np.tile(one, (length, 1)) for one, length in zip(outputs, lengths, strict=True)]
    outcome = split.outcome(rows if task.kind == "tagging" else list(outputs))
    metric = main_metric(task, outcome.scores)
    return {
        "task": task.name,
        "title": task.title,
        "kind": task.kind,
        "metric": metric,
        "f1_of": task.f1_of,
        "data": request.data,
        "split": split.name,
        "settings": asdict(request.settings),
        "always_the_commonest": outcome.scores.get(metric),
        "models": [],
    }


def _classes(setup: FinetuneSetup) -> int:
    return 1 if setup.task.kind == "regression" else len(setup.head.labels)


# ---- one model ------------------------------------------------------------------------------------------------------


def _probe_model(setup: FinetuneSetup, model: Path, settings: ProbeSettings) -> JsonObject:
    train, dev, kind = setup.train_split, setup.dev_splits[0], setup.task.kind
    description, params = setup.checkpoint.description, setup.checkpoint.parameters()
    count = len(train.units)
    most, pooling = min(settings.examples or count, count), settings.pooling or MEAN
    learned = layer_features(description, params, train, pooling, np.arange(most) * count // most)
    scored = layer_features(description, params, dev, pooling)
    trained, dev_gold = (_of_places(one, split) for one, split in ((learned, train), (scored, dev)))
    table = _random_labels(trained, settings.seeds, len(setup.tokenizer.vocabulary))
    task_and_control = np.concatenate([np.tile(trained, (settings.seeds, 1)), table[:, learned.words]])
    logits, weights = _probed(learned, scored, task_and_control, _classes(setup), model.name)
    logits, control = np.split(logits, 2)
    outcomes = [[_outcome(dev, scored, layer) for layer in seed] for seed in logits]
    metric = main_metric(setup.task, outcomes[0][0].scores)
    plain = [[_plain(kind, dev_gold, layer) for layer in seed] for seed in logits]
    against = [
        [_plain(kind, table[number, scored.words], layer) for layer in seed] for number, seed in enumerate(control)
    ]
    return {
        "model": str(model),
        "step": setup.checkpoint.step,
        "layers": description.model.num_hidden_layers,
        "hidden": description.model.hidden_size,
        "features": {"train": len(trained), dev.name: len(dev_gold)},
        "examples": {"train": most, dev.name: len(dev.units)},
        "scores": [[one.scores[metric] for one in seed] for seed in outcomes],  # [Z][K + 1], the last of the mix
        "plain": plain,
        "control": against,
        "mix": weights[: settings.seeds].tolist(),
    }


def _of_places(features: LayerFeatures, split: TaskSplit) -> np.ndarray:
    """The true label of each feature, [R]: int32 classes or float32 ratings; IGNORE where a word has none."""
    gold, places = _gold(split), features.places
    if isinstance(split, TaggingSplit):
        return gold[split.units.table.begins[places.units] + places.tokens].astype(np.int32)
    own = gold[places.units]
    return own.astype(np.float32 if own.dtype.kind == "f" else np.int32)


def _random_labels(labels: np.ndarray, seeds: int, vocab_size: int) -> np.ndarray:
    """A label for each type of word and each seed, [Z, V], drawn from those of the training features."""
    known = labels[labels != IGNORE] if labels.dtype.kind == "i" else labels
    return np.stack([np.random.default_rng(CONTROL_SEED + seed).choice(known, vocab_size) for seed in range(seeds)])


def _probed(
    learned: LayerFeatures, scored: LayerFeatures, labels: np.ndarray, classes: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Train on labels [2 Z, R], of the task and of the control, each seed on a sample of its own.

    Returns:
      Logits of dev [2 Z, K + 1, R, C], and the weights of the mix [2 Z, K].
    """
    standard = Standard.of(learned.values)
    train, dev = standard.applied(learned.values), standard.applied(scored.values)
    mean, deviation = 0.0, 1.0
    if classes == 1:
        mean, deviation = float(labels.mean()), float(labels.std()) or 1.0
        labels = ((labels - mean) / deviation).astype(np.float32)
    samples = np.tile(bootstrap(learned.places.units, len(labels) // 2), (2, 1))
    probes = fit(train, labels, samples, classes, f"probes of {name}")
    return predict(probes, dev) * deviation + mean, mix_shares(probes)


def _outcome(split: TaskSplit, features: LayerFeatures, logits: np.ndarray) -> Outcome:
    """Score logits of features [R, C] as the task is scored."""
    if not isinstance(split, TaggingSplit):
        return split.outcome(list(logits))
    rows = [np.zeros((length, logits.shape[-1]), np.float32) for length in split.units.table.lengths]
    for row, token, own in zip(features.places.units, features.places.tokens, logits, strict=True):
        rows[row][token] = own
    return split.outcome(rows)


def _plain(kind: str, gold: np.ndarray, logits: np.ndarray) -> float | None:
    """Accuracy of examples or of words, or Spearman's correlation of ratings: what task and control are compared by."""
    if kind == "regression":
        return spearman(gold, logits[:, 0])
    known = gold != IGNORE
    return accuracy(gold[known], logits[known].argmax(-1))
