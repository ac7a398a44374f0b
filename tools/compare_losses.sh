#!/bin/bash
# What `benchmarks/pixel_losses.py` needs, and its table: pairs of streets to train on and of others to score, an autoencoder, then every way
# on every seed. One GPU or several, and CPU cores for the streets.
#
#   tools/compare_losses.sh FOLDER JOBS [LOG...]     run again to go on; LOGs are scored too, fitted with every 4th frame
#
# SEEDS are the streets to train on, HELD_OUT those to score. DEVICES are the numbers of GPUs. SECONDS_AUTOENCODER is the training time of
# the autoencoder. STEPS and TRAININGS (how many at a time) are those of the comparison, OPTIONS go to it as they are (`--whole`).
set -euo pipefail
export SPLATMEND="${SPLATMEND:-splatmend}" ENCODING="${ENCODING:-png}" PAIRS_DEVICE="${PAIRS_DEVICE:-cpu}"
SEEDS="${SEEDS-$(seq -s ' ' 200 207) $(seq -s ' ' 209 212) $(seq -s ' ' 214 229)}"
HELD_OUT="${HELD_OUT-208 213}" LONG="${LONG-230}"
DEVICES="${DEVICES:-0}" SECONDS_AUTOENCODER="${SECONDS_AUTOENCODER:-400}" STEPS="${STEPS:-1000}" TRAININGS="${TRAININGS:-8}" OPTIONS="${OPTIONS:-}"
HERE="$(cd "$(dirname "$0")/.." && pwd)"

street_pairs() { # folder seed cameras options...
    local folder=$1 seed=$2 cameras=$3
    shift 3
    [ ! -e "$folder/$seed/manifest.json" ] || return 0
    # shellcheck disable=SC2086
    $SPLATMEND pairs "street:$seed" --out "$folder/$seed" --resume --validation-share 0 --references 0 \
        --encoding "$ENCODING" --device "$PAIRS_DEVICE" \
        --street.width 320 --street.height 192 --street.cameras $cameras --fit.sh-degree 1 --fit.sh-every 300 --fit.sky-rows 64 \
        --fit.log-every 100 --fit.checkpoint-every 400 --fit.init.point-count 20000 --fit.init.ray-count 5000 --fit.init.actor-count 2000 \
        --fit.densify.cap 30000 --fit.densify.actor-cap 4000 "$@" >"$folder/$seed.log" 2>&1 || tail -n 3 "$folder/$seed.log" >&2
}

varied() { # seed: what differs from street to street
    echo --every $((4 + $1 % 5)) --shares 0.$((2 + $1 % 4)) --shifts $((1 + $1 % 3)).0 -$((1 + ($1 + 1) % 3)).0
}

one() { # folder kind:what
    local folder=$1 what=${2#*:} out
    local usual=(--strategies sparse underfit shift --street.duration-s 2.4 --fit.iterations 700)
    # shellcheck disable=SC2046
    case $2 in
    train:*) street_pairs "$folder/pairs" "$what" FRONT "${usual[@]}" $(varied "$what") ;;
    held:*) street_pairs "$folder/held" "$what" "FRONT FRONT_LEFT" "${usual[@]}" $(varied "$what") ;;
    long:*) street_pairs "$folder/held" "$what" FRONT --strategies sparse --street.duration-s 6.6 --fit.iterations 900 --every 5 ;;
    log:*)
        out="$folder/held/$(basename "$what")"
        [ -e "$out/manifest.json" ] || $SPLATMEND pairs "$what" --out "$out" --resume --validation-share 0 --references 0 --encoding "$ENCODING" \
            --device "$PAIRS_DEVICE" --strategies sparse --every 4 --fit.iterations 1500 --fit.data.max-width 480 --fit.densify.cap 60000 \
            >"$out.log" 2>&1 || tail -n 3 "$out.log" >&2
        ;;
    esac
}
export -f street_pairs varied one

[ $# -ge 2 ] || {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
folder=$1 jobs=$2
shift 2
mkdir -p "$folder/pairs" "$folder/held"
{
    for log in "$@"; do echo "log:$log"; done
    for seed in $LONG; do echo "long:$seed"; done
    for seed in $HELD_OUT; do echo "held:$seed"; done
    for seed in $SEEDS; do echo "train:$seed"; done
} | OMP_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1 xargs -d '\n' -I{} -P "$jobs" bash -c 'one "$0" "$1"' "$folder" {}
whole() { for manifest in "$1"/*/manifest.json; do [ ! -e "$manifest" ] || dirname "$manifest"; done; }
mapfile -t pairs < <(whole "$folder/pairs")
mapfile -t held < <(whole "$folder/held")
[ -e "$folder/autoencoder/manifest.json" ] || $SPLATMEND train small-autoencoder --out "$folder/autoencoder" --overwrite --clip-frames 17 \
    --batch 4 --look-share 0.6 --scale 0.8 1.8 --pairs "${pairs[@]}" --max-seconds "$SECONDS_AUTOENCODER"
# shellcheck disable=SC2086
"${PYTHON:-python3}" "$HERE/benchmarks/pixel_losses.py" --autoencoder "$folder/autoencoder" --pairs "${pairs[@]}" --held-out "${held[@]}" \
    --out "$folder/compared" --steps "$STEPS" --jobs "$TRAININGS" --devices $DEVICES $OPTIONS
