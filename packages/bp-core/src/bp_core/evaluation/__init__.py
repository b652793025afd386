"""Evaluation: metrics, profiles, intervals and gates, eval packs, failure clusters. Nothing here loads torch.

- `metrics/` scores answers against references; `profiles` says which metrics a task has; `result` holds what an
  evaluation found; `compare` tells a difference from noise; `packs` are gates in a file; `clusters` says what to mend.
- Producing the answers (loading a model, generating) is the business of whoever calls this.
"""
