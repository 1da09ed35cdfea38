"""``python -m rlhf_core``: train and sample from a shell, on files alone."""

import sys

from rlhf_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
