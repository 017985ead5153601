"""The embedded engine: one machine, process groups, slots. See `engine.py` and `shim.py`."""

from dure.engines.local.devices import Devices, LocalPool
from dure.engines.local.engine import LocalEngine

__all__ = ["Devices", "LocalEngine", "LocalPool"]
