# SPDX-License-Identifier: Apache-2.0
"""Names for what Python's types cannot say exactly."""

from typing import Any

type JsonObject = dict[str, Any]  # what a JSON object becomes: names and values of any depth
type PyTree = Any  # nested containers of arrays, as JAX takes them: parameters, gradients, a model's state
