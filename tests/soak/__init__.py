"""Long runs against the same targets as the tests: ``make soak``."""
