"""Run the command line with ``python -m g3dvit``."""

import sys

from g3dvit.cli import main

sys.exit(main())
