"""The site agent: run by an operator next to its cluster, it dials out and reconciles."""
