"""bp-merge alone: two adapters of PEFT's format into one, without torch.

pip install bp-merge
"""

import sys

from bp_merge import Adapter, compare, merge

first, second, target = sys.argv[1:]
a, b = Adapter.load(first), Adapter.load(second)
print("cosine of the changes:", round(compare(a, b)["cosine"], 3))
merge([a, b], "ties", density=0.3).adapter.save(target)
