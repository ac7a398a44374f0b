#!/bin/bash
# Trains the small harmoniser from nothing: pairs of vehicles put into procedural streets (CPU cores), then two stages on one GPU.
#
#   tools/train_harmoniser.sh pairs FOLDER [JOBS]    pairs of the streets below FOLDER; run again to go on
#   tools/train_harmoniser.sh train FOLDER           the harmoniser in FOLDER/harmoniser, from the pairs that are there; run again to go on
#   tools/train_harmoniser.sh all FOLDER [JOBS]      both
#
# INSERT_SEEDS are streets into which vehicles are put as `splatmend insert` does it, mended by the enhancer ENHANCER (nothing: as they are);
# SEEDS (none) are streets whose own vehicles are put back wrongly. EXTRA are further options of `splatmend pairs`. PAIRS_DEVICE is where scenes
# are fitted. SECONDS_RECONSTRUCT and SECONDS_HARMONISE are the training times of the two stages, FRAMES, BATCH and CROP (rows columns)
# their clips. The defaults are the bundled weights' own, but for its first stage, which was two (docs/enhancer.md).
set -euo pipefail
export SPLATMEND="${SPLATMEND:-splatmend}" ENCODING="${ENCODING:-png}" PAIRS_DEVICE="${PAIRS_DEVICE:-cpu}" EXTRA="${EXTRA:-}"
SEEDS="${SEEDS-}" INSERT_SEEDS="${INSERT_SEEDS-$(seq -s ' ' 701 713) $(seq -s ' ' 720 737)}" ENHANCER="${ENHANCER-bundled}"
HERE="$(cd "$(dirname "$0")" && pwd)"
SECONDS_RECONSTRUCT="${SECONDS_RECONSTRUCT:-760}" SECONDS_HARMONISE="${SECONDS_HARMONISE:-580}"
FRAMES="${FRAMES:-13}" BATCH="${BATCH:-3}" CROP="${CROP:-192 320}"

street_pairs() { # folder seed strategy options...: a street whose cameras see no vehicle well enough makes no pairs
    local out=$1/pairs/$3-$2 seed=$2 strategy=$3
    shift 3
    [ ! -e "$out/manifest.json" ] || return 0
    # Every other street has a high sun, whose shadows fall onto the road; the rest have the light that their seeds draw.
    local sun=()
    [ $((seed % 2)) -eq 0 ] || sun=(--street.sun-elevation-deg $((32 + seed % 5 * 8)))
    # shellcheck disable=SC2086
    $SPLATMEND pairs "street:$seed" --out "$out" --resume --validation-share 0 --encoding "$ENCODING" \
        --device "$PAIRS_DEVICE" --strategies "$strategy" --cameras FRONT --street.width 320 --street.height 192 \
        --street.cameras FRONT --street.moving-cars 5 --street.parked-cars 9 --fit.sh-degree 1 --fit.sh-every 300 --fit.sky-rows 64 \
        --fit.log-every 100 --fit.checkpoint-every 700 --fit.init.point-count 20000 --fit.init.ray-count 5000 --fit.init.actor-count 2000 \
        --fit.densify.cap 30000 --fit.densify.actor-cap 4000 "$@" "${sun[@]}" $EXTRA >"$out.log" 2>&1 || {
        grep -q "sees no vehicle\|sees none well\|shows no vehicle" "$out.log" || tail -3 "$out.log" >&2
    }
}

one() { # folder strategy:seed
    local seed=${2#*:} ground=(--street.lidar-beams 2 --street.lidar-columns 16)
    case $2 in
    insert:*) street_pairs "$1" "$seed" insert --insertions 3 --street.duration-s 1.6 --fit.iterations 700 ;;
    reinsert:*)
        # Every third one also has pairs on the ground of a fit, a minute each.
        [ $((seed % 3)) -ne 0 ] || ground=(--grounds truth fit --fit.iterations 600)
        street_pairs "$1" "$seed" reinsert --street.duration-s 1.2 --references 0 "${ground[@]}"
        ;;
    esac
}
export -f street_pairs one

make_pairs() { # folder jobs: one thread a job, since the jobs fill the cores
    mkdir -p "$1/pairs"
    {
        for seed in $INSERT_SEEDS; do echo "insert:$seed"; done
        for seed in $SEEDS; do echo "reinsert:$seed"; done
    } | OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1 xargs -I{} -P "$2" bash -c 'one "$0" "$1"' "$1" {}
}

stage() { # recipe folder out seconds options...: finished ones are kept, interrupted ones go on
    local recipe=$1 folder=$2 out=$3 seconds=$4 pairs=() made
    shift 4
    [ ! -e "$folder/$out/enhancer.json" ] || return 0
    for manifest in "$folder"/pairs/*/manifest.json; do
        made=$(dirname "$manifest")
        [ ! -e "$made/enhanced.jsonl" ] || made=$made/enhanced.jsonl
        pairs+=("$made")
    done
    local how=(--overwrite)
    [ ! -d "$folder/$out.partial" ] || how=(--resume)
    # shellcheck disable=SC2086
    $SPLATMEND train "$recipe" --out "$folder/$out" "${how[@]}" --pairs "${pairs[@]}" --clip-frames "$FRAMES" --batch "$BATCH" \
        --crop-px $CROP --mild-share 0 --clean-share 0.03 --look-share 0.5 --max-seconds "$seconds" "$@"
}

train() { # folder
    local whole=("$1"/pairs/insert-*/manifest.json)
    if [ -n "$ENHANCER" ] && [ -e "${whole[0]}" ]; then
        "${PYTHON:-python3}" "$HERE/enhance_pairs.py" --model "$ENHANCER" "${whole[@]%/manifest.json}"
    fi
    stage harmonise-reconstruct "$1" reconstruct "$SECONDS_RECONSTRUCT"
    stage harmonise "$1" harmoniser "$SECONDS_HARMONISE" --base "$1/reconstruct"
    echo "the harmoniser: $1/harmoniser"
}

case "${1:-}" in
pairs) make_pairs "$2" "${3:-2}" ;;
train) train "$2" ;;
all)
    make_pairs "$2" "${3:-2}"
    train "$2"
    ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
