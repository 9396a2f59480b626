# SPDX-License-Identifier: Apache-2.0
"""JAX's persistent compilation cache, so that a program is compiled once and not at every start."""

from pathlib import Path

import jax

from bert_jax.base.host import cache_folder


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless the user has told JAX of another one.

    JAX's own settings hold: JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(default_folder()))


def default_folder() -> Path:
    """`compiled` in the user's cache."""
    return cache_folder() / "compiled"
