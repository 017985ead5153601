"""Recorded workloads, each read from the layout that it was published in."""
