"""What is trained on: sound files and what is said about them (spec/lora.md §1.1, §1.3)."""
