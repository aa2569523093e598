"""The one door to ComfyUI: its node API, folders, memory manager and samplers. Nothing else here imports the host."""
