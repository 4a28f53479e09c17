#!/usr/bin/env bash
# Makes an organic-* student by the stages of those in the package, without labels at the start:
#   bash training/recipes/organic.sh SIZE        (ultra-tiny, tiny or original)
# Everything lies in runs/ below the present folder, and the other sizes find the labels there. Killed at any
# moment, the same command goes on. PYTHON says which interpreter has the package; without it, that of `make`'s .venv
# where there is one, else python.
# Not the same one again: the first stage of those in the package had 1,911 looser droplets in the place of the pieces
# of liquids, their last two lists lacked the molecules of earlier ones (further_still.yaml), and the organic-ultra-tiny
# of the package, which moves the atoms here, is newer than the student that moved them then.
. "$(dirname "$0")/common.sh"

molecules() { # FOLDER OPTIONS: lists of SMILES; the second of them is written last
  [ -s "runs/$1/test.smi" ] || "$python" -m compactff_md.training.molecules --out "runs/$1" "${@:2}"
}

stage() { # FOLDER LABELLED STEPS LEARNING_RATE OPTIONS: one training, in processes as `launch` says
  local labelled
  labelled=$(printf 'runs/%s/train.xyz,' $2)
  "${launch[@]}" -m compactff_md distill --recipe "$recipes/organic.yaml" --size "$size" --set labels_from=runs/organic-labels \
    --set "labelled=[${labelled%,}]" --set "steps=$3" --set "learning_rate=$4" --set threads=1 --out "runs/$1" "${@:5}"
}

onward() { # FROM FOLDER LABELLED STEPS LEARNING_RATE: goes on with close contacts that count as other frames do
  stage "${@:2:4}" --start-from "runs/$1/student.safetensors" --set huber_delta=0.5 --set large_force_eV_per_A=100
}

# Labels: 92 minutes on 2 cores of one machine, 283 on those of another, other work beside both times.
molecules molecules
molecules molecules-more --count 9000 --test 1 --seed 1 --apart-from runs/molecules/test.smi
molecules molecules-further --count 9000 --test 1 --seed 2 --apart-from runs/molecules/test.smi
molecules molecules-further2 --count 12000 --test 1 --seed 3 --apart-from runs/molecules/test.smi
molecules molecules-nitrogen --count 14000 --test 1 --seed 4 --apart-from runs/molecules/test.smi --fragments "$recipes/nitrogen.yaml"
labels pairs organic-pairs
labels liquid organic-liquid
labels organic organic-labels
labels further organic-further

first="organic-pairs organic-liquid"
launch=("$python")
case $size in
  ultra-tiny) # 28 and 14 minutes of one core
    stage organic-ultra-tiny-first "$first" 69600 0.01
    onward organic-ultra-tiny-first organic-ultra-tiny "$first organic-further" 25900 0.005
    ;;
  tiny) # 60 and 24 minutes of one core
    stage organic-tiny-first "$first" 99000 0.006
    onward organic-tiny-first organic-tiny "$first organic-further" 41300 0.003
    ;;
  original) # 85 and 82 minutes of one core, then 132 of two, twice; their 16 frames a step are a process's each
    stage organic-original-first "$first" 48300 0.002
    onward organic-original-first organic-original-second "$first organic-further" 49600 0.0015
    # apart from the molecules of fresh.yaml, too, which were drawn before these
    known=(runs/molecules{,-more,-further,-further2,-nitrogen}/train.smi runs/molecules/test.smi)
    cat "${known[@]}" > runs/known.smi
    molecules molecules-fresh --count 2400 --test 120 --seed 9 --apart-from runs/known.smi
    cat runs/molecules/test.smi runs/molecules-fresh/test.smi > runs/apart.smi
    molecules molecules-further3 --count 10000 --test 1 --seed 5 --apart-from runs/apart.smi
    molecules molecules-nitrogen2 --count 6000 --test 1 --seed 6 --apart-from runs/apart.smi --fragments "$recipes/nitrogen.yaml"
    labels further_still organic-further-still
    launch=("$python" -m torch.distributed.run --nproc-per-node 2)
    onward organic-original-second organic-original-third "$first organic-further" 70000 0.002
    onward organic-original-third organic-original "$first organic-further organic-further-still" 68000 0.002
    ;;
esac
