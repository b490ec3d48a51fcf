"""Comparing detections with annotations: the protocols, and what can be read from their figures."""
