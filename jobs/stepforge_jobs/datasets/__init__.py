"""Datasets: generated or read from the user's records, and the gate that every training job asks."""
