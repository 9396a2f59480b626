# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/torch_files/: small files of torch.save, to hold our reader of them against.

Run in an environment of its own, which needs neither JAX nor bert_jax, from the root of the project:

    pip install "torch==2.13.*" numpy
    python tests/golden_torch_files.py

The files in the repository were made with Python 3.11, torch 2.13.0 (CPU) and NumPy 2.4.6. What is in them comes from a
formula, `contents`, which the tests call too.

    zip.bin             the format since PyTorch 1.6
    row_of_pickles.bin  the format before it
    protocol_4.bin      the first, its pickle in protocol 4
    no_checksums.bin    the first, written without checksums
    training.bin        {"epoch", "state_dict": two of the tensors, "optimizer"}
"""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


def contents() -> dict[str, tuple[str, np.ndarray]]:
    """Name -> type and values, each of which the type can hold."""
    table = np.arange(20.0).reshape(5, 4) / 8 - 1
    return {
        "dense.weight": ("float32", np.arange(12.0).reshape(3, 4) / 8 - 0.5),
        "dense.bias": ("float32", np.arange(3.0) - 0.25),
        "tied": ("float32", np.arange(12.0).reshape(3, 4) / 8 - 0.5),  # the storage of dense.weight
        "transposed": ("float32", np.arange(12.0).reshape(3, 4).T),
        "table": ("float32", table),
        "column": ("float32", table[:, 1]),  # these three are views of table
        "tail": ("float32", table[3:]),
        "block": ("float32", table[1:4:2, 2:]),
        "repeated": ("float32", np.tile([[1.5, -2.0]], (3, 1))),  # a stride of 0
        "parameter": ("float32", np.array([3.0])),
        "half": ("float16", np.arange(6.0).reshape(2, 3) / 4),
        "brain": ("bfloat16", np.arange(5.0) - 2.5),
        "double": ("float64", np.array([1 / 3, -1e300])),
        "long": ("int64", np.array([[2**40, -7]])),
        "int": ("int32", np.array([-(2**31), 5])),
        "short": ("int16", np.array([-300, 300])),
        "char": ("int8", np.array([-128, 127])),
        "byte": ("uint8", np.array([0, 255])),
        "bool": ("bool", np.array([True, False, True])),
        "position_ids": ("int64", np.arange(8)[None]),
        "scalar": ("int64", np.array(42)),
        "empty": ("float32", np.zeros((0, 4))),
    }


def saved_by_torch() -> "OrderedDict[str, Any]":
    """The contents as tensors, with the views, shared storages and attributes that a model's state dict has."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    tensors = {name: torch.tensor(values, dtype=getattr(torch, kind)) for name, (kind, values) in contents().items()}
    module = torch.nn.Linear(4, 3)
    with torch.no_grad():
        module.weight.copy_(tensors["dense.weight"])
        module.bias.copy_(tensors["dense.bias"])
    table = tensors["table"]
    state = torch.nn.ModuleDict({"dense": module}).state_dict()  # with its attribute _metadata
    views = {
        "tied": state["dense.weight"],
        "transposed": torch.arange(12.0).reshape(3, 4).T,
        "table": table,
        "column": table[:, 1],
        "tail": table[3:],
        "block": table[1:4:2, 2:],
        "repeated": torch.tensor([1.5, -2.0]).expand(3, 2),
        "parameter": torch.nn.Parameter(tensors["parameter"]),
        "position_ids": torch.arange(8).expand((1, -1)),
    }
    state.update({name: views.get(name, tensor) for name, tensor in tensors.items() if not name.startswith("dense")})
    return state


def main() -> None:
    """Write the files."""
    import torch  # type: ignore[import-not-found,unused-ignore]

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("tests/golden/torch_files"))
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    state = saved_by_torch()
    torch.save(state, output / "zip.bin")
    torch.save(state, output / "row_of_pickles.bin", _use_new_zipfile_serialization=False)
    torch.save(state, output / "protocol_4.bin", pickle_protocol=4)
    torch.serialization.set_crc32_options(False)
    torch.save(state, output / "no_checksums.bin")
    torch.serialization.set_crc32_options(True)
    model = {name: state[name] for name in ("dense.weight", "half")}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3, 4)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    torch.save({"epoch": 3, "state_dict": model, "optimizer": optimizer}, output / "training.bin")


if __name__ == "__main__":
    main()
