"""The audio networks of ACE-Step 1.5: decoder, condition encoder, code tokenizer and detokenizer."""
