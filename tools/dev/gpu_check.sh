#!/usr/bin/env bash
# What only a GPU can show, in about eight minutes: losses as on the CPU, steps that neither wait nor overflow, times,
# memory, a short training run. Exit status 1 after a failure.
#
#     bash tools/dev/gpu_check.sh FOLDER          # on one GPU; for more: pip install -e '.[bench,timm]', MSRC-21
#     bash tools/dev/gpu_check.sh FOLDER --cpu    # a few of them in tiny sizes, to test this script
set -uo pipefail
[ $# -ge 1 ] || { echo "gpu_check.sh: FOLDER is missing; give one for the results." >&2; exit 2; }
cd "$(dirname "$0")/../.."
mkdir -p "$1" && out=$(realpath "$1")
device=cuda
[ "${2:-}" = --cpu ] && device=cpu && export CUDA_VISIBLE_DEVICES=
failed=0

# Run a command under a title, and go on after a failure.
check() {
    printf '\n## %s\n\n' "$1"
    shift
    "$@" 2> "$out/errors.log" && return
    printf 'FAILED: %s\n' "$*"
    tail -n 20 "$out/errors.log"
    failed=1
}

if [ $device = cuda ]; then
    step=(--rounds 20) noise=(--config-file configs/voc2012/rc2l_R101.yaml MODEL.RESNETS.DEPTH 50
        SOLVER.IMS_PER_BATCH 4 SOLVER.IMS_PER_BATCH_UNLABELED 4) small=()
    matching=() growth=(--limit 100) backend=inductor iterations=20
else
    small=(INPUT.CROP.SIZE '(64,64)' SOLVER.IMS_PER_BATCH 2 SOLVER.IMS_PER_BATCH_UNLABELED 2
        MODEL.RESNETS.OUT_FEATURES "('res2','res3')" MODEL.SEM_SEG_HEAD.IN_FEATURES "('res2','res3')")
    step=(--rounds 1) noise=(--config-file configs/toy/rc2l_R18.yaml "${small[@]}")
    matching=(--images 2 --queries 8 --classes 5 --size 16 --rounds 1) backend=eager iterations=4
    growth=(--images 1 --classes 4 --channels 8 --rounds 1 --sizes 8 16 --reference 8 --limit 0.002)
fi

check "Environment" python -c "
import torch
from rc2l_d2.reporting import hardware
assert '$device' == 'cpu' or torch.cuda.is_available(), 'torch finds no GPU'
print(f'{hardware()}; torch {torch.__version__}, CUDA {torch.version.cuda}')"

# Dropout has other random numbers on a GPU, and TF32 other products. With a low rate, rounding changes no pseudo label.
stream=(SOLVER.MAX_ITER "$iterations" SOLVER.AMP.ENABLED False SOLVER.OPTIMIZER SGD SOLVER.BASE_LR 0.001
    MODEL.SEM_SEG_HEAD.ASPP_DROPOUT 0.0 MODEL.MASK_FORMER.CLASS_DROPOUT 0.0 MODEL.SEMI_SUPERVISED.BURN_IN_ITERS 2
    MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS 2 TEST.EVAL_PERIOD 0 TEST.REPORT False VIS_PERIOD 0 OUTPUT_DIR "$out/stream"
    "${small[@]}")
compare() {
    python tools/draw_toy.py --root "$out/toy" --train 64 --val 8 || return
    local numbers=(DETECTRON2_DATASETS="$out" NVIDIA_TF32_OVERRIDE=0) run=(python tests/loss_stream.py)
    env "${numbers[@]}" "${run[@]}" "$out/a.json" start "${stream[@]}" MODEL.DEVICE cpu > "$out/a.log" || return
    # Without a GPU, other instructions of this CPU round differently.
    [ $device = cpu ] && numbers+=(ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41)
    env "${numbers[@]}" "${run[@]}" "$out/b.json" start "${stream[@]}" MODEL.DEVICE $device > "$out/b.log" || return
    python - "$out/a.json" "$out/b.json" <<'EOF'
import json, sys
one, other = ([sum(step.values()) for step in json.load(open(file))["losses"]] for file in sys.argv[1:])
worst = max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))
print(f"{len(one)} iterations, largest relative difference of the total loss {worst:.1e} (aim: 1e-3)")
sys.exit(worst > 1e-3)
EOF
}
check "Losses of a toy run, compared with the CPU" compare
check "Precisions" python tools/dev/precisions.py --backend $backend "${noise[@]}"
bench=tools/dev/bench
check "Step" env DETECTRON2_DATASETS="$out" python $bench/step.py "${step[@]}" --config-file configs/toy/rc2l_R18.yaml \
    "${small[@]}"
check "Matching" python $bench/matching.py --device $device "${matching[@]}"
check "Growth" python $bench/growth.py --device $device "${growth[@]}"
if [ $device = cuda ]; then
    check "Supervised step" python $bench/supervised_step.py --images 8 --size 512
    check "Memory" python $bench/memory.py --config-file configs/voc2012/rc2l_R101.yaml --passes 0,4,2,1 --rounds 3
    rm -rf "$out/msrc21"  # Training does not replace a run.
    check "300 iterations on MSRC-21" python train_net.py --config-file configs/msrc21/rc2l_effnet_lite0.yaml \
        SOLVER.MAX_ITER 300 MODEL.SEMI_SUPERVISED.BURN_IN_ITERS 100 MODEL.SEMI_SUPERVISED.RAMP_UP_ITERS 100 \
        OUTPUT_DIR "$out/msrc21"
fi
exit $failed
