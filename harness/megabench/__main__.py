# SPDX-License-Identifier: MIT
"""`python -m megabench` is the console script, for use from a checkout without installation."""

from megabench.cli import main

if __name__ == "__main__":
    main()
