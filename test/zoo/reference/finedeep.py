import numpy as np
from common import rms_norm, sigmoid, swiglu

PERMUTES = ["T", "K", "F"]
SPLITS = ["T"]


def reference(a, d):
    y, routing = a["x"].copy(), np.zeros((d["T"], d["M"], d["K"]))
    for t in range(d["T"]):
        for m in range(d["M"]):
            n, out = rms_norm(y[t], a["g_norm"][m], 1e-6), np.zeros(d["D"])
            for k in range(d["K"]):
                o = swiglu(n, a["w_g"][m, k], a["w_u"][m, k], a["w_d"][m, k])
                routing[t, m, k] = sigmoid(o @ a["w_r"][m, k])
                out += routing[t, m, k] * o
            y[t] += out
    return {"y": y, "routing": routing}
