import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"k": rng.integers(0, d["E"] + 2)}


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        logits = x @ a["w_router"]
        chosen = topk(logits, min(max(int(a["k"]), 1), d["E"]))
        routing[t, chosen] = softmax(logits[chosen])
        for e in chosen:
            y[t] += routing[t, e] * (gelu(x @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing}
