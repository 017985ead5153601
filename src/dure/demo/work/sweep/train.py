# ruff: noqa: INP001, T201  (a job's folder is no package, and its log is its standard output)
"""One point of a hyper-parameter sweep: a support vector machine on scikit-learn's digits.

Dure runs it once for each index of the array; DURE_TASK_INDEX says which point of GRID this is.
Writes `result.json` to the job's outputs folder. Exit code 3: the data cannot be read.
"""

import argparse
import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # it ships no types
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]  # as above
from sklearn.svm import SVC  # type: ignore[import-untyped]  # as above

GRID = [(c, gamma) for c in (0.1, 10.0) for gamma in (1e-5, 1e-4, 1e-3, 1e-2)]
BAD_DATA = 3


def main() -> int:
    """Train, test, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--more", type=Path, help="further images and labels, as .npz")
    more = parser.parse_args().more
    try:
        images, labels = load_digits(return_X_y=True)
        if more is not None:
            further = np.load(more)
            images = np.concatenate([images, further["images"]])
            labels = np.concatenate([labels, further["labels"]])
    except OSError:
        traceback.print_exc()
        return BAD_DATA
    c, gamma = GRID[int(os.environ["DURE_TASK_INDEX"])]
    print(f"C = {c:g}, gamma = {gamma:g}; {len(images)} images")
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.25, random_state=0, stratify=labels
    )
    accuracy = float(SVC(C=c, gamma=gamma).fit(train_x, train_y).score(test_x, test_y))
    print(f"accuracy {accuracy:.4f} on {len(test_x)} images that it has not seen")
    result = {"c": c, "gamma": gamma, "accuracy": accuracy}
    Path(os.environ["DURE_OUTPUTS_DIR"], "result.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
