"""`python -m astroformer.cli`: the same as the command `astroformer`."""

import sys

from astroformer.cli.main import main

sys.exit(main())
