"""The pack's own kinds of wire; everything else travels as ComfyUI's own types."""

from __future__ import annotations

from .host.schema import io

Conditioner = io.Custom("ACESTEP_CONDITIONER")
Vae = io.Custom("ACESTEP_VAE")
Blueprint = io.Custom("ACESTEP_BLUEPRINT")
Sampling = io.Custom("ACESTEP_SAMPLING")
Lm = io.Custom("ACESTEP_LM")
Source = io.Custom("ACESTEP_SOURCE")
Reference = io.Custom("ACESTEP_REFERENCE")
Splice = io.Custom("ACESTEP_SPLICE")
Dataset = io.Custom("ACESTEP_DATASET")
Training = io.Custom("ACESTEP_TRAINING")
# One of a list's words: fits into lists (COMBO) and into texts, which the host keeps apart.
Word = io.Custom("COMBO,STRING")
# A whole number for both kinds of number widgets.
Whole = io.Custom("INT,FLOAT")
