# SPDX-License-Identifier: Apache-2.0
"""Distillation: what a run of pre-training learns of a teacher, beside the labels and in the same step.

Soft targets: Hinton et al. 2015 (1503.02531), section 2. Vectors of the layers: TinyBERT (1909.10351), section 3.1. Relations
of the last layer: MiniLM (2002.10957), section 3; of networks with other heads MiniLMv2 (2012.15828), section 3.1.

The teacher drops nothing and gets no gradient. Its parameters lie on the mesh, cut as the same table cuts those of the run, are
arguments of the compiled step, and are in no checkpoint.

Shapes: B rows, S tokens, M predicted positions, V entries of the vocabulary, D features, L layers, R relation heads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.base.errors import UserError
from bert_jax.base.types import JsonObject, PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.config.distill import DistillConfig, PretrainDistillConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.feed.kinds import PAIRS
from bert_jax.feed.widths import row_lengths
from bert_jax.mesh.sharding import check_heads, put_whole
from bert_jax.model.attention import resolve_implementation
from bert_jax.model.attention.reference import MASKED, score, visible
from bert_jax.model.heads import BertModel, BertOutput
from bert_jax.tokenization import Tokenizer
from bert_jax.train.losses import Scores
from bert_jax.train.masked_lm import MaskedLmLoss
from bert_jax.train.state import Training
from bert_jax.train.step import Arrays, Loss

TEACHER = "teacher"  # its parameters among those that a loss reads
Projections = tuple[jax.Array, jax.Array, jax.Array]  # queries, keys, values [B, S, D]


@dataclass(frozen=True)
class Teacher:
    """A trained model that another one learns from, opened; its weights are read when they are put on the mesh."""

    path: str
    description: ModelDescription
    tokenizer: Tokenizer
    longest: int  # tokens of the longest row that it was trained on
    record: JsonObject  # what the run keeps of it
    read: Callable[[], PyTree] = field(repr=False)

    def training(self, training: Training) -> Training:
        """Return how the teacher is computed in a run: on its mesh, in its number format."""
        return replace(training, described=self.description)

    def on_mesh(self, training: Training) -> PyTree:
        """Return its parameters, as what is `fixed` of a loss, each array on the devices where it belongs."""
        shapes = self.training(training).abstract_state.params
        return {
            TEACHER: jax.tree.map(lambda leaf, shape: put_whole(np.asarray(leaf), shape.sharding), self.read(), shapes)
        }

    def model(self, training: Training, params: PyTree) -> BertModel:
        """Return the model with its parameters out of those that a loss reads; no gradient goes through it."""
        return nnx.merge(self.training(training).graph, jax.lax.stop_gradient(params[TEACHER]))

    def words(self, config: DistillConfig) -> str:
        """Say which model it is and how the loss is put together."""
        return f"teacher: {self.path} ({self.description.summary()}): {config.words}"

    def require_fit(self, training: Training, tokenizer: Tokenizer, lengths: Sequence[int]) -> None:
        """Refuse a teacher that cannot take the rows of a run, or that the run's mesh cannot cut.

        Raises:
          UserError: naming what differs.
        """
        own = self.tokenizer
        if own.fingerprint != tokenizer.fingerprint:
            common = len(set(own.vocabulary) & set(tokenizer.vocabulary))
            raise UserError(
                f"--teacher {self.path}: has another vocabulary ({own.vocab_size:,} entries, {own.fingerprint[:12]}) than the"
                f" run ({tokenizer.vocab_size:,} entries, {tokenizer.fingerprint[:12]}; {common:,} are in both), and they have"
                f" to read the same tokens: take one vocabulary for both (--vocab {self.path})"
            )
        if max(lengths) > self.longest:
            raise UserError(
                f"--teacher {self.path}: was trained on rows of {self.longest} tokens at most, and this run has rows of"
                f" {max(lengths)}: shorten them, or name another teacher"
            )
        if self.description.model.causal != training.description.model.causal:
            raise UserError(
                f"--teacher {self.path}: one of the two models is left to right and the other sees both sides: name a teacher"
                " of the same kind"
            )
        taught = self.training(training)
        try:
            check_heads(self.description.model, training.mesh)
            _ = taught.abstract_state  # refuses a mesh that cannot cut the parameters
            if (case := taught.attention_case(lengths)) is not None:
                resolve_implementation(training.config.attention, case)
        except UserError as error:
            raise UserError(f"--teacher {self.path}: {error}") from error


@dataclass(frozen=True)
class DistillationLoss(Loss):
    """The loss of masked language modelling, and beside it the terms of a teacher that have a weight."""

    own: MaskedLmLoss
    teacher: Teacher
    config: PretrainDistillConfig
    entries: int  # of the vocabulary, without padding rows
    parameters: PyTree = field(repr=False)  # the teacher's, on the mesh

    @property
    def fixed(self) -> PyTree:
        """The teacher's parameters."""
        return self.parameters

    def weights(self, batch: Arrays) -> Arrays:
        """Return the numbers of predicted tokens, of pairs, and of valid tokens, whose vectors and relations are compared."""
        weights = self.own.weights(batch)
        valid = (batch["sequence_ids"] > 0).sum(dtype=jnp.float32)
        taught = {"soft": weights["mlm"], "hidden": valid, "relations": valid}
        return weights | {term: taught[term] for term in self.config.terms}

    def scores(self, training: Training, params: PyTree, batch: Arrays, seeds: jax.Array | None) -> dict[str, Scores]:
        """Return the sums of the own terms, and of those of the teacher that have a weight; see `train.step.Loss`."""
        config, layers = self.config, bool(self.config.hidden or self.config.relations)
        own = {name: branch for name, branch in params.items() if name != TEACHER}
        student, teacher = nnx.merge(training.graph, own), self.teacher.model(training, params)
        output, taught = student(batch, dropout_seeds=seeds, all_layers=layers), teacher(batch, all_layers=layers)
        scores = self.own.scores_of(output, batch)
        with jax.named_scope("loss"):
            if config.soft:
                scores["soft"] = self._soft(output, taught, batch)
            if config.hidden:
                ours, theirs = output.encoder.all_layers, taught.encoder.all_layers
                assert ours is not None and theirs is not None
                ours = ours if student.teacher_projection is None else student.teacher_projection(ours)
                scores["hidden"] = hidden_scores(ours, theirs, batch["sequence_ids"])
            if config.relations:
                heads = relation_heads(config, training.description, self.teacher.description)
                pairs = (last_projections(student, output), last_projections(teacher, taught))
                scores["relations"] = relation_scores(*pairs, batch["sequence_ids"], heads)
        return scores

    def _soft(self, output: BertOutput, taught: BertOutput, batch: Arrays) -> Scores:
        assert output.mlm_logits is not None and taught.mlm_logits is not None
        logits, targets = output.mlm_logits[..., : self.entries], taught.mlm_logits[..., : self.entries]
        return summed(soft_distance(logits, targets, self.config.temperature), batch["masked_lm_weights"])

    def statistics(self, batch: Arrays) -> Arrays:
        """Return the counts of the own loss."""
        return self.own.statistics(batch)


# ---- the terms -----------------------------------------------------------------------------------------------------


def divergence(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the KL divergence of softmax(logits) from softmax(targets), both [..., C] float32: [...] nats."""
    found, wanted = jax.nn.log_softmax(logits), jax.nn.log_softmax(targets)
    return (jnp.exp(wanted) * (wanted - found)).sum(-1)


def soft_distance(logits: jax.Array, targets: jax.Array, temperature: float) -> jax.Array:
    """Return the divergence from a teacher's prediction at a temperature, times its square, which keeps gradients as large.

    logits, targets [..., C] float32 -> [...] nats.
    """
    return divergence(logits / temperature, targets / temperature) * temperature**2


def hidden_scores(student: jax.Array, teacher: jax.Array, sequence_ids: jax.Array) -> Scores:
    """Sums over valid tokens of the mean squared difference of vectors.

    The embeddings stand beside the teacher's, layer m of L beside its layer m N / L, rounded, of N.

    Args:
      student: [L + 1, B, S, D], embeddings first.
      teacher: [N + 1, B, S, D].
      sequence_ids: [B, S]; 0 is padding.
    """
    ours, theirs = len(student) - 1, len(teacher) - 1
    beside = [(2 * layer * theirs + ours) // (2 * ours) for layer in range(ours + 1)]
    difference = student.astype(jnp.float32) - teacher[np.array(beside)].astype(jnp.float32)
    return summed(jnp.square(difference).mean((0, -1)), (sequence_ids > 0).astype(jnp.float32))


def relation_scores(student: Projections, teacher: Projections, sequence_ids: jax.Array, heads: int) -> Scores:
    """Sums over valid tokens of the divergence of attention and of the relation of values to values, means over R heads.

    Args:
      student, teacher: queries, keys and values [B, S, D], each with features of its own.
      sequence_ids: [B, S]; a token is related to those of its own example.
      heads: R.
    """
    seen = visible(sequence_ids, causal=False)

    def relation(one: jax.Array, other: jax.Array) -> jax.Array:
        """Two times [B, S, D] -> logits [B, R, S, S] float32."""
        size = one.shape[-1] // heads
        one, other = (x.reshape(*x.shape[:2], heads, size) for x in (one, other))
        return jnp.where(seen, score(one * jnp.asarray(size**-0.5, one.dtype), other), MASKED)

    def distance(one: int, other: int) -> jax.Array:
        return divergence(relation(student[one], student[other]), relation(teacher[one], teacher[other])).mean(1)

    attention, values = distance(0, 1), distance(2, 2)  # [B, S]
    return summed(attention + values, (sequence_ids > 0).astype(jnp.float32))


def summed(distance: jax.Array, weights: jax.Array) -> Scores:
    """Return the sums of a distance [...] over what counts, by its weight [...]; nothing of it is right or wrong."""
    return Scores((distance * weights).sum(), jnp.zeros(()), weights.sum())


def last_projections(model: BertModel, output: BertOutput) -> Projections:
    """Return queries, keys and values of a model's last layer, by its outputs of all layers."""
    assert output.encoder.all_layers is not None
    return model.encoder.last_projections(output.encoder.all_layers[-2])


def relation_heads(config: PretrainDistillConfig, student: ModelDescription, teacher: ModelDescription) -> int:
    """Return R: the heads that both networks' features are cut into for their relations.

    Raises:
      UserError: they have other numbers of heads, or R does not divide the features of one.
    """
    heads, widths = config.relation_heads, [one.model.hidden_size for one in (student, teacher)]
    ours, theirs = (one.model.num_attention_heads for one in (student, teacher))
    if heads is None and ours == theirs:
        return ours
    common = math.gcd(*widths)
    near = max(size for size in range(1, common + 1) if common % size == 0 and size <= max(theirs, ours))
    if heads is None:
        raise UserError(
            f"distill.relations: the teacher has {theirs} heads and the model {ours}: say with distill.relation_heads into how"
            f" many the features of both are cut, such as {near}"
        )
    if common % heads:
        raise UserError(
            f"distill.relation_heads={heads} does not divide the features of both, {widths[0]} of the model and {widths[1]} of"
            f" the teacher: use a divisor of {common}, such as {near}"
        )
    return heads


# ---- what is refused -----------------------------------------------------------------------------------------------


def require_teacher(training: Training[PretrainConfig], teacher: Teacher | None, tokenizer: Tokenizer) -> None:
    """Refuse a teacher that cannot teach what the settings say, before anything is compiled; and settings of none.

    Raises:
      UserError: naming the setting and what the teacher has.
    """
    config = training.config
    if teacher is None:
        config.distill.require_teacher()
        return
    if not config.objective.masks or config.objective.replaces:
        raise UserError(
            f"--teacher {teacher.path}: acts with objectives that predict masked tokens, not with objective.name="
            f"{config.objective.name}: choose one of these, or leave it out"
        )
    teacher.require_fit(training, tokenizer, [size for phase in config.phases for size in row_lengths(config, phase)])
    if config.objective.examples in PAIRS:
        pair, other = (
            f"a pair of objective.name={config.objective.name}",
            f"name another one than --teacher {teacher.path}",
        )
        teacher.description.model.require_segments(2, pair, other)
    _require_parts(config.distill, training.description, teacher)


def _require_parts(config: PretrainDistillConfig, student: ModelDescription, teacher: Teacher) -> None:
    """Refuse terms that the teacher has no part for."""
    has = f"--teacher {teacher.path}: holds {teacher.description.summary()}"
    if not config.terms:
        raise UserError(
            f"--teacher {teacher.path}: distill.soft, hidden and relations are 0, and nothing is learned of it: give one a"
            " weight"
        )
    if teacher.description.model.is_recurrent:
        raise UserError(f"{has}; a biLM fills no mask: name a masked language model")
    if teacher.description.rtd:
        raise UserError(
            f"{has}; its encoder has seen samples in the places of [MASK], never that: name a masked language model"
        )
    if config.soft and not teacher.description.mlm:
        raise UserError(
            f"{has}, and distill.soft={config.soft:g} needs an MLM head: set distill.soft=0 with distill.relations=1 (or"
            " distill.hidden=1)"
        )
    ours, theirs = student.teacher_size or student.model.hidden_size, teacher.description.model.hidden_size
    if config.hidden and ours != theirs:
        raise UserError(
            f"{has}, and distill.hidden={config.hidden:g} compares vectors, which are {ours} wide in this run: set"
            f" distill.hidden_size={theirs}, for which a projection is learned, or distill.hidden=0 with distill.relations=1"
        )
    if config.relations:
        relation_heads(config, student, teacher.description)
