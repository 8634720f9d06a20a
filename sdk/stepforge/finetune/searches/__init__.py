"""Optimisers of prompts. Each is loaded where it is used, and names its extra where it is missing."""
