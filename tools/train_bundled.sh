#!/bin/bash
# Trains the bundled enhancer from nothing: pairs from procedural streets and from collages of photos (CPU cores, minutes each), then two
# stages on one GPU. PHOTO and VIDEO: images, folders of images and videos whose licence allows training.
#
#   tools/train_bundled.sh pairs FOLDER [JOBS]               streets and their pairs below FOLDER; run again to go on
#   tools/train_bundled.sh collages FOLDER JOBS PHOTO...     collages and their pairs below FOLDER; run again to go on
#   tools/train_bundled.sh train FOLDER [VIDEO...]           autoencoder and enhancer in FOLDER
#
# ENCODING is how pairs are stored (png where PyAV is missing). SECONDS_AUTOENCODER and SECONDS_ENHANCER are training times;
# docs/enhancer.md says what the bundled weights were trained with.
set -euo pipefail
SPLATMEND="${SPLATMEND:-splatmend}"
SEEDS="${SEEDS:-$(seq 200 223)}"
COLLAGE_SEEDS="${COLLAGE_SEEDS:-$(seq 300 343)}"
ENCODING="${ENCODING:-h264}"
SECONDS_AUTOENCODER="${SECONDS_AUTOENCODER:-200}"
SECONDS_ENHANCER="${SECONDS_ENHANCER:-900}"

street_pairs() { # folder seed: strategies vary with the seed, so that one model sees many kinds of damage
    local folder=$1 seed=$2
    [ ! -e "$folder/pairs/$seed/manifest.json" ] || return 0
    [ -e "$folder/streets/$seed/street.json" ] ||
        $SPLATMEND street --seed "$seed" --out "$folder/streets/$seed" --duration-s 2.4 --width 320 --height 192 --overwrite
    $SPLATMEND pairs "$folder/streets/$seed" --out "$folder/pairs/$seed" --overwrite --validation-share 0 --encoding "$ENCODING" \
        --strategies sparse underfit shift --cameras FRONT FRONT_LEFT \
        --every $((4 + seed % 5)) --shares 0.$((2 + seed % 4)) --shifts $((seed % 2 * 4 - 2)).0 \
        --fit.iterations 700 --fit.sh-degree 1 --fit.sh-every 300 --fit.sky-rows 64 --fit.log-every 100 --fit.checkpoint-every 400 \
        --fit.init.point-count 20000 --fit.init.ray-count 5000 --fit.init.actor-count 2000 \
        --fit.densify.cap 30000 --fit.densify.actor-cap 4000
}

collage() { # folder seed photos...
    local folder=$1 seed=$2
    shift 2
    [ -e "$folder/collages/$seed/transforms.json" ] ||
        $SPLATMEND collage "$@" --seed "$seed" --out "$folder/collages/$seed" --overwrite
}

collage_pairs() { # folder seed
    local folder=$1 seed=$2
    [ ! -e "$folder/pairs/collage$seed/manifest.json" ] || return 0
    $SPLATMEND pairs "$folder/collages/$seed" --out "$folder/pairs/collage$seed" --overwrite --validation-share 0 --encoding "$ENCODING" \
        --strategies sparse underfit --every $((4 + seed % 7)) --shares 0.$((2 + seed % 4)) \
        --fit.iterations $((500 + seed % 3 * 150)) --fit.sh-degree 1 --fit.sh-every 250 --fit.sky-rows 64 --fit.log-every 100 \
        --fit.checkpoint-every 400 --fit.init.point-count $((4000 + seed % 4 * 2000)) --fit.init.ray-count 4000 \
        --fit.densify.cap $((10000 + seed % 5 * 4000))
}

case "${1:-}" in
pairs)
    export SPLATMEND ENCODING
    export -f street_pairs
    mkdir -p "$2/streets" "$2/pairs"
    # One thread a job: the jobs fill the cores.
    echo "$SEEDS" | OMP_NUM_THREADS=1 xargs -n 1 -P "${3:-2}" bash -c 'street_pairs "$0" "$1"' "$2"
    ;;
collages)
    export SPLATMEND ENCODING
    export -f collage collage_pairs
    folder=$2 jobs=$3
    shift 3
    mkdir -p "$folder/collages" "$folder/pairs"
    echo "$COLLAGE_SEEDS" | tr ' ' '\n' | OMP_NUM_THREADS=1 xargs -I{} -P "$jobs" bash -c 'collage "$0" "$@"' "$folder" {} "$@"
    echo "$COLLAGE_SEEDS" | OMP_NUM_THREADS=1 xargs -n 1 -P "$jobs" bash -c 'collage_pairs "$0" "$1"' "$folder"
    ;;
train)
    folder=$2
    shift 2
    for images in "$folder"/collages/*/images; do
        [ ! -d "$images" ] || set -- "$@" "$images"
    done
    $SPLATMEND train small-autoencoder --out "$folder/autoencoder" --overwrite --pairs "$folder"/pairs/*/ --videos "$@" \
        --max-seconds "$SECONDS_AUTOENCODER"
    $SPLATMEND train small-onestep --out "$folder/enhancer" --overwrite --base "$folder/autoencoder" \
        --pairs "$folder"/pairs/*/ --videos "$@" --max-seconds "$SECONDS_ENHANCER"
    ;;
*)
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
