import numpy as np
from common import greater, relu, softmax, topk

PERMUTES = ["E", "CO"]


def make_inputs(rng, d):
    return {"usage": rng.uniform(0.5, 3.0, d["E"])}


def reference(a, d):
    B, E, H, W = d["B"], d["E"], d["H"], d["W"]
    open_ = np.flatnonzero(~greater(a["usage"], 1.4 * a["usage"].mean()))
    y, routing = np.zeros((B, d["CO"], H, W)), np.zeros((B, E))
    for b, x in enumerate(a["x"]):
        p = softmax(x.mean(axis=(1, 2)) @ a["w_gate"] + a["b_gate"])
        chosen = open_[topk(p[open_], d["K"])]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        for e in chosen:
            routing[b, e] = p[e] / p[chosen].sum()
            conv = np.zeros((d["CO"], H, W)) + a["b_conv"][e][:, None, None]
            for i in range(H):
                for j in range(W):
                    conv[:, i, j] += np.tensordot(a["w_conv"][e], padded[:, i : i + 3, j : j + 3], 3)
            y[b] += routing[b, e] * relu(conv)
    return {"y": y, "routing": routing, "usage_out": a["usage"] + routing.sum(axis=0)}
