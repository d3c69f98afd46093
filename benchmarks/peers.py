"""The networks that ours is compared with: the settings that each is offered, and their sizes, as Markdown.

    python benchmarks/peers.py

Nothing is trained; it takes about ten seconds.
"""

from __future__ import annotations

import argparse

from common.peers import settings_table, sizes_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print(settings_table(), sizes_table(), sep="\n\n")


if __name__ == "__main__":
    main()
