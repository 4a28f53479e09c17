#!/usr/bin/env bash
# Makes an argyrodite-* student by the stages of those in the package, without labels at the start:
#   bash training/recipes/argyrodite.sh SIZE        (ultra-tiny, tiny or original)
# Everything lies in runs/ below the present folder. The labels are those of `tiny`, which is made first whatever the
# size. Killed at any moment, the same command goes on. PYTHON says which interpreter has the package; without it, that
# of `make`'s .venv where there is one, else python. For `original` the argyrodite-tiny of the package moves atoms
# (argyrodite_more.yaml), not the `tiny` that is made here.
. "$(dirname "$0")/common.sh"
shopt -s nullglob
structures=(--set "structures=$recipes/li6ps5cl.xyz")

stage() { # FOLDER LABELLED OPTIONS: one training on the labels of `tiny`, of its rounds, and LABELLED
  local labelled=(runs/argyrodite-tiny/rounds/*/labelled.xyz $2)
  "$python" -m compactff_md distill --recipe "$recipes/argyrodite.yaml" --size "$size" "${structures[@]}" \
    --set labels_from=runs/argyrodite-tiny --set "labelled=[$(IFS=, && echo "${labelled[*]}")]" --set rounds.most=0 \
    --out "runs/$1" "${@:3}"
}

"$python" -m compactff_md distill --recipe "$recipes/argyrodite.yaml" --size tiny "${structures[@]}" --out runs/argyrodite-tiny
case $size in
  ultra-tiny) stage argyrodite-ultra-tiny "" ;;
  original)
    labels argyrodite_more argyrodite-more "${structures[@]}"
    stage argyrodite-original-first "" --set steps=9000
    stage argyrodite-original runs/argyrodite-more/train.xyz --start-from runs/argyrodite-original-first/student.safetensors \
      --set steps=3500 --set learning_rate=0.001 --set checks.duplicates=drop
    ;;
esac
