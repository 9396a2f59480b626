# SPDX-License-Identifier: Apache-2.0
"""The workbench that all subjects share: the suite, the devices, compiled steps, progress.

Shapes: B rows of the global batch.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from bert_jax.base.types import JsonObject, PyTree
from bert_jax.bench.made_up import BatchWork, made_up_arrangement, SPECIAL, work_of
from bert_jax.bench.measure import is_out_of_memory
from bert_jax.bench.suite import AttentionSize, Case, Suite
from bert_jax.config.training import MeshConfig
from bert_jax.feed.batch import Batch
from bert_jax.feed.packing import Arrangement
from bert_jax.mesh.sharding import make_mesh, put_on_mesh
from bert_jax.model.attention import AttentionCase
from bert_jax.train.masked_lm import batch_fields
from bert_jax.train.pretraining import LOSSES
from bert_jax.train.state import resolve_compute_dtype, Training, TrainState
from bert_jax.train.step import compile_train_step, CompiledStep

Record = JsonObject
MOST_HALVINGS = 4  # of a batch that does not fit


@dataclass(frozen=True)
class CompiledCase:
    """A case ready to run: its step compiled, a batch made. It holds no state of a run."""

    case: Case
    training: Training
    step: CompiledStep
    compile_seconds: float
    batch: Batch

    @property
    def work(self) -> BatchWork:
        """The counts of the batch."""
        return work_of(self.batch)

    def description(self) -> Record:
        """Return model, batch and program as the record of a measurement names them."""
        model, shape, work = self.case.config.model, self.case.shape, self.work
        return {
            "name": self.case.name,
            "layers": model.num_hidden_layers,
            "hidden": model.hidden_size,
            "vocabulary": model.vocab_size,
            "rows": shape.rows,
            "sequence_length": shape.sequence_length,
            "packing": self.case.config.packing,
            "dtype": self.training.compute.dtype.__name__,
            "dropout": model.hidden_dropout_prob,
            "attention_dropout": model.attention_probs_dropout_prob,
            "attention": self.training.compute.attention,
            "remat": self.case.config.remat,
            "mesh": dict(self.training.mesh.shape),
            "compile_seconds": self.compile_seconds,
            "work": work._asdict(),
            "flops": work.flops(self.case.config.description),
        }


class Runner:
    """A state and what changes it: the whole step, or the optimizer's update alone."""

    def __init__(self, prepared: CompiledCase):
        self.training = prepared.training
        self.state = prepared.training.initial_state()
        self.batch = put_on_mesh(prepared.training.mesh, prepared.batch)
        self._step = prepared.step
        self._update: Callable[..., TrainState] | None = None
        self._gradients: PyTree = None

    def step(self) -> PyTree:
        """Dispatch a step; returns its sums."""
        self.state, sums = self._step(self.state, self.batch)
        return sums

    def update(self) -> jax.Array:
        """Dispatch clipping and the optimizer alone, on a gradient that stays the same; returns the step's number."""
        if self._update is None:
            self._update = compile_update(self.training)
            self._gradients = jax.tree.map(lambda leaf: leaf * 1e-3, self.state.params)
        self.state = self._update(self.state, self._gradients)
        return self.state.step


def compile_update(training: Training) -> Callable[..., TrainState]:
    """(state, gradients) -> state: the end of a train step, by itself. The state is donated."""

    def update(state: TrainState, gradients: PyTree) -> TrainState:
        updates, opt_state = training.optimizer.update(gradients, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1)

    state = training.abstract_state
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(update, donate_argnums=0, out_shardings=shardings)
    with jax.set_mesh(training.mesh):
        return jitted.lower(state, state.params).compile()


@dataclass(frozen=True)
class BenchInputs:
    """Texts and peers that some subjects need; a subject that lacks its own is absent from the report."""

    peer_python: Path | None = None  # a Python with torch and transformers
    text: Sequence[str] = ()  # as `bert-jax prepare --input` takes it
    vocab: Path | None = None  # vocab.txt of an uncased WordPiece vocabulary
    google: Path | None = None  # a checkout of google-research/bert
    data: Path | None = None  # a folder with the train.tsv of SST-2
    model: Path | None = None  # a run, or a directory of Hugging Face's


@dataclass
class Workbench:
    """The machine and what to do on it; `folder` is for files and is removed afterwards."""

    suite: Suite
    folder: Path
    inputs: BenchInputs = field(default_factory=BenchInputs)
    bar: tqdm | None = None
    _prepared: dict[Case, CompiledCase] = field(default_factory=dict)

    @property
    def device(self) -> jax.Device:
        """One of the local devices, which are all alike."""
        return jax.local_devices()[0]

    @property
    def on_cpu(self) -> bool:
        """Whether the devices are the host's cores."""
        return self.device.platform == "cpu"

    def attention_case(self, size: AttentionSize, dropout_rate: float) -> AttentionCase:
        """Return the case of attention of one size on this device, in the type that steps compute in."""
        return AttentionCase(
            platform=self.device.platform,
            device_kind=self.device.device_kind,
            sequence_lengths=(size.sequence_length,),
            heads=size.heads,
            head_size=size.head_size,
            dtype=jnp.float32 if self.on_cpu else jnp.bfloat16,
            dropout_rate=dropout_rate,
        )

    def prepare(self, case: Case) -> CompiledCase:
        """Compile a case's step and make its batch; once for each case."""
        case = resolved(case)
        if case not in self._prepared:
            self._prepared[case] = prepare(case)
        return self._prepared[case]

    def prepare_fitting(self, case: Case) -> CompiledCase:
        """Prepare a case with half its rows (or a quarter, ...) where a step does not fit the device's memory."""
        if self.on_cpu:  # which does not say that there is no room; the system ends the process
            return self.prepare(case)
        for _ in range(MOST_HALVINGS):
            try:
                prepared = self.prepare(case)
                jax.block_until_ready(Runner(prepared).step())
                return prepared
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error) or case.shape.rows % 2:
                    raise
                self._prepared.pop(resolved(case), None)
                self.say(f"{case.name}: {case.shape.rows} rows do not fit; trying half of them")
                case = case.with_rows(case.shape.rows // 2)
        return self.prepare(case)

    def each[C](self, cases: Iterable[C], measure: Callable[[C], Record]) -> Iterator[Record]:
        """`measure` of each case; one that fails gives a record with its `name` and `error`, and the others go on."""
        for case in cases:
            name = getattr(case, "name", str(case))
            with self.showing(name):
                try:
                    yield measure(case)
                except Exception as error:
                    yield {"name": name, "error": one_line(error)}

    @staticmethod
    def absent(name: str, needed: str, option: str) -> Record:
        """Return the record of what is not measured because an option is not given."""
        return {"name": name, "kind": "absent", "absent": f"it needs {needed}: give {option}"}

    @contextmanager
    def showing(self, name: str) -> Iterator[None]:
        """The progress bar names what is measured."""
        if self.bar is not None:
            subject = self.bar.desc.partition(": ")[0]
            self.bar.set_description_str(f"{subject}: {name}")
        yield

    def say(self, line: str) -> None:
        """A line for the person who watches."""
        if self.bar is not None:
            self.bar.write(line, file=self.bar.fp)


def resolved(case: Case) -> Case:
    """The case with the sizes of its mesh and its type of number on the local devices: one key for one program."""
    mesh = make_mesh(case.config.mesh, jax.local_devices())
    dtype = resolve_compute_dtype(case.config.compute_dtype, jax.local_devices()[0].platform)
    return replace(case, config=replace(case.config, mesh=MeshConfig(**mesh.shape), compute_dtype=dtype))


def prepare(case: Case) -> CompiledCase:
    """Compile a case's step, and make its first batch."""
    training = Training(case.config, make_mesh(case.config.mesh, jax.local_devices()))
    begin = time.perf_counter()
    objective = case.config.objective
    loss = LOSSES[objective.name](objective.nsp, SPECIAL.mask)
    step = compile_train_step(training, loss, batch_fields(case.shape))
    seconds = time.perf_counter() - begin
    return CompiledCase(case, training, step, seconds, arrangement_of(case, 1).batch(case.config.seed, 0))


def arrangement_of(case: Case, batches: int) -> Arrangement:
    """Made-up batches of a case: `arrangement.batch(seed, step)`."""
    return made_up_arrangement(case.config, batches, case.config.seed)


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
