import numpy as np
from common import silu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]
SIZES = [{"T": 0}, {"T": 1}, {"T": 2}, {"T": 7}, {"T": 13}]


def wina(v, w, n):
    mask = np.zeros(len(v))
    mask[topk(np.abs(v) * np.sqrt((w * w).sum(axis=1)), n)] = 1
    return v * mask, mask


def reference(a, d):
    y, routing, kept = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"])), np.zeros((d["T"], d["D"]))
    for t, x in enumerate(a["x"]):
        l = x @ a["w_gate"]
        chosen = topk(l, d["K"])
        routing[t, chosen] = softmax(l[chosen])
        for e in chosen:
            xg, mask = wina(x, a["w_g"][e], d["KD"])
            xu, _ = wina(x, a["w_u"][e], d["KD"])
            h, _ = wina(silu(xg @ a["w_g"][e]) * (xu @ a["w_u"][e]), a["w_d"][e], d["KF"])
            y[t] += routing[t, e] * (h @ a["w_d"][e])
            kept[t] += routing[t, e] * mask
    return {"y": y, "routing": routing, "kept": kept}
