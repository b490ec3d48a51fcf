"""Optical flow nets: where the content of the current frame lies in another frame."""
