"""Measures what a system costs on this machine."""
