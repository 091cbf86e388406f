"""Searches that decode step by step: group beams over sentences, prompts read once."""
