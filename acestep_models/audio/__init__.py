"""Waveforms after the decoder: loudness, peaks and fades."""
