"""Writes the first two ```bash blocks of a Markdown file to block1.sh and block2.sh: CI runs what is promised."""

import re
import sys
from pathlib import Path

readme, folder = Path(sys.argv[1]), Path(sys.argv[2])
blocks = re.findall(r"^```bash\n(.*?)^```$", readme.read_text(encoding="utf-8"), flags=re.M | re.S)
if len(blocks) < 2:
    sys.exit(f"{readme} has {len(blocks)} bash blocks; 2 are needed: install and train, install and test")
for number, block in enumerate(blocks[:2], 1):
    (folder / f"block{number}.sh").write_text(block, encoding="utf-8")
