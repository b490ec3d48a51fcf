"""Video in and out: readers, writers, drawing, result files."""
