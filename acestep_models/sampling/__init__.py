"""From noise to latents: times, solvers and the loop, none of which knows what a song is."""
