"""What `bp_merge` offers, for type checkers; `__init__.py` loads it on first use."""

from bp_merge.adapter import Adapter as Adapter
from bp_merge.baked import Baked as Baked
from bp_merge.checkpoint import Checkpoint as Checkpoint
from bp_merge.common import BpError as BpError
from bp_merge.comparison import compare as compare
from bp_merge.engine import MergeResult as MergeResult
from bp_merge.engine import merge as merge
from bp_merge.engine import plan_merge as plan_merge
from bp_merge.inspection import inspect as inspect
from bp_merge.lora_module import LoraModule as LoraModule
from bp_merge.lowrank import LowRank as LowRank
from bp_merge.method import Method as Method
from bp_merge.method import get_method as get_method
from bp_merge.method import method_names as method_names
from bp_merge.methods.soup import greedy_soup as greedy_soup
from bp_merge.models import merge_models as merge_models
from bp_merge.moments import Moments as Moments
from bp_merge.moments import Sketch as Sketch
from bp_merge.moments import save_moments as save_moments
from bp_merge.slao import SlaoState as SlaoState
