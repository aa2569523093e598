"""One verb a file; the only place where planner, text, decoder and VAE meet."""
