# SPDX-License-Identifier: Apache-2.0
"""The pickle in a file of torch.save, read without PyTorch and without running anything that is in it.

A pickle is a program: it may call whatever it names. The unpickler here knows the few names that a dictionary of dense
tensors needs, puts descriptions in their places, and refuses every other name before it is looked up.
"""

import pickle
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.conversion.pickle_bounds import require_bounded

_DTYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_SHOWN = 200  # characters of what a library said
AGAIN = "copy or download it again"
SAVE_AGAIN = "load it with PyTorch and save model.state_dict() alone"


class TorchStorage(NamedTuple):
    """A storage as the pickle describes it. A view (before PyTorch 0.4) is a part of the storage `key`."""

    key: str
    dtype: np.dtype
    length: int  # elements
    begin: int = 0  # element of the storage `key` with which the view begins
    view_length: int | None = None


class TorchTensor(NamedTuple):
    """A view of a storage; all in elements."""

    storage: TorchStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StorageType(NamedTuple):
    dtype: np.dtype


# What stands for a name in the pickle is an immutable value: a pickle can also set attributes of what it gets.
class _RebuildTensor(NamedTuple):
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)"""

    def __call__(
        self, storage: TorchStorage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: object
    ) -> TorchTensor:
        if not isinstance(storage, TorchStorage) or any(rest[2:]):
            raise pickle.UnpicklingError("a tensor is not a plain view of a storage")
        return TorchTensor(storage, offset, tuple(shape), tuple(strides))


class _RebuildParameter(NamedTuple):
    """torch._utils._rebuild_parameter(data, requires_grad, hooks)"""

    def __call__(self, data: TorchTensor, *rest: object) -> TorchTensor:
        return data


class _Dictionary(dict[object, object]):
    """collections.OrderedDict, without the attributes that PyTorch gives it (`_metadata`: versions of modules)."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


_KNOWN: Mapping[str, object] = {
    "collections.OrderedDict": _Dictionary,
    "torch._utils._rebuild_tensor": _RebuildTensor(),
    "torch._utils._rebuild_tensor_v2": _RebuildTensor(),
    "torch._utils._rebuild_parameter": _RebuildParameter(),
    "torch._utils._rebuild_parameter_with_state": _RebuildParameter(),
    **{f"torch.{name}": _StorageType(dtype) for name, dtype in _DTYPES.items()},
    **{f"torch.cuda.{name}": _StorageType(dtype) for name, dtype in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that looks nothing up. It notes the storages by their keys."""

    def __init__(self, path: Path, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.path = path
        self.storages: dict[str, TorchStorage] = {}

    def find_class(self, module: str, name: str) -> object:
        asked = f"{module}.{name}"
        if asked in _KNOWN:
            return _KNOWN[asked]
        if module.split(".")[0] == "torch":
            raise UserError(f"{self.path} asks for {asked}, which is no dense tensor of a known type: {SAVE_AGAIN}")
        raise UserError(
            f"{self.path} asks for {asked}, which is no tensor: it may be malicious; nothing of it was run:"
            f" only if you trust where it is from, {SAVE_AGAIN}"
        )

    def persistent_load(self, identity: Any) -> TorchStorage:
        tag, kind, key, _, length, *views = identity
        if (tag, type(kind), type(key), type(length)) != ("storage", _StorageType, str, int) or length < 0:
            raise pickle.UnpicklingError(f"{reprlib.repr(identity)} is no storage")
        storage = TorchStorage(key, kind.dtype, length)
        known = self.storages.setdefault(key, storage)
        if storage != known:
            raise pickle.UnpicklingError(
                f"storage {key} is {length} numbers of {kind.dtype} and {known.length} of {known.dtype}"
            )
        if views and views[0] is not None:
            _, begin, view_length = views[0]
            return storage._replace(begin=begin, view_length=view_length)
        return storage


def unpickle(path: Path, file: BinaryIO) -> tuple[object, dict[str, TorchStorage]]:
    """The pickle that begins where the file stands, which is in memory, and the storages it refers to, by their keys."""
    begin = file.tell()
    unpickler = _Unpickler(path, file)
    try:
        require_bounded(file)
        file.seek(begin)
        return unpickler.load(), unpickler.storages
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way; it calls nothing that is not of this file
        said = f"{error}"[:_SHOWN]
        raise UserError(f"{path} is cut short or damaged ({type(error).__name__}: {said}): {AGAIN}") from None


def kind_of(value: object) -> str:
    kinds = {_Dictionary: "dict", TorchTensor: "tensor", TorchStorage: "storage", _StorageType: "type"}
    return kinds.get(type(value), type(value).__name__)
