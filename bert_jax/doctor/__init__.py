# SPDX-License-Identifier: Apache-2.0
"""What is likely wrong with prepared data or with a run, and what to do about it.

  plan         what the configuration says, before a step is made: recipe, data for the steps, held-out text
  losses       what the curves say: no learning, divergence, memorising, pair labels
  signals      gradient norms, throughput, masks as measured
  examination  a directory -> findings (those about data are made by `bert_jax.data.passport_checks`)
  text         findings -> what is printed

Every check gives a finding, also where all is well, with the numbers it looked at. Thresholds are named constants, each
with its reason.
"""

from bert_jax.doctor.examination import Examination, examine
from bert_jax.doctor.text import as_text

__all__ = ["Examination", "as_text", "examine"]
