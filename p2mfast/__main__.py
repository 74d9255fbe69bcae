"""``python -m p2mfast``."""

import sys

from p2mfast.cli import main

sys.exit(main())
