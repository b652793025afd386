"""From rows to token ids and loss masks: templates, the one encoder, flat arrays, the plan of steps."""
