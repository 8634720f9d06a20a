"""Training stages: sft, srl and rlvr are a file each, and share one loop."""
