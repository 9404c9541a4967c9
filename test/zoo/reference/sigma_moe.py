import numpy as np
from common import relu, sigmoid, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def reference(a, d):
    T, D, DH, N, M = d["T"], d["D"], d["DH"], d["N"], d["M"]
    y, routing, pkm, memory = np.zeros((T, D)), np.zeros((T, d["E"])), np.zeros((T, D)), np.zeros((T, d["NN"]))
    for t, x in enumerate(a["x"]):
        s = sigmoid(x @ a["ws"])
        for e in topk(s, d["K"]):
            routing[t, e] = s[e]
            y[t] += s[e] * (relu(x @ a["w1"][e]) @ a["w2"][e])
        sa, sb = a["ka"] @ x[:DH], a["kb"] @ x[DH:]
        numbers = np.array(sorted(i * N + j for i in topk(sa, M) for j in topk(sb, M)))
        scores = sa[numbers // N] + sb[numbers % N]
        for c in topk(scores, M):
            memory[t, numbers[c]] = relu(scores[c])
            pkm[t] += relu(scores[c]) * a["v"][numbers[c]]
    return {"y_moe": y, "routing": routing, "y_pkm": pkm, "mem": memory}
