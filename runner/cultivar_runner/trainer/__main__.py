"""`python -m cultivar_runner.trainer JOBFILE`."""

import sys

from .main import main

sys.exit(main(sys.argv[1:]))
