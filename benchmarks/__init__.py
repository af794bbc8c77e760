"""What docs/performance.md reports: ``python -m benchmarks``."""
