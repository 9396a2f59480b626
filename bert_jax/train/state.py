# SPDX-License-Identifier: Apache-2.0
"""The state of a training run, made sharded: abstract shapes -> shardings -> initialisation under jit.

No array is ever whole on one device unless the mesh says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from bert_jax.base.types import PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.config.training import RunConfig, UNROLLED_ON_CPU
from bert_jax.mesh.sharding import parameter_shardings
from bert_jax.model.attention import AttentionCase
from bert_jax.model.encoder import Compute
from bert_jax.model.heads import BertModel
from bert_jax.train.optimizer import AverageState, learning_rate_schedule, make_optimizer

COMPUTE_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Purposes that are folded into the run's seed, so that no two uses share random numbers.
INITIAL_WEIGHTS, DROPOUT = 1, 2


def resolve_compute_dtype(name: str, platform: str) -> str:
    """Return the dtype that `auto` stands for: bfloat16 where there are units for it, float32 on a CPU."""
    if name != "auto":
        return name
    return "float32" if platform == "cpu" else "bfloat16"


class TrainState(NamedTuple):
    """A plain pytree: all that a checkpoint holds of the device's side."""

    params: PyTree  # float32, what is trained
    opt_state: PyTree  # of `make_optimizer`; the average of the parameters, if one is kept, is its last part
    step: jax.Array  # [] int32, optimizer steps done

    @property
    def used(self) -> PyTree:
        """The parameters that are scored and exported: their average over the steps, where one is kept."""
        return self.params if self._average is None else self._average.average

    def exchanged(self) -> "TrainState":
        """Return the state with parameters and average in each other's place, as a checkpoint has them: `params` is what is
        used, of every run, and training goes on from what lies with the optimizer."""
        return self if self._average is None else self._with_average(self.params)._replace(params=self.used)

    def beginning_with(self, params: PyTree) -> "TrainState":
        """Return the state of step 0 with other parameters, which their average begins with too."""
        state = self._replace(params=params)
        # A copy, because the train step gives up the memory of both.
        return state if self._average is None else state._with_average(jax.tree.map(jnp.copy, params))

    @property
    def _average(self) -> AverageState | None:
        last = self.opt_state[-1]
        return last if isinstance(last, AverageState) else None

    def _with_average(self, average: PyTree) -> "TrainState":
        *others, last = self.opt_state
        return self._replace(opt_state=(*others, last._replace(average=average)))


@dataclass(frozen=True)
class Training[C: RunConfig]:
    """Everything that a run's configuration and mesh determine: the model's graph, the optimizer, shapes and shardings."""

    config: C
    mesh: Mesh
    described: ModelDescription | None = None  # None: what the configuration trains

    @property
    def description(self) -> ModelDescription:
        """The encoder and its heads."""
        return self.described or self.config.description

    @cached_property
    def compute(self) -> Compute:
        """How the network is computed."""
        config = self.config
        dtype = COMPUTE_DTYPES[resolve_compute_dtype(config.compute_dtype, self.platform)]
        scanned = config.scan_layers
        if scanned is None:
            scanned = self.platform != "cpu" or self.description.model.num_hidden_layers > UNROLLED_ON_CPU
        return Compute(dtype, config.remat, scanned, config.attention)

    @property
    def platform(self) -> str:
        """The kind of the mesh's devices: cpu, gpu, tpu."""
        return self.mesh.devices.flat[0].platform

    def attention_case(self, sequence_lengths: Iterable[int]) -> AttentionCase | None:
        """Return what attention is asked for on one of the mesh's devices, with rows of these lengths; None: for nothing."""
        device, model = self.mesh.devices.flat[0], self.description.model
        if model.is_recurrent:
            return None
        return AttentionCase(
            platform=device.platform,
            device_kind=device.device_kind,
            sequence_lengths=tuple(sorted(set(sequence_lengths))),
            heads=model.num_attention_heads // self.mesh.shape["tensor"],
            head_size=model.head_size,
            dtype=self.compute.dtype,
            dropout_rate=model.attention_probs_dropout_prob,
            causal=model.causal,
        )

    @cached_property
    def graph(self) -> nnx.GraphDef:
        """The static side of the model: `nnx.merge(graph, params)` gives it back."""
        return nnx.split(nnx.eval_shape(lambda: self._model(jax.random.key(0))))[0]

    @cached_property
    def schedule(self) -> optax.Schedule:
        """Step -> learning rate."""
        return learning_rate_schedule(self.config.schedule_parts(), self.config.optimizer.schedule)

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optax transformation."""
        return make_optimizer(self.config.optimizer, self.schedule)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state; nothing is allocated."""
        shapes = jax.eval_shape(self._create, self.key(INITIAL_WEIGHTS))
        shardings = parameter_shardings(shapes, self.mesh)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        )

    def key(self, purpose: int) -> jax.Array:
        """The run's random key for one purpose."""
        return jax.random.fold_in(jax.random.key(self.config.seed), purpose)

    def initial_state(self) -> TrainState:
        """Create the state, each array on the devices where it belongs."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        # It runs once: on a CPU, compiling random numbers with every optimization takes longer than drawing them.
        options = {"xla_backend_optimization_level": 1} if self.platform == "cpu" else None
        return jax.jit(self._create, out_shardings=shardings, compiler_options=options)(self.key(INITIAL_WEIGHTS))

    def _create(self, key: jax.Array) -> TrainState:
        params = nnx.to_pure_dict(nnx.split(self._model(key))[1])
        return TrainState(params, self.optimizer.init(params), jnp.zeros((), jnp.int32))

    def _model(self, key: jax.Array) -> BertModel:
        return BertModel(self.description, self.compute, rngs=nnx.Rngs(params=key))
