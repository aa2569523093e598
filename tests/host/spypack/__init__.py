"""A pack beside ours that writes down what a planner reads: every id that reaches its embedding, call by call."""

import json
import os

import folder_paths

FILE = "ids_read_by_the_planner.jsonl"


class SpyOnLM:
    """Passes a planner on with an ear at its embedding."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "listen", ("ACESTEP_LM",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"lm": ("ACESTEP_LM",)}}

    def listen(self, lm):
        path = os.path.join(folder_paths.get_output_directory(), FILE)

        def write(module, given):
            with open(path, "a") as file:
                file.write(json.dumps(given[0].tolist()) + "\n")

        lm.model.module.embed_tokens.register_forward_pre_hook(write)
        return (lm,)


NODE_CLASS_MAPPINGS = {"SpyOnLM": SpyOnLM}
