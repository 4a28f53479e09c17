"""Simulation engines: thin adapters from a student to each of them."""
