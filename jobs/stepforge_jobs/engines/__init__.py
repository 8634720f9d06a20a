"""Engines that sample for training in place of our own network."""
