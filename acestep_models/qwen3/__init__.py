"""Qwen3, used twice: as the text encoder of the decoder and as the planner (spec/planner.md §1)."""
