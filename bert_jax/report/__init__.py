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

Of fine-tuned runs, with the same drawing, wording and template:

  finetuned_files    files -> `FinetunedRun`, `SeveralRuns`
  metric_words       names and units of scores
  finetuned_panels, finetuned_summary, hardest, glue_table
  class_tables, answer_tables, tag_tables, rating_tables
                     what the page says of each kind of task
  finetuned          the report of a run
  several_charts, several_runs
                     of several seeds or of a sweep
  several_tasks      of several tasks
  any_run            whichever of these a directory holds
"""

from bert_jax.report.page import write_report

__all__ = ["write_report"]
