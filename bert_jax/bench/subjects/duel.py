# SPDX-License-Identifier: Apache-2.0
"""Pre-training beside Hugging Face's Trainer for the same time, and the loss of both on the same held-out masks.

Both sides get the same text, vocabulary, shape of model and cores of this CPU, in float32, and so many seconds. Ours is
`bert-jax pretrain` with its phases in proportion. The peer trains BertForMaskedLM on full rows by its own recipe, and once more
by ours as it suits AdamW; the better of the two is the one that counts. Its rows are as long as our longest, which are scored:
shorter ones would leave positions untrained. A schedule needs a number of steps: each side's pace is taken before, outside of
its time.

What counts of ours says own_run.py, compilation with it; of the peer all from Trainer's start. Saving counts on neither side.
The models are scored afterwards, by `bert-jax evaluate`'s own code. Text is prepared before, and its seconds are told.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.host import usable_cores
from bert_jax.base.types import JsonObject
from bert_jax.bench.own_run import points_of, run_for, take_pace
from bert_jax.bench.own_text import prepare_command, write_training_documents
from bert_jax.bench.side_process import find_peer, fresh_process, SideError
from bert_jax.bench.subjects.prepare import watch
from bert_jax.bench.workbench import Record, Workbench
from bert_jax.config.model import ModelConfig
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.conversion.checkpoints import Asked
from bert_jax.conversion.config_files import hugging_face_shape
from bert_jax.feed.shards import open_data, VALIDATION
from bert_jax.pages.wording import counted, duration
from bert_jax.use.evaluation import evaluate_data
from bert_jax.use.model import load

OURS = "bert-jax pretrain"
THEIR_RECIPE, OUR_RECIPE = "Trainer, its own recipe", "Trainer, our recipe"
MARKS = 12  # models of each side that are scored
PACE_SHARE = 1 / 30  # of a side's time, in which the peer's pace is taken
PEER = "pretraining"  # of sides/

Curve = Sequence[tuple[float, float]]  # seconds of training, held-out loss in nats; by time


def measure(bench: Workbench) -> Iterator[Record]:
    """Yield the record of the duel; or the one that says why there is none."""
    python, named = find_peer(bench.inputs.peer_python), bench.suite.duel
    if not (bench.inputs.text and bench.inputs.vocab):
        yield bench.absent("the duel", "text and a vocabulary", "--text and --vocab")
    elif python is None:
        yield bench.absent("Hugging Face's Trainer", "PyTorch transformers", "--peer-python")
    elif named is None:
        yield bench.absent("the duel", "a configuration of pre-training", "CONFIG, such as demo")
    else:
        yield from bench.each([named[0]], lambda name: fight(bench, python, name, named[1]))


@dataclass(frozen=True)
class Ground:
    """The inputs of both sides. `config` has the vocabulary's size; `rows` is the peer's file of full rows."""

    config: PretrainConfig
    data: Path
    rows: Path
    vocab: Path
    folder: Path
    seconds: float

    @property
    def longest(self) -> PhaseConfig:
        """The phase with the longest rows, which the peer trains on and all models are scored on."""
        return max(self.config.phases, key=lambda phase: phase.sequence_length)


def fight(bench: Workbench, python: Path, name: str, config: PretrainConfig) -> Record:
    """Prepare, train every side, score them. Ours stands between the peer's two, as the machine may drift."""
    require_comparable(config)
    seconds = bench.suite.sizes.duel_seconds
    bench.say(f"duel: three runs of {duration(seconds)}, and as much as a fourth to prepare and score")
    with bench.showing("preparation"):
        ground, prepared = prepare(bench, python, config)
    sides: dict[str, JsonObject] = {}
    for side in (THEIR_RECIPE, OURS, OUR_RECIPE):
        with bench.showing(f"{side}, {duration(seconds)}"):
            sides[side] = train_ours(ground) if side == OURS else train_peer(ground, python, side)
    scores = {side: score(bench, ground, side, one) for side, one in sides.items()}
    peer_versions: JsonObject = {}
    for side, one in sides.items():
        peer_versions |= one.pop("versions", {})
        one["preparation_seconds"] = prepared["ours" if side == OURS else "peer"]
        one["curve"] = [
            [point["seconds"], found["mlm_loss"]] for point, found in zip(one["points"], scores[side], strict=True)
        ]
        one["points"] = [point["step"] for point in one["points"]]
    first = require_same_masks([found for one in scores.values() for found in one])
    model = ground.config.model
    return {
        "name": name,
        "kind": "duel",
        "layers": model.num_hidden_layers,
        "hidden": model.hidden_size,
        "vocabulary": model.vocab_size,
        "sequence_length": ground.longest.sequence_length,
        "seconds": seconds,
        "documents": prepared["documents"],
        "masked_tokens": first["masked_tokens"],
        "unigram_entropy": first["unigram_entropy"],
        "peer_versions": peer_versions,
        **compared_sides(sides),
    }


def require_comparable(config: PretrainConfig) -> None:
    """Refuse an objective under which the two sides could not be scored on the same masks.

    Raises:
      UserError: names it.
    """
    objective = config.objective
    other = not objective.masks or objective.replaces or objective.examples == "sop"
    if other or objective != ObjectiveConfig(name=objective.name):
        raise UserError(
            f"objective.name={objective.name} is trained or masked otherwise than the peer, which predicts 15 % of single"
            " tokens: set objective.name=mlm_nsp and leave the other settings of objective out"
        )


# ---- what both sides are given ---------------------------------------------------------------------------------------


def prepare(bench: Workbench, python: Path, config: PretrainConfig) -> tuple[Ground, JsonObject]:
    """Prepare the text for each side, the same training documents; return the seconds of `ours` and `peer` too."""
    assert bench.inputs.vocab is not None
    folder = bench.folder / "duel"
    folder.mkdir()
    lengths = [phase.sequence_length for phase in config.phases]
    command, data = prepare_command(bench, usable_cores(), "duel/data", lengths)
    ours = watch([*command, "--objective", config.objective.name], folder / "prepare.log")
    model = replace(config.model, vocab_size=open_data(data).vocab_size)
    text, vocab = folder / "train.txt", bench.inputs.vocab
    ground = Ground(
        replace(config, model=model), data, folder / "rows.npy", vocab, folder, bench.suite.sizes.duel_seconds
    )
    documents = write_training_documents(bench.inputs.text, text)
    files: JsonObject = {"text": str(text), "vocab": str(vocab), "rows": str(ground.rows)}
    peer = fresh_process(PEER, "group", python, {}, length=ground.longest.sequence_length, **files)
    seconds = {"ours": ours["wall_seconds"], "peer": peer["wall_seconds"]}
    return ground, seconds | {"documents": documents}


# ---- the sides -------------------------------------------------------------------------------------------------------


def train_ours(ground: Ground) -> JsonObject:
    """Take the pace of our side, and run it."""
    pace = take_pace(ground.config, ground.data, ground.folder / "pace")
    config = pace.fitted(ground.config, ground.seconds)
    run = ground.folder / "run"
    every = -(-config.total_steps // (10 * MARKS)) * 10  # a reading of the clock stands at each
    run_for(replace(config, save_every=every), ground.data, run, ground.seconds)
    points = points_of(run)
    return {
        "recipe": "; ".join(
            f"{counted(one.steps, 'step')} of {one.batch_size} x {one.sequence_length}" for one in config.phases
        ),
        "planned_steps": config.total_steps,
        "steps": points[-1]["step"],
        "seconds": points[-1]["seconds"],
        "seconds_before_steps": pace.overhead,
        "points": points,
    }


def train_peer(ground: Ground, python: Path, side: str) -> JsonObject:
    """Run the peer by one of the recipes, to which the first weights belong."""
    config, by_ours = ground.config, side == OUR_RECIPE
    recipe, warmup_share = peer_recipe(ground) if by_ours else ({}, 0.0)
    first_weights = {"initializer_range": peer_range(config)} if by_ours else {}
    found = fresh_process(
        PEER,
        "pretrain",
        python,
        {},
        rows=str(ground.rows),
        vocab=str(ground.vocab),
        model=peer_shape(config.model) | first_weights,
        recipe=recipe,
        warmup_share=warmup_share,
        seconds=ground.seconds,
        pace_seconds=PACE_SHARE * ground.seconds,
        moments=[ground.seconds * mark / MARKS for mark in range(1, MARKS)],
        folder=str(ground.folder / side.replace(" ", "-")),
        seed=config.seed,
        threads=usable_cores(),
    )
    rows, rate, warmup, name = (found.pop(one) for one in ("batch_size", "learning_rate", "warmup_steps", "optimizer"))
    steps = f"{counted(found['planned_steps'], 'step')} of {rows} x {ground.longest.sequence_length}"
    return {"recipe": f"{steps}; {name}, {rate:g}, warm-up {warmup:,}", **found}


def peer_shape(model: ModelConfig) -> JsonObject:
    """Return the shape as BertConfig has it, with the form of GELU that PyTorch computes in one piece."""
    shape = hugging_face_shape(model)
    del shape["initializer_range"]
    return shape | ({"hidden_act": "gelu_pytorch_tanh"} if model.hidden_act == "gelu_tanh" else {})


def peer_range(config: PretrainConfig) -> float:
    """Return the deviation of the peer's first weights by our recipe: ours, but that of positions where ours is Muon's.

    In as few steps AdamW needs larger weights, and the demo had them so by AdamW (docs/results.md).
    """
    model = config.model
    larger = model.position_initializer_range if config.optimizer.name == "muon" else None
    return larger or model.initializer_range


def peer_recipe(ground: Ground) -> tuple[JsonObject, float]:
    """Return our recipe as TrainingArguments has it, and its warm-up as a share of the steps.

    It is that of the first schedule, with the batch of the longest rows. The peer has AdamW: where ours is Muon, it gets half
    of the rate and at least a tenth of the steps to warm up, as the demo had by AdamW (docs/results.md).
    """
    optimizer, part = ground.config.optimizer, ground.config.schedule_parts()[0]
    rate, warmup_share = part.learning_rate, part.warmup_steps / part.steps
    if optimizer.name == "muon":
        rate, warmup_share = rate / 2, max(warmup_share, 0.1)
    recipe = {
        "per_device_train_batch_size": ground.longest.batch_size,
        "learning_rate": rate,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.b1,
        "adam_beta2": optimizer.b2,
        "adam_epsilon": optimizer.eps,
        "max_grad_norm": optimizer.clip_norm,
    }
    return recipe, warmup_share


# ---- who won ---------------------------------------------------------------------------------------------------------


def score(bench: Workbench, ground: Ground, side: str, one: JsonObject) -> list[JsonObject]:
    """Score the models of a side on the held-out part of our data, as `bert-jax evaluate` does."""
    data, length, found = open_data(ground.data), ground.longest.sequence_length, []
    asked = Asked() if side == OURS else Asked(vocabulary=ground.vocab)
    for number, point in enumerate(one["points"], start=1):
        with (
            bench.showing(f"scoring {side}, {number} of {len(one['points'])}"),
            contextlib.redirect_stderr(io.StringIO()),  # a bar of its own for each
        ):
            found.append(evaluate_data(load(point["model"], dtype=None, asked=asked), data, VALIDATION, length))
    return found


def require_same_masks(scores: Sequence[JsonObject]) -> JsonObject:
    """Return the first scores, after it is seen that all are of the same tokens.

    Raises:
      SideError: they are not.
    """
    first = scores[0]
    for found in scores:
        if any(found[name] != first[name] for name in ("masked_tokens", "unigram_loss", "mask_histogram")):
            raise SideError("the sides were scored on different masks")
    return first


def compared_sides(sides: Mapping[str, JsonObject]) -> JsonObject:
    """Return the sides with their last `loss`, which of the peer's is the `opponent`, and the times to the loss it ends with.

    `ratio` is of these times, above 1 where ours is faster, and absent where ours never got there. `at_least`: ours was there
    when it was scored first.
    """
    sides = {side: {**one, "loss": one["curve"][-1][1]} for side, one in sides.items()}
    ends = {side: one["loss"] for side, one in sides.items() if side != OURS}
    opponent = min(ends, key=lambda side: ends[side] if math.isfinite(ends[side]) else math.inf)
    target = sides[opponent]["loss"]
    times = {side: time_to(sides[side]["curve"], target) for side in (OURS, opponent)}
    for side, seconds in times.items():
        sides[side]["seconds_to_the_loss"] = "never" if seconds is None else seconds
    ours, theirs = times[OURS], times[opponent]
    ratio = {} if ours is None or theirs is None else {"ratio": theirs / ours}
    at_least = sides[OURS]["curve"][0][1] <= target
    return {"sides": sides, "opponent": opponent, "target_loss": target, "at_least": at_least, **ratio}


def time_to(curve: Curve, loss: float) -> float | None:
    """Return when a curve is first at a loss, in a line between two scores of it; None: never."""
    before: tuple[float, float] | None = None
    for seconds, value in curve:
        if value <= loss:
            if before is None:
                return seconds
            return before[0] + (before[1] - loss) / (before[1] - value) * (seconds - before[0])
        before = seconds, value
    return None
