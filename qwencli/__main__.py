"""`python -m qwencli`: the same as the `qwen` command."""

import sys

from qwencli.app import main

sys.exit(main())
