"""A pack beside ours that writes down what a planner reads, and keeps sounds and sources as they are."""

import json
import os

import folder_paths
from safetensors.torch import save_file

FILE = "ids_read_by_the_planner.jsonl"


class SpyOnLM:
    """Passes a planner on with an ear at its embedding: every id that reaches it, call by call."""

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


class KeepSounds:
    """Writes the waveforms of sounds, one or a list, into one file: "0", "1" and so on."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE, INPUT_IS_LIST = "tests", "keep", (), True, True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"audio": ("AUDIO",), "name": ("STRING",)}}

    def keep(self, audio, name):
        path = os.path.join(folder_paths.get_output_directory(), f"{name[0]}.safetensors")
        save_file({str(place): sound["waveform"].contiguous() for place, sound in enumerate(audio)}, path)
        return {"ui": {"text": [path]}}


class KeepSource:
    """Writes the latents of a source into a file."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "keep", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"source": ("ACESTEP_SOURCE",), "name": ("STRING",)}}

    def keep(self, source, name):
        path = os.path.join(folder_paths.get_output_directory(), f"{name}.safetensors")
        save_file({"latents": source.latents.contiguous()}, path)
        return {"ui": {"text": [path]}}


NODE_CLASS_MAPPINGS = {"SpyOnLM": SpyOnLM, "KeepSounds": KeepSounds, "KeepSource": KeepSource}
