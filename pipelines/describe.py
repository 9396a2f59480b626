# SPDX-License-Identifier: Apache-2.0
"""bert-jax describe: configuration -> parameters, FLOPs, memory; checkpoint -> what it holds. Nothing is trained."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from bert_jax.pipelines import _checkpoint_options, _options

from bert_jax.base.errors import listed, UserError
from bert_jax.base.paths import any_path, any_text
from bert_jax.base.types import JsonObject
from bert_jax.config.model import MODEL_SIZES, ModelConfig
from bert_jax.config.pretrain import PretrainConfig
from bert_jax.config.settings import config_names, load_config, override

if TYPE_CHECKING:
    from bert_jax.conversion.checkpoints import Checkpoint

LEFT_TO_RIGHT = (
    "left to right: attention sees the past only, half of the pairs of tokens; a text's vector is its last token's"
)
BOTH_DIRECTIONS = (
    "a biLM: LSTMs forward and backward apart, P = H / 2 features each; a text's vector is its tokens' mean"
)


def make_parser() -> _options.StageParser:
    """The options of the stage."""
    parser = _options.StageParser(
        prog="bert-jax describe",
        description="Of a configuration: parameters (counted, and by the rule of thumb), FLOPs of a sequence, memory of the"
        " training state. Of a checkpoint: its format, model, tensors and vocabulary, and what of its files is not taken.",
    )
    parser.add_argument(
        "config",
        type=any_text,
        metavar="CONFIG|MODEL",
        help=f"a name in configs/, a .py file, a run's config.json, or a size: {', '.join(MODEL_SIZES)}; or a checkpoint:"
        f" {_checkpoint_options.ANY_FORMAT}",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="changed settings, such as model.vocab_size=8192"
    )
    parser.config = PretrainConfig()
    parser.add_argument("--json", action="store_true", help="print as JSON")
    _checkpoint_options.add_checkpoint_options(parser, former_task=False)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the stage."""
    arguments = make_parser().parse_with_settings(argv)
    if is_checkpoint(arguments.config):
        from bert_jax.conversion.checkpoints import open_checkpoint

        if arguments.settings:
            raise UserError(f"{arguments.settings[0]} changes a configuration, and {arguments.config} is a checkpoint")
        asked = _checkpoint_options.asked(arguments, kind=arguments.kind)
        checkpoint = open_checkpoint(any_path(arguments.config), asked)
        facts = checkpoint_facts(checkpoint)
        text = checkpoint_text(checkpoint, facts)
    else:
        _checkpoint_options.refuse_idle(arguments, f"is of a checkpoint, and {arguments.config} is a configuration")
        if arguments.config in MODEL_SIZES and arguments.config not in config_names():
            config = override(PretrainConfig(), [f"model={arguments.config}", *arguments.settings])
        else:
            config = override(load_config(arguments.config), arguments.settings)
        facts = count(config)
        text = as_text(config, facts)
    print(json.dumps(facts, indent=2) if arguments.json else text)
    return 0


def is_checkpoint(name: str) -> bool:
    """Whether a name means a checkpoint, and no configuration."""
    if name in MODEL_SIZES or name in config_names() or PurePath(name).suffix in (".py", ".json"):
        return False
    return "/" in name or any_path(name).exists() or any_path(f"{name}.index").exists()  # the last: TensorFlow's


def checkpoint_facts(checkpoint: "Checkpoint") -> JsonObject:
    """What a checkpoint holds, by name; `skipped` and `notes` say what of its files is not taken."""
    from bert_jax.conversion.names import shape_of

    parameters: Counter[str] = Counter()
    for row in checkpoint.rows:
        part = "encoder" if row.ours.startswith("encoder/") else "head"
        parameters[part] += math.prod(shape_of(row, checkpoint.description))
    entries = [checkpoint.tensors.entries[name] for name in checkpoint.own_names.values()]
    tokenizer = checkpoint.tokenizer
    return {
        "format": checkpoint.format,
        "step": checkpoint.step,
        "model": checkpoint.description.to_dict(),
        "encoder_parameters": parameters["encoder"],
        "head_parameters": parameters["head"],
        "tensors": len(entries),
        "tensor_bytes": sum(entry.bytes for entry in entries),
        "dtypes": dict(Counter(entry.dtype for entry in entries)),
        "vocabulary": tokenizer and {"entries": tokenizer.vocab_size, **tokenizer.settings()},
        "skipped": dict(checkpoint.skipped),
        "notes": list(checkpoint.notes),
    }


def checkpoint_text(checkpoint: "Checkpoint", facts: JsonObject) -> str:
    """The facts in words."""
    model, tokenizer = checkpoint.description.model, checkpoint.tokenizer
    vocabulary = "none beside it: name one with --vocab where text is to be read"
    if tokenizer is not None:
        case = "lower-cased" if tokenizer.lowercase else "cased"
        vocabulary = f"{tokenizer.kind}, {case}, {tokenizer.vocab_size:,} entries"
    step = "" if checkpoint.step is None else f", step {checkpoint.step:,}"
    dtypes = ", ".join(facts["dtypes"])
    left_out: dict[str, list[str]] = {}  # by the reason: moments of an optimizer are hundreds
    for name, why in checkpoint.skipped.items():
        left_out.setdefault(why, []).append(name)
    lines = [
        f"{checkpoint.path}: {checkpoint.format}{step}, {checkpoint.description.summary()}",
        f"shape        {_layers(model)}, {model.max_position_embeddings:,} positions, {model.hidden_act}",
        f"parameters   {facts['encoder_parameters']:>15,}  encoder",
        f"             {facts['head_parameters']:>15,}  heads",
        f"stored       {facts['tensor_bytes'] / 2**20:>11,.1f} MiB  {facts['tensors']} tensors of {dtypes}",
        f"vocabulary   {vocabulary}",
        *(f"left out     {listed(names, 2)}: {why}" for why, names in left_out.items()),
        *(f"note         {note}" for note in checkpoint.notes),
    ]
    return "\n".join(lines)


def count(config: PretrainConfig) -> JsonObject:
    """Count parameters, bytes and FLOPs, by name."""
    import jax

    from bert_jax.config.training import MeshConfig
    from bert_jax.mesh.sharding import make_mesh
    from bert_jax.model.accounting import count_bytes, count_parameters, formula_parameters
    from bert_jax.train.state import Training

    state = Training(config, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])).abstract_state
    params = state.params
    return {
        "encoder_parameters": count_parameters(params["encoder"]),
        "head_parameters": count_parameters(params) - count_parameters(params["encoder"]),
        "formula_parameters": formula_parameters(config.model),
        "parameter_bytes": count_bytes(params),
        "optimizer_bytes": count_bytes(state.opt_state),
        "phases": [describe_phase(config, number) for number in range(len(config.phases))],
    }


def describe_phase(config: PretrainConfig, number: int) -> JsonObject:
    """FLOPs of a full row (one example, no padding, the share that is picked in the phase's middle) and of the phase."""
    from bert_jax.model.accounting import pretraining_flops

    phase = config.phases[number]
    length, begin = phase.sequence_length, sum(earlier.steps for earlier in config.phases[:number])
    middle = begin + (phase.steps - 1) / 2
    predictions = round(config.objective.probability_at(middle, config.total_steps) * length)
    if not config.objective.masks:
        predictions = length - 1  # each token but the last predicts the next
    flops = pretraining_flops(config.description, length, length**2, predictions)
    return {
        "sequence_length": length,
        "predictions": predictions,
        "batch_size": phase.batch_size,
        "steps": phase.steps,
        "flops_per_sequence": flops,
        "flops": flops * phase.batch_size * phase.steps,
    }


def as_text(config: PretrainConfig, facts: JsonObject) -> str:
    """The figures in words."""
    model = config.model
    encoder, heads = facts["encoder_parameters"], facts["head_parameters"]
    parts = ("embeddings, layers, pooler", "MLM and NSP heads")
    if not config.objective.nsp:
        heads_of = "generator, replaced-token head" if config.objective.replaces else "MLM head"
        parts = ("embeddings, layers", heads_of if config.objective.masks else "head for tokens")
    beside = ", projection to the teacher" if config.description.teacher_size else ""
    formula = "V*P + 18*L*U*P" if model.is_recurrent else "V*H + 12*L*H*H"
    lines = [
        f"{_layers(model)}, vocabulary {model.vocab_size:,}",
        *([LEFT_TO_RIGHT] if model.causal else []),
        *([BOTH_DIRECTIONS] if model.is_recurrent else []),
        f"parameters   {encoder:>15,}  {parts[0]}",
        f"             {heads:>15,}  {parts[1]}{beside}",
        f"             {facts['formula_parameters']:>15,}  by the formula {formula}",
        f"memory       {facts['parameter_bytes'] / 2**20:>11,.1f} MiB  parameters, float32",
        f"             {facts['optimizer_bytes'] / 2**20:>11,.1f} MiB  optimizer state ({config.optimizer.name})",
    ]
    for phase in facts["phases"]:
        lines.append(
            f"FLOPs        {phase['flops_per_sequence']:>15.4g}  forward and backward, a full sequence of"
            f" {phase['sequence_length']} with {phase['predictions']} predictions"
        )
        lines.append(
            f"             {phase['flops']:>15.4g}  in {phase['steps']:,} steps of {phase['batch_size']:,} sequences"
        )
    return "\n".join(lines)


def _layers(model: ModelConfig) -> str:
    layers = f"{model.num_attention_heads} heads of {model.head_size}, feed-forward {model.intermediate_size}"
    if model.is_recurrent:
        layers = f"LSTMs of {model.lstm_units} units and 2 x {model.table_size} features"
    return f"{model.num_hidden_layers} layers, hidden {model.hidden_size}, {layers}"
