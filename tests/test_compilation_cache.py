# SPDX-License-Identifier: Apache-2.0
"""Where compiled programs are kept."""

from pathlib import Path

import jax
import pytest

from bert_jax.mesh.compilation_cache import default_folder, use_compilation_cache


@pytest.fixture
def unset():
    """JAX as it is where the user has set nothing."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_user_s_cache_folder_is_the_default(unset, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "bert_jax" / "compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # to be ignored, by the specification
    assert default_folder() == Path.home() / ".cache" / "bert_jax" / "compiled"


def test_a_folder_that_the_user_has_named_is_kept(unset, tmp_path):
    """JAX reads JAX_COMPILATION_CACHE_DIR into this setting."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
