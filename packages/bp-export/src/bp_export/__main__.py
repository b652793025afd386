"""`python -m bp_export`."""

import sys

from bp_export.cli.main import main

sys.exit(main())
