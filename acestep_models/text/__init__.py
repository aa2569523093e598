"""What the condition encoder reads: caption states and lyric embeddings (spec/audio.md §4.1)."""
