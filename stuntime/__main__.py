"""`python -m stuntime`."""

import sys

from stuntime.cli import main

sys.exit(main())
