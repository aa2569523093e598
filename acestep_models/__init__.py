"""ACE-Step 1.5 in pure torch: plans, encodes, samples, decodes and edits songs without knowing ComfyUI."""
