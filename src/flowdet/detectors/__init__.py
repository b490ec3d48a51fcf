"""Detectors: images to maps, and maps to detections or losses."""
