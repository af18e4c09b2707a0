"""Steps on a few rows of large tables: ``python bench/rows.py --help``."""

import sys

from fusedopt.bench.extra import require

try:
    require()
except ImportError as error:
    sys.exit(str(error))

from fusedopt.bench.command import main
from row_suite import ROW_SUITE

if __name__ == "__main__":
    sys.exit(main(suite=ROW_SUITE))
