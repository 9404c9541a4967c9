import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"task_id": rng.integers(0, d["N"], d["T"])}


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        p = softmax(x @ a["w_gate"][a["task_id"][t]])
        for e in topk(p, d["K"]):
            routing[t, e] = p[e]
            y[t] += p[e] * (gelu(x @ a["w1"][e]) @ a["w2"][e])
    return {"y": y, "routing": routing}
