"""Object detection in video: Deep Feature Flow and Flow-Guided Feature Aggregation."""
