"""`python -m monosem`."""

import sys

from monosem.cli.main import main

sys.exit(main())
