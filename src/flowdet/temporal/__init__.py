"""The temporal methods: single frame, Deep Feature Flow, Flow-Guided Feature Aggregation."""
