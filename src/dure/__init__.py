"""Dure: one front door and one account book for a nation's GPUs."""

__version__ = "0.1.0"
