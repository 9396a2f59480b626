# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: a file of ONNX read back and run, and made smaller. Nothing here knows our model.

Shapes: B rows, S tokens.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.export.purpose import INPUTS


class OnnxModel:
    """A file of ONNX, ready to run on this machine's CPU."""

    def __init__(self, path: Path, threads: int = 0):
        """Open it; `threads` work at an operator, 0: as many as the runtime chooses."""
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self.ran = f"onnxruntime {runtime.__version__} on CPU"

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by its name, from `purpose.INPUTS` [B, S] of any whole numbers."""
        given = {name: np.asarray(inputs[name], np.int64) for name in INPUTS}
        return dict(zip(self._names, self._session.run(self._names, given), strict=True))


def require_onnx() -> None:
    """Refuse what needs ONNX where its packages are missing.

    Raises:
      UserError: naming the command that installs them.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error}: install what ONNX needs with pip install 'bert-jax[onnx]'") from None
    _runtime()


def quantize(source: Path, result: Path) -> None:
    """Write a model whose matrix products are of int8: weights by columns, activations as they come (dynamic quantisation).

    One bit is left free, without which products overflow on processors that lack VNNI.
    """
    _runtime()
    from onnxruntime.quantization import quantize_dynamic, QuantType

    with _quiet():
        quantize_dynamic(source, result, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice on preprocessing that the library logs through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _runtime():  # type: ignore[no-untyped-def]  # a module without types
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{error}: install what ONNX needs with pip install 'bert-jax[onnx]'") from None
    return onnxruntime
