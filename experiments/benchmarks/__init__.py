"""Benchmarks: what a slider costs here, measured side by side with the released algorithm."""
