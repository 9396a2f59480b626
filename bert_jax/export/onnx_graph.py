# SPDX-License-Identifier: Apache-2.0
"""A BERT as a graph of ONNX, written node by node from our own names; encoder, pooling and every plain head.

ONNX, operator set 17 (https://onnx.ai/onnx/operators), which every runtime of the last years knows. Rows and tokens are axes of
any size; a row longer than the position table is an error of the runtime, as an index out of range.

Shapes: B rows, S tokens, D features, F features of the feed-forward layer, H heads, K features of a head, V vocabulary, C
classes.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.host import __version__
from bert_jax.config.model import ModelConfig
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.sentence_files import SentenceVectors
from bert_jax.export.purpose import EMBED, FILL_MASK, INPUTS, Purpose

if TYPE_CHECKING:
    import onnx

OPERATOR_SET, IR_VERSION = 17, 8
LARGEST = 2**31 - 2**20  # bytes of weights: a file is one message of protobuf
MASKED = -1e9  # is added to the scores of padding


class GraphWriter:
    """Nodes in their order and the tensors they read; every method adds nodes and returns the name of their result."""

    def __init__(self, weight: Callable[[str], np.ndarray]):
        """Begin; `weight` reads a tensor of ours by its name."""
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self._weight = weight

    def node(self, kind: str, *inputs: str, result: str | None = None, **attributes: object) -> str:
        """An operator of ONNX."""
        from onnx import helper

        result = result or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [result], name=f"{kind}_{len(self.nodes)}", **attributes))
        return result

    def tensor(self, name: str, value: np.ndarray) -> str:
        """A tensor under a name, which is written once."""
        from onnx import numpy_helper

        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(value, name)
        return name

    def weight(self, name: str) -> str:
        """A tensor of the model."""
        return name if name in self.tensors else self.tensor(name, self._weight(name))

    def number(self, value: float) -> str:
        """A constant."""
        return self.tensor(f"number_{value!r}", np.array(value, np.float32))

    def whole(self, *values: int) -> str:
        """A constant list of whole numbers."""
        return self.tensor(f"whole_{'_'.join(map(str, values))}", np.array(values, np.int64))

    # ---- parts of a network ----------------------------------------------------------------------------------------

    def dense(self, x: str, name: str) -> str:
        """[..., D] -> [..., F]."""
        return self.node("Add", self.node("MatMul", x, self.weight(f"{name}/kernel")), self.weight(f"{name}/bias"))

    def norm(self, x: str, name: str, epsilon: float) -> str:
        """LayerNorm of the last axis."""
        return self.node(
            "LayerNormalization", x, self.weight(f"{name}/scale"), self.weight(f"{name}/bias"), axis=-1, epsilon=epsilon
        )

    def gelu(self, x: str, form: str) -> str:
        """Both forms of GELU, by its definition."""
        if form == "gelu_erf":
            bent = self.node("Erf", self.node("Div", x, self.number(math.sqrt(2))))
        else:
            cube = self.node("Mul", self.node("Mul", x, x), x)
            inner = self.node("Add", x, self.node("Mul", cube, self.number(0.044715)))
            bent = self.node("Tanh", self.node("Mul", inner, self.number(math.sqrt(2 / math.pi))))
        return self.node("Mul", self.node("Mul", x, self.node("Add", bent, self.number(1))), self.number(0.5))

    def first_token(self, x: str) -> str:
        """[B, S, D] -> [B, D]."""
        return self.node("Gather", x, self.tensor("first", np.array(0)), axis=1)

    def heads(self, x: str, model: ModelConfig, order: Sequence[int]) -> str:
        """[B, S, D] -> the axes B, S, H, K in an order."""
        parts = self.whole(0, 0, model.num_attention_heads, model.head_size)
        return self.node("Transpose", self.node("Reshape", x, parts), perm=list(order))


def onnx_model(checkpoint: Checkpoint, purpose: Purpose) -> "onnx.ModelProto":
    """Return the graph with its weights; the checkpoint has the heads of the purpose alone (`purpose.trimmed`).

    Raises:
      UserError: the weights are more than one file of ONNX holds.
    """
    import onnx
    from onnx import helper, TensorProto

    rows = {row.ours: row for row in checkpoint.rows}
    size = sum(checkpoint.tensors.entries[checkpoint.own_names[name]].bytes for name in rows)
    if size > LARGEST:
        raise UserError(
            f"{checkpoint.path}: its {size:,} bytes of weights are more than a file of ONNX can hold, 2 GiB"
        )
    graph = GraphWriter(lambda name: checkpoint.finite_weight(rows[name]))
    results = purpose.outputs(checkpoint.description)
    _outputs(graph, checkpoint, purpose, list(results))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in INPUTS]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(axes)) for name, axes in results.items()]
    drawn = helper.make_graph(graph.nodes, f"bert_{purpose.name}", inputs, outputs, list(graph.tensors.values()))
    model = helper.make_model(
        drawn,
        producer_name="bert_jax",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPERATOR_SET)],
    )
    onnx.checker.check_model(model)
    return model


def _outputs(graph: GraphWriter, checkpoint: Checkpoint, purpose: Purpose, names: list[str]) -> None:
    """Write the whole network; `names` are those of its outputs."""
    description = checkpoint.description
    mask = graph.node("Cast", "attention_mask", to=1)  # float32
    x = _encoder(graph, description.model, mask)
    if purpose.name == EMBED:
        x = graph.node("Identity", x, result=names[0])
        _sentence(graph, x, mask, description.model, purpose.vectors, names[1])
        return
    if purpose.name == FILL_MASK:
        _masked_lm(graph, x, description.model, names[0])
        if description.nsp:
            graph.node("Identity", graph.dense(_pooled(graph, x, description.model), "nsp"), result=names[1])
        return
    task = description.task
    assert task is not None  # `purpose_of` has seen to it
    logits = graph.dense(_pooled(graph, x, description.model) if task.needs_pooler else x, "task")
    if task.kind != "span":
        graph.node("Identity", logits, result=names[0])
        return
    for column, name in enumerate(names):
        graph.node("Gather", logits, graph.tensor(f"column_{column}", np.array(column)), axis=2, result=name)


def _encoder(graph: GraphWriter, model: ModelConfig, mask: str) -> str:
    """Ids -> [B, S, D] of the last layer; `mask`: [B, S] float32."""
    before = "encoder/embeddings"
    length = graph.node("Gather", graph.node("Shape", INPUTS[0]), graph.tensor("second_axis", np.array(1)), axis=0)
    counted = graph.node("Range", graph.tensor("zero", np.array(0)), length, graph.tensor("one", np.array(1)))
    x = graph.node(
        "Add",
        graph.node("Gather", graph.weight(f"{before}/word"), "input_ids"),
        graph.node("Gather", graph.weight(f"{before}/position"), counted),  # [S, D], the same of every row
    )
    x = graph.node("Add", x, graph.node("Gather", graph.weight(f"{before}/segment"), "token_type_ids"))
    x = graph.norm(x, f"{before}/norm", model.layer_norm_eps)
    x = graph.dense(x, "encoder/embeddings_project") if model.is_projected else x
    unseen = graph.node("Mul", graph.node("Sub", graph.number(1), mask), graph.number(MASKED))
    unseen = graph.node("Unsqueeze", unseen, graph.whole(1, 2))  # [B, 1, 1, S]
    for number in range(model.num_hidden_layers):
        x = _layer(graph, x, f"encoder/layers/{number}", model, unseen)
    return x


def _layer(graph: GraphWriter, x: str, name: str, model: ModelConfig, unseen: str) -> str:
    query, key, value = (graph.dense(x, f"{name}/attention/{part}") for part in ("query", "key", "value"))
    query = graph.node("Mul", query, graph.number(model.head_size**-0.5))
    scores = graph.node("MatMul", graph.heads(query, model, (0, 2, 1, 3)), graph.heads(key, model, (0, 2, 3, 1)))
    shares = graph.node("Softmax", graph.node("Add", scores, unseen), axis=-1)  # [B, H, S, S]
    context = graph.node("MatMul", shares, graph.heads(value, model, (0, 2, 1, 3)))
    context = graph.node("Transpose", context, perm=[0, 2, 1, 3])
    context = graph.node("Reshape", context, graph.whole(0, 0, model.hidden_size))
    x = graph.node("Add", x, graph.dense(context, f"{name}/attention/output"))
    x = graph.norm(x, f"{name}/attention_norm", model.layer_norm_eps)
    inner = graph.gelu(graph.dense(x, f"{name}/feed_forward/intermediate"), model.hidden_act)
    x = graph.node("Add", x, graph.dense(inner, f"{name}/feed_forward/output"))
    return graph.norm(x, f"{name}/feed_forward_norm", model.layer_norm_eps)


def _pooled(graph: GraphWriter, x: str, model: ModelConfig) -> str:
    """The pooler's output, [B, D]."""
    x = graph.dense(graph.first_token(x), "encoder/pooler")
    return graph.node("Tanh", x) if model.pooler_act == "tanh" else graph.gelu(x, model.hidden_act)


def _sentence(graph: GraphWriter, x: str, mask: str, model: ModelConfig, vectors: SentenceVectors, result: str) -> None:
    """A vector of each row, as `bert-jax embed` makes it."""
    x = _pooled(graph, x, model) if vectors.pooling == "pooled" else _of_tokens(graph, x, mask, vectors.pooling)
    if vectors.normalize:
        length = graph.node("ReduceL2", x, axes=[1], keepdims=1)
        x = graph.node("Div", x, graph.node("Max", length, graph.number(1e-12)))
    graph.node("Identity", x, result=result)


def _of_tokens(graph: GraphWriter, x: str, mask: str, pooling: str) -> str:
    """The first token, or the mean or the largest value of each feature over the tokens: [B, D]."""
    if pooling == "cls":
        return graph.first_token(x)
    weights = graph.node("Unsqueeze", mask, graph.whole(-1))  # [B, S, 1]
    if pooling == "max":
        valid = graph.node("Cast", weights, to=9)  # bool
        return graph.node("ReduceMax", graph.node("Where", valid, x, graph.number(-math.inf)), axes=[1], keepdims=0)
    total = graph.node("ReduceSum", graph.node("Mul", x, weights), graph.whole(1), keepdims=0)
    count = graph.node("Max", graph.node("ReduceSum", weights, graph.whole(1), keepdims=0), graph.number(1))
    return graph.node("Div", total, count)


def _masked_lm(graph: GraphWriter, x: str, model: ModelConfig, result: str) -> None:
    """The logits of every entry at every token, [B, S, V]."""
    x = graph.norm(graph.gelu(graph.dense(x, "mlm/transform"), model.hidden_act), "mlm/norm", model.layer_norm_eps)
    table = "encoder/embeddings/word" if model.tie_word_embeddings else "mlm/decoder"
    decoder = graph.node("Transpose", graph.weight(table), perm=[1, 0])
    graph.node("Add", graph.node("MatMul", x, decoder), graph.weight("mlm/bias"), result=result)
