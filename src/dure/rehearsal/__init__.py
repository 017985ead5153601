"""Rehearsals: the production scheduler on a simulated clock.

What happens comes from a recorded workload (`traces`), a generator (`generate`) or the running
nation (`live`); `nation` plays it against `dure.scheduling`, the very code that runs the country;
`measure`, `tables` and `report` say what came of it.
"""
