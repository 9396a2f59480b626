# SPDX-License-Identifier: Apache-2.0
"""Texts that a left-to-right model goes on with: greedily, or drawn with a temperature and from the likeliest entries alone.

Rows are read token by token with a cache of keys and values, prompt and continuation alike, in one compiled program for each
shape. What is drawn for a prompt follows from (seed, number of the prompt, place) and not from the prompts beside it.

Shapes: B rows, T tokens that there is room for, V vocabulary.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.base.types import PyTree
from bert_jax.config.description import ModelDescription
from bert_jax.model.decoding import Cache, empty_cache, read_token
from bert_jax.model.encoder import Compute
from bert_jax.model.forward import model_graph, require_finite
from bert_jax.use.model import Pretrained, SHOWN, WIDTH_STEP

PROMPTS_AT_ONCE = 16
USUAL_TOKENS = 50
LEAST_TEMPERATURE = 1e-3  # logits divided by much less are more than float32 tells apart, and at last infinite


@dataclass(frozen=True)
class GenerateSettings:
    """How a text goes on."""

    tokens: int | None = None  # at most; None: USUAL_TOKENS, or as many as the model has positions for
    temperature: float = 0.0  # that logits are divided by; 0: always the likeliest entry
    top_k: int | None = None  # entries that are drawn from; None: all
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise UserError(f"--tokens {self.tokens} is not possible: use 1 or more")
        if self.temperature and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise UserError(
                f"--temperature {self.temperature} is not possible: use 0 (always the likeliest), or {LEAST_TEMPERATURE} or"
                " more"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"--top-k {self.top_k} is not possible: use 1 or more")
        if self.top_k is not None and not self.temperature:
            raise UserError(f"--top-k {self.top_k} is for texts that are drawn: give --temperature too, such as 1.0")


@dataclass(frozen=True)
class Generation:
    """A prompt and what follows it."""

    prompt: list[int]  # ids, without [CLS]
    added: list[int]  # ids, without the [SEP] that ends a text
    ended: bool  # by a [SEP], before there were as many tokens as asked for
    text: str  # of both


def generate(
    model: Pretrained, prompts: Sequence[str], settings: GenerateSettings = GenerateSettings()
) -> list[Generation]:
    """Go on with each prompt.

    Args:
      model: left to right.
      prompts: texts; an empty one begins at [CLS].
      settings: how.

    Raises:
      UserError: the model is bidirectional or has no head; a prompt that leaves no room; as `require_finite`.
    """
    model.require_left_to_right("going on with a text")
    ids = [[model.tokenizer.cls_id, *model.tokenizer.encode(prompt).ids] for prompt in prompts]
    rooms = [_room(model, prompt, len(own), settings) for prompt, own in zip(prompts, ids, strict=True)]
    found: list[Generation] = []
    with tqdm(total=len(ids), unit="prompt", desc="generate", disable=len(ids) <= PROMPTS_AT_ONCE or None) as bar:
        for begin in range(0, len(ids), PROMPTS_AT_ONCE):
            part = slice(begin, begin + PROMPTS_AT_ONCE)
            rows = _complete(model, ids[part], rooms[part], begin, settings)
            found += [_generation(model, *row) for row in zip(ids[part], rooms[part], rows, strict=True)]
            bar.update(len(rows))
    return found


def _room(model: Pretrained, prompt: str, length: int, settings: GenerateSettings) -> int:
    """The tokens to add to a prompt of `length` tokens with its [CLS].

    Raises:
      UserError: there are not as many positions.
    """
    shown = repr(prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}...")
    bound = f"this run was trained on {model.longest} at most"
    if model.origin.run is None:
        bound = f"the model has {model.longest} positions"
    if length >= model.longest:
        raise UserError(
            f"{shown}: is {length} tokens long with [CLS] and {bound}, which leaves none to add: shorten it"
        )
    left = model.longest - length
    if settings.tokens is not None and settings.tokens > left:
        raise UserError(
            f"{shown}: is {length} tokens long with [CLS] and {bound}: shorten it, or give --tokens {left} or fewer"
        )
    return min(settings.tokens or USUAL_TOKENS, left)


def _complete(
    model: Pretrained, ids: Sequence[Sequence[int]], rooms: Sequence[int], first: int, settings: GenerateSettings
) -> np.ndarray:
    """Prompts and what follows, [B, T]; `first` is the number of the first prompt."""
    most = max(len(own) + room for own, room in zip(ids, rooms, strict=True))
    size = min(-(-most // WIDTH_STEP) * WIDTH_STEP, model.description.model.max_position_embeddings)
    prompt = np.full((len(ids), size), model.tokenizer.pad_id, np.int32)
    for row, own in enumerate(ids):
        prompt[row, : len(own)] = own
    allowed = np.arange(model.description.model.vocab_size) < model.tokenizer.vocab_size
    allowed[[model.tokenizer.pad_id, model.tokenizer.cls_id, model.tokenizer.mask_id]] = False  # never to be predicted
    program = compiled_generation(model.description, model.compute, settings.temperature > 0, settings.top_k)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(settings.seed), first + jnp.arange(len(ids)))
    lengths = np.array([len(own) for own in ids], np.int32)
    completed, highest = jax.device_get(program(model.params, prompt, lengths, keys, settings.temperature, allowed))
    require_finite(highest, model.params)
    return completed


def _generation(model: Pretrained, prompt: Sequence[int], room: int, row: np.ndarray) -> Generation:
    added = row[len(prompt) : len(prompt) + room].tolist()
    ended = model.tokenizer.sep_id in added
    if ended:
        added = added[: added.index(model.tokenizer.sep_id)]
    own = list(prompt[1:])
    return Generation(own, added, ended, model.tokenizer.decode([*own, *added]))


type Followed = tuple[jax.Array, jax.Array]  # ids, and the highest logit of each place


@functools.lru_cache(maxsize=2)
def compiled_generation(
    description: ModelDescription, compute: Compute, is_drawn: bool, top_k: int | None
) -> Callable[..., Followed]:
    """Return the program that goes on with prompts, compiled once for each shape.

    Its arguments are the parameters, prompts [B, T] int32, their lengths [B], a key for each row, the temperature, and which
    entries may be taken [V] bool; it returns prompts and what follows, [B, T], and the highest logit at each place, [T - 1, B].
    """
    graph = model_graph(description, compute)

    def choose(logits: jax.Array, keys: jax.Array, place: jax.Array, temperature: jax.Array) -> jax.Array:
        """Logits [B, V] -> the ids of the tokens behind `place`, [B]."""
        if not is_drawn:
            return logits.argmax(-1)
        if top_k is not None and top_k < logits.shape[-1]:
            lowest = jax.lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits >= lowest, logits, -jnp.inf)
        own_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        return jax.vmap(jax.random.categorical)(own_keys, logits / temperature)

    def program(
        params: PyTree,
        prompts: jax.Array,
        lengths: jax.Array,
        keys: jax.Array,
        temperature: jax.Array,
        allowed: jax.Array,
    ) -> Followed:
        model = nnx.merge(graph, params)
        word = model.encoder.embeddings.word[...]

        def one_more(
            carry: tuple[Cache, jax.Array], place: jax.Array
        ) -> tuple[tuple[Cache, jax.Array], tuple[jax.Array, jax.Array]]:
            cache, ids = carry
            x, cache = read_token(model.encoder, cache, ids, place)
            logits = jnp.where(allowed[None, :], model.mlm(x[:, None], word)[:, 0], -jnp.inf)
            chosen = choose(logits, keys, place, temperature).astype(jnp.int32)
            following = jnp.where(place + 1 < lengths, jnp.take(prompts, place + 1, axis=1), chosen)
            return (cache, following), (following, logits.max(-1))

        rows, size = prompts.shape
        begin = (empty_cache(model.encoder, rows, size), prompts[:, 0])
        _, (followed, highest) = jax.lax.scan(one_more, begin, jnp.arange(size - 1, dtype=jnp.int32))  # each [T - 1, B]
        return jnp.concatenate([prompts[:, :1], followed.T], axis=1), highest

    return jax.jit(program)
