"""Objects along a video."""
