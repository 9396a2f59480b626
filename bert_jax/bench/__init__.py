# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a machine, beside its peers.

suite.py         the sizes of what is measured, by platform
subjects/        what is measured, a file each; made_up.py makes text and batches where the user gives none
sides/           the work of sides that run in processes of their own (side_process.py): ours and the peers'
measure.py       how: sides in turn, every sample kept, ratios within a round
runner.py        all subjects one after the other -> bench.json
report.py        bench.json -> bench.md, by the tables of tables.py
"""
