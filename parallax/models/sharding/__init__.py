"""Weights shared out over processes: FSDP2, FSDP1, ZeRO."""
