#!/usr/bin/env bash
# timm's own tests of a model, run on ours: which of them pass.
#
#     bash benchmarks/timm_contract.sh CHECKOUT
#
# CHECKOUT is the source of the timm that is installed, with its folder tests/: a clone of its repository at that
# release, or its unpacked source distribution (`pip download --no-deps --no-binary :all: timm`). Its wheel has no tests.
# Tests that go by a list of timm's modules are given ours too. What they check also stands in
# tests/weights/test_timm_contract.py, which needs none of this.
set -euo pipefail

if [[ $# -ne 1 || ! -f ${1:-}/tests/test_models.py ]]; then
    echo "'${1:-}' has no tests/test_models.py; give a folder with the source of timm: $0 CHECKOUT" >&2
    exit 2
fi
installed=$(python -c "import timm; print(timm.__version__)")
given=$(sed -n "s/^__version__ = '\(.*\)'.*/\1/p" "$1/timm/version.py")
if [[ $given != "$installed" ]]; then
    echo "the tests are of timm $given, and timm $installed is installed: give the source of that release" >&2
    exit 2
fi

# Of the folder tests/ alone, so that the timm that is imported is the installed one.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$1/tests" "$copy"
sed "s/^FEAT_INTER_FILTERS = \[/&'timm_registry', /" "$1/tests/test_models.py" > "$copy/tests/test_models.py"
grep -q "^FEAT_INTER_FILTERS = \['timm_registry'" "$copy/tests/test_models.py"

printf 'timm %s, torch %s\n' "$installed" "$(python -c "import torch; print(torch.__version__)")"
python -m pytest -p astroformer.timm -p no:cacheprovider -c /dev/null --rootdir "$copy" -q -rf --tb=line -W ignore \
    "$copy/tests/test_models.py" -k "astroformer and (atto or pico or nano or _0)"
