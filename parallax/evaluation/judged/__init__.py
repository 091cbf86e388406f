"""Benchmarks whose answers a language model grades, at any OpenAI-compatible address."""
