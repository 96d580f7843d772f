#!/usr/bin/env bash
# Makes the environment of one peer: install.sh recbole|rectools FOLDER. Does nothing where it is there already.
# The CPU build of torch is taken where its index can be reached: the default one brings gigabytes of GPU libraries.
set -euo pipefail
peer=$1 folder=$2
[ -e "$folder/complete" ] && exit 0
rm -rf "$folder"
python3 -m venv "$folder"
export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:-} https://download.pytorch.org/whl/cpu"
case $peer in
  # RecBole 1.2 predates numpy 2, pandas 3 and torch's safe loading.
  recbole) "$folder/bin/pip" install --quiet "recbole==1.2.1" "numpy<2" "pandas<2.3" "scipy<1.13" "torch==2.5.1+cpu" "ray<2.10" ;;
  rectools) "$folder/bin/pip" install --quiet "rectools[torch]==0.19.0" ;;
  *) echo "unknown peer $peer" >&2; exit 1 ;;
esac
touch "$folder/complete"
