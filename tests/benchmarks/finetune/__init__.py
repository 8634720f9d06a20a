"""Synthetic worlds, policies and bills for the cost-benefit evaluator."""
