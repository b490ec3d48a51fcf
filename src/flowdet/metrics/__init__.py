"""Accuracy: average precision by three protocols, intervals, curves, mistakes."""
