"""bp-data alone: what is wrong with rows, which are alike, and two sides that share nothing.

pip install bp-data
"""

from pathlib import Path

import bp_data

rows = Path(__file__).parent / "sums.jsonl"

print(bp_data.detect(rows).format)
for row in bp_data.read(rows):
    if isinstance(row, bp_data.Rejected):
        print(row.line, row.reason, row.hint)

print("rows that are alike:", bp_data.report(rows).near_duplicate_rows)
sides = bp_data.split(rows, ratio=0.2)
print(len(sides.train), "to train on,", len(sides.heldout), "held out")
