"""Planned comparisons: configurations, runs in folders, paired statistics."""
