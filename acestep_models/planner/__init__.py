"""The language model at work: from a sentence to a blueprint, from a blueprint to audio codes (spec/planner.md)."""
