# SPDX-License-Identifier: Apache-2.0
"""Variables of a TensorFlow 1 optimizer beside those of the model: slots, moving averages, powers of decays, loss scales.

A slot has a variable's name, with its own behind it or before it, and that variable's shape, or that shape without one axis
where second moments are factored. Adam's two are called as google-research/bert does (adam_m, adam_v), or by the name of
the optimizer and that name with _1 (tf.train.Adam: <variable>/Adam, <variable>/Adam_1).
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bert_jax.conversion.names import GLOBAL_STEP, SLOTS
from bert_jax.conversion.tensors import TensorEntry

# Single numbers of an optimizer or of training in half precision.
_SCALAR = re.compile(
    r"(beta_?\d_power|(current_)?loss_?scal\w*|(num_)?(good|bad)_steps|global_step|iter(ations?)?|step|learning_rate"
    r"|decay|momentum|\w*_power)(_\d+)?",
    re.IGNORECASE,
)


class Moments(NamedTuple):
    """The names of the first and the second moment of a variable, behind its own name and a slash."""

    first: str
    second: str


def optimizer_tensors(entries: Mapping[str, TensorEntry], variables: Mapping[str, TensorEntry]) -> dict[str, str]:
    """The tensors that are an optimizer's, and what each is called there: bert/x/kernel/BERTAdam_1 -> BERTAdam_1.

    Args:
      entries: tensors that have no place in the model.
      variables: those that have one.
    """
    found = {}
    for name, entry in entries.items():
        slot = _slot(name, entry, variables)
        last = name.rpartition("/")[2]
        if slot is not None:
            found[name] = slot
        elif entry.shape in ((), (1,)) and _SCALAR.fullmatch(last):
            found[name] = last
    return found


def _slot(name: str, entry: TensorEntry, variables: Mapping[str, TensorEntry]) -> str | None:
    for variable, slot in _cuts(name):
        if variable in variables and _has_shape_of(variables[variable].shape, entry.shape):
            return slot
    return None


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """Yield every way to cut a name into a variable's and a slot's."""
    places = [place for place, character in enumerate(name) if character in "/_"]
    for place in reversed(places):
        yield name[:place], name[place + 1 :]
    for place in (place for place in places if name[place] == "/"):  # a scope before it, and a name behind
        inner = name[place + 1 :]
        yield inner, name[:place]
        yield inner.rpartition("/")[0], f"{name[:place]}/{inner.rpartition('/')[2]}"


def _has_shape_of(variable: tuple[int, ...], slot: tuple[int, ...]) -> bool:
    factored = [variable[:axis] + variable[axis + 1 :] for axis in range(len(variable))] if len(variable) > 1 else []
    return slot == variable or slot in factored


def moments_of(entries: Mapping[str, TensorEntry]) -> Moments | None:
    """Return the names of Adam's moments in a checkpoint; None: it has none, or not two of them."""
    endings = {name.rpartition("/")[2] for name in entries}
    if endings & set(SLOTS):
        return Moments(*SLOTS)
    pairs = [
        (ending, f"{ending}_1") for ending in sorted(endings) if re.fullmatch(r"\w*adam\w*", ending, re.IGNORECASE)
    ]
    pairs = [pair for pair in pairs if pair[1] in endings]
    return Moments(*pairs[0]) if len(pairs) == 1 and GLOBAL_STEP in entries else None
