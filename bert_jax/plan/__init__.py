# SPDX-License-Identifier: Apache-2.0
"""Plans: what a run needs of an accelerator that need not be there. The real train step is compiled for it and read.

`machine` what it is planned for, `program` one compiled step and what is read from it, `estimate` seconds, `fitting`
what fits and what would, `planning` the whole, `text` for people.
"""

from bert_jax.plan.machine import local_machine, Machine, topology_machine
from bert_jax.plan.planning import make_plan, Plan
from bert_jax.plan.text import as_text

__all__ = ["Machine", "Plan", "as_text", "local_machine", "make_plan", "topology_machine"]
