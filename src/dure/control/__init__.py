"""The control plane's inside: what each cycle reads, decides, writes and tells.

Read `cycle.py` first: seven numbered steps, each of which is a module here or in `scheduling`.
"""
