# SPDX-License-Identifier: Apache-2.0
"""The sizes of every subject, in one table for each platform."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bert_jax.base.errors import UserError
from bert_jax.config.fields import require_positive, setting
from bert_jax.config.finetune import FinetuneConfig
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.config.pretrain import PhaseConfig, PretrainConfig
from bert_jax.config.settings import override
from bert_jax.config.training import MeshConfig, OptimizerConfig
from bert_jax.feed.batch import BatchShape

STEPS = 100_000  # of a run that is never finished: the schedule asks for a length
PACKED_EXAMPLES = 4  # in a row at most


@dataclass(frozen=True)
class Case:
    """A model on batches of one shape: the first phase of a configuration."""

    name: str
    config: PretrainConfig

    @property
    def phase(self) -> PhaseConfig:
        """The only phase that counts."""
        return self.config.phases[0]

    @property
    def shape(self) -> BatchShape:
        """The shape of the global batch."""
        phase, packed = self.phase, self.config.packing == "packed"
        examples = self.config.examples_per_row if packed else 1
        return BatchShape(phase.batch_size, phase.sequence_length, self.config.predictions(phase), examples)

    def with_rows(self, rows: int) -> "Case":
        """The same with another batch."""
        return replace(self, config=replace(self.config, phases=(replace(self.phase, batch_size=rows),)))

    def with_model(self, name: str, **changes: Any) -> "Case":
        """The same under another name with other model settings."""
        return Case(name, replace(self.config, model=replace(self.config.model, **changes)))


@dataclass(frozen=True)
class AttentionSize:
    """Queries, keys and values of one call."""

    rows: int
    sequence_length: int
    heads: int
    head_size: int = 64


@dataclass(frozen=True)
class BenchSizes:
    """The sizes of a benchmark that the command line may change, as `bench.NAME=VALUE`."""

    rounds: int = setting(5, "samples of each side; figures are medians")
    preparation_megabytes: float = setting(12.0, "MB of the text that is prepared beside google-research/bert's script")
    tokenizer_megabytes: float = setting(8.0, "MB of the text that is tokenised")
    feed_batches: int = setting(200, "batches that each of our feeds makes")
    collator_batches: int = setting(10, "batches that transformers' collator makes")
    finetune_models: str = setting("4x128,4x256", "LAYERSxHIDDEN of the models that are fine-tuned")
    finetune_examples: int = setting(8_000, "the first ones of SST-2's train.tsv")
    peer_prediction_rows: int = setting(32, "rows of a batch that Trainer predicts")
    duel_seconds: float = setting(300.0, "seconds that each side of the duel trains")
    export_rows: str = setting("1x32,32x128", "ROWSxTOKENS of the batches whose vectors of sentences are made")

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type != "str" and field.type is not str:
                require_positive("bench", self, field.name)
        for name, form in (("finetune_models", "LAYERSxHIDDEN"), ("export_rows", "ROWSxTOKENS")):
            sizes = [parse_size(size, name, form) for size in getattr(self, name).split(",")]
            if len(set(sizes)) < len(sizes):
                raise UserError(f"bench.{name}={getattr(self, name)} names a size twice: name it once")


def parse_size(size: str, name: str = "finetune_models", form: str = "LAYERSxHIDDEN") -> tuple[int, int]:
    """4x128 -> 4 layers of 128; the setting's name and form are for the message.

    Raises:
      UserError: it is not of this form.
    """
    first, _, second = size.partition("x")
    if not (first.isdecimal() and second.isdecimal()):
        raise UserError(f"bench.{name}={size} is not {form}: write 4x128, or 4x128,4x256")
    return int(first), int(second)


# The recipe that both sides fine-tune with; the first epoch warms up.
FINETUNE = FinetuneConfig(
    optimizer=replace(FinetuneConfig().optimizer, learning_rate=2e-5), batch_size=32, epochs=2, max_length=128
)


@dataclass(frozen=True)
class Suite:
    """All sizes of a platform."""

    shortest: float  # seconds of a sample; short calls are repeated in it
    product_dtype: str
    product_sizes: tuple[int, ...]  # N of N x N x N matrix products; the first is what steps are held against
    copy_bytes: int
    steps: tuple[Case, ...]
    loop_cases: tuple[str, ...]  # cases whose loop is compared with steps dispatched back to back
    loop_steps: int
    dropout: Case | None  # the case whose cost of dropout is measured
    attention: tuple[AttentionSize, ...]
    kernels: tuple[AttentionSize, ...]
    feed: tuple[Case, ...]
    checkpoint: Case
    largest: Case | None  # the case whose largest batch is looked for
    train: Case
    train_steps: int
    peer: tuple[Case, ...]
    sizes: BenchSizes = BenchSizes()
    finetune: FinetuneConfig = FINETUNE
    duel: tuple[str, PretrainConfig] | None = None  # a run by its name, where one is named


def make_case(name: str, size: str, rows: int, length: int, packed: bool = False, **changes: Any) -> Case:
    """A case of one of the named sizes (`config.MODEL_SIZES`), dropout 0.1."""
    model = changes.pop("model", {})
    config = PretrainConfig(
        model=ModelConfig(**{**MODEL_SIZES[size], **model}),
        phases=(PhaseConfig(length, STEPS, rows, _predictions(length, PACKED_EXAMPLES if packed else 0)),),
        optimizer=OptimizerConfig(warmup_steps=100),
        packing="packed" if packed else "padded",
        examples_per_row=PACKED_EXAMPLES,
        **changes,
    )
    return Case(name, config)


def _predictions(length: int, packed: int) -> int:
    return math.ceil(0.15 * length) + packed


def suite_for(platform: str, devices: int = 1) -> Suite:
    """The sizes for a platform (cpu, gpu, tpu); batches grow with the number of devices."""
    return _cpu_suite() if platform == "cpu" else _accelerator_suite(devices)


def _cpu_suite() -> Suite:
    """Return the sizes for few cores: about fifteen minutes in all on two of them."""
    tiny, mini = make_case("2x128", "tiny", 32, 128), make_case("4x256", "mini", 32, 128)
    base = make_case("12x768", "base", 8, 128)
    many = make_case("2x128, 64 k tokens", "tiny", 512, 128)  # a step as long as a step of a chip at work
    return Suite(
        shortest=0.05,
        product_dtype="float32",
        product_sizes=(2048, 1024, 512),
        copy_bytes=2**28,
        steps=(tiny, mini, base, many),
        loop_cases=(many.name,),
        loop_steps=2,
        dropout=tiny,
        attention=(AttentionSize(8, 128, 12), AttentionSize(2, 512, 12)),
        kernels=(AttentionSize(2, 128, 2), AttentionSize(2, 256, 2)),
        feed=_feed_cases(256),
        checkpoint=base,
        largest=None,
        train=train_case(32, 64),
        train_steps=200,
        peer=tuple(on_one_device(case) for case in (tiny, mini, base)),
    )


def _accelerator_suite(devices: int) -> Suite:
    """Return the sizes for one or several chips: 64 k tokens a step and device, less where that does not fit."""
    base = make_case("BERT-base, 128", "base", 512 * devices, 128)
    large = make_case("BERT-large, packed 512", "large", 128 * devices, 512, packed=True)
    full = make_case("BERT-base, 128, fp32", "base", 512 * devices, 128, compute_dtype="float32")
    return Suite(
        shortest=0.1,
        product_dtype="bfloat16",
        product_sizes=(8192, 4096),
        copy_bytes=2**30,
        steps=(base, large, full),
        loop_cases=("BERT-base, 128",),
        loop_steps=20,
        dropout=base,
        attention=(AttentionSize(512, 128, 16), AttentionSize(128, 512, 16)),
        kernels=(AttentionSize(2, 128, 16), AttentionSize(2, 512, 16)),
        feed=_feed_cases(256),
        checkpoint=base,
        largest=base,
        train=train_case(64 * devices, 128),
        train_steps=300,
        peer=(on_one_device(base.with_rows(512)),),
    )


def _feed_cases(rows: int) -> tuple[Case, ...]:
    return (
        make_case("padded, 128", "base", rows, 128),
        make_case("packed, 128", "base", rows, 128, packed=True),
        make_case("padded, 512", "base", rows, 512),
        make_case("packed, 512", "base", rows, 512, packed=True),
    )


def train_case(rows: int, length: int) -> Case:
    """A small model on the made-up language of 64 words on four topics, which it knows apart after a hundred steps."""
    case = make_case("2x128 on a made-up language", "tiny", rows, length, model={"vocab_size": 68})
    return replace(case, config=replace(case.config, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=30)))


def on_one_device(case: Case) -> Case:
    """The case without a mesh: the peer runs on one device."""
    return replace(case, config=replace(case.config, mesh=MeshConfig(data=1)))


def suite_of(suite: Suite, name: str, config: PretrainConfig) -> Suite:
    """The suite with the phases of a configuration in place of its own models. Buckets are measured at full width."""
    padded = replace(config, packing="padded") if config.packing == "buckets" else config
    cases = tuple(
        Case(
            f"{name}, {phase.batch_size} x {phase.sequence_length}",
            replace(padded, phases=(replace(phase, steps=max(phase.steps, (config.optimizer.warmup_steps or 0) + 1)),)),
        )
        for phase in config.phases
    )
    model, tokens = config.model, suite.attention[0].rows * suite.attention[0].sequence_length
    attention = tuple(
        AttentionSize(max(1, tokens // length), length, model.num_attention_heads, model.head_size)
        for length in sorted({phase.sequence_length for phase in config.phases})
    )
    return replace(
        suite,
        steps=cases,
        loop_cases=tuple(case.name for case in cases),
        dropout=cases[-1],
        attention=attention,
        checkpoint=cases[0],
        largest=cases[-1] if suite.largest else None,
        peer=tuple(on_one_device(case) for case in cases),
        duel=(name, config),
    )


def is_of_bench(assignment: str) -> bool:
    """Whether a setting is the benchmark's own, `bench.NAME` or `finetune.NAME`."""
    return assignment.partition(".")[0] in ("bench", "finetune")


def suite_with(suite: Suite, assignments: Sequence[str]) -> Suite:
    """Return the suite with settings changed: `bench.NAME`, `finetune.NAME`, or those of every case of a step.

    Raises:
      UserError: an unknown setting or value.
    """
    own: dict[str, list[str]] = {"bench": [], "finetune": []}
    for assignment in filter(is_of_bench, assignments):
        group, _, rest = assignment.partition(".")
        own[group].append(rest)
    assignments = [one for one in assignments if not is_of_bench(one)]

    def changed(case: Case) -> Case:
        return Case(case.name, override(case.config, assignments))

    return replace(
        suite,
        steps=tuple(changed(case) for case in suite.steps),
        dropout=changed(suite.dropout) if suite.dropout else None,
        checkpoint=changed(suite.checkpoint),
        largest=changed(suite.largest) if suite.largest else None,
        peer=tuple(changed(case) for case in suite.peer),
        sizes=override(suite.sizes, own["bench"]),
        finetune=override(suite.finetune, own["finetune"]),
    )
