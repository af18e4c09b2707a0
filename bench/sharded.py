"""An optimizer over ranks, next to what it must send and compute: ``python bench/sharded.py --help``."""

import sys

from fusedopt.bench.extra import require

try:
    require()
except ImportError as error:
    sys.exit(str(error))

from fusedopt.bench.command import main
from sharded_suite import SHARDED_SUITE

if __name__ == "__main__":
    sys.exit(main(suite=SHARDED_SUITE))
