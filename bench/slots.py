"""The speed of slots in fewer bits, next to float32: ``python bench/slots.py --help``."""

import sys

from fusedopt.bench.extra import require

try:
    require()
except ImportError as error:
    sys.exit(str(error))

from fusedopt.bench.command import main
from slot_suite import SLOT_SUITE

if __name__ == "__main__":
    sys.exit(main(suite=SLOT_SUITE))
