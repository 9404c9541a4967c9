"""Quantises the experts of bytelm and judges the result: perplexity on unseen text and the size of the weights
file.

    bytelm-quantised.py WORK BOUND SHARE [integers] FLAG...

BOUND is the largest perplexity, SHARE the largest size of the experts' weights as a share of their f32 size. `integers`: also
with integer products, which may add 0.01 to it.
"""
import json
import os
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

MODEL = os.path.join(os.environ["MOE_SOURCE"], "examples", "bytelm")


def perplexity(module, work):
    tokens = load_file(os.path.join(MODEL, "eval_tokens.safetensors"))
    save_file({"input_ids": tokens["input_ids"].astype(np.int64)}, work + ".in.safetensors")
    subprocess.run(["moe-run", module, f"--inputs={work}.in.safetensors", f"--outputs={work}.out.safetensors"],
                   check=True)
    logits = load_file(work + ".out.safetensors")["logits"].astype(float)
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logits, tokens["targets"][..., None].astype(np.int64), -1)
    return float(np.exp(-chosen.mean()))


def main():
    work, bound, share, flags = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
    integers = flags[:1] == ["integers"]
    flags = flags[integers:]
    compile = ["moe-compile", os.path.join(MODEL, "model.onnx"), "-O1", "--mcpu=native", "--json", *flags]
    done = subprocess.run([*compile, "-o", work + ".moe"], check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout)
    experts = [p for p in summary["quantized"] if "expert" in p]
    assert len(experts) == 4 * 8, "four layers of eight experts"
    weights = sum(p["weights"] for p in experts)
    mean = sum(p["bits"] * p["weights"] for p in experts) / weights
    print(f"{mean:.3f} bits in the mean, errors {min(p['relative_error'] for p in experts):.4f} to "
          f"{max(p['relative_error'] for p in experts):.4f}")
    for flag in flags:
        if flag.startswith("--bits="):
            assert mean <= float(flag.split("=")[1]), "the budget holds"
        if flag.startswith("--calibrate="):
            assert all(abs(sum(p["use"] for p in experts if p["layer"] == i) - 1) < 1e-3 for i in range(4))
    others = 1119360 * 4 - weights * 4
    size = os.path.getsize(work + ".safetensors")
    assert size - others < share * weights * 4, (size, others, weights)
    result = perplexity(work + ".moe", work)
    print(f"perplexity {result:.4f}, bound {bound}; weights file {size} bytes")
    assert result <= bound
    if integers:
        subprocess.run([*compile, "--numerics=fast", "-o", work + "-integers.moe"], check=True, capture_output=True)
        other = perplexity(work + "-integers.moe", work)
        print(f"with integer products {other:.4f}")
        assert other != result, "the products are others"
        assert other <= result + 0.01


main()
