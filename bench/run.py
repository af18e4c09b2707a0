"""The thorough suite in the command of ``python -m fusedopt.bench``: ``python bench/run.py --help``."""

import sys

from fusedopt.bench.extra import require

try:
    require()
except ImportError as error:
    sys.exit(str(error))

from fusedopt.bench.command import main
from thorough import THOROUGH

if __name__ == "__main__":
    sys.exit(main(suite=THOROUGH))
