"""How well a take fits what it was made for: the planner listens to the codes and judges (spec/planner.md §8)."""
