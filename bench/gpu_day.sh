#!/usr/bin/env bash
# bash bench/gpu_day.sh OUT MINUTES: makes the most of a GPU that is available for some minutes.
#
# Runs jobs in order of value, each with its own time limit, and starts none once MINUTES are spent.
# Writes logs and JSON to OUT/, packed as OUT.tgz after every job, and a summary to OUT/summary.md.
# Data and compiled kernels go to OUT.work/. Without a GPU it is a rehearsal: the same jobs, but
# small. Exit status: 0 at the end, 1 if first contact failed, 2 for wrong use, 143 if killed.
# Environment:
#   PYTHON       interpreter; default: .venv/bin/python, or python3 if there is none
#   TIMM_SCRIPT  benchmark.py of timm's repository, to compare the step with
#   COMPILED     OUT.compiled.txz of an earlier run, to avoid compiling again
#   JOBS         names of the jobs to run, such as "timm peers augmented"; default: all
set -u

if [[ $# -ne 2 || ! $2 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: bash bench/gpu_day.sh OUT MINUTES" >&2
  exit 2
fi
out=$(realpath -m "$1") end=$((60 * $2))
if [[ -e $out || -e $out.tgz ]]; then
  echo "$1: holds an earlier day's results; name another folder" >&2
  exit 2
fi
for file in ${TIMM_SCRIPT:+"$TIMM_SCRIPT"} ${COMPILED:+"$COMPILED"}; do
  [[ -f $file ]] || { echo "$file: no such file" >&2; exit 2; }
done
ALL="contact train clock tests end-to-end timm step augmented peers"
jobs=${JOBS:-$ALL}
for name in $jobs; do
  [[ " $ALL " == *" $name "* ]] || { echo "JOBS: no job $name; there are $ALL" >&2; exit 2; }
done
timm=${TIMM_SCRIPT:+$(realpath "$TIMM_SCRIPT")}
data=$out.work/people compiled=$out.work/compiled
[[ -z ${COMPILED:-} ]] || tar -tf "$COMPILED" >/dev/null || exit 2
mkdir -p "$out" "$compiled" || exit 2
[[ -z ${COMPILED:-} ]] || tar -C "$out.work" -xf "$COMPILED" || exit 2
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
cdp=("$python" -m cdp)
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1 # SIGABRT prints every thread's stack
export TORCHINDUCTOR_CACHE_DIR=$compiled TRITON_CACHE_DIR=$compiled/triton
GRACE=16 # seconds from a job's time limit to its certain end
MAX_BYTES=$((16 << 20)) # of an archive

# As many training identities as in bench/contact.py, so that all jobs reuse its compiled step.
people=(--num-train 88 --num-val 2 --num-test 10)
if timeout 20 nvidia-smi >"$out/nvidia-smi.txt" 2>&1; then
  device=cuda
  people+=(--images-per-camera 17)
  options=(--preset sysu --rounds 3) # rates on an H100 differed by 0.1 % between rounds
  training=(sysu --model.weights none --on-collapse warn --epochs 20) # does memory grow?
else
  device=cpu
  people+=(--images-per-camera 3)
  options=(--preset demo --quick)
  training=(demo --epochs 1)
fi
options+=(--device "$device" --data-root "$data")
training+=(--device "$device" --data.root "$data" --data.cache none)
echo "$device" >"$out/device"

# --- running one job ------------------------------------------------------------------------------
declare -A pids=() starts=() limits=()
watches=()

begin() { # NAME SECONDS COMMAND…: starts a job if time is left; stops it with TERM, ABRT, then KILL
  local name=$1 limit=$2 left=$((end - SECONDS - GRACE))
  shift 2
  ((limit <= left)) || limit=$left
  if ((limit < 10)); then
    left_out "$name" "no time left"
    return 1
  fi
  echo "$(date +%T)  $name, at most $limit s"
  timeout -s TERM -k "$GRACE" "$limit" timeout --foreground -s ABRT $((limit + 8)) \
    "$@" >"$out/$name.log" 2>&1 </dev/null &
  pids[$name]=$! starts[$name]=$SECONDS limits[$name]=$limit
}

finish() { # NAME: waits for the job, records its end, packs the results; returns its exit status
  local name=$1 status state
  wait "${pids[$name]}"
  status=$?
  state="failed with $status"
  ((status != 0)) || state=done
  ((status == 0 || SECONDS - starts[$name] < limits[$name])) || state="stopped, not done in time"
  ended "$name" "$state"
  keep
  return $status
}

wanted() { [[ " $jobs " == *" $1 "* ]]; }

job() { ! wanted "$1" || { begin "$@" && finish "$1"; }; }

left_out() { # NAME WHY
  printf '%s\tleft out: %s\t0\n' "$1" "$2" >>"$out/jobs.tsv"
  echo "$(date +%T)  $1 left out: $2"
}

ended() { # NAME STATE
  kill -KILL -- "-${pids[$1]}" 2>/dev/null # anything it left running
  printf '%s\t%s\t%s\n' "$1" "$2" $((SECONDS - starts[$1])) >>"$out/jobs.tsv"
  echo "$(date +%T)  $1 $2"
  unset "pids[$1]"
}

keep() { # writes summary.md and OUT.tgz, without large files that are not needed
  local exclude=(--exclude=checkpoints)
  "$python" -m bench.summary "$out" >/dev/null
  pack "$out.tgz" "${exclude[@]}"
  [[ $(stat -c %s "$out.tgz") -lt $MAX_BYTES ]] || pack "$out.tgz" "${exclude[@]}" --exclude='*.json.gz'
}

pack() { # FILE OPTIONS…
  local file=$1
  shift
  tar -C "$(dirname "$out")" "$@" -czf "$file.new" "$(basename "$out")" 2>/dev/null
  mv "$file.new" "$file"
}

at_the_end() { # also runs if killed
  local status=$? name
  trap '' INT TERM
  for name in "${!pids[@]}"; do
    kill -TERM -- "-${pids[$name]}" 2>/dev/null
    ended "$name" "ended with the day"
  done
  [[ -z ${watches[*]} ]] || kill "${watches[@]}" 2>/dev/null
  keep
  XZ_OPT=-T0 tar -C "$out.work" -cJf "$out.compiled.new" compiled # 70 MB become 1.5
  if (($? <= 1)); then # 1: a file changed meanwhile
    mv "$out.compiled.new" "$out.compiled.txz"
  else
    rm -f "$out.compiled.new"
  fi
  cat "$out/summary.md"
  exit "$status"
}
trap at_the_end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- the day --------------------------------------------------------------------------------------
begin data 180 "${cdp[@]}" data make "$data" "${people[@]}"
CUDA_MODULE_LOADING=EAGER DALI_NVIMGCODEC_LOG_LEVEL=3 \
  job contact 270 "$python" -m bench.contact --device "$device" --out "$out/contact.json"
contact=$?
finish data

no_batches=""
case $contact in
0) ;;
3) no_batches="no batches without DALI: $(grep -m 1 -E '^(failed|crashed|hung) ' "$out/contact.log" | cut -c 1-200)" ;;
*)
  echo "no torch, or no training step: stopped here, to leave time for a fix"
  exit 1
  ;;
esac
with_dali() {
  if [[ $no_batches ]] && wanted "$1"; then left_out "$1" "$no_batches"; else job "$@"; fi
}

watch_host() { # the machine's free memory; no other program should be running
  echo "time, available memory [MiB]"
  while sleep 2; do
    echo "$(date +%T), $(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)"
  done
}

watch_host >"$out/host.csv" 2>&1 &
watches+=($!)
if [[ $device = cuda ]]; then
  nvidia-smi --query-gpu=timestamp,utilization.gpu,memory.used,power.draw,clocks.sm \
    --format=csv,nounits -i 0 -l 2 >"$out/gpu.csv" 2>&1 &
  watches+=($!)
fi

with_dali train 130 "${cdp[@]}" train "${training[@]}" --run-dir "$out/train"
pytest=("$python" -m pytest -p tests.at_once -m gpu -v -o faulthandler_timeout=60 --durations=10)
job clock 40 "${pytest[@]}" -n 0 tests/train/live/test_clock.py
tests=(tests/train/test_step.py tests/train/test_metrics.py tests/train/test_loss_reader.py)
if [[ -z $no_batches ]]; then
  tests+=(tests/pipeline/test_graph.py tests/pipeline/test_cache.py tests/pipeline/test_augment.py)
  tests+=(tests/train/test_packed.py tests/bench/test_peers.py)
  # Beside the others and in one process, as all of them need the same run, which gets compiled.
  ! wanted tests || begin runs 240 "${pytest[@]}" -n 0 tests/test_gpu.py
fi
job tests 240 "${pytest[@]}" -n 8 --dist load "${tests[@]}"
[[ -z ${pids[runs]:-} ]] || finish runs

with_dali end-to-end 200 "${cdp[@]}" bench end-to-end "${options[@]}" \
  --json "$out/end-to-end.json" --trace "$out/trace"
if [[ $timm ]]; then # one round, as each compiles the script's step again
  job timm 140 "${cdp[@]}" bench timm "${options[@]}" --rounds 1 --timm-script "$timm" \
    --json "$out/timm.json"
elif wanted timm; then
  left_out timm "TIMM_SCRIPT names no benchmark.py"
fi
job step 150 "${cdp[@]}" bench step --no-sweep "${options[@]}" --json "$out/step.json"
with_dali augmented 90 "${cdp[@]}" bench augmented "${options[@]}" --json "$out/augmented.json"
with_dali peers 90 "${cdp[@]}" bench peers "${options[@]}" --json "$out/peers.json"
exit 0 # regardless of the last job; see the summary
