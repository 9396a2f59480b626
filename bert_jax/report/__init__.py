# SPDX-License-Identifier: Apache-2.0
"""One page about a run: reads a run directory, draws its curves, writes `report.html`.

The page stands alone: no script, and nothing is loaded from elsewhere.

  run_files          a run's files -> `Run`
  wording            numbers -> words
  drawing, charts    plain lists -> SVG
  summary, notices, panels, samples, tables, data_tables
                     `Run` -> what the template prints
  template           how a page is filled and saved, of other parts too
  page               the report: what its template prints
"""

from bert_jax.report.page import write_report

__all__ = ["write_report"]
