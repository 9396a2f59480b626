# SPDX-License-Identifier: Apache-2.0
"""The files by which sentence-transformers, text-embeddings-inference and vLLM make a vector of a text's tokens.

modules.json lists what follows the network: 1_Pooling (its config.json says of which tokens), 2_Normalize (the vector is
divided by its length). sentence_bert_config.json says how many tokens of a text are read.
"""

from dataclasses import dataclass
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.files import read_json, reading, write_json
from bert_jax.conversion.checkpoints import Checkpoint
from bert_jax.conversion.names import HUGGING_FACE

MODULES = "modules.json"
_POOLING, _NORMALIZE, _LIMIT = "1_Pooling", "2_Normalize", "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"
_REMEDY = "copy the directory again"
POOLINGS = ("mean", "cls", "max")
# sentence-transformers' names of what it knows; all but one must be false.
_FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean, divided by the root of the length": "pooling_mode_mean_sqrt_len_tokens",
    "weighted mean": "pooling_mode_weightedmean_tokens",
    "last token": "pooling_mode_lasttoken",
}


@dataclass(frozen=True)
class SentenceVectors:
    """How a vector is made of the last layer's tokens."""

    pooling: str = "mean"  # one of POOLINGS; of `embed` and `export` also those that only they know
    normalize: bool = False
    longest: int | None = None  # tokens of a text that are read; None: as many as the model reads

    def __str__(self) -> str:
        """Return it in words: "mean pooling, normalised"."""
        made = "the pooler" if self.pooling == "pooled" else f"{self.pooling} pooling"
        return f"{made}{', normalised' if self.normalize else ''}"


@dataclass(frozen=True)
class Served:
    """The user's request about vectors; None: as the directory of the model has it, else as is usual."""

    pooling: str | None = None
    normalize: bool | None = None


AS_IT_SAYS = Served()


def vectors_for(source: Checkpoint, to: str, served: Served) -> SentenceVectors | None:
    """Return how vectors of a result are made; None where it makes none: of a fine-tuned model, or in another format.

    Raises:
      UserError: that was asked about, nevertheless; as `read_sentence_files`.
    """
    task = source.description.task
    if to != HUGGING_FACE or task is not None or source.tokenizer is None:
        option = "--pooling" if served.pooling is not None else "--normalize"
        reason = "has no vocabulary" if source.tokenizer is None else f"is written for {to}"
        reason = f"has a head for {task.kind}" if task is not None else reason
        if served != AS_IT_SAYS:
            raise UserError(f"{option} is of vectors of sentences, and {source.path} {reason}: leave the option out")
        return None
    return followed(source.path, served)[0]


def followed(model: Path, served: Served) -> tuple[SentenceVectors, list[str]]:
    """Return how vectors of a model are made, as asked, else as its directory says, else as is usual; and lines about it.

    Raises:
      UserError: as `read_sentence_files`.
    """
    folder = model if model.is_dir() else model.parent
    found = read_sentence_files(folder, served)
    if found is None:
        usual = SentenceVectors()
        return SentenceVectors(served.pooling or usual.pooling, bool(served.normalize), usual.longest), []
    said = [f"{folder / MODULES}{' and the options say' if served != AS_IT_SAYS else ' says'}: {found}"]
    if (prompt := _unmet_prompt(folder)) is not None:
        said.append(f"sentence-transformers would put {prompt!r} before every text; here it is not")
    if _lowers_case(folder / _LIMIT):
        said.append(
            f"sentence-transformers would lower-case every text first ({folder / _LIMIT}: do_lower_case=true); here the"
            " tokenizer alone decides about case"
        )
    return found, said


def read_sentence_files(folder: Path, served: Served = AS_IT_SAYS) -> SentenceVectors | None:
    """Read how a directory says that vectors are made, where it is not asked for otherwise; None: it does not say it.

    Raises:
      UserError: in another way than is known here, or its files cannot be read.
    """
    file = folder / MODULES
    if not file.is_file():
        return None
    modules = _modules(file)
    kinds = [kind for kind, _ in modules]
    known = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    if not known and (served.pooling is None or served.normalize is None):
        raise UserError(
            f"{file}: its vectors are made by {', '.join(kinds) or 'nothing'}, and only Transformer, Pooling and Normalize"
            " are known here: say how by --pooling and --normalize, or run sentence-transformers"
        )
    pooling = served.pooling or _pooling(folder / modules[1][1] / "config.json")
    normalize = len(kinds) == 3 if served.normalize is None else served.normalize
    return SentenceVectors(pooling, normalize, _longest(folder / (modules[0][1] if modules else "") / _LIMIT))


def _modules(file: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module, in their order."""
    with reading(file, _REMEDY):
        modules = read_json(file, _REMEDY, list)
        return [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in modules]


def _pooling(file: Path) -> str:
    with reading(file, _REMEDY):
        values = read_json(file, _REMEDY)
        named = values.get("pooling_mode")
        chosen = named if isinstance(named, list) else [named]  # as version 6 writes it
        if named is None:
            chosen = [name for name, flag in _FLAGS.items() if values.get(flag)]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise UserError(
            f"{file}: pools by {' and '.join(map(str, chosen)) or 'nothing'}, and only {', '.join(POOLINGS)} are known here:"
            " name one by --pooling, or run sentence-transformers"
        )
    return chosen[0]


def _longest(file: Path) -> int | None:
    if not file.is_file():
        return None
    with reading(file, _REMEDY):
        longest = read_json(file, _REMEDY).get("max_seq_length")
        if longest is not None and (type(longest) is not int or longest < 3):
            raise TypeError(f"max_seq_length={longest!r}")
    return longest


def _lowers_case(file: Path) -> bool:
    """Whether sentence-transformers lower-cases texts before the tokenizer, be it cased or not."""
    if not file.is_file():
        return False
    with reading(file, _REMEDY):
        return bool(read_json(file, _REMEDY).get("do_lower_case"))


def _unmet_prompt(folder: Path) -> str | None:
    """Return the prompt that sentence-transformers puts before every text and that is not put there here; None: none."""
    file = folder / _PROMPTS
    if not file.is_file():
        return None
    with reading(file, _REMEDY):
        values = read_json(file, _REMEDY)
        return (values.get("prompts") or {}).get(values.get("default_prompt_name")) or None


def write_sentence_files(folder: Path, vectors: SentenceVectors, width: int, longest: int) -> None:
    """Write the files.

    Args:
      folder: that has the model.
      vectors: how they are made.
      width: features of a token.
      longest: tokens of a text that the model reads at most.
    """
    kinds = ["Transformer", "Pooling", *(["Normalize"] if vectors.normalize else [])]
    paths = ["", _POOLING, _NORMALIZE]
    modules = [
        {"idx": n, "name": str(n), "path": paths[n], "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    for path in paths[1 : len(kinds)]:
        (folder / path).mkdir()
    flags = {flag: name == vectors.pooling for name, flag in _FLAGS.items()}
    write_json(folder / _POOLING / "config.json", {"word_embedding_dimension": width, **flags, "include_prompt": True})
    write_json(folder / _LIMIT, {"max_seq_length": min(vectors.longest or longest, longest), "do_lower_case": False})
    write_json(folder / MODULES, modules)
