"""Readers of real formats. Each gives samples (or ready-made pairs) and sets aside, with a reason, what it cannot use."""
