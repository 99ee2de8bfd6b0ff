"""How fast the course's own machinery is. ``python -m tests.benchmarks`` from the checkout runs them all."""
