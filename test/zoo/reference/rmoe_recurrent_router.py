import numpy as np
from common import sigmoid, softmax, swiglu, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, L, HR = d["T"], d["L"], d["HR"]
    y, routing, state = a["x"].copy(), np.zeros((L, T, d["E"])), np.zeros((T, HR))
    for l in range(L):
        for t in range(T):
            v, c = y[t].copy(), state[t]
            i, h = (v @ a["wp"][l]) @ a["wi"] + a["bi"], c @ a["wh"] + a["bh"]
            r, z = sigmoid(i[:HR] + h[:HR]), sigmoid(i[HR : 2 * HR] + h[HR : 2 * HR])
            n = np.tanh(i[2 * HR :] + r * h[2 * HR :])
            state[t] = (1 - z) * n + z * c
            p = softmax(state[t] @ a["wo"][l])
            chosen = topk(p, d["K"])
            for e in chosen:
                routing[l, t, e] = p[e] / p[chosen].sum()
                y[t] += routing[l, t, e] * swiglu(v, a["wg"][l, e], a["wu"][l, e], a["wd"][l, e])
    return {"y": y, "routing": routing, "state": state}
