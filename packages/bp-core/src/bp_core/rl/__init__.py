"""Learning from rewards of a model's own answers: GRPO, GSPO and RLOO by TRL's trainers, watched like every training."""
