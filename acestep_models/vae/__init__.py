"""The 48 kHz VAE: waveform to latents and back, whole or in exact tiles."""
