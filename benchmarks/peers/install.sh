#!/usr/bin/env bash
# Makes the environment of one peer: install.sh recbole|rectools|torchdistill FOLDER TORCH. Does nothing where it is there
# already. TORCH is the exact version to take, that of the environment that measures: its local part (+cpu) keeps pip from
# bringing gigabytes of GPU libraries, where pip knows an index that has it.
set -euo pipefail
peer=$1 folder=$2 torch=$3
[ -e "$folder/complete" ] && exit 0
rm -rf "$folder"
python3 -m venv "$folder"
install() { "$folder/bin/pip" install --quiet "torch==$torch" "$@"; }
case $peer in
  # RecBole 1.2 predates numpy 2, pandas 3 and setuptools without pkg_resources.
  recbole) install "recbole==1.2.1" "numpy<2" "scipy<1.13" "pandas<2.3" "setuptools<81" ;;
  rectools) install "rectools[torch]==0.19.0" ;;
  torchdistill) install torchvision "torchdistill==1.1.5" "transformers>=5,<6" ;;
  *) echo "unknown peer $peer" >&2; exit 1 ;;
esac
touch "$folder/complete"
