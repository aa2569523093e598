"""LoRAs and their kin: what each family holds, how they meet a decoder, and how they are written."""
