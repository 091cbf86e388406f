"""Answers: batched decoding with the live model, or a server."""
