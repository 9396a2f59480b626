# SPDX-License-Identifier: Apache-2.0
"""One page about prepared data: reads its passport.json, writes `passport.html` beside it.

The page stands alone, in the style of a run's report and with its drawing.

  charts    plain lists -> SVG
  tables    passport -> facts, tables and bars
  page      the template filled and written
"""

from bert_jax.passport.page import write_page

__all__ = ["write_page"]
