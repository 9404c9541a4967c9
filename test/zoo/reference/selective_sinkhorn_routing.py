import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E"]
SIZES = [{"T": t} for t in (2, 3, 7, 13, 31, 64)]
EPS, ITERS = 0.5, 6


def make_inputs(rng, d):
    return {"use_ot": rng.integers(0, 2, 1)}


def reference(a, d):
    T, E = d["T"], d["E"]
    z = a["x"] @ a["wr"]
    score = softmax(z)
    if a["use_ot"][0] == 1:
        plan = np.exp((z - z.max(axis=1, keepdims=True)) / EPS)
        for _ in range(ITERS):
            plan = plan * (1 / T) / plan.sum(axis=1, keepdims=True)
            plan = plan * (1 / E) / plan.sum(axis=0, keepdims=True)
        score = plan * T
    y, routing = np.zeros((T, d["D"])), np.zeros((T, E))
    for t, x in enumerate(a["x"]):
        chosen = topk(score[t], d["K"])
        for e in chosen:
            routing[t, e] = score[t, e] / score[t, chosen].sum()
            y[t] += routing[t, e] * (gelu(x @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing, "score": score}
