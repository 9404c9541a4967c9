#!/usr/bin/env bash
# The demo: a trained MoE language model from ONNX to a module that generates text. Called by ./run demo.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
build=${1:?usage: demo.sh BUILD_DIR [options of bytelm_demo]}
shift
out=$build/demo
mkdir -p "$out"
if [ -t 1 ]; then bold=$'\e[1m' off=$'\e[0m'; else bold='' off=''; fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }

step "1. Compile: model.onnx -> bytelm.moe (code) and bytelm.safetensors (weights)"
"$build/bin/moe-compile" "$here/model.onnx" -o "$out/bytelm.moe"

step "2. Check: the logits of two prompts against those of the framework that trained the model"
for pair in "" 2; do
  "$build/bin/moe-run" "$out/bytelm.moe" --inputs="$here/inputs$pair.safetensors" \
    --expected="$here/expected$pair.safetensors" --atol=2e-3 --rtol=1e-3
done

step "3. Judge and generate"
"$build/bin/bytelm_demo" "$out/bytelm.moe" --eval="$here/eval_tokens.safetensors" \
  --logits="$here/eval_logits_first.safetensors" --bytes=300 "$@"

step "The compiled files"
ls -l "$out/bytelm.moe" "$out/bytelm.safetensors" | awk '{ printf "  %9d bytes  %s\n", $5, $NF }'
