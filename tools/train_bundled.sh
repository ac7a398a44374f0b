#!/bin/bash
# Trains the bundled enhancer from nothing: pairs from procedural streets and from collages of photos (CPU cores, minutes each), then two
# stages on one GPU. PHOTO and VIDEO: images, folders of images and videos whose licence allows training.
#
#   tools/train_bundled.sh pairs FOLDER [JOBS]               pairs of streets below FOLDER; run again to go on
#   tools/train_bundled.sh collages FOLDER JOBS PHOTO...     collages and their pairs below FOLDER; run again to go on
#   tools/train_bundled.sh both FOLDER JOBS PHOTO...         the two at once, on the same cores; run again to go on
#   tools/train_bundled.sh train FOLDER [VIDEO...]           autoencoder and enhancer in FOLDER, from what is there
#   tools/train_bundled.sh all FOLDER JOBS VIDEO...          all of it; pairs are made while the autoencoder trains
#   tools/train_bundled.sh fusion FOLDER BASE [OPTION...]    the fusion of references of BASE alone, from the pairs that are there; run
#                                                            again to go on
#
# SEEDS (of streets; none: no new ones) and COLLAGE_SEEDS say which. ENCODING is how pairs are stored (png where PyAV is missing),
# PAIRS_DEVICE where scenes are fitted. HELD_OUT lists names below FOLDER/pairs that training leaves out. SECONDS_AUTOENCODER is the training
# time of the autoencoder. RUNS are those of the enhancer, each from the result of the one before: frames, clips a step, learning rate, seed,
# seconds, the share of mixtures that vary over the picture and D (none: the exact gradient), joined by colons. The defaults are
# the bundled weights' own, but that their fusion had runs apart, and their last run other pairs and shares (docs/enhancer.md).
set -euo pipefail
export SPLATMEND="${SPLATMEND:-splatmend}" ENCODING="${ENCODING:-h264}" PAIRS_DEVICE="${PAIRS_DEVICE:-cpu}"
SEEDS="${SEEDS-$(seq -s ' ' 200 223)}"
COLLAGE_SEEDS="${COLLAGE_SEEDS-$(seq -s ' ' 340 381)}"
SECONDS_AUTOENCODER="${SECONDS_AUTOENCODER:-100}"
RUNS="${RUNS:-17:8:5e-4:0:271:0 17:8:4e-4:1:515:0 33:4:5e-4:2:535:0 33:4:6e-4:3:532:0 65:2:6e-4:4:321:0.6 65:2:6e-4:5:365:0.6 65:2:4e-4:21:800:0.6:1}"
HELD_OUT="${HELD_OUT:-208 213 collage380 collage381}"

street_pairs() { # folder seed: strategies vary with the seed, so that one model sees many kinds of damage
    local folder=$1 seed=$2
    [ ! -e "$folder/pairs/$seed/manifest.json" ] || return 0
    $SPLATMEND pairs "street:$seed" --out "$folder/pairs/$seed" --resume --validation-share 0 \
        --street.duration-s 2.4 --street.width 320 --street.height 192 --street.cameras FRONT FRONT_LEFT \
        --encoding "$ENCODING" --device "$PAIRS_DEVICE" --strategies sparse underfit shift \
        --every $((4 + seed % 5)) --shares 0.$((2 + seed % 4)) --shifts $((1 + seed % 3)).0 -$((1 + (seed + 1) % 3)).0 \
        --fit.iterations 700 --fit.sh-degree 1 --fit.sh-every 300 --fit.sky-rows 64 --fit.log-every 100 --fit.checkpoint-every 400 \
        --fit.init.point-count 20000 --fit.init.ray-count 5000 --fit.init.actor-count 2000 \
        --fit.densify.cap 30000 --fit.densify.actor-cap 4000
}

collage() { # folder seed photos...
    local folder=$1 seed=$2
    shift 2
    [ -e "$folder/collages/$seed/transforms.json" ] || [ -e "$folder/pairs/collage$seed/manifest.json" ] ||
        $SPLATMEND collage "$@" --seed "$seed" --out "$folder/collages/$seed" --overwrite
}

collage_pairs() { # folder seed
    local folder=$1 seed=$2
    [ ! -e "$folder/pairs/collage$seed/manifest.json" ] || return 0
    $SPLATMEND pairs "$folder/collages/$seed" --out "$folder/pairs/collage$seed" --resume --validation-share 0 \
        --encoding "$ENCODING" --device "$PAIRS_DEVICE" \
        --strategies sparse underfit --every $((4 + seed % 7)) --shares 0.$((2 + seed % 4)) \
        --fit.iterations $((500 + seed % 3 * 150)) --fit.sh-degree 1 --fit.sh-every 250 --fit.sky-rows 64 --fit.log-every 100 \
        --fit.checkpoint-every 400 --fit.init.point-count $((4000 + seed % 4 * 2000)) --fit.init.ray-count 4000 \
        --fit.densify.cap $((10000 + seed % 5 * 4000)) --fit.camera-poses.no-on
}

whichever() { # folder streetSEED or collageSEED, photos...
    case $2 in
    street*) street_pairs "$1" "${2#street}" ;;
    collage*) collage "$1" "${2#collage}" "${@:3}" && collage_pairs "$1" "${2#collage}" ;;
    esac
}
export -f street_pairs collage collage_pairs whichever

each() { # jobs seeds function folder arguments...: the function for every seed, one thread a job, since the jobs fill the cores
    local jobs=$1 seeds=$2 name=$3 folder=$4
    shift 4
    mkdir -p "$folder/collages" "$folder/pairs"
    echo "$seeds" | tr -s ' ' '\n' | grep . | OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1 xargs -I{} -P "$jobs" bash -c "$name"' "$0" "$@"' "$folder" {} "$@"
}

whole_pairs() { # folder: those that training sees, a line each
    local manifest name
    for manifest in "$1"/pairs/*/manifest.json; do
        name=$(basename "$(dirname "$manifest")")
        case " $HELD_OUT " in *" $name "*) continue ;; esac
        [ ! -e "$manifest" ] || dirname "$manifest"
    done
}

train() { # recipe folder out options...: on every pair that is whole, and on videos and collages as they are
    local recipe=$1 folder=$2 out=$3 pairs
    shift 3
    mapfile -t pairs < <(whole_pairs "$folder")
    [ ${#pairs[@]} -eq 0 ] || set -- "$@" --pairs "${pairs[@]}"
    $SPLATMEND train "$recipe" --out "$folder/$out" --look-share 0.6 --scale 0.8 1.8 "$@"
}

case "${1:-}" in
pairs) each "${3:-2}" "$SEEDS" street_pairs "$2" ;;
collages)
    folder=$2 jobs=$3
    shift 3
    each "$jobs" "$COLLAGE_SEEDS" collage "$folder" "$@"
    each "$jobs" "$COLLAGE_SEEDS" collage_pairs "$folder"
    ;;
both)
    folder=$2 jobs=$3
    shift 3
    # Streets first: they take longest.
    all="$(for seed in $SEEDS; do echo "street$seed"; done) $(for seed in $COLLAGE_SEEDS; do echo "collage$seed"; done)"
    each "$jobs" "$all" whichever "$folder" "$@"
    ;;
fusion)
    folder=$2 base=$3
    shift 3
    [ -e "$folder/fusion/manifest.json" ] || train fusion "$folder" fusion --base "$base" --references 2 --resume "$@"
    echo "the enhancer: $folder/fusion"
    ;;
train | all)
    verb=$1 folder=$2
    shift 2
    if [ "$verb" = all ]; then
        jobs=$1
        shift
        each "$jobs" "$COLLAGE_SEEDS" collage "$folder" "$@"
        { each "$jobs" "$COLLAGE_SEEDS" collage_pairs "$folder" && each "$jobs" "$SEEDS" street_pairs "$folder"; } >"$folder/pairs.log" 2>&1 &
        making=$!
    fi
    for images in "$folder"/collages/*/images; do
        [ ! -d "$images" ] || set -- "$@" "$images"
    done
    train small-autoencoder "$folder" autoencoder --overwrite --clip-frames 17 --batch 16 --videos "$@" --max-seconds "$SECONDS_AUTOENCODER"
    [ "$verb" = train ] || wait "$making" || {
        echo "pairs failed; the end of $folder/pairs.log says why" >&2
        exit 1
    }
    base="$folder/autoencoder" number=0
    for spec in $RUNS; do
        IFS=: read -r frames batch rate seed seconds patchy links <<<"$spec"
        number=$((number + 1))
        train small-onestep "$folder" "enhancer$number" --overwrite --base "$base" --clip-frames "$frames" --batch "$batch" --lr "$rate" --seed "$seed" \
            --patchy-share "$patchy" --truncation "${links:-None}" --synthetic-share 0.2 --references 2 --videos "$@" --max-seconds "$seconds"
        base="$folder/enhancer$number"
    done
    echo "the enhancer: $base"
    ;;
*)
    sed -n '2,18s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
