"""Ray as an engine: its Jobs API, our one driver, and a shim on each node.

`engine.py` is the engine; `api.py` and `answers.py` talk with Ray, `attempts.py` keeps what must
not be forgotten, `driver.py` and `rank.py` run on the cluster (ADR 0021). Ray itself is imported
by the driver alone, with the cluster's own Python.
"""

from dure.engines.ray.engine import RayEngine
from dure.engines.ray.site import RayPool, RaySite

__all__ = ["RayEngine", "RayPool", "RaySite"]
