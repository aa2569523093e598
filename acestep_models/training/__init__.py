"""Training of adapters: datasets, conditions, the objective and the loop (spec/lora.md §1, §2)."""
