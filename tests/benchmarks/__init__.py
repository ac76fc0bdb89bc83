"""The parts of tests/bench."""
