# ruff: noqa: INP001, T201  (a job's folder is no package, and its log is its standard output)
"""Mean yield by machine, with the machines' names replaced by keyed hashes.

The key comes as a secret, PSEUDONYM_KEY: whoever holds it can name the machines again, nobody else.
"""

import csv
import hmac
import json
import os
from collections import defaultdict
from pathlib import Path
from statistics import fmean


def main() -> None:
    """Read readings.csv, write outputs/yields.json."""
    key = os.environ["PSEUDONYM_KEY"].encode()
    yields: dict[str, list[float]] = defaultdict(list)
    with Path("readings.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yields[row["machine"]].append(float(row["yield"]))
    means = {
        hmac.digest(key, machine.encode(), "sha256").hex()[:16]: round(fmean(values), 4)
        for machine, values in yields.items()
    }
    Path(os.environ["DURE_OUTPUTS_DIR"], "yields.json").write_text(json.dumps(means, indent=1))
    print(f"{sum(map(len, yields.values()))} readings of {len(means)} machines")


if __name__ == "__main__":
    main()
