"""Readers of the benchmarks' official files: each turns what a benchmark publishes into samples for a suite."""
