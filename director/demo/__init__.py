"""A federation on real data, small enough for a laptop: what `director demo` runs, and a pattern for one's own."""
