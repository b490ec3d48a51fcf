"""Whole systems: configurations, recipes, building, loading, and the stream from frames to detections."""
