import math

import numpy as np
from common import relu, softmax, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"]))
    mean, variance = a["w_enc"].mean(axis=2), a["w_enc"].var(axis=2)
    for t, x in enumerate(a["x"]):
        s = np.array([-math.erf((mean[e] @ x) / np.sqrt(2 * (variance[e] @ (x * x)) + 1e-8)) for e in range(d["E"])])
        chosen = topk(s, d["K"])
        routing[t, chosen] = softmax(s[chosen])
        for e in chosen:
            y[t] += routing[t, e] * (relu(x @ a["w_enc"][e]) @ a["w_dec"][e])
    return {"y": y, "routing": routing}
