"""Jobs: one source to its results, and many of them over processes."""
