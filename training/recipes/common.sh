# What organic.sh and argyrodite.sh share: `size`, `python`, `recipes` and `labels`.
set -euo pipefail
size=${1:?expected a size: ultra-tiny, tiny or original}
case $size in ultra-tiny | tiny | original) ;; *)
  echo "no such size: $size; expected ultra-tiny, tiny or original" >&2
  exit 1
  ;;
esac
recipes=$(dirname "${BASH_SOURCE[0]}")
made=$recipes/../../.venv/bin/python
[ -x "$made" ] || made=python
python=${PYTHON:-$made}

labels() { # RECIPE FOLDER OPTIONS
  "$python" -m compactff_md distill --recipe "$recipes/$1.yaml" --labels-only --out "runs/$2" "${@:3}"
}
