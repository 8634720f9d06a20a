"""Sampling, scores on held-out splits and their intervals."""
